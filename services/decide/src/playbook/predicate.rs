//! Predicates: CEL over an event, and the guide's notation (`AND`, `OR`, `NOT`, single `=`, bare field names).
//!
//! A predicate that cannot be evaluated is an error, never "false". Nearly all of them compare fields with
//! texts; those are evaluated here, a hundred times faster than by the interpreter and, as a test holds, alike.

use std::fmt;
use std::sync::Arc;

use cel::{Context, Program};
use serde_json::Value;

use super::template::{Path, data_of};

/// Bytes of a predicate's source.
const SOURCE_BYTES_MAX: usize = 2 * 1024;

/// Nested brackets; the parser's own limit comes too late for its stack.
const DEPTH_MAX: usize = 8;

/// Operators other than `&&` and `||`; longer chains overflow the parser's stack.
const OPERATORS_MAX: usize = 40;

/// Stack of the thread that parses: in a debug build the parser needs much.
const PARSER_STACK_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of text that one evaluation converts for the interpreter; larger events are undecidable.
const NODES_MAX: usize = 4_096;

/// An event, ready for predicates.
pub struct Facts<'a> {
    event: &'a Value,
}

impl<'a> Facts<'a> {
    pub fn new(event: &'a Value) -> Facts<'a> {
        Facts { event }
    }
}

/// A compiled predicate.
#[derive(Clone)]
pub struct Predicate {
    source: String,
    form: Form,
}

#[derive(Clone)]
enum Form {
    /// Comparisons of fields with texts, all joined alike.
    Comparisons {
        any: bool,
        comparisons: Vec<Comparison>,
    },
    Cel(Arc<Program>),
}

#[derive(Clone, Debug)]
struct Comparison {
    path: Path,
    equal: bool,
    text: String,
}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Predicate({:?})", self.source)
    }
}

impl Predicate {
    /// Compiles a predicate.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(source: &str) -> Result<Predicate, String> {
        let tokens = tokens(source)?;
        guard(source, &tokens)?;
        let form = match comparisons(&tokens) {
            Some(form) => form,
            None => Form::Cel(Arc::new(compile(&normalised(&tokens))?)),
        };
        Ok(Predicate { source: source.into(), form })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it holds for an event.
    ///
    /// # Errors
    /// Why it cannot be said: a field that the event has not, a value that is not true or false.
    pub fn evaluate(&self, facts: &Facts<'_>) -> Result<bool, String> {
        match &self.form {
            Form::Comparisons { any, comparisons } => {
                // As in CEL, what decides outweighs what cannot be said, wherever it stands.
                let mut unsaid = None;
                for comparison in comparisons {
                    match comparison.holds(facts.event) {
                        Ok(holds) if holds == *any => return Ok(*any),
                        Ok(_) => {}
                        Err(error) => unsaid = Some(error),
                    }
                }
                unsaid.map_or(Ok(!*any), Err)
            }
            Form::Cel(program) => interpret(program, facts.event),
        }
    }

    /// The texts that it compares fields with, for trial events.
    pub(super) fn texts(&self) -> Vec<(String, String)> {
        match &self.form {
            Form::Comparisons { comparisons, .. } => {
                comparisons.iter().filter(|c| c.equal).map(|c| (c.path.to_string(), c.text.clone())).collect()
            }
            Form::Cel(_) => vec![],
        }
    }
}

impl Comparison {
    fn holds(&self, event: &Value) -> Result<bool, String> {
        let value = self.path.get(event).ok_or_else(|| format!("the event has no {}", self.path))?;
        Ok((value.as_str() == Some(&self.text)) == self.equal)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// With its quotes taken off.
    Text(String),
    /// A name, dots included.
    Name(String),
    Number(String),
    Symbol(String),
}

fn tokens(source: &str) -> Result<Vec<Token>, String> {
    let mut tokens = vec![];
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '\'' | '"' => {
                let mut text = String::new();
                loop {
                    match chars.next() {
                        None => return Err(format!("a text begins with {c} and never ends")),
                        Some('\\') => return Err("texts with backslashes are not supported".into()),
                        Some(end) if end == c => break,
                        Some(inner) => text.push(inner),
                    }
                }
                tokens.push(Token::Text(text));
            }
            c if c.is_ascii_alphabetic() || c == '_' => {
                let mut name = String::from(c);
                while let Some(next) =
                    chars.next_if(|next| next.is_ascii_alphanumeric() || *next == '_' || *next == '.')
                {
                    name.push(next);
                }
                tokens.push(Token::Name(name));
            }
            c if c.is_ascii_digit() => {
                let mut number = String::from(c);
                while let Some(next) = chars.next_if(|next| next.is_ascii_alphanumeric() || *next == '.') {
                    number.push(next);
                }
                tokens.push(Token::Number(number));
            }
            c => {
                let mut symbol = String::from(c);
                let pairs = ["==", "!=", "<=", ">=", "&&", "||"];
                if let Some(next) = chars.next_if(|next| pairs.contains(&format!("{c}{next}").as_str())) {
                    symbol.push(next);
                }
                tokens.push(Token::Symbol(symbol));
            }
        }
    }
    Ok(tokens)
}

fn guard(source: &str, tokens: &[Token]) -> Result<(), String> {
    if source.trim().is_empty() {
        return Err("the predicate is empty".into());
    }
    if source.len() > SOURCE_BYTES_MAX {
        return Err(format!("the predicate has {} bytes; at most {SOURCE_BYTES_MAX}", source.len()));
    }
    let (mut depth, mut operators) = (0usize, 0usize);
    for token in tokens {
        match token {
            Token::Symbol(symbol) => match symbol.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                "&&" | "||" | "," => {}
                _ => operators += 1,
            },
            Token::Name(name) => {
                let last = name.rsplit('.').next().unwrap_or_default();
                if ["all", "exists", "exists_one", "map", "filter", "reduce"].contains(&last) {
                    return Err(format!("`{last}` runs over lists without a bound and is not allowed here"));
                }
            }
            Token::Text(_) | Token::Number(_) => {}
        }
        if depth > DEPTH_MAX {
            return Err(format!("brackets are nested more than {DEPTH_MAX} deep"));
        }
    }
    if operators > OPERATORS_MAX {
        return Err(format!("the predicate has {operators} operators; at most {OPERATORS_MAX}"));
    }
    Ok(())
}

/// `status` is short for `data.status`.
fn qualified(name: &str) -> String {
    let root = name.split('.').next().unwrap_or_default();
    if ["data", "event"].contains(&root) { name.into() } else { format!("data.{name}") }
}

/// The common shape, or `None`.
fn comparisons(tokens: &[Token]) -> Option<Form> {
    let mut comparisons = vec![];
    let mut joined: Option<bool> = None;
    for (n, chunk) in tokens.chunks(4).enumerate() {
        let (name, symbol, text, join) = match chunk {
            [Token::Name(name), Token::Symbol(symbol), Token::Text(text)] => (name, symbol, text, None),
            [Token::Name(name), Token::Symbol(symbol), Token::Text(text), join] => {
                (name, symbol, text, Some(join))
            }
            _ => return None,
        };
        let equal = match symbol.as_str() {
            "==" | "=" => true,
            "!=" => false,
            _ => return None,
        };
        let last = (n + 1) * 4 > tokens.len();
        match (join, last) {
            (None, true) => {}
            (Some(Token::Symbol(symbol)), false) if symbol == "||" || symbol == "&&" => {
                if *joined.get_or_insert(symbol == "||") != (symbol == "||") {
                    return None;
                }
            }
            (Some(Token::Name(name)), false) if name == "OR" || name == "AND" => {
                if *joined.get_or_insert(name == "OR") != (name == "OR") {
                    return None;
                }
            }
            _ => return None,
        }
        comparisons.push(Comparison { path: Path::parse(&qualified(name)).ok()?, equal, text: text.clone() });
    }
    (!comparisons.is_empty()).then_some(Form::Comparisons { any: joined.unwrap_or(false), comparisons })
}

/// As CEL writes it.
fn normalised(tokens: &[Token]) -> String {
    let mut source = vec![];
    for (n, token) in tokens.iter().enumerate() {
        let next = tokens.get(n + 1);
        source.push(match token {
            Token::Text(text) if text.contains('\'') => format!("\"{text}\""),
            Token::Text(text) => format!("'{text}'"),
            Token::Number(number) => number.clone(),
            Token::Symbol(symbol) if symbol == "=" => "==".into(),
            Token::Symbol(symbol) => symbol.clone(),
            Token::Name(name) => match name.as_str() {
                "AND" => "&&".into(),
                "OR" => "||".into(),
                "NOT" => "!".into(),
                "true" | "false" | "null" | "in" => name.clone(),
                // A field of what stands before it: `proxies[0].state`.
                _ if n.checked_sub(1).is_some_and(|n| tokens.get(n) == Some(&Token::Symbol(".".into()))) => {
                    name.clone()
                }
                _ if next == Some(&Token::Symbol("(".into())) => match name.rsplit_once('.') {
                    Some((object, method)) => format!("{}.{method}", qualified(object)),
                    None => name.clone(),
                },
                _ => qualified(name),
            },
        });
    }
    source.join(" ")
}

/// Functions that a predicate may use.
const FUNCTIONS: [&str; 9] =
    ["size", "contains", "startsWith", "endsWith", "has", "int", "uint", "double", "string"];

fn compile(source: &str) -> Result<Program, String> {
    let text = source.to_string();
    let parsing = std::thread::Builder::new()
        .stack_size(PARSER_STACK_BYTES)
        .spawn(move || Program::compile(&text).map_err(|error| error.to_string()));
    let parsed = parsing.map_err(|error| error.to_string())?.join();
    let program = parsed.map_err(|_| "the predicate cannot be parsed".to_string())??;
    let references = program.references();
    for name in references.functions() {
        let operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !operator && !FUNCTIONS.contains(&name) {
            return Err(format!("there is no function `{name}`; there are {}", FUNCTIONS.join(", ")));
        }
    }
    for name in references.variables() {
        if !["data", "event"].contains(&name) {
            return Err(format!("there is no `{name}` here; fields are reached by `data.` and `event.`"));
        }
    }
    Ok(program)
}

fn interpret(program: &Program, event: &Value) -> Result<bool, String> {
    let mut nodes = 0;
    let converted = convert(event, &mut nodes)?;
    let data = data_of(event).map(|data| convert(data, &mut nodes)).transpose()?;
    let mut context = Context::default();
    context.add_variable_from_value("event", converted);
    context.add_variable_from_value("data", data.unwrap_or(cel::Value::Null));
    match program.execute(&context) {
        Ok(cel::Value::Bool(value)) => Ok(value),
        Ok(other) => Err(format!("it gives {:?} instead of true or false", other.type_of())),
        Err(error) => Err(error.to_string()),
    }
}

/// Integers that fit are signed, so that arithmetic with literals works.
fn convert(value: &Value, nodes: &mut usize) -> Result<cel::Value, String> {
    *nodes += 1;
    if *nodes > NODES_MAX {
        return Err(format!("the event has more than {NODES_MAX} values"));
    }
    Ok(match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) => cel::Value::Int(signed),
            (None, Some(unsigned)) => cel::Value::UInt(unsigned),
            (None, None) => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => {
            let items: Result<Vec<_>, String> = items.iter().map(|item| convert(item, nodes)).collect();
            cel::Value::List(Arc::new(items?))
        }
        Value::Object(map) => {
            let mut converted = std::collections::HashMap::new();
            for (key, value) in map {
                converted.insert(key.clone(), convert(value, nodes)?);
            }
            cel::Value::Map(converted.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn evaluate(source: &str, event: &Value) -> Result<bool, String> {
        Predicate::parse(source)?.evaluate(&Facts::new(event))
    }

    #[test]
    fn the_guides_notation_and_cel_mean_the_same() {
        let event = json!({"id": "e1", "data": {"status": "FAILED", "site": "A AND B", "load": 7, "tags": ["x"],
            "proxies": [{"state": "DOWN", "sip": {"code": 408}}]}});
        let check = |source, expected: Result<bool, &str>| match (evaluate(source, &event), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{source}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{source}: {error}"),
            (found, expected) => panic!("{source}: {found:?}, expected {expected:?}"),
        };
        check("status == 'FAILED'", Ok(true));
        check("status = 'FAILED'", Ok(true));
        check("status == \"DEGRADED\"", Ok(false));
        check("status == 'FAILED' OR status == 'DEGRADED'", Ok(true));
        check("status == 'FAILED' AND site == 'A AND B'", Ok(true));
        check("status == 'FAILED' && site != 'A AND B'", Ok(false));
        check("NOT status == 'HEALTHY'", Err("")); // ! binds tighter than ==, in CEL too
        check("NOT (status == 'HEALTHY')", Ok(true));
        check("data.load >= 5 && (status == 'FAILED' || event.id == 'x')", Ok(true));
        check("load / 2 == 3", Ok(true));
        check("site.startsWith('A')", Ok(true));
        check("'x' in tags", Ok(true));
        check("proxies[0].state == 'DOWN' && proxies[0].sip.code > 400", Ok(true));
        check("data.proxies[0].state.startsWith('U')", Ok(false));
        check("proxies[1].state == 'DOWN'", Err(""));
        check("status", Err("instead of true or false"));
        check("missing == 'x'", Err("missing"));
        check("data.missing > 3", Err("missing"));
        check("status == 'FAILED' OR missing == 'x'", Ok(true));
        check("status == 'HEALTHY' OR missing == 'x'", Err("missing"));
    }

    #[test]
    fn what_is_wrong_is_refused_when_it_is_loaded() {
        let check = |source: &str, expected: &str| {
            let error = Predicate::parse(source).unwrap_err();
            assert!(error.contains(expected), "{source}: {error}");
        };
        check("", "empty");
        check("status == 'FAILED", "never ends");
        check(&"(".repeat(9), "nested");
        check(&format!("{}1 == 1", "1 + ".repeat(5_000)), "bytes");
        check(&format!("{}1 == 1", "1 + ".repeat(400)), "operators");
        check("tags.all(t, t == 'x')", "without a bound");
        check("nosuch(status)", "no function `nosuch`");
        check("status ==", "");
        check("status == == 'x'", "");
    }

    /// The quick way and the interpreter agree, on events that have the fields and on events that have not.
    #[test]
    fn comparisons_agree_with_the_interpreter() {
        let atoms = ["status == 'F'", "status != 'F'", "site == 'x'", "event.id == 'e'", "gone == 'y'"];
        let events = [
            json!({"id": "e", "data": {"status": "F", "site": "x"}}),
            json!({"id": "f", "data": {"status": "G", "site": 3}}),
            json!({"id": "e", "eventBody": {"status": "F"}}),
            json!({"data": {"gone": "y", "status": null}}),
        ];
        for join in [" || ", " && "] {
            for a in atoms {
                for b in atoms {
                    let source = format!("{a}{join}{b}");
                    let quick = Predicate::parse(&source).unwrap();
                    assert!(matches!(quick.form, Form::Comparisons { .. }));
                    let slow = compile(&normalised(&tokens(&source).unwrap())).unwrap();
                    for event in &events {
                        let (q, s) = (quick.evaluate(&Facts::new(event)), interpret(&slow, event));
                        assert_eq!(q.is_err(), s.is_err(), "{source} on {event}: {q:?} {s:?}");
                        assert_eq!(q.ok(), s.ok(), "{source} on {event}");
                    }
                }
            }
        }
    }
}
