//! The Inline dispatcher: the handlers that a fleet would run, run in this process until nothing is due.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;

use super::{
    Chimeway, Core, FlowError, actions,
    batch::{self, Look},
    claim::{self, Which},
    deliver::{self, Delivery},
    due::Due,
    expand::Expand,
    owed::Owed,
    record::{Attempted, Record, Recorded},
    route::Route,
    session::Sessions,
    sweep,
};
use crate::store::StoreResult;

/// How many deliveries one round claims.
const CLAIM: i64 = 100;
/// How often, and how soon, a result is recorded again whose row another session holds.
const RECORD_TRIES: usize = 50;
const RECORD_AGAIN: Duration = Duration::from_millis(20);

/// What [`Chimeway::settle`] did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Settled {
    /// Events whose runs were made.
    pub events: usize,
    /// Signals that were routed or deferred.
    pub signals: usize,
    /// Runs that were due.
    pub runs: usize,
    /// Messages handed to a channel, or found not to be sent any more.
    pub deliveries: usize,
}

impl Settled {
    fn is_empty(self) -> bool {
        self == Self::default()
    }
}

impl Chimeway {
    /// Does everything that is due now: makes runs, routes signals, moves runs, sends messages, over
    /// and over until nothing is due. Call it after the commit of a trigger or a signal.
    ///
    /// The same handlers as a fleet's, in this process. For tests and development; safe beside a fleet.
    /// Rows that another session holds are left out.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`] if the database is away.
    pub async fn settle(&self, pool: &PgPool) -> Result<Settled, FlowError> {
        let sessions = self.core.sessions(pool);
        let mut all = Settled::default();
        loop {
            let round = round(&self.core, &sessions).await?;
            if round.is_empty() {
                return Ok(all);
            }
            all.events += round.events;
            all.signals += round.signals;
            all.runs += round.runs;
            all.deliveries += round.deliveries;
        }
    }
}

impl Chimeway {
    /// The minute's safety net, now: closes leases that ended without a record, and makes runs due that
    /// nothing else would move, among up to 10,000 live ones; the next call goes on from there. Returns
    /// how many of both it found. A fleet does this by itself; safe to call at any time.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`] if the database is away.
    pub async fn sweep(&self, pool: &PgPool) -> Result<usize, FlowError> {
        let sessions = self.core.sessions(pool);
        let closed = sweep::close_expired(&self.core, &sessions, sweep::EACH_MINUTE, None).await?;
        Ok(closed + sweep::heal(&self.core, &sessions).await?)
    }
}

async fn round(core: &Core, sessions: &Sessions) -> StoreResult<Settled> {
    let look = Look::default();
    let (events, _) = batch::take(core, sessions, &Expand { core }, look).await?;
    let (signals, _) = batch::take(core, sessions, &Route { core }, look).await?;
    let (owed, _) = batch::take(core, sessions, &Owed { core }, look).await?;
    let (runs, _) = batch::take(core, sessions, &Due { core }, look).await?;
    let acted = actions::take(core, sessions, look).await?;
    let closed = sweep::close_expired(core, sessions, sweep::EACH_SECOND, None).await?;
    let sent = send_due(core, sessions).await?;
    Ok(Settled {
        events: events.rows,
        signals: signals.rows,
        runs: runs.rows + owed.rows + acted.rows,
        deliveries: sent + closed,
    })
}

async fn send_due(core: &Core, sessions: &Sessions) -> StoreResult<usize> {
    let mut claims = claim::claim(core, sessions, &Which::at_most(CLAIM), None).await?;
    claims.extend(claim::claim(core, sessions, &Which::at_most(1).alone(), None).await?);
    let needs = deliver::needs_of(core, sessions, &claims).await?;
    let (mut results, mut back) = (vec![], vec![]);
    for claimed in claims {
        match deliver::deliver(core, &claimed, &needs).await {
            Delivery::Attempted(attempted) => results.push(Arc::from(attempted)),
            Delivery::TooLate => back.push(claimed.reference()),
        }
    }
    let sent = results.len();
    record(core, sessions, results).await?;
    claim::hand_back(sessions, &back).await?;
    Ok(sent)
}

/// Records results; those whose rows another session holds once more, for about a second. After that
/// their leases end.
async fn record(
    core: &Core,
    sessions: &Sessions,
    mut results: Vec<Arc<Attempted>>,
) -> StoreResult<()> {
    for _ in 0..RECORD_TRIES {
        let committed = batch::commit(sessions, &Record { core }, results.clone()).await?;
        let mut recorded = Recorded::all(committed.outputs);
        recorded.count(core);
        core.wake_after(sessions, &mut recorded.made).await;
        results.retain(|result| recorded.held.contains(&result.claim));
        if results.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(RECORD_AGAIN).await;
    }
    tracing::warn!(
        results = results.len(),
        "results are not recorded: another session holds their rows; their leases end"
    );
    Ok(())
}

/// How long a look at a queue of batches pauses after one that brought nothing although rows were due.
pub(super) const HELD: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
