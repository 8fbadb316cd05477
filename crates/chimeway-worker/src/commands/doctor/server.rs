//! What PostgreSQL is set to, and what holds something of its.

use chimeway::store::health::ServerRow as Held;

use super::{
    facts::Server,
    finding::{Check, Finding, Level, or_ok},
};
use crate::output::{count, duration};

pub(super) const CHECKS: [Check<Server>; 12] = [
    Check {
        name: "durability",
        judge: durability,
    },
    Check {
        name: "isolation",
        judge: isolation,
    },
    Check {
        name: "timeouts",
        judge: timeouts,
    },
    Check {
        name: "idle_in_transaction",
        judge: idle_in_transaction,
    },
    Check {
        name: "old_snapshot",
        judge: old_snapshot,
    },
    Check {
        name: "prepared_transactions",
        judge: prepared_transactions,
    },
    Check {
        name: "replication_slots",
        judge: replication_slots,
    },
    Check {
        name: "notification_queue",
        judge: notification_queue,
    },
    Check {
        name: "autovacuum",
        judge: autovacuum,
    },
    Check {
        name: "jit",
        judge: jit,
    },
    Check {
        name: "indexes",
        judge: indexes,
    },
    Check {
        name: "triggers",
        judge: triggers,
    },
];

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const GIB: i64 = 1 << 30;
/// What alerts call old, too.
const OLD_TRANSACTIONS: i64 = 5_000_000;
/// A batch may take as long as this in a bad moment.
const SHORTEST_STATEMENT_MS: i64 = 5_000;
/// What PostgreSQL is shipped with.
const JIT_COST: f64 = 100_000.0;

fn durability(server: &Server) -> Vec<Finding> {
    let off = [
        ("fsync", "a crash of the machine may destroy the database"),
        (
            "full_page_writes",
            "a crash of the machine may leave pages that are half written",
        ),
        (
            "synchronous_commit",
            "a crash forgets what was committed last: sends are repeated without being marked",
        ),
    ];
    let mut findings: Vec<Finding> = off
        .into_iter()
        .filter(|(name, _)| server.setting(name) == "off")
        .map(|(name, means)| {
            Finding::problem(
                format!("{name} is off: {means}"),
                format!("set {name} = on"),
            )
        })
        .collect();
    let unlogged = server.flawed("unlogged");
    if !unlogged.is_empty() {
        findings.push(Finding::problem(
            format!("{} unlogged: a crash empties them", are(&unlogged)),
            "in psql: alter table chimeway.TABLE set logged",
        ));
    }
    or_ok(findings, "a commit survives a crash")
}

fn isolation(server: &Server) -> Vec<Finding> {
    let isolation = server.setting("default_transaction_isolation");
    vec![if isolation == "read committed" {
        Finding::ok(isolation)
    } else {
        Finding::problem(
            format!(
                "transactions are {isolation} unless they say otherwise: workers would decide by what was, not by what is"
            ),
            "set default_transaction_isolation = 'read committed' for the workers' role",
        )
    }]
}

fn timeouts(server: &Server) -> Vec<Finding> {
    let statement: i64 = server.setting("statement_timeout").parse().unwrap_or(0);
    vec![if (1..SHORTEST_STATEMENT_MS).contains(&statement) {
        Finding::note(
            format!(
                "statement_timeout is {statement} ms: a batch in a bad moment is cut off, and repeated"
            ),
            "leave it at 5 s or more for the workers' role",
        )
    } else {
        Finding::ok("no statement of a worker is cut off early")
    }]
}

fn idle_in_transaction(server: &Server) -> Vec<Finding> {
    let mut findings = vec![];
    if let Some(seconds) = server.row.idle_in_transaction_seconds {
        findings.push(Finding {
            level: level(seconds, (0.0, 5.0 * MINUTE)),
            ..Finding::note(
                format!(
                    "{} idle in a transaction, the longest for {}: what it holds waits, and dead rows pile up",
                    one_or_more(server.row.idle_in_transaction, "session is", "sessions are"),
                    duration(seconds)
                ),
                "find it in pg_stat_activity and end it with pg_terminate_backend(pid)",
            )
        });
    }
    if server.setting("idle_in_transaction_session_timeout") == "0" {
        findings.push(Finding::note(
            "idle_in_transaction_session_timeout is 0: a client that forgets its transaction holds its rows for ever",
            "set it to some minutes for the hosts' roles",
        ));
    }
    or_ok(
        findings,
        "no session is, and the server ends those that are for too long",
    )
}

fn old_snapshot(server: &Server) -> Vec<Finding> {
    let Held {
        xmin_age,
        oldest_transaction_seconds: oldest,
        ..
    } = server.held;
    let told = format!(
        "the oldest transaction has been open for {}, the oldest snapshot is {} old",
        duration(oldest),
        count_of(xmin_age, "transaction")
    );
    let is_problem = xmin_age > OLD_TRANSACTIONS || oldest > HOUR;
    let is_note = xmin_age > OLD_TRANSACTIONS / 10 || oldest > 5.0 * MINUTE;
    if !is_problem && !is_note {
        return vec![Finding::ok(told)];
    }
    vec![Finding {
        level: if is_problem {
            Level::Problem
        } else {
            Level::Note
        },
        ..Finding::note(
            format!("{told}: vacuum removes nothing younger, and claims get slower"),
            "docs/metrics.md has the statement that names the holder",
        )
    }]
}

fn prepared_transactions(server: &Server) -> Vec<Finding> {
    let prepared = server
        .holders
        .iter()
        .filter(|one| one.kind == "prepared transaction");
    let findings = prepared.map(|one| {
        let seconds = one.seconds.unwrap_or_default();
        Finding {
            level: level(seconds, (0.0, 5.0 * MINUTE)),
            ..Finding::note(
                format!(
                    "`{}` was prepared {} ago and holds its rows and its snapshot",
                    one.name,
                    duration(seconds)
                ),
                "commit prepared or rollback prepared it, whichever its coordinator decided",
            )
        }
    });
    or_ok(findings.collect(), "none is left")
}

fn replication_slots(server: &Server) -> Vec<Finding> {
    let slots = server
        .holders
        .iter()
        .filter(|one| one.kind == "replication slot");
    let findings = slots.filter_map(|slot| {
        let (bytes, age) = (slot.bytes.unwrap_or_default(), slot.xmin_age.unwrap_or_default());
        if slot.active && bytes < 10 * GIB {
            return None;
        }
        let is_problem = bytes >= GIB || i64::from(age) > OLD_TRANSACTIONS / 10;
        Some(Finding {
            level: if is_problem { Level::Problem } else { Level::Note },
            ..Finding::note(
                format!(
                    "`{}` is {} and keeps {} MiB of the log: the disk fills by it",
                    slot.name,
                    if slot.active { "far behind" } else { "read by nobody" },
                    bytes / (1 << 20)
                ),
                "start its reader, or pg_drop_replication_slot(name); max_slot_wal_keep_size is a limit",
            )
        })
    });
    or_ok(findings.collect(), "none that holds anything back")
}

fn notification_queue(server: &Server) -> Vec<Finding> {
    let full = server.held.notification_queue;
    let told = format!("{:.1} % full", full * 100.0);
    vec![match level(full, (0.1, 0.5)) {
        Level::Ok => Finding::ok(told),
        level => Finding {
            level,
            ..Finding::note(
                format!("{told}: commits that notify fail when it is full, hosts' too"),
                "end the session that listens inside an open transaction (pg_stat_activity)",
            )
        },
    }]
}

fn autovacuum(server: &Server) -> Vec<Finding> {
    let mut findings: Vec<Finding> = ["autovacuum", "track_counts"]
        .into_iter()
        .filter(|name| !server.is_on(name))
        .map(|name| {
            Finding::problem(
                format!("{name} is off: dead rows stay, and claims get slower with each"),
                format!("set {name} = on"),
            )
        })
        .collect();
    let off = server.flawed("no autovacuum");
    if !off.is_empty() {
        findings.push(Finding::problem(
            format!("{} not vacuumed by themselves", are(&off)),
            "in psql: alter table chimeway.TABLE reset (autovacuum_enabled)",
        ));
    }
    or_ok(findings, "on, for every table of ours")
}

fn jit(server: &Server) -> Vec<Finding> {
    let cost: f64 = server.setting("jit_above_cost").parse().unwrap_or(-1.0);
    vec![if server.is_on("jit") && (0.0..JIT_COST).contains(&cost) {
        Finding::note(
            format!(
                "jit compiles whatever costs {cost} or more: hosts' triggers may take long by it, workers turn it off"
            ),
            "leave jit_above_cost at 100000, or set jit = off",
        )
    } else {
        Finding::ok("workers turn it off; hosts' calls are too short for it")
    }]
}

fn indexes(server: &Server) -> Vec<Finding> {
    let invalid = server.flawed("invalid index").into_iter();
    let findings = invalid.map(|index| {
        Finding::problem(
            format!("{index} is not valid: no statement uses it, or uniqueness is not held"),
            format!("reindex index concurrently {index}"),
        )
    });
    or_ok(findings.collect(), "all are valid")
}

fn triggers(server: &Server) -> Vec<Finding> {
    let off = server.flawed("no trigger");
    if off.is_empty() {
        return vec![Finding::ok("all are enabled")];
    }
    vec![Finding::problem(
        format!("{} disabled", are(&off)),
        "in psql: alter table chimeway.TABLE enable trigger all",
    )]
}

/// Above the first a note, above the second a problem.
fn level(value: f64, (note, problem): (f64, f64)) -> Level {
    if value > problem {
        Level::Problem
    } else if value > note {
        Level::Note
    } else {
        Level::Ok
    }
}

pub(super) fn count_of(number: i64, noun: &str) -> String {
    usize::try_from(number).map_or_else(|_| number.to_string(), |number| count(number, noun))
}

fn one_or_more(number: i64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

/// `a is`, `a, b are`.
fn are(names: &[&str]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", names.join(", "))
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
