//! `chimeway prune`: by the settings, by hand, and what it refuses.

use chimeway_testkit::TestDb;
use sqlx::Executor as _;

use crate::{
    fleet::{Fleet, Host, recording},
    programs::{chimeway, chimeway_at, words},
};

/// Runs that ended twenty days ago.
async fn ended(runs: usize) -> TestDb {
    let db = TestDb::create().await;
    let channel = chimeway_testkit::RecordingChannel::default();
    let host = Host::with_journey(db.pool(), "PT0.01S").await;
    let workers =
        chimeway::flow::workers::Workers::new(recording(&channel).build(), db.pool().clone());
    let fleet = Fleet::start(workers);
    host.trigger_many(runs).await;
    host.until_ended(runs).await;
    fleet.stop().await;
    let age = "update chimeway.workflow_runs set ended_at = ended_at - interval '20 days';
               update chimeway.notifications set inserted_at = inserted_at - interval '20 days';
               update chimeway.events set inserted_at = inserted_at - interval '20 days'";
    db.pool().execute(age).await.unwrap();
    db
}

async fn runs(db: &TestDb) -> i64 {
    crate::fleet::number(db.pool(), "select count(*) from chimeway.workflow_runs").await
}

#[tokio::test]
async fn it_counts_prunes_and_says_what_it_did() {
    let db = ended(3).await;
    let url = db.url();
    // Kept for thirty days.
    let printed = chimeway(&url, &words("prune")).expect(0).out;
    assert!(
        printed.contains("runs           30d         0       -"),
        "{printed}"
    );
    let would = chimeway(
        &url,
        &words("prune --kind runs --older-than 7d --dry-run --json"),
    )
    .expect(0)
    .json();
    assert_eq!(
        would,
        serde_json::json!({
            "dry_run": true, "kinds": [{ "kind": "runs", "age": "7d", "pruned": 3, "kept": [] }],
        })
    );
    assert_eq!(runs(&db).await, 3);
    let mut held = db.connect().await;
    held.execute("begin; select from chimeway.workflow_runs order by id limit 1 for update")
        .await
        .unwrap();
    let mut by_settings = chimeway_at(&url, &words("prune --kind runs --json"));
    by_settings.env("CHIMEWAY_RETENTION", "runs=7d,inbox=1d,events=1d");
    let done = crate::programs::Ran::from(by_settings.output().unwrap())
        .expect(0)
        .json();
    assert_eq!(done["kinds"][0]["pruned"], 2);
    assert_eq!(done["kinds"][1]["kind"], "inbox");
    assert_eq!(done["kinds"][1]["pruned"], 2);
    // The trigger of all three stays with the one that is held.
    assert_eq!(done["kinds"].as_array().unwrap().len(), 2, "{done}");
    held.execute("rollback").await.unwrap();
    let printed = chimeway(&url, &words("prune --kind runs --older-than 0s"))
        .expect(0)
        .out;
    assert!(
        printed.contains("KIND  OLDER THAN  PRUNED  KEPT"),
        "{printed}"
    );
    assert!(printed.contains("runs  0s          1       -"), "{printed}");
    assert_eq!(runs(&db).await, 0);
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_one_line() {
    let db = TestDb::create().await;
    for (line, expected) in [
        (
            "prune --kind signals --older-than 1h",
            "error: --older-than 1h: signals are kept for 1d at least, and 1h is less",
        ),
        (
            "prune --kind signals --older-than soon",
            "`soon` is no age; write it like 30d",
        ),
        (
            "prune --kind workflows",
            "the kinds are runs, inbox, events, signals, interventions, ticks",
        ),
        ("prune --older-than 3d", "--kind"),
    ] {
        let refused = chimeway(&db.url(), &words(line)).expect(2);
        assert!(refused.err.contains(expected), "{line}: {}", refused.err);
    }
    let mut worker = chimeway_at(&db.url(), &words("prune"));
    worker.env("CHIMEWAY_RETENTION", "signals=1h");
    let refused = crate::programs::Ran::from(worker.output().unwrap()).expect(1);
    assert!(
        refused.err.contains("signals are kept for 1d at least"),
        "{}",
        refused.err
    );
}
