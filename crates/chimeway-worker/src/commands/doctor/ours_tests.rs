use chimeway::{
    flow::{DueWork, Overview, Reviewed, SetAside, TableRows, Writable},
    store::doctor::SignsRow,
};

use super::{
    super::finding::Level::{Note, Ok, Problem},
    *,
};

/// A database that is well, with a worker.
fn sound() -> Ours {
    Ours {
        sessions: 10,
        signs: SignsRow {
            notify: true,
            clock: None,
            swept_seconds: Some(20.0),
        },
        overview: Overview {
            queues: vec![DueWork {
                queue: "chimeway_delivery",
                kind: "deliveries".into(),
                due: 3,
                oldest_seconds: Some(0.2),
                next_seconds: None,
            }],
            set_aside: SetAside {
                events: 0,
                runs: 0,
                signals: 0,
            },
            expired_leases: 0,
            xmin_age_transactions: 0,
            oldest_transaction_seconds: 0.0,
            notification_queue_ratio: 0.0,
            tables: vec![TableRows {
                table: "deliveries".into(),
                live: 10,
                dead: 20,
            }],
        },
        reviewed: vec![Reviewed {
            workflow: "mention".into(),
            version: 2,
            mistakes: vec![],
            not_sent_here: vec![],
            not_written_here: vec![],
        }],
        extra_channels: vec![],
        allowed: vec![Writable::new("orders").column("status").insertable()],
        writable: ["id", "tenant_id", "status"].map(column).into(),
    }
}

fn column(name: &str) -> WritableRow {
    WritableRow {
        table: "orders".into(),
        column: name.into(),
        table_exists: true,
        column_exists: true,
        may_select: true,
        may_update: true,
        may_insert: true,
    }
}

fn found(change: impl FnOnce(&mut Ours)) -> Vec<(&'static str, Level)> {
    let mut ours = sound();
    change(&mut ours);
    let found = CHECKS.iter().flat_map(|check| {
        let findings = (check.judge)(&ours);
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
fn a_sound_database_is_all_ok() {
    assert_eq!(found(|_| {}), []);
}

/// Makes one thing wrong.
type Fault = Box<dyn FnOnce(&mut Ours)>;

#[test]
fn each_fault_is_found_by_its_check_alone() {
    let email = || vec!["email".to_owned()];
    let faults: [(&str, Level, Fault); 21] = [
        (
            "test_clock",
            Problem,
            Box::new(|it| it.signs.clock = Some(chrono::DateTime::UNIX_EPOCH)),
        ),
        ("notify", Note, Box::new(|it| it.signs.notify = false)),
        (
            "workers",
            Note,
            Box::new(|it| it.signs.swept_seconds = Some(181.0)),
        ),
        (
            "workers",
            Note,
            Box::new(|it| (it.signs.swept_seconds, it.sessions) = (None, 0)),
        ),
        (
            "late",
            Note,
            Box::new(|it| it.overview.queues[0].oldest_seconds = Some(6.0)),
        ),
        (
            "late",
            Problem,
            Box::new(|it| it.overview.queues[0].oldest_seconds = Some(61.0)),
        ),
        (
            "set_aside",
            Problem,
            Box::new(|it| it.overview.set_aside.runs = 1),
        ),
        (
            "expired_leases",
            Note,
            Box::new(|it| it.overview.expired_leases = 2),
        ),
        (
            "dead_rows",
            Note,
            Box::new(|it| it.overview.tables[0].dead = 20_000),
        ),
        (
            "dead_rows",
            Problem,
            Box::new(|it| it.overview.tables[0].dead = 200_000),
        ),
        (
            "workflows",
            Problem,
            Box::new(|it| it.reviewed[0].mistakes.push("no".into())),
        ),
        (
            "sending",
            Problem,
            Box::new(move |it| it.reviewed[0].not_sent_here = email()),
        ),
        (
            "sending",
            Note,
            Box::new(move |it| {
                it.reviewed[0].not_sent_here = email();
                it.extra_channels.push("email".parse().unwrap());
            }),
        ),
        (
            "allow_write",
            Problem,
            Box::new(|it| {
                it.writable
                    .iter_mut()
                    .for_each(|row| row.table_exists = false);
            }),
        ),
        (
            "allow_write",
            Problem,
            Box::new(|it| it.writable[0].column_exists = false),
        ),
        (
            "allow_write",
            Problem,
            Box::new(|it| {
                it.reviewed[0].not_written_here.push("orders.total".into());
            }),
        ),
        (
            "allow_write",
            Note,
            Box::new(|it| it.writable[1].column_exists = false),
        ),
        (
            "allow_write",
            Problem,
            Box::new(|it| it.writable[2].column_exists = false),
        ),
        (
            "allow_write",
            Problem,
            Box::new(|it| it.writable[0].may_select = false),
        ),
        (
            "allow_write",
            Problem,
            Box::new(|it| it.writable[2].may_update = false),
        ),
        (
            "allow_write",
            Problem,
            Box::new(|it| it.writable[2].may_insert = false),
        ),
    ];
    for (check, level, fault) in faults {
        assert_eq!(found(fault), [(check, level)]);
    }
}

#[test]
fn who_is_late_is_told_by_whether_a_worker_is_there() {
    let mut ours = sound();
    ours.overview.queues[0].oldest_seconds = Some(90.0);
    let mend = |ours: &Ours| late(ours)[0].mend.clone().unwrap();
    assert!(mend(&ours).contains("chimeway_delivery=N"));
    ours.sessions = 0;
    assert_eq!(mend(&ours), "start `chimeway worker`");
}
