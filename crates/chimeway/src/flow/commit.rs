//! The group-commit stage: handlers hand in what is to be recorded and wait; while one batch commits
//! the next one gathers, so that many results are one transaction, and one result alone waits for
//! nobody.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};

use super::{
    Core, Point, batch,
    made::Made,
    record::{Attempted, Record},
};

/// How many results one transaction records.
const BATCH: usize = 500;
/// First and longest pause while the database is away.
const AWAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

struct Entry {
    attempted: Attempted,
    done: oneshot::Sender<()>,
}

/// Where results are handed in; cheap to clone.
#[derive(Clone)]
pub(super) struct Stage {
    entries: mpsc::Sender<Entry>,
}

impl Stage {
    /// Starts the stage; it ends when the last handle is dropped and everything is recorded.
    pub(super) fn start(core: Arc<Core>, pool: PgPool) -> Self {
        let (entries, gathered) = mpsc::channel(BATCH * 2);
        tokio::spawn(run(core, pool, gathered));
        Self { entries }
    }

    /// Records a result; returns when it is committed. A database that is away is waited for: the send
    /// happened, and only its record is missing.
    pub(super) async fn record(&self, attempted: Attempted) {
        let (done, recorded) = oneshot::channel();
        if self.entries.send(Entry { attempted, done }).await.is_ok() {
            let _ = recorded.await;
        }
    }
}

async fn run(core: Arc<Core>, pool: PgPool, mut gathered: mpsc::Receiver<Entry>) {
    let mut batch = Vec::with_capacity(BATCH);
    while gathered.recv_many(&mut batch, BATCH).await > 0 {
        let (results, done): (Vec<_>, Vec<_>) = batch
            .drain(..)
            .map(|entry| (entry.attempted, entry.done))
            .unzip();
        // A panic is a bug of ours. It must not end the stage, on which every send of this process
        // depends; and it takes at most the result it is about, whose lease then ends.
        if !without_panic(record_all(&core, &pool, &results)).await {
            for one in results.chunks(1) {
                without_panic(record_all(&core, &pool, one)).await;
            }
        }
        for one in done {
            let _ = one.send(());
        }
    }
}

async fn without_panic(recording: impl Future<Output = ()>) -> bool {
    let recorded = AssertUnwindSafe(recording).catch_unwind().await.is_ok();
    if !recorded {
        tracing::error!("recording panicked; what is not recorded is closed when its lease ends");
    }
    recorded
}

/// Records results, however long the database is away.
///
/// A connection lost at COMMIT leaves open whether it happened. Repeating is safe either way: a result
/// that is there is not written again, for its fence is no longer held.
async fn record_all(core: &Core, pool: &PgPool, results: &[Attempted]) {
    let mut pause = AWAY.0;
    loop {
        match batch::commit(pool, &Record { core }, results.to_vec()).await {
            Ok(made) => {
                let made = made.into_iter().fold(Made::default(), Made::and);
                core.wake_after(pool, &made).await;
                core.reach(Point::AfterRecordCommit).await;
                return;
            }
            Err(error) => {
                tracing::warn!(
                    %error, results = results.len(), retry_ms = pause.as_millis(),
                    "results wait to be recorded",
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AWAY.1);
            }
        }
    }
}
