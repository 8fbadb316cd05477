//! Whose turn it is: how much of which tenant and channel is sent next, where more is due than can be sent at once.
//!
//! Each pair of a tenant and a channel has an equal share, and after the last pair the first one comes again. Which
//! pairs have something due is found out now and then, and not for every claim: see [`Turns::is_stale`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

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
/// But so many times as long as finding out took, where that is longer; never longer than where all slots are filled.
const TIMES_WHAT_IT_TOOK: u32 = 20;

/// A tenant and a channel; two empty texts before the first one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// Whose messages.
    pub tenant: String,
    /// Over which channel.
    pub channel: String,
}

/// What a look for pairs with something due brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Those that have, in the order of their turns: at most [`AHEAD`].
    pub pairs: Vec<Pair>,
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
    ahead: VecDeque<Pair>,
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
        let nobody = known.all(|pair| slots.over(&pair.channel) == 0);
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
        let fresh = match self.short {
            true => FRESH.min(FRESH_IF_SHORT.max(self.took * TIMES_WHAT_IT_TOOK)),
            false => FRESH,
        };
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
        let known = known.into_iter().filter(|it| !found.pairs.contains(it));
        self.ahead = known.collect();
        for pair in found.pairs.iter().rev() {
            self.ahead.push_front(pair.clone());
        }
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
        for pair in &self.ahead {
            let (pairs, _) = over
                .entry(&pair.channel)
                .or_insert_with(|| (0, slots.over(&pair.channel)));
            *pairs += 1;
        }
        let in_turn = self.ahead.iter().filter(|it| slots.over(&it.channel) > 0);
        let equal = parts(slots.free, count(in_turn.count()));
        let equal_over: HashMap<&str, i64> = over
            .iter()
            .map(|(channel, (pairs, left))| (*channel, parts(*left, *pairs).min(equal)))
            .collect();
        let mut free = slots.free;
        let mut shares = vec![];
        for pair in &self.ahead {
            let Some((_, left)) = over.get_mut(pair.channel.as_str()) else {
                continue;
            };
            let at_most = equal_over[pair.channel.as_str()].min(*left).min(free);
            if at_most > 0 {
                *left -= at_most;
                free -= at_most;
                let pair = pair.clone();
                shares.push(Share { pair, at_most });
            }
        }
        shares
    }

    /// What came of these shares. Who had less than its share has nothing more; the others come again after all
    /// the rest.
    pub fn took<'a>(
        &mut self,
        shares: &[Share],
        taken: impl IntoIterator<Item = (&'a str, &'a str)>,
        slots: &Slots,
    ) {
        let mut of_pair: HashMap<(&str, &str), i64> = HashMap::new();
        for pair in taken {
            *of_pair.entry(pair).or_default() += 1;
        }
        self.short = of_pair.values().sum::<i64>() < slots.free;
        // Up to the first one that was passed over.
        let order = match self.cut {
            Some(_) => self.new,
            None => self.ahead.len(),
        };
        let first = self.ahead.iter().take(order).zip(shares);
        let served = first.take_while(|(pair, share)| **pair == share.pair);
        if let Some((last, _)) = served.last() {
            self.last = last.clone();
        }
        let mut shares: HashMap<&Pair, i64> = shares
            .iter()
            .map(|share| (&share.pair, share.at_most))
            .collect();
        let (mut ahead, mut again, mut new) = (VecDeque::new(), vec![], 0);
        for (place, pair) in self.ahead.drain(..).enumerate() {
            match shares.remove(&pair) {
                None => {
                    new += usize::from(place < self.new);
                    ahead.push_back(pair);
                }
                Some(at_most) => {
                    let of = (pair.tenant.as_str(), pair.channel.as_str());
                    let full = of_pair.get(&of).is_some_and(|took| *took >= at_most);
                    if full && self.few {
                        again.push(pair);
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
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(7);
    const QUICK: Duration = Duration::from_micros(200);

    fn pair(text: &str) -> Pair {
        let (tenant, channel) = text.split_once(' ').unwrap_or_default();
        Pair {
            tenant: tenant.to_owned(),
            channel: channel.to_owned(),
        }
    }

    /// These are all that have something due.
    fn only(texts: &[&str]) -> Found {
        Found {
            pairs: texts.iter().map(|text| pair(text)).collect(),
            cut: None,
        }
    }

    fn slots(free: i64, per_channel: i64, left: &[(&str, i64)]) -> Slots {
        let left = left
            .iter()
            .map(|(channel, left)| ((*channel).into(), *left));
        Slots {
            free,
            per_channel,
            left: left.collect(),
        }
    }

    #[test]
    fn what_fits_over_any_channel_fits_whatever_is_due() {
        let over_any = |free, per_channel, left: &[_]| slots(free, per_channel, left).over_any();
        assert_eq!(over_any(20, 10, &[]), 10);
        assert_eq!(over_any(6, 10, &[("email", 8)]), 6);
        assert_eq!(over_any(12, 10, &[("email", 3), ("sms", 7)]), 3);
        assert_eq!(
            over_any(12, 10, &[("email", 0)]),
            0,
            "a claim leaves email out"
        );
        assert_eq!(over_any(12, 10, &[("email", -1)]), 0);
    }

    fn knowing(texts: &[&str], slots: &Slots) -> Turns {
        let mut turns = Turns::default();
        turns.found(only(texts), slots, NOW, QUICK);
        turns
    }

    /// What a claim takes where everybody has very much: `<tenant> <channel> <how many>`.
    fn claim(turns: &mut Turns, slots: &Slots) -> String {
        let shares = turns.shares(slots);
        let taken = shares.iter().flat_map(|share| {
            let pair = (share.pair.tenant.as_str(), share.pair.channel.as_str());
            std::iter::repeat_n(pair, usize::try_from(share.at_most).unwrap())
        });
        turns.took(&shares, taken, slots);
        said(&shares)
    }

    fn said(shares: &[Share]) -> String {
        let said = shares
            .iter()
            .map(|Share { pair, at_most }| format!("{} {} {at_most}", pair.tenant, pair.channel));
        said.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn shares_are_equal() {
        let slots = slots(10, 10, &[]);
        let mut turns = knowing(&["a email", "b email", "b in_app", "c email"], &slots);
        assert_eq!(
            claim(&mut turns, &slots),
            "a email 3, b email 3, b in_app 3, c email 1"
        );
    }

    #[test]
    fn after_the_last_one_the_first_one_comes_again() {
        let slots = slots(2, 2, &[]);
        let mut turns = knowing(&["a email", "b email", "c email"], &slots);
        assert_eq!(claim(&mut turns, &slots), "a email 1, b email 1");
        assert_eq!(turns.last(), &pair("b email"));
        assert_eq!(claim(&mut turns, &slots), "c email 1, a email 1");
        assert_eq!(claim(&mut turns, &slots), "b email 1, c email 1");
    }

    #[test]
    fn a_channel_has_no_more_than_its_slots() {
        let slots = slots(10, 10, &[("email", 3), ("in_app", 1)]);
        let mut turns = knowing(&["a email", "b email", "b in_app", "c email"], &slots);
        assert_eq!(
            claim(&mut turns, &slots),
            "a email 1, b email 1, b in_app 1, c email 1"
        );
    }

    #[test]
    fn who_is_passed_over_for_want_of_slots_is_next() {
        let one = slots(5, 5, &[("email", 1)]);
        let known = ["a email", "b email", "b in_app", "c email", "c in_app"];
        let mut turns = knowing(&known, &one);
        assert_eq!(claim(&mut turns, &one), "a email 1, b in_app 1, c in_app 1");
        assert_eq!(turns.last(), &pair("a email"), "b's email was passed over");
        assert_eq!(claim(&mut turns, &one), "b email 1, b in_app 1, c in_app 1");
        assert_eq!(claim(&mut turns, &one), "c email 1, b in_app 1, c in_app 1");
    }

    #[test]
    fn who_has_less_than_its_share_has_no_more_turns() {
        let slots = slots(4, 4, &[]);
        let mut turns = knowing(&["a email", "b email"], &slots);
        let shares = turns.shares(&slots);
        assert_eq!(said(&shares), "a email 2, b email 2");
        turns.took(
            &shares,
            [("a", "email"), ("a", "email"), ("b", "email")],
            &slots,
        );
        assert_eq!(claim(&mut turns, &slots), "a email 4");
    }

    #[test]
    fn where_there_may_be_more_each_one_has_one_turn() {
        let slots = slots(200, 200, &[]);
        let known: Vec<String> = (0..AHEAD).map(|n| format!("t{n} email")).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let mut turns = knowing(&known, &slots);
        assert!(!turns.is_stale(&slots, NOW));
        claim(&mut turns, &slots);
        assert_eq!(turns.last(), &pair(known[AHEAD - 1]));
        assert!(turns.is_stale(&slots, NOW));
    }

    /// So many looks and claims, one after another, over pairs in their order, of which some have something due,
    /// and always will; a look passes no more than `far` pairs. How often each of them had a turn.
    fn turns_of_each(due: &[bool], far: usize, slots: &Slots, times: usize) -> Vec<usize> {
        let name = |n: usize| pair(&format!("t{n:05} email"));
        let mut turns = Turns::default();
        let mut had = vec![0; due.len()];
        for _ in 0..times {
            let first = (0..due.len()).find(|n| name(*n) > *turns.last());
            let places = (0..due.len()).map(|n| (first.unwrap_or(0) + n) % due.len());
            let mut found = Found::default();
            for (passed, place) in places.enumerate() {
                if passed == far || found.pairs.len() == AHEAD {
                    let before = (place + due.len() - 1) % due.len();
                    found.cut = Some(name(before));
                    break;
                }
                if due[place] {
                    found.pairs.push(name(place));
                }
            }
            turns.found(found, slots, NOW, QUICK);
            let shares = turns.shares(slots);
            for share in &shares {
                let place: usize = share.pair.tenant[1..].parse().unwrap();
                had[place] += 1;
            }
            let taken = shares.iter().flat_map(|share| {
                let of = (share.pair.tenant.as_str(), share.pair.channel.as_str());
                std::iter::repeat_n(of, usize::try_from(share.at_most).unwrap())
            });
            turns.took(&shares, taken, slots);
        }
        had
    }

    #[test]
    fn everybody_has_a_turn_however_many_have_nothing_due() {
        let slots = slots(10, 10, &[]);
        for (far, every) in [
            (100, 1),
            (100, 7),
            (100, 90),
            (100, 450),
            (10, 25),
            (2_000, 450),
        ] {
            let due: Vec<bool> = (0..900).map(|n| n % every == every / 2).collect();
            let had = turns_of_each(&due, far, &slots, 400);
            let of_due = had.iter().zip(&due).filter(|(_, due)| **due);
            let fewest = of_due.map(|(had, _)| *had).min().unwrap();
            assert!(fewest > 0, "{far} {every}: {had:?}");
        }
    }

    /// A flood among many that have nothing due has all the slots all the time, and not once a round.
    #[test]
    fn who_has_something_due_does_not_wait_for_whole_rounds() {
        let slots = slots(10, 10, &[]);
        let mut due = vec![false; 1_000];
        due[3] = true;
        assert_eq!(turns_of_each(&due, 100, &slots, 50)[3], 50);
        due[777] = true;
        let had = turns_of_each(&due, 100, &slots, 50);
        assert_eq!((had[3], had[777]), (50, 43), "from the eighth look on");
    }

    #[test]
    fn what_was_found_is_believed_for_a_tenth_of_a_second() {
        let all = slots(2, 2, &[]);
        let now = NOW;
        let mut turns = Turns::default();
        assert!(turns.is_stale(&all, now));
        turns.found(only(&["a email"]), &all, now, QUICK);
        claim(&mut turns, &all);
        assert!(!turns.is_stale(&all, now + Duration::from_millis(99)));
        assert!(turns.is_stale(&all, now + Duration::from_millis(100)));
    }

    #[test]
    fn where_slots_are_left_over_it_is_found_out_sooner_who_is_new() {
        let some = slots(4, 2, &[]);
        let now = NOW;
        let mut turns = Turns::default();
        turns.found(only(&["a email"]), &some, now, QUICK);
        assert_eq!(claim(&mut turns, &some), "a email 2");
        assert!(!turns.is_stale(&some, now + Duration::from_millis(9)));
        assert!(turns.is_stale(&some, now + Duration::from_millis(10)));
    }

    /// Where very much is due it takes longer to find out.
    #[test]
    fn what_took_long_to_find_out_is_believed_for_longer() {
        let some = slots(4, 2, &[]);
        let believed_for = |took: u64| {
            let mut turns = Turns::default();
            turns.found(only(&["a email"]), &some, NOW, Duration::from_micros(took));
            claim(&mut turns, &some);
            let stale = |millis: &u64| turns.is_stale(&some, NOW + Duration::from_millis(*millis));
            (1..=100).find(stale)
        };
        assert_eq!(believed_for(500), Some(10));
        assert_eq!(believed_for(1_500), Some(30));
        assert_eq!(
            believed_for(40_000),
            Some(100),
            "but never for longer than where all slots are filled"
        );
    }

    /// Where a channel's slots are all taken it is looked past it now and then, and not for each claim.
    #[test]
    fn that_nobody_else_has_something_is_believed_for_a_while() {
        let without = slots(4, 4, &[("in_app", 0)]);
        let now = NOW;
        let mut turns = Turns::default();
        turns.found(only(&[]), &without, now, QUICK);
        turns.took(&[], [], &without);
        let (soon, later) = (Duration::from_millis(4), Duration::from_millis(10));
        assert_eq!(turns.nobody_for(&without, now + soon), Some(later - soon));
        assert_eq!(turns.nobody_for(&without, now + later), None);
        assert!(turns.is_stale(&without, now + later));
        // Somebody is known who has a slot.
        turns.found(only(&["a email"]), &without, now, QUICK);
        assert_eq!(turns.nobody_for(&without, now), None);
        assert!(!turns.is_stale(&without, now));
        turns.found(only(&[]), &slots(4, 4, &[]), now, QUICK);
        assert!(turns.is_stale(&slots(4, 4, &[]), now));
    }

    #[test]
    fn a_channel_that_has_slots_again_is_looked_for_at_once() {
        let without = slots(4, 4, &[("in_app", 0)]);
        let turns = knowing(&["a email"], &without);
        assert!(!turns.is_stale(&without, NOW));
        assert!(turns.is_stale(&slots(4, 4, &[]), NOW));
    }
}
