//! Turns, look by look and claim by claim.

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

fn at(millis: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_millis(millis)
}

fn due(pair: Pair) -> Due {
    Due { pair, first: at(0) }
}

/// These are all that have something due.
fn only(texts: &[&str]) -> Found {
    Found {
        pairs: texts.iter().map(|text| due(pair(text))).collect(),
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
    turns.took(&shares, all_of(&shares), slots);
    said(&shares)
}

type Taken<'a> = ((&'a str, &'a str), DateTime<Utc>);

fn all_of(shares: &[Share]) -> impl Iterator<Item = Taken<'_>> {
    shares.iter().flat_map(|share| {
        let times = usize::try_from(share.at_most).unwrap();
        let pair = (share.pair.tenant.as_str(), share.pair.channel.as_str());
        std::iter::repeat_n((pair, at(0).unwrap()), times)
    })
}

fn said(shares: &[Share]) -> String {
    let said = shares
        .iter()
        .map(|it| format!("{} {} {}", it.pair.tenant, it.pair.channel, it.at_most));
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
    let taken = [("a", "email"), ("a", "email"), ("b", "email")];
    turns.took(&shares, taken.map(|pair| (pair, at(0).unwrap())), &slots);
    assert_eq!(claim(&mut turns, &slots), "a email 4");
}

/// What is done, and cannot be removed, is not passed over by each claim.
#[test]
fn a_pair_is_claimed_from_its_first_one_on() {
    let slots = slots(2, 2, &[]);
    let mut turns = Turns::default();
    let pairs = [("a email", 5_000), ("b email", 90_000)].map(|(text, first)| Due {
        pair: pair(text),
        first: at(first),
    });
    let found = Found {
        pairs: pairs.to_vec(),
        cut: None,
    };
    turns.found(found, &slots, NOW, QUICK);
    let floors = |shares: &[Share]| shares.iter().map(|it| it.floor).collect::<Vec<_>>();
    let shares = turns.shares(&slots);
    assert_eq!(floors(&shares), [at(4_750), at(89_750)]);
    let taken = [("b", "email", 95_000), ("a", "email", 7_000)];
    let taken = taken.map(|(tenant, channel, due)| ((tenant, channel), at(due).unwrap()));
    turns.took(&shares, taken, &slots);
    assert_eq!(floors(&turns.shares(&slots)), [at(6_750), at(94_750)]);
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
fn turns_of_each(has: &[bool], far: usize, slots: &Slots, times: usize) -> Vec<usize> {
    let name = |n: usize| pair(&format!("t{n:05} email"));
    let mut turns = Turns::default();
    let mut had = vec![0; has.len()];
    for _ in 0..times {
        let first = (0..has.len()).find(|n| name(*n) > *turns.last());
        let places = (0..has.len()).map(|n| (first.unwrap_or(0) + n) % has.len());
        let mut found = Found::default();
        for (passed, place) in places.enumerate() {
            if passed == far || found.pairs.len() == AHEAD {
                let before = (place + has.len() - 1) % has.len();
                found.cut = Some(name(before));
                break;
            }
            if has[place] {
                found.pairs.push(due(name(place)));
            }
        }
        turns.found(found, slots, NOW, QUICK);
        let shares = turns.shares(slots);
        for share in &shares {
            let place: usize = share.pair.tenant[1..].parse().unwrap();
            had[place] += 1;
        }
        turns.took(&shares, all_of(&shares), slots);
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
        (1..=1_000).find(stale)
    };
    assert_eq!(believed_for(500), Some(10));
    assert_eq!(believed_for(1_500), Some(30));
    assert_eq!(
        believed_for(60_000),
        Some(500),
        "but somebody new is soon known"
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
