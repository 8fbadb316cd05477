//! `chimeway pending`, `approve`, `reject` and `roles`, with real processes.

use chimeway_testkit::Story;

use crate::{
    programs::chimeway,
    tools::{MORNING, place},
};

const PURCHASE: &str = "
key: purchase
steps:
  - {id: ask, action: {type: approval, assignee: {role: manager}, timeout: 72h}}
";

async fn waiting() -> (Story, String, String) {
    let story = Story::begin(MORNING).await;
    story.apply(PURCHASE).await;
    let run = story.trigger("purchase", "ada").await;
    story.drain().await;
    let url = story.db().url();
    (story, url, run.to_string())
}

#[tokio::test]
async fn a_manager_is_named_sees_what_waits_and_approves() {
    let (story, url, run) = waiting().await;
    let ran = |words: &[&str]| chimeway(&url, words);
    let approve = ["approve", &run, "--tenant", "org_456", "--by", "carol"];

    let refused = ran(&approve).expect(1).err;
    assert!(
        refused.contains("`carol` is not asked; `chimeway pending --tenant org_456`"),
        "{refused}"
    );
    let given = ran(&[
        "roles", "add", "manager", "carol", "dave", "--tenant", "org_456",
    ]);
    assert_eq!(given.expect(0).out, "`manager` given to 2 people\n");
    let roles = ran(&["roles", "list", "--tenant", "org_456"]).expect(0).out;
    assert!(roles.contains("manager  carol"), "{roles}");

    let pending = ran(&["pending", "--tenant", "org_456", "--assignee", "carol"])
        .expect(0)
        .out;
    assert!(
        pending.contains(&run) && pending.contains("role manager"),
        "{pending}"
    );
    assert!(pending.contains("2026-03-05 09:00:00Z"), "{pending}");
    let pending = ran(&["pending", "--json"]).expect(0).json();
    assert_eq!(pending[0]["run_id"], run);
    assert_eq!(pending[0]["assignee"], "manager");
    let none = ran(&["pending", "--tenant", "org_456", "--assignee", "ada"])
        .expect(0)
        .out;
    assert_eq!(none, "nothing is waiting for approval\n");
    let explained = ran(&["explain", &run, "--tenant", "org_456"]).expect(0).out;
    assert!(
        explained.contains(
            "Waits for approval by anybody with the role `manager` until 2026-03-05T09:00:00Z"
        ),
        "{explained}"
    );

    let approved = ran(&[&approve[..], &["--note", "in budget"]].concat())
        .expect(0)
        .out;
    assert_eq!(approved, format!("approved {run}; a worker moves it on\n"));
    story.drain().await;
    assert_eq!(
        place(&story, run.parse().unwrap()).await,
        "completed in ask: completed"
    );
    let late = ran(&["reject", &run, "--tenant", "org_456", "--by", "dave"])
        .expect(1)
        .err;
    assert!(
        late.contains("it was approved by carol at 2026-03-02 09:00:00Z already"),
        "{late}"
    );
    let explained = ran(&["explain", &run, "--tenant", "org_456"]).expect(0).out;
    assert!(
        explained.contains(
            "approval  approved by carol at 2026-03-02 09:00:00Z, asked role manager in ask"
        ),
        "{explained}"
    );

    let taken = ran(&[
        "roles", "remove", "manager", "dave", "--tenant", "org_456", "--json",
    ])
    .expect(0)
    .json();
    assert_eq!(taken["removed"][0], "dave");
}

#[tokio::test]
async fn what_is_not_there_or_not_open_is_told_apart() {
    let (story, url, run) = waiting().await;
    let ran = |words: &[&str]| chimeway(&url, words);
    let nobodys = "0198f2c4-0000-7000-8000-000000000000";
    for (id, tenant) in [(nobodys, "org_456"), (run.as_str(), "org_999")] {
        let missing = ran(&["approve", id, "--tenant", tenant, "--by", "carol"])
            .expect(3)
            .err;
        assert!(missing.contains("has no run"), "{missing}");
    }
    let ended = ran(&["cancel", &run, "--tenant", "org_456"]);
    ended.expect(0);
    let late = ran(&["approve", &run, "--tenant", "org_456", "--by", "carol"])
        .expect(1)
        .err;
    assert!(late.contains("the run waits for no approval"), "{late}");
    story.drain().await;
}

#[tokio::test]
async fn a_workflow_is_shown_in_both_ways_of_writing_it() {
    let story = Story::begin(MORNING).await;
    let rocket = r#"{"name": "orders", "trigger": {"type": "state_change", "entity": "order",
        "field": "status", "to": "submitted"}, "context": {"total": "trigger.record.total"}, "steps": [
        {"id": "large", "type": "condition", "expression": "context.total > 1000", "on_true": {"goto": "ask"},
         "on_false": "end"},
        {"id": "ask", "type": "approval", "assignee": {"type": "role", "role": "manager"},
         "timeout": "72h", "on_approve": {"goto": "tell"}, "on_reject": "end"},
        {"id": "tell", "type": "action", "actions": [{"type": "send_event", "event": "approved"}],
         "then": "end"}]}"#;
    story.apply(rocket).await;
    story.apply(PURCHASE).await;
    let url = story.db().url();
    let shown = chimeway(&url, &["workflows", "show", "orders", "--format", "rocket"]).expect(0);
    insta::assert_snapshot!(shown.out, @"");
    // Either way it is the same workflow again.
    story.apply(&shown.out).await;
    let yaml = chimeway(&url, &["workflows", "show", "orders", "--format", "yaml"]).expect(0);
    story.apply(&yaml.out).await;
    let version = "select max(workflow_version)::text from chimeway.workflow_definitions where workflow_key = 'orders'";
    assert_eq!(crate::tools::lines(story.pool(), version).await, "1");
    let refused = chimeway(
        &url,
        &["workflows", "show", "purchase", "--format", "rocket"],
    )
    .expect(1);
    assert!(
        refused.err.contains("the workflow has no trigger"),
        "{}",
        refused.err
    );
}
