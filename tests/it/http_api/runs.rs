//! A journey over HTTP alone: started, looked at, signalled, read in the inbox, cancelled.

use serde_json::{Value, json};

use super::client::{Asker, Served, waiting};
use crate::{support::eventually, tools::MENTION};

async fn mention(service: &Asker<'_>, who: &str, key: Option<&str>) -> Value {
    let started = service.send(
        "POST /api/triggers",
        json!({
            "workflow": "mention_escalation",
            "params": { "document_id": "doc_789" },
            "recipients": [{ "identity": who, "addresses": { "email": "ada@example.com" } }],
            "idempotency_key": key,
        }),
    );
    started.await.data()
}

async fn until(service: &Asker<'_>, run: &Value, state: &str) -> Value {
    let line = format!("GET /api/runs/{}/explain", run.as_str().unwrap());
    eventually(&format!("the run is {state}"), async || {
        let explained = service.ask(&line).await.data();
        (explained["state"] == state).then_some(explained)
    })
    .await
}

#[tokio::test]
async fn who_reads_over_http_gets_no_email() {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let made = admin.send_yaml("POST /api/_admin/workflows", MENTION).await;
    made.expect(201);
    let service = served.by("docs --tenant org_456 --acts-for-others");
    let ada = served.by("ada --tenant org_456");

    let started = mention(&service, "ada", Some("comment-1")).await;
    assert_eq!(started["status"], "new");
    assert_eq!(started["runs"][0]["recipient"], "ada");
    let run = &started["runs"][0]["id"];
    let again = mention(&service, "ada", Some("comment-1")).await;
    assert_eq!(again["status"], "already");
    assert_eq!(again["event_id"], started["event_id"]);
    assert_eq!(again["runs"], started["runs"]);

    let explained = until(&service, run, "waiting").await;
    assert!(
        explained["next"]
            .as_str()
            .unwrap()
            .starts_with("Waits until "),
        "{explained}"
    );
    let unread = ada.ask("GET /api/inbox/ada/unread").await.data();
    assert_eq!(unread, json!({ "unread": 1 }));
    let page = ada.ask("GET /api/inbox/ada").await.json();
    assert_eq!(page["next"], Value::Null);
    let item = page["data"][0].clone();
    assert_eq!(item["run_id"], *run);
    assert_eq!(item["params"]["document_id"], "doc_789");
    let items = json!({ "items": [item["id"]] });
    for (verb, mark) in [
        ("seen", "seen_at"),
        ("read", "read_at"),
        ("archive", "archived_at"),
    ] {
        let line = format!("POST /api/inbox/ada/{verb}");
        assert_eq!(ada.send(&line, items.clone()).await.data(), items);
        let listed = ada.ask("GET /api/inbox/ada?archived=true").await.data();
        assert!(listed[0][mark].is_string(), "{verb}: {listed}");
    }
    assert_eq!(ada.ask("GET /api/inbox/ada").await.data(), json!([]));

    let ended = until(&service, run, "stopped").await;
    assert_eq!(ended["terminal_reason"], "stop_condition:notification_read");
    let line = format!("GET /api/runs/{}/traces", run.as_str().unwrap());
    let traces = service.ask(&line).await.data();
    let reasons: Vec<&str> = traces
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons.first(), Some(&"workflow_started"));
    assert_eq!(reasons.last(), Some(&"workflow_stopped"));
    let newest = service.ask(&format!("{line}?limit=1")).await.data();
    assert_eq!(newest.as_array().unwrap().len(), 1);
    assert_eq!(newest[0]["reason"], "workflow_stopped");
    // The run with its context, where Rocket's clients look for it.
    let line = format!("GET /api/_workflows/{}", run.as_str().unwrap());
    let shown = service.ask(&line).await.data();
    assert_eq!(shown["state"], "stopped");
    assert!(shown["context"].is_object(), "{shown}");
}

#[tokio::test]
async fn a_signal_over_http_is_the_subjects_or_of_whom_a_service_names() {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let made = admin.send_yaml("POST /api/_admin/workflows", MENTION).await;
    made.expect(201);
    let service = served.by("docs --tenant org_456 --acts-for-others");
    let ada = served.by("ada --tenant org_456");
    let first = mention(&service, "ada", None).await["runs"][0]["id"].take();
    let second = mention(&service, "bob", None).await["runs"][0]["id"].take();

    let read = json!({ "event_name": "notification_read" });
    let told = ada.send("POST /api/signals", read).await.expect(201).data();
    assert!(told["signal_id"].is_string(), "{told}");
    until(&service, &first, "stopped").await;
    let of_bob = json!({ "event_name": "notification_read", "actor_id": "bob", "payload": { "at": "home" } });
    let refused = ada.send("POST /api/signals", of_bob.clone()).await;
    assert_eq!(refused.refused(), "403 FORBIDDEN");
    until(&service, &second, "waiting").await;
    service.send("POST /api/signals", of_bob).await.expect(201);
    until(&service, &second, "stopped").await;
}

#[tokio::test]
async fn runs_are_listed_page_by_page_and_cancelled() {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    for key in ["rest", "sleep"] {
        let made = admin.send("POST /api/_admin/workflows", waiting(key, "P1D"));
        made.await.expect(201);
    }
    let service = served.by("shop --tenant org_456 --acts-for-others");
    let people = ["ada", "bob", "cleo", "dan", "eve"];
    let everybody: Vec<Value> = people
        .iter()
        .map(|who| json!({ "identity": who }))
        .collect();
    let trigger = json!({ "workflow": "rest", "recipients": everybody });
    let started = service.send("POST /api/triggers", trigger).await.data();
    let trigger = json!({ "workflow": "sleep", "params": { "actor_id": "ada" } });
    service
        .send("POST /api/triggers", trigger)
        .await
        .expect(201);

    let mut listed: Vec<Value> = vec![];
    let mut line = "GET /api/runs?workflow=rest&limit=2".to_owned();
    for expected in [2, 2, 1] {
        let page = service.ask(&line).await.json();
        let runs = page["data"].as_array().unwrap();
        assert_eq!(runs.len(), expected, "{page}");
        listed.extend(runs.iter().map(|run| run["recipient"].clone()));
        match page["next"].as_str() {
            Some(next) => line = format!("GET /api/runs?workflow=rest&limit=2&before={next}"),
            None => assert_eq!(listed.len(), 5),
        }
    }
    listed.sort_by_key(ToString::to_string);
    assert_eq!(listed, people);
    let event = started["event_id"].as_str().unwrap();
    for (query, expected) in [
        ("recipient=ada".to_owned(), 2),
        (format!("event_id={event}"), 5),
        (format!("event_id={event}&recipient=eve"), 1),
        ("state=failed".to_owned(), 0),
    ] {
        let found = service.ask(&format!("GET /api/runs?{query}")).await.data();
        assert_eq!(found.as_array().unwrap().len(), expected, "{query}");
    }

    let run = started["runs"][0]["id"].as_str().unwrap();
    let cancel = format!("POST /api/runs/{run}/cancel");
    until(&service, &json!(run), "waiting").await;
    let why = json!({ "by": "carol", "reason": "sent by mistake" });
    let cancelled = service.send(&cancel, why).await.data();
    assert_eq!(cancelled, json!({ "requested": true, "in_flight": [] }));
    let ended = until(&service, &json!(run), "stopped").await;
    assert_eq!(ended["terminal_reason"], "cancelled");
    let by = &ended["interventions"][0];
    assert_eq!(
        (&by["made_by"], &by["reason"]),
        (&json!("carol"), &json!("sent by mistake"))
    );
    let late = service.ask(&cancel).await;
    assert_eq!(late.refused(), "409 CONFLICT id run_not_active");
    // Without a body it is the token's subject.
    let other = started["runs"][1]["id"].as_str().unwrap();
    let plain = service.ask(&format!("POST /api/runs/{other}/cancel")).await;
    plain.expect(200);
    let ended = until(&service, &json!(other), "stopped").await;
    assert_eq!(ended["interventions"][0]["made_by"], "shop");
}
