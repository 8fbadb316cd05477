//! The program `chimeway`: what each command prints, for people and for programs.

use std::fs;

use chimeway_testkit::TestDb;
use serde_json::{Value, json};

use crate::{
    host::{Host, JOURNEY},
    programs::{chimeway, chimeway_at, masked, psql, words},
};

#[tokio::test]
async fn migrate_brings_a_database_up_once() {
    let db = unmigrated().await;
    let url = db.url();
    chimeway(&url, &["migrate", "--check"]).expect(1);
    let version = chimeway::store::schema::needed();
    for (arguments, told) in [
        (
            &["migrate"][..],
            format!("migrated to version {version}; the schema `chimeway` is new\n"),
        ),
        (&["migrate"], format!("current, at version {version}\n")),
        (
            &["migrate", "--check"],
            format!("current, at version {version}\n"),
        ),
    ] {
        assert_eq!(chimeway(&url, arguments).expect(0).out, told);
    }
    assert_eq!(
        chimeway(&url, &["migrate", "--json"]).expect(0).json(),
        json!({ "version": version, "changed": false })
    );
    // The host's schema is the host's.
    let others = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    assert_eq!(psql(&url, &[], others).expect(0).out, "0\n");
}

#[tokio::test]
async fn six_processes_migrate_at_once() {
    let db = unmigrated().await;
    let url = db.url();
    let start = |_| {
        let mut command = chimeway_at(&url, &["migrate", "--json"]);
        command.stdout(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let processes: Vec<_> = (0..6).map(start).collect();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    chimeway(&url, &["migrate", "--check"]).expect(0);
    let applied = psql(
        &url,
        &[],
        "select count(*), bool_and(success) from chimeway._sqlx_migrations",
    );
    let known = chimeway::store::schema::MIGRATOR.iter().count();
    assert_eq!(applied.expect(0).out, format!("{known}|t\n"));
}

#[tokio::test]
async fn workflows_are_checked_stored_shown_paused_and_resumed() {
    let db = TestDb::create().await;
    let url = db.url();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let journey = file("a.yaml", JOURNEY);
    let other = json!({ "key": "other", "steps": [
        { "id": "tell", "action": { "type": "notify", "channel": "log" } },
    ] });
    file("b.json", &other.to_string());
    let all = folder.path().to_str().unwrap();
    let shown = |arguments: &[&str]| {
        let printed = chimeway(&url, arguments).expect(0);
        assert_eq!(printed.err, "");
        masked(&printed.out.replace(all, "FOLDER"))
    };

    // Without a database too.
    let nowhere = "postgres://localhost:1/none";
    let checked = chimeway(nowhere, &["workflows", "validate", all]).expect(0);
    insta::assert_snapshot!(checked.out, @r"2 documents: no mistakes");
    insta::assert_snapshot!(shown(&["workflows", "list"]), @r"no workflows");
    insta::assert_snapshot!(shown(&["workflows", "apply", all]), @r"
    mention_escalation v1 applied
    other v1 applied
    ");
    file("a.yaml", &JOURNEY.replace("PT2H", "PT3H"));
    insta::assert_snapshot!(shown(&["workflows", "apply", all]), @r"
    mention_escalation v2 applied
    other v1 unchanged
    ");
    insta::assert_snapshot!(shown(&["workflows", "apply", &journey, "--json"]), @r#"
    [
      {
        "path": "FOLDER/a.yaml",
        "workflow": "mention_escalation",
        "version": 2,
        "status": "unchanged",
        "templates": []
      }
    ]
    "#);
    insta::assert_snapshot!(shown(&["workflows", "list"]), @r"
    WORKFLOW            LATEST  STATE   STEPS  APPLIED
    mention_escalation  v2      active  3      <time>
    other               v1      active  1      <time>
    ");
    insta::assert_snapshot!(shown(&["workflows", "show", "mention_escalation"]), @r"
    mention_escalation v2  active  applied <time>

    #  STEP                   KIND    WHAT                                            THEN
    1  step_in_app            notify  channel=in_app render_key=mention_notification
    2  step_wait_for_read     wait    duration=PT3H stops_on=notification_read
    3  step_email_escalation  notify  channel=email render_key=mention_email
    ");
    let old = shown(&["workflows", "show", "mention_escalation", "--version", "1"]);
    assert!(old.contains("v1") && old.contains("duration=PT2H"), "{old}");

    insta::assert_snapshot!(shown(&["workflows", "pause", "other"]), @r"other paused");
    let trigger = words("trigger other --tenant org_456 --recipient user_123");
    chimeway(&url, &trigger).expect(1);
    insta::assert_snapshot!(shown(&["workflows", "list", "--json"]), @r#"
    [
      {
        "key": "mention_escalation",
        "version": 2,
        "active": true,
        "retired_at": null,
        "steps": 3,
        "applied_at": "<time>"
      },
      {
        "key": "other",
        "version": 1,
        "active": false,
        "retired_at": null,
        "steps": 1,
        "applied_at": "<time>"
      }
    ]
    "#);
    insta::assert_snapshot!(shown(&["workflows", "resume", "other", "--json"]), @r#"
    {
      "key": "other",
      "active": true
    }
    "#);
    chimeway(&url, &trigger).expect(0);

    let show = shown(&["workflows", "show", "other", "--json"]);
    let mut show: Value = serde_json::from_str(&show).unwrap();
    let hash = show["content_hash"].take();
    assert_eq!(hash.as_str().unwrap().len(), 64);
    insta::assert_snapshot!(show, @r#"{"key":"other","version":1,"latest":1,"active":true,"applied_at":"<time>","content_hash":null,"document":{"key":"other","steps":[{"id":"tell","action":{"type":"notify","channel":"log"}}]}}"#);
}

#[tokio::test]
async fn a_journey_is_followed_from_the_command_line() {
    let host = Host::begin().await;
    let url = host.db.url();
    let shown = |arguments: &[&str]| {
        let printed = chimeway(&url, arguments).expect(0);
        assert_eq!(printed.err, "");
        masked(&printed.out)
    };
    let document = r#"{"document_id": "doc_789"}"#;
    let mut trigger = words("trigger mention_escalation --tenant org_456 --recipient user_123");
    trigger.extend(words(
        "--address email=ada@example.com --idempotency-key mention_17",
    ));
    trigger.extend(["--params", document]);
    insta::assert_snapshot!(shown(&trigger), @r"
    event <id>
    run   <id>  user_123
    ");
    // A repeated key is done, not refused.
    insta::assert_snapshot!(shown(&trigger), @r"
    event <id>  (this idempotency key was used before: nothing was started)
    run   <id>  user_123
    ");
    let again = chimeway(&url, &[&trigger[..], &["--json"]].concat())
        .expect(0)
        .json();
    assert_eq!(again["status"], "already");
    let run = again["runs"][0]["id"].as_str().unwrap();
    let event = again["event_id"].as_str().unwrap();
    let tenant = ["--tenant", "org_456"];

    insta::assert_snapshot!(shown(&["runs", "--event", event]), @r"
    RUN                                   TENANT   WORKFLOW               RECIPIENT  STATE   STEP         WHY               STARTED
    <id>  org_456  mention_escalation v1  user_123   active  step_in_app  workflow_started  <time>
    ");
    host.settle().await;
    insta::assert_snapshot!(shown(&[&["explain", run], &tenant[..]].concat()), @r"
    run       <id>
    workflow  mention_escalation v1
    tenant    org_456
    state     waiting (waiting_for_step_progression) in step_wait_for_read, until <time> or notification_read
    delivery  in_app: succeeded, 1 attempt, <id>
    next      Waits until <time>, then goes on; the signal `notification_read` ends the wait before that.
    ");
    insta::assert_snapshot!(shown(&[&["explain", run, "--json"], &tenant[..]].concat()), @r#"
    {
      "id": "<id>",
      "tenant_id": "org_456",
      "workflow": "mention_escalation",
      "version": 1,
      "state": "waiting",
      "status_reason": "waiting_for_step_progression",
      "current_step_name": "step_wait_for_read",
      "suspended_until": "<time>",
      "pending_signals": [
        "notification_read"
      ],
      "terminal_reason": null,
      "quarantine_reason": null,
      "visit": 2,
      "started_at": "<time>",
      "ended_at": null,
      "cancel_requested_at": null,
      "interventions": [],
      "approvals": [],
      "deliveries": [
        {
          "id": "<id>",
          "channel": "in_app",
          "status": "succeeded",
          "status_reason": null,
          "checkpoint": null,
          "attempts": 1,
          "next_attempt_at": null,
          "step": "step_in_app",
          "visit": 1,
          "lease_until": null,
          "progress_owed": false,
          "last_outcome": "succeeded"
        }
      ],
      "next": "Waits until <time>, then goes on; the signal `notification_read` ends the wait before that."
    }
    "#);
    insta::assert_snapshot!(shown(&["runs", "--state", "waiting", "--json"]), @r#"
    [
      {
        "id": "<id>",
        "tenant_id": "org_456",
        "workflow": "mention_escalation",
        "version": 1,
        "recipient": "user_123",
        "event_id": "<id>",
        "state": "waiting",
        "status_reason": "waiting_for_step_progression",
        "current_step_name": "step_wait_for_read",
        "suspended_until": "<time>",
        "terminal_reason": null,
        "started_at": "<time>",
        "ended_at": null
      }
    ]
    "#);

    let track = words("track notification_read --tenant org_456 --actor user_123");
    insta::assert_snapshot!(shown(&track), @r"signal <id>");
    host.settle().await;
    insta::assert_snapshot!(shown(&[&["explain", run], &tenant[..]].concat()), @r"
    run       <id>
    workflow  mention_escalation v1
    tenant    org_456
    state     stopped (stop_condition:notification_read) in step_wait_for_read
    delivery  in_app: succeeded, 1 attempt, <id>
    next      Nothing: the run was stopped (stop_condition:notification_read).
    ");
    insta::assert_snapshot!(shown(&[&["traces", run], &tenant[..]].concat()), @r#"
    #  AT                        STEP                STATE    WHAT HAPPENED                 FACTS
    1  <time>  step_in_app         active   workflow_started              workflow=mention_escalation
    2  <time>  step_in_app         active   step_activated                step_key=step_in_app
    3  <time>  step_wait_for_read  waiting  waiting_for_step_progression  from_step=step_in_app delivery_status=succeeded pending_signals=["notification_read"] suspended_until=<time> workflow_outcome=delivered
    4  <time>  step_wait_for_read  active   signal_received               event_name=notification_read
    5  <time>  step_wait_for_read  stopped  workflow_stopped
    "#);
    let last = shown(&[&["traces", run, "--limit", "1", "--json"], &tenant[..]].concat());
    insta::assert_snapshot!(last, @r#"
    [
      {
        "workflow_run_id": "<id>",
        "sequence": 5,
        "step_key": "step_wait_for_read",
        "workflow_step_id": "<id>",
        "visit": 2,
        "from_state": "active",
        "to_state": "stopped",
        "reason": "workflow_stopped",
        "context": {},
        "delivery_id": null,
        "signal_id": null,
        "approval_id": null,
        "inserted_at": "<time>"
      }
    ]
    "#);
    let signal = chimeway(
        &url,
        &[&track[..], &["--payload", document, "--json"]].concat(),
    );
    insta::assert_snapshot!(masked(&signal.expect(0).out), @r#"
    {
      "signal_id": "<id>"
    }
    "#);

    // What is asked for is listed, and nothing else.
    for (filter, listed) in [
        (&["--tenant", "org_456"][..], true),
        (&["--tenant", "org_789"], false),
        (&["--state", "stopped"], true),
        (&["--state", "waiting"], false),
        (&["--workflow", "mention_escalation"], true),
        (&["--workflow", "other"], false),
        (&["--recipient", "user_123"], true),
        (&["--recipient", "user_456"], false),
    ] {
        let found = chimeway(&url, &[&["runs", "--json"], filter].concat())
            .expect(0)
            .json();
        assert_eq!(
            found.as_array().unwrap().len(),
            usize::from(listed),
            "{filter:?}"
        );
    }
}

#[tokio::test]
async fn an_inbox_is_read_from_the_command_line() {
    let host = Host::begin().await;
    let url = host.db.url();
    let trigger = words("trigger mention_escalation --tenant org_456 --recipient user_123");
    for _ in 0..2 {
        chimeway(&url, &trigger).expect(0);
    }
    host.settle().await;
    let owner = ["--tenant", "org_456", "--recipient", "user_123"];
    let inbox = |arguments: &[&str]| {
        let printed = chimeway(&url, &[&["inbox"], arguments, &owner[..]].concat()).expect(0);
        assert_eq!(printed.err, "");
        printed.out
    };
    insta::assert_snapshot!(masked(&inbox(&["list"])), @r"
    ITEM                                  WHAT                  WORKFLOW            STATE  SINCE
    <id>  mention_notification  mention_escalation  new    <time>
    <id>  mention_notification  mention_escalation  new    <time>
    ");
    assert_eq!(inbox(&["unread"]), "2\n");
    let items: Value = serde_json::from_str(&inbox(&["list", "--json"])).unwrap();
    let ids: Vec<&str> = items
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["id"].as_str().unwrap())
        .collect();
    assert!(ids[0] > ids[1], "newest first");
    insta::assert_snapshot!(masked(&inbox(&["seen", ids[0], ids[1]])), @r"
    seen <id>
    seen <id>
    ");
    insta::assert_snapshot!(masked(&inbox(&["read", ids[0]])), @r"read <id>");
    insta::assert_snapshot!(masked(&inbox(&["unread", "--json"])), @r#"
    {
      "unread": 1
    }
    "#);
    insta::assert_snapshot!(masked(&inbox(&["archive", ids[1], "--json"])), @r#"
    {
      "archived": [
        "<id>"
      ]
    }
    "#);
    assert_eq!(inbox(&["unread"]), "0\n");
    assert_eq!(inbox(&["unread", "--archived"]), "1\n");
    insta::assert_snapshot!(masked(&inbox(&["list", "--archived"])), @r"
    ITEM                                  WHAT                  WORKFLOW            STATE     SINCE
    <id>  mention_notification  mention_escalation  read      <time>
    <id>  mention_notification  mention_escalation  archived  <time>
    ");
    insta::assert_snapshot!(masked(&inbox(&["list", "--json"])), @r#"
    [
      {
        "id": "<id>",
        "event_id": "<id>",
        "run_id": "<id>",
        "workflow": "mention_escalation",
        "render_key": "mention_notification",
        "params": {},
        "inserted_at": "<time>",
        "seen_at": "<time>",
        "read_at": "<time>",
        "archived_at": null
      }
    ]
    "#);
    assert_eq!(inbox(&["list", "--before", ids[0]]), "no items\n");

    // Opening the item was told as a signal about it alone.
    host.settle().await;
    let runs = chimeway(&url, &["runs", "--json"]).expect(0).json();
    let states: Vec<&str> = runs
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["stopped", "waiting"]);
}

/// As in `chimeway runs | head`.
#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let host = Host::begin().await;
    let url = host.db.url();
    let trigger = words("trigger mention_escalation --tenant org_456 --recipient user_123");
    let run = chimeway(&url, &[&trigger[..], &["--json"]].concat())
        .expect(0)
        .json();
    let run = run["runs"][0]["id"].as_str().unwrap().to_owned();
    for arguments in [
        &["runs"][..],
        &["runs", "--json"],
        &["workflows", "list"],
        &["workflows", "show", "mention_escalation"],
        &["traces", &run, "--tenant", "org_456"],
        &["migrate"],
        &["--help"],
        &trigger[..],
    ] {
        // A pipe that nobody reads, from the beginning.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = chimeway_at(&url, arguments)
            .stdout(writer)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert_eq!(output.stderr, b"", "{arguments:?}");
    }
}

/// A database as the host had it before Chimeway.
async fn unmigrated() -> TestDb {
    let db = TestDb::create().await;
    sqlx::query("drop schema chimeway cascade")
        .execute(db.pool())
        .await
        .unwrap();
    db
}
