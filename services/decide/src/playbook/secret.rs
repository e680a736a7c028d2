//! Secrets are references. One written in place, as in the guide's own example, is used but never stored.

use std::collections::BTreeMap;

use holdline_proto::playbooks::Bundle;
pub use holdline_proto::secret::SecretRef;
use serde_json::Value;

use super::node::Node;
use super::parse::{FileKind, kind_of};

/// What a `secretToken` says.
pub(super) enum Written {
    Reference(SecretRef),
    /// A reference that leads nowhere, and what is wrong with it.
    Malformed(String),
    /// The secret itself.
    Literal,
}

pub(super) fn read(text: &str) -> Written {
    if let Some(name) = text.strip_prefix("env:") {
        Written::Reference(SecretRef::Env(name.into()))
    } else if let Some(path) = text.strip_prefix("file:") {
        Written::Reference(SecretRef::File(path.into()))
    } else if let Some(place) = text.strip_prefix("vault:") {
        vault(place).map_or_else(Written::Malformed, Written::Reference)
    } else {
        Written::Literal
    }
}

/// How to write a secret down without writing it down.
pub(super) const INSTEAD: &str = "refer to it: `env:NAME`, `file:PATH` or `vault:PATH#KEY`";

/// What is wrong is told without what was written: it may be a secret in the wrong place.
fn vault(place: &str) -> Result<SecretRef, String> {
    const EXPECTED: &str = "expected `vault:PATH#KEY`, such as `vault:telephony/gateway#hmac`";
    let Some((path, key)) = place.split_once('#') else {
        return Err(format!("it names no key; {EXPECTED}"));
    };
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_control);
    if !path.split('/').all(is_plain) {
        return Err(format!(
            "its path is not one below the engine's mount, without slashes at its ends; {EXPECTED}"
        ));
    }
    if !is_plain(key) || key.contains('#') {
        return Err(format!("what follows # is no key; {EXPECTED}"));
    }
    Ok(SecretRef::Vault { path: path.into(), key: key.into() })
}

/// The environment variable under which a secret written in place is looked up.
pub(super) fn derived(subscription: &str, index: usize) -> String {
    let name: String = subscription
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    let second = if index == 0 { String::new() } else { format!("_{}", index + 1) };
    format!("HOLDLINE_SECRET_{name}{second}")
}

/// Whether a subscription's reference of this index came into the place of a secret that was written there
/// ([`replace_literals`]).
pub fn was_literal(subscription: &str, index: usize, reference: &SecretRef) -> bool {
    matches!(reference, SecretRef::Env(name) if *name == derived(subscription, index))
}

/// Takes secrets written in place out of a bundle, so that it can be stored: each becomes a reference to an
/// environment variable. Gives the secrets by the names of those variables, for the process that uses them.
pub fn replace_literals(bundle: &mut Bundle) -> BTreeMap<String, String> {
    let mut literals = BTreeMap::new();
    for (path, text) in &mut bundle.files {
        if kind_of(path) != Some(FileKind::Subscription) {
            continue;
        }
        let Ok(node) = Node::parse(path, text) else { continue };
        let mut json = node.to_json();
        let name = json.get("name").and_then(Value::as_str).unwrap_or_default().to_string();
        let Some(tokens) = json.get_mut("secretToken") else { continue };
        let mut replaced = false;
        let mut replace = |index, token: &mut Value| {
            if let Some(text) = token.as_str()
                && matches!(read(text), Written::Literal)
            {
                let variable = derived(&name, index);
                literals.insert(variable.clone(), text.to_string());
                *token = Value::String(format!("env:{variable}"));
                replaced = true;
            }
        };
        match tokens {
            Value::Array(tokens) => tokens.iter_mut().enumerate().for_each(|(i, token)| replace(i, token)),
            token => replace(0, token),
        }
        if replaced {
            // JSON is YAML too, so this serves both kinds of file.
            *text = format!("{json:#}\n");
        }
    }
    literals
}
