//! `holdline.yaml`: the installation's targets, its platform, whom to page, how large its groups are, its hours and its
//! people.

use std::collections::{BTreeMap, BTreeSet};

use super::{At, Fields};
use crate::approval::{Person, Right};
use crate::hours::{self, Window};
use crate::playbook::finding::{Findings, Source};
use crate::playbook::node::{Entry, Kind, Node};
use crate::playbook::{Client, ConnectTo, Platform, Target};
use holdline_proto::limits::BUDGET_MAX;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// The installation's settings.
#[derive(Debug, Default)]
pub(in crate::playbook) struct Settings {
    pub targets: Vec<Target>,
    pub platform: Option<Platform>,
    /// Name of the action that tells people of held incidents, and where it stands.
    pub pager: Option<At<String>>,
    /// Entities of each group.
    pub group_sizes: BTreeMap<String, u32>,
    pub windows: BTreeMap<String, Window>,
    pub people: BTreeMap<String, Person>,
}

/// Reads the installation's settings.
pub(in crate::playbook) fn settings(source: Source<'_>, node: &Node, findings: &mut Findings) -> Settings {
    let planned = ["vault"];
    let known = ["targets", "platform", "pager", "groups", "windows", "people"];
    let Some(mut fields) = Fields::of(node, "holdline.yaml", &known, &planned, source, findings) else {
        return Settings::default();
    };
    let platform = fields.get("platform").and_then(|node| platform(source, node, fields.findings));
    let pager = fields.text("pager");
    let group_sizes = fields.get("groups").map(|node| group_sizes(source, node, fields.findings));
    let mut settings =
        Settings { platform, pager, group_sizes: group_sizes.unwrap_or_default(), ..Settings::default() };
    for Entry { key, value, .. } in fields.entries_of("windows") {
        settings.windows.extend(window(source, value, fields.findings).map(|window| (key.clone(), window)));
    }
    for Entry { key, value, .. } in fields.entries_of("people") {
        let Some(person) = person(source, value, fields.findings) else { continue };
        if let Some((other, _)) = settings.people.iter().find(|(_, other)| other.token == person.token) {
            // Otherwise one could speak for two.
            let message = format!("{key} has the token of {other}; each person has one of their own");
            fields.findings.error(source, &value.at, message);
        }
        settings.people.insert(key.clone(), person);
    }
    let Some(list) = fields.get("targets") else { return settings };
    let Kind::List(items) = &list.kind else {
        fields.findings.error(source, &list.at, format!("`targets`: expected a list, found {}", list.what()));
        return settings;
    };
    settings.targets = items.iter().filter_map(|item| target(source, item, fields.findings)).collect();
    settings
}

/// A window of the week: `{zone: Europe/Lisbon, days: [mon, fri], hours: 08:00-20:00, closed: [2026-12-25]}`.
fn window(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Window> {
    let known = ["zone", "days", "hours", "closed"];
    let mut fields = Fields::of(node, "a window", &known, &[], source, findings)?;
    for key in ["zone", "days", "hours"] {
        if fields.get(key).is_none() {
            fields.missing(key);
        }
    }
    let zone = fields.parsed("zone", |name| {
        TimeZone::get(name)
            .map_err(|_| format!("there is no time zone {name:?}; expected a name such as Europe/Lisbon"))
    });
    let days = fields.choices("days", &hours::DAYS);
    let hours = fields.parsed("hours", hours::hours);
    let mut closed = BTreeSet::new();
    for date in fields.names("closed") {
        match date.value.parse::<Date>() {
            Ok(date) => drop(closed.insert(date)),
            Err(_) => {
                let message =
                    format!("`closed`: {:?} is no date; expected one such as 2026-12-25", date.value);
                fields.findings.error(source, &date.at, message);
            }
        }
    }
    let (from, to) = hours?.value;
    Some(Window { zone: zone?.value, days, from, to, closed })
}

/// A person: `{token: U…, roles: [approve], until: 2027-01-31}`.
fn person(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Person> {
    let mut fields = Fields::of(node, "a person", &["token", "roles", "until"], &[], source, findings)?;
    for key in ["token", "roles"] {
        if fields.get(key).is_none() {
            fields.missing(key);
        }
    }
    let token = fields.parsed("token", |text| {
        let public = text.len() == 56 && text.starts_with('U');
        let plain = text.bytes().all(|byte| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte));
        if public && plain {
            return Ok(text.to_string());
        }
        // A seed says S first, and must stand nowhere: it is not repeated.
        Err("expected the public half of a token, `U` and 55 more, as `holdline token` prints it".into())
    });
    let rights = fields.choices("roles", &Right::NAMES).into_iter().collect();
    let until_ms = fields.parsed("until", |text| {
        let expected = || format!("{text:?} is no date; expected the last day, such as 2027-01-31");
        let after = text.parse::<Date>().and_then(|date| date.tomorrow()).map_err(|_| expected())?;
        let end = after.to_zoned_datetime(TimeZone::UTC).map_err(|_| expected())?;
        Ok(end.timestamp().as_millisecond())
    });
    Some(Person { token: token?.value, rights, until_ms: until_ms.map(|until| until.value) })
}

fn group_sizes(source: Source<'_>, node: &Node, findings: &mut Findings) -> BTreeMap<String, u32> {
    let Kind::Map(entries) = &node.kind else {
        let message = format!("`groups`: expected a map, found {}", node.what());
        findings.error_with(source, &node.at, message, "as in `groups: {lisbon: 12}`, entities of each");
        return BTreeMap::new();
    };
    let mut sizes = BTreeMap::new();
    for Entry { key, value, .. } in entries {
        let size = match &value.kind {
            Kind::Scalar(size) => size.as_u64().and_then(|size| u32::try_from(size).ok()),
            _ => None,
        };
        match size.filter(|size| (1..=BUDGET_MAX).contains(size)) {
            Some(size) => drop(sizes.insert(key.clone(), size)),
            None => {
                let message = format!("group {key}: expected how many entities it has, 1 to {BUDGET_MAX}");
                findings.error(source, &value.at, message);
            }
        }
    }
    sizes
}

fn platform(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Platform> {
    let known = ["region", "connect_to", "clients", "calls_per_second"];
    let mut fields = Fields::of(node, "`platform`", &known, &[], source, findings)?;
    let region = fields.needed_text("region")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    if !region.value.contains('.') || !region.value.chars().all(plain) {
        let message = format!("`region`: {:?} is no domain", region.value);
        fields.findings.error_with(
            source,
            &region.at,
            message,
            "the region's domain, such as mypurecloud.ie",
        );
    }
    let connect_to = fields.parsed("connect_to", connect_to).map(|to| to.value);
    let calls_per_second =
        fields.get("calls_per_second").is_some().then(|| fields.count("calls_per_second", 100, 1));
    let Some(list) = fields.get("clients") else {
        fields.missing("clients");
        return None;
    };
    let Kind::Map(entries) = &list.kind else {
        fields.wrong("clients", list, "a map from names to `id` and `secret`");
        return None;
    };
    let mut clients = BTreeMap::new();
    for entry in entries {
        let known = ["id", "secret"];
        let mut client = Fields::of(&entry.value, "a client", &known, &[], source, fields.findings)?;
        let (id, secret) = (client.reference("id"), client.reference("secret"));
        if let (Some(id), Some(secret)) = (id, secret) {
            clients.insert(entry.key.clone(), Client { id, secret });
        }
    }
    Some(Platform { region: region.value, connect_to, clients, calls_per_second })
}

fn target(source: Source<'_>, node: &Node, findings: &mut Findings) -> Option<Target> {
    let known = ["host", "calls_per_second", "connect_to"];
    let mut fields = Fields::of(node, "a target", &known, &[], source, findings)?;
    let host = fields.needed_text("host")?;
    let (name, port) = match host.value.rsplit_once(':') {
        Some((name, port)) => match port.parse() {
            Ok(port) => (name.to_string(), Some(port)),
            Err(_) => {
                fields.findings.error(
                    source,
                    &host.at,
                    format!("{:?}: expected HOST or HOST:PORT", host.value),
                );
                return None;
            }
        },
        None => (host.value, None),
    };
    let calls_per_second =
        fields.get("calls_per_second").is_some().then(|| fields.count("calls_per_second", 100, 1));
    let connect_to = fields.parsed("connect_to", connect_to).map(|to| to.value);
    Some(Target { host: name, port, calls_per_second, connect_to })
}

fn connect_to(text: &str) -> Result<ConnectTo, String> {
    let (tls, address) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(address), _) => (true, address),
        (None, Some(address)) => (false, address),
        (None, None) => (false, text),
    };
    let parsed = address.replace("localhost:", "127.0.0.1:").parse::<std::net::SocketAddr>();
    let address = parsed
        .map_err(|_| format!("{text:?}: expected IP:PORT, plain HTTP to loopback, or https://IP:PORT"))?;
    if !tls && !address.ip().is_loopback() {
        return Err(format!("{text:?}: plain HTTP goes to loopback only; write https:// for TLS"));
    }
    Ok(ConnectTo { tls, address })
}
