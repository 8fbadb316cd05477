//! Mail, over a real SMTP server on loopback: `tests/hosts/smtp_server.py`.

use std::{path::Path, process::Stdio};

use chimeway::{
    Document, Recipient,
    channels::{
        Channel, Content, Message, Receipt, SendError,
        email::{EmailChannel, EmailSettings, Security},
    },
    flow::{TemplateSource, Templates},
    ids::{AttemptNumber, DeliveryId, RunId},
};
use chimeway_testkit::Story;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdout, Command},
};

use crate::{
    logs::Logs,
    programs::{command, root},
    tools::{MORNING, actor, lines, trigger, trigger_of},
};

const HOST: &str = "127.0.0.1";

/// A running SMTP server.
struct Server {
    port: u16,
    lines: Lines<BufReader<ChildStdout>>,
    connections: usize,
    // Ends with this.
    _process: Child,
}

impl Server {
    async fn start(options: &[&str]) -> Self {
        let python = root().join(".venv/bin/python");
        assert!(
            python.exists(),
            "there is no {}: run scripts/setup, which makes it with aiosmtpd",
            python.display()
        );
        let mut server = Command::from(command(python));
        server
            .args(["-B", "-X", "utf8"])
            .arg(root().join("tests/hosts/smtp_server.py"))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = server.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.next_line().await.unwrap();
        let first = first.expect("the server did not start: run scripts/setup");
        let first: Value = serde_json::from_str(&first).unwrap();
        Self {
            port: u16::try_from(first["port"].as_u64().unwrap()).unwrap(),
            lines,
            connections: 0,
            _process: process,
        }
    }

    /// The next mail that it took.
    async fn mail(&mut self) -> Value {
        loop {
            let line = self.lines.next_line().await.unwrap().unwrap();
            let told: Value = serde_json::from_str(&line).unwrap();
            if told["connection"] == true {
                self.connections += 1;
            } else {
                return told;
            }
        }
    }
}

/// Settings for a server without TLS, and a change to them.
fn channel(port: u16, change: impl FnOnce(&mut EmailSettings)) -> EmailChannel {
    let mut settings = EmailSettings::new(HOST, "Chimeway <ops@example.com>");
    settings.port = Some(port);
    settings.security = Security::None;
    change(&mut settings);
    settings.build().unwrap()
}

fn message(address: &str) -> Message {
    Message {
        delivery: DeliveryId::fresh(),
        attempt: AttemptNumber(1),
        tenant: "org 456".parse().unwrap(),
        recipient: Some("ada/1".parse().unwrap()),
        run: RunId::fresh(),
        notification: None,
        workflow: "mention_escalation".parse().unwrap(),
        step: "step_email".parse().unwrap(),
        channel: "email".parse().unwrap(),
        render_key: "mention_email".parse().unwrap(),
        params: json!({}),
        context: json!({}),
        call: None,
        address: Some(address.into()),
        locale: None,
        time_zone: None,
        content: Some(Content {
            subject: Some("Grüße from the Q3 plan\n".into()),
            text: Some("Ada, größer ☕\n.\nthat was a dot\n".into()),
            html: Some("<p>Ada, größer ☕</p>\n".into()),
        }),
    }
}

async fn send(channel: &EmailChannel, address: &str) -> Result<Receipt, SendError> {
    channel.send(&message(address)).await
}

/// How a send failed: its kind, and what the attempt keeps.
#[track_caller]
fn failure(result: Result<Receipt, SendError>) -> (&'static str, Value) {
    let error = result.expect_err("the mail was taken");
    let kind = match error {
        SendError::Temporary { .. } => "temporary",
        SendError::Permanent { .. } => "permanent",
        SendError::Bounced { .. } => "bounced",
    };
    // Servers quote the address in what they say.
    assert!(!format!("{error:?}").contains("example.com"), "{error:?}");
    (kind, error.answer().unwrap().clone())
}

#[tokio::test]
async fn a_mail_has_its_headers_and_both_forms() {
    let mut server = Server::start(&[]).await;
    let channel = channel(server.port, |it| {
        it.reply_to = Some("Help <help@example.com>".into());
        it.message_id_domain = Some("mail.example.com".into());
        it.list_unsubscribe = Some("https://example.com/stop/{tenant}?who={recipient}".into());
        it.list_unsubscribe_one_click = true;
    });
    let sent = message("ada@example.org");
    let receipt = channel.send(&sent).await.unwrap();
    let mail = server.mail().await;

    let id = format!("<{}@mail.example.com>", sent.delivery);
    assert_eq!(receipt.provider_message_id.as_deref(), Some(id.as_str()));
    assert_eq!(
        receipt.response,
        Some(json!({ "code": 250, "enhanced": "2.0.0" }))
    );
    assert_eq!(mail["mail_from"], "ops@example.com");
    assert_eq!(mail["rcpt_tos"], json!(["ada@example.org"]));
    let headers = &mail["headers"];
    for (name, value) in [
        ("from", "Chimeway <ops@example.com>"),
        ("to", "ada@example.org"),
        ("reply-to", "Help <help@example.com>"),
        ("subject", "Grüße from the Q3 plan"),
        ("message-id", &id),
        (
            "list-unsubscribe",
            "<https://example.com/stop/org%20456?who=ada%2F1>",
        ),
        ("list-unsubscribe-post", "List-Unsubscribe=One-Click"),
        ("auto-submitted", "auto-generated"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(headers["date"].as_str().unwrap().contains(':'));
    assert_eq!(mail["content_type"], "multipart/alternative");
    assert_eq!(
        mail["parts"],
        json!({
            "plain": "Ada, größer ☕\n.\nthat was a dot",
            "html": "<p>Ada, größer ☕</p>",
        })
    );
    assert_eq!(mail["defects"], json!([]));
}

#[tokio::test]
async fn each_try_of_a_delivery_has_the_same_message_id_and_no_other_has_it() {
    let mut server = Server::start(&[]).await;
    let channel = channel(server.port, |_| ());
    let mut sent = message("ada@example.org");
    let mut ids = Vec::new();
    for attempt in 1..=2 {
        sent.attempt = AttemptNumber(attempt);
        channel.send(&sent).await.unwrap();
        ids.push(server.mail().await["headers"]["message-id"].clone());
    }
    assert_eq!(ids[0], format!("<{}@example.com>", sent.delivery));
    assert_eq!(ids[0], ids[1]);
    send(&channel, "ada@example.org").await.unwrap();
    assert_ne!(server.mail().await["headers"]["message-id"], ids[0]);
    assert_eq!(
        server.connections, 1,
        "a connection is kept for the next mail"
    );
}

#[tokio::test]
async fn one_form_is_enough_and_none_is_too_little() {
    let mut server = Server::start(&[]).await;
    let channel = channel(server.port, |_| ());
    let with = |change: fn(&mut Content)| {
        let mut message = message("ada@example.org");
        message.content.iter_mut().for_each(change);
        message
    };
    channel.send(&with(|it| it.html = None)).await.unwrap();
    let mail = server.mail().await;
    assert_eq!(mail["content_type"], "text/plain");
    assert_eq!(mail["parts"]["plain"], "Ada, größer ☕\n.\nthat was a dot");
    channel.send(&with(|it| it.text = None)).await.unwrap();
    assert_eq!(server.mail().await["content_type"], "text/html");

    let mut bare = message("ada@example.org");
    bare.content = None;
    for (message, class) in [
        (bare, "no_content"),
        (with(|it| it.subject = Some(" \n".into())), "no_subject"),
        (with(|it| (it.text, it.html) = (None, None)), "no_body"),
    ] {
        let failed = failure(channel.send(&message).await);
        assert_eq!(failed, ("permanent", json!({ "class": class })));
    }
}

#[tokio::test]
async fn what_is_no_address_is_refused_before_anything_is_sent() {
    // Nothing listens: a try to connect would be a temporary failure.
    let channel = channel(free_port().await, |_| ());
    for address in [
        "ada@example.com\r\nRCPT TO:<eve@example.com>",
        "ada@example.com\nBcc: eve@example.com",
        "ada",
        "",
    ] {
        let failed = failure(send(&channel, address).await);
        let expected = ("permanent", json!({ "class": "invalid_address" }));
        assert_eq!(failed, expected, "{address:?}");
    }
}

#[tokio::test]
async fn what_the_server_answers_decides() {
    let mut server = Server::start(&[]).await;
    let channel = channel(server.port, |_| ());
    for (who, kind, answer) in [
        (
            "550-5.1.1",
            "bounced",
            json!({"class": "mailbox_unavailable", "code": 550, "enhanced": "5.1.1"}),
        ),
        (
            "551",
            "bounced",
            json!({"class": "mailbox_unavailable", "code": 551}),
        ),
        (
            "550-5.7.1",
            "permanent",
            json!({"class": "recipient_refused", "code": 550, "enhanced": "5.7.1"}),
        ),
        (
            "554",
            "permanent",
            json!({"class": "recipient_refused", "code": 554}),
        ),
        (
            "451-4.7.1",
            "temporary",
            json!({"class": "deferred", "code": 451, "enhanced": "4.7.1"}),
        ),
        (
            "421",
            "temporary",
            json!({"class": "service_not_available", "code": 421}),
        ),
        (
            "data-554-5.7.1",
            "permanent",
            json!({"class": "message_refused", "code": 554, "enhanced": "5.7.1"}),
        ),
        (
            "data-550-5.1.1",
            "bounced",
            json!({"class": "mailbox_unavailable", "code": 550, "enhanced": "5.1.1"}),
        ),
        (
            "data-452-4.2.2",
            "temporary",
            json!({"class": "deferred", "code": 452, "enhanced": "4.2.2"}),
        ),
    ] {
        let failed = failure(send(&channel, &format!("{who}@example.com")).await);
        assert_eq!(failed, (kind, answer), "{who}");
        // The next mail does not suffer from it.
        send(&channel, "ada@example.org").await.unwrap();
        assert_eq!(
            server.mail().await["rcpt_tos"],
            json!(["ada@example.org"]),
            "{who}"
        );
    }
}

#[tokio::test]
async fn a_server_that_never_answers_costs_the_time_out_and_no_other_mail() {
    let mut server = Server::start(&[]).await;
    let channel = channel(server.port, |it| it.timeout_seconds = 1);
    send(&channel, "ada@example.org").await.unwrap();
    let failed = failure(send(&channel, "hang@example.com").await);
    assert_eq!(failed, ("temporary", json!({ "class": "timeout" })));
    // Its connection is closed: an answer that comes late is not taken for the next mail's.
    let refused = failure(send(&channel, "550@example.com").await);
    assert_eq!(refused.0, "bounced");
    send(&channel, "grace@example.org").await.unwrap();
    assert_eq!(server.mail().await["rcpt_tos"], json!(["ada@example.org"]));
    assert_eq!(
        server.mail().await["rcpt_tos"],
        json!(["grace@example.org"])
    );
    assert_eq!(server.connections, 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_or_is_silent_is_tried_again_later() {
    let nobody = channel(free_port().await, |_| ());
    let failed = failure(send(&nobody, "ada@example.com").await);
    assert_eq!(failed, ("temporary", json!({ "class": "unreachable" })));

    // It takes connections, and never says a word.
    let silent = TcpListener::bind((HOST, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let channel = channel(port, |it| it.timeout_seconds = 1);
    let failed = failure(send(&channel, "ada@example.com").await);
    assert_eq!(failed, ("temporary", json!({ "class": "timeout" })));
}

#[tokio::test]
async fn no_more_connections_are_made_than_are_allowed() {
    let mut server = Server::start(&[]).await;
    let channel = channel(server.port, |it| it.max_connections = 2);
    let sends = (0..8).map(|number| {
        let channel = &channel;
        async move { send(channel, &format!("ada{number}@example.org")).await }
    });
    for result in futures::future::join_all(sends).await {
        result.unwrap();
    }
    for _ in 0..8 {
        server.mail().await;
    }
    assert_eq!(server.connections, 2);
}

/// An authority of the test's own and a certificate by it for one name.
struct Certificates {
    folder: TempDir,
}

impl Certificates {
    fn for_name(name: &str) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let root = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let server = server.signed_by(&key, &issuer).unwrap();
        let folder = TempDir::new().unwrap();
        for (file, pem) in [
            ("root.pem", root.pem()),
            ("server.pem", server.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            std::fs::write(folder.path().join(file), pem).unwrap();
        }
        Self { folder }
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).display().to_string()
    }

    async fn server(&self, security: &str, more: &[&str]) -> Server {
        let (certificate, key) = (self.path("server.pem"), self.path("key.pem"));
        let mut options = vec!["--security", security];
        options.extend(["--certificate", &certificate, "--key", &key]);
        options.extend(more);
        Server::start(&options).await
    }
}

fn secure(port: u16, security: Security, root: Option<&Path>) -> EmailChannel {
    channel(port, |it| {
        it.security = security;
        it.root_certificates = root.map(Into::into);
        it.username = Some("ops".into());
        it.password = Some("correct horse".into());
    })
}

const BOTH: [(&str, Security); 2] = [("starttls", Security::Starttls), ("tls", Security::Tls)];

#[tokio::test]
async fn mail_goes_over_tls_and_with_a_login_from_the_start_or_by_starttls() {
    let certificates = Certificates::for_name(HOST);
    let root = certificates.path("root.pem");
    for (word, security) in BOTH {
        for (without, mechanism) in [("LOGIN", "PLAIN"), ("PLAIN", "LOGIN")] {
            let options = ["--login", "ops:correct horse", "--without", without];
            let mut server = certificates.server(word, &options).await;
            let channel = secure(server.port, security, Some(Path::new(&root)));
            send(&channel, "ada@example.org").await.unwrap();
            let mail = server.mail().await;
            assert_eq!(mail["over_tls"], true, "{word}");
            assert_eq!(mail["login"], "ops", "{word} {mechanism}");
            assert_eq!(mail["mechanism"], mechanism, "{word}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_the_servers_or_not_trusted_stops_every_mail() {
    let good = Certificates::for_name(HOST);
    let other = Certificates::for_name("mail.example.com");
    let other_root = other.path("root.pem");
    for (word, security) in BOTH {
        let server = other.server(word, &[]).await;
        let channel = secure(server.port, security, Some(Path::new(&other_root)));
        let failed = failure(send(&channel, "ada@example.com").await);
        let expected = json!({ "class": "tls_name_mismatch" });
        assert_eq!(failed, ("temporary", expected), "{word}");

        let server = good.server(word, &[]).await;
        for root in [None, Some(Path::new(&other_root))] {
            let channel = secure(server.port, security, root);
            let failed = failure(send(&channel, "ada@example.com").await);
            let expected = json!({ "class": "tls_unknown_issuer" });
            assert_eq!(failed, ("temporary", expected), "{word}");
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_in_plain_text_where_tls_is_asked_for() {
    let server = Server::start(&[]).await;
    for (security, class) in [
        (Security::Starttls, "starttls_not_offered"),
        (Security::Tls, "tls"),
    ] {
        let channel = secure(server.port, security, None);
        let failed = failure(send(&channel, "ada@example.com").await);
        assert_eq!(failed, ("temporary", json!({ "class": class })));
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_once_without_it_and_is_tried_again_later() {
    let certificates = Certificates::for_name(HOST);
    let root = certificates.path("root.pem");
    let options = ["--login", "ops:another password"];
    let server = certificates.server("tls", &options).await;
    let channel = secure(server.port, Security::Tls, Some(Path::new(&root)));
    let (logs, watching) = Logs::begin();
    for _ in 0..2 {
        let failed = failure(send(&channel, "ada@example.com").await);
        let answer = json!({"class": "authentication_refused", "code": 535, "enhanced": "5.7.8"});
        assert_eq!(failed, ("temporary", answer));
    }
    drop(watching);
    let log = logs.text();
    assert_eq!(log.matches("authentication_refused").count(), 1, "{log}");
    assert!(log.contains("refuses `username` and `password`"), "{log}");
    for secret in ["correct horse", "another password", "example.com"] {
        assert!(!log.contains(secret), "{log}");
    }
}

const MAIL: &str = r"
key: mail
steps:
  - { id: mail, action: { type: notify, channel: email, render_key: note } }
";

#[tokio::test]
async fn an_attempt_keeps_codes_and_the_message_id_and_no_address() {
    let mut server = Server::start(&[]).await;
    let story = Story::builder()
        .channel("email", channel(server.port, |_| ()))
        .begin(MORNING)
        .await;
    let mut templates = Templates::new();
    let source = TemplateSource {
        subject: Some("For {{ recipient.identity }}\n".into()),
        text: Some("{{ params.words }}\n".into()),
        html: None,
    };
    templates.add("note", source).unwrap();
    let document = Document::from_yaml("mail.yaml", MAIL).unwrap();
    let (chimeway, pool) = (story.chimeway(), story.pool());
    let applied = chimeway.apply_with(pool, &document, &templates).await;
    applied.unwrap();
    let mut mails = trigger_of("mail", "-").params(json!({ "words": "größer ☕" }));
    mails.recipients = vec![
        Recipient::new(actor("ada")).address("email", "ada@example.org"),
        Recipient::new(actor("bob")).address("email", "550-5.1.1@example.com"),
        Recipient::new(actor("eve")).address("email", "451-4.7.1@example.com"),
    ];
    trigger(chimeway, pool, mails).await.unwrap();
    story.drain().await;

    let mail = server.mail().await;
    assert_eq!(mail["headers"]["subject"], "For ada");
    assert_eq!(mail["parts"], json!({ "plain": "größer ☕" }));
    let kept = lines(
        pool,
        "select concat_ws(' ', r.actor_id, d.status, a.adapter, a.outcome, a.response,
            a.provider_message_id = '<' || d.id || '@example.com>')
        from chimeway.delivery_attempts a
        join chimeway.deliveries d on d.id = a.delivery_id
        join chimeway.workflow_runs r on r.id = d.workflow_run_id
        order by 1",
    );
    insta::assert_snapshot!(kept.await, @r#"
    ada succeeded smtp succeeded {"code": 250, "enhanced": "2.0.0"} t
    bob cancelled smtp failed {"code": 550, "class": "mailbox_unavailable", "error": "the message bounced", "enhanced": "5.1.1"}
    eve failed smtp failed {"code": 451, "class": "deferred", "error": "the channel is not available now", "enhanced": "4.7.1"}
    "#);
}

/// A port at which nothing listens.
async fn free_port() -> u16 {
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}
