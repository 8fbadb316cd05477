//! The delivery queue: a task is one claimed delivery.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Notify, time::Instant};

use super::{
    LATE,
    floor::{Known, TIMES_WHAT_IT_TOOK},
};
use crate::{
    engine::{attempt::CRASHES_BEFORE_ISOLATION, turns::Slots},
    flow::{
        Core, Point,
        claim::{self, InTurn, Which},
        commit::Stage,
        deliver::{self, Claimed, Delivery, Needs},
        metrics,
        session::Sessions,
        sweep,
    },
    queue::{Fetched, QueueName, Slot, Source},
    store::{
        StoreResult,
        claims::ClaimRef,
        due::{self, DeliveriesDue, DueIn, Floor},
    },
};

/// How often expired leases, and deliveries whose workers died repeatedly, are looked for.
const CRASHES_EVERY: Duration = Duration::from_secs(1);
/// How often the earliest ones are looked for where no turn brings any.
const FAR_EVERY: Duration = Duration::from_millis(100);
/// How long after the first slot of a full channel is free again the next claim comes, where they are not
/// all free before: a claim for one message costs as much as one for many.
const GATHER: Duration = Duration::from_millis(5);

/// The delivery queue of a process.
pub(super) struct Deliveries {
    core: Arc<Core>,
    sessions: Sessions,
    stage: Stage,
    limit: usize,
    state: Mutex<State>,
    /// Whose turn it is; only claims ask, and one at a time.
    turns: tokio::sync::Mutex<InTurn>,
    /// No channel is full any more.
    freed: Notify,
}

/// What this process holds.
#[derive(Default)]
struct State {
    /// Claimed, and its handler has not begun.
    unbegun: HashMap<ClaimRef, Unbegun>,
    /// How many are claimed or being sent, per channel.
    in_flight: HashMap<String, usize>,
    /// Channels whose slots were all taken by the last claim, until all are free. From the first free one
    /// on others are waited for until that instant.
    full: HashMap<String, Option<Instant>>,
    /// The last claim took all the slots of a channel just now, and nobody has waited for them yet.
    filled_at: Option<Instant>,
    /// The last look left nothing: the next one asks first, with one statement, whether there is anything.
    idle: bool,
    /// One whose workers died repeatedly is being sent.
    isolated: bool,
    /// It is over: the next one of its kind need not wait for the next look.
    isolated_next: bool,
    crashes_at: Option<Instant>,
    /// From where on leases are looked at: nothing that is not over was due before, when that was last looked at from
    /// the beginning.
    leased_from: Floor,
    far_at: Option<Instant>,
    /// From where on due ones are looked for.
    known: Known,
    away: bool,
    /// What was claimed last had been due for long: there is more than can be sent at once.
    late: bool,
}

/// A claim, and what all that were claimed with it need.
struct Unbegun {
    claimed: Claimed,
    needs: Arc<Needs>,
}

impl Deliveries {
    pub(super) fn new(core: Arc<Core>, sessions: Sessions, stage: Stage, limit: usize) -> Self {
        Self {
            core,
            sessions,
            stage,
            limit,
            state: Mutex::default(),
            turns: tokio::sync::Mutex::new(InTurn::new()),
            freed: Notify::new(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Half the slots for one channel, so that one whose provider hangs does not stop the others.
    fn channel_cap(&self) -> usize {
        self.limit.div_ceil(2)
    }

    fn register(&self, claimed: Vec<Claimed>, needs: &Arc<Needs>, isolated: bool) -> Vec<ClaimRef> {
        let mut state = self.state();
        claimed
            .into_iter()
            .map(|claimed| {
                let reference = claimed.reference();
                let channel = claimed.row.channel.clone();
                let count = state.in_flight.entry(channel.clone()).or_default();
                *count += 1;
                if *count >= self.channel_cap() {
                    state.full.insert(channel, None);
                    state.filled_at = Some(Instant::now());
                }
                metrics::in_flight(&self.core, &state.in_flight, &claimed.row.channel);
                state.isolated |= isolated;
                let needs = Arc::clone(needs);
                state.unbegun.insert(reference, Unbegun { claimed, needs });
                reference
            })
            .collect()
    }

    /// Undoes what [`Deliveries::register`] counted for one claim.
    fn release(&self, channel: &str, isolated: bool) {
        let state = &mut *self.state();
        if let Some(count) = state.in_flight.get_mut(channel) {
            *count -= 1;
            let left = *count;
            if left == 0 {
                state.in_flight.remove(channel);
            }
            metrics::in_flight(&self.core, &state.in_flight, channel);
            let wake = self.core.wakes.of(QueueName::Delivery);
            if let Some(again) = state.full.get_mut(channel) {
                if left == 0 {
                    state.full.remove(channel);
                    if state.full.is_empty() {
                        self.freed.notify_one();
                    }
                    wake.now();
                } else if again.is_none() {
                    *again = Some(Instant::now() + GATHER);
                    wake.later(GATHER);
                }
            }
        }
        if isolated {
            state.isolated = false;
            state.isolated_next = true;
            self.core.wakes.of(QueueName::Delivery).now();
        }
    }

    /// Until when slots of full channels are waited for.
    fn gathers_until(&self) -> Option<Instant> {
        let mut state = self.state();
        let filled = state.filled_at.take().map(|at| at + GATHER);
        let first_free = state.full.values().flatten().min().copied();
        let until = filled.max(first_free)?;
        (!state.full.is_empty()).then_some(until)
    }

    /// Claims for up to `free` slots, for each channel as many as it has left. Where nothing was claimed because
    /// nobody was known whose turn it could be, that is found out anew at a known instant.
    async fn claim(&self, free: usize, isolated_too: bool) -> StoreResult<Fetched<ClaimRef>> {
        let (which, in_turn, isolated) = {
            let cap = self.channel_cap();
            let mut state = self.state();
            // Past a channel whose slots are taken turns lead as well: its late rows cost nothing then.
            let in_turn = state.late || !state.full.is_empty();
            let left = |(channel, taken): (&String, &usize)| {
                (channel.clone(), count(cap.saturating_sub(*taken)))
            };
            let slots = Slots {
                free: count(free),
                per_channel: count(cap),
                left: state.in_flight.iter().map(left).collect(),
            };
            // This claim is for the free ones.
            state.full.retain(|channel, _| slots.over(channel) == 0);
            let which = Which {
                slots,
                isolated: false,
                floor: state.known.floor(),
            };
            (which, in_turn, state.isolated)
        };
        let nobody_for = match in_turn {
            true => self.turns.lock().await.nobody_for(&which.slots),
            false => None,
        };
        let mut claimed = match nobody_for {
            Some(_) => vec![],
            None => self.claim_which(&which, in_turn).await?,
        };
        // Far apart are those who have something due: nobody may wait for a turn that does not come.
        if claimed.is_empty() && in_turn && self.looks_far() {
            let began = Instant::now();
            claimed = self.claim_which(&which, false).await?;
            self.state().far_at = Some(next_time(FAR_EVERY, began));
        }
        let taken = claimed.len();
        if isolated_too && !isolated && taken < free {
            match self.claim_alone(&which.alone()).await {
                Ok(rows) => claimed.extend(rows),
                // What was claimed before is begun all the same.
                Err(error) if taken > 0 => tracing::debug!(%error, "a second claim failed"),
                Err(error) => return Err(error),
            }
        }
        Ok(Fetched {
            next_due: nobody_for.filter(|_| claimed.is_empty()),
            jobs: claimed,
        })
    }

    /// Claims, and remembers how late that was.
    async fn claim_which(&self, which: &Which, in_turn: bool) -> StoreResult<Vec<ClaimRef>> {
        let mut turns = self.turns.lock().await;
        let turns = in_turn.then_some(&mut *turns);
        let rows = claim::claim(&self.core, &self.sessions, which, turns).await?;
        let lateness = rows.iter().map(|one| one.row.now - one.row.due_at).max();
        if let Some(lateness) = lateness {
            let mut state = self.state();
            state.late = lateness > LATE;
            state.idle = !in_turn && count(rows.len()) < which.slots.over_any();
        }
        self.begin(rows, false).await
    }

    /// Claims one whose workers died repeatedly.
    async fn claim_alone(&self, which: &Which) -> StoreResult<Vec<ClaimRef>> {
        let rows = claim::claim(&self.core, &self.sessions, which, None).await?;
        self.begin(rows, true).await
    }

    /// Reads what sending these needs, once for all of them, and registers them.
    async fn begin(&self, claimed: Vec<Claimed>, isolated: bool) -> StoreResult<Vec<ClaimRef>> {
        match deliver::needs_of(&self.core, &self.sessions, &claimed).await {
            Ok(needs) => Ok(self.register(claimed, &Arc::new(needs), isolated)),
            Err(error) => {
                let claims: Vec<ClaimRef> = claimed.iter().map(Claimed::reference).collect();
                // Where even that fails, their leases end by themselves.
                let _ = claim::hand_back(&self.sessions, &claims).await;
                Err(error)
            }
        }
    }

    /// Whether the earliest ones are to be looked for where no turn brought any: that may read all that is
    /// due over channels that are left out.
    fn looks_far(&self) -> bool {
        self.state().far_at.is_none_or(|at| at <= Instant::now())
    }

    /// Whether what crashed workers left is to be looked at: once a second.
    fn is_time_for_crashes(&self) -> bool {
        let at = self.state().crashes_at;
        at.is_none_or(|at| at <= Instant::now())
    }

    /// Looks, if that is now.
    async fn look_after_crashes(&self) -> StoreResult<bool> {
        let is_time = self.is_time_for_crashes();
        if is_time {
            let began = Instant::now();
            let floor = self.state().leased_from;
            let closed =
                sweep::close_expired(&self.core, &self.sessions, sweep::EACH_SECOND, floor).await;
            // What took long was to pass over what is done only where nothing was closed, nor waited for.
            self.state().crashes_at = Some(match closed {
                Ok(0) => next_time(CRASHES_EVERY, began),
                _ => Instant::now() + CRASHES_EVERY,
            });
            closed?;
        }
        Ok(is_time)
    }

    async fn look(&self, free: usize) -> StoreResult<Fetched<ClaimRef>> {
        let idle = std::mem::take(&mut self.state().idle);
        if idle {
            let due = self.due().await?;
            let lies_ahead = |due: DueIn| due.is_none_or(|due| due > Duration::ZERO);
            // What is being sent is due since it was claimed: whether that was too long ago is looked at once a second.
            let none_to_close = lies_ahead(due.any) || !self.is_time_for_crashes();
            if lies_ahead(due.to_claim) && none_to_close {
                self.state().idle = true;
                return Ok(Fetched {
                    jobs: vec![],
                    next_due: due.to_claim,
                });
            }
        }
        if self.state().known.is_old() {
            self.due().await?;
        }
        let crashes = self.look_after_crashes().await?;
        let isolated_next = std::mem::take(&mut self.state().isolated_next);
        let claimed = self.claim(free, crashes || isolated_next).await?;
        if !claimed.jobs.is_empty() || claimed.next_due.is_some() {
            return Ok(claimed);
        }
        let next_due = self.due().await?.to_claim;
        self.state().idle = true;
        Ok(Fetched {
            next_due,
            ..claimed
        })
    }

    async fn due(&self) -> StoreResult<DeliveriesDue> {
        let floor = self.state().known.to_ask();
        let began = Instant::now();
        let work = self.sessions.bounded();
        let read = async {
            let mut session = work.session().await?;
            self.core.outage.connected(began);
            let mut conn = session.read().await?;
            // Without what it took to get a connection: where the database was away, that is long.
            let asked = Instant::now();
            let due = due::deliveries(&mut conn, floor).await?;
            StoreResult::Ok((due, asked.elapsed()))
        };
        let (due, took) = work.run(read).await?;
        let state = &mut *self.state();
        if floor.is_none() {
            state.leased_from = due.any_from;
        }
        state.known.asked(floor, due.from, took);
        if let Some(again) = state.known.again(floor) {
            self.core.wakes.of(QueueName::Delivery).later(again);
        }
        Ok(due)
    }
}

/// Frees a channel's slot when its send is over, however it ends.
struct InFlight<'a> {
    deliveries: &'a Deliveries,
    channel: String,
    isolated: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.deliveries.release(&self.channel, self.isolated);
    }
}

/// When to do next what began then, so that it takes a twentieth of the time; in a minute at the latest.
fn next_time(every: Duration, began: Instant) -> Instant {
    let now = Instant::now();
    now + ((now - began) * TIMES_WHAT_IT_TOOK).clamp(every, Duration::from_mins(1))
}

fn count(slots: usize) -> i64 {
    i64::try_from(slots).unwrap_or(i64::MAX)
}

fn is_isolated(claimed: &Claimed) -> bool {
    claimed.row.crashes >= CRASHES_BEFORE_ISOLATION
}

#[async_trait]
impl Source for Deliveries {
    type Job = ClaimRef;

    async fn gather(&self) {
        let Some(until) = self.gathers_until() else {
            return;
        };
        while !self.state().full.is_empty() {
            tokio::select! {
                () = self.freed.notified() => {}
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    async fn fetch(&self, free: usize) -> StoreResult<Fetched<ClaimRef>> {
        let looked = self.look(free).await;
        let was_away = std::mem::replace(&mut self.state().away, looked.is_err());
        if was_away || looked.is_err() {
            self.core.outage.noticed();
        }
        looked
    }

    async fn handle(&self, job: ClaimRef, slot: Slot) {
        self.core.reach(Point::Claimed).await;
        // Not there: the drain has given it back.
        let unbegun = self.state().unbegun.remove(&job);
        let Some(Unbegun { claimed, needs }) = unbegun else {
            return;
        };
        let in_flight = InFlight {
            deliveries: self,
            channel: claimed.row.channel.clone(),
            isolated: is_isolated(&claimed),
        };
        let delivery = deliver::deliver(&self.core, &claimed, &needs).await;
        // What the host gave may be large, and is not needed for the record.
        drop((claimed, needs));
        match delivery {
            Delivery::Attempted(attempted) => {
                // The next one can be sent while this one's result is written down: the more of them, the
                // fewer transactions. But for one whose workers died: the next of its kind may be what killed them,
                // and this result is not to be lost with it.
                let alone = in_flight.isolated.then_some((in_flight, slot));
                self.stage.record(*attempted).await;
                drop(alone);
            }
            Delivery::TooLate => {
                // Where even that fails, the lease ends by itself.
                let _ = claim::hand_back(&self.sessions, &[job]).await;
            }
        }
    }

    async fn hand_back(&self) {
        let unbegun = std::mem::take(&mut self.state().unbegun);
        for Unbegun { claimed, .. } in unbegun.values() {
            self.release(&claimed.row.channel, is_isolated(claimed));
        }
        let claims: Vec<ClaimRef> = unbegun.into_keys().collect();
        match claim::hand_back(&self.sessions, &claims).await {
            Ok(given) if given > 0 => tracing::info!(deliveries = given, "claims handed back"),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "claims could not be handed back; their leases end");
            }
        }
    }
}
