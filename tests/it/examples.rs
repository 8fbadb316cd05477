//! Every example of `examples/`, at work as its README runs it.

use std::{
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use chimeway_testkit::{TENANT, TestDb};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout},
    time::timeout,
};

use crate::{
    audit::audit,
    fleet::{self, number, texts},
    host::rows,
    process::Desk,
    programs::{Ran, chimeway_path, command, root},
    support::eventually,
};

/// How long an example may take to start, to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was sent over which channel, and how that went.
const DELIVERIES: &str = "select concat_ws(' ', r.actor_id, d.channel, d.status)
    from chimeway.deliveries d join chimeway.workflow_runs r on r.id = d.workflow_run_id
    order by r.actor_id, d.inserted_at, d.id";

/// An example in Rust: it lies beside `chimeway`.
fn example(name: &str, arguments: &[&str]) -> Command {
    let program = chimeway_path().with_file_name(name);
    assert!(
        program.exists(),
        "there is no {}: run `cargo build -p {name}`, or all tests with scripts/test",
        program.display()
    );
    let mut command = command(program);
    command.args(arguments);
    command
}

/// An example that runs until it is told to end; killed when this is dropped.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(command: Command) -> Self {
        let mut command = tokio::process::Command::from(command);
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line that it prints.
    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.expect("it prints a line in time").unwrap();
        line.expect("it goes on")
    }

    /// Tells it to end, as Kubernetes would.
    async fn terminate(&mut self) -> ExitStatus {
        // Not waited for yet, so the id is still this process.
        let id = self.child.id().expect("it runs").cast_signed();
        kill(Pid::from_raw(id), Signal::SIGTERM).unwrap();
        let ended = timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it ends in time").unwrap()
    }
}

async fn until_delivered(pool: &PgPool, deliveries: &[&str]) {
    eventually(&deliveries.join(", "), async || {
        (texts(pool, DELIVERIES).await == deliveries).then_some(())
    })
    .await;
}

/// One request; its status and its body.
async fn request(address: &str, line: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.expect("it answers in time").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test]
async fn axum_host_triggers_in_its_own_transaction_and_serves_the_inbox() {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let worker = desk.worker(&db.url()).start().await;
    let mut host = Running::start(example("example-axum-host", &[&db.url(), "127.0.0.1:0"]));
    let line = host.line().await;
    let address = line.strip_prefix("listening on http://").unwrap();

    // A comment that the host takes back takes its journey along.
    let comment = |document: &str| {
        json!({ "document_id": document, "author": "grace", "body": "what do you think, @ada?" })
            .to_string()
    };
    let (status, _) = request(address, "POST /comments", &comment("gone")).await;
    assert_eq!(status, 404);
    let nothing = "comments 0, events 0, recipients 0, runs 0, deliveries 0, signals 0";
    assert_eq!(rows(pool).await, nothing);

    let (status, added) = request(address, "POST /comments", &comment("doc_789")).await;
    assert_eq!(status, 201, "{added}");
    let added: Value = serde_json::from_str(&added).unwrap();
    let events = texts(pool, "select id::text from chimeway.events").await;
    assert_eq!(added["event"], events[0]);
    until_delivered(pool, &["ada in_app succeeded"]).await;

    let (status, items) = request(address, "GET /inbox/ada", "").await;
    assert_eq!(status, 200, "{items}");
    let items: Value = serde_json::from_str(&items).unwrap();
    assert_eq!(
        items[0]["params"],
        json!({ "document_id": "doc_789", "author": "grace" })
    );
    assert_eq!(
        (&items[0]["content"], &items[0]["read"]),
        (&json!("mention_notification"), &json!(false))
    );

    // It is hers: nobody else can open it.
    let item = items[0]["id"].as_str().unwrap();
    let open = |person: &str| format!("POST /inbox/{person}/{item}/read");
    assert_eq!(request(address, &open("grace"), "").await.0, 404);
    assert_eq!(
        request(address, "POST /inbox/ada/what/read", "").await.0,
        400
    );
    assert_eq!(
        number(pool, "select count(*) from chimeway.signals").await,
        0
    );
    assert_eq!(request(address, &open("ada"), "").await.0, 204);
    let ended = "select terminal_reason from chimeway.workflow_runs where ended_at is not null";
    eventually("her journey ends", async || {
        (texts(pool, ended).await == ["stop_condition:notification_read"]).then_some(())
    })
    .await;
    let (_, items) = request(address, "GET /inbox/ada", "").await;
    let items: Value = serde_json::from_str(&items).unwrap();
    assert_eq!(items[0]["read"], true);

    assert!(host.terminate().await.success());
    worker.stop().await;
    assert_eq!(desk.sends().len(), 1);
    audit(pool).await;
}

#[tokio::test]
async fn custom_channel_writes_its_letters_once() {
    let db = TestDb::create().await;
    let pool = db.pool();
    let mut host = Running::start(example("example-custom-channel", &[&db.url()]));
    assert_eq!(host.line().await, "ready");

    let recipients = json!([
        { "identity": "ada", "addresses": { "letter": "Ada Lovelace, London" } },
        { "identity": "grace", "addresses": { "letter": "somewhere" } },
        { "identity": "mary" },
    ]);
    let triggered = sqlx::query("select chimeway.trigger('reminder', $1, $2, $3)")
        .bind(json!({ "invoice": 17 }))
        .bind(TENANT)
        .bind(recipients)
        .execute(pool)
        .await;
    triggered.unwrap();
    let all_ended = "select count(*) from chimeway.workflow_runs where state = 'completed'";
    eventually("all three are reached", async || {
        (number(pool, all_ended).await == 3).then_some(())
    })
    .await;

    let letters = "select concat_ws(' | ', address, content, params,
        token in (select id::text from chimeway.deliveries where channel = 'letter')) from letters";
    assert_eq!(
        texts(pool, letters).await,
        ["Ada Lovelace\nLondon | reminder_letter | {\"invoice\": 17} | t"]
    );
    let in_app = "select r.actor_id from chimeway.deliveries d
        join chimeway.workflow_runs r on r.id = d.workflow_run_id
        where d.channel = 'in_app' and d.status = 'succeeded' order by 1";
    assert_eq!(texts(pool, in_app).await, ["grace", "mary"]);
    let answers = "select concat_ws(' ', a.adapter, a.outcome, a.error_class, a.response)
        from chimeway.delivery_attempts a join chimeway.deliveries d on d.id = a.delivery_id
        join chimeway.workflow_runs r on r.id = d.workflow_run_id
        where d.channel = 'letter' and r.actor_id in ('ada', 'grace') order by r.actor_id";
    assert_eq!(
        texts(pool, answers).await,
        [
            "print_shop succeeded {\"new\": true}",
            "print_shop failed permanent {\"error\": \"the channel refused the message\"}"
        ]
    );
    let unsent = "select concat_ws(' ', r.actor_id, d.status_reason) from chimeway.deliveries d
        join chimeway.workflow_runs r on r.id = d.workflow_run_id where d.status = 'suppressed'";
    assert_eq!(texts(pool, unsent).await, ["mary no_address"]);
    assert!(host.terminate().await.success());
    audit(pool).await;
}

#[tokio::test]
async fn embedded_fleet_runs_beside_an_apalis_queue_of_the_host() {
    let db = TestDb::create().await;
    let pool = db.pool();
    let run = |arguments: &[&str]| {
        let url = db.url();
        let glue = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{glue}application_name=fleet");
        example(
            "example-embedded-fleet",
            &[&[url.as_str()], arguments].concat(),
        )
    };
    let mut host = Running::start(run(&["run"]));
    assert_eq!(host.line().await, "ready");
    for (owner, name) in [("ada", "sunset"), ("grace", "moth"), ("mary", "garden")] {
        let uploaded = run(&["upload", owner, name]).output().unwrap();
        Ran::from(uploaded).expect(0);
    }
    let everybody = [
        "ada in_app succeeded",
        "grace in_app succeeded",
        "mary in_app succeeded",
    ];
    until_delivered(pool, &everybody).await;
    let thumbnails = "select concat_ws(' ', owner, thumbnail) from pictures order by id";
    assert_eq!(
        texts(pool, thumbnails).await,
        ["ada small sunset", "grace small moth", "mary small garden"]
    );
    let done = "select count(*) from apalis.jobs where status = 'Done'";
    let all_done = async || (number(pool, done).await == 3).then_some(());
    eventually("apalis knows that its jobs are done", all_done).await;

    // A job that apalis runs once more, as it does after a lost acknowledgement, changes nothing.
    let again =
        "update apalis.jobs set status = 'Pending', lock_by = null, lock_at = null, done_at = null";
    sqlx::query(again).execute(pool).await.unwrap();
    eventually("they are done once more", all_done).await;
    assert_eq!(
        number(pool, "select count(*) from chimeway.events").await,
        3
    );
    assert_eq!(texts(pool, DELIVERIES).await, everybody);

    // Both come back by themselves when the database throws them out.
    let thrown_out = "select count(pg_terminate_backend(pid)) from pg_stat_activity
        where application_name = 'fleet' and datname = current_database()";
    assert!(number(pool, thrown_out).await > 1);
    // An error ends an apalis-postgres worker: the host starts another.
    fleet::execute(pool, "alter function apalis.get_jobs rename to away").await;
    eventually("another worker of the host's was started", async || {
        let workers = number(pool, "select count(*) from apalis.workers").await;
        (workers > 1).then_some(())
    })
    .await;
    fleet::execute(pool, "alter function apalis.away rename to get_jobs").await;
    let uploaded = run(&["upload", "zoe", "kite"]).output().unwrap();
    Ran::from(uploaded).expect(0);
    let everybody = [&everybody[..], &["zoe in_app succeeded"]].concat();
    until_delivered(pool, &everybody).await;

    // Both fleets end by one signal, and leave nothing in the middle.
    assert!(host.terminate().await.success());
    assert_eq!(host.line().await, "drained");
    let held = "select count(*) from chimeway.deliveries where status = 'dispatched'";
    assert_eq!(number(pool, held).await, 0);
    audit(pool).await;
}

#[tokio::test]
async fn python_host_needs_sql_alone() {
    let python = root().join(".venv/bin/python");
    let script = root().join("examples/python-host/host.py");
    let there = python.exists();
    assert!(there, "run scripts/setup: it makes .venv with psycopg");
    a_host_over_sql(|arguments| {
        let mut host = command(&python);
        // Output in UTF-8 and no cache beside the script, wherever this runs.
        host.args(["-B", "-X", "utf8"]).arg(&script).args(arguments);
        host
    })
    .await;
}

#[tokio::test]
async fn node_host_needs_sql_alone() {
    let modules = root().canonicalize().unwrap().join(".node/node_modules");
    let there = modules.join("pg").exists();
    assert!(there, "run scripts/setup: it makes .node with pg");
    // As after `npm install` beside the script, which the source tree stays free of.
    let folder = tempfile::TempDir::new().unwrap();
    let copy = |name: &str| -> PathBuf {
        let to = folder.path().join(name);
        std::fs::copy(root().join("examples/node-host").join(name), &to).unwrap();
        to
    };
    copy("package.json");
    let script = copy("host.js");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).unwrap();
    a_host_over_sql(|arguments| {
        let mut host = command("node");
        host.arg(&script).args(arguments);
        host
    })
    .await;
}

/// The story of a host in any language: `host` is told a database and what to do.
async fn a_host_over_sql(host: impl Fn(&[&str]) -> Command) {
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    // `prefer` has no meaning for Node's pg, which would insist on TLS.
    let url = db.url().replace("sslmode=prefer", "sslmode=disable");
    let people = fleet::Host::with_journey(pool, "PT2H").await;
    let worker = desk.worker(&db.url()).start().await;
    let run = |arguments: &[&str]| {
        let mut host = host(&[&[url.as_str()], arguments].concat());
        let ran = host.output();
        Ran::from(ran.unwrap_or_else(|error| panic!("{error}: run scripts/setup")))
    };
    run(&["setup"]).expect(0);

    // What the host takes back, and what Chimeway refuses, leaves nothing.
    let gone = run(&["comment", "gone", "ada"]).expect(1);
    assert_eq!(gone.err, "there is no document gone\n");
    let nobody = run(&["comment", "doc_789", " "]).expect(1);
    assert!(nobody.err.starts_with("CW005: "), "{}", nobody.err);
    let nothing = "comments 0, events 0, recipients 0, runs 0, deliveries 0, signals 0";
    assert_eq!(rows(pool).await, nothing);

    let kept = run(&["comment", "doc_789", "ada"]).expect(0).out;
    let events = texts(pool, "select id::text from chimeway.events").await;
    assert!(
        kept.ends_with(&format!(", event {}\n", events[0])),
        "{kept}"
    );
    people.until("ada", "waiting").await;
    let explained = run(&["explain", "ada"]).expect(0).json();
    assert_eq!(explained.as_array().map(Vec::len), Some(1));
    assert_eq!(explained[0]["state"], "waiting");
    assert_eq!(
        explained[0]["pending_signals"],
        json!(["notification_read"])
    );

    run(&["opened", "doc_789", "ada"]).expect(0);
    people.until("ada", "stopped").await;
    let explained = run(&["explain", "ada"]).expect(0).json();
    assert_eq!(
        explained[0]["terminal_reason"],
        "stop_condition:notification_read"
    );
    let all = "comments 1, events 1, recipients 1, runs 1, deliveries 1, signals 1";
    assert_eq!(rows(pool).await, all);
    worker.stop().await;
    assert_eq!(desk.sends().len(), 1);
    audit(pool).await;
}
