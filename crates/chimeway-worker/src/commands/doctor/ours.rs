//! What is stored, as the settings here would have it worked on.

use std::collections::BTreeSet;

use chimeway::store::doctor::WritableRow;

use super::{
    facts::Ours,
    finding::{Check, Finding, Level, or_ok},
};
use crate::output::duration;

pub(super) const CHECKS: [Check<Ours>; 10] = [
    Check {
        name: "test_clock",
        judge: test_clock,
    },
    Check {
        name: "notify",
        judge: notify,
    },
    Check {
        name: "workers",
        judge: workers,
    },
    Check {
        name: "late",
        judge: late,
    },
    Check {
        name: "set_aside",
        judge: set_aside,
    },
    Check {
        name: "expired_leases",
        judge: expired_leases,
    },
    Check {
        name: "dead_rows",
        judge: dead_rows,
    },
    Check {
        name: "workflows",
        judge: workflows,
    },
    Check {
        name: "sending",
        judge: sending,
    },
    Check {
        name: "allow_write",
        judge: allow_write,
    },
];

/// The duties of every minute have been missed thrice.
const UNSWEPT_SECONDS: f64 = 180.0;
/// Due work that is this old is a note, or a problem: what the alert says.
const LATE_SECONDS: (f64, f64) = (5.0, 60.0);
const MANY_DEAD: (i64, i64) = (10_000, 100_000);

fn test_clock(ours: &Ours) -> Vec<Finding> {
    vec![match ours.signs.clock {
        None => Finding::ok("the real time"),
        Some(clock) => Finding::problem(
            format!("Chimeway takes {clock} for now, which is for tests: no wait ends by itself"),
            "in psql: update chimeway.settings set clock = null",
        ),
    }]
}

fn notify(ours: &Ours) -> Vec<Finding> {
    vec![if ours.signs.notify {
        Finding::ok("commits that make work wake idle workers")
    } else {
        Finding::note(
            "commits send no NOTIFY: idle workers look once a second, and listen for nothing",
            "start them with --no-listen (they then look ten times a second), or update chimeway.settings set notify = true",
        )
    }]
}

/// Workers keep sessions open, and do duties every minute.
fn workers(ours: &Ours) -> Vec<Finding> {
    let swept = ours
        .signs
        .swept_seconds
        .filter(|&seconds| seconds < UNSWEPT_SECONDS);
    vec![match (swept, ours.sessions) {
        (Some(seconds), _) => Finding::ok(format!(
            "the duties of every minute were done {} ago",
            duration(seconds)
        )),
        (None, 0) => Finding::note(
            "there is no sign of a worker: no session of one, and nobody does the duties of every minute",
            "start `chimeway worker`",
        ),
        (None, _) => Finding::note(
            "nobody does the duties of every minute (the sweep), though there are sessions of ours",
            "let a worker run the queue `default`",
        ),
    }]
}

fn late(ours: &Ours) -> Vec<Finding> {
    let late = ours.overview.queues.iter().filter_map(|work| {
        let seconds = work
            .oldest_seconds
            .filter(|&seconds| seconds > LATE_SECONDS.0)?;
        let due = if work.is_more() {
            "10000+".to_owned()
        } else {
            work.due.to_string()
        };
        let told = format!(
            "{due} {} of {} are due and not claimed, the oldest for {}",
            work.kind,
            work.queue,
            duration(seconds)
        );
        let mend = if ours.sessions == 0 {
            "start `chimeway worker`".to_owned()
        } else {
            format!(
                "is the queue run? then a higher --queue {}=N, or more workers (deploy/RUNBOOK.md)",
                work.queue
            )
        };
        Some(match seconds > LATE_SECONDS.1 {
            true => Finding::problem(told, mend),
            false => Finding::note(told, mend),
        })
    });
    or_ok(late.collect(), "nothing waits for a worker")
}

fn set_aside(ours: &Ours) -> Vec<Finding> {
    let aside = ours.overview.set_aside;
    let kinds = [
        ("events", aside.events),
        ("runs", aside.runs),
        ("signals", aside.signals),
    ];
    let findings = kinds.into_iter().filter(|(_, rows)| *rows > 0).map(|(kind, rows)| {
        Finding::problem(
            format!("{rows} {kind} were set aside: they failed three times, and wait for somebody"),
            "docs/operating.md lists them with their reasons; mend them, then `chimeway retry ID`",
        )
    });
    or_ok(findings.collect(), "nothing was")
}

fn expired_leases(ours: &Ours) -> Vec<Finding> {
    vec![match ours.overview.expired_leases {
        0 => Finding::ok("none waits to be closed"),
        leases => Finding::note(
            format!("{leases} have ended and are not closed: their workers vanished"),
            "a worker of chimeway_delivery closes them within seconds",
        ),
    }]
}

fn dead_rows(ours: &Ours) -> Vec<Finding> {
    let tables = ours.overview.tables.iter();
    let findings = tables
        .filter(|table| table.dead > MANY_DEAD.0 && table.dead > table.live)
        .map(|table| {
            let told = format!(
                "{} has {} dead rows and {} live ones",
                table.table, table.dead, table.live
            );
            let level = if table.dead > MANY_DEAD.1 {
                Level::Problem
            } else {
                Level::Note
            };
            let mend = format!("see old_snapshot; then vacuum chimeway.{}", table.table);
            Finding {
                level,
                ..Finding::note(told, mend)
            }
        });
    or_ok(findings.collect(), "vacuum keeps up")
}

/// Stored documents, checked again with what is known here.
fn workflows(ours: &Ours) -> Vec<Finding> {
    let findings = ours.reviewed.iter().flat_map(|workflow| {
        workflow.mistakes.iter().map(|mistake| {
            Finding::problem(
                format!("{} v{} {mistake}", workflow.workflow, workflow.version),
                "register it, name it in extra_channels, extra_steps or extra_actions, or apply a new version",
            )
        })
    });
    or_ok(
        findings.collect(),
        format!("{} in use, without a mistake", ours.reviewed.len()),
    )
}

/// Channels that steps name and over which a worker with these settings cannot send.
fn sending(ours: &Ours) -> Vec<Finding> {
    let all: BTreeSet<&str> = ours
        .reviewed
        .iter()
        .flat_map(|workflow| &workflow.not_sent_here)
        .map(String::as_str)
        .collect();
    let findings = all.into_iter().map(|channel| {
        let users = ours
            .reviewed
            .iter()
            .filter(|workflow| workflow.not_sent_here.iter().any(|name| name == channel));
        let users: Vec<&str> = users.map(|workflow| workflow.workflow.as_str()).collect();
        let told = format!(
            "{} over `{channel}`, for which there is no adapter in these settings",
            sends(&users)
        );
        if ours
            .extra_channels
            .iter()
            .any(|name| name.as_str() == channel)
        {
            return Finding::note(
                told,
                "extra_channels says that other workers have one: run those",
            );
        }
        let section = if channel == "email" {
            "with adapter = \"smtp\""
        } else {
            "with its adapter"
        };
        Finding::problem(
            format!("{told}: each try fails"),
            format!("write [channels.{channel}] {section} (docs/channels.md)"),
        )
    });
    or_ok(findings.collect(), "every channel in use has an adapter")
}

/// `a sends`, `a, b send`.
fn sends(names: &[&str]) -> String {
    let verb = if names.len() == 1 { "sends" } else { "send" };
    format!("{} {verb}", names.join(", "))
}

fn allow_write(ours: &Ours) -> Vec<Finding> {
    let mut findings = vec![];
    for workflow in &ours.reviewed {
        findings.extend(workflow.not_written_here.iter().map(|what| {
            Finding::problem(
                format!(
                    "{} writes {what}, which these settings do not allow: its run fails",
                    workflow.workflow
                ),
                "name it in [[writable]] (docs/state-changes.md)",
            )
        }));
    }
    for allowed in &ours.allowed {
        let table = allowed.table();
        let rows: Vec<&WritableRow> = ours
            .writable
            .iter()
            .filter(|row| row.table == table)
            .collect();
        if rows.iter().all(|row| !row.table_exists) {
            let mend = "correct its name, or say its schema";
            findings.push(Finding::problem(
                format!("there is no table {table} to write"),
                mend,
            ));
            continue;
        }
        let is_named = |name: &str| allowed.columns.contains(name);
        for row in rows {
            let place = format!("{table}.{}", row.column);
            if row.column == allowed.tenant && !row.column_exists {
                let told =
                    format!("there is no {place}: every tenant's workflows may write any row");
                findings.push(Finding::note(
                    told,
                    "name the tenant's column (`tenant`), if there is one",
                ));
            } else if !row.column_exists {
                findings.push(Finding::problem(
                    format!("there is no {place}"),
                    "correct [[writable]]",
                ));
            } else if (row.column == allowed.key || row.column == allowed.tenant) && !row.may_select
            {
                let mend = "grant select on it to the workers' role";
                findings.push(Finding::problem(format!("{place} cannot be read"), mend));
            } else if is_named(&row.column) && !row.may_update {
                let mend = "grant update on it to the workers' role";
                findings.push(Finding::problem(format!("{place} cannot be changed"), mend));
            } else if allowed.insert && is_named(&row.column) && !row.may_insert {
                let mend = "grant insert on it to the workers' role";
                findings.push(Finding::problem(
                    format!("rows with {place} cannot be inserted"),
                    mend,
                ));
            }
        }
    }
    findings.dedup();
    or_ok(
        findings,
        match ours.allowed.len() {
            0 => "workflows write nothing of yours",
            _ => "what workflows may write is there",
        },
    )
}

#[cfg(test)]
#[path = "ours_tests.rs"]
mod tests;
