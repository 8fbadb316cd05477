//! What commands print: tables for people, one JSON document for programs.

use std::{
    fmt::{self, Display, Write as _},
    io::{self, Write as _},
};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::error::CliError;

/// Prints lines for people.
///
/// # Errors
///
/// [`CliError::Output`]; `print!` would panic where the reader has gone away.
pub(crate) fn print(text: impl Display) -> Result<(), CliError> {
    let text = text.to_string();
    let mut out = io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    write!(out, "{text}{end}")
        .and_then(|()| out.flush())
        .map_err(CliError::Output)
}

/// Tells a person something beside the output, on standard error.
///
/// # Errors
///
/// [`CliError::Output`].
pub(crate) fn note(text: impl Display) -> Result<(), CliError> {
    writeln!(io::stderr(), "{text}").map_err(CliError::Output)
}

/// Prints one JSON document.
///
/// # Errors
///
/// [`CliError::Output`].
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| CliError::Output(error.into()))?;
    print(text)
}

/// Columns as wide as their widest cell.
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const COLUMNS: usize>(header: [&'static str; COLUMNS]) -> Self {
        Self {
            header: header.into(),
            rows: vec![],
        }
    }

    /// Adds a row. Control characters of stored texts are shown, not obeyed.
    pub(crate) fn row<const COLUMNS: usize>(&mut self, cells: [String; COLUMNS]) {
        self.rows
            .push(cells.into_iter().map(|cell| visible(&cell)).collect());
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            let header = self.header.get(column).map_or(0, |name| name.len());
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
                .max(header)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let header = self.header.iter().map(|name| (*name).to_owned()).collect();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:width$}  ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A text from outside as one line that cannot steer a terminal.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// An instant to the second, in UTC.
pub(crate) fn instant(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A cell that may be empty.
pub(crate) fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

/// `1 step`, `2 steps`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

/// `0.2 s`, `12 s`, `3 min`, `5 h`, `9 d`.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let mut table = Table::new(["RUN", "STATE"]);
        table.row(["1".into(), "waiting".into()]);
        table.row(["größer".into(), or_dash(None::<String>)]);
        assert_eq!(
            table.to_string(),
            "RUN     STATE\n1       waiting\ngrößer  -\n"
        );
    }

    #[test]
    fn stored_text_cannot_steer_a_terminal() {
        let mut table = Table::new(["TENANT"]);
        table.row(["a\u{1b}[2Jb\nc".into()]);
        assert_eq!(table.to_string(), "TENANT\na\\u{1b}[2Jb\\nc\n");
    }

    #[test]
    fn durations_have_one_unit() {
        for (seconds, expected) in [
            (0.04, "0.0 s"),
            (9.94, "9.9 s"),
            (119.0, "119 s"),
            (600.0, "10 min"),
            (86_400.0, "24 h"),
            (864_000.0, "10 d"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
