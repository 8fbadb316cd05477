//! What the program `chimeway` refuses: one line that says what to do, the right exit code, and
//! nothing half-written.

use std::{fmt::Write as _, fs};

use chimeway_testkit::TestDb;
use sqlx::postgres::PgConnectOptions;

use crate::{
    host::{Host, JOURNEY},
    programs::{Ran, chimeway, chimeway_path, command, masked, psql, words},
};

const NOBODYS: &str = "0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10";

/// Every command that needs a database; `DOCUMENTS` is a folder.
const COMMANDS: [&str; 17] = [
    "worker",
    "workflows apply DOCUMENTS",
    "workflows list",
    "workflows show mention_escalation",
    "workflows pause mention_escalation",
    "workflows resume mention_escalation",
    "trigger mention_escalation --tenant org_456 --recipient user_123",
    "track notification_read --tenant org_456 --actor user_123",
    "runs",
    "explain 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456",
    "traces 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456",
    "inbox list --tenant org_456 --recipient user_123",
    "inbox unread --tenant org_456 --recipient user_123",
    "inbox read --tenant org_456 --recipient user_123 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10",
    "inbox seen --tenant org_456 --recipient user_123 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10",
    "inbox archive --tenant org_456 --recipient user_123 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10",
    "migrate --check",
];

#[tokio::test]
async fn a_refusal_is_one_line_that_says_what_to_do_and_writes_nothing() {
    let host = Host::begin().await;
    let url = host.db.url();
    let trigger = "trigger mention_escalation --tenant org_456 --recipient user_123";
    chimeway(&url, &words(&format!("{trigger} --idempotency-key taken"))).expect(0);
    let other = documents(&[(
        "other.yaml",
        JOURNEY.replace("mention_escalation\n", "other\n"),
    )]);
    chimeway(
        &url,
        &["workflows", "apply", other.path().to_str().unwrap()],
    )
    .expect(0);
    chimeway(&url, &words("workflows pause other")).expect(0);
    let before = host.rows().await;
    let run = chimeway(&url, &words("runs --json")).expect(0).json();
    let run = run[0]["id"].as_str().unwrap();
    let item = psql(&url, &[], "select id from chimeway.notifications")
        .expect(0)
        .out;
    let item = item.trim();

    let mut told = String::new();
    for line in [
        "trigger no_such --tenant org_456 --recipient user_123".to_owned(),
        "trigger mention_escaltion --tenant org_456 --recipient user_123".to_owned(),
        "trigger other --tenant org_456 --recipient user_123".to_owned(),
        format!("{trigger} --idempotency-key \t"),
        "trigger other --tenant org_456 --recipient user_123 --idempotency-key taken".to_owned(),
        format!("{trigger} --recipient user_456 --address email=ada@example.com"),
        format!("{trigger} --params {{\"name\":\"\\u0000\"}}"),
        format!("explain {NOBODYS} --tenant org_456"),
        format!("explain {run} --tenant org_789"),
        format!("traces {run} --tenant org_789"),
        "workflows show no_such".to_owned(),
        "workflows show mention-escalation".to_owned(),
        "workflows pause othr".to_owned(),
        "workflows resume Other".to_owned(),
        "workflows show other --version 7".to_owned(),
        "workflows pause no_such".to_owned(),
        "workflows resume no_such".to_owned(),
        "workflows validate no_such.yaml".to_owned(),
        "workflows apply no_such".to_owned(),
        format!("inbox read --tenant org_456 --recipient user_123 {item} {NOBODYS}"),
        format!("inbox seen --tenant org_789 --recipient user_123 {item}"),
        format!("inbox archive --tenant org_456 --recipient user_456 {item}"),
        "runs --log a=b=c".to_owned(),
        "runs --config no_such.toml".to_owned(),
        "worker --queue default=90000".to_owned(),
    ] {
        let ran = chimeway(&url, &words(&line));
        assert_eq!(ran.out, "", "{line}");
        writeln!(told, "{line} -> {}: {}", ran.code, ran.err.trim_end()).unwrap();
    }
    assert_eq!(host.rows().await, before);
    let marks = "select (seen_at, read_at, archived_at) is null from chimeway.notifications";
    assert_eq!(psql(&url, &[], marks).expect(0).out, "t\n");
    insta::assert_snapshot!(masked(&told), @r#"
    trigger no_such --tenant org_456 --recipient user_123 -> 3: error: there is no workflow `no_such`; apply its document with `chimeway workflows apply`
    trigger mention_escaltion --tenant org_456 --recipient user_123 -> 3: error: there is no workflow `mention_escaltion`; did you mean `mention_escalation`?
    trigger other --tenant org_456 --recipient user_123 -> 1: error: the workflow `other` is paused; resume it with `chimeway workflows resume other`
    trigger mention_escalation --tenant org_456 --recipient user_123 --idempotency-key 	 -> 1: error: the idempotency key is blank or longer than 255 bytes; leave it out, or give what makes this trigger unique
    trigger other --tenant org_456 --recipient user_123 --idempotency-key taken -> 1: error: the idempotency key was used for the workflow `mention_escalation`; use another key for another workflow
    trigger mention_escalation --tenant org_456 --recipient user_123 --recipient user_456 --address email=ada@example.com -> 2: error: --address belongs to one recipient, and several are given; trigger them one by one
    trigger mention_escalation --tenant org_456 --recipient user_123 --params {"name":"\u0000"} -> 1: error: params holds a NUL character, which PostgreSQL cannot keep; take it out
    explain <id> --tenant org_456 -> 3: error: tenant `org_456` has no run <id>; `chimeway runs --tenant org_456` shows what there is
    explain <id> --tenant org_789 -> 3: error: tenant `org_789` has no run <id>; `chimeway runs --tenant org_789` shows what there is
    traces <id> --tenant org_789 -> 3: error: tenant `org_789` has no run <id>; `chimeway runs --tenant org_789` shows what there is
    workflows show no_such -> 3: error: there is no workflow `no_such`; `chimeway workflows list` shows what there is
    workflows show mention-escalation -> 3: error: there is no workflow `mention-escalation`; did you mean `mention_escalation`?
    workflows pause othr -> 3: error: there is no workflow `othr`; did you mean `other`?
    workflows resume Other -> 3: error: there is no workflow `Other`; did you mean `other`?
    workflows show other --version 7 -> 3: error: `other` has no version 7; its latest is 1
    workflows pause no_such -> 3: error: there is no workflow `no_such`; `chimeway workflows list` shows what there is
    workflows resume no_such -> 3: error: there is no workflow `no_such`; `chimeway workflows list` shows what there is
    workflows validate no_such.yaml -> 1: error: cannot read no_such.yaml: No such file or directory (os error 2)
    workflows apply no_such -> 1: error: cannot read no_such: No such file or directory (os error 2)
    inbox read --tenant org_456 --recipient user_123 <id> <id> -> 3: error: `user_123` has no item <id>, nothing was changed; `chimeway inbox list` shows what there is
    inbox seen --tenant org_789 --recipient user_123 <id> -> 3: error: `user_123` has no item <id>, nothing was changed; `chimeway inbox list` shows what there is
    inbox archive --tenant org_456 --recipient user_456 <id> -> 3: error: `user_456` has no item <id>, nothing was changed; `chimeway inbox list` shows what there is
    runs --log a=b=c -> 1: error: the log filter `a=b=c` cannot be read: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5; write one such as `info` or `chimeway=debug,sqlx=warn`
    runs --config no_such.toml -> 1: error: cannot read the settings in no_such.toml; check --config or CHIMEWAY_CONFIG: No such file or directory (os error 2)
    worker --queue default=90000 -> 2: error: invalid value 'default=90000' for '--queue <NAME=N>': a limit of 90000 is too high; at most 10000

    For more information, try '--help'.
    "#);
}

#[test]
fn what_makes_no_sense_is_refused_before_a_database_is_looked_for() {
    let mut told = String::new();
    for line in [
        "no_such",
        "trigger|k|--tenant| |--recipient|user_123",
        "trigger|k|--tenant|org_456|--recipient|",
        r#"trigger|k|--tenant|org_456|--recipient|a|--params|{"a": }"#,
        "trigger|k|--tenant|org_456|--recipient|a|--params|[]",
        "trigger|k|--tenant|org_456|--recipient|a|--address|email",
        "track||--tenant|org_456|--actor|a",
        "track|read|--tenant|org_456|--actor|a|--payload|read",
        "explain|17|--tenant|org_456",
        "runs|--state|asleep",
        "runs|--limit|0",
        "worker|--queue|mail=1",
        "worker|--channel|email=pigeon",
        "workflows|show|k|--version|0",
    ] {
        let arguments: Vec<&str> = line.split('|').collect();
        let ran = chimeway("postgres://localhost:1/none", &arguments);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}: {}", ran.err);
        writeln!(told, "{}", ran.err.lines().next().unwrap()).unwrap();
    }
    insta::assert_snapshot!(told, @r#"
    error: unrecognized subcommand 'no_such'
    error: invalid value ' ' for '--tenant <TENANT>': the tenant is blank
    error: invalid value '' for '--recipient <ID>': the actor is blank
    error: invalid value '{"a": }' for '--params <JSON>': it is not JSON: expected value at line 1 column 7
    error: invalid value '[]' for '--params <JSON>': it is not a JSON object such as {"document_id": "doc_789"}
    error: invalid value 'email' for '--address <CHANNEL=VALUE>': `email` is not CHANNEL=VALUE, such as email=ada@example.com
    error: invalid value '' for '<EVENT>': the signal name is blank
    error: invalid value 'read' for '--payload <JSON>': it is not JSON: expected value at line 1 column 1
    error: invalid value '17' for '<RUN>': invalid length: found 2
    error: invalid value 'asleep' for '--state <STATE>'
    error: invalid value '0' for '--limit <N>': it is a whole number from 1 to 10000
    error: invalid value 'mail=1' for '--queue <NAME=N>': there is no queue `mail`; the queues are default, chimeway_delivery, chimeway_signals, chimeway_workflows
    error: invalid value 'email=pigeon' for '--channel <NAME=ADAPTER>': there is no adapter `pigeon`; the one without settings is: log
    error: invalid value '0' for '--version <N>': 0 is not in 1..=2147483647
    "#);
}

#[tokio::test]
async fn one_bad_document_among_good_ones_stores_nothing() {
    let db = TestDb::create().await;
    let url = db.url();
    let folder = documents(&[
        ("a_good.yaml", JOURNEY.to_owned()),
        ("b_duration.yaml", JOURNEY.replace("PT2H", "two hours").replace("mention_escalation\n", "b\n")),
        ("c_channel.yaml", JOURNEY.replace("channel: in_app", "channel: in_ap").replace("mention_escalation\n", "c\n")),
        ("d_months.yaml", JOURNEY.replace("PT2H", "P1M").replace("mention_escalation\n", "d\n")),
        ("e_broken.yaml", "key: e\n  steps: [".to_owned()),
        ("f_good.json", r#"{"key": "f", "steps": [{"id": "a", "action": {"type": "notify", "channel": "log"}}]}"#.to_owned()),
    ]);
    let path = folder.path().to_str().unwrap();
    let refused = |arguments: &[&str]| {
        let ran = chimeway(&url, arguments).expect(1);
        (ran.out.replace(path, "FOLDER"), ran.err)
    };
    let (mistakes, line) = refused(&["workflows", "apply", path]);
    insta::assert_snapshot!(format!("{mistakes}{line}"), @r"
    FOLDER/b_duration.yaml:/steps/1/action/duration: the duration `two hours` is not an ISO 8601 duration; write it like `PT2H`, `P3D` or `72h`
    FOLDER/c_channel.yaml:/steps/0/action/channel: unknown channel `in_ap`; did you mean `in_app`?
    FOLDER/d_months.yaml:/steps/1/action/duration: the duration `P1M` counts years or months, which differ in length; count days or weeks: `P30D`, `P52W`
    FOLDER/e_broken.yaml: line 2, column 8: mapping values are not allowed in this context
    error: 4 mistakes in 4 documents, so nothing can be stored; correct them and run it again
    ");
    assert_eq!(refused(&["workflows", "validate", path]), (mistakes, line));
    let (json, _) = refused(&["workflows", "apply", path, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let valid: Vec<bool> = json
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["valid"].as_bool().unwrap())
        .collect();
    assert_eq!(valid, [true, false, false, false, false, true]);
    insta::assert_snapshot!(serde_json::to_string_pretty(&json[2]).unwrap(), @r#"
    {
      "path": "FOLDER/c_channel.yaml",
      "workflow": null,
      "valid": false,
      "mistakes": [
        {
          "pointer": "/steps/0/action/channel",
          "code": "unknown_channel",
          "message": "unknown channel `in_ap`",
          "hint": "did you mean `in_app`?"
        }
      ]
    }
    "#);
    assert_eq!(
        chimeway(&url, &words("workflows list")).expect(0).out,
        "no workflows\n"
    );

    // A version that is stored already is seen before any other document is stored.
    let first = documents(&[("a.yaml", format!("version: 1\n{JOURNEY}"))]);
    chimeway(
        &url,
        &["workflows", "apply", first.path().to_str().unwrap()],
    )
    .expect(0);
    let both = documents(&[
        (
            "a_good.yaml",
            JOURNEY.replace("mention_escalation\n", "b\n"),
        ),
        (
            "b_other_steps.yaml",
            format!("version: 1\n{}", JOURNEY.replace("PT2H", "PT3H")),
        ),
    ]);
    let path = both.path().to_str().unwrap();
    let ran = chimeway(&url, &["workflows", "apply", path]).expect(1);
    insta::assert_snapshot!(ran.err.replace(path, "FOLDER"), @r"error: FOLDER/b_other_steps.yaml: workflow_definition_version_conflict: `mention_escalation` version 1 is stored with other steps; give it a new version, or leave the version out");
    let listed = chimeway(&url, &words("workflows list --json"))
        .expect(0)
        .json();
    assert_eq!(
        (listed.as_array().unwrap().len(), &listed[0]["version"]),
        (1, &1.into())
    );
}

#[tokio::test]
async fn no_command_works_on_a_schema_that_is_not_its_own() {
    let db = TestDb::create().await;
    let url = db.url();
    let needed = chimeway::store::schema::needed();
    for (change, told) in [
        (
            "insert into chimeway._sqlx_migrations (version, description, success, checksum, execution_time)
             values (9000, 'of a later release', true, '', 0)",
            format!("error: this database is at version 9000, this program knows {needed}; upgrade chimeway\n"),
        ),
        (
            "delete from chimeway._sqlx_migrations where version > 2",
            format!("error: this database is at version 2, this program needs {needed}; run `chimeway migrate`\n"),
        ),
        (
            "drop schema chimeway cascade",
            "error: the database has no Chimeway schema; run `chimeway migrate`\n".to_owned(),
        ),
    ] {
        psql(&url, &[], change).expect(0);
        for (line, ran) in run_all(&url) {
            assert_eq!((ran.code, ran.out.as_str(), &ran.err), (1, "", &told), "{line}");
        }
    }
    // What is too new is left alone by `migrate` too.
    chimeway(&url, &["migrate"]).expect(0);
    psql(&url, &[], "insert into chimeway._sqlx_migrations (version, description, success, checksum, execution_time)
        values (9000, 'of a later release', true, '', 0)").expect(0);
    let ran = chimeway(&url, &["migrate"]).expect(1);
    assert!(ran.err.contains("upgrade chimeway"), "{}", ran.err);
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_one_line_and_no_password() {
    let db = TestDb::create().await;
    let server: PgConnectOptions = db.url().parse().unwrap();
    let (host, port) = (server.get_host(), server.get_port());
    // Bound and not listening: nobody else has this port, and whoever connects is refused.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = socket.local_addr().unwrap().port();
    let mut told = String::new();
    for url in [
        format!("postgres://ada:hunter2@127.0.0.1:{nobody}/app"),
        format!("postgres://postgres:hunter2@{host}:{port}/no_such_database"),
        format!("postgres://no_such_role:hunter2@{host}:{port}/postgres"),
        "mysql://ada:hunter2@localhost/app".to_owned(),
        "postgres://ada:hunter2@localhost:port/app".to_owned(),
    ] {
        for (line, ran) in run_all(&url) {
            assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{line}: {}", ran.err);
            assert_eq!(ran.err.lines().count(), 1, "{line}: {}", ran.err);
            let text = ran
                .err
                .replace(&nobody.to_string(), "PORT")
                .replace(&format!("{host}:{port}"), "SERVER");
            if !told.contains(&text) {
                told.push_str(&text);
            }
        }
    }
    assert!(!told.contains("hunter2"), "{told}");
    let mut unnamed = command(chimeway_path());
    let ran = Ran::from(unnamed.arg("runs").output().unwrap()).expect(1);
    told.push_str(&ran.err);
    insta::assert_snapshot!(told, @r#"
    error: cannot reach PostgreSQL at 127.0.0.1:PORT: connection refused; start it or pass --database-url
    error: PostgreSQL at SERVER refused the connection: database "no_such_database" does not exist; check the database URL
    error: PostgreSQL at SERVER refused the connection: role "no_such_role" does not exist; check the database URL
    error: the database URL cannot be used: it is not a PostgreSQL URL; write postgres://USER:PASSWORD@HOST:PORT/DATABASE
    error: the database URL cannot be used: invalid port number; write postgres://USER:PASSWORD@HOST:PORT/DATABASE
    error: no database is named; pass --database-url or set DATABASE_URL
    "#);
}

#[tokio::test]
async fn a_password_is_never_printed() {
    let host = Host::begin().await;
    let url = host.db.url().replacen("postgres@", "postgres:hunter2@", 1);
    assert!(url.contains("hunter2"), "{url}");
    let trigger = "trigger mention_escalation --tenant org_456 --recipient user_123";
    for line in [
        trigger,
        "runs --json",
        "workflows list",
        "migrate",
        "workflows pause mention_escalation",
        trigger,
    ] {
        for place in ["", "--database-url"] {
            let mut arguments = words(line);
            arguments.extend(["--log", "trace"]);
            let nowhere = "postgres://localhost:1/none";
            let ran = match place {
                "" => chimeway(&url, &arguments),
                flag => chimeway(nowhere, &[&arguments[..], &[flag, &url]].concat()),
            };
            assert!(!ran.err.is_empty(), "{line} has no log");
            assert!(
                !ran.out.contains("hunter2") && !ran.err.contains("hunter2"),
                "{line}: {}",
                ran.err
            );
        }
    }
}

/// `DATABASE_URL` may name a database that matters: a test that is told of no server of its own fails
/// rather than look there.
#[tokio::test]
async fn tests_never_touch_what_database_url_names() {
    let db = TestDb::create().await;
    psql(&db.url(), &[], "drop schema chimeway cascade").expect(0);
    let mut tests = command(std::env::current_exe().unwrap());
    tests
        .args([
            "--exact",
            "cli_refusals::no_command_works_on_a_schema_that_is_not_its_own",
        ])
        .env("DATABASE_URL", db.url())
        .env("CHIMEWAY_DATABASE_URL", db.url());
    let ran = Ran::from(tests.output().unwrap());
    assert_ne!(ran.code, 0);
    let told = ran.out + &ran.err;
    assert!(
        told.contains("TEST_DATABASE_URL is not set; run the tests with scripts/test"),
        "{told}"
    );
    let made = "select count(*) from pg_namespace where nspname = 'chimeway'";
    assert_eq!(psql(&db.url(), &[], made).expect(0).out, "0\n");
}

fn run_all(url: &str) -> Vec<(&'static str, Ran)> {
    let folder = documents(&[("a.yaml", JOURNEY.to_owned())]);
    let folder = folder.path().to_str().unwrap();
    let run = |line: &'static str| {
        // A worker waits for a server that is away: `cli_worker.rs` tells how.
        if line == "worker" && url.contains("hunter2") {
            return None;
        }
        let arguments: Vec<&str> = line
            .split(' ')
            .map(|it| if it == "DOCUMENTS" { folder } else { it })
            .collect();
        Some((line, chimeway(url, &arguments)))
    };
    COMMANDS.into_iter().filter_map(run).collect()
}

fn documents(files: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// What is named by mistake may have no end.
#[test]
fn a_file_without_an_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let templates = folder.path().join("templates");
    fs::create_dir(&templates).unwrap();
    fs::write(templates.join("r.txt"), vec![b'x'; 2 * 1024 * 1024]).unwrap();
    fs::write(folder.path().join("k.yaml"), JOURNEY).unwrap();
    let folder = folder.path().to_str().unwrap();
    for (line, said) in [
        (
            "workflows validate /dev/zero",
            "cannot read /dev/zero: it is larger than 1 MiB",
        ),
        (
            "--config /dev/zero config",
            "cannot read the settings in /dev/zero",
        ),
        (
            &format!("workflows validate {folder}"),
            "it is larger than 1 MiB",
        ),
    ] {
        let mut program = command(chimeway_path());
        let ran = Ran::from(program.args(words(line)).output().unwrap()).expect(1);
        assert!(
            format!("{}{}", ran.out, ran.err).contains(said),
            "{line}: {}{}",
            ran.out,
            ran.err
        );
    }
}
