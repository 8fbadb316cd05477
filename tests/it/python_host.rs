//! A host application in Python, with psycopg: `tests/hosts/host.py`.

use serde_json::{Value, json};
use sqlx::types::Uuid;

use crate::{
    host::Host,
    programs::{Ran, command, root},
};

#[tokio::test]
async fn a_host_in_python_commits_rolls_back_and_tracks() {
    let host = Host::begin().await;
    let did = run_host(&host.db.url()).json();

    // Its comment and its event were kept or taken back together.
    assert_eq!(
        host.rows().await,
        "comments 1, events 1, recipients 1, runs 0, deliveries 0, signals 1"
    );
    let (event, signal): (Uuid, Uuid) =
        sqlx::query_as("select e.id, s.id from chimeway.events e, chimeway.signals s")
            .fetch_one(host.pool())
            .await
            .unwrap();
    assert_eq!(did["kept"], event.to_string());
    assert_eq!(did["again"], did["kept"]);
    assert_ne!(did["taken_back"], did["kept"]);
    assert_eq!(did["signal"], signal.to_string());
    let hint = "apply its document with `chimeway workflows apply`; `chimeway workflows list` shows what there is";
    assert_eq!(
        did["refused"],
        json!(["CW001", "there is no workflow 'no_such'", hint])
    );
    assert_eq!(did["refused_signal"], "CW008");
    let excerpt: Value = sqlx::query_scalar("select params -> 'excerpt' from chimeway.events")
        .fetch_one(host.pool())
        .await
        .unwrap();
    assert_eq!(excerpt, "größer ☕");

    // She has read it by now: in the app, and no email.
    host.settle().await;
    assert_eq!(host.sent(), ["in_app to ada"]);
    let ended: Option<String> =
        sqlx::query_scalar("select terminal_reason from chimeway.workflow_runs")
            .fetch_one(host.pool())
            .await
            .unwrap();
    assert_eq!(ended.as_deref(), Some("stop_condition:notification_read"));
}

fn run_host(url: &str) -> Ran {
    let python = root().join(".venv/bin/python");
    assert!(
        python.exists(),
        "there is no {}: run scripts/setup, which makes it with psycopg",
        python.display()
    );
    let mut host = command(python);
    // Output in UTF-8 and no cache beside the script, wherever this runs.
    host.args(["-B", "-X", "utf8"])
        .arg(root().join("tests/hosts/host.py"))
        .arg(url);
    Ran::from(host.output().unwrap()).expect(0)
}
