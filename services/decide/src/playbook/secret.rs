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
    /// `vault:…`, which is to come.
    Vault,
    /// The secret itself.
    Literal,
}

pub(super) fn read(text: &str) -> Written {
    if let Some(name) = text.strip_prefix("env:") {
        Written::Reference(SecretRef::Env(name.into()))
    } else if let Some(path) = text.strip_prefix("file:") {
        Written::Reference(SecretRef::File(path.into()))
    } else if text.starts_with("vault:") {
        Written::Vault
    } else {
        Written::Literal
    }
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
