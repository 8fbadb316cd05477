//! The way to the server, and who we are there.

use super::{
    facts::Server,
    finding::{Check, Finding},
    server::count_of,
};
use crate::output::duration;

pub(super) const CHECKS: [Check<Server>; 9] = [
    Check {
        name: "tls",
        judge: tls,
    },
    Check {
        name: "pooler",
        judge: pooler,
    },
    Check {
        name: "version",
        judge: version,
    },
    Check {
        name: "writable_server",
        judge: writable_server,
    },
    Check {
        name: "encoding",
        judge: encoding,
    },
    Check {
        name: "clock",
        judge: clock,
    },
    Check {
        name: "role",
        judge: role,
    },
    Check {
        name: "privileges",
        judge: privileges,
    },
    Check {
        name: "connections",
        judge: connections,
    },
];

/// PostgreSQL 15.
const OLDEST_VERSION: i32 = 150_000;
/// From here on clocks differ by more than a question takes.
const DRIFT_SECONDS: f64 = 1.0;

fn tls(server: &Server) -> Vec<Finding> {
    vec![if server.is_local {
        Finding::ok("not needed: the server is on this machine")
    } else if !server.row.tls {
        Finding::problem(
            "the connection is not encrypted: what is stored and the password cross the network",
            "add ?sslmode=verify-full to the database URL",
        )
    } else if !server.verified {
        Finding::note(
            "the connection is encrypted, and whoever answers is believed",
            "say sslmode=verify-full (with sslrootcert=FILE for an authority of your own)",
        )
    } else {
        Finding::ok("encrypted, and the server's certificate is checked")
    }]
}

fn pooler(server: &Server) -> Vec<Finding> {
    vec![if server.pooled {
        Finding::problem(
            "a pooler in transaction mode is between, and the settings do not say so",
            "set `pooled = true` and `direct_url`, or give a direct URL, or one of a pool in session mode",
        )
    } else {
        Finding::ok("a session keeps its process of the server")
    }]
}

fn version(server: &Server) -> Vec<Finding> {
    let version = &server.row.version;
    vec![if server.row.version_number < OLDEST_VERSION {
        Finding::problem(
            format!("PostgreSQL {version} is older than 15"),
            "upgrade the server",
        )
    } else {
        Finding::ok(format!("PostgreSQL {version}"))
    }]
}

fn writable_server(server: &Server) -> Vec<Finding> {
    vec![if server.row.in_recovery {
        Finding::problem(
            "the server is a replica or recovers: nothing can be written",
            "name the primary in the database URL",
        )
    } else if server.is_on("default_transaction_read_only") {
        Finding::problem(
            "transactions are read-only unless they say otherwise",
            "set default_transaction_read_only = off for this role and database",
        )
    } else {
        Finding::ok("a primary")
    }]
}

fn encoding(server: &Server) -> Vec<Finding> {
    let encoding = server.setting("server_encoding");
    vec![if encoding == "UTF8" {
        Finding::ok(encoding)
    } else {
        Finding::problem(
            format!("the database is encoded in {encoding}: names and texts of people are refused"),
            "create a database with encoding UTF8",
        )
    }]
}

fn clock(server: &Server) -> Vec<Finding> {
    let ahead = server.ahead_seconds;
    vec![if ahead.abs() < DRIFT_SECONDS {
        Finding::ok("this machine and the database agree to a second")
    } else {
        let side = if ahead > 0.0 { "ahead of" } else { "behind" };
        Finding::note(
            format!(
                "this machine is {} {side} the database: harmless, the database's clock decides",
                duration(ahead.abs())
            ),
            "let NTP run on both, so that log lines can be compared",
        )
    }]
}

fn role(server: &Server) -> Vec<Finding> {
    let role = &server.row.role;
    vec![if server.row.superuser {
        Finding::note(
            format!("{role} is a superuser: whoever gets its password owns the server"),
            "give workers a role of their own that may do what they must and no more",
        )
    } else {
        Finding::ok(format!("{role}, which is no superuser"))
    }]
}

fn privileges(server: &Server) -> Vec<Finding> {
    let lacking: Vec<String> = server
        .lacking
        .iter()
        .map(|row| format!("{} on {}", row.flaw, row.object))
        .collect();
    if lacking.is_empty() {
        return vec![Finding::ok("all that a worker needs")];
    }
    vec![Finding::problem(
        format!("{} lacks {}", server.row.role, lacking.join(", ")),
        "grant it, as the owner of the schema",
    )]
}

fn connections(server: &Server) -> Vec<Finding> {
    let (row, needed) = (&server.row, server.connections_of_a_worker);
    // Ours are those of workers that run already; this very one goes away.
    let others = (row.sessions - row.sessions_of_ours - 1).max(0);
    let room = i64::from(row.sessions_allowed) - others;
    let told = format!(
        "{} sessions are allowed, {others} are others', and a worker opens up to {needed}",
        row.sessions_allowed
    );
    let mend = "raise max_connections (and limits of the role and the database), lower pool_size, or run fewer workers";
    vec![match room / needed.max(1) {
        ..1 => Finding::problem(format!("{told}: there is not room for one"), mend),
        1 => Finding::note(
            format!("{told}: there is room for one, and an update runs the old beside the new"),
            mend,
        ),
        workers => Finding::ok(format!("{told}: room for {}", count_of(workers, "worker"))),
    }]
}
