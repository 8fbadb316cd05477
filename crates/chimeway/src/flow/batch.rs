//! A transaction over many items, in which one bad item never takes the others along.
//!
//! The whole batch is tried first. A conflict (deadlock, serialization) repeats it after a short pause.
//! Anything else but a lost connection splits it, again and again, until the bad item is alone: that
//! one is set aside, the others commit.

use std::{future::Future, time::Duration};

use rand::RngExt;
use sqlx::PgConnection;

use super::{
    Core,
    made::{Made, SetAside},
    session::{Bounded, Sessions},
};
use crate::store::{StoreError, StoreResult, error::Fault};

/// How often a batch is repeated after a conflict.
const CONFLICTS: u32 = 10;

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
    sessions: &Sessions,
    work: &W,
    items: Vec<W::Item>,
) -> StoreResult<Vec<W::Output>> {
    let mut outputs = vec![];
    let mut parts = vec![items];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        match transact(sessions, work, &part).await {
            Ok(output) => outputs.push(output),
            Err(error) if error.fault() == Fault::Away => return Err(error),
            Err(error) => match part.as_slice() {
                [item] => outputs.extend(aside(sessions, work, item, &error).await?),
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

async fn transact<W: Work>(
    sessions: &Sessions,
    work: &W,
    items: &[W::Item],
) -> StoreResult<W::Output> {
    let mut conflicts = 0;
    loop {
        match once(sessions, work, items).await {
            Err(error) if error.fault() == Fault::Conflict && conflicts < CONFLICTS => {
                conflicts += 1;
                pause(conflicts).await;
            }
            outcome => return outcome,
        }
    }
}

async fn once<W: Work>(sessions: &Sessions, work: &W, items: &[W::Item]) -> StoreResult<W::Output> {
    let bounded = sessions.bounded();
    let whole = async {
        let mut session = bounded.session().await?;
        let mut tx = session.begin().await?;
        let output = work.run(&mut tx, items).await?;
        tx.commit().await?;
        Ok(output)
    };
    bounded.run(whole).await
}

async fn aside<W: Work>(
    sessions: &Sessions,
    work: &W,
    item: &W::Item,
    error: &StoreError,
) -> StoreResult<Option<W::Output>> {
    let bounded = sessions.bounded();
    let alone = async {
        let mut session = bounded.session().await?;
        let mut tx = session.begin().await?;
        let output = work.set_aside(&mut tx, item, error).await?;
        tx.commit().await?;
        Ok(output)
    };
    bounded.run(alone).await
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
}

/// What a look at a queue's due rows did.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Took {
    /// Rows worked on.
    pub(super) rows: usize,
    /// As many as one transaction takes: there may be more.
    pub(super) full: bool,
}

struct Among<'a, W>(&'a W);

impl<W: DueWork> Work for Among<'_, W> {
    type Item = W::Id;
    type Output = Made;

    async fn run(&self, conn: &mut PgConnection, items: &[W::Id]) -> StoreResult<Made> {
        let rows = self.0.lock(conn, Some(items), W::LIMIT).await?;
        self.0.work(conn, rows).await
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
        let set_aside = self.0.fail(conn, item, &reason).await?;
        Ok(Some(set_aside.into()))
    }
}

/// Takes up to a batch of due rows and works on them in one transaction; if that fails for a reason of
/// the data, in parts.
///
/// # Errors
///
/// Only if the database is away.
pub(super) async fn take<W: DueWork>(
    core: &Core,
    sessions: &Sessions,
    work: &W,
) -> StoreResult<(Took, Made)> {
    let bounded = sessions.bounded();
    let (ids, whole) = bounded.run(take_whole(bounded, work)).await?;
    let took = Took {
        rows: ids.len(),
        full: i64::try_from(ids.len()).is_ok_and(|rows| rows >= W::LIMIT),
    };
    let mut made = match whole {
        Ok(made) => made,
        Err(error) if error.fault() == Fault::Away => return Err(error),
        Err(_) => commit(sessions, &Among(work), ids)
            .await?
            .into_iter()
            .fold(Made::default(), Made::and),
    };
    core.wake_after(sessions, &mut made).await;
    Ok((took, made))
}

/// Which rows were locked, and what became of the work on them.
async fn take_whole<W: DueWork>(
    bounded: Bounded<'_>,
    work: &W,
) -> StoreResult<(Vec<W::Id>, StoreResult<Made>)> {
    let mut session = bounded.session().await?;
    let mut tx = session.begin().await?;
    let rows = work.lock(&mut tx, None, W::LIMIT).await?;
    if rows.is_empty() {
        return Ok((vec![], Ok(Made::default())));
    }
    let ids: Vec<W::Id> = rows.iter().map(W::id).collect();
    let whole = match work.work(&mut tx, rows).await {
        Ok(made) => tx.commit().await.map(|()| made).map_err(StoreError::from),
        Err(error) => Err(error),
    };
    Ok((ids, whole))
}
