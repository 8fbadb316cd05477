//! Decisions over HTTP: what waits, who may, and who was faster.

use chimeway::Chimeway;
use futures::future::join_all;
use serde_json::{Value, json};

use super::client::{Asker, Served};
use crate::{
    support::eventually,
    tools::{actor, tenant},
};

/// Asks whoever is a manager, in the shape that Rocket's documents have.
const PURCHASE: &str = r"
name: purchase
trigger: { type: state_change, entity: order, field: status, to: submitted }
steps:
  - { id: ask, type: approval, assignee: { type: role, role: manager }, timeout: 72h, on_approve: end, on_reject: end, on_timeout: end }
";

const REFUND: &str = r"
key: refund
steps:
  - id: ask
    action: { type: approval, assignee: { role: manager }, timeout: P3D }
    on_outcome: { rejected: stop, timed_out: stop }
  - id: tell
    action: { type: notify, channel: in_app, render_key: refunded }
";

async fn served() -> Served {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let made = admin.send_yaml("POST /api/_admin/workflows", REFUND).await;
    made.expect(201);
    let mut conn = served.db.connect().await;
    let roles = Chimeway::builder().build().roles();
    let (manager, members) = ("manager".parse().unwrap(), [actor("maria"), actor("max")]);
    let added = roles.add(&mut conn, &tenant(), &manager, &members).await;
    assert_eq!(added.unwrap().len(), 2);
    served
}

/// Starts one, and waits until it asks.
async fn asks(service: &Asker<'_>) -> String {
    let trigger = json!({ "workflow": "refund", "recipients": [{ "identity": "ada" }] });
    let started = service.send("POST /api/triggers", trigger).await.data();
    let run = started["runs"][0]["id"].as_str().unwrap().to_owned();
    eventually("it asks", async || {
        let pending = service.ask("GET /api/_workflows/pending").await.data();
        let mut pending = pending.as_array().unwrap().iter();
        pending.any(|one| one["run_id"] == *run).then_some(())
    })
    .await;
    run
}

async fn ends(service: &Asker<'_>, run: &str) -> Value {
    let line = format!("GET /api/_workflows/{run}");
    eventually("it ends", async || {
        let shown = service.ask(&line).await.data();
        shown["ended_at"]
            .is_string()
            .then(|| shown["terminal_reason"].clone())
    })
    .await
}

#[tokio::test]
async fn a_manager_approves_or_rejects_and_nobody_else() {
    let served = served().await;
    let service = served.by("shop --tenant org_456 --acts-for-others");
    let maria = served.by("maria --tenant org_456");
    let ada = served.by("ada --tenant org_456");
    let (first, second) = (asks(&service).await, asks(&service).await);

    let listed = async |who: &str| {
        let line = format!("GET /api/_workflows/pending?assignee={who}");
        service.ask(&line).await.data()
    };
    let hers = listed("maria").await;
    assert_eq!(hers.as_array().unwrap().len(), 2);
    assert_eq!(
        (&hers[0]["run_id"], &hers[0]["assignee"]),
        (&json!(first), &json!("manager"))
    );
    assert_eq!(listed("ada").await, json!([]));
    let page = maria
        .ask("GET /api/_workflows/pending?limit=1")
        .await
        .json();
    let next = page["next"].as_str().unwrap();
    let line = format!("GET /api/_workflows/pending?limit=1&after={next}");
    assert_eq!(maria.ask(&line).await.data()[0]["run_id"], *second);

    let approve = format!("POST /api/_workflows/{first}/approve");
    assert_eq!(ada.ask(&approve).await.refused(), "403 FORBIDDEN");
    // Nor may she in somebody else's name.
    let forged = ada.send(&approve, json!({ "by": "maria" })).await;
    assert_eq!(forged.refused(), "403 FORBIDDEN");
    let approved = maria
        .send(&approve, json!({ "note": "he is right" }))
        .await
        .data();
    assert_eq!(approved["id"], *first);
    assert_eq!(
        (&approved["decision"], &approved["decided_by"]),
        (&json!("approved"), &json!("maria"))
    );
    assert_eq!(ends(&service, &first).await, "completed");
    let late = maria.ask(&approve).await;
    assert_eq!(late.status, 409, "{late:?}");

    // A service has checked who it is, and says so.
    let reject = format!("POST /api/_workflows/{second}/reject");
    let rejected = service.send(&reject, json!({ "by": "max" })).await.data();
    assert_eq!(
        (&rejected["decision"], &rejected["decided_by"]),
        (&json!("rejected"), &json!("max"))
    );
    assert_eq!(ends(&service, &second).await, "outcome:rejected");
    let note: Option<String> =
        sqlx::query_scalar("select note from chimeway.approvals where decided_by = 'maria'")
            .fetch_one(served.db.pool())
            .await
            .unwrap();
    assert_eq!(note.as_deref(), Some("he is right"));
}

#[tokio::test]
async fn of_many_who_decide_at_once_one_does_and_the_others_are_told_who() {
    let served = served().await;
    let service = served.by("shop --tenant org_456 --acts-for-others");
    let run = asks(&service).await;
    let decide = async |n: usize| {
        let (verb, by) = (["approve", "reject"][n % 2], ["maria", "max"][n / 2 % 2]);
        let line = format!("POST /api/_workflows/{run}/{verb}");
        let answer = service.send(&line, json!({ "by": by })).await;
        (by, answer)
    };
    let answers = join_all((0..40).map(decide)).await;
    let won: Vec<_> = answers
        .iter()
        .filter(|(_, answer)| answer.status == 200)
        .collect();
    assert_eq!(won.len(), 1);
    let (winner, won) = won[0];
    let decision = won.json()["data"]["decision"].take();
    for (_, answer) in answers.iter().filter(|(_, answer)| answer.status != 200) {
        assert_eq!(answer.refused(), "409 CONFLICT id already_decided");
        let told = answer.json()["error"]["details"][0].take();
        assert_eq!(
            (&told["decision"], &told["decided_by"]),
            (&decision, &json!(winner))
        );
    }
}

#[tokio::test]
async fn a_run_that_asks_nobody_is_not_decided() {
    let served = served().await;
    let admin = served.by("carol --operator --acts-for-others");
    let made = admin.send(
        "POST /api/_admin/workflows",
        super::client::waiting("rest", "P1D"),
    );
    made.await.expect(201);
    let service = served.by("shop --tenant org_456 --acts-for-others");
    let trigger = json!({ "workflow": "rest", "recipients": [{ "identity": "ada" }] });
    let started = service.send("POST /api/triggers", trigger).await.data();
    let run = started["runs"][0]["id"].as_str().unwrap();
    let refused = service
        .ask(&format!("POST /api/_workflows/{run}/approve"))
        .await;
    assert_eq!(refused.refused(), "409 CONFLICT id not_pending");
    let nobodys = "0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10";
    let refused = service
        .ask(&format!("POST /api/_workflows/{nobodys}/reject"))
        .await;
    assert_eq!(refused.refused(), "404 NOT_FOUND");
    let long = json!({ "note": "x".repeat(2_000) });
    let refused = service
        .send(&format!("POST /api/_workflows/{run}/approve"), long)
        .await;
    assert_eq!(refused.refused(), "422 VALIDATION_FAILED  bad_json");
}

#[tokio::test]
async fn rockets_documents_are_made_and_read_back_as_ours() {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let made = admin
        .send_yaml("POST /api/_admin/workflows", PURCHASE)
        .await;
    let made = made.expect(201).data();
    assert_eq!(
        (&made["key"], &made["active"]),
        (&json!("purchase"), &json!(true))
    );
    let place = format!("PUT /api/_admin/workflows/{}", made["id"].as_str().unwrap());
    let paused = format!("active: false\n{PURCHASE}");
    let paused = admin.send_yaml(&place, &paused).await.data();
    assert_eq!(
        (&paused["active"], &paused["version"]),
        (&json!(false), &json!(1))
    );
    let same = admin.send(&place, made["document"].clone()).await.data();
    assert_eq!(same["version"], 1);
    let other = admin
        .send_yaml(&place, &PURCHASE.replace("purchase", "sale"))
        .await;
    assert_eq!(other.refused(), "422 VALIDATION_FAILED /name other_key");
}
