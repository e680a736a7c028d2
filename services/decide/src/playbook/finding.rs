//! What is wrong with a set of files, where, and what to do.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

/// Whether a set can be used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// Stable name of the kind of finding, for scripts.
    pub code: &'static str,
    pub file: String,
    /// From 1; 0 where the finding concerns no line in particular.
    pub line: usize,
    pub column: usize,
    pub message: String,
    pub help: Option<String>,
    /// For a terminal: the place underlined, and the help.
    #[serde(skip)]
    pub rendered: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.rendered)
    }
}

/// A file of the set, for pointing at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub path: &'a str,
    pub text: &'a str,
}

/// Collects findings, so that all of them are told at once.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub list: Vec<Finding>,
}

impl Findings {
    pub(super) fn error(&mut self, source: Source<'_>, at: &Range<usize>, message: impl Into<String>) {
        self.add(Severity::Error, "invalid", source, at, message.into(), None);
    }

    pub(super) fn error_with(
        &mut self,
        source: Source<'_>,
        at: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add(Severity::Error, "invalid", source, at, message.into(), Some(help.into()));
    }

    pub(super) fn warning(
        &mut self,
        code: &'static str,
        source: Source<'_>,
        at: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.add(Severity::Warning, code, source, at, message.into(), Some(help.into()));
    }

    /// Something that the design has and this version has not: refused, never ignored.
    pub(super) fn unsupported(&mut self, source: Source<'_>, at: &Range<usize>, what: &str) {
        let message = format!("{what} is not supported yet, so this set is refused rather than half obeyed");
        self.add(Severity::Error, "not-supported-yet", source, at, message, None);
    }

    pub(super) fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        source: Source<'_>,
        at: &Range<usize>,
        message: String,
        help: Option<String>,
    ) {
        let at = clamp(source.text, at);
        let before = source.text.get(..at.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let rendered = render(severity, source, at, &message, help.as_deref());
        let file = source.path.to_string();
        self.list.push(Finding { severity, code, file, line, column, message, help, rendered });
    }

    pub(super) fn has_errors(&self) -> bool {
        self.list.iter().any(|finding| finding.severity == Severity::Error)
    }
}

fn clamp(text: &str, at: &Range<usize>) -> Range<usize> {
    let end = at.end.min(text.len());
    let start = at.start.min(end);
    if text.is_char_boundary(start) && text.is_char_boundary(end) { start..end } else { 0..0 }
}

fn render(
    severity: Severity,
    source: Source<'_>,
    at: Range<usize>,
    message: &str,
    help: Option<&str>,
) -> String {
    let level = match severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let text = mask_secrets(source.text);
    let snippet = Snippet::source(text).path(source.path).annotation(AnnotationKind::Primary.span(at));
    let mut group = level.primary_title(message).element(snippet);
    if let Some(help) = help {
        group = group.element(Level::HELP.message(help));
    }
    Renderer::plain().render(&[group])
}

/// A secret written in place must not reach a terminal or a log. The length stays, so that spans do.
fn mask_secrets(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match line.find("secretToken") {
            Some(at) if !line.contains("env:") && !line.contains("file:") && !line.contains("vault:") => {
                let (name, value) = line.split_at(at + "secretToken".len());
                masked.push_str(name);
                masked.extend(
                    value.chars().map(|c| {
                        if c.is_ascii_alphanumeric() || "+/=_-!#$%&*".contains(c) { '*' } else { c }
                    }),
                );
            }
            _ => masked.push_str(line),
        }
    }
    masked
}
