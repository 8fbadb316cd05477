//! What checks find, and the report they make.

use std::fmt;

use serde::Serialize;

use crate::error::CliError;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing fails by it.
    Note,
    /// Something does not work, will not, or is not safe.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        })
    }
}

/// One finding: what there is, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    #[serde(skip)]
    pub(super) level: Level,
    pub(super) what: String,
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(what: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            what: what.into(),
            mend: None,
        }
    }

    pub(super) fn note(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level: Level::Note,
            what: what.into(),
            mend: Some(mend.into()),
        }
    }

    pub(super) fn problem(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            level: Level::Problem,
            ..Self::note(what, mend)
        }
    }

    /// An error, whose one line says what it is and mostly how to mend it.
    pub(super) fn failed(error: &CliError) -> Self {
        let line = error.line();
        match line.rsplit_once("; ") {
            Some((what, mend)) => Self::problem(what, mend),
            None => Self {
                level: Level::Problem,
                ..Self::ok(line)
            },
        }
    }

    pub(super) fn sentence(&self) -> String {
        match &self.mend {
            Some(mend) => format!("{}; {mend}", self.what),
            None => self.what.clone(),
        }
    }
}

/// The findings, or that all is well.
pub(super) fn or_ok(findings: Vec<Finding>, ok: impl Into<String>) -> Vec<Finding> {
    match findings.is_empty() {
        true => vec![Finding::ok(ok)],
        false => findings,
    }
}

/// A check: its name, and how it judges facts. It finds something, be it that all is well.
pub(super) struct Check<Facts: 'static> {
    pub(super) name: &'static str,
    pub(super) judge: fn(&Facts) -> Vec<Finding>,
}

/// A finding in the report.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) check: &'static str,
    #[serde(flatten)]
    pub(super) finding: Finding,
}

/// Every finding, in the order of the checks.
#[derive(Debug, Default)]
pub(super) struct Report {
    lines: Vec<Line>,
}

impl Report {
    pub(super) fn judge<Facts>(&mut self, checks: &[Check<Facts>], facts: &Facts) {
        for check in checks {
            self.add(check.name, (check.judge)(facts));
        }
    }

    pub(super) fn add(&mut self, check: &'static str, findings: impl IntoIterator<Item = Finding>) {
        let lines = findings.into_iter().map(|finding| Line {
            level: finding.level,
            check,
            finding,
        });
        self.lines.extend(lines);
    }

    /// Problems of these checks are notes.
    pub(super) fn accept(&mut self, checks: &[String]) {
        for line in &mut self.lines {
            if line.level == Level::Problem && checks.iter().any(|name| name == line.check) {
                line.level = Level::Note;
            }
        }
    }

    pub(super) fn count(&self, level: Level) -> usize {
        self.lines.iter().filter(|line| line.level == level).count()
    }

    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_problem_is_a_note_and_others_stay() {
        let mut report = Report::default();
        report.add("tls", [Finding::problem("plain", "encrypt")]);
        report.add("role", [Finding::problem("none", "grant")]);
        report.accept(&["tls".to_owned()]);
        assert_eq!(
            (report.count(Level::Problem), report.count(Level::Note)),
            (1, 1)
        );
    }

    #[test]
    fn an_error_says_how_to_mend_it() {
        let finding = Finding::failed(&CliError::SchemaMissing);
        assert_eq!(finding.what, "the database has no Chimeway schema");
        assert_eq!(finding.mend.as_deref(), Some("run `chimeway migrate`"));
        assert_eq!(finding.sentence(), CliError::SchemaMissing.line());
    }
}
