//! Definitions, as triggers store and refuse them. What the rule dialect takes is tested beside its
//! reader.

use chimeway::{Document, Recipient, Trigger, Workflow};
use chimeway_testkit::Story;

use super::BASE;
use crate::tools::{MORNING, actor, lines, tenant, trigger, written};

struct Notifier(String);

impl Workflow for Notifier {
    fn workflow(&self) -> Document {
        Document::from_yaml("notifier", &self.0).unwrap()
    }
}

fn by(document: &str) -> Trigger {
    Trigger::of(&Notifier(document.to_owned()), tenant())
        .unwrap()
        .recipient(Recipient::new(actor("ada")))
}

/// Scenario 16.
#[tokio::test]
async fn equal_steps_are_stored_once() {
    let story = Story::begin(MORNING).await;
    for _ in 0..2 {
        trigger(story.chimeway(), story.pool(), by(BASE))
            .await
            .unwrap();
    }
    let stored = "select concat_ws(' ', (select count(*) from chimeway.workflow_definitions),
                    (select count(*) from chimeway.workflow_steps),
                    count(*), count(distinct workflow_definition_id))
                  from chimeway.workflow_runs";
    assert_eq!(lines(story.pool(), stored).await, "1 3 2 1");
}

/// Scenario 17.
#[tokio::test]
async fn other_steps_under_a_stored_version_are_refused_with_their_trigger() {
    let story = Story::begin(MORNING).await;
    trigger(story.chimeway(), story.pool(), by(BASE))
        .await
        .unwrap();
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    let other = by(&BASE.replace("1800", "1801"));
    let refused = trigger(story.chimeway(), story.pool(), other).await;
    assert_eq!(
        refused.unwrap_err().code(),
        "workflow_definition_version_conflict"
    );
    // Even where the caller commits what is left of its transaction.
    let mut tx = story.pool().begin().await.unwrap();
    let other = by(&BASE.replace("bounced", "suppressed"));
    let refused = story.chimeway().trigger(&mut tx, other).await;
    assert_eq!(
        refused.unwrap_err().code(),
        "workflow_definition_version_conflict"
    );
    tx.commit().await.unwrap();
    assert_eq!(written(&mut conn).await, before);
}

/// Scenario 20.
#[tokio::test]
async fn content_without_a_name_is_refused() {
    let story = Story::begin(MORNING).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    let mut said = vec![];
    for document in [
        BASE.replace("channel: email}", "channel: email, render_key: ' '}"),
        BASE.replace("workflow_version: 1", "workflow_version: 0"),
    ] {
        let refused = trigger(story.chimeway(), story.pool(), by(&document)).await;
        said.push(refused.unwrap_err().to_string());
    }
    insta::assert_snapshot!(said.join("\n"), @"
    the definition has a mistake: /steps/1/render_key: the render key is blank
    the definition has a mistake: /workflow_version: a version is a whole number from 1 to 2147483647, found 0
    ");
    assert_eq!(written(&mut conn).await, before);
}
