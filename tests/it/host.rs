//! A pretend host application: a database of its own with a table of its own, the journey applied,
//! and Chimeway's handlers at hand.

use chimeway::{Chimeway, Dispatcher, Document};
use chimeway_testkit::{RecordingChannel, TestDb};
use sqlx::{PgConnection, PgPool, types::Uuid};

use crate::programs::chimeway;

pub(crate) const JOURNEY: &str = include_str!("../../journeys/mention_escalation.yaml");

/// Applies the journey with a wait of 0.2 s, as a person does.
pub(crate) fn apply_short(url: &str) {
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("short.yaml");
    std::fs::write(&short, JOURNEY.replace("PT2H", "PT0.2S")).unwrap();
    chimeway(url, &["workflows", "apply", short.to_str().unwrap()]).expect(0);
}

/// What a host sends, in any language.
pub(crate) const TRIGGER: &str = r#"
    select chimeway.trigger(
        workflow => 'mention_escalation',
        params => '{"document_id": "doc_789"}',
        tenant_id => 'org_456',
        recipients => '[{"identity": "user_123", "addresses": {"email": "ada@example.com"}}]'
    )"#;

/// A host with the real clock.
pub(crate) struct Host {
    pub(crate) db: TestDb,
    pub(crate) chimeway: Chimeway,
    pub(crate) channel: RecordingChannel,
}

impl Host {
    pub(crate) async fn begin() -> Self {
        let db = TestDb::create().await;
        let channel = RecordingChannel::default();
        let chimeway = Chimeway::builder()
            .dispatcher(Dispatcher::Inline)
            .channel("email", channel.clone())
            .unwrap()
            .channel("in_app", channel.clone())
            .unwrap()
            .build();
        let journey = Document::from_yaml("mention_escalation.yaml", JOURNEY).unwrap();
        chimeway.apply(db.pool(), &journey).await.unwrap();
        sqlx::query(
            "create table public.comments (
                id bigint generated always as identity primary key, author text not null
            )",
        )
        .execute(db.pool())
        .await
        .unwrap();
        Self {
            db,
            chimeway,
            channel,
        }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        self.db.pool()
    }

    /// Does everything that is due now, as a worker would.
    pub(crate) async fn settle(&self) {
        self.chimeway.settle(self.pool()).await.unwrap();
    }

    /// How many rows there are, of the host's and of ours.
    pub(crate) async fn rows(&self) -> String {
        rows(self.pool()).await
    }

    /// What was sent: `<channel> to <recipient>`.
    pub(crate) fn sent(&self) -> Vec<String> {
        let sent = self.channel.sent();
        let lines = sent.iter().map(|message| {
            let to = message
                .recipient
                .as_ref()
                .map_or("nobody", |who| who.as_str());
            format!("{} to {to}", message.channel)
        });
        lines.collect()
    }
}

/// How many rows there are of each kind.
pub(crate) async fn rows(pool: &PgPool) -> String {
    sqlx::query_scalar(
        "select format(
            'comments %s, events %s, recipients %s, runs %s, deliveries %s, signals %s',
            (select count(*) from public.comments), (select count(*) from chimeway.events),
            (select count(*) from chimeway.recipients), (select count(*) from chimeway.workflow_runs),
            (select count(*) from chimeway.deliveries), (select count(*) from chimeway.signals)
        )",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

/// The host writes a row of its own.
pub(crate) async fn comment(conn: &mut PgConnection) {
    sqlx::query("insert into public.comments (author) values ('grace')")
        .execute(conn)
        .await
        .unwrap();
}

/// The host triggers as [`TRIGGER`] says.
pub(crate) async fn trigger(conn: &mut PgConnection) -> Uuid {
    sqlx::query_scalar(TRIGGER).fetch_one(conn).await.unwrap()
}
