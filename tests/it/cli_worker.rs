//! The real programs at work: `chimeway worker` and `chimeway demo`.

use std::{
    collections::BTreeMap,
    net::TcpStream,
    time::{Duration, Instant},
};

use chimeway_cluster::{Cluster, Durability, Mode};
use chimeway_testkit::TestDb;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    host::{Host, apply_short},
    programs::{chimeway, masked, psql, words},
    running::Running,
    support::eventually,
};

const TRIGGER: &str = "trigger mention_escalation --tenant org_456 --recipient user_123 \
                       --address email=ada@example.com --params {\"document_id\":\"doc_789\"}";
const TRACK: &str = "track notification_read --tenant org_456 --actor user_123";

async fn state_is(url: &str, state: &str) {
    eventually(state, async || {
        let states = psql(url, &[], "select state from chimeway.workflow_runs")
            .expect(0)
            .out;
        (states == format!("{state}\n")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_does_the_journey_and_its_log_is_json() {
    let host = Host::begin().await;
    let url = host.db.url();
    let worker = Running::worker(&url, "--channel email=log --log-format json --log debug");
    worker.prints("chimeway_delivery=20").await;
    chimeway(&url, &words(TRIGGER)).expect(0);
    state_is(&url, "waiting").await;
    chimeway(&url, &words(TRACK)).expect(0);
    state_is(&url, "stopped").await;
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
    for line in &lines {
        let entry: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "target"] {
            assert!(entry[field].is_string(), "{field}: {line}");
        }
        for secret in ["ada@example.com", "doc_789"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
    let inbox = "inbox unread --tenant org_456 --recipient user_123";
    assert_eq!(chimeway(&url, &words(inbox)).expect(0).out, "1\n");
}

/// The log adapter notes a message without its content.
#[tokio::test]
async fn an_email_by_the_log_adapter_is_a_line_with_ids_only() {
    let db = TestDb::create().await;
    let url = db.url();
    apply_short(&url);
    let worker = Running::worker(&url, "--channel email=log");
    chimeway(&url, &words(TRIGGER)).expect(0);
    state_is(&url, "completed").await;
    let line = worker.prints("mention_email").await;
    assert!(
        !line.contains("ada@example.com") && !line.contains("doc_789"),
        "{line}"
    );
    let (status, _) = worker.told(Signal::SIGINT).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn heavy_a_worker_starts_while_postgres_is_away_and_works_when_it_comes() {
    let mut cluster = Cluster::builder()
        .durability(Durability::OffForTests)
        .database("app")
        .start()
        .unwrap();
    let url = cluster.url("app");
    let journey = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../journeys/mention_escalation.yaml"
    );
    chimeway(&url, &["migrate"]).expect(0);
    chimeway(&url, &["workflows", "apply", journey]).expect(0);
    chimeway(&url, &words(TRIGGER)).expect(0);
    cluster.stop_server(Mode::Fast).unwrap();

    let url_with_password = url.replace("postgres@", "postgres:hunter2@");
    let worker = Running::worker(&url_with_password, "--channel email=log --log debug");
    worker
        .prints("waiting for the database: cannot reach PostgreSQL")
        .await;
    // It goes on waiting, and can be told to end: a second one is.
    let other = Running::worker(&url, "");
    other.prints("waiting for the database").await;
    let (status, _) = other.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");

    cluster.start_server().unwrap();
    state_is(&url, "waiting").await;
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
    assert!(!lines.concat().contains("hunter2"), "{lines:?}");
    cluster.stop(Mode::Immediate).unwrap();
}

/// Its result cannot be written down: the first signal waits for that, the second one does not. The lease does the rest.
#[tokio::test]
async fn the_first_signal_drains_and_the_second_one_ends_at_once() {
    let host = Host::begin().await;
    let url = host.db.url();
    let mut holder = host.db.connect().await;
    let lock = "begin; lock table chimeway.delivery_attempts in exclusive mode";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let worker = Running::worker(&url, "--channel email=log --log debug");
    chimeway(&url, &words(TRIGGER)).expect(0);
    eventually("a result waits to be written down", async || {
        let waits = "select count(*) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'";
        (psql(&url, &[], waits).expect(0).out == "1\n").then_some(())
    })
    .await;
    worker.tell(Signal::SIGTERM);
    worker.prints("SIGTERM: coming to an end").await;
    let told = Instant::now();
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert_eq!(status.code(), Some(1), "{lines:?}");
    assert!(told.elapsed() < Duration::from_secs(5), "{lines:?}");
    sqlx::raw_sql("rollback")
        .execute(&mut holder)
        .await
        .unwrap();
}

/// As its help and the README promise it, and never on what `DATABASE_URL` names.
#[tokio::test]
async fn heavy_demo_shows_both_ends_of_the_journey() {
    let db = TestDb::create().await;
    psql(&db.url(), &[], "drop schema chimeway cascade").expect(0);
    let began = Instant::now();
    let demo = chimeway(&db.url(), &["demo"]).expect(0);
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    let made = psql(
        &db.url(),
        &[],
        "select count(*) from pg_namespace where nspname = 'chimeway'",
    );
    assert_eq!(made.expect(0).out, "0\n");
    assert_eq!(demo.err, "");

    let told = told_by_person(&demo.out);
    let of = |person: &str| masked(&told[person].join("\n"));
    insta::assert_snapshot!(of("ada"), @r"
    the journey begins
    next: in_app message
    the mention is in the in-app inbox
    sleeps until TIME, or until notification_read
    opens the inbox and reads the mention: notification_read
    the run hears notification_read
    the journey stops: no email is needed
    ");
    insta::assert_snapshot!(of("grace"), @r"
    the journey begins
    next: in_app message
    the mention is in the in-app inbox
    sleeps until TIME, or until notification_read
    the time is over and nobody looked
    next: email message
    email message taken by the smtp adapter, try 1
    the journey is complete
    ");
    assert!(!told.contains_key("mary"), "{}", demo.out);
    insta::assert_snapshot!(of("mail"), @r"
    From: demo@example.com
    To: grace@example.com
    Subject: You were mentioned in Q3 plan

    Hello grace,

    someone mentioned you in Q3 plan.

    You get this by email because you have not looked at it in the app yet.
    ");
    insta::assert_snapshot!(masked(section(&demo.out, "Why each run")), @r"
    ada
    run       <id>
    workflow  mention_escalation v1
    tenant    demo
    state     stopped (stop_condition:notification_read) in step_wait_for_read
    delivery  in_app: succeeded, 1 attempt, <id>
    next      Nothing: the run was stopped (stop_condition:notification_read).
    grace
    run       <id>
    workflow  mention_escalation v1
    tenant    demo
    state     completed in step_email_escalation
    delivery  in_app: succeeded, 1 attempt, <id>
    delivery  email: succeeded, 1 attempt, <id>
    next      Nothing: the run is completed.
    ");
    insta::assert_snapshot!(section(&demo.out, "What was promised"), @r"
    ok  ada read the mention: her run stopped, and no email exists
    ok  grace did not: her run is complete, and one email arrived, for her
    ok  mary's transaction was rolled back: there is no row and no event of hers
    ok  the worker drained and exited with code 0
    ");

    let port = demo.out.split("on 127.0.0.1:").nth(1).unwrap();
    let port: u16 = port.lines().next().unwrap().parse().unwrap();
    assert!(
        TcpStream::connect(("127.0.0.1", port)).is_err(),
        "its PostgreSQL still runs"
    );
}

#[tokio::test]
async fn heavy_demo_plays_in_the_database_it_is_given() {
    let db = TestDb::create().await;
    let url = db.url();
    let elsewhere = "postgres://localhost:1/none";
    chimeway(elsewhere, &["demo", "--database-url", &url]).expect(0);
    let runs = chimeway(&url, &words("runs --tenant demo --json"))
        .expect(0)
        .json();
    let ends: Vec<&str> = runs
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["terminal_reason"].as_str().unwrap())
        .collect();
    assert_eq!(ends, ["completed", "stop_condition:notification_read"]);
    assert_eq!(
        psql(&url, &[], "select count(*) from demo_mentions")
            .expect(0)
            .out,
        "2\n"
    );
}

#[tokio::test]
async fn heavy_demo_that_is_interrupted_fails_and_leaves_no_server() {
    let demo = Running::start("postgres://localhost:1/none", "demo");
    let line = demo.prints("started a private PostgreSQL on").await;
    let port: u16 = line.rsplit(':').next().unwrap().parse().unwrap();
    demo.prints("What happens, as it happens").await;
    let (status, lines) = demo.told(Signal::SIGINT).await;
    assert_eq!(status.code(), Some(1), "{lines:?}");
    assert!(
        lines
            .last()
            .unwrap()
            .starts_with("error: the demo was interrupted"),
        "{lines:?}"
    );
    assert!(
        TcpStream::connect(("127.0.0.1", port)).is_err(),
        "its PostgreSQL still runs"
    );
}

/// What the timeline tells of each person, without the seconds.
fn told_by_person(out: &str) -> BTreeMap<&str, Vec<String>> {
    let mut told: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for line in section(out, "What happens").lines() {
        if let Some(("", mail)) = line.trim_start().split_once('|') {
            told.entry("mail").or_default().push(mail.trim().to_owned());
            continue;
        }
        let (_, rest) = line.split_once(" s  ").unwrap();
        let (person, what) = rest.split_once("  ").unwrap();
        let what = match what.split_once("until ") {
            Some((before, after)) => format!("{before}until TIME{}", &after[8..]),
            None => what.to_owned(),
        };
        told.entry(person).or_default().push(what.trim().to_owned());
    }
    told
}

/// The lines under a heading.
fn section<'a>(out: &'a str, heading: &str) -> &'a str {
    let (_, rest) = out.split_once(&format!("\n{heading}")).unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    rest.split("\n\n").next().unwrap()
}
