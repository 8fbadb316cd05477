//! Through PgBouncer in transaction mode: many clients on few sessions of the server.

use std::time::Duration;

use chimeway_testkit::TestDb;
use nix::sys::signal::Signal;

use crate::{
    audit::{assert_recorded, audit},
    fleet::{Host, number},
    host::apply_short,
    metrics::{address, get},
    pgbouncer::PgBouncer,
    process::Desk,
    programs::{chimeway, chimeway_at, psql, words},
    running::Running,
    support::eventually,
};

const TRIGGER: &str = "trigger mention_escalation --tenant org_456 --recipient ada \
                       --address email=ada@example.com --pooled";

/// Every command of a person's, a worker and the HTTP API, over one session of the server for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_a_worker_and_the_api_share_two_sessions() {
    let db = TestDb::create().await;
    let pgbouncer = PgBouncer::before(&db.url(), 2);
    let url = pgbouncer.url(&db.url());
    apply_short(&db.url());
    let mut command = chimeway_at(
        &url,
        &words("worker --until-stdin-ends --channel email=log --http 127.0.0.1:0"),
    );
    command.env("CHIMEWAY_POOLED", "true");
    let worker = Running::of(command);
    let address = address(&worker).await;
    worker.prints("chimeway_delivery=20").await;

    chimeway(&url, &words("workflows list --pooled")).expect(0);
    let journey = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../journeys/mention_escalation.yaml"
    );
    let applied = chimeway(&url, &["workflows", "apply", journey, "--pooled"]).expect(0);
    assert!(applied.out.contains("v2 applied"), "{}", applied.out);
    let apply = chimeway(&db.url(), &["workflows", "apply", journey]).expect(0);
    assert!(apply.out.contains("unchanged"), "{}", apply.out);
    chimeway(&url, &words(TRIGGER)).expect(0);
    let runs = "runs --tenant org_456 --json --pooled";
    let run = eventually("the run waits", async || {
        let runs = chimeway(&url, &words(runs)).expect(0).json();
        let run = runs.as_array().unwrap().first()?.clone();
        (run["state"] == "waiting").then_some(run)
    })
    .await;
    let id = run["id"].as_str().unwrap().to_owned();
    chimeway(
        &url,
        &words(&format!("explain {id} --tenant org_456 --pooled")),
    )
    .expect(0);
    chimeway(&url, &words("queues --pooled")).expect(0);
    let not_there = "explain 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456 --pooled";
    chimeway(&url, &words(not_there)).expect(3);
    let track = "track notification_read --tenant org_456 --actor ada --pooled";
    chimeway(&url, &words(track)).expect(0);
    eventually("it stops", async || {
        let states = psql(&db.url(), &[], "select state from chimeway.workflow_runs");
        (states.expect(0).out == "stopped\n").then_some(())
    })
    .await;
    let token = chimeway(
        &url,
        &words("tokens create ada --tenant org_456 --pooled --json"),
    )
    .expect(0)
    .json();
    let token = token["token"].as_str().unwrap();
    for _ in 0..20 {
        let answered = crate::programs::command("curl")
            .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"])
            .args(["-H", &format!("authorization: Bearer {token}")])
            .arg(format!("http://{address}/api/runs/{id}/explain"))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&answered.stdout), "200");
    }
    let (status, scraped) = get(&address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(scraped.contains("\nchimeway_database_up 1\n"), "{scraped}");
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
    assert!(
        !lines.iter().any(|line| line.contains("prepared statement")),
        "{lines:?}"
    );
    audit(db.pool()).await;
}

/// Four processes of eight connections each, on three sessions of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_many_clients_on_few_sessions_do_not_meet() {
    const JOURNEYS: usize = 500;
    let db = TestDb::create().await;
    let mut pgbouncer = PgBouncer::before(&db.url(), 3);
    let url = pgbouncer.url(&db.url());
    let host = Host::with_journey(db.pool(), "PT0.3S").await;
    let desk = Desk::new();
    let worker = || {
        let worker = desk.worker(&url).pooled().with("--lease-ms", "2000");
        worker.with("--send-ms", "500").with("--grace-ms", "500")
    };
    let mut workers = vec![];
    for direct in [None, None, Some(db.url()), Some(db.url())] {
        let mut worker = worker();
        if let Some(direct) = direct {
            worker = worker.with("--direct-url", direct);
        }
        workers.push(worker.start().await);
    }
    host.trigger_many(JOURNEYS).await;
    eventually("the workers are in the middle of it", async || {
        (desk.sends().len() > 100).then_some(())
    })
    .await;
    tokio::task::block_in_place(|| pgbouncer.restart());
    host.until_ended_after_all(JOURNEYS).await;
    for worker in workers {
        worker.stop().await;
    }
    let aside = "select count(*) from chimeway.workflow_runs where quarantine_reason is not null";
    assert_eq!(number(db.pool(), aside).await, 0);
    assert_recorded(db.pool(), &desk.sends()).await;
    audit(db.pool()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_not_told_of_a_pooler_says_what_is_to_be_done() {
    let db = TestDb::create().await;
    let pgbouncer = PgBouncer::before(&db.url(), 2);
    let url = pgbouncer.url(&db.url());
    let worker = Running::worker(&url, "--channel email=log");
    let (status, lines) = worker.ended().await;
    assert_eq!(status.code(), Some(1), "{lines:?}");
    let last = lines.last().unwrap();
    assert!(last.contains("pass --pooled"), "{last}");
    let migrate = chimeway(&url, &words("migrate --pooled")).expect(1);
    assert!(migrate.err.contains("direct_url"), "{}", migrate.err);
    let mut command = chimeway_at(&url, &words("migrate --pooled"));
    command.env("CHIMEWAY_DIRECT_URL", db.url());
    let migrated = command.output().unwrap();
    assert!(migrated.status.success());
    // Without listening it cannot be seen ahead: the log says it, and no row is blamed.
    apply_short(&db.url());
    let workers: Vec<Running> = (0..3)
        .map(|_| Running::worker(&url, "--no-listen --channel email=log"))
        .collect();
    for _ in 0..5 {
        let trigger = TRIGGER.trim_end_matches(" --pooled");
        chimeway(&db.url(), &words(trigger)).expect(0);
    }
    eventually("one of them says so", async || {
        let mut lines = workers.iter().flat_map(Running::lines);
        lines
            .any(|line| line.contains("pooled = true"))
            .then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let aside = "select count(*) from chimeway.events where quarantine_reason is not null";
    assert_eq!(number(db.pool(), aside).await, 0);
}
