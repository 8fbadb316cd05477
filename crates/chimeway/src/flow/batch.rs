//! A transaction over many items, in which one bad item never takes the others along.
//!
//! The whole batch is tried first. A conflict (deadlock, serialization) repeats it after a short pause.
//! Anything else but a lost connection splits it, again and again, until the bad item is alone: that
//! one is set aside, the others commit.

use std::{future::Future, time::Duration};

use chrono::{DateTime, Utc};
use rand::RngExt;
use sqlx::{PgConnection, Postgres, Transaction};

use super::{
    Core,
    made::{Made, SetAside},
    session::{Bounded, Sessions},
};
use crate::store::{StoreError, StoreResult, crashes::Counted, due::Floor, error::Fault};

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

/// What committed, and what did not.
pub(super) struct Committed<W: Work> {
    /// What each part brought.
    pub(super) outputs: Vec<W::Output>,
    /// Items that could not even be set aside, and why: they are as they were.
    pub(super) left: Vec<(W::Item, StoreError)>,
}

/// Commits every item but the bad ones, which are set aside.
///
/// # Errors
///
/// Only if the database is away. What was committed before stays; a caller repeats the rest or leaves
/// it to the rows, which are still due.
pub(super) async fn commit<W: Work>(
    sessions: &Sessions,
    work: &W,
    items: Vec<W::Item>,
) -> StoreResult<Committed<W>> {
    let (mut outputs, mut left) = (vec![], vec![]);
    let mut parts = vec![items];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        let error = match transact(|| once(sessions, work, &part)).await {
            Ok(output) => {
                outputs.push(output);
                continue;
            }
            Err(error) if error.fault() == Fault::Away => return Err(error),
            Err(error) => error,
        };
        let [item] = part.as_slice() else {
            let (first, second) = part.split_at(part.len() / 2);
            parts.push(second.to_vec());
            parts.push(first.to_vec());
            continue;
        };
        match transact(|| aside(sessions, work, item, &error)).await {
            Ok(output) => outputs.extend(output),
            Err(error) if error.fault() == Fault::Away => return Err(error),
            Err(error) => {
                let sqlstate = error.sqlstate().unwrap_or_default();
                tracing::error!(sqlstate, "a bad item of a batch could not be set aside");
                left.push((item.clone(), error));
            }
        }
    }
    Ok(Committed { outputs, left })
}

/// A transaction; once more, after a pause, where another one was in the way.
async fn transact<T, F: Future<Output = StoreResult<T>>>(
    transaction: impl Fn() -> F,
) -> StoreResult<T> {
    let mut conflicts = 0;
    loop {
        match transaction().await {
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
        match work.run(&mut tx, items).await {
            Ok(output) => {
                tx.commit().await?;
                Ok(output)
            }
            Err(error) => Err(after_rollback(tx, error).await),
        }
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
        match work.set_aside(&mut tx, item, error).await {
            Ok(output) => {
                tx.commit().await?;
                Ok(output)
            }
            Err(error) => Err(after_rollback(tx, error).await),
        }
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

    /// Locks due rows, among some where those are given, from a floor on; rows that another session holds are
    /// passed over.
    fn lock(
        &self,
        conn: &mut PgConnection,
        among: Option<&[Self::Id]>,
        floor: Floor,
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

/// How a look at a queue's due rows is taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    /// From where on.
    pub(super) floor: Floor,
    /// Until when a process that died may have taken something up.
    pub(super) suspect: Option<DateTime<Utc>>,
}

/// What a look at a queue's due rows did.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Took {
    /// Rows worked on.
    pub(super) rows: usize,
    /// As many as one transaction takes: there may be more.
    pub(super) full: bool,
    /// Some could neither be worked on nor be set aside: the next look finds them again.
    pub(super) left: bool,
}

impl Took {
    /// Both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            full: self.full || other.full,
            left: self.left || other.left,
        }
    }
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
        let rows = self.work.lock(conn, Some(items), None, W::LIMIT).await?;
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
/// `look.suspect`, are counted first, all at once, and worked on then; rows with which a process died are counted and
/// worked on each alone, and after the fifth time set aside. While nobody dies neither costs anything.
///
/// # Errors
///
/// If the database is away; and where the only row that was due cannot be set aside.
pub(super) async fn take<W: DueWork>(
    core: &Core,
    sessions: &Sessions,
    work: &W,
    look: Look,
) -> StoreResult<(Took, Made)> {
    let bounded = sessions.bounded();
    let Locked {
        took,
        ids,
        whole,
        suspects,
        dangerous,
    } = bounded.run(take_locked(bounded, work, look)).await?;
    let counted = false;
    let (mut made, mut left) = match whole {
        Ok(made) => (made, vec![]),
        Err(error) if error.fault() == Fault::Away => return Err(error),
        Err(_) => all(commit(sessions, &Among { work, counted }, ids).await?),
    };
    core.wake_after(sessions, &mut made).await;
    let alone = dangerous.into_iter().map(|id| vec![id]);
    for ids in [suspects].into_iter().chain(alone) {
        if !ids.is_empty() {
            let (mut part, not) = take_counted(sessions, work, ids).await?;
            core.wake_after(sessions, &mut part).await;
            made = made.and(part);
            left.extend(not);
        }
    }
    match left.pop() {
        Some((_, error)) if took.rows <= 1 => Err(error),
        None => Ok((took, made)),
        Some(_) => Ok((Took { left: true, ..took }, made)),
    }
}

/// Rows that are as they were, and why.
type Left<Id> = Vec<(Id, StoreError)>;

/// What one transaction locked, and what became of the work on it.
struct Locked<W: DueWork> {
    took: Took,
    /// Those that were worked on.
    ids: Vec<W::Id>,
    whole: StoreResult<Made>,
    /// Those that were left for a transaction of their own: all at once, and one by one.
    suspects: Vec<W::Id>,
    dangerous: Vec<W::Id>,
}

async fn take_locked<W: DueWork>(
    bounded: Bounded<'_>,
    work: &W,
    look: Look,
) -> StoreResult<Locked<W>> {
    let mut session = bounded.session().await?;
    let mut tx = session.begin().await?;
    let mut rows = work.lock(&mut tx, None, look.floor, W::LIMIT).await?;
    let took = Took {
        rows: rows.len(),
        full: i64::try_from(rows.len()).is_ok_and(|rows| rows >= W::LIMIT),
        left: false,
    };
    let ids_of = |rows: &[W::Row]| rows.iter().map(W::id).collect::<Vec<W::Id>>();
    let dangerous = rows.extract_if(.., |row| W::past(row).is_dangerous());
    let dangerous = ids_of(&dangerous.collect::<Vec<_>>());
    let suspects = rows.extract_if(.., |row| W::past(row).is_suspect(look.suspect));
    let suspects = ids_of(&suspects.collect::<Vec<_>>());
    let ids = ids_of(&rows);
    let whole = match rows.is_empty() {
        true => Ok(Made::default()),
        false => work.work(&mut tx, rows).await,
    };
    let whole = match whole {
        Ok(made) if took.rows == 0 => Ok(made),
        Ok(made) => tx.commit().await.map(|()| made).map_err(StoreError::from),
        Err(error) => Err(after_rollback(tx, error).await),
    };
    Ok(Locked {
        took,
        ids,
        whole,
        suspects,
        dangerous,
    })
}

/// The error, with all that was locked free again: a server tells an error before it lets go of anything, and
/// whoever comes back at once, on another connection, would pass over what is locked.
pub(super) async fn after_rollback(tx: Transaction<'_, Postgres>, error: StoreError) -> StoreError {
    // Where that fails its connection is lost, and all is free by that.
    let _ = tx.rollback().await;
    error
}

/// Works on rows that this process may not survive: what would remain of it is committed before.
async fn take_counted<W: DueWork>(
    sessions: &Sessions,
    work: &W,
    ids: Vec<W::Id>,
) -> StoreResult<(Made, Left<W::Id>)> {
    let bounded = sessions.bounded();
    let count = async {
        let mut session = bounded.session().await?;
        let mut tx = session.begin().await?;
        let counted = work.count(&mut tx, &ids).await?;
        tx.commit().await?;
        StoreResult::Ok(counted)
    };
    let Counted { taken, set_aside } = bounded.run(count).await?;
    if set_aside > 0 {
        tracing::error!(
            rows = set_aside,
            "set aside: five worker processes in a row died with it"
        );
    }
    let counted = true;
    let (made, left) = all(commit(sessions, &Among { work, counted }, taken).await?);
    Ok((made.and(W::aside(set_aside).into()), left))
}

fn all<W: DueWork>(committed: Committed<Among<'_, W>>) -> (Made, Left<W::Id>) {
    let parts = committed.outputs.into_iter();
    (parts.fold(Made::default(), Made::and), committed.left)
}
