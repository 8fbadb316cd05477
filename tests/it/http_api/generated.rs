//! Requests that a program makes up from `/api/openapi.json`, good ones and bad ones: every answer is one that the
//! document describes, and none is a failure of ours.

use std::process::Stdio;

use serde_json::json;

use super::client::{Served, waiting};
use crate::programs::{Ran, command, root};

/// Whether all that fits the document is accepted. It is not where there are rules that no schema says: of a
/// workflow, of an operator, who is to say whose data is meant, and of a trigger, which needs somebody.
const ACCEPTED: &str = "positive_data_acceptance";

/// A worker that knows workflows, and has a run of each for `shop`, one of which asks `shop` for a decision.
async fn served() -> Served {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let ask = json!({
        "key": "ask",
        "steps": [{ "id": "ask", "action": { "type": "approval", "assignee": { "user": "shop" } } }],
    });
    for workflow in [waiting("rest", "P1D"), waiting("welcome", "P1D"), ask] {
        let made = admin.send("POST /api/_admin/workflows", workflow);
        made.await.expect(201);
    }
    let service = served.by("shop --tenant org_456");
    for workflow in ["rest", "ask"] {
        let trigger = json!({ "workflow": workflow, "params": { "actor_id": "shop" } });
        service
            .send("POST /api/triggers", trigger)
            .await
            .expect(201);
    }
    served
}

/// Makes up requests, and fails with what is wrong with their answers.
async fn generate(served: &Served, token: &str, options: &[&str]) {
    let program = root().join(".venv/bin/schemathesis");
    assert!(
        program.exists(),
        "there is no {}: run scripts/setup",
        program.display()
    );
    let folder = tempfile::tempdir().unwrap();
    let mut generator = command(program);
    generator
        .current_dir(folder.path())
        .args(["run", "--checks", "all", "--continue-on-failure"])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--max-examples", "25", "--seed", "1"])
        .args(["--generation-database", "none", "--warnings", "off"])
        .args(["--suppress-health-check", "all", "--no-color"])
        .args(["--request-timeout", "20"])
        .args(options)
        .arg(format!("http://{}/api/openapi.json", served.address))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // What it was given keeps its folder until it has ended.
    let ran = tokio::task::spawn_blocking(move || {
        let ran = Ran::from(generator.output().unwrap());
        drop(folder);
        ran
    });
    let ran = ran.await.unwrap();
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let cases = ran
        .out
        .lines()
        .find_map(|line| line.trim().split_once(" generated, "));
    let cases: usize = cases
        .unwrap_or_else(|| panic!("{}", ran.out))
        .0
        .parse()
        .unwrap();
    assert!(cases > 50, "{}", ran.out);
    let logged = served.worker.lines();
    let failed: Vec<&String> = logged
        .iter()
        .filter(|line| line.contains("a request failed"))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test]
async fn requests_of_a_service_that_are_made_up_are_answered_as_the_document_says() {
    let served = served().await;
    let token = served.token("shop --tenant org_456 --acts-for-others");
    // PostgreSQL keeps no NUL, and no schema says so of a whole object.
    let accepted = [
        "--exclude-operation-id",
        "trigger",
        "--generation-allow-x00",
        "false",
    ];
    generate(&served, &token, &accepted).await;
    let only = [
        "--include-operation-id",
        "trigger",
        "--exclude-checks",
        ACCEPTED,
        // One operation leads nowhere else.
        "--phases",
        "examples,coverage,fuzzing",
    ];
    generate(&served, &token, &only).await;
}

#[tokio::test]
async fn requests_of_an_operator_that_are_made_up_are_answered_as_the_document_says() {
    let served = served().await;
    let token = served.token("carol --operator --acts-for-others");
    generate(&served, &token, &["--exclude-checks", ACCEPTED]).await;
}
