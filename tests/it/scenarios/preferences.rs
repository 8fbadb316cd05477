//! What recipients want, at planning and at sending.

use chimeway::{
    Document,
    definition::{Known, validate},
    flow::{Preference, inbox::Mark},
};
use chimeway_testkit::Story;
use serde_json::json;

use super::{BASE, KEY, jobs, notification_of};
use crate::{
    fleet::number,
    invariants::audit,
    tools::{MORNING, actor, deliveries, lines, place, tenant},
};

fn channel(name: &str) -> Preference {
    Preference::Channel(name.parse().unwrap())
}

fn category(name: &str) -> Preference {
    Preference::Category(name.parse().unwrap())
}

async fn set(story: &Story, about: Preference, wanted: bool) {
    let mut conn = story.pool().acquire().await.unwrap();
    let preferences = story.chimeway().preferences();
    preferences
        .set(&mut conn, &tenant(), &actor("ada"), &[(about, wanted)])
        .await
        .unwrap();
}

/// Scenario 139.
#[tokio::test]
async fn everything_is_wanted_until_somebody_says_no() {
    let story = Story::begin(MORNING).await;
    let enabled = async || {
        let mut conn = story.pool().acquire().await.unwrap();
        let preferences = story.chimeway().preferences();
        let about = channel("email");
        preferences
            .is_enabled(&mut conn, &tenant(), &actor("ada"), &about)
            .await
            .unwrap()
    };
    assert!(enabled().await);
    for wanted in [false, true, false] {
        set(&story, channel("email"), wanted).await;
        assert_eq!(enabled().await, wanted);
        let rows = "select count(*) from chimeway.preferences";
        assert_eq!(number(story.pool(), rows).await, 1);
    }
}

const CHECKPOINT: &str =
    "select concat_ws(' ', channel, status, status_reason, checkpoint, attempts,
        coalesce(next_attempt_at::text, 'not due'))
    from chimeway.deliveries order by inserted_at, id";

/// Scenario 140.
#[tokio::test]
async fn a_channel_that_is_not_wanted_is_suppressed_when_the_message_is_planned() {
    let story = Story::begin(MORNING).await;
    story.apply(BASE).await;
    set(&story, channel("in_app"), false).await;
    let run = story.trigger(KEY, "ada").await;
    assert_eq!(
        lines(story.pool(), CHECKPOINT).await,
        "in_app suppressed channel_disabled planning 0 not due"
    );
    story.drain().await;
    assert!(story.sent().is_empty());
    let tries = "select count(*) from chimeway.delivery_attempts";
    assert_eq!(number(story.pool(), tries).await, 0);
    assert_eq!(jobs(&story).await, 1, "the end of the wait");
    assert_eq!(place(&story, run).await, "waiting in in_app.wait");
    audit(story.pool()).await;
}

/// Scenario 142.
#[tokio::test]
async fn a_category_that_is_not_wanted_is_suppressed_when_the_message_is_planned() {
    let story = Story::begin(MORNING).await;
    story.apply(BASE).await;
    set(&story, category("marketing"), false).await;
    story
        .trigger_with(KEY, "ada", json!({ "category": "marketing" }))
        .await;
    assert_eq!(
        lines(story.pool(), CHECKPOINT).await,
        "in_app suppressed category_disabled planning 0 not due"
    );
    story.drain().await;
    assert!(story.sent().is_empty());
    story
        .trigger_with(KEY, "ada", json!({ "category": "billing" }))
        .await;
    story.drain().await;
    assert_eq!(story.sent().len(), 1);
    audit(story.pool()).await;
}

/// An email after the inbox: a fallback where it says so.
fn fallback(key: &str, flag: &str) -> String {
    format!(
        "
key: {key}
steps:
  - {{ id: in_app, action: {{ type: notify, channel: in_app, render_key: hello }} }}
  - {{ id: pause, action: {{ type: wait, duration: PT1H }} }}
  - {{ id: email, action: {{ type: notify, channel: email, render_key: hello{flag} }} }}
"
    )
}

/// Scenario 146.
#[tokio::test]
async fn a_fallback_is_sent_to_who_has_not_read() {
    let story = Story::begin(MORNING).await;
    for (key, flag) in [
        ("fallback", ", unless_read: true"),
        ("no_fallback", ", unless_read: false"),
        ("plain", ""),
    ] {
        story.apply(&fallback(key, flag)).await;
    }
    let mut said = vec![];
    for (key, reads) in [
        ("fallback", true),
        ("fallback", false),
        ("no_fallback", true),
        ("plain", true),
    ] {
        let run = story.trigger(key, "ada").await;
        story.drain().await;
        if reads {
            let item = notification_of(&story, run).await;
            let mut conn = story.pool().acquire().await.unwrap();
            let inbox = story.chimeway().inbox();
            inbox
                .mark(&mut conn, &tenant(), &actor("ada"), &[item], Mark::Read)
                .await
                .unwrap();
        }
        story.advance("PT1H").await;
        let rows = deliveries(story.pool()).await;
        said.push(format!(
            "{key}, read {reads}: {}",
            rows.lines().last().unwrap()
        ));
    }
    insta::assert_snapshot!(said.join("\n"), @"
    fallback, read true: email suppressed already_read attempts=0
    fallback, read false: email succeeded attempts=1
    no_fallback, read true: email succeeded attempts=1
    plain, read true: email succeeded attempts=1
    ");
    audit(story.pool()).await;
}

/// Scenario 146.
#[tokio::test]
async fn a_fallback_that_is_already_due_looks_once_more_when_it_is_sent() {
    let story = Story::begin(MORNING).await;
    story
        .apply(&fallback("fallback", ", unless_read: true"))
        .await;
    story.trigger("fallback", "ada").await;
    story.drain().await;
    super::hold_emails(&story).await;
    story.advance("PT1H").await;
    sqlx::query("update chimeway.notifications set read_at = chimeway.now()")
        .execute(story.pool())
        .await
        .unwrap();
    story.advance("PT1H").await;
    let rows = lines(story.pool(), CHECKPOINT).await;
    assert_eq!(
        rows.lines().last().unwrap(),
        "email suppressed already_read claim 0 not due"
    );
    audit(story.pool()).await;
}

/// Scenario 147.
#[test]
fn a_fallback_goes_over_a_known_channel_that_is_not_the_inbox() {
    let refused = |channel: &str| {
        let document = fallback("fallback", ", unless_read: true");
        let document = document.replace("channel: email", &format!("channel: {channel}"));
        let document = Document::from_yaml("test", &document).unwrap();
        let mistakes = validate(&document, &Known::default()).unwrap_err();
        let lines: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        lines.join("\n")
    };
    insta::assert_snapshot!([refused("in_app"), refused("pigeon")].join("\n"), @"
    /steps/2/action/unless_read: an in_app message cannot depend on whether it was read; a fallback goes over another channel, `email` for instance
    /steps/2/action/channel: unknown channel `pigeon`; known: email, in_app, log, webhook
    ");
}
