//! Reading an item, and what its journey hears of it.

use chimeway::flow::inbox::Mark;
use chimeway_testkit::Story;

use super::{KEY, emails, listening, notification_of};
use crate::{
    invariants::audit,
    tools::{MORNING, actor, lines, place, reasons, tenant},
};

/// Scenario 79.
#[tokio::test]
async fn reading_an_item_ends_the_wait_that_a_rule_of_the_original_names() {
    let story = Story::begin(MORNING).await;
    for (key, signal, who) in [
        ("theirs", "chimeway.notification.read", "ada"),
        ("ours", "notification_read", "bob"),
    ] {
        story.apply(&listening(signal).replace(KEY, key)).await;
        let run = story.trigger(key, who).await;
        story.drain().await;
        let item = notification_of(&story, run).await;
        let mut tx = story.pool().begin().await.unwrap();
        let inbox = story.chimeway().inbox();
        let marked = inbox
            .mark(&mut tx, &tenant(), &actor(who), &[item], Mark::Read)
            .await;
        assert_eq!(marked.unwrap(), [item]);
        tx.commit().await.unwrap();
        assert_eq!(story.drain().await.signals, 1);
        assert_eq!(
            place(&story, run).await,
            "stopped in in_app.wait: stop_condition:notification_read"
        );
        assert_eq!(
            reasons(&story, run).await[3..],
            ["signal_received", "workflow_stopped"]
        );
        let context = "select distinct context::text from chimeway.workflow_transitions
                       where reason = 'signal_received'";
        assert_eq!(
            lines(story.pool(), context).await,
            r#"{"event_name": "notification_read"}"#
        );
        story.advance("P1D").await;
        assert_eq!(emails(&story).await, 0);
    }
    audit(story.pool()).await;
}
