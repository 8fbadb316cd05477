//! The real programs at work: `chimeway worker` and `chimeway demo`.

use std::{
    collections::BTreeMap,
    net::TcpStream,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chimeway_cluster::{Cluster, Durability, Mode};
use chimeway_testkit::TestDb;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

use crate::{
    host::{Host, JOURNEY},
    programs::{chimeway, chimeway_at, masked, psql, words},
    support::eventually,
};

const TRIGGER: &str = "trigger mention_escalation --tenant org_456 --recipient user_123 \
                       --address email=ada@example.com --params {\"document_id\":\"doc_789\"}";
const TRACK: &str = "track notification_read --tenant org_456 --actor user_123";

/// A running `chimeway`; killed when this is dropped, and it ends when the tests do.
struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    _stdin: Option<ChildStdin>,
}

impl Running {
    fn worker(url: &str, arguments: &str) -> Self {
        let line = format!("worker --until-stdin-ends {arguments}");
        Self::start(url, line.trim_end())
    }

    fn start(url: &str, line: &str) -> Self {
        let mut command = Command::from(chimeway_at(url, &words(line)));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = Arc::default();
        keep_lines(child.stdout.take().unwrap(), &lines);
        keep_lines(child.stderr.take().unwrap(), &lines);
        Self {
            _stdin: child.stdin.take(),
            child,
            lines,
        }
    }

    /// What it has printed, on both of its streams.
    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    async fn prints(&self, text: &str) -> String {
        eventually(text, async || {
            self.lines().into_iter().find(|line| line.contains(text))
        })
        .await
    }

    /// Tells it to end; how it did.
    async fn told(mut self, signal: Signal) -> (ExitStatus, Vec<String>) {
        // Not waited for yet, so the id is still this process.
        let id = self.child.id().unwrap().cast_signed();
        kill(Pid::from_raw(id), signal).unwrap();
        let ended = timeout(Duration::from_secs(30), self.child.wait()).await;
        let status = ended.expect("it ends when it is told").unwrap();
        (status, self.lines())
    }
}

fn keep_lines(stream: impl AsyncRead + Unpin + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let (mut stream, lines) = (BufReader::new(stream).lines(), Arc::clone(lines));
    tokio::spawn(async move {
        while let Ok(Some(line)) = stream.next_line().await {
            lines.lock().unwrap().push(line);
        }
    });
}

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
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("short.yaml");
    std::fs::write(&short, JOURNEY.replace("PT2H", "PT0.2S")).unwrap();
    chimeway(&url, &["workflows", "apply", short.to_str().unwrap()]).expect(0);
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
    email message taken by the log adapter, try 1
    the journey is complete
    ");
    assert!(!told.contains_key("mary"), "{}", demo.out);
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
    ok  grace did not: her run is complete, and its email was sent once
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
