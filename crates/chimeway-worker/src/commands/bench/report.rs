//! How figures are printed.

use std::io::{self, Write as _};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{error::CliError, output};

/// Where figures go.
pub(super) struct Report {
    json: bool,
}

impl Report {
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Says what is being done, on standard error, for people.
    pub(super) fn progress(&self, text: &str) {
        if !self.json {
            // Nobody is there to read it when standard error is closed.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Prints the figures: a table for people, one document for programs.
    pub(super) fn print(
        &self,
        settings: &Map<String, Value>,
        figures: &impl Serialize,
        table: &str,
    ) -> Result<(), CliError> {
        if !self.json {
            let settings: Vec<String> = settings
                .iter()
                .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
                .collect();
            return output::print(format!("{table}\nPostgreSQL: {}\n", settings.join(" ")));
        }
        let figures =
            serde_json::to_value(figures).map_err(|error| CliError::Output(error.into()))?;
        let mut document = Map::new();
        if let Value::Object(figures) = figures {
            document.extend(figures);
        }
        document.insert("server".into(), Value::Object(settings.clone()));
        output::print_json(&Value::Object(document))
    }
}

/// The one in the middle; of an even number, the higher of the two.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Half of them, 99 of 100, and all of them are at most so long.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Spread {
    pub(super) count: usize,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Spread {
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        // The least value that so many of a hundred do not exceed.
        let at = |hundredths: usize| {
            let place = (values.len() * hundredths).div_ceil(100).max(1) - 1;
            values.get(place).copied().unwrap_or_default()
        };
        Self {
            count: values.len(),
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }

    /// As cells of a table, in milliseconds.
    pub(super) fn cells(&self) -> [String; 4] {
        let ms = |value: f64| format!("{value:.1} ms");
        [
            self.count.to_string(),
            ms(self.p50),
            ms(self.p99),
            ms(self.max),
        ]
    }
}

/// A figure with its unit; a dash where it is not known.
pub(super) fn figure(value: Option<f64>, decimals: usize, unit: &str) -> String {
    match value {
        Some(value) => format!("{value:.decimals$} {unit}").trim_end().to_owned(),
        None => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_values_that_occurred() {
        let spread = Spread::of((1..=200).map(f64::from).collect());
        assert_eq!((spread.p50, spread.p99, spread.max), (100.0, 198.0, 200.0));
        let one = Spread::of(vec![7.0]);
        assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
        let none = Spread::of(vec![]);
        assert_eq!((none.count, none.max), (0, 0.0));
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
    }
}
