use chimeway::store::doctor::{FlawRow, HolderRow, ServerRow};

use super::{
    super::{
        finding::Level::{Note, Ok, Problem},
        way,
    },
    *,
};

/// A server that is as it should be.
fn sound() -> Server {
    let settings = [
        ("autovacuum", "on"),
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_read_only", "off"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("idle_in_transaction_session_timeout", "300000"),
        ("jit", "on"),
        ("jit_above_cost", "100000"),
        ("server_encoding", "UTF8"),
        ("statement_timeout", "0"),
        ("synchronous_commit", "on"),
        ("track_counts", "on"),
    ];
    Server {
        place: "15.8 at db.example.com:5432".into(),
        is_local: false,
        verified: true,
        pooled: false,
        row: ServerRow {
            version_number: 150_008,
            version: "15.8".into(),
            in_recovery: false,
            tls: true,
            now: chrono::DateTime::UNIX_EPOCH,
            role: "workers".into(),
            superuser: false,
            sessions_allowed: 97,
            sessions: 12,
            sessions_of_ours: 10,
            idle_in_transaction: 0,
            idle_in_transaction_seconds: None,
        },
        settings: settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        held: Held::default(),
        holders: vec![],
        flaws: vec![],
        lacking: vec![],
        ahead_seconds: 0.02,
        connections_of_a_worker: 21,
    }
}

/// A server with one thing that is not.
fn with(change: impl FnOnce(&mut Server)) -> Server {
    let mut server = sound();
    change(&mut server);
    server
}

fn setting(name: &'static str, value: &'static str) -> impl FnOnce(&mut Server) {
    move |server| {
        server.settings.insert(name.into(), value.into());
    }
}

fn flaw(flaw: &'static str) -> impl FnOnce(&mut Server) {
    let object = "deliveries".into();
    move |server| {
        server.flaws.push(FlawRow {
            flaw: flaw.into(),
            object,
        });
    }
}

fn holder(
    kind: &'static str,
    seconds: Option<f64>,
    bytes: Option<i64>,
) -> impl FnOnce(&mut Server) {
    move |server| {
        server.holders.push(HolderRow {
            kind: kind.into(),
            name: "left".into(),
            seconds,
            bytes,
            xmin_age: None,
            active: false,
        });
    }
}

/// What every check finds that is not ok.
fn found(server: &Server) -> Vec<(&'static str, Level)> {
    let found = way::CHECKS.iter().chain(&CHECKS).flat_map(|check| {
        let findings = (check.judge)(server);
        assert!(!findings.is_empty(), "{} finds nothing", check.name);
        findings.into_iter().map(|finding| {
            let mends = finding.mend.is_some();
            assert_eq!(mends, finding.level != Ok, "{}: {finding:?}", check.name);
            (check.name, finding.level)
        })
    });
    found.filter(|(_, level)| *level != Ok).collect()
}

#[test]
fn a_sound_server_is_all_ok() {
    assert_eq!(found(&sound()), []);
}

/// Makes one thing wrong.
type Fault = Box<dyn FnOnce(&mut Server)>;

#[test]
fn each_fault_is_found_by_its_check_alone() {
    let faults: [(&str, Level, Fault); 36] = [
        ("tls", Problem, Box::new(|it| it.row.tls = false)),
        ("tls", Note, Box::new(|it| it.verified = false)),
        ("pooler", Problem, Box::new(|it| it.pooled = true)),
        (
            "version",
            Problem,
            Box::new(|it| it.row.version_number = 140_011),
        ),
        (
            "writable_server",
            Problem,
            Box::new(|it| it.row.in_recovery = true),
        ),
        (
            "writable_server",
            Problem,
            Box::new(setting("default_transaction_read_only", "on")),
        ),
        (
            "encoding",
            Problem,
            Box::new(setting("server_encoding", "SQL_ASCII")),
        ),
        ("clock", Note, Box::new(|it| it.ahead_seconds = 300.0)),
        ("clock", Note, Box::new(|it| it.ahead_seconds = -300.0)),
        ("role", Note, Box::new(|it| it.row.superuser = true)),
        (
            "privileges",
            Problem,
            Box::new(|it| {
                it.lacking.push(FlawRow {
                    flaw: "insert".into(),
                    object: "deliveries".into(),
                });
            }),
        ),
        (
            "connections",
            Problem,
            Box::new(|it| it.row.sessions_allowed = 20),
        ),
        (
            "connections",
            Note,
            Box::new(|it| it.row.sessions_allowed = 30),
        ),
        ("durability", Problem, Box::new(setting("fsync", "off"))),
        (
            "durability",
            Problem,
            Box::new(setting("full_page_writes", "off")),
        ),
        (
            "durability",
            Problem,
            Box::new(setting("synchronous_commit", "off")),
        ),
        ("durability", Problem, Box::new(flaw("unlogged"))),
        (
            "isolation",
            Problem,
            Box::new(setting("default_transaction_isolation", "serializable")),
        ),
        (
            "timeouts",
            Note,
            Box::new(setting("statement_timeout", "500")),
        ),
        (
            "idle_in_transaction",
            Note,
            Box::new(setting("idle_in_transaction_session_timeout", "0")),
        ),
        (
            "idle_in_transaction",
            Note,
            Box::new(|it| it.row.idle_in_transaction_seconds = Some(70.0)),
        ),
        (
            "idle_in_transaction",
            Problem,
            Box::new(|it| it.row.idle_in_transaction_seconds = Some(700.0)),
        ),
        (
            "old_snapshot",
            Note,
            Box::new(|it| it.held.oldest_transaction_seconds = 400.0),
        ),
        (
            "old_snapshot",
            Problem,
            Box::new(|it| it.held.oldest_transaction_seconds = 4000.0),
        ),
        (
            "old_snapshot",
            Problem,
            Box::new(|it| it.held.xmin_age = 6_000_000),
        ),
        (
            "prepared_transactions",
            Note,
            Box::new(holder("prepared transaction", Some(10.0), None)),
        ),
        (
            "prepared_transactions",
            Problem,
            Box::new(holder("prepared transaction", Some(1000.0), None)),
        ),
        (
            "replication_slots",
            Note,
            Box::new(holder("replication slot", None, Some(0))),
        ),
        (
            "replication_slots",
            Problem,
            Box::new(holder("replication slot", None, Some(2 * GIB))),
        ),
        (
            "notification_queue",
            Note,
            Box::new(|it| it.held.notification_queue = 0.2),
        ),
        (
            "notification_queue",
            Problem,
            Box::new(|it| it.held.notification_queue = 0.6),
        ),
        (
            "autovacuum",
            Problem,
            Box::new(setting("track_counts", "off")),
        ),
        ("autovacuum", Problem, Box::new(flaw("no autovacuum"))),
        ("jit", Note, Box::new(setting("jit_above_cost", "10"))),
        ("indexes", Problem, Box::new(flaw("invalid index"))),
        ("triggers", Problem, Box::new(flaw("no trigger"))),
    ];
    for (check, level, fault) in faults {
        assert_eq!(found(&with(fault)), [(check, level)]);
    }
}

#[test]
fn a_server_of_this_machine_needs_no_tls() {
    let here = |it: &mut Server| (it.is_local, it.row.tls) = (true, false);
    assert_eq!(found(&with(here)), []);
}

#[test]
fn a_slot_that_is_read_may_keep_its_log() {
    let read = |it: &mut Server| {
        holder("replication slot", None, Some(2 * GIB))(it);
        it.holders[0].active = true;
    };
    assert_eq!(found(&with(read)), []);
}
