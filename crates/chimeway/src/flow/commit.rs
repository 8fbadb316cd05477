//! The group-commit stage: handlers hand in what is to be recorded and wait; while one batch commits
//! the next one gathers, so that many results are one transaction, and one result alone waits for
//! nobody. Under load the next one gathers for as long again, until there are enough of them.

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Core, Point, batch, metrics,
    record::{Attempted, Record, Recorded},
    session::Sessions,
};
use crate::store::{claims::ClaimRef, error::Fault};

/// How many results one transaction records.
const BATCH: usize = 500;
/// First and longest pause while the database is away.
const AWAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long at most the next results gather after the last ones were recorded.
const GATHER: Duration = Duration::from_millis(5);
/// First and longest pause before a result is recorded again whose row another session holds.
const HELD: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

struct Entry {
    attempted: Arc<Attempted>,
    /// How often another session held its row.
    held: u32,
    done: oneshot::Sender<()>,
}

/// Where results are handed in; cheap to clone.
#[derive(Clone)]
pub(super) struct Stage {
    entries: mpsc::Sender<Entry>,
}

impl Stage {
    /// Starts the stage; it ends when the last handle is dropped and everything is recorded. So many results
    /// as are `enough` wait for no others.
    pub(super) fn start(core: Arc<Core>, sessions: Sessions, enough: usize) -> Self {
        let (entries, gathered) = mpsc::channel(BATCH * 2);
        tokio::spawn(run(core, sessions, gathered, entries.downgrade(), enough));
        Self { entries }
    }

    /// Records a result; returns when it is committed. A database that is away is waited for: the send
    /// happened, and only its record is missing.
    pub(super) async fn record(&self, attempted: Attempted) {
        let (done, recorded) = oneshot::channel();
        let entry = Entry {
            attempted: Arc::new(attempted),
            held: 0,
            done,
        };
        if self.entries.send(entry).await.is_ok() {
            let _ = recorded.await;
        }
    }
}

async fn run(
    core: Arc<Core>,
    sessions: Sessions,
    mut gathered: mpsc::Receiver<Entry>,
    again: mpsc::WeakSender<Entry>,
    enough: usize,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut until = Instant::now();
    while gathered.recv_many(&mut batch, BATCH).await > 0 {
        gather(&mut gathered, &mut batch, until, enough.min(BATCH)).await;
        let began = Instant::now();
        let results: Vec<Arc<Attempted>> =
            batch.iter().map(|it| Arc::clone(&it.attempted)).collect();
        // A panic is a bug of ours. It must not end the stage, on which every send of this process
        // depends; and it takes at most the result it is about, whose lease then ends.
        let held = match without_panic(record_all(&core, &sessions, &results)).await {
            Some(held) => held,
            None => {
                let mut held = HashSet::new();
                for one in results.chunks(1) {
                    let recorded = without_panic(record_all(&core, &sessions, one)).await;
                    held.extend(recorded.unwrap_or_default());
                }
                held
            }
        };
        for entry in batch.drain(..) {
            if held.contains(&entry.attempted.claim) {
                tokio::spawn(come_again(entry, again.clone()));
            } else {
                let _ = entry.done.send(());
            }
        }
        // Half of the time at most goes into transactions: the more results come, the more each one takes.
        until = Instant::now() + began.elapsed().min(GATHER);
    }
}

async fn gather(
    gathered: &mut mpsc::Receiver<Entry>,
    batch: &mut Vec<Entry>,
    until: Instant,
    enough: usize,
) {
    while batch.len() < enough {
        let more = gathered.recv_many(batch, BATCH - batch.len());
        match tokio::time::timeout_at(until, more).await {
            Ok(got) if got > 0 => {}
            _ => return,
        }
    }
}

/// Hands a result in once more, in a while: another session holds its row, and nobody waits for that.
async fn come_again(entry: Entry, again: mpsc::WeakSender<Entry>) {
    let pause = HELD.0.saturating_mul(1 << entry.held.min(16)).min(HELD.1);
    tokio::time::sleep(pause).await;
    let held = entry.held.saturating_add(1);
    // Where the stage has ended meanwhile, so does the lease.
    if let Some(entries) = again.upgrade() {
        let _ = entries.send(Entry { held, ..entry }).await;
    }
}

async fn without_panic<T>(recording: impl Future<Output = T>) -> Option<T> {
    let recorded = AssertUnwindSafe(recording).catch_unwind().await.ok();
    if recorded.is_none() {
        tracing::error!("recording panicked; what is not recorded is closed when its lease ends");
    }
    recorded
}

/// Records results, however long the database is away; returns those whose rows another session holds.
///
/// A connection lost at COMMIT leaves open whether it happened. Repeating is safe either way: a result
/// that is there is not written again, for its fence is no longer held.
async fn record_all(
    core: &Core,
    sessions: &Sessions,
    results: &[Arc<Attempted>],
) -> HashSet<ClaimRef> {
    let mut pause = AWAY.0;
    loop {
        let began = Instant::now();
        match batch::commit(sessions, &Record { core }, results.to_vec()).await {
            Ok(committed) => {
                metrics::recorded(results.len() - committed.left.len(), began.elapsed());
                let mut recorded = Recorded::all(committed.outputs);
                recorded.count(core);
                core.wake_after(sessions, &mut recorded.made).await;
                core.reach(Point::AfterRecordCommit).await;
                // Where another session was in the way, it will be gone. Else nothing would go better the next time:
                // it stays claimed, and whoever finds that its lease has ended tries to close it.
                let left = committed.left.into_iter();
                let again = left.filter(|(_, error)| error.fault() == Fault::Conflict);
                recorded.held.extend(again.map(|(result, _)| result.claim));
                return recorded.held;
            }
            Err(error) => {
                metrics::not_recorded();
                core.outage.noticed();
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
