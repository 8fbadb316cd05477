//! A host's own channel.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chimeway::{
    Chimeway, Document, FlowError, Recipient,
    channels::{Channel, Message, Receipt, SendError},
};
use chimeway_testkit::Story;
use serde_json::json;

use crate::{
    invariants::audit,
    tools::{MORNING, actor, attempts, lines, place, trigger, trigger_of},
};

const TEXT: &str = r"
key: text_message
steps:
  - { id: text, action: { type: notify, channel: sms, render_key: new_mention } }
";

/// Sends text messages by a provider that is not there: it writes down what it would be given.
#[derive(Clone, Default)]
struct Sms {
    outbox: Arc<Mutex<Vec<Message>>>,
}

impl Sms {
    fn outbox(&self) -> Vec<Message> {
        self.outbox.lock().unwrap().clone()
    }
}

#[async_trait]
impl Channel for Sms {
    fn adapter(&self) -> &'static str {
        "example_gateway"
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        self.outbox.lock().unwrap().push(message.clone());
        if message.attempt.0 == 1 {
            return Err(SendError::temporary("the gateway is full"));
        }
        Ok(Receipt {
            provider_message_id: Some(format!("gateway-{}", message.token())),
            response: Some(json!({ "segments": 1 })),
        })
    }
}

#[tokio::test]
async fn it_is_given_what_sending_needs() {
    let sms = Sms::default();
    let story = Story::builder()
        .channel("sms", sms.clone())
        .begin(MORNING)
        .await;
    story.apply(TEXT).await;
    let mut ada = trigger_of("text_message", "-").params(json!({ "document_id": "doc_789" }));
    ada.recipients = vec![Recipient {
        locale: Some("de-AT".to_owned()),
        time_zone: Some("Europe/Vienna".to_owned()),
        ..Recipient::new(actor("ada"))
            .address("sms", "+43 1 555 0100")
            .address("email", "ada@example.com")
    }];
    let event = trigger(story.chimeway(), story.pool(), ada)
        .await
        .unwrap()
        .event();
    let run = story.runs_of(event).await[0];
    story.drain().await;
    // A corrected address counts for the next try already.
    let corrected = json!([{ "identity": "ada", "addresses": { "sms": "+43 1 555 0199" } }]);
    sqlx::query("select chimeway.upsert_recipients('org_456', $1)")
        .bind(corrected)
        .execute(story.pool())
        .await
        .unwrap();
    story.advance("PT15S").await;

    let outbox = sms.outbox();
    let lines_of = |message: &Message| {
        format!(
            "{} {} {} {} {} {} {} {} {:?} {:?} {:?} {}",
            message.tenant,
            message.workflow,
            message.step,
            message.channel,
            message.render_key,
            message.recipient.as_ref().unwrap(),
            message.attempt,
            message.run == run,
            message.address.as_deref().unwrap_or_default(),
            message.locale.as_deref().unwrap_or_default(),
            message.time_zone.as_deref().unwrap_or_default(),
            message.params,
        )
    };
    insta::assert_snapshot!(outbox.iter().map(lines_of).collect::<Vec<_>>().join("\n"), @r#"
    org_456 text_message text sms new_mention ada 1 true "+43 1 555 0100" "de-AT" "Europe/Vienna" {"document_id":"doc_789"}
    org_456 text_message text sms new_mention ada 2 true "+43 1 555 0199" "de-AT" "Europe/Vienna" {"document_id":"doc_789"}
    "#);
    let delivery = lines(story.pool(), "select id::text from chimeway.deliveries").await;
    assert!(outbox.iter().all(|message| message.token() == delivery));
    assert_eq!(
        lines(
            story.pool(),
            "select concat_ws(' ', a.adapter, a.worker, a.outcome, a.response, a.provider_message_id = 'gateway-' || d.id)
             from chimeway.delivery_attempts a join chimeway.deliveries d on d.id = a.delivery_id
             order by a.attempt_number"
        )
        .await,
        "example_gateway story failed {\"error\": \"the channel is not available now\"}\n\
         example_gateway story succeeded {\"segments\": 1} t"
    );
    assert_eq!(place(&story, run).await, "completed in text: completed");
}

#[tokio::test]
async fn a_recipient_without_an_address_is_left_to_the_channel() {
    let sms = Sms::default();
    let story = Story::builder()
        .channel("sms", sms.clone())
        .begin(MORNING)
        .await;
    story.apply(TEXT).await;
    story.trigger("text_message", "nobody_knows").await;
    story.drain().await;
    assert_eq!(sms.outbox()[0].address, None);
    assert_eq!(
        attempts(story.pool()).await,
        "sms 1 failed temporary {\"error\": \"the channel is not available now\"}"
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_document_may_name_it_only_where_it_is_registered() {
    let story = Story::begin(MORNING).await;
    let document = Document::from_yaml("test", TEXT).unwrap();
    let refused = story.chimeway().apply(story.pool(), &document).await;
    let Err(FlowError::InvalidDefinition(mistakes)) = refused else {
        panic!("{refused:?}")
    };
    insta::assert_snapshot!(mistakes[0], @"/steps/0/action/channel: unknown channel `sms`; known: email, in_app, log, webhook");
    for knowing in [
        Chimeway::builder().channel("sms", Sms::default()).unwrap(),
        Chimeway::builder().extra_channel("sms").unwrap(),
    ] {
        let knowing = knowing.build();
        assert!(knowing.apply(story.pool(), &document).await.is_ok());
    }
    assert!(Chimeway::builder().channel(" ", Sms::default()).is_err());
}
