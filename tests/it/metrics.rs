//! What is measured: real workers that are scraped, and what one process counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
};

use chimeway::{
    Chimeway, Dispatcher,
    flow::metrics::{self as ours, MetricKind},
};
use chimeway_cluster::{Cluster, Durability, Mode};
use chimeway_testkit::{Answer, Story, TestDb};
use metrics_exporter_prometheus::PrometheusBuilder;
use nix::sys::signal::Signal;
use sqlx::Executor as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    host::{Host, apply_short},
    programs::{chimeway, psql, words},
    running::Running,
    support::eventually,
    tools::MORNING,
};

const TRIGGER: &str = "trigger mention_escalation --tenant org_456 --recipient user_123 \
                       --address email=ada@example.com --params {\"document_id\":\"doc_789\"}";
const TRACK: &str = "track notification_read --tenant org_456 --actor user_123";

/// What an address answers: the status and the body.
pub(crate) async fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}

/// Where a worker serves, of what it logs.
pub(crate) async fn address(worker: &Running) -> String {
    let line = worker.prints(" serves /livez").await;
    let (_, rest) = line.split_once("http://").unwrap();
    rest.split(' ').next().unwrap().to_owned()
}

async fn until_answers(address: &str, path: &str, status: u16) -> String {
    eventually(&format!("{path} answers {status}"), async || {
        let (answered, body) = get(address, path).await;
        (answered == status).then_some(body)
    })
    .await
}

/// Samples by their name with its labels, as they are scraped.
struct Scraped {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Scraped {
    fn of(text: String) -> Self {
        let lines = text.lines();
        let samples = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        let samples = samples.collect();
        Self { text, samples }
    }

    #[track_caller]
    fn value(&self, sample: &str) -> f64 {
        *self
            .samples
            .get(sample)
            .unwrap_or_else(|| panic!("{sample} is not in\n{}", self.text))
    }

    /// The metrics that have samples, with the labels these have.
    fn metrics(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for sample in self.samples.keys() {
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let labels = labels.trim_end_matches('}').split(',');
            let labels = labels.filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            let entry = found.entry(without_suffix(name).to_owned()).or_default();
            entry.extend(labels.filter(|label| label != "le"));
        }
        found
    }
}

/// The metric that a series of a histogram belongs to.
fn without_suffix(name: &str) -> &str {
    let histograms = ours::ALL
        .iter()
        .filter(|metric| metric.kind == MetricKind::Histogram);
    let mut histograms = histograms.map(|metric| metric.name);
    histograms
        .find(|histogram| {
            name.strip_prefix(histogram)
                .is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest))
        })
        .unwrap_or(name)
}

#[tokio::test]
async fn a_scrape_after_a_journey_has_every_metric_and_nobody_in_it() {
    let db = TestDb::create().await;
    let url = db.url();
    apply_short(&url);
    let worker = Running::worker(&url, "--channel email=log --http 127.0.0.1:0");
    let address = address(&worker).await;
    assert_eq!(get(&address, "/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(until_answers(&address, "/readyz", 200).await, "ready\n");
    assert_eq!(get(&address, "/").await.0, 404);
    chimeway(&url, &words(TRIGGER)).expect(0);
    chimeway(&url, &words(TRACK)).expect(0);
    let over = "select count(*) from chimeway.workflow_runs, chimeway.signals
                where ended_at is not null and routed_at is not null";
    eventually("the journey ends and the signal is routed", async || {
        (psql(&url, &[], over).expect(0).out == "1\n").then_some(())
    })
    .await;
    // The first journey may have heard the signal: a second one has its wait, and its mail.
    chimeway(&url, &words(TRIGGER)).expect(0);
    let scraped = eventually("the mail is counted", async || {
        let scraped = Scraped::of(get(&address, "/metrics").await.1);
        let mails =
            scraped.value(r#"chimeway_attempts_total{channel="email",outcome="succeeded"}"#);
        let results = scraped
            .samples
            .get("chimeway_record_batch_size_sum")
            .copied();
        (mails >= 1.0 && results.is_some_and(|results| results >= 3.0)).then_some(scraped)
    })
    .await;

    let metrics = scraped.metrics();
    for metric in ours::ALL {
        let expected: BTreeSet<String> = metric.labels.iter().map(|it| (*it).to_owned()).collect();
        assert_eq!(
            metrics.get(metric.name),
            Some(&expected),
            "{}\n{}",
            metric.name,
            scraped.text
        );
        assert!(
            scraped.text.contains(&format!("# HELP {} ", metric.name)),
            "{}",
            metric.name
        );
    }
    assert_eq!(metrics.len(), ours::ALL.len(), "{metrics:?}");
    for secret in [
        "user_123",
        "org_456",
        "ada@example.com",
        "doc_789",
        "mention",
        "short",
    ] {
        assert!(
            !scraped.text.contains(secret),
            "{secret} is in\n{}",
            scraped.text
        );
    }
    for (sample, (least, most)) in [
        (
            r#"chimeway_attempts_total{channel="in_app",outcome="succeeded"}"#,
            (2.0, 2.0),
        ),
        (
            r#"chimeway_attempts_total{channel="email",outcome="bounced"}"#,
            (0.0, 0.0),
        ),
        (
            r#"chimeway_send_seconds_count{channel="in_app"}"#,
            (2.0, 2.0),
        ),
        ("chimeway_delivery_wait_seconds_count", (3.0, 4.0)),
        ("chimeway_delivery_wait_seconds_sum", (0.0, 10.0)),
        ("chimeway_claim_seconds_count", (2.0, 10_000.0)),
        ("chimeway_timer_lateness_seconds_count", (1.0, 100.0)),
        ("chimeway_timer_lateness_seconds_sum", (0.0, 10.0)),
        ("chimeway_signal_lag_seconds_count", (1.0, 1.0)),
        ("chimeway_signal_lag_seconds_sum", (0.0, 10.0)),
        (
            r#"chimeway_batches_total{kind="signals",result="worked"}"#,
            (1.0, 10.0),
        ),
        (
            r#"chimeway_batches_total{kind="results",result="worked"}"#,
            (2.0, 10.0),
        ),
        ("chimeway_leases_closed_total", (0.0, 0.0)),
        ("chimeway_ready", (1.0, 1.0)),
        ("chimeway_database_up", (1.0, 1.0)),
        (
            r#"chimeway_queue_lag_seconds{queue="chimeway_delivery",kind="deliveries"}"#,
            (0.0, 10.0),
        ),
        (r#"chimeway_set_aside{kind="run"}"#, (0.0, 0.0)),
        ("chimeway_expired_leases", (0.0, 0.0)),
        ("chimeway_notification_queue_ratio", (0.0, 1.0)),
    ] {
        let value = scraped.value(sample);
        assert!(
            (least..=most).contains(&value),
            "{sample} {value}\n{}",
            scraped.text
        );
    }
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
    assert!(
        TcpStream::connect(&address).await.is_err(),
        "it still serves"
    );
}

#[tokio::test]
async fn a_worker_that_drains_lives_and_is_not_ready() {
    let host = Host::begin().await;
    let url = host.db.url();
    let worker = Running::worker(&url, "--channel email=log --http 127.0.0.1:0");
    let address = address(&worker).await;
    until_answers(&address, "/readyz", 200).await;
    // Results wait for this, and what was begun is finished before a worker ends.
    let mut holder = host.db.connect().await;
    let lock = "begin; lock table chimeway.delivery_attempts in exclusive mode";
    holder.execute(lock).await.unwrap();
    chimeway(&url, &words(TRIGGER)).expect(0);
    eventually("a message is sent and not recorded", async || {
        let scraped = Scraped::of(get(&address, "/metrics").await.1);
        let sent = r#"chimeway_send_seconds_count{channel="in_app"}"#;
        let in_flight = scraped.value(r#"chimeway_in_flight{channel="in_app"}"#);
        // Its slot is free: another message could be sent meanwhile.
        (scraped.samples.contains_key(sent) && in_flight == 0.0).then_some(())
    })
    .await;
    worker.tell(Signal::SIGTERM);
    assert_eq!(until_answers(&address, "/readyz", 503).await, "draining\n");
    assert_eq!(get(&address, "/livez").await.0, 200);
    let scraped = Scraped::of(get(&address, "/metrics").await.1);
    assert_eq!(scraped.value("chimeway_ready"), 0.0);
    holder.execute("rollback").await.unwrap();
    let (status, lines) = worker.ended().await;
    assert!(status.success(), "{status}: {lines:?}");
    let tries = "select count(*) from chimeway.delivery_attempts";
    assert_eq!(psql(&url, &[], tries).expect(0).out, "1\n");
}

/// A message that is sent makes room for the next one, but not without end where nothing can be recorded.
#[tokio::test]
async fn while_results_cannot_be_recorded_six_are_sent_for_each_slot() {
    let host = Host::begin().await;
    let url = host.db.url();
    let mut holder = host.db.connect().await;
    let lock = "begin; lock table chimeway.delivery_attempts in exclusive mode";
    holder.execute(lock).await.unwrap();
    for _ in 0..10 {
        chimeway(&url, &words(TRIGGER)).expect(0);
    }
    let options = "--channel email=log --http 127.0.0.1:0 --queue chimeway_delivery=1";
    let worker = Running::worker(&url, options);
    let address = address(&worker).await;
    let sent = async || {
        let scraped = Scraped::of(get(&address, "/metrics").await.1);
        let sent = r#"chimeway_send_seconds_count{channel="in_app"}"#;
        scraped.samples.get(sent).copied().unwrap_or_default()
    };
    eventually("six are sent", async || (sent().await == 6.0).then_some(())).await;
    let claimed = "select count(*) from chimeway.deliveries where status = 'dispatched'";
    eventually("the slot is taken again", async || {
        let claimed = psql(&url, &[], claimed).expect(0).out;
        (claimed == "7\n").then_some(())
    })
    .await;
    assert_eq!(sent().await, 6.0);
    holder.execute("rollback").await.unwrap();
    eventually("all are sent", async || {
        (sent().await == 10.0).then_some(())
    })
    .await;
    worker.tell(Signal::SIGTERM);
    let (status, lines) = worker.ended().await;
    assert!(status.success(), "{status}: {lines:?}");
    let tries = "select count(*) from chimeway.delivery_attempts where attempt_number = 1";
    assert_eq!(psql(&url, &[], tries).expect(0).out, "10\n");
}

#[tokio::test]
async fn heavy_a_worker_is_ready_while_it_reaches_postgres_and_lives_all_the_time() {
    let cluster = Cluster::builder().durability(Durability::OffForTests);
    let mut cluster = cluster.database("app").start().unwrap();
    let url = cluster.url("app");
    chimeway(&url, &["migrate"]).expect(0);
    let worker = Running::worker(&url, "--http 127.0.0.1:0");
    let address = address(&worker).await;
    until_answers(&address, "/readyz", 200).await;

    cluster.stop_server(Mode::Fast).unwrap();
    let reason = until_answers(&address, "/readyz", 503).await;
    assert!(
        reason.starts_with("the database is not reached by "),
        "{reason}"
    );
    assert_eq!(reason.lines().count(), 1, "{reason}");
    assert_eq!(get(&address, "/livez").await.0, 200);
    eventually("a scrape says so", async || {
        let scraped = Scraped::of(get(&address, "/metrics").await.1);
        let of_database = scraped.text.contains("chimeway_queue_depth");
        (scraped.value("chimeway_database_up") == 0.0 && !of_database).then_some(())
    })
    .await;
    // One that starts meanwhile lives and waits.
    let other = Running::worker(&url, "--http 127.0.0.1:0");
    let reason = until_answers(&self::address(&other).await, "/readyz", 503).await;
    assert!(reason.starts_with("starting"), "{reason}");

    cluster.start_server().unwrap();
    until_answers(&address, "/readyz", 200).await;
    let (status, _) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");
    drop(other);
    cluster.stop(Mode::Immediate).unwrap();
}

#[tokio::test]
async fn an_address_that_cannot_be_served_is_refused_in_one_line() {
    let db = TestDb::create().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (address, expected) in [
        (
            "localhost",
            "error: http is not usable: `localhost` is not an address with a port",
        ),
        (&taken, &format!("error: cannot serve HTTP on {taken}: ")),
    ] {
        let ran = chimeway(&db.url(), &["worker", "--http", address]).expect(1);
        let line = ran.err.lines().next_back().unwrap();
        assert!(line.starts_with(expected), "{line}");
        assert!(line.ends_with("such as 127.0.0.1:9464"), "{line}");
    }
}

/// On this thread alone, where a recorder of its own is in force.
#[tokio::test]
async fn every_end_of_a_claim_is_counted_once() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _in_force = metrics::set_default_local_recorder(&recorder);
    let story = Story::begin(MORNING).await;
    story
        .apply(
            "key: mail\nsteps:\n  - { id: mail, action: { type: notify, channel: email, render_key: mail } }\n",
        )
        .await;
    let scraped = || Scraped::of(recorder.handle().render());
    let attempts = |scraped: &Scraped| -> Vec<String> {
        let samples = scraped.samples.iter();
        let attempts = samples.filter_map(|(sample, value)| {
            let labels = sample.strip_prefix("chimeway_attempts_total")?;
            Some(format!("{labels} {value}"))
        });
        attempts.collect()
    };
    story
        .channel()
        .answer([Answer::Temporary(None), Answer::Bounced]);
    story.trigger("mail", "ada").await;
    story.drain().await;
    story.advance("PT1H").await;
    assert_eq!(
        attempts(&scraped()),
        [
            r#"{channel="email",outcome="bounced"} 1"#,
            r#"{channel="email",outcome="temporary"} 1"#
        ]
    );

    // A worker vanishes with a claim, five times: its tries are closed, and the delivery is set aside.
    story.trigger("mail", "grace").await;
    for _ in 0..5 {
        let vanish =
            "update chimeway.deliveries set status = 'dispatched', claim_no = claim_no + 1,
                      attempts = attempts + 1, lease_owner = 'gone', lease_until = chimeway.clock(),
                      next_attempt_at = chimeway.clock()
                      where status in ('pending', 'failed')";
        let vanished = sqlx::query(vanish).execute(story.pool()).await.unwrap();
        assert_eq!(vanished.rows_affected(), 1);
        story.pass("PT3S").await;
        story.sweep().await;
    }
    let scraped = scraped();
    assert!(
        attempts(&scraped).contains(&r#"{channel="email",outcome="unknown"} 5"#.to_owned()),
        "{}",
        scraped.text
    );
    assert_eq!(scraped.value("chimeway_leases_closed_total"), 5.0);
    assert_eq!(
        scraped.value(r#"chimeway_quarantined_total{kind="delivery"}"#),
        1.0
    );
}

#[tokio::test]
async fn rows_that_are_set_aside_are_counted_and_channels_of_others_have_one_name() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _in_force = metrics::set_default_local_recorder(&recorder);
    let story = Story::begin(MORNING).await;
    story
        .apply("key: text\nsteps:\n  - { id: a, action: { type: notify, channel: email, render_key: a } }\n")
        .await;
    story.trigger("text", "ada").await;
    let lost = "update chimeway.deliveries set channel = 'pigeon';
                alter table chimeway.workflow_runs drop constraint workflow_runs_state;";
    sqlx::raw_sql(lost).execute(story.pool()).await.unwrap();
    story.drain().await;
    let broken = "update chimeway.workflow_runs set state = 'asleep', wake_at = chimeway.clock()";
    sqlx::query(broken).execute(story.pool()).await.unwrap();
    for _ in 0..3 {
        story.advance("PT5S").await;
    }
    let scraped = Scraped::of(recorder.handle().render());
    assert_eq!(
        scraped.value(r#"chimeway_quarantined_total{kind="run"}"#),
        1.0
    );
    assert!(
        scraped.value(r#"chimeway_attempts_total{channel="other",outcome="temporary"}"#) >= 1.0
    );
    assert!(!scraped.text.contains("pigeon"), "{}", scraped.text);
}

/// A host that installs no recorder pays for none.
#[tokio::test]
async fn without_a_recorder_nothing_is_kept_and_everything_works() {
    let chimeway = Chimeway::builder().dispatcher(Dispatcher::Inline).build();
    ours::describe();
    chimeway.begin_counting();
    let db = TestDb::create().await;
    chimeway.settle(db.pool()).await.unwrap();
}
