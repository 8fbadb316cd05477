//! Every request of the API, with another tenant's token.

use std::collections::BTreeSet;

use chimeway::{Recipient, Trigger, ids::RunId};
use serde_json::Value;

use super::world::{A, B, Things, World, all_but, world};
use crate::http_api::{Asker, Server, token};

/// A request as it is written: words that begin with `@` stand for a thing.
const REQUESTS: &[(&str, &str)] = &[
    ("GET /api/_workflows/pending?assignee=@person", ""),
    ("GET /api/_workflows/@waiting", ""),
    ("POST /api/_workflows/@asking/approve", "{}"),
    ("POST /api/_workflows/@asking/reject", r#"{"by": "ada"}"#),
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

const ASK: &str =
    "{ key: ask, steps: [{ id: ask, action: { type: approval, assignee: { user: ada } } }] }";

/// What a request is about.
struct About<'a> {
    its: &'a Things,
    asking: RunId,
}

impl About<'_> {
    fn named(&self, text: &str) -> String {
        let its = self.its;
        [
            ("@waiting", its.waiting.to_string()),
            ("@asking", self.asking.to_string()),
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

    /// The whole answer but its date and its length, which is that of names, with the names of this hidden.
    async fn ask(&self, asker: &Asker<'_>, (line, body): (&str, &str)) -> String {
        let line = self.named(line);
        let answer = match body {
            "" => asker.ask(&line).await,
            body => {
                let body: Value = serde_json::from_str(&self.named(body)).unwrap();
                asker.send(&line, body).await
            }
        };
        let headers = answer
            .head
            .lines()
            .filter(|line| !line.starts_with("date: ") && !line.starts_with("content-length: "));
        let head: Vec<&str> = headers.collect();
        let text = format!("{}\n{}", head.join("\n"), answer.text);
        self.its
            .told(&text.replace(&self.asking.to_string(), "<asking>"))
    }
}

/// A run that asks ada for a decision.
async fn asking(world: &World, tenant: &str) -> RunId {
    let story = &world.story;
    let trigger = Trigger::new("ask".parse().unwrap(), tenant.parse().unwrap())
        .recipient(Recipient::new("ada".parse().unwrap()));
    let mut tx = story.pool().begin().await.unwrap();
    let started = story.chimeway().trigger(&mut tx, trigger).await.unwrap();
    tx.commit().await.unwrap();
    story.runs_of(started.event()).await[0]
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
    world.story.apply(ASK).await;
    let (of_a, of_b) = (asking(&world, A).await, asking(&world, B).await);
    world.story.drain().await;
    let url = world.story.db().url();
    let server = server(&url).await;
    let asker = |tenant: &str, subject: &str| Asker {
        address: &server.address,
        token: token(
            &url,
            &format!("{subject} --tenant {tenant} --acts-for-others"),
        ),
    };
    let (stranger, owner) = (asker(B, "ada"), asker(A, "ada"));
    let nobodys = world.a.of_nobody();
    let nobody = About {
        its: &nobodys,
        asking: RunId::fresh(),
    };
    let a = About {
        its: &world.a,
        asking: of_a,
    };
    let mut conn = world.story.db().connect().await;
    // First what nobody has: what these write is written by the others once more.
    let mut nothing = vec![];
    for &request in REQUESTS {
        nothing.push(nobody.ask(&stranger, request).await);
    }
    let before = all_but(&mut conn, B).await;
    for (&request, nothing) in REQUESTS.iter().zip(&nothing) {
        let answer = a.ask(&stranger, request).await;
        assert_eq!(&answer, nothing, "{request:?}");
        assert!(!answer.contains(A), "{answer}");
    }
    assert_eq!(all_but(&mut conn, B).await, before);

    // Its own is told, or changed: the table asks for something that is there.
    for (&request, nothing) in REQUESTS.iter().zip(&nothing) {
        let before = all_but(&mut conn, B).await;
        let answer = a.ask(&owner, request).await;
        let changed = all_but(&mut conn, B).await != before;
        let is_told = answer.replace(A, B) != *nothing;
        // A list of what waits for somebody else is empty for everybody.
        let is_empty = request.0.contains("pending");
        assert!(changed || is_told || is_empty, "{request:?}: {answer}");
    }
    let waits = About {
        its: &world.b,
        asking: of_b,
    };
    let pending = ("GET /api/_workflows/pending?assignee=ada", "");
    let theirs = waits.ask(&stranger, pending).await;
    assert!(
        theirs.contains("<asking>") && !theirs.contains(A),
        "{theirs}"
    );
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
