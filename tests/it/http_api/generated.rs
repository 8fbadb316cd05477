//! Requests that a program makes up from `/api/openapi.json`, good ones and bad ones: every answer is one that the
//! document describes, and none is a failure of ours.

use std::process::Stdio;

use serde_json::json;

use super::client::{Served, waiting};
use crate::programs::{Ran, command, root};

/// What is not asked of the answers: whether everything that fits the document is accepted (a workflow has rules
/// that no schema says), and what it only warns of.
const LEFT_OUT: &str = "positive_data_acceptance";

async fn run(of: &str, examples: u32, seed: u32) {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    for key in ["rest", "welcome"] {
        let made = admin.send("POST /api/_admin/workflows", waiting(key, "P1D"));
        made.await.expect(201);
    }
    let service = served.by("shop --tenant org_456 --acts-for-others");
    let trigger = json!({ "workflow": "rest", "params": { "actor_id": "ada" } });
    service
        .send("POST /api/triggers", trigger)
        .await
        .expect(201);

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
        .args(["run", "--checks", "all", "--exclude-checks", LEFT_OUT])
        .args([
            "--header",
            &format!("Authorization: Bearer {}", served.token(of)),
        ])
        .args(["--max-examples", &examples.to_string()])
        .args(["--seed", &seed.to_string(), "--generation-database", "none"])
        .args([
            "--suppress-health-check",
            "all",
            "--warnings",
            "off",
            "--no-color",
        ])
        .args(["--request-timeout", "20", "--continue-on-failure"])
        .arg(format!("http://{}/api/openapi.json", served.address))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let ran = tokio::task::spawn_blocking(move || Ran::from(generator.output().unwrap()));
    let ran = ran.await.unwrap();
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    // It asked every operation, and the worker lives.
    assert!(!ran.out.contains("No operations"), "{}", ran.out);
    admin.ask("GET /api/_admin/workflows").await.expect(200);
    let logged = served.worker.lines();
    let failed: Vec<&String> = logged
        .iter()
        .filter(|line| line.contains("a request failed"))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test]
async fn heavy_requests_of_a_service_that_are_made_up_are_answered_as_the_document_says() {
    run("shop --tenant org_456 --acts-for-others", 25, 1).await;
}

#[tokio::test]
async fn heavy_requests_of_an_operator_that_are_made_up_are_answered_as_the_document_says() {
    run("carol --operator --acts-for-others", 25, 2).await;
}
