//! Steps that ask a person: who may decide, what counts, what waits.

use std::sync::Arc;

use chimeway::{
    FlowError,
    flow::{
        approvals::{Decided, Pending},
        workflows::{RunUpdate, Stamp},
    },
    ids::{ActorId, RunId, TenantId},
};
use chimeway_testkit::{Story, TENANT};
use serde_json::json;
use tokio::sync::Barrier;

use crate::{
    invariants::audit,
    tools::{MORNING, actor, lines, place, reasons, tenant, until_somebody_waits},
};

const PURCHASE: &str = "
key: purchase
steps:
  - {id: ask, action: {type: approval, assignee: {user: carol}, timeout: 72h},
     on_outcome: {approved: {goto: accepted}, rejected: {goto: refused}, timed_out: {goto: remind}}}
  - {id: remind, action: {type: notify, channel: email}, on_outcome: {delivered: {goto: ask}}}
  - {id: accepted, action: {type: notify, channel: email}, on_outcome: {delivered: complete}}
  - {id: refused, action: {type: notify, channel: email}}
";

async fn purchase() -> Story {
    let story = Story::begin(MORNING).await;
    story.apply(PURCHASE).await;
    story
}

#[derive(Clone, Copy)]
enum Say {
    Yes,
    No,
}

async fn try_decide(
    story: &Story,
    tenant: &TenantId,
    run: RunId,
    by: &str,
    say: Say,
) -> Result<Decided, FlowError> {
    let approvals = story.chimeway().approvals();
    let mut tx = story.pool().begin().await.unwrap();
    let (by, note) = (actor(by), Some("said so"));
    let decided = match say {
        Say::Yes => approvals.approve(&mut tx, tenant, run, &by, note).await?,
        Say::No => approvals.reject(&mut tx, tenant, run, &by, note).await?,
    };
    tx.commit().await.unwrap();
    Ok(decided)
}

async fn decide(story: &Story, run: RunId, by: &str, say: Say) -> Decided {
    try_decide(story, &tenant(), run, by, say).await.unwrap()
}

async fn pending(story: &Story, assignee: Option<&str>) -> Vec<RunId> {
    let which = Pending {
        tenant: Some(tenant()),
        assignee: assignee.map(actor),
        ..Pending::default()
    };
    let mut conn = story.pool().acquire().await.unwrap();
    let approvals = story.chimeway().approvals();
    let found = approvals.pending(&mut conn, &which).await.unwrap();
    found.iter().map(|one| one.run_id).collect()
}

#[tokio::test]
async fn the_one_who_is_asked_decides_and_the_run_goes_on() {
    let story = purchase().await;
    let run = story.trigger("purchase", "ada").await;
    // Whoever makes a run does not open an approval: a worker does.
    assert_eq!(place(&story, run).await, "active in ask");
    assert!(pending(&story, None).await.is_empty());
    story.drain().await;
    assert_eq!(place(&story, run).await, "waiting in ask");
    assert_eq!(
        story.explain(run).await.next,
        "Waits for approval by `carol` until 2026-03-05T09:00:00Z; `chimeway approve` or `reject` decides."
    );
    assert_eq!(pending(&story, Some("carol")).await, [run]);
    assert!(pending(&story, Some("ada")).await.is_empty());

    let refused = decide(&story, run, "mallory", Say::Yes).await;
    assert!(matches!(refused, Decided::NotAllowed { .. }), "{refused:?}");
    let decided = decide(&story, run, "carol", Say::Yes).await;
    assert!(matches!(decided, Decided::Approved { .. }), "{decided:?}");
    assert_eq!(
        story.explain(run).await.next,
        "The approval is approved; a worker is about to go on."
    );
    assert!(pending(&story, None).await.is_empty());
    audit(story.pool()).await;

    story.drain().await;
    assert_eq!(place(&story, run).await, "completed in accepted: completed");
    let late = decide(&story, run, "carol", Say::No).await;
    let Decided::AlreadyDecided {
        decision,
        decided_by,
        ..
    } = late
    else {
        panic!("{late:?}");
    };
    assert_eq!(
        (decision.as_str(), decided_by.as_deref()),
        ("approved", Some("carol"))
    );
    assert_eq!(
        reasons(&story, run).await,
        [
            "workflow_started",
            "step_activated",
            "waiting_for_approval",
            "approval_decided",
            "step_activated",
            "workflow_completed"
        ]
    );
    // The history has the approval's id, and nothing of who or why.
    let said = lines(
        story.pool(),
        "select concat_ws(' ', t.reason, t.context, t.approval_id = a.id)
         from chimeway.workflow_transitions t, chimeway.approvals a
         where t.approval_id is not null order by t.sequence",
    )
    .await;
    insta::assert_snapshot!(said, @r#"
    waiting_for_approval {"suspended_until": "2026-03-05T09:00:00.000000Z"} t
    approval_decided {"step_key": "ask", "workflow_outcome": "approved"} t
    "#);
    let kept = "select concat_ws(' ', assignee_kind, assignee, decision, decided_by, note) from chimeway.approvals";
    assert_eq!(
        lines(story.pool(), kept).await,
        "user carol approved carol said so"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn whoever_has_the_role_when_it_is_decided() {
    let story = Story::begin(MORNING).await;
    story
        .apply("{key: k, steps: [{id: ask, action: {type: approval, assignee: {role: manager}}}]}")
        .await;
    let run = story.trigger("k", "ada").await;
    story.drain().await;
    assert_eq!(
        story.explain(run).await.next,
        "Waits for approval by anybody with the role `manager`; `chimeway approve` or `reject` decides."
    );
    let roles = story.chimeway().roles();
    let manager = "manager".parse().unwrap();
    let mut conn = story.pool().acquire().await.unwrap();
    let people: [ActorId; 2] = [actor("carol"), actor("dave")];
    assert_eq!(
        roles
            .add(&mut conn, &tenant(), &manager, &people)
            .await
            .unwrap(),
        ["carol", "dave"]
    );
    assert!(
        roles
            .add(&mut conn, &tenant(), &manager, &people)
            .await
            .unwrap()
            .is_empty()
    );
    // Another tenant's manager is none of ours.
    let elsewhere: TenantId = "org_999".parse().unwrap();
    roles
        .add(&mut conn, &elsewhere, &manager, &[actor("mallory")])
        .await
        .unwrap();
    roles
        .remove(&mut conn, &tenant(), &manager, &[actor("dave")])
        .await
        .unwrap();
    assert_eq!(
        roles.list(&mut conn, &tenant(), None).await.unwrap().len(),
        1
    );
    drop(conn);

    for by in ["mallory", "dave", "manager"] {
        let decided = decide(&story, run, by, Say::Yes).await;
        assert!(
            matches!(decided, Decided::NotAllowed { .. }),
            "{by}: {decided:?}"
        );
    }
    assert_eq!(pending(&story, Some("carol")).await, [run]);
    assert!(pending(&story, Some("dave")).await.is_empty());
    assert_eq!(
        decide(&story, run, "carol", Say::No).await.as_str(),
        "rejected"
    );
    story.drain().await;
    assert_eq!(place(&story, run).await, "stopped in ask: outcome:rejected");
    audit(story.pool()).await;
}

#[tokio::test]
async fn whoever_stands_in_the_context() {
    let story = Story::begin(MORNING).await;
    story
        .apply(
            "{key: k, steps: [{id: rest, action: {type: wait, duration: PT1H}}, \
             {id: ask, action: {type: approval, assignee: {path: context.order.manager}}}]}",
        )
        .await;
    let (known, unknown) = (
        story.trigger("k", "ada").await,
        story.trigger("k", "bob").await,
    );
    story.drain().await;
    let workflows = story.chimeway().workflows();
    let mut tx = story.pool().begin().await.unwrap();
    let locked = workflows.lock_run(&mut tx, known).await.unwrap();
    let update = RunUpdate {
        context: Some(json!({ "order": { "manager": "carol" } })),
        ..RunUpdate::default()
    };
    workflows.update_run(&mut tx, locked, update).await.unwrap();
    tx.commit().await.unwrap();
    story.advance("PT1H").await;
    assert_eq!(pending(&story, Some("carol")).await, [known]);
    assert_eq!(
        place(&story, unknown).await,
        "failed in ask: failed:assignee_missing"
    );
    assert!(
        story
            .history(unknown)
            .await
            .contains("name=context.order.manager")
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn time_decides_where_nobody_does_and_a_reminder_asks_again() {
    let story = purchase().await;
    let run = story.trigger("purchase", "ada").await;
    story.advance("PT72H").await;
    assert_eq!(place(&story, run).await, "waiting in ask");
    assert_eq!(story.sent(), ["email remind to ada"]);
    let decisions =
        "select concat_ws(' ', visit, decision, decided_by) from chimeway.approvals order by visit";
    assert_eq!(lines(story.pool(), decisions).await, "1 timed_out\n3");
    assert_eq!(
        decide(&story, run, "carol", Say::Yes).await.as_str(),
        "approved"
    );
    story.drain().await;
    assert_eq!(place(&story, run).await, "completed in accepted: completed");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_decision_that_commits_before_the_timer_wins() {
    let story = purchase().await;
    let run = story.trigger("purchase", "ada").await;
    story.drain().await;
    // The time is over, and no worker has looked.
    story.pass("PT80H").await;
    assert_eq!(
        decide(&story, run, "carol", Say::Yes).await.as_str(),
        "approved"
    );
    story.drain().await;
    assert_eq!(place(&story, run).await, "completed in accepted: completed");
    audit(story.pool()).await;
}

#[tokio::test]
async fn an_open_decision_holds_up_its_run_and_nothing_else() {
    let story = purchase().await;
    let (held, other) = (
        story.trigger("purchase", "ada").await,
        story.trigger("purchase", "bob").await,
    );
    story.drain().await;
    let mut host = story.pool().begin().await.unwrap();
    let approvals = story.chimeway().approvals();
    let carol = actor("carol");
    let decided = approvals
        .approve(&mut host, &tenant(), held, &carol, None)
        .await
        .unwrap();
    assert_eq!(decided.as_str(), "approved");
    // Its time is over while the host is thinking.
    story.pass("PT72H").await;
    story.drain().await;
    assert_eq!(place(&story, held).await, "waiting in ask");
    assert_eq!(story.sent(), ["email remind to bob"]);
    assert_eq!(place(&story, other).await, "waiting in ask");
    host.commit().await.unwrap();
    story.drain().await;
    assert_eq!(
        place(&story, held).await,
        "completed in accepted: completed"
    );

    // Rolled back, it never was.
    let mut host = story.pool().begin().await.unwrap();
    approvals
        .reject(&mut host, &tenant(), other, &carol, None)
        .await
        .unwrap();
    host.rollback().await.unwrap();
    assert_eq!(pending(&story, Some("carol")).await, [other]);
    audit(story.pool()).await;
}

#[tokio::test]
async fn of_a_hundred_who_decide_beside_the_timer_one_counts() {
    for round in 0..3_u32 {
        let story = Arc::new(purchase().await);
        let run = story.trigger("purchase", "ada").await;
        story.drain().await;
        story.pass("PT72H").await;
        let gate = Arc::new(Barrier::new(101));
        let mut callers = tokio::task::JoinSet::new();
        for number in 0..100_u32 {
            let (story, gate) = (Arc::clone(&story), Arc::clone(&gate));
            callers.spawn(async move {
                gate.wait().await;
                let say = if (number + round) % 2 == 0 {
                    Say::Yes
                } else {
                    Say::No
                };
                decide(&story, run, "carol", say).await
            });
        }
        gate.wait().await;
        story.drain().await;
        let answers: Vec<Decided> = callers.join_all().await;
        let winners = answers
            .iter()
            .filter(|one| matches!(one, Decided::Approved { .. } | Decided::Rejected { .. }));
        let winners: Vec<&str> = winners.map(Decided::as_str).collect();
        let decided = lines(
            story.pool(),
            "select decision || coalesce(' by ' || decided_by, '') from chimeway.approvals
             where visit = 1",
        )
        .await;
        match winners.as_slice() {
            [] => assert_eq!(decided, "timed_out"),
            [won] => assert_eq!(decided, format!("{won} by carol")),
            many => panic!("{many:?}"),
        }
        for answer in &answers {
            if let Decided::AlreadyDecided {
                decision,
                decided_by,
                ..
            } = answer
            {
                let said = decided_by
                    .as_ref()
                    .map_or(String::new(), |who| format!(" by {who}"));
                assert_eq!(format!("{decision}{said}"), decided);
            } else {
                assert!(winners.contains(&answer.as_str()), "{answer:?}");
            }
        }
        story.drain().await;
        audit(story.pool()).await;
    }
}

#[tokio::test]
async fn what_is_left_behind_is_withdrawn() {
    let story = purchase().await;
    let (ended, moved) = (
        story.trigger("purchase", "ada").await,
        story.trigger("purchase", "bob").await,
    );
    story.drain().await;
    let workflows = story.chimeway().workflows();
    let mut tx = story.pool().begin().await.unwrap();
    workflows
        .cancel(&mut tx, &tenant(), ended, &Stamp::by("dave"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    // Whoever decides now comes too late, before a worker has ended it too.
    assert_eq!(
        decide(&story, ended, "carol", Say::Yes).await,
        Decided::NotPending
    );
    let mut tx = story.pool().begin().await.unwrap();
    let locked = workflows.lock_run(&mut tx, moved).await.unwrap();
    let update = RunUpdate {
        current_step: Some("refused".parse().unwrap()),
        ..RunUpdate::default()
    };
    workflows.update_run(&mut tx, locked, update).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        decide(&story, moved, "carol", Say::Yes).await,
        Decided::NotPending
    );
    story.drain().await;
    assert_eq!(place(&story, ended).await, "stopped in ask: cancelled");
    assert_eq!(
        place(&story, moved).await,
        "completed in refused: completed"
    );
    assert!(pending(&story, None).await.is_empty());
    let decisions = "select distinct decision from chimeway.approvals";
    assert_eq!(lines(story.pool(), decisions).await, "withdrawn");
    audit(story.pool()).await;
}

#[tokio::test]
async fn another_tenants_run_is_not_there() {
    let story = purchase().await;
    let run = story.trigger("purchase", "ada").await;
    story.drain().await;
    let elsewhere: TenantId = "org_999".parse().unwrap();
    let decided = try_decide(&story, &elsewhere, run, "carol", Say::Yes)
        .await
        .unwrap();
    assert_eq!(decided, Decided::NotFound);
    assert_eq!(
        decide(&story, RunId::fresh(), "carol", Say::Yes).await,
        Decided::NotFound
    );
    assert_eq!(pending(&story, Some("carol")).await, [run]);
}

#[tokio::test]
async fn the_sql_functions_answer_in_a_word() {
    let story = purchase().await;
    let run = story.trigger("purchase", "ada").await;
    story.drain().await;
    let ask = async |function: &str, by: &str| -> String {
        let statement = match function {
            "approve" => "select chimeway.approve($1, $2, $3, 'a note')",
            _ => "select chimeway.reject($1, $2, $3)",
        };
        let answer = sqlx::query_scalar(statement)
            .bind(TENANT)
            .bind(run)
            .bind(by);
        answer.fetch_one(story.pool()).await.unwrap()
    };
    assert_eq!(ask("approve", "ada").await, "not_allowed");
    assert_eq!(ask("reject", "carol").await, "rejected");
    assert_eq!(ask("approve", "carol").await, "already_decided");
    story.drain().await;
    assert_eq!(place(&story, run).await, "completed in refused: completed");
    for (statement, code) in [
        (
            "select chimeway.approve('org_456', gen_random_uuid(), ' ')",
            "CW015",
        ),
        (
            "select chimeway.reject('org_456', gen_random_uuid(), 'carol', repeat('x', 1001))",
            "CW014",
        ),
    ] {
        let error = sqlx::query(statement)
            .execute(story.pool())
            .await
            .unwrap_err();
        let error = error.into_database_error().unwrap();
        assert_eq!(error.code().unwrap(), code, "{statement}");
    }
}

#[tokio::test]
async fn a_second_decision_waits_for_the_first_and_is_told_about_it() {
    let story = purchase().await;
    let run = story.trigger("purchase", "ada").await;
    story.drain().await;
    let approvals = story.chimeway().approvals();
    let carol = actor("carol");
    let mut first = story.pool().begin().await.unwrap();
    approvals
        .reject(&mut first, &tenant(), run, &carol, None)
        .await
        .unwrap();
    let second = decide(&story, run, "carol", Say::Yes);
    let commit = async {
        until_somebody_waits(story.pool()).await;
        first.commit().await.unwrap();
    };
    let (second, ()) = tokio::join!(second, commit);
    assert!(
        matches!(&second, Decided::AlreadyDecided { decision, .. } if decision == "rejected"),
        "{second:?}"
    );
}

#[tokio::test]
async fn an_approval_that_was_lost_by_hand_is_asked_for_again() {
    let story = purchase().await;
    let run = story.trigger("purchase", "ada").await;
    story.drain().await;
    sqlx::query("delete from chimeway.approvals")
        .execute(story.pool())
        .await
        .unwrap();
    let wakeless = "update chimeway.workflow_runs set wake_at = null";
    sqlx::query(wakeless).execute(story.pool()).await.unwrap();
    story.sweep().await;
    story.drain().await;
    assert_eq!(pending(&story, Some("carol")).await, [run]);
    audit(story.pool()).await;
}
