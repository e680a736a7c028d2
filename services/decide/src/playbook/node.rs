//! A file as a tree in which every key and value knows where it stands, so that all mistakes can be pointed
//! at, and at once.

use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

/// A value and where it stands (bytes).
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: Range<usize>,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Map(Vec<Entry>),
    List(Vec<Node>),
    Scalar(Value),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub key_at: Range<usize>,
    pub value: Node,
}

/// Bytes of one file. Larger ones are no playbooks.
const FILE_BYTES_MAX: usize = 256 * 1024;

/// Nesting of a file.
const DEPTH_MAX: usize = 16;

impl Node {
    /// Parses YAML or JSON.
    ///
    /// # Errors
    /// Where and why it cannot be read.
    pub(super) fn parse(path: &str, text: &str) -> Result<Node, (Range<usize>, String)> {
        if text.len() > FILE_BYTES_MAX {
            return Err((0..0, format!("the file has {} bytes; at most {FILE_BYTES_MAX}", text.len())));
        }
        let error = match serde_saphyr::from_str::<Spanned<Tree>>(text) {
            Ok(tree) => return Ok(node(tree)),
            Err(error) => error,
        };
        // JSON may be laid out with tabs, which YAML does not take.
        if path.ends_with(".json")
            && let Ok(value) = serde_json::from_str::<Value>(text)
        {
            return Ok(from_json(&value, text));
        }
        let at = error.location().map_or(0..0, |location| range(&location));
        Err((at, plain(&error.to_string())))
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub(super) fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Map(_) => "a map",
            Kind::List(_) => "a list",
            Kind::Scalar(Value::String(_)) => "text",
            Kind::Scalar(Value::Number(_)) => "a number",
            Kind::Scalar(Value::Bool(_)) => "true or false",
            Kind::Scalar(_) => "nothing",
        }
    }

    /// As plain JSON.
    pub(super) fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Map(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect()
            }
            Kind::List(items) => items.iter().map(Node::to_json).collect(),
            Kind::Scalar(value) => value.clone(),
        }
    }
}

/// The parser's message without its place, which is shown beside it, and without its hints to programmers.
fn plain(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let line = match line.split_once(": ") {
        Some((place, rest)) if place.starts_with("line ") => rest,
        _ => line,
    };
    line.split(", set DuplicateKeyPolicy").next().unwrap_or_default().to_string()
}

/// Where each key stands is found by its text; good enough to point at.
fn from_json(value: &Value, text: &str) -> Node {
    let kind = match value {
        Value::Object(map) => Kind::Map(
            map.iter()
                .map(|(key, value)| {
                    let start = text.find(&format!("\"{key}\"")).unwrap_or(0);
                    let key_at = start..start + key.len() + 2;
                    let inner = Node { at: key_at.clone(), ..from_json(value, text) };
                    Entry { key: key.clone(), key_at, value: inner }
                })
                .collect(),
        ),
        Value::Array(items) => Kind::List(items.iter().map(|item| from_json(item, text)).collect()),
        scalar => Kind::Scalar(scalar.clone()),
    };
    Node { at: 0..0, kind }
}

fn range(location: &serde_saphyr::Location) -> Range<usize> {
    let span = location.span();
    let start = span.byte_offset().unwrap_or(0);
    let end = start.saturating_add(span.byte_len().unwrap_or(0));
    usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0)
}

fn node(tree: Spanned<Tree>) -> Node {
    let at = range(&tree.referenced);
    let kind = match tree.value {
        Tree::Map(entries) => Kind::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    key_at: range(&key.referenced),
                    key: key.value,
                    value: node(value),
                })
                .collect(),
        ),
        Tree::List(items) => Kind::List(items.into_iter().map(node).collect()),
        Tree::Scalar(value) => Kind::Scalar(value),
    };
    Node { at, kind }
}

enum Tree {
    Map(Vec<(Spanned<String>, Spanned<Tree>)>),
    List(Vec<Spanned<Tree>>),
    Scalar(Value),
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map, a list or a plain value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = vec![];
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Map(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = vec![];
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::String(text.into())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }
}

/// Whether a tree is too deep to be one of ours.
pub(super) fn too_deep(node: &Node) -> bool {
    fn depth(node: &Node) -> usize {
        1 + match &node.kind {
            Kind::Map(entries) => entries.iter().map(|entry| depth(&entry.value)).max().unwrap_or(0),
            Kind::List(items) => items.iter().map(depth).max().unwrap_or(0),
            Kind::Scalar(_) => 0,
        }
    }
    depth(node) > DEPTH_MAX
}
