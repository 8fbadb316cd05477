//! Where somebody else than the operator says where a message goes, it goes to no private address.

use chimeway::channels::{Channel as _, webhook::WebhookSettings};
use chimeway_testkit::{Story, TestDb};
use nix::sys::signal::Signal;
use sqlx::Executor as _;

use crate::{
    actions::{acting, submit},
    invariants::audit,
    programs::{chimeway, chimeway_at, words},
    receiver::{Receiver, Reply},
    running::Running,
    state_changes::ORDERS,
    support::eventually,
    tools::{MORNING, attempts, lines, place},
    webhook::{SECRET, message, told},
};

/// A recipient's address may lead a worker into its own network only where the settings say so; what stands in
/// the settings is the operator's word.
#[tokio::test]
async fn a_recipients_address_does_not_lead_into_the_workers_own_network() {
    let receiver = Receiver::start([Reply::status(204)]).await;
    let refused = r#"permanent {"class":"private_target"}"#;
    let hosts = [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "[::ffff:127.0.0.1]",
    ];
    let channel = WebhookSettings::new(SECRET).build().unwrap();
    for host in hosts {
        let address = format!("http://{host}:{}/hook", receiver.port);
        let sent = channel.send(&message(Some(&address))).await;
        assert_eq!(told(sent), refused, "{host}");
    }
    assert!(receiver.requests().is_empty());
    let mut settings = WebhookSettings::new(SECRET);
    settings.allow_private = vec!["127.0.0.0/8".parse().unwrap(), "localhost".parse().unwrap()];
    let channel = settings.build().unwrap();
    for host in hosts {
        let address = format!("http://{host}:{}/hook", receiver.port);
        let sent = channel.send(&message(Some(&address))).await;
        assert_eq!(told(sent), r#"taken {"status":204}"#, "{host}");
    }
    assert_eq!(receiver.requests().len(), hosts.len());
}

/// The program does not ask a proxy of its environment to call what it may not call itself.
#[tokio::test]
async fn a_proxy_of_the_environment_does_not_call_for_a_recipients_address() {
    let proxy = Receiver::start([Reply::status(204)]).await;
    let db = TestDb::create().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let settings = file(
        "chimeway.toml",
        &format!("[channels.partner]\nadapter = \"webhook\"\nsecret = \"{SECRET}\"\n"),
    );
    let journey = file(
        "k.yaml",
        "key: k\nsteps:\n  - { id: call, action: { type: notify, channel: partner, render_key: r } }\n",
    );
    chimeway(
        &db.url(),
        &["--config", &settings, "workflows", "apply", &journey],
    )
    .expect(0);
    let trigger =
        "trigger k --tenant org_456 --recipient ada --address partner=http://localhost:9/metadata";
    chimeway(&db.url(), &words(trigger)).expect(0);
    let mut command = chimeway_at(
        &db.url(),
        &[
            "--config",
            &settings,
            "--log",
            "trace",
            "worker",
            "--until-stdin-ends",
        ],
    );
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(name, format!("http://127.0.0.1:{}", proxy.port));
    }
    let worker = Running::of(command);
    eventually("the run ends", async || {
        let ended = "select count(*)::text from chimeway.workflow_runs where ended_at is not null";
        (lines(db.pool(), ended).await == "1").then_some(())
    })
    .await;
    let (status, printed) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");
    // Not even the most talkative log tells of the address.
    let told = printed.iter().find(|line| line.contains("localhost:9"));
    assert_eq!(told, None);
    assert!(proxy.requests().is_empty(), "{:?}", proxy.requests());
    assert_eq!(
        attempts(db.pool()).await,
        "partner 1 failed permanent {\"class\": \"private_target\", \"error\": \"the channel refused the message\"}"
    );
}

/// A document is not the operator's word: it calls nothing private that the settings do not allow.
#[tokio::test]
async fn a_webhook_to_a_private_address_is_not_sent_and_explain_says_why() {
    let receiver = Receiver::start([Reply::status(200)]).await;
    let webhook = WebhookSettings::new(SECRET).build().unwrap();
    let story = Story::builder()
        .channel("webhook", webhook)
        .begin(MORNING)
        .await;
    story.pool().execute(ORDERS).await.unwrap();
    let url = receiver.url();
    story
        .apply(&acting(&format!(
            "        - {{ type: webhook, url: '{url}' }}"
        )))
        .await;
    let run = submit(&story).await;
    assert_eq!(
        place(&story, run).await,
        "failed in act: failed:permanent_failure"
    );
    assert!(receiver.requests().is_empty());
    let kept = "select outcome || ' ' || error_class || ' ' || (response ->> 'class') from chimeway.delivery_attempts";
    assert_eq!(
        lines(story.pool(), kept).await,
        "failed permanent private_target"
    );
    let tenant = "org_456".parse().unwrap();
    let mut conn = story.pool().acquire().await.unwrap();
    let explained = story
        .chimeway()
        .workflows()
        .explain(&mut conn, &tenant, run)
        .await;
    let explained = explained.unwrap().unwrap();
    assert_eq!(
        explained.deliveries[0].last_class.as_deref(),
        Some("private_target")
    );
    assert!(
        explained.next.ends_with(
            "The webhook message was not sent: its address is in a private network, and the worker's \
             `allow_private` does not name it."
        ),
        "{}",
        explained.next
    );
    audit(story.pool()).await;
}
