//! Versions of workflows: immutable, counted by content, the same for everybody who applies at once.

use std::sync::Arc;

use chimeway::{
    Document, FlowError,
    flow::{Applied, ApplyStatus},
    store::workflows,
};
use chimeway_testkit::Story;
use sqlx::Executor as _;
use tokio::sync::Barrier;

use crate::{
    invariants::audit,
    tools::{MENTION, MORNING, lines, place, trigger, trigger_of, written},
};

async fn apply(story: &Story, yaml: &str) -> Result<Applied, FlowError> {
    let document = Document::from_yaml("test", yaml).unwrap();
    story.chimeway().apply(story.pool(), &document).await
}

async fn applied(story: &Story, yaml: &str) -> (i32, ApplyStatus) {
    let applied = apply(story, yaml).await.unwrap();
    (applied.version.0, applied.status)
}

fn greeting(content: &str) -> String {
    format!(
        "{{ key: greeting, steps: [{{ id: greet, action: {{ type: notify, channel: email, render_key: {content} }} }}] }}"
    )
}

#[tokio::test]
async fn the_same_content_is_the_same_version_and_changed_content_the_next() {
    let story = Story::begin(MORNING).await;
    let mut results = vec![];
    for content in ["a", "a", "b", "b", "a"] {
        results.push(applied(&story, &greeting(content)).await);
    }
    use ApplyStatus::{Applied, Unchanged};
    // What was stored once and changed since is a new version, not the old one.
    assert_eq!(
        results,
        [
            (1, Applied),
            (1, Unchanged),
            (2, Applied),
            (2, Unchanged),
            (3, Applied)
        ]
    );
    // However it is written.
    let same = r#"
steps:
  - action: {channel: "email", render_key: a, type: "notify"}
    on_outcome: { delivered: next }
    "id": greet
key: greeting
"#;
    assert_eq!(applied(&story, same).await, (3, Unchanged));
    assert_eq!(
        lines(
            story.pool(),
            "select concat_ws(' ', d.workflow_version, s.step_order, s.step_key, s.config #>> '{action,render_key}')
             from chimeway.workflow_definitions d
             join chimeway.workflow_steps s on s.workflow_definition_id = d.id
             order by d.workflow_version"
        )
        .await,
        "1 1 greet a\n2 1 greet b\n3 1 greet a"
    );
}

#[tokio::test]
async fn a_given_version_keeps_its_content() {
    let story = Story::begin(MORNING).await;
    let version = |number: i32, content: &str| {
        greeting(content).replacen(
            "key: greeting,",
            &format!("key: greeting, version: {number},"),
            1,
        )
    };
    assert_eq!(
        applied(&story, &version(3, "a")).await,
        (3, ApplyStatus::Applied)
    );
    assert_eq!(
        applied(&story, &version(3, "a")).await,
        (3, ApplyStatus::Unchanged)
    );
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    let conflict = apply(&story, &version(3, "b")).await.unwrap_err();
    assert_eq!(conflict.code(), "workflow_definition_version_conflict");
    insta::assert_snapshot!(conflict, @"workflow_definition_version_conflict: `greeting` version 3 is stored with other steps; give it a new version, or leave the version out");
    assert_eq!(written(&mut conn).await, before);

    // Counted from the highest; an older one may still be stored, and triggers start the highest.
    assert_eq!(
        applied(&story, &greeting("c")).await,
        (4, ApplyStatus::Applied)
    );
    assert_eq!(
        applied(&story, &version(1, "old")).await,
        (1, ApplyStatus::Applied)
    );
    story.trigger("greeting", "ada").await;
    story.drain().await;
    assert_eq!(story.sent(), ["email c to ada"]);
}

#[tokio::test]
async fn eight_that_apply_the_same_at_once_store_one_version() {
    let story = Story::begin(MORNING).await;
    let mut last = 0;
    // The first version of a workflow, the next one, and a given one.
    for (document, version) in [
        (greeting("a"), 1),
        (greeting("b"), 2),
        (
            greeting("c").replacen("greeting,", "greeting, version: 7,", 1),
            7,
        ),
    ] {
        let together = Arc::new(Barrier::new(8));
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (chimeway, pool) = (story.chimeway().clone(), story.pool().clone());
            let (document, together) = (document.clone(), Arc::clone(&together));
            callers.spawn(async move {
                let document = Document::from_yaml("test", &document).unwrap();
                together.wait().await;
                chimeway.apply(&pool, &document).await.unwrap()
            });
        }
        let all = callers.join_all().await;
        assert!(all.iter().all(|one| one.version.0 == version), "{all:?}");
        let stored = all.iter().filter(|one| one.status == ApplyStatus::Applied);
        assert_eq!(stored.count(), 1);
        last += 1;
        let count: i64 = sqlx::query_scalar("select count(*) from chimeway.workflow_definitions")
            .fetch_one(story.pool())
            .await
            .unwrap();
        assert_eq!(count, last);
    }
}

#[tokio::test]
async fn eight_that_apply_different_content_at_once_store_a_version_each() {
    let story = Story::begin(MORNING).await;
    let together = Arc::new(Barrier::new(8));
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (chimeway, pool) = (story.chimeway().clone(), story.pool().clone());
        let together = Arc::clone(&together);
        callers.spawn(async move {
            let text = greeting(&format!("content_{number}"));
            let document = Document::from_yaml("test", &text).unwrap();
            together.wait().await;
            chimeway.apply(&pool, &document).await.unwrap().version.0
        });
    }
    let mut versions = callers.join_all().await;
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn a_running_journey_keeps_its_version_to_the_end() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let old = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    let changed = MENTION
        .replace("PT2H", "PT1H")
        .replace("mention_email", "mention_email_2");
    assert_eq!(applied(&story, &changed).await, (2, ApplyStatus::Applied));
    let new = story.trigger("mention_escalation", "bob").await;
    story.drain().await;
    story.advance("PT1H").await;
    assert_eq!(story.sent()[2..], ["email mention_email_2 to bob"]);
    story.advance("PT1H").await;
    assert_eq!(story.sent()[3..], ["email mention_email to ada"]);
    assert_eq!(story.explain(old).await.version, Some(1));
    assert_eq!(story.explain(new).await.version, Some(2));
    audit(story.pool()).await;
}

/// The event pins the version that was the latest when it was triggered.
#[tokio::test]
async fn an_event_that_a_worker_expands_keeps_the_version_of_its_trigger() {
    let story = Story::begin(MORNING).await;
    story.apply(&greeting("a")).await;
    sqlx::query("select chimeway.trigger('greeting', '{\"actor_id\": \"ada\"}', 'org_456')")
        .execute(story.pool())
        .await
        .unwrap();
    story.apply(&greeting("b")).await;
    story.drain().await;
    assert_eq!(story.sent(), ["email a to ada"]);
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_paused_workflow_starts_nothing_and_goes_on_with_what_runs() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let run = story.trigger("mention_escalation", "ada").await;
    story.drain().await;
    let mut conn = story.pool().acquire().await.unwrap();
    assert!(
        workflows::set_active(&mut conn, "mention_escalation", false)
            .await
            .unwrap()
    );
    assert!(
        !workflows::set_active(&mut conn, "no_such_thing", false)
            .await
            .unwrap()
    );
    let before = written(&mut conn).await;
    let bob = || trigger_of("mention_escalation", "bob");
    let refused = trigger(story.chimeway(), story.pool(), bob()).await;
    assert_eq!(refused.unwrap_err().code(), "workflow_paused");
    assert_eq!(written(&mut conn).await, before);

    // A new version does not resume it.
    story.apply(&MENTION.replace("PT2H", "PT1H")).await;
    let refused = trigger(story.chimeway(), story.pool(), bob()).await;
    assert_eq!(refused.unwrap_err().code(), "workflow_paused");

    story.advance("PT2H").await;
    assert_eq!(
        place(&story, run).await,
        "completed in step_email_escalation: completed"
    );
    workflows::set_active(&mut conn, "mention_escalation", true)
        .await
        .unwrap();
    trigger(story.chimeway(), story.pool(), bob())
        .await
        .unwrap();
    story.drain().await;
    assert_eq!(story.sent().len(), 3);
    audit(story.pool()).await;
}

#[tokio::test]
async fn stored_definitions_and_history_are_never_changed() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    story.trigger("mention_escalation", "ada").await;
    for sql in [
        "update chimeway.workflow_definitions set document = '{}'",
        "update chimeway.workflow_steps set step_key = 'other'",
        "update chimeway.workflow_transitions set reason = 'other'",
    ] {
        let refused = story.pool().execute(sql).await.unwrap_err().to_string();
        assert!(refused.contains("is never changed"), "{refused}");
    }
}

#[tokio::test]
async fn a_document_with_mistakes_stores_nothing_and_names_them_all() {
    let story = Story::begin(MORNING).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    let refused = apply(
        &story,
        "{ key: wrong, steps: [
            { id: a, action: { type: notify, channel: pigeon, render_key: a } },
            { id: a, action: { type: wait, duration: two hours } },
        ] }",
    )
    .await
    .unwrap_err();
    let FlowError::InvalidDefinition(mistakes) = &refused else {
        panic!("{refused}")
    };
    let all: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(format!("{refused}\n\n{}", all.join("\n")), @r#"
    the definition has 3 mistakes; the first: /steps/0/action/channel: unknown channel `pigeon`; known: email, in_app, log, webhook

    /steps/0/action/channel: unknown channel `pigeon`; known: email, in_app, log, webhook
    /steps/1/id: the step id `a` is taken by /steps/0/id
    /steps/1/action/duration: the duration `two hours` is not an ISO 8601 duration; write it like `PT2H`, `P3D` or `72h`
    "#);
    assert_eq!(written(&mut conn).await, before);
}
