//! What recipients want to be sent, and fallbacks for those who have not read.

use chimeway::{
    flow::{Preference, inbox::Mark},
    ids::NotificationId,
};
use chimeway_testkit::{Answer, Story};
use serde_json::json;

use crate::{
    invariants::audit,
    tools::{MORNING, actor, lines, place, tenant},
};

/// A message in the app, and a mail an hour later.
const TWICE: &str = r"
key: twice
steps:
  - { id: in_app, action: { type: notify, channel: in_app, render_key: hello } }
  - { id: pause, action: { type: wait, duration: PT1H } }
  - { id: mail, action: { type: notify, channel: email, render_key: hello, category: news, unless_read: true } }
";

async fn twice() -> Story {
    let story = Story::begin(MORNING).await;
    story.apply(TWICE).await;
    story
}

async fn say(story: &Story, who: &str, about: Preference, wanted: bool) {
    let mut conn = story.pool().acquire().await.unwrap();
    let preferences = story.chimeway().preferences();
    let said = [(about, wanted)];
    preferences
        .set(&mut conn, &tenant(), &actor(who), &said)
        .await
        .unwrap();
}

fn channel(name: &str) -> Preference {
    Preference::Channel(name.parse().unwrap())
}

fn category(name: &str) -> Preference {
    Preference::Category(name.parse().unwrap())
}

async fn read(story: &Story, who: &str) {
    let mut tx = story.pool().begin().await.unwrap();
    let items = lines(story.pool(), "select id::text from chimeway.notifications").await;
    let items: Vec<NotificationId> = items.lines().map(|id| id.parse().unwrap()).collect();
    let inbox = story.chimeway().inbox();
    inbox
        .mark(&mut tx, &tenant(), &actor(who), &items, Mark::Read)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

/// Every delivery: channel, status, why, where that was decided, tries.
async fn decided(story: &Story) -> String {
    lines(
        story.pool(),
        "select concat_ws(' ', channel, status, status_reason, checkpoint, 'attempts=' || attempts)
         from chimeway.deliveries order by inserted_at, id",
    )
    .await
}

#[tokio::test]
async fn a_channel_that_is_not_wanted_is_suppressed_as_it_is_planned_and_the_journey_goes_on() {
    let story = twice().await;
    say(&story, "ada", channel("in_app"), false).await;
    let run = story.trigger("twice", "ada").await;
    assert_eq!(
        decided(&story).await,
        "in_app suppressed channel_disabled planning attempts=0"
    );
    audit(story.pool()).await;
    story.drain().await;
    assert_eq!(place(&story, run).await, "waiting in pause");
    let explained = story.explain(run).await;
    assert!(
        explained.next.ends_with(
            "Nothing was sent over in_app: the recipient does not want messages over that channel."
        ),
        "{}",
        explained.next
    );
    assert_eq!(
        explained.deliveries[0].checkpoint.as_deref(),
        Some("planning")
    );
    story.advance("PT1H").await;
    assert_eq!(story.sent(), ["email hello to ada"]);
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_category_that_is_not_wanted_is_suppressed() {
    let story = twice().await;
    say(&story, "ada", category("news"), false).await;
    let run = story.trigger("twice", "ada").await;
    story.drain().await;
    story.advance("PT1H").await;
    assert_eq!(story.sent(), ["in_app hello to ada"]);
    assert_eq!(
        decided(&story).await,
        "in_app succeeded attempts=1\nemail suppressed category_disabled planning attempts=0"
    );
    assert_eq!(place(&story, run).await, "completed in mail: completed");
    audit(story.pool()).await;
}

/// Where the step names no category, the trigger's params may.
#[tokio::test]
async fn a_trigger_may_say_the_category() {
    let story = twice().await;
    say(&story, "ada", category("marketing"), false).await;
    let params = json!({ "category": "marketing" });
    story.trigger_with("twice", "ada", params.clone()).await;
    story.drain().await;
    story.advance("PT1H").await;
    // The mail's own step says news.
    assert_eq!(story.sent(), ["email hello to ada"]);
    say(&story, "ada", category("marketing"), true).await;
    story.trigger_with("twice", "ada", params).await;
    story.drain().await;
    assert_eq!(story.sent().len(), 2);
    audit(story.pool()).await;
}

#[tokio::test]
async fn what_is_said_after_the_planning_counts_at_the_claim() {
    for (about, reason) in [
        (channel("email"), "channel_disabled"),
        (category("news"), "category_disabled"),
    ] {
        let story = twice().await;
        let run = story.trigger("twice", "ada").await;
        story.drain().await;
        story.channel().answer([Answer::Temporary(None)]);
        story.advance("PT1H").await;
        say(&story, "ada", about, false).await;
        story.advance("PT15S").await;
        assert_eq!(story.sent().len(), 2, "one try, before it was said");
        assert_eq!(
            decided(&story).await,
            format!("in_app succeeded attempts=1\nemail suppressed {reason} claim attempts=1")
        );
        assert_eq!(place(&story, run).await, "completed in mail: completed");
        audit(story.pool()).await;
    }
}

#[tokio::test]
async fn a_fallback_is_not_sent_to_somebody_who_has_read() {
    let story = twice().await;
    let run = story.trigger("twice", "ada").await;
    story.drain().await;
    read(&story, "ada").await;
    story.advance("PT1H").await;
    assert_eq!(story.sent(), ["in_app hello to ada"]);
    assert_eq!(
        decided(&story).await,
        "in_app succeeded attempts=1\nemail suppressed already_read planning attempts=0"
    );
    assert_eq!(place(&story, run).await, "completed in mail: completed");
    assert!(
        story
            .explain(run)
            .await
            .next
            .contains("had read the notification already")
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn reading_between_two_tries_of_a_fallback_ends_it() {
    let story = twice().await;
    story.trigger("twice", "ada").await;
    story.drain().await;
    story.channel().answer([Answer::Temporary(None)]);
    story.advance("PT1H").await;
    read(&story, "ada").await;
    story.advance("PT15S").await;
    assert_eq!(
        decided(&story).await,
        "in_app succeeded attempts=1\nemail suppressed already_read claim attempts=1"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn without_the_flag_what_was_read_does_not_matter() {
    let story = Story::begin(MORNING).await;
    story.apply(&TWICE.replace(", unless_read: true", "")).await;
    story.trigger("twice", "ada").await;
    story.drain().await;
    read(&story, "ada").await;
    story.advance("PT1H").await;
    assert_eq!(story.sent().len(), 2);
}

#[tokio::test]
async fn a_preference_is_the_recipients_own_in_its_tenant() {
    let story = twice().await;
    say(&story, "bob", channel("in_app"), false).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let preferences = story.chimeway().preferences();
    let elsewhere = "org_999".parse().unwrap();
    let said = [(channel("in_app"), false)];
    preferences
        .set(&mut conn, &elsewhere, &actor("ada"), &said)
        .await
        .unwrap();
    story.trigger("twice", "ada").await;
    story.drain().await;
    assert_eq!(story.sent(), ["in_app hello to ada"]);
    let listed = preferences.list(&mut conn, &tenant(), &actor("ada")).await;
    assert_eq!(listed.unwrap(), []);
}

#[tokio::test]
async fn the_last_word_counts() {
    let story = twice().await;
    let mut conn = story.pool().acquire().await.unwrap();
    let preferences = story.chimeway().preferences();
    let (org, ada) = (tenant(), actor("ada"));
    let email = channel("email");
    let enabled = preferences.is_enabled(&mut conn, &org, &ada, &email).await;
    assert!(enabled.unwrap(), "without a word");
    let twice = [(email.clone(), true), (email.clone(), false)];
    preferences
        .set(&mut conn, &org, &ada, &twice)
        .await
        .unwrap();
    let enabled = preferences.is_enabled(&mut conn, &org, &ada, &email).await;
    assert!(!enabled.unwrap());
    preferences
        .set(&mut conn, &org, &ada, &[(email.clone(), true)])
        .await
        .unwrap();
    let listed = preferences.list(&mut conn, &org, &ada).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].enabled);
}

#[tokio::test]
async fn sql_says_it_too_and_refuses_what_makes_no_sense() {
    let story = twice().await;
    let say = async |kind: Option<&str>, name: &str, wanted: Option<bool>| {
        sqlx::query("select chimeway.set_preference('org_456', 'ada', $1, $2, $3)")
            .bind(kind)
            .bind(name)
            .bind(wanted)
            .execute(story.pool())
            .await
            .map(|_| ())
            .map_err(|error| {
                error
                    .as_database_error()
                    .unwrap()
                    .code()
                    .unwrap()
                    .into_owned()
            })
    };
    assert_eq!(say(Some("channel"), "in_app", Some(false)).await, Ok(()));
    assert_eq!(say(Some("category"), "news", Some(false)).await, Ok(()));
    for (kind, name, wanted) in [
        (Some("chanel"), "in_app", Some(false)),
        (None, "in_app", Some(false)),
        (Some("channel"), " ", Some(false)),
        (Some("channel"), "a\nb", Some(false)),
        (Some("channel"), "in_app", None),
    ] {
        let refused = say(kind, name, wanted).await;
        assert_eq!(refused, Err("CW013".to_owned()), "{kind:?} {name}");
    }
    story.trigger("twice", "ada").await;
    story.drain().await;
    story.advance("PT1H").await;
    assert!(story.sent().is_empty());
    audit(story.pool()).await;
}

/// One statement for all of them, whoever wants what.
#[tokio::test]
async fn a_crowd_is_planned_in_one_statement() {
    let story = twice().await;
    for who in 0..50 {
        say(
            &story,
            &format!("user_{who}"),
            channel("in_app"),
            who % 2 == 0,
        )
        .await;
    }
    let recipients: Vec<_> = (0..100)
        .map(|who| json!({ "identity": format!("user_{who}") }))
        .collect();
    sqlx::query("select chimeway.trigger('twice', '{}', 'org_456', $1)")
        .bind(json!(recipients))
        .execute(story.pool())
        .await
        .unwrap();
    story.drain().await;
    assert_eq!(story.sent().len(), 75);
    let waiting = "select count(*)::text from chimeway.workflow_runs where state = 'waiting'";
    assert_eq!(lines(story.pool(), waiting).await, "100");
    audit(story.pool()).await;
}
