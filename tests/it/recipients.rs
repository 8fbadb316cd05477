//! How people are reached: stored from SQL, Rust and the command line; and what becomes of a message
//! that nobody knows an address for.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chimeway::{
    FlowError, Recipient, Trigger,
    channels::{Channel, Message, Receipt, SendError},
    ids::{ChannelName, TenantId},
};
use chimeway_testkit::{Story, TestDb};
use serde_json::{Value, json};

use crate::{
    invariants::audit,
    programs::{chimeway, words},
    tools::{MORNING, actor, attempts, deliveries, lines, place, tenant, trigger_of},
};

pub(crate) const MAIL: &str = r"
key: mail
steps:
  - { id: mail, action: { type: notify, channel: letter, render_key: mail } }
";

/// A channel that needs addresses: it writes down where it would send.
#[derive(Clone, Default)]
pub(crate) struct Letter {
    sent: Arc<Mutex<Vec<Message>>>,
    failing: Arc<Mutex<u32>>,
}

impl Letter {
    fn failing(times: u32) -> Self {
        Self {
            failing: Arc::new(Mutex::new(times)),
            ..Self::default()
        }
    }

    /// `<recipient> of <tenant> at <address>, <locale>, <zone>`, a line each.
    pub(crate) fn sent(&self) -> String {
        let sent = self.sent.lock().unwrap();
        let line = |message: &Message| {
            format!(
                "{} of {} at {}, {}, {}",
                message.recipient.as_ref().unwrap(),
                message.tenant,
                message.address.as_deref().unwrap_or("-"),
                message.locale.as_deref().unwrap_or("-"),
                message.time_zone.as_deref().unwrap_or("-"),
            )
        };
        let mut lines: Vec<String> = sent.iter().map(line).collect();
        lines.sort();
        lines.join("\n")
    }
}

#[async_trait]
impl Channel for Letter {
    fn adapter(&self) -> &'static str {
        "post"
    }

    fn needs_address(&self) -> bool {
        true
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        self.sent.lock().unwrap().push(message.clone());
        let mut failing = self.failing.lock().unwrap();
        if *failing > 0 {
            *failing -= 1;
            return Err(SendError::temporary("the office is closed"));
        }
        Ok(Receipt::default())
    }
}

async fn begin(letter: &Letter, document: &str) -> Story {
    let story = Story::builder()
        .channel("letter", letter.clone())
        .begin(MORNING)
        .await;
    story.apply(document).await;
    story
}

/// Calls `chimeway.upsert_recipient` for the story's tenant.
pub(crate) async fn store(story: &Story, identity: &str, addresses: Value) {
    sqlx::query("select chimeway.upsert_recipient($1, $2, $3)")
        .bind(tenant().as_str())
        .bind(identity)
        .bind(addresses)
        .execute(story.pool())
        .await
        .unwrap();
}

/// What a run did after a message without an address; checked once as rows.
const SUPPRESSED: &str = "letter suppressed no_address attempts=0";

#[tokio::test]
async fn without_an_address_nothing_is_sent_and_the_journey_goes_on() {
    let letter = Letter::default();
    let story = begin(
        &letter,
        r"
key: fallback
steps:
  - { id: mail, action: { type: notify, channel: letter, render_key: mail } }
  - { id: in_app, action: { type: notify, channel: in_app, render_key: instead } }
",
    )
    .await;
    let run = story.trigger("fallback", "ada").await;
    story.drain().await;
    assert_eq!(letter.sent(), "");
    assert_eq!(story.sent(), ["in_app instead to ada"]);
    assert_eq!(
        deliveries(story.pool()).await,
        format!("{SUPPRESSED}\nin_app succeeded attempts=1")
    );
    assert_eq!(attempts(story.pool()).await, "in_app 1 succeeded");
    assert_eq!(place(&story, run).await, "completed in in_app: completed");
    insta::assert_snapshot!(story.explain(run).await.next, @"Nothing: the run is completed. Nothing was sent over letter: no address is known for the recipient; `chimeway recipients set` stores one for later messages.");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_step_may_say_where_a_suppressed_message_leads() {
    let letter = Letter::default();
    let story = begin(
        &letter,
        r"
key: branching
steps:
  - id: mail
    action: { type: notify, channel: letter, render_key: mail }
    on_outcome: { suppressed: { goto: other } }
  - { id: skipped, action: { type: notify, channel: email, render_key: skipped } }
  - { id: other, action: { type: notify, channel: in_app, render_key: other } }
",
    )
    .await;
    let run = story.trigger("branching", "ada").await;
    story.drain().await;
    assert_eq!(story.sent(), ["in_app other to ada"]);
    assert_eq!(place(&story, run).await, "completed in other: completed");
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_channel_that_needs_none_is_called_without() {
    let story = Story::begin(MORNING).await;
    story.apply(&MAIL.replace("letter", "email")).await;
    story.trigger("mail", "ada").await;
    story.drain().await;
    assert_eq!(story.sent(), ["email mail to ada"]);
}

#[tokio::test]
async fn a_corrected_address_counts_for_the_next_try() {
    let letter = Letter::failing(2);
    let story = begin(&letter, MAIL).await;
    store(
        &story,
        "ada",
        json!({ "letter": "Old Street 1", "sms": "+43 1" }),
    )
    .await;
    story.trigger("mail", "ada").await;
    story.drain().await;
    store(&story, "ada", json!({ "letter": "New Street 2" })).await;
    story.advance("PT15S").await;
    assert_eq!(
        letter.sent(),
        "ada of org_456 at New Street 2, -, -\nada of org_456 at Old Street 1, -, -"
    );
    // What was forgotten meanwhile is not sent to again; the tries that were made count.
    store(&story, "ada", json!({ "letter": null })).await;
    story.advance("PT1M").await;
    assert_eq!(letter.sent().lines().count(), 2);
    assert_eq!(
        deliveries(story.pool()).await,
        "letter suppressed no_address attempts=2"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn sql_stores_what_is_given_and_keeps_the_rest() {
    let story = Story::begin(MORNING).await;
    store(
        &story,
        "ada",
        json!({ "email": "ada@example.com", "sms": "+43 1" }),
    )
    .await;
    for call in [
        "select chimeway.upsert_recipient('org_456', 'ada', '{}', locale => 'de-AT')",
        "select chimeway.upsert_recipient('org_456', 'ada', null, time_zone => 'Europe/Vienna')",
        r#"select chimeway.upsert_recipient('org_456', 'ada', '{"sms": null, "post": "Old Street 1"}')"#,
        r#"select chimeway.upsert_recipient('other', 'ada', '{"email": "another@example.com"}')"#,
    ] {
        sqlx::query(call).execute(story.pool()).await.unwrap();
    }
    assert_eq!(
        lines(
            story.pool(),
            "select concat_ws(' ', tenant_id, identity, addresses, locale, time_zone)
             from chimeway.recipients order by 1"
        )
        .await,
        "org_456 ada {\"post\": \"Old Street 1\", \"email\": \"ada@example.com\"} de-AT Europe/Vienna\n\
         other ada {\"email\": \"another@example.com\"}"
    );
}

#[tokio::test]
async fn sql_refuses_what_no_message_could_use() {
    let story = Story::begin(MORNING).await;
    let mut said = vec![];
    let long = json!({ "email": "a".repeat(2049) }).to_string();
    let nobody = "{}";
    for (tenant, identity, addresses, locale, zone) in [
        (" ", Some("ada"), nobody, None, None),
        ("org_456", Some(""), nobody, None, None),
        ("org_456", None, nobody, None, None),
        ("org_456", Some("ada"), "[]", None, None),
        ("org_456", Some("ada"), r#"{"email": 7}"#, None, None),
        ("org_456", Some("ada"), r#"{"email": " "}"#, None, None),
        (
            "org_456",
            Some("ada"),
            r#"{"email": "a@b.example\r\nBcc: c@d.example"}"#,
            None,
            None,
        ),
        (
            "org_456",
            Some("ada"),
            r#"{"e\nmail": "a@b.example"}"#,
            None,
            None,
        ),
        ("org_456", Some("ada"), &long, None, None),
        ("org_456", Some("ada"), nobody, Some("en GB"), None),
        (
            "org_456",
            Some("ada"),
            nobody,
            None,
            Some("Europe/Atlantis"),
        ),
        ("org_456", Some("ada"), nobody, None, Some("Foo3")),
    ] {
        let refused = sqlx::query("select chimeway.upsert_recipient($1, $2, $3::jsonb, $4, $5)")
            .bind(tenant)
            .bind(identity)
            .bind(addresses)
            .bind(locale)
            .bind(zone)
            .execute(story.pool())
            .await
            .unwrap_err();
        said.push(refusal(&refused));
    }
    said.push({
        let refused = sqlx::query(
            r#"select chimeway.trigger('mail', '{}', 'org_456',
                '[{"identity": "ada", "addresses": {"email": "a@b.example\nBcc: c@d.example"}}]')"#,
        );
        refusal(&refused.execute(story.pool()).await.unwrap_err())
    });
    insta::assert_snapshot!(said.join("\n"), @r"
    CW003 the tenant is blank, longer than 255 bytes or holds a control character
    CW005 a recipient has no identity, or a field of the wrong type
    CW005 a recipient has no identity, or a field of the wrong type
    CW005 a recipient has no identity, or a field of the wrong type
    CW010 an address of a recipient is no text, blank, longer than 2048 bytes or holds a control character
    CW010 an address of a recipient is no text, blank, longer than 2048 bytes or holds a control character
    CW010 an address of a recipient is no text, blank, longer than 2048 bytes or holds a control character
    CW010 an address of a recipient is no text, blank, longer than 2048 bytes or holds a control character
    CW010 an address of a recipient is no text, blank, longer than 2048 bytes or holds a control character
    CW012 the locale of a recipient is not a language tag
    CW011 the time zone of a recipient is not known
    CW011 the time zone of a recipient is not known
    CW010 an address of a recipient is no text, blank, longer than 2048 bytes or holds a control character
    ");
    assert_eq!(
        lines(story.pool(), "select identity from chimeway.recipients").await,
        ""
    );
}

fn refusal(error: &sqlx::Error) -> String {
    let error = error.as_database_error().unwrap();
    format!("{} {}", error.code().unwrap(), error.message())
}

#[tokio::test]
async fn rust_stores_gets_and_forgets_in_the_callers_transaction() {
    let story = Story::begin(MORNING).await;
    let recipients = story.chimeway().recipients();
    let ada = Recipient {
        kind: Some("user".to_owned()),
        locale: Some("de-AT".to_owned()),
        time_zone: Some("Europe/Vienna".to_owned()),
        ..Recipient::new(actor("ada"))
            .address("email", "ada@example.com")
            .address("sms", "+43 1")
    };
    let mut tx = story.pool().begin().await.unwrap();
    recipients
        .upsert(&mut tx, &tenant(), std::slice::from_ref(&ada))
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    let mut conn = story.pool().acquire().await.unwrap();
    assert_eq!(
        recipients
            .get(&mut conn, &tenant(), &ada.identity)
            .await
            .unwrap(),
        None
    );

    recipients
        .upsert(&mut conn, &tenant(), std::slice::from_ref(&ada))
        .await
        .unwrap();
    let sms = [ChannelName::new("sms").unwrap()];
    recipients
        .forget(&mut conn, &tenant(), &ada.identity, &sms)
        .await
        .unwrap();
    let other: TenantId = "other".parse().unwrap();
    recipients
        .forget(
            &mut conn,
            &other,
            &ada.identity,
            &[ChannelName::new("email").unwrap()],
        )
        .await
        .unwrap();
    let stored = recipients
        .get(&mut conn, &tenant(), &ada.identity)
        .await
        .unwrap();
    assert_eq!(
        serde_json::to_value(stored).unwrap(),
        json!({
            "identity": "ada", "type": "user", "addresses": { "email": "ada@example.com" },
            "locale": "de-AT", "time_zone": "Europe/Vienna", "updated_at": "2026-03-02T09:00:00Z",
        })
    );
    assert_eq!(
        recipients
            .get(&mut conn, &other, &ada.identity)
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn rust_refuses_before_the_database_does() {
    let story = Story::begin(MORNING).await;
    story.apply(&MAIL.replace("letter", "email")).await;
    let recipients = story.chimeway().recipients();
    let ada = || Recipient::new(actor("ada"));
    let mut said = vec![];
    for recipient in [
        ada().address("email", "a@b.example\r\nBcc: c@d.example"),
        ada().address("email", "a\0b"),
        ada().address("email", ""),
        ada().address("", "a@b.example"),
        Recipient {
            locale: Some("en GB".to_owned()),
            ..ada()
        },
        Recipient {
            time_zone: Some("Europe/Atlantis".to_owned()),
            ..ada()
        },
    ] {
        // The caller's transaction can go on, whichever call refused.
        let mut tx = story.pool().begin().await.unwrap();
        let stored = recipients
            .upsert(&mut tx, &tenant(), std::slice::from_ref(&recipient))
            .await
            .unwrap_err();
        let mut by_trigger: Trigger = trigger_of("mail", "ada");
        by_trigger.recipients = vec![recipient];
        let triggered = story
            .chimeway()
            .trigger(&mut tx, by_trigger)
            .await
            .unwrap_err();
        assert!(!matches!(triggered, FlowError::Store(_)), "{triggered}");
        assert_eq!(stored.to_string(), triggered.to_string());
        recipients
            .upsert(&mut tx, &tenant(), &[ada()])
            .await
            .unwrap();
        sqlx::query("select 1").execute(&mut *tx).await.unwrap();
        said.push(stored.to_string());
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    an address of a recipient holds a line break or another control character; write it on one line
    an address of a recipient holds a line break or another control character; write it on one line
    an address of a recipient is blank
    the channel is blank
    the locale of a recipient is not a language tag; write one such as en-GB (BCP 47)
    the time zone of a recipient is not known; write an IANA name such as Europe/London
    ");
    assert_eq!(
        lines(story.pool(), "select identity from chimeway.recipients").await,
        ""
    );
}

#[tokio::test]
async fn an_address_of_two_lines_is_never_sent_to() {
    let letter = Letter::default();
    let story = begin(&letter, MAIL).await;
    // Written by hand, past every check.
    sqlx::query(
        r#"insert into chimeway.recipients (tenant_id, identity, addresses, updated_at)
        values ('org_456', 'ada', '{"letter": "Old Street 1\nBcc: everybody"}', now())"#,
    )
    .execute(story.pool())
    .await
    .unwrap();
    story.trigger("mail", "ada").await;
    story.drain().await;
    assert_eq!(letter.sent(), "");
    insta::assert_snapshot!(attempts(story.pool()).await, @r#"letter 1 failed permanent {"error": "the recipient's address holds a line break or another control character; write it on one line"}"#);
    audit(story.pool()).await;
}

#[tokio::test]
async fn the_command_line_stores_and_shows() {
    let db = TestDb::create().await;
    let url = db.url();
    let set = "recipients set ada --tenant org_456 --address email=ada@example.com --address sms=+431 \
               --locale de-AT --time-zone Europe/Vienna";
    chimeway(&url, &words(set)).expect(0);
    let shown = chimeway(
        &url,
        &words("recipients set ada --tenant org_456 --forget sms --type user"),
    )
    .expect(0);
    assert!(shown.out.ends_with("Z\n"), "{}", shown.out);
    let (facts, since) = shown.out.split_once("since").unwrap();
    assert_eq!(since.trim().len(), "2026-03-02 09:00:00Z".len());
    insta::assert_snapshot!(facts.trim_end(), @r"
    recipient  ada
    locale     de-AT
    time zone  Europe/Vienna
    address    email=ada@example.com
    ");
    let mut shown = chimeway(&url, &words("recipients show ada --tenant org_456 --json"))
        .expect(0)
        .json();
    shown.as_object_mut().unwrap().remove("updated_at").unwrap();
    assert_eq!(
        shown,
        json!({
            "identity": "ada", "type": null, "addresses": { "email": "ada@example.com" },
            "locale": "de-AT", "time_zone": "Europe/Vienna",
        })
    );
    let missing = chimeway(&url, &words("recipients show ada --tenant other")).expect(3);
    insta::assert_snapshot!(missing.err.trim_end(), @"error: nothing is stored of the recipient `ada` of tenant `other`; `chimeway recipients set ada --tenant other --address email=..` stores an address");
    let refused = "recipients set ada --tenant org_456 --time-zone Europe/Atlantis";
    let refused = chimeway(&url, &words(refused)).expect(1);
    insta::assert_snapshot!(refused.err.trim_end(), @"error: the time zone of a recipient is not known; write an IANA name such as Europe/London");
    chimeway(&url, &words("recipients set ada --tenant org_456")).expect(2);
}
