//! Workflows over HTTP: made, replaced, retired, and what becomes of their runs.

use futures::future::join_all;
use serde_json::{Value, json};

use super::client::{Asker, Served, waiting};
use crate::{
    programs::{chimeway, words},
    tools::MENTION,
};

const WORKFLOWS: &str = "/api/_admin/workflows";

async fn start(service: &Asker<'_>, workflow: &str) -> Value {
    let trigger = json!({ "workflow": workflow, "recipients": [{ "identity": "ada" }] });
    let started = service.send("POST /api/triggers", trigger).await;
    started.expect(201).data()["runs"][0]["id"].take()
}

async fn explained(service: &Asker<'_>, run: &Value) -> Value {
    let line = format!("GET /api/runs/{}/explain", run.as_str().unwrap());
    service.ask(&line).await.data()
}

#[tokio::test]
async fn a_workflow_is_made_replaced_and_retired_and_its_runs_go_on() {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let service = served.by("shop --tenant org_456 --acts-for-others");

    let made = admin
        .send(&format!("POST {WORKFLOWS}"), waiting("rest", "P1D"))
        .await
        .expect(201);
    let head = made.head.clone();
    let made = made.data();
    let id = made["id"].as_str().unwrap().to_owned();
    let place = format!("{WORKFLOWS}/{id}");
    assert!(head.contains(&format!("location: {place}")), "{head}");
    assert_eq!(
        (&made["key"], &made["version"]),
        (&json!("rest"), &json!(1))
    );
    assert_eq!(made["active"], true);
    let first = start(&service, "rest").await;

    // The same by its id and by its key, and in the list.
    assert_eq!(admin.ask(&format!("GET {place}")).await.data(), made);
    let by_key = admin.ask(&format!("GET {WORKFLOWS}/rest")).await;
    assert_eq!(by_key.data(), made);
    let listed = admin.ask(&format!("GET {WORKFLOWS}")).await.data();
    assert_eq!(listed, json!([made]));

    // What was read is what can be written: no new version.
    let same = admin
        .send(&format!("PUT {place}"), made["document"].clone())
        .await;
    assert_eq!(same.expect(200).data()["version"], 1);
    let replaced = admin
        .send(&format!("PUT {place}"), waiting("rest", "P2D"))
        .await;
    assert_eq!(replaced.expect(200).data()["version"], 2);
    let second = start(&service, "rest").await;
    assert_eq!(explained(&service, &first).await["version"], 1);
    assert_eq!(explained(&service, &second).await["version"], 2);

    let retired = admin.ask(&format!("DELETE {place}")).await;
    assert_eq!(retired.expect(200).data(), json!({ "deleted": true }));
    for (method, body) in [
        ("GET", None),
        ("PUT", Some(waiting("rest", "P3D"))),
        ("DELETE", None),
    ] {
        let line = format!("{method} {place}");
        let gone = match body {
            Some(body) => admin.send(&line, body).await,
            None => admin.ask(&line).await,
        };
        assert_eq!(gone.refused(), "404 NOT_FOUND", "{method}");
    }
    assert_eq!(
        admin.ask(&format!("GET {WORKFLOWS}")).await.data(),
        json!([])
    );
    let trigger = json!({ "workflow": "rest", "recipients": [{ "identity": "ada" }] });
    let refused = service.send("POST /api/triggers", trigger).await;
    assert_eq!(refused.refused(), "409 CONFLICT workflow workflow_paused");
    // Its runs wait as before.
    for run in [&first, &second] {
        let explained = explained(&service, run).await;
        assert!(
            ["waiting", "active"].contains(&explained["state"].as_str().unwrap()),
            "{explained}"
        );
    }
    let listed = chimeway(&served.db.url(), &words("workflows list"))
        .expect(0)
        .out;
    assert!(listed.contains("retired"), "{listed}");

    // Made once more: it is the same workflow, with its history.
    let again = admin
        .send(&format!("POST {WORKFLOWS}"), waiting("rest", "P3D"))
        .await
        .expect(201)
        .data();
    assert_eq!((&again["id"], &again["version"]), (&json!(id), &json!(3)));
    let third = start(&service, "rest").await;
    assert_eq!(explained(&service, &third).await["version"], 3);
}

#[tokio::test]
async fn a_retired_workflow_that_is_resumed_by_hand_is_in_use_again() {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let post = format!("POST {WORKFLOWS}");
    let made = admin.send(&post, waiting("rest", "P1D")).await;
    made.expect(201);
    let retired = admin.ask(&format!("DELETE {WORKFLOWS}/rest")).await;
    retired.expect(200);
    chimeway(&served.db.url(), &words("workflows resume rest")).expect(0);
    let back = admin.ask(&format!("GET {WORKFLOWS}/rest")).await.data();
    assert_eq!(back["active"], true);
}

#[tokio::test]
async fn a_document_may_be_yaml_and_say_that_it_is_paused() {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let text = format!("active: false\n{MENTION}");
    let made = admin.send_yaml(&format!("POST {WORKFLOWS}"), &text).await;
    let made = made.expect(201).data();
    assert_eq!(made["active"], false);
    assert!(made["document"].get("active").is_none(), "{made}");
    let place = format!("PUT {WORKFLOWS}/mention_escalation");
    // What says nothing of it leaves it as it is.
    let kept = admin.send_yaml(&place, MENTION).await.data();
    assert_eq!(
        (&kept["active"], &kept["version"]),
        (&json!(false), &json!(1))
    );
    let text = format!("active: true\n{MENTION}");
    let resumed = admin.send_yaml(&place, &text).await;
    assert_eq!(resumed.data()["active"], true);
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_with_every_mistake() {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let post = format!("POST {WORKFLOWS}");
    let made = admin.send(&post, waiting("rest", "P1D")).await;
    made.expect(201);
    let twice = admin.send(&post, waiting("rest", "P2D")).await;
    assert_eq!(twice.refused(), "409 CONFLICT workflow workflow_exists");

    let mistakes = json!({
        "key": "odd",
        "steps": [
            { "id": "rest", "action": { "type": "wait", "duration": "3 days" } },
            { "id": "tell", "action": { "type": "notify", "channel": "pigeon" } },
        ],
    });
    let refused = admin.send(&post, mistakes).await;
    assert_eq!(
        refused.refused(),
        "422 VALIDATION_FAILED /steps/0/action/duration bad_duration /steps/1/action/channel unknown_channel"
    );
    let details = refused.json()["error"]["details"].take();
    assert_eq!(details[0]["hint"], "write `P3D`");
    for (line, body, expected) in [
        (&*post, json!([]), "422 VALIDATION_FAILED  wrong_type"),
        (
            &*post,
            json!({ "active": 1 }),
            "422 VALIDATION_FAILED /active wrong_type",
        ),
        (
            "PUT /api/_admin/workflows/rest",
            waiting("another", "P1D"),
            "422 VALIDATION_FAILED /key other_key",
        ),
        (
            "PUT /api/_admin/workflows/no_such_thing",
            waiting("no_such_thing", "P1D"),
            "404 NOT_FOUND",
        ),
    ] {
        let refused = admin.send(line, body.clone()).await.refused();
        assert_eq!(refused, expected, "{line} {body}");
    }
    let mut versioned = waiting("rest", "P9D");
    versioned["version"] = json!(1);
    let conflict = admin
        .send("PUT /api/_admin/workflows/rest", versioned)
        .await;
    assert_eq!(
        conflict.refused(),
        "409 CONFLICT /version workflow_definition_version_conflict"
    );
    // Nothing of all this was kept.
    let rest = admin.ask(&format!("GET {WORKFLOWS}")).await.data();
    assert_eq!(rest.as_array().unwrap().len(), 1);
    assert_eq!(rest[0]["version"], 1);
}

#[tokio::test]
async fn of_many_that_make_the_same_workflow_one_does() {
    let served = Served::begin().await;
    let admin = served.by("carol --operator");
    let post = format!("POST {WORKFLOWS}");
    for round in 1..=2 {
        let days: Vec<String> = (1..=8)
            .map(|day| format!("P{}D", day + 10 * round))
            .collect();
        let made = days
            .iter()
            .map(|days| admin.send(&post, waiting("rest", days)));
        let mut statuses: Vec<u16> = join_all(made).await.iter().map(|it| it.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
        // Once more, of a retired one.
        let retired = (0..4).map(|_| admin.ask("DELETE /api/_admin/workflows/rest"));
        let mut statuses: Vec<u16> = join_all(retired).await.iter().map(|it| it.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 404, 404, 404]);
    }
}
