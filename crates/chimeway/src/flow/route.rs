//! Showing signals to the runs that may wait for them.
//!
//! All live runs of the actor are locked, waiting or not: one that is entering a wait at this moment
//! would miss the signal otherwise. What a run then does about it is the look-up of `progress`, the
//! same as on entering and leaving a wait; nothing is passed along from here. A signal stays unrouted
//! while another session holds one of its runs.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;

use super::{
    Core, Point,
    batch::{DueWork, Past},
    made::{Made, SetAside},
    progress::{self, Acting, Advanced},
};
use crate::{
    ids::{RunId, SignalId},
    store::{
        StoreResult,
        crashes::{self, Counted},
        due::Floor,
        runs,
        signals::{self, Candidate, DueSignal},
    },
};

/// How many runs of one actor one transaction shows a signal to.
const RUNS_PER_SIGNAL: usize = 1_000;
/// How many runs one transaction locks.
const RUNS_AT_ONCE: usize = 2_000;

/// Routes due signals.
pub(super) struct Route<'a> {
    pub(super) core: &'a Core,
}

impl DueWork for Route<'_> {
    type Id = SignalId;
    type Row = DueSignal;
    const LIMIT: i64 = 500;

    async fn lock(
        &self,
        conn: &mut PgConnection,
        among: Option<&[SignalId]>,
        floor: Floor,
        limit: i64,
    ) -> StoreResult<Vec<DueSignal>> {
        self.core.reach(Point::BeforeRoute).await;
        signals::lock_due(conn, among, floor, limit).await
    }

    fn id(row: &DueSignal) -> SignalId {
        row.id
    }

    fn past(row: &DueSignal) -> Past {
        Past {
            due_at: row.due_at,
            crashes: row.crashes,
        }
    }

    async fn work(&self, conn: &mut PgConnection, due: Vec<DueSignal>) -> StoreResult<Made> {
        let due: Vec<SignalId> = due.iter().map(|row| row.id).collect();
        let shown = route(self.core, conn, &due).await?;
        Ok(Made {
            lags: shown.lags,
            ..shown.made
        })
    }

    async fn count(
        &self,
        conn: &mut PgConnection,
        ids: &[SignalId],
    ) -> StoreResult<Counted<SignalId>> {
        crashes::count_signals(conn, ids).await
    }

    async fn retake(&self, conn: &mut PgConnection, ids: &[SignalId]) -> StoreResult<()> {
        crashes::retake_signals(conn, ids).await
    }

    fn aside(rows: usize) -> SetAside {
        SetAside {
            signals: rows,
            ..SetAside::default()
        }
    }

    async fn fail(
        &self,
        conn: &mut PgConnection,
        id: &SignalId,
        reason: &str,
    ) -> StoreResult<SetAside> {
        let signals = signals::fail(conn, &[*id], reason).await?;
        Ok(SetAside {
            signals,
            ..SetAside::default()
        })
    }
}

/// What showing signals to runs has done.
pub(super) struct Shown {
    pub(super) made: Made,
    /// What became of the runs that were shown them.
    pub(super) advanced: Vec<Advanced>,
    /// Runs that another session holds: they are shown them later.
    pub(super) held: HashSet<RunId>,
    /// Signals whose actors have more runs: they go on from where they are.
    pub(super) unfinished: Vec<SignalId>,
    /// From the occurrence of each signal that is routed now until now, in seconds.
    pub(super) lags: Vec<f64>,
}

/// Shows locked signals to the live runs of their actors.
pub(super) async fn route(
    core: &Core,
    conn: &mut PgConnection,
    due: &[SignalId],
) -> StoreResult<Shown> {
    // One more than is taken tells whether there are more.
    let most = i64::try_from(RUNS_PER_SIGNAL + 1).unwrap_or(i64::MAX);
    let candidates = signals::candidates(conn, due, most).await?;
    let plan = Plan::of(due, candidates);

    let mut asked: Vec<RunId> = plan.runs().collect();
    asked.sort_unstable();
    asked.dedup();
    let rows = runs::lock(conn, &asked).await?;
    let held = progress::skipped(conn, asked, &rows).await?;
    let (made, advanced) =
        progress::advance_each(core, conn, rows, HashMap::new(), Acting::Later).await?;

    let (mut routed, mut deferred, mut partly) = (vec![], vec![], vec![]);
    for (signal, part) in plan.signals {
        if part.runs.iter().any(|run| held.contains(run)) {
            deferred.push(signal);
        } else if let (true, Some(last)) = (part.more, part.runs.last()) {
            partly.push(Candidate { signal, run: *last });
        } else {
            routed.push(signal);
        }
    }
    let lags = signals::mark_routed(conn, &routed).await?;
    signals::defer(conn, &deferred).await?;
    signals::advance(conn, &partly).await?;
    Ok(Shown {
        made,
        advanced,
        held,
        unfinished: partly.into_iter().map(|one| one.signal).collect(),
        lags,
    })
}

/// Which runs this transaction shows each signal to.
struct Plan {
    signals: Vec<(SignalId, Part)>,
}

#[derive(Default)]
struct Part {
    runs: Vec<RunId>,
    /// The actor has more runs than these.
    more: bool,
}

impl Plan {
    /// Takes signals in order while their runs are few enough, at least one. Those left out stay due.
    fn of(due: &[SignalId], candidates: Vec<Candidate>) -> Self {
        let mut parts: HashMap<SignalId, Part> = HashMap::new();
        for Candidate { signal, run } in candidates {
            let part = parts.entry(signal).or_default();
            if part.runs.len() < RUNS_PER_SIGNAL {
                part.runs.push(run);
            } else {
                part.more = true;
            }
        }
        let mut seen = HashSet::new();
        let mut signals = vec![];
        for signal in due {
            let part = parts.remove(signal).unwrap_or_default();
            seen.extend(part.runs.iter().copied());
            if !signals.is_empty() && seen.len() > RUNS_AT_ONCE {
                break;
            }
            signals.push((*signal, part));
        }
        Self { signals }
    }

    fn runs(&self) -> impl Iterator<Item = RunId> {
        self.signals
            .iter()
            .flat_map(|(_, part)| part.runs.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(signal: SignalId, runs: usize) -> Vec<Candidate> {
        (0..runs)
            .map(|_| Candidate {
                signal,
                run: RunId::fresh(),
            })
            .collect()
    }

    #[test]
    fn an_actor_with_very_many_runs_is_shown_a_signal_in_parts() {
        let signal = SignalId::fresh();
        let plan = Plan::of(&[signal], candidates(signal, RUNS_PER_SIGNAL + 1));
        assert_eq!(plan.runs().count(), RUNS_PER_SIGNAL);
        assert!(plan.signals[0].1.more);
        let plan = Plan::of(&[signal], candidates(signal, RUNS_PER_SIGNAL));
        assert!(!plan.signals[0].1.more);
    }

    #[test]
    fn signals_beyond_the_size_of_a_transaction_stay_due() {
        let due: Vec<SignalId> = (0..5).map(|_| SignalId::fresh()).collect();
        let all = due
            .iter()
            .flat_map(|signal| candidates(*signal, 900))
            .collect();
        assert_eq!(Plan::of(&due, all).signals.len(), 2);
        assert_eq!(Plan::of(&due, vec![]).signals.len(), 5);
    }
}
