//! `chimeway doctor`: what is misconfigured, as seen from outside and inside.
//!
//! Facts are read first (`facts.rs`), then judged: each check is a function from facts to findings, without input or
//! output. To add a check: 1. the function, in the file of its kind; 2. its line in that file's table; 3. what it
//! needs to know, in `facts.rs`; 4. its line in docs/operating.md, which a test compares.

mod facts;
mod finding;
mod ours;
mod server;
mod settings;
mod way;

use serde_json::json;

use self::{
    facts::Facts,
    finding::{Finding, Level, Report},
};
use super::Context;
use crate::{
    error::CliError,
    output::{self, Table},
};

/// Find what is misconfigured: in the settings, in PostgreSQL, and in what is stored
///
/// One line for each finding: ok, note or problem, what it is, and how to mend it. Nothing is changed, and nothing is
/// sent. Exits 1 where there is a problem. Run it as the role, with the settings and from the place of a worker.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway doctor
  chimeway doctor --config chimeway.toml --json
  chimeway doctor --accept tls        a private network that is trusted: its problem is a note

docs/operating.md says what each check looks at, deploy/RUNBOOK.md what to do about what users see.")]
pub(crate) struct Args {
    /// A check whose problems are known and accepted: they are told as notes
    #[arg(long, value_name = "CHECK", value_parser = check_name)]
    accept: Vec<String>,
}

/// What can be said of a connection, before anything is asked over it.
const REACHABLE: &str = "reachable";
const SCHEMA: &str = "schema";

/// The names of all checks, in the order of the report.
fn names() -> impl Iterator<Item = &'static str> {
    let settings = settings::CHECKS.iter().map(|check| check.name);
    let server = way::CHECKS.iter().chain(&server::CHECKS);
    let server = server.map(|check| check.name);
    let ours = ours::CHECKS.iter().map(|check| check.name);
    settings
        .chain([REACHABLE])
        .chain(server)
        .chain([SCHEMA])
        .chain(ours)
}

fn check_name(text: &str) -> Result<String, String> {
    if names().any(|name| name == text) {
        return Ok(text.to_owned());
    }
    let known = names().collect::<Vec<_>>().join(", ");
    Err(format!("there is no such check; the checks are {known}"))
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let facts = Facts::read(context).await;
    let mut report = judged(&facts, context);
    report.accept(&args.accept);
    print(&report, context.json)?;
    match report.count(Level::Problem) {
        0 => Ok(()),
        problems => Err(CliError::Refused(format!(
            "{}; each line says how to mend it",
            output::count(problems, "problem")
        ))),
    }
}

fn judged(facts: &Facts, context: &Context) -> Report {
    let mut report = Report::default();
    report.judge(&settings::CHECKS, &context.config);
    match &facts.server {
        Ok(server) => {
            report.add(
                REACHABLE,
                [Finding::ok(format!("PostgreSQL {}", server.place))],
            );
            report.judge(&way::CHECKS, server);
            report.judge(&server::CHECKS, server);
        }
        Err(error) => report.add(REACHABLE, [Finding::failed(error)]),
    }
    if let Some(schema) = &facts.schema {
        let finding = match schema {
            Ok(version) => Finding::ok(format!("version {version}, as this program needs it")),
            Err(error) => Finding::failed(error),
        };
        report.add(SCHEMA, [finding]);
    }
    match &facts.ours {
        Some(Ok(ours)) => report.judge(&ours::CHECKS, ours),
        Some(Err(error)) => report.add(SCHEMA, [Finding::failed(error)]),
        None => {}
    }
    report
}

fn print(report: &Report, as_json: bool) -> Result<(), CliError> {
    let [problems, notes, fine] =
        [Level::Problem, Level::Note, Level::Ok].map(|level| report.count(level));
    if as_json {
        return output::print_json(&json!({
            "problems": problems,
            "notes": notes,
            "findings": report.lines(),
        }));
    }
    let mut table = Table::new(["LEVEL", "CHECK", "FINDING"]);
    for line in report.lines() {
        table.row([
            line.level.to_string(),
            line.check.to_owned(),
            line.finding.sentence(),
        ]);
    }
    output::print(table)?;
    let problems = output::count(problems, "problem");
    let notes = output::count(notes, "note");
    output::print(format!("\n{problems}, {notes}, {fine} ok"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_checks_have_the_same_name_and_the_page_explains_each() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operating.md");
        let page = std::fs::read_to_string(page).unwrap();
        let mut seen = BTreeSet::new();
        for name in names() {
            assert!(seen.insert(name), "{name}");
            assert!(
                page.contains(&format!("| `{name}` |")),
                "no line for {name}"
            );
        }
    }

    #[test]
    fn only_what_is_a_check_can_be_accepted() {
        assert_eq!(check_name("tls").as_deref(), Ok("tls"));
        let refused = check_name("tsl").unwrap_err();
        assert!(refused.contains("tls, "), "{refused}");
    }
}
