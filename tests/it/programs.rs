//! Running real programs: ours, psql, Python. Nothing of the machine's databases reaches them.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use chimeway_cluster::without_postgres_variables;
use sqlx::types::Uuid;

/// How a program ended and what it printed.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Fails unless the exit code is this one.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The folder of the source tree.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The program `chimeway` of this build: it lies beside the tests.
pub(crate) fn chimeway_path() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("chimeway");
    assert!(
        program.exists(),
        "there is no {}: run `cargo build -p chimeway-worker`, or all tests with scripts/test",
        program.display()
    );
    program
}

/// A command that sees no setting of the machine's: neither ours nor PostgreSQL's.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    without_postgres_variables(&mut command);
    for (name, _) in std::env::vars_os() {
        let bytes = name.as_encoded_bytes();
        let ours = bytes.starts_with(b"CHIMEWAY_") || bytes.starts_with(b"OTEL_");
        if ours || bytes.ends_with(b"DATABASE_URL") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// `chimeway` with arguments, at a database.
pub(crate) fn chimeway_at(url: &str, arguments: &[&str]) -> Command {
    let mut command = command(chimeway_path());
    command.args(arguments).env("DATABASE_URL", url);
    command
}

/// Runs `chimeway` to its end.
pub(crate) fn chimeway(url: &str, arguments: &[&str]) -> Ran {
    chimeway_at(url, arguments).output().unwrap().into()
}

/// The arguments in a line, none of which holds a blank.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// Runs a program that reads `input`.
pub(crate) fn run_with_input(mut command: Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}; run scripts/setup"));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap().into()
}

/// Runs a script with psql, bare values only; it ends at the first error.
pub(crate) fn psql(url: &str, variables: &[(&str, &str)], script: &str) -> Ran {
    let mut command = command("psql");
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url]);
    for (name, value) in variables {
        command.arg("-v").arg(format!("{name}={value}"));
    }
    run_with_input(command, script)
}

/// A text with every id and every instant hidden, so that it is the same each time.
pub(crate) fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (mask, length) = if rest.get(..36).is_some_and(|id| Uuid::try_parse(id).is_ok()) {
            ("<id>", 36)
        } else if let Some(length) = instant(rest) {
            ("<time>", length)
        } else {
            shown.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        shown.push_str(mask);
        rest = &rest[length..];
    }
    shown
}

/// The length of an instant such as `2026-03-02T09:00:00.123Z` that a text begins with.
fn instant(text: &str) -> Option<usize> {
    let shape: String = text
        .chars()
        .take(19)
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    if shape != "0000-00-00 00:00:00" && shape != "0000-00-00T00:00:00" {
        return None;
    }
    let rest = &text[19..];
    let fraction = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let zone = ["Z", "+00:00"]
        .into_iter()
        .find(|zone| rest[fraction..].starts_with(zone));
    Some(19 + fraction + zone.map_or(0, str::len))
}

#[test]
fn ids_and_instants_are_hidden_and_nothing_else() {
    let text = "run 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10, until 2026-03-02T09:00:00.5Z (2026-03-02 09:00:00+00:00), 2026-03-02 ß";
    assert_eq!(
        masked(text),
        "run <id>, until <time> (<time>), 2026-03-02 ß"
    );
}
