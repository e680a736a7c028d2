//! From files to what they say, every mistake noted where it stands. Here: what a file is, and how the fields of a map
//! are read. A file each for what they say: a [`playbook`](playbook()), a subscription, an action, the settings.

use std::ops::Range;

use super::SecretRef;
use super::finding::{Findings, Source};
use super::node::{Entry, Kind, Node, too_deep};
use super::secret::{self, Written};

mod action;
mod playbook;
mod settings;
mod subscription;

pub(super) use action::action;
pub(super) use playbook::{Draft, playbook};
pub(super) use settings::{Settings, settings};
pub(super) use subscription::subscription;

/// The longest window. Milliseconds.
const WINDOW_MS_MAX: i64 = 24 * 3_600_000;

/// What a file of a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Playbook,
    Subscription,
    Action,
    Settings,
}

pub(super) fn kind_of(path: &str) -> Option<FileKind> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = folder.rsplit('/').next().unwrap_or_default();
    let data = name.ends_with(".json") || name.ends_with(".yaml");
    match folder {
        _ if name.ends_with(".playbook.yaml") => Some(FileKind::Playbook),
        _ if name == "holdline.yaml" => Some(FileKind::Settings),
        "subscriptions" if data => Some(FileKind::Subscription),
        "actions" if data => Some(FileKind::Action),
        _ => None,
    }
}

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub value: T,
    pub at: Range<usize>,
}

/// Reads a file's tree, or notes why it cannot be read.
pub(super) fn tree(source: Source<'_>, findings: &mut Findings) -> Option<Node> {
    match Node::parse(source.path, source.text) {
        Ok(node) if too_deep(&node) => {
            findings.error(source, &(0..0), "the file is nested too deep");
            None
        }
        Ok(node) => Some(node),
        Err((at, message)) => {
            findings.error(source, &at, message);
            None
        }
    }
}

/// Reads the fields of one map.
struct Fields<'a, 'f> {
    source: Source<'a>,
    at: Range<usize>,
    entries: &'a [Entry],
    /// What the map is, for messages.
    what: &'static str,
    findings: &'f mut Findings,
}

impl<'a, 'f> Fields<'a, 'f> {
    /// `known`: what may stand there; `planned`: what the design has and this version has not.
    fn of(
        node: &'a Node,
        what: &'static str,
        known: &[&str],
        planned: &[&str],
        source: Source<'a>,
        findings: &'f mut Findings,
    ) -> Option<Fields<'a, 'f>> {
        let Kind::Map(entries) = &node.kind else {
            findings.error(source, &node.at, format!("{what}: expected a map, found {}", node.what()));
            return None;
        };
        for entry in entries {
            if planned.contains(&entry.key.as_str()) {
                findings.unsupported(source, &entry.key_at, &format!("`{}` of {what}", entry.key));
            } else if !known.contains(&entry.key.as_str()) {
                let help = match nearest(&entry.key, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("{what} has {}", known.join(", ")),
                };
                findings.error_with(source, &entry.key_at, format!("{what} has no `{}`", entry.key), help);
            }
        }
        Some(Fields { source, at: node.at.clone(), entries, what, findings })
    }

    fn get(&self, key: &str) -> Option<&'a Node> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    fn key_at(&self, key: &str) -> Range<usize> {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        entry.map_or(self.at.clone(), |entry| entry.key_at.clone())
    }

    /// The entries of a map from names.
    fn entries_of(&mut self, key: &str) -> &'a [Entry] {
        match self.get(key).map(|node| (&node.kind, node)) {
            Some((Kind::Map(entries), _)) => entries,
            Some((_, node)) => {
                self.wrong(key, node, "a map from names");
                &[]
            }
            None => &[],
        }
    }

    fn missing(&mut self, key: &str) {
        let at = self.entries.first().map_or(self.at.clone(), |entry| entry.key_at.clone());
        self.findings.error(self.source, &at, format!("{} lacks `{key}`", self.what));
    }

    fn wrong(&mut self, key: &str, node: &Node, expected: &str) {
        let found = node.what();
        self.findings.error(self.source, &node.at, format!("`{key}`: expected {expected}, found {found}"));
    }

    fn text(&mut self, key: &str) -> Option<At<String>> {
        let node = self.get(key)?;
        match node.as_str() {
            Some(text) => Some(At { value: text.to_string(), at: node.at.clone() }),
            None => {
                self.wrong(key, node, "text");
                None
            }
        }
    }

    fn needed_text(&mut self, key: &str) -> Option<At<String>> {
        if self.get(key).is_none() {
            self.missing(key);
        }
        self.text(key)
    }

    fn parsed<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<At<T>> {
        let text = self.text(key)?;
        match parse(&text.value) {
            Ok(value) => Some(At { value, at: text.at }),
            Err(error) => {
                self.findings.error(self.source, &text.at, format!("`{key}`: {error}"));
                None
            }
        }
    }

    /// A reference to a secret. The secret itself may not stand here.
    fn reference(&mut self, key: &str) -> Option<SecretRef> {
        let text = self.needed_text(key)?;
        match secret::read(&text.value) {
            Written::Reference(reference) => return Some(reference),
            Written::Malformed(why) => {
                self.findings.error(self.source, &text.at, format!("`{key}`: {why}"));
            }
            Written::Literal => {
                let message =
                    format!("`{key}` is written in place, where everyone who reads this file can read it");
                self.findings.error_with(self.source, &text.at, message, secret::INSTEAD);
            }
        }
        None
    }

    /// One of several words.
    fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let chosen = words.iter().find(|(word, _)| *word == text.value);
        if chosen.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let help = match nearest(&text.value, &known) {
                Some(near) => format!("did you mean `{near}`? There are {}", known.join(", ")),
                None => format!("there are {}", known.join(", ")),
            };
            let message = format!("`{key}`: there is no {key} {:?}", text.value);
            self.findings.error_with(self.source, &text.at, message, help);
        }
        chosen.map(|(_, value)| *value)
    }

    /// A list of words out of several.
    fn choices<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Vec<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let mut chosen = vec![];
        for name in self.names(key) {
            match words.iter().find(|(word, _)| *word == name.value) {
                Some((_, value)) => chosen.push(*value),
                None => {
                    let message = format!("`{key}`: there is no {:?}", name.value);
                    let help = match nearest(&name.value, &known) {
                        Some(near) => format!("did you mean `{near}`? There are {}", known.join(", ")),
                        None => format!("there are {}", known.join(", ")),
                    };
                    self.findings.error_with(self.source, &name.at, message, help);
                }
            }
        }
        if chosen.is_empty() && self.get(key).is_some() && !self.findings.has_errors() {
            let at = self.key_at(key);
            self.findings.error(self.source, &at, format!("`{key}`: names none of {}", known.join(", ")));
        }
        chosen
    }

    fn count(&mut self, key: &str, default: u32, least: u32) -> u32 {
        let Some(node) = self.get(key) else { return default };
        let number = match &node.kind {
            Kind::Scalar(value) => value.as_u64().and_then(|n| u32::try_from(n).ok()),
            _ => None,
        };
        match number {
            Some(number) if number >= least => number,
            Some(number) => {
                let message = format!("`{key}`: {number} is too few; at least {least}");
                self.findings.error(self.source, &node.at, message);
                default
            }
            None => {
                self.wrong(key, node, "a whole number");
                default
            }
        }
    }

    fn truth(&mut self, key: &str, default: bool) -> bool {
        let Some(node) = self.get(key) else { return default };
        match &node.kind {
            Kind::Scalar(serde_json::Value::Bool(value)) => *value,
            _ => {
                self.wrong(key, node, "true or false");
                default
            }
        }
    }

    fn duration(&mut self, key: &str, default: i64) -> i64 {
        let Some(node) = self.get(key) else { return default };
        match node.as_str().map(parse_duration_ms) {
            Some(Ok(ms)) => ms,
            Some(Err(error)) => {
                self.findings.error(self.source, &node.at, format!("`{key}`: {error}"));
                default
            }
            None => {
                self.wrong(key, node, "a duration such as `20s` or `15m`");
                default
            }
        }
    }

    /// A time in which something is counted.
    fn window(&mut self, key: &str) -> Option<i64> {
        let node = self.get(key)?;
        let ms = self.duration(key, 0);
        if ms == 0 {
            self.findings.error(self.source, &node.at, format!("`{key}`: nothing happens within no time"));
        }
        Some(ms)
    }

    fn names(&mut self, key: &str) -> Vec<At<String>> {
        self.texts(key, "a list of names, such as `[Failover]`")
    }

    fn texts(&mut self, key: &str, expected: &str) -> Vec<At<String>> {
        let Some(node) = self.get(key) else { return vec![] };
        let Kind::List(items) = &node.kind else {
            self.wrong(key, node, expected);
            return vec![];
        };
        let mut names = vec![];
        for item in items {
            match item.as_str() {
                Some(name) => names.push(At { value: name.to_string(), at: item.at.clone() }),
                None => self.wrong(key, item, expected),
            }
        }
        names
    }
}

fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let scored = known.iter().map(|k| (strsim::normalized_damerau_levenshtein(word, k), *k));
    scored.filter(|(score, _)| *score > 0.6).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// `20s`, `15m`, `2h`, `1d`, `500ms`. Milliseconds.
pub fn parse_duration_ms(text: &str) -> Result<i64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let expected = || format!("{text:?} is no duration; expected a number and ms, s, m, h or d, as in `20s`");
    let number: i64 = number.parse().map_err(|_| expected())?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(expected()),
    };
    let ms = number.saturating_mul(factor);
    if ms > WINDOW_MS_MAX { Err(format!("{text} is too long; at most 24h")) } else { Ok(ms) }
}

/// Scheme and host of a URL; `None` when it names no plain host.
pub(super) fn host_of(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
        _ => authority,
    };
    (!host.is_empty() && !authority.contains('@')).then_some((scheme, host))
}

pub(super) fn is_loopback(host: &str) -> bool {
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let check = |text, expected| assert_eq!(parse_duration_ms(text).ok(), expected, "{text}");
        check("0s", Some(0));
        check("500ms", Some(500));
        check("20s", Some(20_000));
        check("15m", Some(900_000));
        check("24h", Some(86_400_000));
        check("1d", Some(86_400_000));
        check("25h", None);
        check("20", None);
        check("s", None);
        check("-5s", None);
        check("1.5s", None);
        check("20 s", None);
        check("99999999999999999999s", None);
    }
}
