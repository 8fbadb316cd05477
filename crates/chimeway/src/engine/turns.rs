//! Whose turn it is: how much of which tenant and channel is sent next, where more is due than can be sent at once.
//!
//! Each pair of a tenant and a channel has an equal share, and after the last pair the first one comes again. Which
//! pairs have something due is found out now and then, and not for every claim: see [`Turns::is_stale`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

/// For how many pairs ahead it is found out that something is due.
pub const AHEAD: usize = 50;
/// How many pairs with nothing due one look passes where somebody is known meanwhile, who waits for it.
pub const NEAR: i32 = 1_000;
/// The same where nobody is.
const FAR: i32 = 5_000;
/// How long that is believed.
const FRESH: Duration = Duration::from_millis(100);
/// The same where slots are left over, which somebody new could have.
const FRESH_IF_SHORT: Duration = Duration::from_millis(10);
/// But so many times as long as finding out took, where that is longer.
const TIMES_WHAT_IT_TOOK: u32 = 20;
/// At most so long, where it was once round.
const LONGEST: Duration = Duration::from_millis(500);
/// What a pair has is claimed from its first one on, and so much before it, for transactions that began earlier and
/// commit later. What is still earlier is found when it is found out anew who has something due.
const SLACK: TimeDelta = TimeDelta::milliseconds(250);

/// A tenant and a channel; two empty texts before the first one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// Whose messages.
    pub tenant: String,
    /// Over which channel.
    pub channel: String,
}

/// A pair that has something due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub pair: Pair,
    /// Since when the first one of it has been, as far as is known: what was due before is done.
    pub first: Option<DateTime<Utc>>,
}

/// What a look for pairs with something due brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Those that have, in the order of their turns: at most [`AHEAD`].
    pub pairs: Vec<Due>,
    /// The look ended with this pair, before it was once round: the next one goes on from there.
    pub cut: Option<Pair>,
}

/// What a pair may have of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Whose it is.
    pub pair: Pair,
    /// At least one.
    pub at_most: i64,
    /// Of what is due since then, or later.
    pub floor: Option<DateTime<Utc>>,
}

/// What there is to share.
#[derive(Debug, Clone, Default)]
pub struct Slots {
    /// So many in all.
    pub free: i64,
    /// At most so many over one channel.
    pub per_channel: i64,
    /// Channels over which there are fewer, or none: some of their slots are taken, or all.
    pub left: BTreeMap<String, i64>,
}

impl Slots {
    /// How many there are over a channel.
    #[must_use]
    pub fn over(&self, channel: &str) -> i64 {
        let left = self.left.get(channel).copied();
        left.unwrap_or(self.per_channel).max(0)
    }

    /// So many can be claimed whatever channels they go over.
    #[must_use]
    pub fn over_any(&self) -> i64 {
        let fewest = self.left.values().copied().min();
        self.free
            .min(fewest.unwrap_or(i64::MAX))
            .min(self.per_channel)
            .max(0)
    }

    /// Channels over which there are none.
    #[must_use]
    pub fn taken(&self) -> BTreeSet<String> {
        let taken = self.left.iter().filter(|(_, left)| **left <= 0);
        taken.map(|(channel, _)| channel.clone()).collect()
    }
}

/// The order of turns, as far as it is known. Instants are durations since some beginning, by a clock that only goes
/// forward.
#[derive(Debug, Default)]
pub struct Turns {
    /// Pairs with something due, in the order of their turns.
    ahead: VecDeque<Due>,
    /// So many of the first ones were found by the last look, and have not had their turn since.
    new: usize,
    /// Where the last look ended, if that was before it was once round.
    cut: Option<Pair>,
    /// Few have something due: after the last one that is known comes the first one again.
    few: bool,
    /// After whom the next look begins: who had the last turn, or where the last look ended and all that it found
    /// have had theirs.
    last: Pair,
    found_at: Option<Duration>,
    /// How long that took.
    took: Duration,
    /// Over these channels there was no slot, and nobody was looked for.
    without: BTreeSet<String>,
    /// The last claim did not fill all slots.
    short: bool,
}

impl Turns {
    /// Nobody is known yet; this one had the last turn.
    #[must_use]
    pub fn after(last: Pair) -> Self {
        Self {
            last,
            ..Self::default()
        }
    }

    /// After whom it is looked next: who had the last turn, or where the last look ended.
    #[must_use]
    pub fn last(&self) -> &Pair {
        &self.last
    }

    /// How many pairs with nothing due the next look passes.
    #[must_use]
    pub fn far(&self) -> i32 {
        match self.ahead.is_empty() {
            true => FAR,
            false => NEAR,
        }
    }

    /// Whether it has to be found out anew who has something due.
    #[must_use]
    pub fn is_stale(&self, slots: &Slots, now: Duration) -> bool {
        self.believed_for(slots, now).is_none()
    }

    /// For how long it is still believed that nobody is known whose turn it could be; `None` where somebody is, or
    /// where it has to be found out anew.
    #[must_use]
    pub fn nobody_for(&self, slots: &Slots, now: Duration) -> Option<Duration> {
        let believed = self.believed_for(slots, now)?;
        let mut known = self.ahead.iter();
        let nobody = known.all(|due| slots.over(&due.pair.channel) == 0);
        nobody.then_some(believed)
    }

    /// For how long what was found is still believed; `None`: not any more.
    fn believed_for(&self, slots: &Slots, now: Duration) -> Option<Duration> {
        // Among many that have nothing due, the next look may take as long as the last one.
        let many_have_not = self.few && self.cut.is_some();
        let none_found = self.ahead.is_empty() && self.without.is_empty() && !many_have_not;
        let freed = self.without.iter().any(|channel| slots.over(channel) > 0);
        if none_found || freed {
            return None;
        }
        let least = match self.short {
            true => FRESH_IF_SHORT,
            false => FRESH,
        };
        let most = match self.cut {
            None => LONGEST,
            // There are more, whom the next look may find.
            Some(_) => FRESH,
        };
        let fresh = (self.took * TIMES_WHAT_IT_TOOK).clamp(least, most);
        let believed = (self.found_at? + fresh).checked_sub(now)?;
        (!believed.is_zero()).then_some(believed)
    }

    /// What a look after [`Turns::last`] brought, over channels that have a slot. It is known since `now`, and took
    /// that long to find out.
    ///
    /// Where the look before ended among many that have nothing due, those that it found come behind the new ones:
    /// who has something due does not wait for whole rounds.
    pub fn found(&mut self, found: Found, slots: &Slots, now: Duration, took: Duration) {
        let before = std::mem::take(&mut self.ahead);
        let known = match self.few && self.cut.is_some() && found.cut.is_some() {
            true => before,
            false => VecDeque::new(),
        };
        self.new = found.pairs.len();
        self.few = found.pairs.len() < AHEAD;
        let is_new = |it: &Due| found.pairs.iter().any(|new| new.pair == it.pair);
        let known: Vec<Due> = known.into_iter().filter(|it| !is_new(it)).collect();
        self.ahead = found.pairs.into_iter().chain(known).collect();
        self.ahead.truncate(AHEAD);
        self.cut = found.cut;
        self.found_at = Some(now);
        self.took = took;
        self.without = slots.taken();
        self.goes_on();
    }

    /// All that the last look found have had their turn: the next one begins where it ended.
    fn goes_on(&mut self) {
        if let Some(cut) = &self.cut
            && self.new == 0
        {
            self.last = cut.clone();
        }
    }

    /// Shares for those whose turn it is: equal ones, as far as the slots of their channels go. Who is passed over
    /// for want of slots comes next.
    #[must_use]
    pub fn shares(&self, slots: &Slots) -> Vec<Share> {
        let mut over: HashMap<&str, (i64, i64)> = HashMap::new();
        for Due { pair, .. } in &self.ahead {
            let (pairs, _) = over
                .entry(&pair.channel)
                .or_insert_with(|| (0, slots.over(&pair.channel)));
            *pairs += 1;
        }
        let ahead = self.ahead.iter();
        let in_turn = ahead.filter(|it| slots.over(&it.pair.channel) > 0);
        let equal = parts(slots.free, count(in_turn.count()));
        let equal_over: HashMap<&str, i64> = over
            .iter()
            .map(|(channel, (pairs, left))| (*channel, parts(*left, *pairs).min(equal)))
            .collect();
        let mut free = slots.free;
        let mut shares = vec![];
        for Due { pair, first } in &self.ahead {
            let Some((_, left)) = over.get_mut(pair.channel.as_str()) else {
                continue;
            };
            let at_most = equal_over[pair.channel.as_str()].min(*left).min(free);
            if at_most > 0 {
                *left -= at_most;
                free -= at_most;
                shares.push(Share {
                    pair: pair.clone(),
                    at_most,
                    floor: first.and_then(|at| at.checked_sub_signed(SLACK)),
                });
            }
        }
        shares
    }

    /// What came of these shares: of which pair each one was, and since when it was due. Who had less than its share
    /// has nothing more; the others come again after all the rest.
    pub fn took<'a>(
        &mut self,
        shares: &[Share],
        taken: impl IntoIterator<Item = ((&'a str, &'a str), DateTime<Utc>)>,
        slots: &Slots,
    ) {
        let mut of_pair: HashMap<(&str, &str), (i64, DateTime<Utc>)> = HashMap::new();
        for (pair, due) in taken {
            let (taken, first) = of_pair.entry(pair).or_insert((0, due));
            *taken += 1;
            *first = due.min(*first);
        }
        self.short = of_pair.values().map(|(taken, _)| taken).sum::<i64>() < slots.free;
        // Up to the first one that was passed over.
        let order = match self.cut {
            Some(_) => self.new,
            None => self.ahead.len(),
        };
        let first = self.ahead.iter().take(order).zip(shares);
        let served = first.take_while(|(due, share)| due.pair == share.pair);
        if let Some((last, _)) = served.last() {
            self.last = last.pair.clone();
        }
        let mut shares: HashMap<&Pair, i64> = shares
            .iter()
            .map(|share| (&share.pair, share.at_most))
            .collect();
        let (mut ahead, mut again, mut new) = (VecDeque::new(), vec![], 0);
        for (place, due) in self.ahead.drain(..).enumerate() {
            match shares.remove(&due.pair) {
                None => {
                    new += usize::from(place < self.new);
                    ahead.push_back(due);
                }
                Some(at_most) => {
                    let of = (due.pair.tenant.as_str(), due.pair.channel.as_str());
                    let full = of_pair.get(&of).filter(|(taken, _)| *taken >= at_most);
                    if let (Some((_, first)), true) = (full, self.few) {
                        // The earliest were taken: what was due before the first of them is done.
                        let first = Some(*first);
                        again.push(Due { first, ..due });
                    }
                }
            }
        }
        ahead.extend(again);
        self.ahead = ahead;
        self.new = new;
        self.goes_on();
    }
}

/// The equal parts of so many, rounded up.
fn parts(of: i64, among: i64) -> i64 {
    match among {
        ..=0 => 0,
        _ => (of.max(0) + among - 1) / among,
    }
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
