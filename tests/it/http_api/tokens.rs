//! Tokens: what each opens, what becomes of one that is taken back, and that none is written down.

use chimeway_testkit::TestDb;
use serde_json::json;

use super::client::{Asker, Served, request, waiting};
use crate::{
    programs::{chimeway, words},
    tools::lines,
};

#[tokio::test]
async fn without_a_token_that_opens_something_nothing_but_health_and_the_document_is_told() {
    let served = Served::begin().await;
    let good = served.token("ada --tenant org_456");
    let wrong = format!("chimeway_{}", "0".repeat(64));
    let bad = [
        String::new(),
        "authorization: Bearer".to_owned(),
        "authorization: Bearer ".to_owned(),
        format!("authorization: Bearer {wrong}"),
        format!("authorization: Bearer {}", &good[..good.len() - 1]),
        format!("authorization: Bearer {good}0"),
        format!("authorization: Basic {good}"),
        format!("authorization: {good}"),
        format!("x-api-key: {good}"),
    ];
    let mut told = vec![];
    for header in &bad {
        let headers: Vec<&str> = Some(header.as_str())
            .filter(|it| !it.is_empty())
            .into_iter()
            .collect();
        let answer = request(&served.address, "GET /api/runs", &headers, "").await;
        assert_eq!(answer.refused(), "401 UNAUTHORIZED", "{header}");
        assert!(answer.has("www-authenticate: bearer"), "{answer:?}");
        told.push(answer.text);
    }
    told.dedup();
    assert_eq!(told.len(), 1, "one is told apart from another: {told:?}");
    // Nor in the address, where proxies write it down.
    let line = format!("GET /api/runs?access_token={good}");
    let answer = request(&served.address, &line, &[], "").await;
    assert_eq!(answer.refused(), "401 UNAUTHORIZED");
    for open in ["/livez", "/metrics", "/api/openapi.json"] {
        let answer = request(&served.address, &format!("GET {open}"), &[], "").await;
        assert_eq!(answer.status, 200, "{open}");
    }
}

#[tokio::test]
async fn a_token_that_was_taken_back_opens_nothing_from_then_on() {
    let served = Served::begin().await;
    let url = served.db.url();
    let made = chimeway(&url, &words("tokens create ada --tenant org_456 --json"))
        .expect(0)
        .json();
    let ada = Asker {
        address: &served.address,
        token: made["token"].as_str().unwrap().to_owned(),
    };
    ada.ask("GET /api/runs").await.expect(200);
    let id = made["id"].as_str().unwrap();
    let revoke = format!("tokens revoke {id}");
    let revoked = chimeway(&url, &words(&revoke)).expect(0).out;
    assert_eq!(revoked, format!("revoked {id}\n"));
    assert_eq!(ada.ask("GET /api/runs").await.refused(), "401 UNAUTHORIZED");
    // A second time changes nothing, and one that is not there is not found.
    chimeway(&url, &words(&revoke)).expect(0);
    let missing = "tokens revoke 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10";
    chimeway(&url, &words(missing)).expect(3);
    let listed = chimeway(&url, &words("tokens list --json"))
        .expect(0)
        .json();
    assert_eq!(listed[0]["id"], made["id"]);
    assert!(listed[0]["revoked_at"].is_string(), "{listed}");
}

#[tokio::test]
async fn a_tenants_token_reaches_its_tenant_and_an_operators_says_whose() {
    let served = Served::begin().await;
    let (ada, carol) = (
        served.by("ada --tenant org_456"),
        served.by("carol --operator"),
    );
    let made = carol.send("POST /api/_admin/workflows", waiting("rest", "P1D"));
    made.await.expect(201);
    for (line, expected) in [
        ("GET /api/_admin/workflows", "403 FORBIDDEN"),
        ("GET /api/_admin/workflows/rest", "403 FORBIDDEN"),
        ("GET /api/_admin/workflows/no_such_thing", "403 FORBIDDEN"),
        ("DELETE /api/_admin/workflows/rest", "403 FORBIDDEN"),
        ("GET /api/runs?tenant_id=org_999", "403 FORBIDDEN"),
    ] {
        assert_eq!(ada.ask(line).await.refused(), expected, "{line}");
    }
    let own = ada.ask("GET /api/runs?tenant_id=org_456").await;
    own.expect(200);

    let trigger = json!({ "workflow": "rest", "params": { "actor_id": "carol" } });
    let whose = carol.send("POST /api/triggers", trigger.clone()).await;
    assert_eq!(whose.refused(), "422 VALIDATION_FAILED tenant_id required");
    for tenant in ["org_456", "org_999"] {
        let line = format!("POST /api/triggers?tenant_id={tenant}");
        let started = carol.send(&line, trigger.clone()).await.data();
        let run = started["runs"][0]["id"].as_str().unwrap();
        let line = format!("GET /api/runs/{run}/explain?tenant_id={tenant}");
        assert_eq!(carol.ask(&line).await.data()["tenant_id"], tenant);
        let strange = ada.ask(&format!("GET /api/runs/{run}/explain")).await;
        assert_eq!(strange.status, if tenant == "org_456" { 200 } else { 404 });
    }
    // A list of everybody's.
    let all = carol.ask("GET /api/runs").await.data();
    assert_eq!(all.as_array().unwrap().len(), 2);
    let hers = ada.ask("GET /api/runs").await.data();
    assert_eq!(hers.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_person_acts_for_itself_and_a_service_for_others() {
    let served = Served::begin().await;
    let carol = served.by("carol --operator");
    let made = carol.send("POST /api/_admin/workflows", waiting("rest", "P1D"));
    made.await.expect(201);
    let ada = served.by("ada --tenant org_456");
    let service = served.by("shop --tenant org_456 --acts-for-others");
    let start = |who: &str| json!({ "workflow": "rest", "recipients": [{ "identity": who }] });
    let by_params = |who: &str| json!({ "workflow": "rest", "params": { "actor_id": who } });
    let items = json!({ "items": [] });
    let cancel = async |by: &str| {
        let started = service
            .send("POST /api/triggers", start("bob"))
            .await
            .data();
        let run = started["runs"][0]["id"].as_str().unwrap();
        (format!("POST /api/runs/{run}/cancel"), json!({ "by": by }))
    };
    let cases = [
        ("POST /api/triggers".to_owned(), start("ada"), start("bob")),
        (
            "POST /api/triggers".to_owned(),
            by_params("ada"),
            by_params("bob"),
        ),
        (
            "POST /api/signals".to_owned(),
            json!({ "event_name": "read", "actor_id": "ada" }),
            json!({ "event_name": "read", "actor_id": "bob" }),
        ),
    ];
    for (line, own, others) in cases {
        ada.send(&line, own.clone()).await.expect(201);
        let refused = ada.send(&line, others.clone()).await;
        assert_eq!(refused.refused(), "403 FORBIDDEN", "{line} {others}");
        service.send(&line, others).await.expect(201);
    }
    for (by, status) in [("bob", 403), ("ada", 200)] {
        let (line, body) = cancel(by).await;
        ada.send(&line, body).await.expect(status);
    }
    let (line, body) = cancel("bob").await;
    service.send(&line, body).await.expect(200);
    for verb in ["seen", "read", "archive"] {
        let of = |who: &str| format!("POST /api/inbox/{who}/{verb}");
        ada.send(&of("ada"), items.clone()).await.expect(200);
        ada.send(&of("bob"), items.clone()).await.expect(403);
        service.send(&of("bob"), items.clone()).await.expect(200);
    }
    for rest in ["", "/unread"] {
        let of = |who: &str| format!("GET /api/inbox/{who}{rest}");
        ada.ask(&of("ada")).await.expect(200);
        ada.ask(&of("bob")).await.expect(403);
        service.ask(&of("bob")).await.expect(200);
    }
}

#[tokio::test]
async fn a_token_is_in_no_row_and_in_no_line_of_the_log() {
    let served = Served::begin().await;
    let ada = served.by("ada.lovelace --tenant org_456");
    ada.ask("GET /api/runs").await.expect(200);
    ada.ask("GET /api/inbox/ada.lovelace/unread")
        .await
        .expect(200);
    let wrong = json!({ "event_name": "read", "payload": { "name": "ada.lovelace" }, "more": 1 });
    ada.send("POST /api/signals", wrong).await.expect(422);
    let secret = ada.token.strip_prefix("chimeway_").unwrap();
    assert_eq!(secret.len(), 64);
    let rows = lines(
        served.db.pool(),
        "select t::text from chimeway.api_tokens t",
    )
    .await;
    assert!(
        rows.contains("ada.lovelace") && !rows.contains(secret),
        "{rows}"
    );
    served.worker.prints("/api/inbox/{recipient}/unread").await;
    let logged = served.worker.lines().join("\n");
    assert!(!logged.contains(secret), "{logged}");
    assert!(!logged.contains("lovelace"), "{logged}");
}

#[tokio::test]
async fn a_token_is_printed_once_and_alone() {
    let db = TestDb::create().await;
    let made = chimeway(&db.url(), &words("tokens create ada --tenant org_456")).expect(0);
    let token = made.out.trim_end();
    assert!(
        token.starts_with("chimeway_") && token.len() == 73,
        "{token}"
    );
    assert!(made.err.contains("shown this once"), "{}", made.err);
    assert!(!made.err.contains(token));
    let service = "tokens create shop --operator --acts-for-others";
    chimeway(&db.url(), &words(service)).expect(0);
    let listed = chimeway(&db.url(), &words("tokens list")).expect(0).out;
    assert!(
        listed.contains("tenant org_456") && listed.contains("everything"),
        "{listed}"
    );
    assert!(
        listed.contains("others too") && !listed.contains(token),
        "{listed}"
    );
    let its = chimeway(&db.url(), &words("tokens list --tenant org_456 --json"))
        .expect(0)
        .json();
    assert_eq!(its.as_array().unwrap().len(), 1);
    assert_eq!(its[0]["subject"], "ada");
}
