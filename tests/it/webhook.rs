//! The webhook channel, and receivers that misbehave.

use std::time::{Duration, UNIX_EPOCH};

use chimeway::{
    channels::{
        Channel as _, Content, Message, Receipt, SendError,
        webhook::{WebhookChannel, WebhookSettings, signature},
    },
    ids::{AttemptNumber, DeliveryId, RunId},
};
use chimeway_testkit::{Story, TestDb};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    programs::{chimeway, chimeway_at},
    receiver::{Receiver, Reply, Request},
    running::Running,
    support::eventually,
    tools::{MORNING, actor, attempts, lines, trigger, trigger_of},
};

/// The secret of the specification's own example.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OLD_SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBka";

pub(crate) fn message(address: Option<&str>) -> Message {
    Message {
        delivery: DeliveryId::fresh(),
        attempt: AttemptNumber(1),
        tenant: "org_456".parse().unwrap(),
        recipient: Some(actor("ada")),
        run: RunId::fresh(),
        notification: None,
        workflow: "comment_mention".parse().unwrap(),
        step: "escalate".parse().unwrap(),
        channel: "webhook".parse().unwrap(),
        render_key: "mention".parse().unwrap(),
        params: json!({ "document_id": "doc_789", "title": "Q3 \"plan\" & <notes>" }),
        context: json!({}),
        call: None,
        address: address.map(str::to_owned),
        locale: Some("de-AT".to_owned()),
        time_zone: None,
        content: Some(Content {
            subject: None,
            text: Some("Ada, you were mentioned: \"a & b\"\n+1".to_owned()),
            html: None,
        }),
    }
}

fn channel(receiver: &Receiver) -> WebhookChannel {
    let mut settings = WebhookSettings::new(SECRET);
    settings.url = Some(receiver.url());
    settings.timeout_seconds = 1;
    settings.build().unwrap()
}

async fn send(reply: Reply) -> (Result<Receipt, SendError>, Vec<Request>) {
    let receiver = Receiver::start([reply]).await;
    let sent = channel(&receiver).send(&message(None)).await;
    (sent, receiver.requests())
}

/// The class of a failure and what the attempt keeps of it.
pub(crate) fn told(sent: Result<Receipt, SendError>) -> String {
    let Err(error) = sent else {
        return format!("taken {}", sent.unwrap().response.unwrap());
    };
    let kept = error.answer().cloned().unwrap_or_default();
    match error {
        SendError::Temporary { retry_after, .. } => match retry_after {
            Some(wish) => format!("temporary {kept} in {}s", wish.as_secs()),
            None => format!("temporary {kept}"),
        },
        SendError::Permanent { .. } => format!("permanent {kept}"),
        SendError::Bounced { .. } => format!("bounced {kept}"),
    }
}

/// HMAC-SHA256 by its definition, and base64 by its own: independent of what signs.
fn expected_signature(key: &[u8], signed: &str) -> String {
    let mut block = [0u8; 64];
    block[..key.len()].copy_from_slice(key);
    let padded = |byte: u8| block.map(|it| it ^ byte).to_vec();
    let inner = Sha256::digest([padded(0x36), signed.as_bytes().to_vec()].concat());
    let outer = Sha256::digest([padded(0x5c), inner.to_vec()].concat());
    format!("v1,{}", base64(&outer))
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut padded = [0u8; 4];
        padded[1..=three.len()].copy_from_slice(three);
        let number = u32::from_be_bytes(padded);
        for place in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * place)) as usize & 63];
            text.push(if place > three.len() {
                '='
            } else {
                char::from(letter)
            });
        }
    }
    text
}

#[test]
fn the_public_vector_is_signed_as_published() {
    let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    let body = r#"{"test": 2432232314}"#;
    let published = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    assert_eq!(
        signature(SECRET, id, 1_614_265_330, body).unwrap(),
        published
    );
    let key = [
        0x31, 0xf2, 0x90, 0xf6, 0xbf, 0x06, 0x29, 0x8a, 0xab, 0x4f, 0x08, 0xd4, 0x3c, 0x3f, 0x08,
        0x2c, 0xf6, 0x48, 0xa3, 0x62, 0xda, 0x2d, 0xa4, 0xb0,
    ];
    let independent = expected_signature(&key, &format!("{id}.1614265330.{body}"));
    assert_eq!(independent, published);
}

#[tokio::test]
async fn a_receiver_can_verify_what_it_gets() {
    let receiver = Receiver::start([Reply::status(503), Reply::status(202)]).await;
    let mut settings = WebhookSettings::new(SECRET);
    settings.previous_secret = Some(OLD_SECRET.into());
    settings.allow_private = vec!["127.0.0.1".parse().unwrap()];
    let channel = settings.build().unwrap();
    assert!(channel.needs_address());
    let message = message(Some(&receiver.url()));
    assert_eq!(
        told(channel.send(&message).await),
        r#"temporary {"status":503}"#
    );
    assert_eq!(
        told(channel.send(&message).await),
        r#"taken {"status":202}"#
    );

    let requests = receiver.requests();
    assert_eq!(requests.len(), 2);
    let old_key: Vec<u8> = (0..=26).collect();
    for request in &requests {
        assert_eq!(request.line, "POST /hook HTTP/1.1");
        assert_eq!(request.header("content-type"), Some("application/json"));
        let id = request.header("webhook-id").unwrap();
        assert_eq!(id, message.delivery.to_string());
        assert_eq!(request.header("idempotency-key"), Some(id));
        let timestamp = request.header("webhook-timestamp").unwrap();
        let told = UNIX_EPOCH + Duration::from_secs(timestamp.parse().unwrap());
        let age = told.elapsed().unwrap();
        assert!(age < Duration::from_secs(60), "{age:?}");
        let signatures = request.header("webhook-signature").unwrap();
        let (new, old) = signatures.split_once(' ').unwrap();
        let signed = format!("{id}.{timestamp}.{}", request.body);
        assert_eq!(old, expected_signature(&old_key, &signed));
        assert_eq!(
            new,
            signature(SECRET, id, timestamp.parse().unwrap(), &request.body).unwrap()
        );
    }
    // The same each time, so that a receiver may compare.
    assert_eq!(requests[0].body, requests[1].body);
    let mut body: Value = serde_json::from_str(&requests[0].body).unwrap();
    let made = body["timestamp"].take();
    let made = chrono::DateTime::parse_from_rfc3339(made.as_str().unwrap()).unwrap();
    let (seconds, _) = message.delivery.0.get_timestamp().unwrap().to_unix();
    assert_eq!(made.timestamp(), i64::try_from(seconds).unwrap());
    assert_eq!(
        body,
        json!({
            "type": "comment_mention.escalate",
            "timestamp": null,
            "data": {
                "delivery_id": message.delivery,
                "run_id": message.run,
                "notification_id": null,
                "tenant_id": "org_456",
                "workflow": "comment_mention",
                "step": "escalate",
                "channel": "webhook",
                "render_key": "mention",
                "recipient": { "identity": "ada", "locale": "de-AT", "time_zone": null },
                "params": message.params,
            },
        })
    );
}

#[tokio::test]
async fn the_status_decides() {
    for (status, expected) in [
        (200, r#"taken {"status":200}"#),
        (204, r#"taken {"status":204}"#),
        (304, r#"permanent {"status":304}"#),
        (400, r#"permanent {"status":400}"#),
        (404, r#"permanent {"status":404}"#),
        (408, r#"temporary {"status":408}"#),
        (410, r#"permanent {"status":410}"#),
        (425, r#"temporary {"status":425}"#),
        (429, r#"temporary {"status":429}"#),
        (500, r#"temporary {"status":500}"#),
        (504, r#"temporary {"status":504}"#),
    ] {
        let (sent, _) = send(Reply::status(status)).await;
        assert_eq!(told(sent), expected);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Receiver::start([Reply::status(200)]).await;
    for status in [301, 302, 307, 308] {
        let location = format!("location: {}\r\n", elsewhere.url());
        let (sent, requests) = send(Reply::with(status, &location, "")).await;
        assert_eq!(told(sent), format!(r#"permanent {{"status":{status}}}"#));
        assert_eq!(requests.len(), 1);
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_wish_to_be_left_alone_is_heard() {
    let date =
        "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nretry-after: Sun, 06 Nov 1994 08:51:07 GMT\r\n";
    for (status, headers, expected) in [
        (
            429,
            "retry-after: 120\r\n",
            r#"temporary {"status":429} in 120s"#,
        ),
        (503, date, r#"temporary {"status":503} in 90s"#),
        (503, "retry-after: soon\r\n", r#"temporary {"status":503}"#),
        (410, "retry-after: 120\r\n", r#"permanent {"status":410}"#),
    ] {
        let (sent, _) = send(Reply::with(status, headers, "")).await;
        assert_eq!(told(sent), expected);
    }
}

#[tokio::test]
async fn a_receiver_that_says_nothing_is_tried_again() {
    let (sent, requests) = send(Reply::Nothing).await;
    assert_eq!(told(sent), r#"temporary {"class":"timeout"}"#);
    assert_eq!(requests.len(), 1);
    let (sent, requests) = send(Reply::Reset).await;
    assert_eq!(told(sent), r#"temporary {"class":"connection_lost"}"#);
    // What was posted once is not posted again behind our back.
    assert_eq!(requests.len(), 1);
    let (sent, _) = send(Reply::Bytes("220 mail.example.com ESMTP\r\n".to_owned())).await;
    assert_eq!(told(sent), r#"temporary {"class":"connection_lost"}"#);
}

#[tokio::test]
async fn nobody_there_is_tried_again() {
    let receiver = Receiver::start([Reply::status(200)]).await;
    let channel = channel(&receiver);
    drop(receiver);
    let sent = channel.send(&message(None)).await;
    assert_eq!(told(sent), r#"temporary {"class":"unreachable"}"#);
}

#[tokio::test]
async fn a_long_reply_does_no_harm() {
    const SIZE: usize = 64 * 1024 * 1024;
    let receiver = Receiver::start([Reply::Huge("200 OK\r\n", SIZE)]).await;
    let sent = channel(&receiver).send(&message(None)).await;
    assert_eq!(told(sent), r#"taken {"status":200}"#);
    // The rest stays in the buffers of the system, at most.
    assert!(receiver.written() < SIZE, "all of it was taken");

    let drip = "500 Oh\r\nretry-after: 7\r\n";
    let (sent, _) = send(Reply::Drip(drip)).await;
    assert_eq!(told(sent), r#"temporary {"status":500} in 7s"#);
    let (sent, _) = send(Reply::Drip("200 OK\r\n")).await;
    assert_eq!(told(sent), r#"taken {"status":200}"#);
}

#[tokio::test]
async fn tls_is_verified() {
    let sent = async |name: &str, is_trusted: bool| {
        let receiver = Receiver::with_tls(name, Reply::status(200)).await;
        let mut settings = WebhookSettings::new(SECRET);
        settings.url = Some(receiver.url());
        settings.root_certificates = is_trusted.then(|| receiver.root());
        let sent = settings.build().unwrap().send(&message(None)).await;
        (told(sent), receiver.requests().len())
    };
    let taken = (r#"taken {"status":200}"#.to_owned(), 1);
    assert_eq!(sent("127.0.0.1", true).await, taken);
    let refused = |class: &str| (format!(r#"temporary {{"class":"{class}"}}"#), 0);
    assert_eq!(
        sent("elsewhere.example", true).await,
        refused("tls_name_mismatch")
    );
    assert_eq!(
        sent("127.0.0.1", false).await,
        refused("tls_unknown_issuer")
    );
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_without_being_told() {
    let channel = WebhookSettings::new(SECRET).build().unwrap();
    for address in [
        "not a url",
        "ftp://example.com/x",
        "file:///etc/passwd",
        "javascript:1",
    ] {
        let sent = channel.send(&message(Some(address))).await;
        assert_eq!(told(sent), r#"permanent {"class":"address"}"#);
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let problem = |change: fn(&mut WebhookSettings)| {
        let mut settings = WebhookSettings::new(SECRET);
        change(&mut settings);
        settings
            .build()
            .err()
            .map(|error| error.setting)
            .unwrap_or_default()
    };
    assert_eq!(problem(|_| {}), "");
    assert_eq!(problem(|it| it.url = Some("example.com".to_owned())), "url");
    assert_eq!(problem(|it| it.secret = "whsec_c2hvcnQ=".into()), "secret");
    assert_eq!(
        problem(|it| it.secret = "not base64 at all, and no secret".into()),
        "secret"
    );
    assert_eq!(
        problem(|it| it.previous_secret = Some("".into())),
        "previous_secret"
    );
    assert_eq!(problem(|it| it.timeout_seconds = 0), "timeout_seconds");
    assert_eq!(problem(|it| it.timeout_seconds = 16), "timeout_seconds");
    let missing = |it: &mut WebhookSettings| it.root_certificates = Some("no/such.pem".into());
    assert_eq!(problem(missing), "root_certificates");
}

#[tokio::test]
async fn a_journey_keeps_what_the_receiver_answered() {
    let receiver = Receiver::start([
        Reply::with(503, "retry-after: 40\r\n", ""),
        Reply::status(410),
    ])
    .await;
    let mut settings = WebhookSettings::new(SECRET);
    settings.url = Some(receiver.url());
    let story = Story::builder()
        .channel("webhook", settings.build().unwrap())
        .begin(MORNING)
        .await;
    story
        .apply("key: k\nsteps:\n  - { id: call, action: { type: notify, channel: webhook, render_key: r } }\n")
        .await;
    trigger(story.chimeway(), story.pool(), trigger_of("k", "ada"))
        .await
        .unwrap();
    story.drain().await;
    story.advance("PT39S").await;
    assert_eq!(
        receiver.requests().len(),
        1,
        "it came back before it was asked to"
    );
    story.advance("PT1S").await;
    assert_eq!(
        attempts(story.pool()).await,
        "webhook 1 failed temporary {\"error\": \"the channel is not available now\", \"status\": 503}\n\
         webhook 2 failed permanent {\"error\": \"the channel refused the message\", \"status\": 410}"
    );
    let status = "select concat_ws(' ', status, status_reason) from chimeway.deliveries";
    assert_eq!(
        lines(story.pool(), status).await,
        "cancelled permanent_failure"
    );
}

/// The whole way: the program, its settings file, a secret of the environment, the recipient's address.
#[tokio::test]
async fn a_worker_sends_what_its_settings_say_and_refuses_to_start_without_the_secret() {
    let receiver = Receiver::start([Reply::status(204)]).await;
    let db = TestDb::create().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let settings = file(
        "chimeway.toml",
        "[channels.partner]\nadapter = \"webhook\"\nsecret = \"env:PARTNER_SECRET\"\n",
    );
    let journey = file(
        "k.yaml",
        "key: k\nsteps:\n  - { id: call, action: { type: notify, channel: partner, render_key: r } }\n",
    );
    // Commands that send nothing do not ask for the secret, and know the channel.
    let apply = ["--config", &settings, "workflows", "apply", &journey];
    chimeway(&db.url(), &apply).expect(0);
    let address = format!("--address=partner={}", receiver.url());
    let trigger = [
        "trigger",
        "k",
        "--tenant",
        "org_456",
        "--recipient",
        "ada",
        &address,
    ];
    chimeway(&db.url(), &trigger).expect(0);

    let worker = ["--config", &settings, "worker", "--until-stdin-ends"];
    let refused = chimeway(&db.url(), &worker).expect(1).err;
    let expected = "chimeway.toml, line 3: [channels.partner] `secret` is `env:PARTNER_SECRET`, which is not set";
    assert!(refused.contains(expected), "{refused}");

    // This machine is private: a worker that is to call it is told so.
    let mut command = chimeway_at(
        &db.url(),
        &[&worker[..], &["--allow-private", "127.0.0.1"]].concat(),
    );
    command.env("PARTNER_SECRET", SECRET);
    let worker = Running::of(command);
    let request = eventually("a request", async || receiver.requests().pop()).await;
    let header = |name: &str| request.header(name).unwrap();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let expected = signature(SECRET, id, timestamp.parse().unwrap(), &request.body).unwrap();
    assert_eq!(header("webhook-signature"), expected);
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
    let address = format!("127.0.0.1:{}", receiver.port);
    assert!(!lines.concat().contains(&address), "{lines:?}");
    assert_eq!(
        attempts(db.pool()).await,
        "partner 1 succeeded {\"status\": 204}"
    );
    assert_eq!(receiver.requests().len(), 1);
}
