//! Rolling upgrades: many who migrate at once, migrations beside workers, old and new programs on one schema.

use std::{process::Stdio, time::Duration};

use chimeway::store::schema::{self, MIGRATOR, SchemaState};
use chimeway_testkit::TestDb;
use nix::sys::signal::Signal;
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::{
    audit::audit,
    fleet::{Host, number},
    programs::{chimeway, chimeway_at},
    running::Running,
    support::eventually,
    tools::lines,
};

/// Back to a database without our schema.
async fn empty(db: &TestDb) -> PgConnection {
    let mut conn = db.connect().await;
    conn.execute("drop schema chimeway cascade").await.unwrap();
    conn
}

async fn migrated(db: &TestDb) -> i64 {
    number(
        db.pool(),
        "select count(*) from chimeway._sqlx_migrations where success",
    )
    .await
}

fn known() -> i64 {
    i64::try_from(MIGRATOR.iter().count()).unwrap()
}

/// An additive migration of a release to come: it says who may go on.
async fn of_a_later_release(db: &TestDb, works_from: i64) {
    let mut tx = db.pool().begin().await.unwrap();
    for (statement, bound) in [
        (
            "insert into chimeway.schema_versions (version, works_from, announced_at) values (9000, $1, now())",
            Some(works_from),
        ),
        ("alter table chimeway.workflow_runs add column of_later text", None),
        (
            "insert into chimeway._sqlx_migrations (version, description, success, checksum, execution_time)
             values (9000, 'of a later release', true, '', 0)",
            None,
        ),
    ] {
        let query = sqlx::query(statement);
        let query = match bound {
            Some(value) => query.bind(value),
            None => query,
        };
        query.execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn ten_processes_migrate_at_once_and_one_of_them_is_killed() {
    let db = TestDb::create().await;
    for from in [0, 11] {
        let mut conn = empty(&db).await;
        if from > 0 {
            MIGRATOR.run_to(from, &mut conn).await.unwrap();
        }
        let start = |_| {
            let mut migrate = chimeway_at(&db.url(), &["migrate"]);
            migrate
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut running: Vec<_> = (0..10).map(start).collect();
        // Whoever is at it, or waits for its turn, vanishes.
        eventually("somebody begins", async || {
            let begun: i64 = sqlx::query_scalar(
                "select count(*) from pg_stat_activity
                 where datname = current_database() and application_name = 'chimeway'",
            )
            .fetch_one(&mut conn)
            .await
            .unwrap();
            (begun > 0).then_some(())
        })
        .await;
        let mut killed = running.remove(0);
        killed.kill().unwrap();
        killed.wait().unwrap();
        for one in running {
            let ended = crate::programs::Ran::from(one.wait_with_output().unwrap());
            ended.expect(0);
        }
        assert_eq!(migrated(&db).await, known());
        assert_eq!(
            schema::state(&mut conn).await.unwrap(),
            SchemaState::Current
        );
        let said = "select count(*) from chimeway.schema_versions";
        assert_eq!(number(db.pool(), said).await, known());
    }
}

/// A host that holds a lock does not make all who come after wait behind the migration.
#[tokio::test]
async fn a_migration_that_gets_no_lock_gives_way_and_tries_again() {
    let db = TestDb::create().await;
    let mut conn = empty(&db).await;
    MIGRATOR.run_to(11, &mut conn).await.unwrap();
    let mut host = db.connect().await;
    let mut held = host.begin().await.unwrap();
    // An index is built by 0012, which every writer of the table is in the way of.
    held.execute("lock table chimeway.workflow_runs in row exclusive mode")
        .await
        .unwrap();
    let migrating = Running::start(&db.url(), "migrate");
    migrating.prints("it gives way and tries again").await;
    // Another writer is through within about a second, though the first one is still there.
    let mut other = db.connect().await;
    other
        .execute("set lock_timeout = '3s'; update chimeway.workflow_runs set tries = 0")
        .await
        .unwrap();
    assert!(migrated(&db).await < known());
    held.rollback().await.unwrap();
    let (status, lines) = migrating.ended().await;
    assert!(status.success(), "{lines:?}");
    assert_eq!(migrated(&db).await, known());
}

/// A caller's connection is as it was: no lock is left, whatever happened.
#[tokio::test]
async fn a_failed_migration_leaves_no_lock_behind() {
    let db = TestDb::create().await;
    let mut conn = db.connect().await;
    let later = "insert into chimeway._sqlx_migrations (version, description, success, checksum, execution_time)
                 values (9000, 'of a later release', true, '', 0)";
    conn.execute(later).await.unwrap();
    conn.execute("set lock_timeout = '7s'").await.unwrap();
    assert!(schema::migrate(&mut conn).await.is_err());
    let locks: i64 = sqlx::query_scalar(
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(locks, 0);
    let timeout: String = sqlx::query_scalar("show lock_timeout")
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(timeout, "7s");
}

#[tokio::test]
async fn a_program_goes_on_with_a_newer_schema_that_says_so_and_with_no_other() {
    let db = TestDb::create().await;
    let mut conn = db.connect().await;
    let needed = schema::needed();
    of_a_later_release(&db, needed).await;
    assert_eq!(
        schema::state(&mut conn).await.unwrap(),
        SchemaState::Ahead {
            found: 9000,
            needed
        }
    );
    chimeway(&db.url(), &["queues"]).expect(0);
    chimeway(&db.url(), &["migrate", "--check"]).expect(0);
    let told = chimeway(&db.url(), &["migrate"]).expect(0).out;
    assert!(
        told.contains("at version 9000, which this program"),
        "{told}"
    );
    // Older programs than it is for.
    assert_eq!(
        schema::state_for(&mut conn, needed - 1).await.unwrap(),
        SchemaState::New {
            found: needed,
            needed: needed - 1
        }
    );
    // Only announced: those who cannot work with it stop before it is there.
    let announce = "insert into chimeway.schema_versions (version, works_from, announced_at) values (9001, 9001, now())";
    conn.execute(announce).await.unwrap();
    let refused = chimeway(&db.url(), &["queues"]).expect(1);
    assert!(refused.err.contains("at version 9001"), "{}", refused.err);
    conn.execute("delete from chimeway.schema_versions where version = 9001")
        .await
        .unwrap();
    // What says nothing is not for a program that does not know it.
    conn.execute("delete from chimeway.schema_versions where version = 9000")
        .await
        .unwrap();
    let refused = chimeway(&db.url(), &["worker"]).expect(1);
    assert!(refused.err.contains("at version 9000"), "{}", refused.err);
}

#[tokio::test]
async fn a_running_worker_stops_when_a_schema_comes_that_it_cannot_work_with() {
    let db = TestDb::create().await;
    let host = Host::with_journey(db.pool(), "PT0.01S").await;
    let worker = Running::worker(&db.url(), "--channel email=log");
    host.trigger("ada").await;
    host.until("ada", "completed").await;
    of_a_later_release(&db, schema::needed()).await;
    // It goes on where it may.
    tokio::time::sleep(schema::WATCH_EVERY + Duration::from_secs(1)).await;
    host.trigger("bob").await;
    host.until("bob", "completed").await;
    let breaks = "update chimeway.schema_versions set works_from = 9000 where version = 9000";
    db.pool().execute(breaks).await.unwrap();
    worker
        .prints("error: this database is at version 9000")
        .await;
    let (status, lines) = worker.ended().await;
    assert_eq!(status.code(), Some(1), "{lines:?}");
    // It claimed nothing after that.
    host.trigger("cleo").await;
    audit(db.pool()).await;
}

/// Two workers of two releases share the load while the schema of the newer one comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_old_and_new_workers_share_one_schema() {
    let db = TestDb::create().await;
    let host = Host::with_journey(db.pool(), "PT0.05S").await;
    // The older one knows what the newer one's migrations say that it may.
    let announce = "update chimeway.schema_versions set works_from = 1";
    db.pool().execute(announce).await.unwrap();
    let older = format!(
        "--channel email=log --knows-schema {}",
        schema::needed() - 1
    );
    let older = Running::worker(&db.url(), &older);
    let newer = Running::worker(&db.url(), "--channel email=log");
    host.trigger_range(0..300).await;
    of_a_later_release(&db, 1).await;
    host.trigger_range(300..600).await;
    host.until_ended(600).await;
    let both = lines(
        db.pool(),
        "select count(distinct worker)::text from chimeway.delivery_attempts",
    );
    assert_eq!(both.await, "2");
    audit(db.pool()).await;
    // The old one is stopped, and the new one does its part.
    let (status, _) = older.told(Signal::SIGTERM).await;
    assert!(status.success());
    host.trigger_range(600..700).await;
    host.until_ended(700).await;
    audit(db.pool()).await;
    let (status, _) = newer.told(Signal::SIGTERM).await;
    assert!(status.success());
}

/// From the first release on, what would lock hot tables for long is not in a migration.
mod files {
    use super::*;

    /// The last migration that came before the rules did: none was released.
    const BEFORE_THE_RULES: i64 = 16;

    const HOT: [&str; 7] = [
        "events",
        "notifications",
        "workflow_runs",
        "workflow_transitions",
        "signals",
        "deliveries",
        "delivery_attempts",
    ];

    /// What is wrong with a migration, by migrations/README.md.
    fn mistakes(version: i64, sql: &str) -> Vec<String> {
        let code: String = sql
            .lines()
            .map(|line| line.split("--").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join(" ")
            .to_lowercase();
        let statements = code
            .split(';')
            .map(|one| one.split_whitespace().collect::<Vec<_>>().join(" "));
        let mut wrong = vec![];
        if !sql.lines().any(|line| line.starts_with("-- works-from: ")) {
            wrong.push("does not say who works on (`-- works-from: N`)".to_owned());
        } else if schema::works_from(version, sql) > version {
            wrong.push("works from a version that comes later".to_owned());
        }
        let without_transaction = sql.starts_with("-- no-transaction");
        let statements: Vec<String> = statements.filter(|one| !one.is_empty()).collect();
        if without_transaction && statements.len() > 1 {
            wrong.push("has no transaction, and more than one statement".to_owned());
        }
        for statement in &statements {
            let on_hot = |word: &str| {
                HOT.iter()
                    .any(|table| statement.contains(&format!("{word} chimeway.{table} ")))
            };
            let is = |words: &str| statement.starts_with(words);
            if (is("create index") || is("create unique index"))
                && on_hot("on")
                && !statement.contains("concurrently")
            {
                wrong.push(format!("builds an index while writers wait: {statement}"));
            }
            if statement.contains("index concurrently") && !without_transaction {
                wrong.push(format!(
                    "`concurrently` needs `-- no-transaction` first: {statement}"
                ));
            }
            if !(is("alter table") && on_hot("table")) {
                continue;
            }
            for (rule, broken) in [
                (
                    "checks all rows",
                    statement.contains("add constraint") && !statement.contains("not valid"),
                ),
                (
                    "rewrites the table",
                    statement.contains(" type ")
                        || statement.contains("default chimeway.")
                        || statement.contains("generated always as"),
                ),
                ("checks all rows", statement.contains("set not null")),
            ] {
                if broken {
                    wrong.push(format!("{rule} while everybody waits: {statement}"));
                }
            }
        }
        wrong
    }

    #[test]
    fn no_migration_locks_hot_tables_for_long() {
        for migration in MIGRATOR.iter().filter(|one| one.version > BEFORE_THE_RULES) {
            let wrong = mistakes(migration.version, migration.sql.as_str());
            assert!(wrong.is_empty(), "{}: {wrong:#?}", migration.version);
        }
    }

    #[test]
    fn what_would_is_found() {
        for (sql, expected) in [
            ("-- works-from: 17\ncreate table chimeway.x ();", &[][..]),
            ("create table chimeway.x ();", &["does not say"]),
            (
                "-- works-from: 19\ncreate table chimeway.x ();",
                &["comes later"],
            ),
            (
                "-- works-from: 17\ncreate index i on chimeway.signals (a);",
                &["while writers wait"],
            ),
            (
                "-- works-from: 17\ncreate index i on chimeway.templates (a);",
                &[],
            ),
            (
                "-- works-from: 17\ncreate index concurrently i on chimeway.signals (a);",
                &["needs `-- no-transaction`"],
            ),
            (
                "-- no-transaction\n-- works-from: 17\ncreate index concurrently i on chimeway.signals (a);",
                &[],
            ),
            (
                "-- no-transaction\n-- works-from: 17\ncreate index concurrently i on chimeway.signals (a); select 1;",
                &["more than one statement"],
            ),
            (
                "-- works-from: 17\nalter table chimeway.deliveries add constraint c check (a > 0);",
                &["checks all rows"],
            ),
            (
                "-- works-from: 17\nalter table chimeway.deliveries add constraint c check (a > 0) not valid;",
                &[],
            ),
            (
                "-- works-from: 17\nalter table chimeway.events alter column a type bigint, alter column b set not null;",
                &["rewrites", "checks all rows"],
            ),
            (
                "-- works-from: 17\nalter table chimeway.events add column a text;",
                &[],
            ),
        ] {
            let found = mistakes(18, sql);
            assert_eq!(found.len(), expected.len(), "{sql}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected), "{sql}: {found}");
            }
        }
    }
}
