//! The third beat of a delivery: attempt row, status, and the run moved on, in one transaction for a
//! whole batch. Closing an expired lease goes the same way.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    slice,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use super::{
    Core, Point,
    batch::Work,
    made::Made,
    metrics,
    owed::HELD,
    progress,
    spans::{self, Origin},
};
use crate::{
    definition::Outcome,
    engine::{
        AttemptResult, DeliveryStatus, Input, Settled,
        attempt::{self, CRASHES_BEFORE_ISOLATION, status_reason},
        input::Delivered,
    },
    ids::{AttemptNumber, DeliveryId, RunId, Visit},
    store::{
        StoreError, StoreResult,
        attempts::{self, NewAttempt},
        claims::ClaimRef,
        deliveries::{self, Recording},
        owed, runs, settings,
    },
};

/// A try that has come to its end, or whose lease has.
#[derive(Debug, Clone)]
pub(crate) struct Attempted {
    pub(super) claim: ClaimRef,
    pub(super) number: AttemptNumber,
    /// Crashes before this try.
    pub(super) crashes: i32,
    pub(super) run: RunId,
    pub(super) visit: Visit,
    /// The place of its action in the step.
    pub(super) action: i32,
    pub(super) channel: String,
    pub(super) result: AttemptResult,
    pub(super) adapter: String,
    pub(super) worker: String,
    pub(super) provider_message_id: Option<String>,
    pub(super) response: Option<Value>,
    pub(super) template_hash: Option<String>,
    pub(super) started_at: DateTime<Utc>,
    pub(super) took: Duration,
    /// Spreads the next try, in `0.0..1.0`.
    pub(super) jitter: f64,
    /// Not sent at all.
    pub(super) unsent: Option<Unsent>,
    /// What its claim knows of its run.
    pub(super) origin: Origin,
}

/// Why a message is not sent at all: no try is written down, and none is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// Its run had moved on, and is told nothing.
    Superseded,
    /// An earlier try had succeeded after all.
    Delivered,
    /// On purpose, for this reason: the run goes on.
    Suppressed(&'static str),
}

impl Attempted {
    fn closing(&self) -> bool {
        self.result == AttemptResult::Unknown
    }

    /// How it ended, in a word.
    fn ending(&self) -> &'static str {
        match (self.unsent, self.result) {
            (Some(Unsent::Suppressed(_)), _) => "suppressed",
            (Some(Unsent::Superseded), _) => "superseded",
            (Some(Unsent::Delivered), _) => "already_sent",
            (None, AttemptResult::Succeeded) => "succeeded",
            (None, AttemptResult::Temporary { .. }) => "temporary",
            (None, AttemptResult::Permanent) => "permanent",
            (None, AttemptResult::Bounced) => "bounced",
            (None, AttemptResult::Unknown) => "unknown",
        }
    }

    fn settle(&self, core: &Core) -> Settled {
        if let Some(unsent) = self.unsent {
            let (status, reason) = match unsent {
                Unsent::Delivered => {
                    return Settled {
                        status: DeliveryStatus::Succeeded,
                        reason: None,
                        retry_in: None,
                        outcome: Outcome::Delivered,
                    };
                }
                Unsent::Superseded => (DeliveryStatus::Cancelled, status_reason::SUPERSEDED),
                Unsent::Suppressed(reason) => (DeliveryStatus::Suppressed, reason),
            };
            return Settled {
                status,
                reason: Some(reason),
                retry_in: None,
                outcome: Outcome::Suppressed,
            };
        }
        let crashes = self.crashes + i32::from(self.closing());
        attempt::settle(
            self.result,
            self.number.0,
            crashes,
            core.budget,
            self.jitter,
        )
    }

    fn recording(&self, settled: &Settled) -> Recording {
        Recording {
            claim: self.claim,
            status: settled.status.as_str(),
            status_reason: settled.reason,
            retry_in: settled.retry_in,
            closing: self.closing(),
            uncounted: self.unsent.is_some(),
            checkpoint: matches!(self.unsent, Some(Unsent::Suppressed(_))).then_some("claim"),
        }
    }

    fn attempt(&self) -> NewAttempt {
        let (outcome, error_class) = self.result.as_row();
        NewAttempt {
            claim: self.claim,
            number: self.number,
            outcome,
            error_class,
            adapter: self.adapter.clone(),
            worker: self.worker.clone(),
            provider_message_id: self.provider_message_id.clone(),
            response: self.response.clone(),
            template_hash: self.template_hash.clone(),
            started_at: self.started_at,
            took: self.took,
        }
    }
}

/// Records tries in batches.
pub(super) struct Record<'a> {
    pub(super) core: &'a Core,
}

/// What recording has done.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) made: Made,
    /// Claims whose delivery another session holds: to be recorded later.
    pub(super) held: HashSet<ClaimRef>,
    /// The channel and the end of each try that was written down, or that decided its delivery.
    ended: Vec<(String, &'static str)>,
    /// Deliveries that were set aside.
    quarantined: usize,
}

impl Recorded {
    /// Counts what was committed.
    pub(super) fn count(&self, core: &Core) {
        for (channel, outcome) in &self.ended {
            metrics::attempt(core, channel, outcome);
        }
        metrics::quarantined("delivery", self.quarantined);
    }

    /// How many tries were written down, or decided their delivery.
    pub(super) fn ended(&self) -> usize {
        self.ended.len()
    }

    /// All parts of a batch.
    pub(super) fn all(parts: Vec<Self>) -> Self {
        parts.into_iter().fold(Self::default(), |mut all, part| {
            all.held.extend(part.held);
            all.ended.extend(part.ended);
            Self {
                made: all.made.and(part.made),
                quarantined: all.quarantined + part.quarantined,
                ..all
            }
        })
    }
}

impl Work for Record<'_> {
    type Item = Arc<Attempted>;
    type Output = Recorded;

    async fn run(&self, conn: &mut PgConnection, items: &[Self::Item]) -> StoreResult<Recorded> {
        let recorded = record(self.core, conn, items, Told::Now).await?;
        self.core.reach(Point::BeforeRecordCommit).await;
        Ok(recorded)
    }

    /// Written down alone, and told to its run by a transaction of its own: what the database does not take may be
    /// what comes next there. Where it is what the provider said, that is left out: the send happened, and its result
    /// counts.
    async fn set_aside(
        &self,
        conn: &mut PgConnection,
        item: &Self::Item,
        error: &StoreError,
    ) -> StoreResult<Option<Recorded>> {
        let delivery = item.claim.id;
        let sqlstate = error.sqlstate().unwrap_or_default();
        tracing::error!(delivery.id = %delivery, sqlstate, "a result could not be recorded with its run; it is told later");
        let mut whole = conn.begin().await?;
        let recording = async {
            let recorded =
                record(self.core, &mut whole, slice::from_ref(item), Told::Later).await?;
            // What would only fail at the commit.
            settings::check_constraints(&mut whole).await?;
            StoreResult::Ok(recorded)
        };
        match recording.await {
            Ok(recorded) => {
                whole.commit().await?;
                return Ok(Some(recorded));
            }
            Err(error) if error.fault().is_passing() => return Err(error),
            Err(_) => whole.rollback().await?,
        }
        tracing::error!(delivery.id = %delivery, "a result is recorded without the provider's answer");
        let bare = Arc::new(Attempted {
            provider_message_id: None,
            response: None,
            ..Attempted::clone(item)
        });
        let recorded = record(self.core, conn, &[bare], Told::Later).await?;
        Ok(Some(recorded))
    }
}

/// When a run is told a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// By the transaction that records it.
    Now,
    /// By one of its own.
    Later,
}

async fn record(
    core: &Core,
    conn: &mut PgConnection,
    items: &[Arc<Attempted>],
    told: Told,
) -> StoreResult<Recorded> {
    // A result that came just before its lease was closed: one row is written once.
    let real: HashSet<ClaimRef> = items
        .iter()
        .filter(|item| !item.closing())
        .map(|item| item.claim)
        .collect();
    let items: Vec<&Attempted> = items
        .iter()
        .map(Arc::as_ref)
        .filter(|item| !item.closing() || !real.contains(&item.claim))
        .collect();

    let runs_asked: Vec<RunId> = sorted(items.iter().map(|item| item.run));
    let rows = runs::lock(conn, &runs_asked).await?;
    let skipped = progress::skipped(conn, runs_asked.iter().copied(), &rows).await?;
    let definitions = core
        .definitions
        .get(conn, rows.iter().map(|row| row.workflow_definition_id))
        .await?;

    // Where each run is, for those that are ours: its visit, and whether a visit may leave a message
    // behind that is still being tried. Of one whose definition does not decode, anything may be so.
    let current: HashMap<RunId, (Visit, bool)> = rows
        .iter()
        .map(|row| {
            let definition = definitions.get(&row.workflow_definition_id);
            let early = definition.is_none_or(|definition| definition.moves_early());
            (row.id, (Visit(row.visit), early))
        })
        .collect();

    let mut made = Made::default();
    let settled: Vec<Settled> = items
        .iter()
        .map(|item| {
            let settled = item.settle(core);
            let goes_on = match current.get(&item.run) {
                Some((visit, early)) => *visit == item.visit || *early,
                None => skipped.contains(&item.run),
            };
            if settled.retry_in.is_some() && !goes_on {
                Settled {
                    status: DeliveryStatus::Cancelled,
                    reason: Some(status_reason::SUPERSEDED),
                    retry_in: None,
                    ..settled
                }
            } else {
                settled
            }
        })
        .collect();
    let recordings: Vec<Recording> = items
        .iter()
        .zip(&settled)
        .map(|(item, settled)| item.recording(settled))
        .collect();
    let written = deliveries::record(conn, &recordings).await?;
    let decided = written.decided;
    // Their rows are another session's: not even a host's may be waited for.
    let held: HashSet<DeliveryId> = written.held.into_iter().collect();

    let (fresh, late): (Vec<&Attempted>, Vec<&Attempted>) = items
        .iter()
        .filter(|item| !held.contains(&item.claim.id))
        .filter(|item| item.unsent.is_none() && (!item.closing() || decided.contains(&item.claim)))
        .partition(|item| written.fresh.contains(&item.claim));
    let tries = |of: Vec<&Attempted>| -> Vec<NewAttempt> {
        of.into_iter().map(Attempted::attempt).collect()
    };
    attempts::insert(conn, &tries(fresh)).await?;
    attempts::amend(conn, &tries(late)).await?;

    let is_ended = |item: &&&Attempted| {
        let decided = decided.contains(&item.claim);
        let sent = item.unsent.is_none() && !item.closing() && !held.contains(&item.claim.id);
        decided || sent
    };
    let over = || items.iter().filter(is_ended);
    let spans = spans::tried(core, over().copied(), &rows, &definitions);
    let ended = over().map(|item| (item.channel.clone(), item.ending()));
    let ended = ended.collect();
    let set_aside = items.iter().zip(&settled).filter(|(item, settled)| {
        settled.reason == Some(status_reason::QUARANTINED) && decided.contains(&item.claim)
    });
    let quarantined = set_aside.count();

    let mut inputs: HashMap<RunId, VecDeque<Input>> = HashMap::new();
    let (mut untold, mut alone) = (vec![], vec![]);
    for (item, settled) in items.iter().zip(&settled) {
        if !decided.contains(&item.claim) || item.unsent == Some(Unsent::Superseded) {
            continue;
        }
        if let Some(delay) = settled.retry_in {
            made.retries_in(delay);
        }
        let result = Delivered {
            delivery: item.claim.id,
            visit: item.visit,
            action: usize::try_from(item.action).unwrap_or_default(),
            outcome: settled.outcome,
            status: settled.status,
        };
        // Where workers died again and again it may be what comes next in its run: that is told alone, and what
        // was sent is written down before.
        let dangerous = item.crashes + i32::from(item.closing()) >= CRASHES_BEFORE_ISOLATION;
        let is_known = current.contains_key(&item.run) || skipped.contains(&item.run);
        if dangerous || (told == Told::Later && is_known) {
            alone.push(item.claim.id);
        } else if current.contains_key(&item.run) {
            inputs
                .entry(item.run)
                .or_default()
                .push_back(Input::Delivered(result));
        } else if skipped.contains(&item.run) {
            untold.push(item.claim.id);
        }
    }
    if !untold.is_empty() {
        made.wakes_in(chrono::TimeDelta::milliseconds(20));
    }
    if !alone.is_empty() {
        made.wakes_in(chrono::TimeDelta::zero());
    }
    let rows = match told {
        Told::Now => rows,
        // Nothing is written there: not that somebody asked for its end, nor what it hears.
        Told::Later => vec![],
    };
    let advanced = progress::advance(core, conn, rows, inputs).await?;
    owed::owe(conn, &untold, HELD).await?;
    owed::owe(conn, &alone, Duration::ZERO).await?;
    if let Some(delay) = advanced.next_wake {
        made.wakes_in(chrono::TimeDelta::from_std(delay).unwrap_or_default());
    }
    let items = items.iter().map(|item| item.claim);
    Ok(Recorded {
        made: Made {
            moved: advanced.moved,
            planned: advanced.planned,
            set_aside: advanced.set_aside,
            spans: [spans, advanced.spans].concat(),
            ..made
        },
        ended,
        quarantined,
        held: items.filter(|claim| held.contains(&claim.id)).collect(),
    })
}

fn sorted<T: Ord>(ids: impl Iterator<Item = T>) -> Vec<T> {
    let mut ids: Vec<T> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
