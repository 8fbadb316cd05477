//! Claims of deliveries, for the queue and for the Inline dispatcher: the earliest ones, or those whose turn it is.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::Instant;

use super::{Core, address_book, deliver::Claimed, metrics, session::Sessions};
use crate::{
    engine::turns::{Slots, Turns},
    store::{
        StoreResult,
        claims::{self, Claim, ClaimedRow},
        due::Floor,
        turns,
    },
};

/// Which deliveries are claimed.
#[derive(Debug, Clone, Default)]
pub(super) struct Which {
    /// How many.
    pub(super) slots: Slots,
    /// Only those whose workers died repeatedly.
    pub(super) isolated: bool,
    /// Only what is due since then, or later.
    pub(super) floor: Floor,
}

impl Which {
    pub(super) fn at_most(limit: i64) -> Self {
        let slots = Slots {
            free: limit,
            per_channel: limit,
            ..Slots::default()
        };
        Self {
            slots,
            ..Self::default()
        }
    }

    /// One of those whose workers died repeatedly.
    pub(super) fn alone(mut self) -> Self {
        self.slots.free = 1;
        self.isolated = true;
        self
    }
}

/// Claims due deliveries, the earliest ones, or those whose turn it is: durable when it returns, and so before the
/// first of them is sent.
pub(super) async fn claim(
    core: &Core,
    sessions: &Sessions,
    which: &Which,
    turns: Option<&mut InTurn>,
) -> StoreResult<Vec<Claimed>> {
    let asked = Instant::now();
    let claim = Claim {
        owner: &core.worker,
        lease: core.timing.lease,
        slots: &which.slots,
        isolated: which.isolated,
        shares: None,
        floor: which.floor,
    };
    let work = sessions.bounded();
    let take = async {
        let mut session = work.session().await?;
        core.outage.connected(asked);
        let mut tx = session.begin().await?;
        let began = Instant::now();
        let rows = match turns {
            Some(turns) => turns.claim(&mut tx, claim).await?,
            None => claims::claim(&mut tx, &claim).await?,
        };
        tx.commit().await?;
        metrics::claimed(began.elapsed());
        StoreResult::Ok(rows)
    };
    let rows = work.run(take).await?;
    let claimed = |row| Claimed {
        row,
        asked,
        look_up: None,
    };
    let mut claimed: Vec<Claimed> = rows.into_iter().map(claimed).collect();
    address_book::consult(core, &mut claimed);
    Ok(claimed)
}

/// Whose turn it is, as far as a process knows.
pub(super) struct InTurn {
    turns: Turns,
    began: Instant,
}

impl InTurn {
    pub(super) fn new() -> Self {
        Self {
            turns: Turns::default(),
            began: Instant::now(),
        }
    }

    /// For how long it is still believed that nobody is known whose turn it could be.
    pub(super) fn nobody_for(&self, slots: &Slots) -> Option<Duration> {
        self.turns.nobody_for(slots, self.began.elapsed())
    }

    /// Claims of those whose turn it is. Where they turn out to have nothing left, it is looked who has.
    async fn claim(
        &mut self,
        conn: &mut PgConnection,
        claim: Claim<'_>,
    ) -> StoreResult<Vec<ClaimedRow>> {
        let slots = claim.slots;
        let mut looks = self.turns.is_stale(slots, self.began.elapsed());
        loop {
            if looks {
                let asked = self.began.elapsed();
                let from = (self.turns.last(), self.turns.far());
                let found = turns::due(conn, from, slots, claim.floor).await?;
                let now = self.began.elapsed();
                self.turns
                    .found(found, slots, now, now.saturating_sub(asked));
            }
            let shares = self.turns.shares(slots);
            let mut rows = vec![];
            if !shares.is_empty() {
                let shares = Some(shares.as_slice());
                rows = claims::claim(conn, &Claim { shares, ..claim }).await?;
            }
            let taken = rows
                .iter()
                .map(|it| ((it.tenant.as_str(), it.channel.as_str()), it.due_at));
            self.turns.took(&shares, taken, slots);
            if looks || !rows.is_empty() {
                return Ok(rows);
            }
            looks = true;
        }
    }
}

/// Gives claims back: due again, nothing counted.
pub(super) async fn hand_back(
    sessions: &Sessions,
    claims: &[claims::ClaimRef],
) -> StoreResult<u64> {
    if claims.is_empty() {
        return Ok(0);
    }
    let work = sessions.bounded();
    let give = async {
        let mut session = work.session().await?;
        let mut tx = session.begin_plain().await?;
        let given = claims::hand_back(&mut tx, claims).await?;
        tx.commit().await?;
        Ok(given)
    };
    work.run(give).await
}
