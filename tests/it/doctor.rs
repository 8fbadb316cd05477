//! `chimeway doctor`: each fault is made for real, and found; where there is none, nothing is.

use std::fmt::Write as _;

use chimeway::{Chimeway, Document};
use chimeway_cluster::{Cluster, Durability};
use chimeway_testkit::TestDb;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::Executor as _;

use crate::{
    host::JOURNEY,
    programs::{Ran, chimeway, chimeway_at, psql, root, words},
    running::Running,
    support::eventually,
};

/// It writes what no settings allow, and calls somebody.
const PAY: &str = "
key: pay
steps:
  - id: pay
    action:
      type: action
      actions:
        - { type: set_field, entity: orders, record_id: params.id, field: status, value: paid }
        - { type: webhook, url: 'https://shop.example.com/paid' }
";

/// What a doctor found.
struct Report {
    code: i32,
    findings: Vec<Value>,
}

impl Report {
    fn of(ran: &Ran) -> Self {
        let printed = ran.json();
        let findings = printed["findings"].as_array().unwrap().clone();
        let count = |level: &str| findings.iter().filter(|one| one["level"] == level).count();
        assert_eq!(printed["problems"], json!(count("problem")));
        assert_eq!(printed["notes"], json!(count("note")));
        Self {
            code: ran.code,
            findings,
        }
    }

    /// The findings of a check that are not ok, a line each.
    fn told(&self, check: &str) -> String {
        let mut lines = String::new();
        let findings = self.findings.iter().filter(|one| one["check"] == check);
        let findings: Vec<_> = findings.collect();
        assert!(!findings.is_empty(), "there is no finding of {check}");
        for one in findings.iter().filter(|one| one["level"] != "ok") {
            let (level, what) = (
                one["level"].as_str().unwrap(),
                one["what"].as_str().unwrap(),
            );
            assert!(one["mend"].is_string(), "{one}");
            writeln!(lines, "{level}: {what}").unwrap();
        }
        lines
    }

    fn has(&self, check: &str) -> bool {
        self.findings.iter().any(|one| one["check"] == check)
    }

    #[track_caller]
    fn finds(&self, check: &str, level: &str, part: &str) {
        let told = self.told(check);
        let found = told
            .lines()
            .any(|line| line.starts_with(level) && line.contains(part));
        assert!(found, "{check} has no {level} with {part:?}: {told}");
    }
}

fn doctor(url: &str) -> Report {
    doctor_with(url, &[], &[])
}

fn doctor_with(url: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Report {
    let mut command = chimeway_at(url, &[&["doctor", "--json"], arguments].concat());
    command.envs(variables.iter().copied());
    Report::of(&command.output().unwrap().into())
}

fn run(url: &str, script: &str) {
    psql(url, &[], script).expect(0);
}

#[tokio::test]
async fn heavy_a_database_that_is_well_is_all_ok() {
    let cluster = Cluster::builder()
        .database("app")
        .setting("idle_in_transaction_session_timeout", "5min")
        .start()
        .unwrap();
    let owner = cluster.url("app");
    chimeway(&owner, &["migrate"]).expect(0);
    run(
        &owner,
        "create role worker login;
         create table orders (id int primary key, tenant_id text, status text);
         grant select (id, tenant_id), update (status) on orders to worker;
         grant usage on schema chimeway to worker;
         grant execute on all functions in schema chimeway to worker;
         grant select, insert, update, delete on all tables in schema chimeway to worker;",
    );
    let url = owner.replace("postgres@", "worker@");
    let settings = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let text = "[channels.email]\nadapter = \"log\"\n[[writable]]\nentity = \"orders\"\ncolumns = [\"status\"]\n";
    std::fs::write(settings.path(), text).unwrap();
    let config = settings.path().to_str().unwrap();
    let journey = root().join("journeys/mention_escalation.yaml");
    let apply = ["workflows", "apply", journey.to_str().unwrap()];
    chimeway(&url, &[&apply[..], &["--config", config]].concat()).expect(0);

    let worker = Running::worker(&url, &format!("--config {config}"));
    worker.prints("runs").await;
    // As if a minute had passed: a worker does the duties of every minute, and says when.
    run(
        &owner,
        "insert into chimeway.cron_ticks values ('sweep', date_trunc('minute', now()), now()) on conflict do nothing",
    );
    let report = eventually("the worker is seen", async || {
        let report = doctor_with(&url, &["--config", config], &[]);
        report.told("workers").is_empty().then_some(report)
    })
    .await;
    let findings: Vec<_> = report
        .findings
        .iter()
        .filter(|one| one["level"] != "ok")
        .collect();
    assert!(findings.is_empty(), "{findings:#?}");
    assert_eq!(report.code, 0);

    let people = chimeway(&url, &["doctor", "--config", config]).expect(0);
    assert!(people.out.starts_with("LEVEL  CHECK "), "{}", people.out);
    assert!(
        people.out.contains("\n0 problems, 0 notes, "),
        "{}",
        people.out
    );
    let (status, _) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");

    // The role may do less, one by one.
    run(
        &owner,
        "revoke insert on chimeway.deliveries from worker; revoke select on chimeway.templates from worker;
         revoke update (status) on orders from worker;
         revoke execute on function chimeway.wake from worker;",
    );
    let report = doctor_with(&url, &["--config", config], &[]);
    assert_eq!(report.code, 1);
    report.finds(
        "privileges",
        "problem",
        "worker lacks execute on wake(), insert on deliveries, select on templates",
    );
    run(&owner, "grant select on chimeway.templates to worker");
    let report = doctor_with(&url, &["--config", config], &[]);
    report.finds("allow_write", "problem", "orders.status cannot be changed");
    run(&owner, "revoke usage on schema chimeway from worker");
    let report = doctor_with(&url, &["--config", config], &[]);
    report.finds("privileges", "problem", "worker lacks usage on the schema");
}

#[tokio::test]
async fn heavy_what_is_wrong_with_a_server_is_found() {
    let mut settings = Cluster::builder()
        .durability(Durability::OffForTests)
        .database("app");
    for (name, value) in [
        ("autovacuum", "off"),
        ("track_counts", "off"),
        ("default_transaction_isolation", "serializable"),
        ("jit_above_cost", "10"),
        ("max_connections", "16"),
        ("max_prepared_transactions", "2"),
        ("statement_timeout", "4900ms"),
        ("wal_level", "logical"),
    ] {
        settings = settings.setting(name, value);
    }
    let cluster = settings.start().unwrap();
    let url = cluster.url("app");
    chimeway(&url, &["migrate"]).expect(0);
    run(
        &url,
        "alter table chimeway.templates set unlogged;
         alter table chimeway.signals set (autovacuum_enabled = off);
         alter table chimeway.workflow_steps disable trigger workflow_steps_immutable;
         create table t (a int); insert into t values (1), (1);
         select pg_create_physical_replication_slot('left_behind', true) \\g /dev/null
         begin; insert into t values (2); prepare transaction 'forgotten';",
    );
    // It fails, and leaves the index behind.
    run(
        &url,
        "insert into chimeway.templates (render_key, template_hash, text_body, applied_at)
        values ('a', 'one', '', now()), ('a', 'two', '', now())",
    );
    let unique = "create unique index concurrently only_once on chimeway.templates (render_key)";
    psql(&url, &[], unique).expect(3);

    let report = doctor(&url);
    assert_eq!(report.code, 1);
    for (check, level, part) in [
        ("role", "note", "postgres is a superuser"),
        ("connections", "note", "there is room for one"),
        ("durability", "problem", "fsync is off"),
        ("durability", "problem", "full_page_writes is off"),
        ("durability", "problem", "synchronous_commit is off"),
        ("durability", "problem", "templates is unlogged"),
        ("isolation", "problem", "serializable"),
        ("timeouts", "note", "4900 ms"),
        (
            "idle_in_transaction",
            "note",
            "idle_in_transaction_session_timeout is 0",
        ),
        ("prepared_transactions", "note", "`forgotten`"),
        (
            "replication_slots",
            "note",
            "`left_behind` is read by nobody",
        ),
        ("autovacuum", "problem", "autovacuum is off"),
        ("autovacuum", "problem", "track_counts is off"),
        ("autovacuum", "problem", "signals is not vacuumed"),
        ("jit", "note", "10 or more"),
        ("indexes", "problem", "chimeway.only_once"),
        (
            "triggers",
            "problem",
            "workflow_steps_immutable of workflow_steps is disabled",
        ),
    ] {
        report.finds(check, level, part);
    }
    // What is well is not blamed.
    for check in [
        "tls",
        "pooler",
        "version",
        "writable_server",
        "encoding",
        "clock",
        "old_snapshot",
    ] {
        assert_eq!(report.told(check), "", "{check}");
    }

    run(
        &url,
        "alter database app set default_transaction_read_only = on;
         create database ascii encoding 'SQL_ASCII' template template0;",
    );
    let report = doctor(&url);
    report.finds("writable_server", "problem", "read-only");
    let report = doctor(&cluster.url("ascii"));
    report.finds("encoding", "problem", "SQL_ASCII");
    report.finds("schema", "problem", "no Chimeway schema");
    assert!(!report.has("late"), "nothing of ours can be told");

    // From another database: in this one nothing can be written any more.
    run(
        &cluster.url("postgres"),
        "alter database app connection limit 3",
    );
    doctor(&url).finds("connections", "problem", "3 sessions are allowed");
}

#[tokio::test]
async fn what_is_wrong_with_what_is_stored_is_found() {
    let db = TestDb::create().await;
    let url = db.url();
    let apply = async |text: &str| {
        let document = Document::from_yaml("a.yaml", text).unwrap();
        let known = Chimeway::builder().extra_channel("sms").unwrap().build();
        known.apply(db.pool(), &document).await.unwrap();
    };
    apply(JOURNEY).await;
    apply("key: text\nsteps: [{id: a, action: {type: notify, channel: sms, render_key: hello}}]")
        .await;
    let report = doctor(&url);
    report.finds(
        "workflows",
        "problem",
        "text v1 /steps/0/action/channel: unknown channel `sms`",
    );
    report.finds(
        "sending",
        "problem",
        "mention_escalation sends over `email`",
    );
    report.finds("workers", "note", "no sign of a worker");
    for check in [
        "test_clock",
        "notify",
        "late",
        "set_aside",
        "expired_leases",
        "dead_rows",
        "allow_write",
        "schema",
    ] {
        assert_eq!(report.told(check), "", "{check}");
    }

    // Other workers have them; and what is paused needs nothing.
    let elsewhere = doctor_with(&url, &[], &[("CHIMEWAY_EXTRA_CHANNELS", "sms,email")]);
    assert_eq!(elsewhere.told("workflows"), "");
    elsewhere.finds("sending", "note", "text sends over `sms`");
    chimeway(&url, &["workflows", "pause", "text"]).expect(0);
    assert_eq!(doctor(&url).told("workflows"), "");

    // Mail needs templates where there is an adapter that makes them.
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let smtp = "[channels.email]\nadapter = \"smtp\"\nhost = \"localhost\"\nfrom = \"a@b.example\"\npassword = \"env:SMTP_PASSWORD\"\nusername = \"u\"\n";
    std::fs::write(file.path(), smtp).unwrap();
    let config = ["--config", file.path().to_str().unwrap()];
    let report = doctor_with(&url, &config, &[]);
    report.finds(
        "channels",
        "problem",
        "`password` is `env:SMTP_PASSWORD`, which is not set",
    );
    report.finds("workflows", "problem", "template");
    assert_eq!(report.told("sending"), "");
    assert_eq!(
        doctor_with(&url, &config, &[("SMTP_PASSWORD", "p")]).told("channels"),
        ""
    );

    apply(PAY).await;
    let report = doctor(&url);
    report.finds("allow_write", "problem", "pay writes orders.status");
    report.finds("sending", "problem", "pay sends over `webhook`");

    let writes = [("CHIMEWAY_ALLOW_WRITE", "orders.status")];
    doctor_with(&url, &[], &writes).finds("allow_write", "problem", "no table orders");
    run(&url, "create table orders (id int primary key, state text)");
    let report = doctor_with(&url, &[], &writes);
    report.finds("allow_write", "problem", "there is no orders.status");
    report.finds("allow_write", "note", "there is no orders.tenant_id");

    let http = [
        ("CHIMEWAY_HTTP", "0.0.0.0:9464"),
        ("CHIMEWAY_LEASE_SECONDS", "4"),
    ];
    let report = doctor_with(&url, &[], &http);
    report.finds("http", "note", "0.0.0.0:9464");
    report.finds("lease", "note", "4 s");
}

#[tokio::test]
async fn late_work_is_found_and_whoever_is_missing_is_named() {
    let db = TestDb::create().await;
    let url = db.url();
    let journey = Document::from_yaml("a.yaml", JOURNEY).unwrap();
    Chimeway::builder()
        .build()
        .apply(db.pool(), &journey)
        .await
        .unwrap();
    run(
        &url,
        "select chimeway.trigger('mention_escalation', '{}', 'org_456', '[{\"identity\": \"ada\"}]') \\g /dev/null
         update chimeway.events set expand_at = now() - interval '5 minutes';
         insert into chimeway.signals (id, tenant_id, actor_id, event_name, occurred_at, quarantine_reason)
         values (gen_random_uuid(), 'org_456', 'ada', 'read', now(), 'P0001');
         insert into chimeway.deliveries (id, workflow_run_id, workflow_step_id, inserted_at, updated_at, next_attempt_at,
             visit, tenant_id, channel, status, lease_owner, lease_until)
         values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now(), now(), now() - interval '20 s',
             1, 'org_456', 'log', 'dispatched', 'gone', now() - interval '1 s');
         update chimeway.settings set notify = false;",
    );
    let report = doctor(&url);
    assert_eq!(report.code, 1);
    report.finds(
        "late",
        "problem",
        "1 events of chimeway_workflows are due and not claimed",
    );
    report.finds("set_aside", "problem", "1 signals were set aside");
    report.finds("expired_leases", "note", "1 have ended");
    report.finds("notify", "note", "no NOTIFY");
    let late = report
        .findings
        .iter()
        .find(|one| one["check"] == "late")
        .unwrap();
    assert_eq!(late["mend"], "start `chimeway worker`");

    run(
        &url,
        "update chimeway.settings set clock = '2026-03-02T09:00:00Z'",
    );
    doctor(&url).finds("test_clock", "problem", "2026-03-02");
}

#[tokio::test]
async fn a_long_transaction_is_found() {
    let db = TestDb::create().await;
    let mut session = db.connect().await;
    session.execute("begin").await.unwrap();
    // Its age cannot be made up; that it is read is seen by what is told.
    let report = doctor(&db.url());
    let held = report
        .findings
        .iter()
        .find(|one| one["check"] == "old_snapshot")
        .unwrap();
    assert!(
        held["what"]
            .as_str()
            .unwrap()
            .starts_with("the oldest transaction has been open for "),
        "{held}"
    );
}

#[tokio::test]
async fn what_cannot_be_reached_or_is_another_version_is_told_with_the_rest() {
    let db = TestDb::create().await;
    let url = db.url();
    // Nobody listens on the first port.
    let report = doctor("postgres://postgres@127.0.0.1:1/app?sslmode=disable");
    assert_eq!(report.code, 1);
    report.finds("reachable", "problem", "connection refused");
    assert!(report.has("channels") && !report.has("durability"));
    let mut unnamed = chimeway_at("", &["doctor", "--json"]);
    unnamed.env_remove("DATABASE_URL");
    let unnamed = Report::of(&unnamed.output().unwrap().into());
    unnamed.finds("reachable", "problem", "no database is named");

    for (change, part) in [
        ("insert into chimeway._sqlx_migrations (version, description, success, checksum, execution_time)
          values (9999, '', true, '', 0)", "upgrade chimeway"),
        ("delete from chimeway._sqlx_migrations where version in (9999, (select max(version)
          from chimeway._sqlx_migrations where version < 9999))", "chimeway migrate"),
        ("drop schema chimeway cascade", "chimeway migrate"),
    ] {
        run(&url, change);
        let report = doctor(&url);
        let schema = report.findings.iter().find(|one| one["check"] == "schema").unwrap();
        assert_eq!(schema["level"], "problem", "{schema}");
        assert!(schema["mend"].as_str().unwrap().contains(part), "{schema}");
        assert!(!report.has("late"), "{change}");
    }
}

#[tokio::test]
async fn what_is_known_and_accepted_is_a_note() {
    let db = TestDb::create().await;
    // The server of tests does not flush, and there is no worker.
    let url = db.url();
    let arguments = words("doctor --json --accept durability --accept connections");
    let accepted = Report::of(&chimeway(&url, &arguments).expect(0));
    accepted.finds("durability", "note", "fsync is off");
    let ran = chimeway(&url, &["doctor", "--accept", "connections"]).expect(1);
    assert!(ran.err.contains("problem"), "{}", ran.err);
    assert!(
        ran.err.ends_with("each line says how to mend it\n"),
        "{}",
        ran.err
    );
    let misspelled = chimeway(&url, &["doctor", "--accept", "durable"]).expect(2);
    assert!(misspelled.err.contains("durability"), "{}", misspelled.err);
}
