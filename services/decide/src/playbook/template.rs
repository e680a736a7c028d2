//! Templates: only `{{ path }}`. A value is encoded for the place it stands in, so that nothing in an event
//! can break out of it; a placeholder that cannot be filled is an error before the call.

use std::fmt;

use holdline_proto::signal::Values;
use serde_json::Value;

/// A path into an event: `data.gatewayId`, `event.id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    text: String,
    root: Root,
    steps: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Root {
    Event,
    Data,
    /// Of a page: `incident.id`, `.entity`, `.playbook`, `.reason`. No event has it.
    Incident,
}

/// Steps of a path.
const STEPS_MAX: usize = 8;

impl Path {
    /// Parses a path.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Path, String> {
        let text = text.trim();
        let mut words = text.split('.');
        let root = match words.next() {
            Some("event") => Root::Event,
            Some("data") => Root::Data,
            Some("incident") => Root::Incident,
            _ => return Err(format!("{text:?} is no path: it begins with `event.` or `data.`")),
        };
        let steps: Vec<String> = words.map(str::to_string).collect();
        let fits = |step: &String| {
            !step.is_empty() && step.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        };
        if steps.is_empty() || steps.len() > STEPS_MAX || !steps.iter().all(fits) {
            return Err(format!(
                "{text:?} is no path: expected names joined by dots, as in `data.gatewayId`"
            ));
        }
        Ok(Path { text: text.into(), root, steps })
    }

    /// What the event has there. `event.…` reads the event itself, `data.…` its data.
    pub fn get<'a>(&self, event: &'a Value) -> Option<&'a Value> {
        let mut at = match self.root {
            Root::Event => event,
            Root::Data => data_of(event)?,
            Root::Incident => return None,
        };
        for step in &self.steps {
            at = match at {
                Value::Array(items) => items.get(step.parse::<usize>().ok()?)?,
                other => other.get(step)?,
            };
        }
        Some(at)
    }
}

/// `data`, or `eventBody`, which the platform calls the same.
pub(super) fn data_of(event: &Value) -> Option<&Value> {
    event.get("data").or_else(|| event.get("eventBody"))
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a template cannot be filled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RenderError {
    #[error("the event has no {0}, which the action needs")]
    Missing(String),
    #[error("{path} is {found}, which cannot stand {place}")]
    Unfit { path: String, found: &'static str, place: &'static str },
}

/// What a template is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Url,
    Header,
    Json,
    Text,
}

/// How a value is written where its placeholder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// Inside a JSON string.
    JsonText,
    /// As a JSON value.
    JsonValue,
    /// Percent-encoded, for a segment or a query value.
    Url,
    Header,
    Plain,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value(Path, Encoding),
}

/// A text with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

impl Template {
    pub(super) fn parse(text: &str, place: Place) -> Result<Template, String> {
        let mut parts = vec![];
        let mut rest = text;
        let mut in_string = false;
        while let Some(at) = rest.find("{{") {
            let (before, after) = rest.split_at(at);
            let inner = after.get(2..).unwrap_or_default();
            let Some(end) = inner.find("}}") else {
                return Err("a placeholder `{{` is never closed with `}}`".into());
            };
            let (path, after) = inner.split_at(end);
            in_string = string_state(before, in_string);
            let encoding = match place {
                Place::Url => Encoding::Url,
                Place::Header => Encoding::Header,
                Place::Text => Encoding::Plain,
                Place::Json if in_string => Encoding::JsonText,
                Place::Json => Encoding::JsonValue,
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(Part::Value(Path::parse(path)?, encoding));
            rest = after.get(2..).unwrap_or_default();
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        let template = Template { parts };
        template.check(place)?;
        Ok(template)
    }

    fn check(&self, place: Place) -> Result<(), String> {
        match place {
            Place::Url => {
                // The host must stand before the first placeholder does, or an event could choose it.
                let first = match self.parts.first() {
                    Some(Part::Text(text)) => text.as_str(),
                    _ => "",
                };
                let host = first.split_once("://").map_or("", |(_, rest)| rest);
                if self.parts.len() > 1 && !host.contains(['/', '?', '#']) {
                    return Err("a placeholder may not stand in the scheme, host or port of a URL".into());
                }
                Ok(())
            }
            Place::Json => {
                let sample: Result<_, RenderError> = self.fill(|_, encoding| {
                    Ok(if encoding == Encoding::JsonValue { "0".into() } else { "x".into() })
                });
                let sample = sample.unwrap_or_default();
                match serde_json::from_str::<Value>(&sample) {
                    Ok(_) => Ok(()),
                    Err(error) => {
                        Err(format!("the body is not JSON once its placeholders are filled: {error}"))
                    }
                }
            }
            Place::Header | Place::Text => Ok(()),
        }
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_url(text: &str) -> Result<Template, String> {
        Template::parse(text, Place::Url)
    }

    /// Every path that it refers to.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().filter_map(|part| match part {
            Part::Value(path, _) => Some(path),
            Part::Text(_) => None,
        })
    }

    /// The text before the first placeholder.
    pub(super) fn fixed_start(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// Fills every placeholder.
    ///
    /// # Errors
    /// Names the one that cannot be filled.
    pub fn render(&self, values: &Values) -> Result<String, RenderError> {
        self.fill(|path, encoding| {
            let value = values.get(&path.text).ok_or_else(|| RenderError::Missing(path.text.clone()))?;
            encode(path, value, encoding)
        })
    }

    fn fill<E>(&self, mut value: impl FnMut(&Path, Encoding) -> Result<String, E>) -> Result<String, E> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(fixed) => text.push_str(fixed),
                Part::Value(path, encoding) => text.push_str(&value(path, *encoding)?),
            }
        }
        Ok(text)
    }
}

/// Whether a JSON text ends inside a string.
fn string_state(text: &str, mut inside: bool) -> bool {
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            _ => {}
        }
    }
    inside
}

fn encode(path: &Path, value: &Value, encoding: Encoding) -> Result<String, RenderError> {
    if encoding == Encoding::JsonValue {
        return Ok(value.to_string());
    }
    let unfit = |found, place| RenderError::Unfit { path: path.text.clone(), found, place };
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Null => return Err(unfit("null", "inside a text")),
        Value::Array(_) => return Err(unfit("a list", "inside a text")),
        Value::Object(_) => return Err(unfit("an object", "inside a text")),
    };
    match encoding {
        Encoding::JsonText => {
            let quoted = Value::String(text).to_string();
            Ok(quoted.get(1..quoted.len() - 1).unwrap_or_default().to_string())
        }
        Encoding::Url if matches!(text.as_str(), "." | ".." | "") => {
            Err(unfit("`.`, `..` or empty", "in a URL, where it would change the path"))
        }
        Encoding::Url => Ok(percent(&text)),
        Encoding::Header if text.chars().any(|c| c.is_control() || !c.is_ascii()) => {
            Err(unfit("text with control or non-ASCII characters", "in a header"))
        }
        Encoding::Header | Encoding::Plain | Encoding::JsonValue => Ok(text),
    }
}

/// Everything but the unreserved characters of RFC 3986.
pub(crate) fn percent(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn render(template: &str, place: Place, value: Value) -> Result<String, String> {
        let values = Values::from([("data.x".to_string(), value)]);
        Template::parse(template, place)?.render(&values).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_encoded_for_their_place() {
        let check = |template, place, value, expected: &str| {
            assert_eq!(render(template, place, value).unwrap(), expected, "{template}");
        };
        check(r#"{"a": "{{data.x}}"}"#, Place::Json, json!("gw-1"), r#"{"a": "gw-1"}"#);
        check(r#"{"a": "<{{ data.x }}>"}"#, Place::Json, json!("\"}\n"), r#"{"a": "<\"}\n>"}"#);
        check(r#"{"a": {{data.x}}}"#, Place::Json, json!({"b": [1, null]}), r#"{"a": {"b":[1,null]}}"#);
        check(r#"{"\"{{data.x}}": 1}"#, Place::Json, json!(7), r#"{"\"7": 1}"#);
        check(
            "http://h/a/{{data.x}}?q={{data.x}}",
            Place::Url,
            json!("a/b c&é"),
            "http://h/a/a%2Fb%20c%26%C3%A9?q=a%2Fb%20c%26%C3%A9",
        );
        check("id-{{data.x}}", Place::Header, json!(true), "id-true");
    }

    #[test]
    fn what_cannot_be_filled_is_an_error_before_the_call() {
        let check = |template, place, value, expected: &str| {
            let error = render(template, place, value).unwrap_err();
            assert!(error.contains(expected), "{template}: {error}");
        };
        check(r#"{"a": "{{data.y}}"}"#, Place::Json, json!(1), "no data.y");
        check(r#"{"a": "{{data.x}}"}"#, Place::Json, json!(null), "null");
        check(r#"{"a": "{{data.x}}"}"#, Place::Json, json!([1]), "a list");
        check("{{data.x}}", Place::Header, json!("a\r\nb"), "control");
        check("http://h/{{data.x}}/c", Place::Url, json!(".."), "change the path");
        check("http://{{data.x}}/", Place::Url, json!("h"), "host");
        check("{{data.x}}://h/", Place::Url, json!("h"), "host");
        check("http://h:1{{data.x}}/", Place::Url, json!("h"), "host");
        check(r#"{"a": "{{data.x}"}"#, Place::Json, json!(1), "never closed");
        check(r#"{"a": {{x}}}"#, Place::Json, json!(1), "begins with");
        check(r#"{"a": }{{data.x}}"#, Place::Json, json!(1), "not JSON");
    }

    proptest! {
        /// E1: whatever a value holds, it stays the one string that the author wrote it into.
        #[test]
        fn e1_no_value_breaks_out(text in any::<String>()) {
            let body = render(r#"{"a": "{{data.x}}", "b": 1}"#, Place::Json, json!(text)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({"a": text, "b": 1}));
            if let Ok(url) = render("http://h/a/{{data.x}}/b?q=1", Place::Url, json!(text)) {
                let segment = url.strip_prefix("http://h/a/").and_then(|u| u.strip_suffix("/b?q=1"));
                prop_assert!(segment.unwrap().bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
            }
            if let Ok(header) = render("{{data.x}}", Place::Header, json!(text)) {
                prop_assert!(!header.contains(['\r', '\n', '\0']));
            }
        }
    }
}
