//! The inbox: delivered in-app messages, and what opening one tells the journey.

use chimeway::{
    channels::InApp,
    flow::inbox::{Mark, Page},
    ids::{ActorId, NotificationId, RunId},
};
use chimeway_testkit::Story;
use serde_json::json;
use sqlx::Connection as _;

use crate::{
    invariants::audit,
    tools::{MENTION, MORNING, actor, lines, place, tenant, until_somebody_waits},
};

async fn story() -> Story {
    let story = Story::builder()
        .channel("in_app", InApp)
        .begin(MORNING)
        .await;
    story.apply(MENTION).await;
    story
}

/// A delivered mention: its run and its item.
async fn item(story: &Story, who: &str, document: u32) -> (RunId, NotificationId) {
    let params = json!({ "document_id": document });
    let run = story.trigger_with("mention_escalation", who, params).await;
    story.advance("PT1S").await;
    let id = sqlx::query_scalar("select notification_id from chimeway.workflow_runs where id = $1")
        .bind(run.0)
        .fetch_one(story.pool())
        .await
        .unwrap();
    (run, NotificationId(id))
}

async fn mark(story: &Story, who: &ActorId, item: NotificationId, mark: Mark) -> usize {
    let mut tx = story.pool().begin().await.unwrap();
    let inbox = story.chimeway().inbox();
    let marked = inbox.mark(&mut tx, &tenant(), who, &[item], mark).await;
    tx.commit().await.unwrap();
    marked.unwrap().len()
}

/// The documents of an inbox, with what was done with each.
async fn listed(story: &Story, who: &str, page: Page) -> Vec<String> {
    let mut conn = story.pool().acquire().await.unwrap();
    let inbox = story.chimeway().inbox();
    let items = inbox.list(&mut conn, &tenant(), &actor(who), page).await;
    let line = |item: &chimeway::flow::inbox::InboxItem| {
        let mark = |name, at: Option<_>| if at.is_some() { name } else { "" };
        format!(
            "{}{}{}{}",
            item.params["document_id"],
            mark(" seen", item.seen_at),
            mark(" read", item.read_at),
            mark(" archived", item.archived_at),
        )
    };
    items.unwrap().iter().map(line).collect()
}

async fn unread(story: &Story, who: &str, archived: bool) -> i64 {
    let mut conn = story.pool().acquire().await.unwrap();
    let inbox = story.chimeway().inbox();
    inbox
        .unread_count(&mut conn, &tenant(), &actor(who), archived)
        .await
        .unwrap()
}

async fn signals(story: &Story) -> String {
    lines(
        story.pool(),
        "select concat_ws(' ', tenant_id, actor_id, event_name) from chimeway.signals order by id",
    )
    .await
}

/// Scenario 138.
#[tokio::test]
async fn an_item_is_there_once_it_was_delivered() {
    let story = story().await;
    let run = story
        .trigger_with("mention_escalation", "ada", json!({ "document_id": 1 }))
        .await;
    assert!(listed(&story, "ada", Page::default()).await.is_empty());
    assert_eq!(unread(&story, "ada", true).await, 0);
    story.drain().await;
    let mut conn = story.pool().acquire().await.unwrap();
    let inbox = story.chimeway().inbox();
    let items = inbox
        .list(&mut conn, &tenant(), &actor("ada"), Page::default())
        .await
        .unwrap();
    let mut item = serde_json::to_value(&items[0]).unwrap();
    let fields = item.as_object_mut().unwrap();
    assert_eq!(fields["run_id"], run.to_string());
    for id in ["id", "event_id", "run_id"] {
        fields.shift_remove(id);
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&item).unwrap(), @r#"
    {
      "workflow": "mention_escalation",
      "render_key": "mention_notification",
      "params": {
        "document_id": 1
      },
      "inserted_at": "2026-03-02T09:00:00Z",
      "seen_at": null,
      "read_at": null,
      "archived_at": null
    }
    "#);
    assert_eq!(unread(&story, "ada", false).await, 1);
}

#[tokio::test]
async fn a_message_over_another_channel_is_no_item() {
    let story = story().await;
    story
        .apply("{ key: mail, steps: [{ id: mail, action: { type: notify, channel: email, render_key: a } }] }")
        .await;
    story.trigger("mail", "ada").await;
    story.drain().await;
    assert!(listed(&story, "ada", Page::default()).await.is_empty());
    assert_eq!(unread(&story, "ada", true).await, 0);
}

#[tokio::test]
async fn items_are_listed_newest_first_in_pages() {
    let story = story().await;
    let mut ids = vec![];
    for document in 1..=5 {
        ids.push(item(&story, "ada", document).await.1);
    }
    item(&story, "bob", 99).await;
    assert_eq!(
        listed(&story, "ada", Page::default()).await,
        ["5", "4", "3", "2", "1"]
    );
    let page = |before| Page {
        limit: 2,
        before,
        ..Page::default()
    };
    assert_eq!(listed(&story, "ada", page(None)).await, ["5", "4"]);
    assert_eq!(listed(&story, "ada", page(Some(ids[3]))).await, ["3", "2"]);
    assert_eq!(listed(&story, "ada", page(Some(ids[1]))).await, ["1"]);
    assert!(listed(&story, "ada", page(Some(ids[0]))).await.is_empty());
}

/// Scenarios 133, 136, 138.
#[tokio::test]
async fn each_mark_sets_its_own_instant_and_keeps_the_first() {
    let story = story().await;
    let (_, seen) = item(&story, "ada", 1).await;
    let (_, read) = item(&story, "ada", 2).await;
    let (_, archived) = item(&story, "ada", 3).await;
    let (_, archived_read) = item(&story, "ada", 4).await;
    item(&story, "ada", 5).await;
    let ada = actor("ada");
    for _ in 0..2 {
        for (item, how) in [
            (seen, Mark::Seen),
            (read, Mark::Read),
            (archived, Mark::Archived),
            (archived_read, Mark::Read),
            (archived_read, Mark::Archived),
        ] {
            assert_eq!(mark(&story, &ada, item, how).await, 1);
        }
        story.pass("PT1H").await;
    }
    assert_eq!(
        listed(&story, "ada", Page::default()).await,
        ["5", "2 read", "1 seen"]
    );
    let all = Page {
        archived: true,
        ..Page::default()
    };
    assert_eq!(
        listed(&story, "ada", all).await,
        ["5", "4 read archived", "3 archived", "2 read", "1 seen"]
    );
    assert_eq!(unread(&story, "ada", false).await, 2);
    assert_eq!(unread(&story, "ada", true).await, 3);
    let instants = lines(
        story.pool(),
        "select distinct coalesce(seen_at, read_at, archived_at) at time zone 'utc' || ''
         from chimeway.notifications where coalesce(seen_at, read_at, archived_at) is not null",
    );
    assert_eq!(instants.await, "2026-03-02 09:00:05");
}

#[tokio::test]
async fn reading_an_item_stops_its_journey_and_no_other() {
    let story = story().await;
    let (first, _) = item(&story, "ada", 1).await;
    let (second, read) = item(&story, "ada", 2).await;
    assert_eq!(mark(&story, &actor("ada"), read, Mark::Read).await, 1);
    assert_eq!(signals(&story).await, "org_456 ada notification_read");
    story.drain().await;
    assert_eq!(
        place(&story, second).await,
        "stopped in step_wait_for_read: stop_condition:notification_read"
    );
    assert_eq!(place(&story, first).await, "waiting in step_wait_for_read");
    story.advance("PT2H").await;
    assert_eq!(story.sent(), ["email mention_email to ada"]);
    audit(story.pool()).await;
}

#[tokio::test]
async fn seeing_and_archiving_tell_nothing() {
    let story = story().await;
    let (run, item) = item(&story, "ada", 1).await;
    for how in [Mark::Seen, Mark::Archived] {
        mark(&story, &actor("ada"), item, how).await;
    }
    assert_eq!(signals(&story).await, "");
    story.drain().await;
    assert_eq!(place(&story, run).await, "waiting in step_wait_for_read");
}

#[tokio::test]
async fn a_second_reading_tells_nothing() {
    let story = story().await;
    let (_, item) = item(&story, "ada", 1).await;
    for _ in 0..3 {
        assert_eq!(mark(&story, &actor("ada"), item, Mark::Read).await, 1);
    }
    assert_eq!(signals(&story).await, "org_456 ada notification_read");
}

#[tokio::test]
async fn reading_has_the_fate_of_the_hosts_transaction() {
    let story = story().await;
    let (run, item) = item(&story, "ada", 1).await;
    let mut tx = story.pool().begin().await.unwrap();
    let inbox = story.chimeway().inbox();
    inbox
        .mark(&mut tx, &tenant(), &actor("ada"), &[item], Mark::Read)
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(signals(&story).await, "");
    assert_eq!(unread(&story, "ada", false).await, 1);
    story.advance("PT2H").await;
    assert_eq!(
        place(&story, run).await,
        "completed in step_email_escalation: completed"
    );
}

#[tokio::test]
async fn nobody_marks_an_item_of_somebody_else() {
    let story = story().await;
    let (_, mine) = item(&story, "ada", 1).await;
    let (_, other) = item(&story, "bob", 2).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let inbox = story.chimeway().inbox();
    let elsewhere = "org_999".parse().unwrap();
    for how in [Mark::Seen, Mark::Read, Mark::Archived] {
        let marked = inbox
            .mark(&mut conn, &elsewhere, &actor("ada"), &[mine], how)
            .await;
        assert!(marked.unwrap().is_empty());
        let marked = inbox
            .mark(&mut conn, &tenant(), &actor("ada"), &[other], how)
            .await;
        assert!(marked.unwrap().is_empty());
    }
    assert_eq!(signals(&story).await, "");
    assert_eq!(
        lines(
            story.pool(),
            "select count(*)::text from chimeway.notifications
             where coalesce(seen_at, read_at, archived_at) is not null"
        )
        .await,
        "0"
    );
    // Of a list of both, only theirs.
    let marked = inbox
        .mark(
            &mut conn,
            &tenant(),
            &actor("ada"),
            &[other, mine],
            Mark::Read,
        )
        .await;
    assert_eq!(marked.unwrap(), [mine]);
    for (tenant, who) in [(&elsewhere, "ada"), (&tenant(), "cleo")] {
        let items = inbox
            .list(&mut conn, tenant, &actor(who), Page::default())
            .await;
        assert!(items.unwrap().is_empty());
        let count = inbox
            .unread_count(&mut conn, tenant, &actor(who), true)
            .await;
        assert_eq!(count.unwrap(), 0);
    }
}

/// Two windows of one person: the second waits for the first, and tells nothing.
#[tokio::test]
async fn two_readings_at_once_tell_it_once() {
    let story = story().await;
    let (_, item) = item(&story, "ada", 1).await;
    let mut first = story.pool().begin().await.unwrap();
    let inbox = story.chimeway().inbox();
    inbox
        .mark(&mut first, &tenant(), &actor("ada"), &[item], Mark::Read)
        .await
        .unwrap();
    let mut conn = story.db().connect().await;
    let second = tokio::spawn(async move {
        let mut tx = conn.begin().await.unwrap();
        let marked = inbox
            .mark(&mut tx, &tenant(), &actor("ada"), &[item], Mark::Read)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        marked
    });
    until_somebody_waits(story.pool()).await;
    first.commit().await.unwrap();
    assert_eq!(second.await.unwrap(), [item]);
    assert_eq!(signals(&story).await, "org_456 ada notification_read");
}

/// Read in the inbox before the run has come to its wait.
#[tokio::test]
async fn an_item_that_is_read_at_once_ends_the_wait_as_it_begins() {
    let story = story().await;
    story
        .apply(
            r"
key: twofold
steps:
  - { id: in_app, action: { type: notify, channel: in_app, render_key: a } }
  - { id: mail, action: { type: notify, channel: email, render_key: a } }
  - { id: pause, action: { type: wait, duration: PT1H, stop_conditions: [{ type: signal_received, signal_type: notification_read }] } }
  - { id: again, action: { type: notify, channel: email, render_key: b } }
",
        )
        .await;
    story
        .channel()
        .answer([chimeway_testkit::Answer::Temporary(None)]);
    let run = story.trigger("twofold", "ada").await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "active in mail");
    let item = lines(story.pool(), "select id::text from chimeway.notifications").await;
    mark(&story, &actor("ada"), item.parse().unwrap(), Mark::Read).await;
    story.advance("PT15S").await;
    assert_eq!(
        place(&story, run).await,
        "stopped in pause: stop_condition:notification_read"
    );
    audit(story.pool()).await;
}
