//! A transaction over many items, in which one bad item never takes the others along.
//!
//! The whole batch is tried first. A conflict (deadlock, serialization) repeats it after a short pause.
//! Anything else but a lost connection splits it, again and again, until the bad item is alone: that
//! one is set aside, the others commit.

use std::{future::Future, time::Duration};

use chrono::{DateTime, Utc};
use rand::RngExt;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::{
    Core,
    made::{Made, SetAside},
};
use crate::store::{StoreError, StoreResult, crashes::Counted, error::Fault, settings};

/// How often a batch is repeated after a conflict.
const CONFLICTS: u32 = 10;

/// Begins a transaction of a worker's.
pub(super) async fn begin(pool: &PgPool) -> StoreResult<Transaction<'static, Postgres>> {
    Ok(pool.begin_with(settings::BEGIN).await?)
}

/// Work over items that can be given whole, in part, or one by one.
pub(super) trait Work: Sync {
    /// One unit: what is set aside if it is bad.
    type Item: Clone + Send + Sync;
    /// What a committed part brings.
    type Output: Send;

    /// Works on the items inside one transaction.
    fn run(
        &self,
        conn: &mut PgConnection,
        items: &[Self::Item],
    ) -> impl Future<Output = StoreResult<Self::Output>> + Send;

    /// Sets one item aside, inside a transaction of its own.
    fn set_aside(
        &self,
        conn: &mut PgConnection,
        item: &Self::Item,
        error: &StoreError,
    ) -> impl Future<Output = StoreResult<Option<Self::Output>>> + Send;
}

/// Commits every item but the bad ones, which are set aside; what each committed part brought.
///
/// # Errors
///
/// Only if the database is away. What was committed before stays; a caller repeats the rest or leaves
/// it to the rows, which are still due.
pub(super) async fn commit<W: Work>(
    pool: &PgPool,
    work: &W,
    items: Vec<W::Item>,
) -> StoreResult<Vec<W::Output>> {
    let mut outputs = vec![];
    let mut parts = vec![items];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        match transact(pool, work, &part).await {
            Ok(output) => outputs.push(output),
            Err(error) if error.fault() == Fault::Away => return Err(error),
            Err(error) => match part.as_slice() {
                [item] => outputs.extend(aside(pool, work, item, &error).await?),
                _ => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.push(right.to_vec());
                    parts.push(left.to_vec());
                }
            },
        }
    }
    Ok(outputs)
}

async fn transact<W: Work>(pool: &PgPool, work: &W, items: &[W::Item]) -> StoreResult<W::Output> {
    let mut conflicts = 0;
    loop {
        match once(pool, work, items).await {
            Err(error) if error.fault() == Fault::Conflict && conflicts < CONFLICTS => {
                conflicts += 1;
                pause(conflicts).await;
            }
            outcome => return outcome,
        }
    }
}

async fn once<W: Work>(pool: &PgPool, work: &W, items: &[W::Item]) -> StoreResult<W::Output> {
    let mut tx = begin(pool).await?;
    let output = work.run(&mut tx, items).await?;
    tx.commit().await?;
    Ok(output)
}

async fn aside<W: Work>(
    pool: &PgPool,
    work: &W,
    item: &W::Item,
    error: &StoreError,
) -> StoreResult<Option<W::Output>> {
    let mut tx = begin(pool).await?;
    let output = work.set_aside(&mut tx, item, error).await?;
    tx.commit().await?;
    Ok(output)
}

/// 5 to 10 ms, doubling up to about 160 ms.
async fn pause(times: u32) {
    let longest = Duration::from_millis(5 << times.min(5));
    let jitter = 0.5 + 0.5 * rand::rng().random::<f64>();
    tokio::time::sleep(longest.mul_f64(jitter)).await;
}

/// Work over rows that are due: locked by the transaction that works on them, so that several processes
/// share a queue without meeting.
pub(super) trait DueWork: Sync {
    /// What a row is known by.
    type Id: Clone + Send + Sync;
    /// A locked row.
    type Row: Send;
    /// How many rows one transaction takes.
    const LIMIT: i64;

    /// Locks due rows, among some where those are given; rows that another session holds are passed
    /// over.
    fn lock(
        &self,
        conn: &mut PgConnection,
        among: Option<&[Self::Id]>,
        limit: i64,
    ) -> impl Future<Output = StoreResult<Vec<Self::Row>>> + Send;

    /// What a row is known by.
    fn id(row: &Self::Row) -> Self::Id;

    /// What speaks against working on a row together with others.
    fn past(row: &Self::Row) -> Past;

    /// Works on locked rows.
    fn work(
        &self,
        conn: &mut PgConnection,
        rows: Vec<Self::Row>,
    ) -> impl Future<Output = StoreResult<Made>> + Send;

    /// Counts a failed try of one row, and sets it aside after the third; what was set aside.
    fn fail(
        &self,
        conn: &mut PgConnection,
        id: &Self::Id,
        reason: &str,
    ) -> impl Future<Output = StoreResult<SetAside>> + Send;

    /// Counts a try that this process may not survive.
    fn count(
        &self,
        conn: &mut PgConnection,
        ids: &[Self::Id],
    ) -> impl Future<Output = StoreResult<Counted<Self::Id>>> + Send;

    /// As if it had not been counted, for this process is alive.
    fn retake(
        &self,
        conn: &mut PgConnection,
        ids: &[Self::Id],
    ) -> impl Future<Output = StoreResult<()>> + Send;

    /// So many rows were set aside.
    fn aside(rows: usize) -> SetAside;
}

/// What is known of a due row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Past {
    /// Since when it is due.
    pub(super) due_at: DateTime<Utc>,
    /// Tries with which worker processes died.
    pub(super) crashes: i32,
}

impl Past {
    /// A process that died may have had it, and nobody has counted that.
    pub(super) fn is_suspect(self, suspect: Option<DateTime<Utc>>) -> bool {
        self.crashes == 0 && suspect.is_some_and(|until| self.due_at <= until)
    }

    /// A process died with it, or was about to.
    pub(super) fn is_dangerous(self) -> bool {
        self.crashes > 0
    }
}

/// What a look at a queue's due rows did.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Took {
    /// Rows worked on.
    pub(super) rows: usize,
    /// As many as one transaction takes: there may be more.
    pub(super) full: bool,
}

struct Among<'a, W> {
    work: &'a W,
    /// Their tries were counted before.
    counted: bool,
}

impl<W: DueWork> Work for Among<'_, W> {
    type Item = W::Id;
    type Output = Made;

    async fn run(&self, conn: &mut PgConnection, items: &[W::Id]) -> StoreResult<Made> {
        if self.counted {
            self.work.retake(conn, items).await?;
        }
        let rows = self.work.lock(conn, Some(items), W::LIMIT).await?;
        self.work.work(conn, rows).await
    }

    async fn set_aside(
        &self,
        conn: &mut PgConnection,
        item: &W::Id,
        error: &StoreError,
    ) -> StoreResult<Option<Made>> {
        let reason = error
            .sqlstate()
            .unwrap_or_else(|| "inconsistent".to_owned());
        tracing::error!(sqlstate = %reason, "a row of a batch failed alone");
        if self.counted {
            self.work.retake(conn, std::slice::from_ref(item)).await?;
        }
        let set_aside = self.work.fail(conn, item, &reason).await?;
        Ok(Some(set_aside.into()))
    }
}

/// Takes up to a batch of due rows and works on them in one transaction; if that fails for a reason of
/// the data, in parts.
///
/// What takes the process down is found by the next ones. Rows that a dead process may have had, those due until
/// `suspect`, are counted first, all at once, and worked on then; rows with which a process died are counted and
/// worked on each alone, and after the fifth time set aside. While nobody dies neither costs anything.
///
/// # Errors
///
/// Only if the database is away.
pub(super) async fn take<W: DueWork>(
    core: &Core,
    pool: &PgPool,
    work: &W,
    suspect: Option<DateTime<Utc>>,
) -> StoreResult<(Took, Made)> {
    let mut tx = begin(pool).await?;
    let mut rows = work.lock(&mut tx, None, W::LIMIT).await?;
    let took = Took {
        rows: rows.len(),
        full: i64::try_from(rows.len()).is_ok_and(|rows| rows >= W::LIMIT),
    };
    let ids_of = |rows: Vec<W::Row>| rows.iter().map(W::id).collect::<Vec<W::Id>>();
    let dangerous = rows.extract_if(.., |row| W::past(row).is_dangerous());
    let dangerous = ids_of(dangerous.collect());
    let suspects = rows.extract_if(.., |row| W::past(row).is_suspect(suspect));
    let suspects = ids_of(suspects.collect());
    let mut made = Made::default();
    if rows.is_empty() {
        drop(tx);
    } else {
        made = take_locked(pool, work, tx, rows).await?;
        core.wake_after(pool, &mut made).await;
    }
    let alone = dangerous.into_iter().map(|id| vec![id]);
    for ids in [suspects].into_iter().chain(alone) {
        if !ids.is_empty() {
            let mut part = take_counted(pool, work, ids).await?;
            core.wake_after(pool, &mut part).await;
            made = made.and(part);
        }
    }
    Ok((took, made))
}

async fn take_locked<W: DueWork>(
    pool: &PgPool,
    work: &W,
    mut tx: Transaction<'static, Postgres>,
    rows: Vec<W::Row>,
) -> StoreResult<Made> {
    let ids: Vec<W::Id> = rows.iter().map(W::id).collect();
    let whole = match work.work(&mut tx, rows).await {
        Ok(made) => tx.commit().await.map(|()| made).map_err(StoreError::from),
        Err(error) => {
            drop(tx);
            Err(error)
        }
    };
    let counted = false;
    match whole {
        Ok(made) => Ok(made),
        Err(error) if error.fault() == Fault::Away => Err(error),
        Err(_) => Ok(all(commit(pool, &Among { work, counted }, ids).await?)),
    }
}

/// Works on rows that this process may not survive: what would remain of it is committed before.
async fn take_counted<W: DueWork>(pool: &PgPool, work: &W, ids: Vec<W::Id>) -> StoreResult<Made> {
    let mut tx = begin(pool).await?;
    let Counted { taken, set_aside } = work.count(&mut tx, &ids).await?;
    tx.commit().await?;
    if set_aside > 0 {
        tracing::error!(
            rows = set_aside,
            "set aside: five worker processes in a row died with it"
        );
    }
    let counted = true;
    let made = all(commit(pool, &Among { work, counted }, taken).await?);
    Ok(made.and(W::aside(set_aside).into()))
}

fn all(parts: Vec<Made>) -> Made {
    parts.into_iter().fold(Made::default(), Made::and)
}
