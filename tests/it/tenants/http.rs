//! Every request of the API, with another tenant's token.

use std::collections::BTreeSet;

use serde_json::Value;

use super::world::{A, B, Things, all_but, world};
use crate::http_api::{Asker, Server, token};

/// A request as it is written: words that begin with `@` stand for a thing.
const REQUESTS: &[(&str, &str)] = &[
    ("GET /api/_workflows/pending?assignee=approver", ""),
    ("GET /api/_workflows/@waiting", ""),
    (
        "POST /api/_workflows/@asked/approve",
        r#"{"by": "approver"}"#,
    ),
    (
        "POST /api/_workflows/@asked_too/reject",
        r#"{"by": "approver"}"#,
    ),
    ("GET /api/runs?recipient=@person", ""),
    ("GET /api/runs?event_id=@event", ""),
    ("GET /api/runs?workflow=@workflow&before=@late", ""),
    ("GET /api/runs/@waiting/explain", ""),
    ("GET /api/runs/@waiting/traces", ""),
    ("GET /api/inbox/@person", ""),
    ("GET /api/inbox/@person?archived=true&before=@late", ""),
    ("GET /api/inbox/@person/unread", ""),
    ("POST /api/inbox/ada/seen", r#"{"items": ["@item"]}"#),
    ("POST /api/inbox/ada/read", r#"{"items": ["@item"]}"#),
    ("POST /api/inbox/ada/archive", r#"{"items": ["@item"]}"#),
    (
        "POST /api/runs/@waiting/cancel",
        r#"{"reason": "curiosity"}"#,
    ),
    ("POST /api/runs/@lost_run/cancel", ""),
    (
        "POST /api/signals",
        r#"{"event_name": "document_opened", "actor_id": "@person", "payload": {"notification_id": "@item"}}"#,
    ),
    (
        "POST /api/triggers",
        r#"{"workflow": "mention_escalation", "recipients": [{"identity": "@person"}], "idempotency_key": "@key"}"#,
    ),
];

fn named(its: &Things, text: &str) -> String {
    [
        ("@waiting", its.waiting.to_string()),
        ("@asked_too", its.asked_too.to_string()),
        ("@asked", its.asked.to_string()),
        ("@item", its.item.to_string()),
        ("@event", its.event.to_string()),
        ("@key", its.key.clone()),
        ("@lost_run", its.lost_run.to_string()),
        ("@person", its.person.to_string()),
        ("@workflow", its.workflow.to_string()),
        // Later than all there is.
        ("@late", "ffffffff-ffff-7fff-bfff-ffffffffffff".to_owned()),
    ]
    .iter()
    .fold(text.to_owned(), |text, (name, value)| {
        text.replace(name, value)
    })
}

/// The whole answer but its date and its length, which is that of names, with the names of `its` hidden.
async fn ask(asker: &Asker<'_>, its: &Things, (line, body): (&str, &str)) -> String {
    let line = named(its, line);
    let answer = match body {
        "" => asker.ask(&line).await,
        body => {
            let body: Value = serde_json::from_str(&named(its, body)).unwrap();
            asker.send(&line, body).await
        }
    };
    let head = answer.head.lines();
    let head: Vec<&str> = head
        .filter(|line| !line.starts_with("date: ") && !line.starts_with("content-length: "))
        .collect();
    its.told(&format!("{}\n{}", head.join("\n"), answer.text))
}

/// It serves, and does nothing else but send: what waits to be routed or moved on stays where it is.
async fn server(url: &str) -> Server {
    let queues = ["default", "chimeway_signals", "chimeway_workflows"];
    let none = queues.map(|queue| format!("--queue {queue}=0")).join(" ");
    Server::at(url, &none).await
}

#[tokio::test]
async fn a_request_about_another_tenants_things_is_answered_as_one_about_nobodys() {
    let world = world().await;
    let url = world.story.db().url();
    let server = server(&url).await;
    let asker = |tenant: &str| Asker {
        address: &server.address,
        token: token(&url, &format!("ada --tenant {tenant} --acts-for-others")),
    };
    let (stranger, owner) = (asker(B), asker(A));
    let nobodys = world.a.of_nobody();
    let mut conn = world.story.db().connect().await;
    // First what nobody has: what these write is written by the others once more.
    let mut nothing = vec![];
    for &request in REQUESTS {
        nothing.push(ask(&stranger, &nobodys, request).await);
    }
    let before = all_but(&mut conn, B).await;
    for (&request, nothing) in REQUESTS.iter().zip(&nothing) {
        let answer = ask(&stranger, &world.a, request).await;
        assert_eq!(&answer, nothing, "{request:?}");
        assert!(!answer.contains(A), "{answer}");
    }
    assert_eq!(all_but(&mut conn, B).await, before);

    // The owner is answered otherwise: the table asks for something that is there.
    for (&request, nothing) in REQUESTS.iter().zip(&nothing) {
        let before = all_but(&mut conn, B).await;
        let answer = ask(&owner, &world.a, request).await;
        let changed = all_but(&mut conn, B).await != before;
        let is_told = answer.replace(A, B) != *nothing;
        assert!(changed || is_told, "{request:?}: {answer}");
    }
}

#[tokio::test]
async fn the_table_has_every_request_that_is_a_tenants() {
    let document = include_str!("../../../crates/chimeway-worker/src/http/openapi.json");
    let document: Value = serde_json::from_str(document).unwrap();
    let operations = crate::http_api::operations(&document);
    assert!(operations.len() > 15, "{operations:?}");
    let fits = |operation: &str, request: &str| {
        let (request, _) = request.split_once('?').unwrap_or((request, ""));
        let (one, other): (Vec<&str>, Vec<&str>) =
            (operation.split('/').collect(), request.split('/').collect());
        let mut pairs = one.iter().zip(&other);
        one.len() == other.len() && pairs.all(|(one, other)| one == other || one.starts_with('{'))
    };
    let missing: BTreeSet<&String> = operations
        .iter()
        .filter(|operation| {
            let everybodys = ["/api/_admin/", "/api/openapi.json"];
            !everybodys.iter().any(|path| operation.contains(path))
                && !REQUESTS.iter().any(|(request, _)| fits(operation, request))
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
