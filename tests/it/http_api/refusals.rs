//! Whatever is wrong with a request, the answer is JSON in one envelope, with the status of its kind.

use chimeway_testkit::TestDb;
use nix::sys::signal::Signal;
use serde_json::json;

use super::client::{Served, Server, raw, request, waiting};
use crate::{running::Running, support::eventually};

const JSON: &str = "content-type: application/json";

#[tokio::test]
async fn every_kind_of_mistake_has_its_status_and_is_told_in_json() {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let made = admin.send("POST /api/_admin/workflows", waiting("rest", "P1D"));
    made.await.expect(201);
    let service = served.by("shop --tenant org_456 --acts-for-others");
    let used = json!({ "workflow": "rest", "recipients": [{ "identity": "ada" }], "idempotency_key": "once" });
    service.send("POST /api/triggers", used).await.expect(201);
    let other = admin.send("POST /api/_admin/workflows", waiting("other", "P1D"));
    other.await.expect(201);

    let run = "0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10";
    let cases: [(&str, &str, &str, &str); 32] = [
        // 400: not what it says it is.
        ("POST /api/triggers", JSON, "{", "400 INVALID_PAYLOAD"),
        ("POST /api/triggers", JSON, "", "400 INVALID_PAYLOAD"),
        (
            "POST /api/signals",
            JSON,
            "{\"a\": 1e999}",
            "400 INVALID_PAYLOAD",
        ),
        // 404: a path that leads nowhere, and an id that is nobody's.
        ("GET /", "", "", "404 NOT_FOUND"),
        ("GET /api", "", "", "404 NOT_FOUND"),
        ("GET /api/runs/", "", "", "404 NOT_FOUND"),
        ("DELETE /nowhere", "", "", "404 NOT_FOUND"),
        ("GET /api/runs/17/explain", "", "", "404 NOT_FOUND"),
        (
            "GET /api/_workflows/0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10",
            "",
            "",
            "404 NOT_FOUND",
        ),
        (
            "GET /api/runs/0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10/traces",
            "",
            "",
            "404 NOT_FOUND",
        ),
        (
            "POST /api/runs/0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10/cancel",
            "",
            "",
            "404 NOT_FOUND",
        ),
        (
            "POST /api/inbox/ada/read",
            JSON,
            "{\"items\": [\"0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10\"]}",
            "404 NOT_FOUND",
        ),
        (
            "POST /api/triggers",
            JSON,
            "{\"workflow\": \"unknown\", \"params\": {\"actor_id\": \"ada\"}}",
            "404 NOT_FOUND",
        ),
        // 405: another way to ask.
        ("DELETE /api/runs", "", "", "405 METHOD_NOT_ALLOWED"),
        ("POST /metrics", "", "", "405 METHOD_NOT_ALLOWED"),
        (
            "PATCH /api/_admin/workflows/rest",
            "",
            "",
            "405 METHOD_NOT_ALLOWED",
        ),
        // 409: something else was there first.
        (
            "POST /api/triggers",
            JSON,
            "{\"workflow\": \"other\", \"params\": {\"actor_id\": \"ada\"}, \"idempotency_key\": \"once\"}",
            "409 CONFLICT /idempotency_key idempotency_key_reused",
        ),
        // 415: not said what it is, or something else.
        ("POST /api/triggers", "", "{}", "415 UNSUPPORTED_MEDIA_TYPE"),
        (
            "POST /api/triggers",
            "content-type: text/plain",
            "{}",
            "415 UNSUPPORTED_MEDIA_TYPE",
        ),
        (
            "POST /api/runs/0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10/cancel",
            "content-type: text/xml",
            "<a/>",
            "415 UNSUPPORTED_MEDIA_TYPE",
        ),
        // 422: read, and not acceptable.
        (
            "POST /api/triggers",
            JSON,
            "[]",
            "422 VALIDATION_FAILED  bad_value",
        ),
        (
            "POST /api/triggers",
            JSON,
            "{\"workflow\": \" \"}",
            "422 VALIDATION_FAILED /workflow bad_value",
        ),
        (
            "POST /api/triggers",
            JSON,
            "{\"workflow\": \"rest\", \"parms\": {}}",
            "422 VALIDATION_FAILED /parms bad_value",
        ),
        (
            "POST /api/triggers",
            JSON,
            "{\"workflow\": \"rest\"}",
            "422 VALIDATION_FAILED /recipients no_recipient",
        ),
        (
            "POST /api/triggers",
            JSON,
            "{\"workflow\": \"rest\", \"params\": {\"actor_id\": \"a\", \"b\": \"\\u0000\"}}",
            "422 VALIDATION_FAILED  bad_json",
        ),
        (
            "POST /api/triggers",
            JSON,
            "{\"workflow\": \"rest\", \"recipients\": [{\"identity\": \"a\", \"locale\": \"!\"}]}",
            "422 VALIDATION_FAILED  bad_json",
        ),
        (
            "POST /api/signals",
            JSON,
            "{\"event_name\": \"read\", \"payload\": []}",
            "422 VALIDATION_FAILED /payload bad_value",
        ),
        (
            "GET /api/runs?limit=0",
            "",
            "",
            "422 VALIDATION_FAILED limit bad_parameter",
        ),
        (
            "GET /api/runs?limit=1&limit=2",
            "",
            "",
            "422 VALIDATION_FAILED  bad_parameter",
        ),
        (
            "GET /api/runs?tenant=org_456",
            "",
            "",
            "422 VALIDATION_FAILED tenant bad_parameter",
        ),
        (
            "GET /api/runs?state=asleep",
            "",
            "",
            "422 VALIDATION_FAILED state bad_parameter",
        ),
        (
            "GET /api/inbox/a%00b",
            "",
            "",
            "422 VALIDATION_FAILED recipient bad_name",
        ),
    ];
    for (line, header, body, expected) in cases {
        let bearer = service.bearer();
        let headers: Vec<&str> = [bearer.as_str(), header]
            .into_iter()
            .filter(|it| !it.is_empty())
            .collect();
        let answer = request(&served.address, line, &headers, body).await;
        assert_eq!(answer.refused(), expected, "{line} {body}");
        assert_eq!(answer.status == 405, answer.has("allow: "), "{answer:?}");
    }
    let refused = service
        .ask(&format!("DELETE /api/runs/{run}/explain"))
        .await;
    assert!(refused.has("allow: get"), "{refused:?}");
}

#[tokio::test]
async fn a_body_has_a_limit_and_what_is_too_large_is_not_read() {
    let served = Served::begin().await;
    let service = served.by("shop --tenant org_456 --acts-for-others");
    let large = json!({ "event_name": "read", "payload": { "text": "x".repeat(1024 * 1024) } });
    let refused = service.send("POST /api/signals", large).await;
    assert_eq!(refused.refused(), "413 PAYLOAD_TOO_LARGE");
    // Said beforehand, or in chunks that nobody counted.
    let head = format!(
        "POST /api/signals HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{}\r\n{JSON}\r\n",
        service.bearer()
    );
    let chunk = format!("{:x}\r\n{}\r\n", 600_000, "x".repeat(600_000));
    for rest in [
        "content-length: 99999999\r\n\r\n".to_owned(),
        format!("transfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"),
    ] {
        let refused = raw(&served.address, format!("{head}{rest}").as_bytes()).await;
        assert_eq!(refused.refused(), "413 PAYLOAD_TOO_LARGE");
    }
    // It answers as before.
    let fits = json!({ "event_name": "read", "payload": { "text": "x".repeat(1000 * 1000) } });
    service.send("POST /api/signals", fits).await.expect(201);
}

#[tokio::test]
async fn without_a_database_it_is_unavailable() {
    let db = TestDb::create().await;
    let token = super::client::token(&db.url(), "ada --tenant org_456");
    let unreachable = "postgres://nobody@127.0.0.1:1/none";
    let Server { worker, address } = Server::at(unreachable, "").await;
    let bearer = format!("authorization: Bearer {token}");
    let answer = request(&address, "GET /api/runs", &[&bearer], "").await;
    assert_eq!(answer.refused(), "503 UNAVAILABLE");
    assert!(answer.has("retry-after: "), "{answer:?}");
    let (status, _) = worker.told(Signal::SIGTERM).await;
    assert!(status.success());
}

#[tokio::test]
async fn a_request_does_not_wait_for_a_host_for_ever() {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let made = admin.send("POST /api/_admin/workflows", waiting("rest", "P1D"));
    made.await.expect(201);
    let service = served.by("shop --tenant org_456 --acts-for-others");
    let trigger = json!({ "workflow": "rest", "params": { "actor_id": "shop" } });
    let started = service.send("POST /api/triggers", trigger).await.data();
    let run = started["runs"][0]["id"].as_str().unwrap().to_owned();
    let line = format!("GET /api/runs/{run}/explain");
    eventually("it waits", async || {
        let explained = service.ask(&line).await.data();
        (explained["state"] == "waiting").then_some(())
    })
    .await;
    let mut host = served.db.pool().begin().await.unwrap();
    sqlx::query("select from chimeway.workflow_runs for update")
        .execute(&mut *host)
        .await
        .unwrap();
    let cancel = format!("POST /api/runs/{run}/cancel");
    let refused = service.ask(&cancel).await;
    assert_eq!(refused.refused(), "503 UNAVAILABLE");
    host.rollback().await.unwrap();
    service.ask(&cancel).await.expect(200);
}

#[tokio::test]
async fn a_worker_that_other_machines_reach_says_what_that_means() {
    let db = TestDb::create().await;
    let worker = Running::worker(&db.url(), "--http 0.0.0.0:0");
    worker.prints("have TLS end in front of it").await;
    let alone = Running::worker(&db.url(), "--http 0");
    alone.prints("http://127.0.0.1:").await;
    let lines = alone.lines().join("\n");
    assert!(!lines.contains("TLS"), "{lines}");
}
