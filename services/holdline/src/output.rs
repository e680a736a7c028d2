//! The one place that writes to the terminal: tables and sentences for people, JSON for programs.
#![allow(clippy::print_stdout, reason = "this is where commands print")]

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    #[default]
    Text,
    Json,
}

/// Prints a line.
pub(crate) fn line(text: impl std::fmt::Display) {
    anstream::println!("{text}");
}

/// Prints a value as JSON.
pub(crate) fn json(value: &Value) {
    anstream::println!("{value:#}");
}

/// Prints a table.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    anstream::println!("{table}");
}

/// Unix milliseconds as ISO 8601.
pub(crate) fn iso(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |at| at.to_string())
}
