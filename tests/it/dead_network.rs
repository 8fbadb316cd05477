//! A network that silently stops forwarding: nothing waits for it for ever, and nothing is lost or done twice.

use std::time::{Duration, Instant};

use chimeway::{
    flow::{Point, Timing, workers::Workers},
    store::settings,
};
use chimeway_testkit::{RecordingChannel, TestDb};
use futures::FutureExt as _;
use sqlx::Connection as _;

use crate::{
    audit::audit,
    fleet::{Fleet, Host, number, pool_of_its_own, recording, texts},
    metrics::{address, get},
    programs::{chimeway, chimeway_at, words},
    proxy::Proxy,
    running::Running,
    support::eventually,
};

async fn until_ready(address: &str, status: u16) {
    eventually(&format!("/readyz answers {status}"), async || {
        (get(address, "/readyz").await.0 == status).then_some(())
    })
    .await;
}

/// Its connections are dead for good, and new ones are not: as behind a firewall that has forgotten them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_worker_gives_up_dead_connections_and_is_not_ready_meanwhile() {
    let db = TestDb::create().await;
    let host = Host::with_journey(db.pool(), "PT2H").await;
    let proxy = Proxy::before(&db.url()).await;
    let options = "worker --until-stdin-ends --channel email=log --http 127.0.0.1:0";
    let mut command = chimeway_at(&proxy.url(&db.url()), &words(options));
    command.env("CHIMEWAY_TRANSACTION_SECONDS", "2");
    let worker = Running::of(command);
    let address = address(&worker).await;
    until_ready(&address, 200).await;
    host.trigger("before").await;
    host.until("before", "waiting").await;

    proxy.fall_silent();
    until_ready(&address, 503).await;
    host.trigger("meanwhile").await;
    proxy.forget();
    host.until("meanwhile", "waiting").await;
    until_ready(&address, 200).await;

    // And once more, but that it comes back as if nothing had been.
    proxy.fall_silent();
    until_ready(&address, 503).await;
    proxy.resume();
    until_ready(&address, 200).await;
    host.trigger("after").await;
    host.until("after", "waiting").await;
    let (status, lines) = worker.told(nix::sys::signal::Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
    audit(db.pool()).await;
}

/// The answer to a COMMIT is kept back for longer than a transaction may take: whether it happened is found out by
/// reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_does_not_come_is_neither_lost_nor_done_again() {
    let db = TestDb::create().await;
    let host = Host::with_journey(db.pool(), "PT2H").await;
    let proxy = std::sync::Arc::new(Proxy::before(&db.url()).await);
    let pool = pool_of_its_own(&proxy.url(&db.url()), 8).await;
    let channel = RecordingChannel::default();
    let timing = Timing {
        transaction: Duration::from_millis(500),
        ..Timing::default()
    };
    let mutes = std::sync::Arc::clone(&proxy);
    let once = std::sync::atomic::AtomicBool::new(false);
    let hook = move |point| {
        if point == Point::BeforeRecordCommit
            && !once.swap(true, std::sync::atomic::Ordering::SeqCst)
        {
            mutes.mute();
        }
        std::future::ready(()).boxed()
    };
    let chimeway = recording(&channel)
        .timing(timing)
        .hook(std::sync::Arc::new(hook))
        .build();
    let fleet = Fleet::start(Workers::new(chimeway, pool));
    host.trigger("ada").await;
    // It is there, and its worker does not know.
    host.until("ada", "waiting").await;
    proxy.forget();
    host.trigger("grace").await;
    host.until("grace", "waiting").await;
    fleet.stop().await;
    assert_eq!(channel.sent().len(), 2);
    let tries = "select attempt_number || ' ' || outcome from chimeway.delivery_attempts";
    assert_eq!(texts(db.pool(), tries).await, ["1 succeeded"; 2]);
    audit(db.pool()).await;
}

/// Nothing is said on its connection for half a minute, nothing comes back when it asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_finds_out_that_its_network_is_dead() {
    let db = TestDb::create().await;
    let proxy = Proxy::before(&db.url()).await;
    let through = pool_of_its_own(&proxy.url(&db.url()), 2).await;
    let workers = Workers::new(
        recording(&RecordingChannel::default()).build(),
        db.pool().clone(),
    );
    let fleet = Fleet::start(workers.listen(Some(through)));
    let listeners = "select count(*) from pg_stat_activity
                     where datname = current_database() and query ilike 'listen%'";
    eventually("it listens", async || {
        (number(db.pool(), listeners).await == 1).then_some(())
    })
    .await;
    proxy.forget();
    let began = Instant::now();
    // The server does not know that the old one is gone.
    while number(db.pool(), listeners).await < 2 {
        assert!(began.elapsed() < Duration::from_secs(50), "it hangs");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    fleet.stop().await;
}

/// The worker's end of a transaction is gone, and its server was not told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_lost_worker_locked_are_free_when_its_transaction_would_be_over() {
    const LONGEST: Duration = Duration::from_secs(3);
    let db = TestDb::create().await;
    let host = Host::with_journey(db.pool(), "PT2H").await;
    host.trigger("ada").await;
    let proxy = Proxy::before(&db.url()).await;
    let through = pool_of_its_own(&proxy.url(&db.url()), 1).await;
    let mut conn = through.acquire().await.unwrap();
    let begin = settings::begin_for(settings::BEGIN, LONGEST);
    let mut lost = conn.begin_with(begin).await.unwrap();
    let lock = "select id from chimeway.workflow_runs for no key update";
    sqlx::query(lock).execute(&mut *lost).await.unwrap();
    proxy.forget();

    let mut other = db.pool().begin().await.unwrap();
    let patience = "set local lock_timeout = '20s'";
    sqlx::query(patience).execute(&mut *other).await.unwrap();
    let began = Instant::now();
    sqlx::query(lock).execute(&mut *other).await.unwrap();
    assert!(began.elapsed() > LONGEST / 2, "nobody held them");
    drop(other);
    drop(lost);
    conn.close_on_drop();
}

/// A person's command ends too.
#[tokio::test]
async fn a_command_does_not_wait_for_a_server_that_says_nothing() {
    let db = TestDb::create().await;
    let proxy = Proxy::before(&db.url()).await;
    proxy.fall_silent();
    let url = proxy.url(&db.url());
    let ran = tokio::task::spawn_blocking(move || chimeway(&url, &["queues"]));
    let ran = tokio::time::timeout(Duration::from_secs(30), ran).await;
    let ran = ran.expect("it ends").unwrap().expect(1);
    assert!(
        ran.err.contains("no answer within 10 seconds"),
        "{}",
        ran.err
    );
}
