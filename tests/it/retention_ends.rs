//! Invariant 16: journeys beside which everything is pruned that may be come to the same ends as those whose
//! history is kept.

use std::collections::BTreeMap;

use chimeway::ids::RunId;
use chimeway_testkit::{Answer, Story};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::json;
use sqlx::Row as _;

use crate::{
    invariants::audit,
    retention::{aggressive, prune},
    tools::{MORNING, trigger, trigger_of},
};

const WORKFLOWS: [&str; 4] = [
    "
key: mention
steps:
  - {id: tell, action: {type: notify, channel: in_app}}
  - {id: rest, action: {type: wait, duration: PT6H, stop_conditions: [
      {type: signal_received, signal_type: read}]}}
  - {id: mail, action: {type: notify, channel: email}}
",
    // Two waits, the second of which hears what was said in the first.
    "
key: patient
steps:
  - {id: first, action: {type: wait, duration: P3D}}
  - {id: second, action: {type: wait, duration: P2D, stop_conditions: [
      {type: signal_received, signal_type: read, match: {document_id: params.document_id}},
      {type: signal_received, signal_type: skip, then: {goto: mail}}]}}
  - {id: tell, action: {type: notify, channel: in_app}, on_outcome: {delivered: complete}}
  - {id: mail, action: {type: notify, channel: email}}
",
    "
key: purchase
steps:
  - {id: ask, action: {type: approval, assignee: {user: boss}, timeout: 72h},
     on_outcome: {approved: {goto: mail}, rejected: stop, timed_out: {goto: remind}}}
  - {id: remind, action: {type: notify, channel: in_app}, on_outcome: {delivered: {goto: ask}}}
  - {id: mail, action: {type: notify, channel: email}}
",
    "
key: loop
steps:
  - {id: tell, action: {type: notify, channel: in_app}, on_outcome: {permanent_failure: stop}}
  - {id: rest, action: {type: wait, duration: P1D, stop_conditions: [
      {type: signal_received, signal_type: read}]}, on_outcome: {elapsed: {goto: tell}}}
",
];

const ACTORS: [&str; 3] = ["ada", "bob", "cleo"];

/// Something that happens, the same whatever ids there are.
#[derive(Debug, Clone)]
enum Happens {
    Trigger(&'static str, &'static str),
    Signal(&'static str, &'static str, usize),
    Decide(usize, bool),
    Cancel(usize),
    Fails(bool),
    Passes(&'static str),
}

fn script(seed: u64) -> Vec<Happens> {
    let mut random = StdRng::seed_from_u64(seed);
    let random = &mut random;
    let mut begun = 0;
    let mut script = vec![];
    for _ in 0..120 {
        let actor = *ACTORS.choose(random).unwrap();
        script.push(match random.random_range(0..12) {
            0..=3 => {
                begun += 1;
                let keys = ["mention", "patient", "purchase", "loop"];
                Happens::Trigger(keys.choose(random).unwrap(), actor)
            }
            4 | 5 => {
                let name = ["read", "skip", "other"].choose(random).unwrap();
                Happens::Signal(actor, name, random.random_range(0..=begun))
            }
            6 => Happens::Decide(random.random_range(0..=begun), random.random_bool(0.5)),
            7 if random.random_bool(0.3) => Happens::Cancel(random.random_range(0..=begun)),
            8 if random.random_bool(0.3) => Happens::Fails(random.random_bool(0.3)),
            _ => Happens::Passes(["PT1H", "PT6H", "P1D", "P2D"].choose(random).unwrap()),
        });
    }
    // Each loop is told to end, and every wait comes to its own.
    script.push(Happens::Fails(false));
    script.extend((0..12).map(|_| Happens::Passes("P1D")));
    script.extend(ACTORS.map(|actor| Happens::Signal(actor, "read", 0)));
    script.extend((1..=begun).map(|number| Happens::Decide(number, true)));
    script
}

/// How each run ended, by the number of its trigger, and what was sent.
type Ends = (BTreeMap<String, String>, Vec<String>);

async fn plays(script: &[Happens], prunes: bool) -> Ends {
    let story = Story::begin(MORNING).await;
    for workflow in WORKFLOWS {
        story.apply(workflow).await;
    }
    let (mut begun, mut ends) = (0, BTreeMap::new());
    for one in script {
        happens(&story, one, &mut begun).await;
        story.drain().await;
        ends.extend(ended(&story).await);
        if prunes {
            audit(story.pool()).await;
            prune(&story, &aggressive()).await;
            audit(story.pool()).await;
        }
    }
    let left: i64 = sqlx::query_scalar(
        "select (select count(*) from chimeway.workflow_runs)
            + (select count(*) from chimeway.events) + (select count(*) from chimeway.notifications)
            + (select count(*) from chimeway.deliveries)",
    )
    .fetch_one(story.pool())
    .await
    .unwrap();
    assert_eq!(left == 0, prunes, "{left} rows are left");
    let mut sent = story.sent();
    sent.sort();
    (ends, sent)
}

async fn happens(story: &Story, what: &Happens, begun: &mut usize) {
    match what {
        Happens::Trigger(workflow, who) => {
            *begun += 1;
            let new = trigger_of(workflow, who)
                .params(json!({ "document_id": *begun }))
                .correlation_id(begun.to_string());
            trigger(story.chimeway(), story.pool(), new).await.unwrap();
        }
        Happens::Signal(who, name, document) => {
            let payload = json!({ "document_id": document });
            story.signal_with(who, name, payload).await;
        }
        Happens::Decide(number, yes) => {
            let call = match yes {
                true => "select chimeway.approve('org_456', $1, 'boss')",
                false => "select chimeway.reject('org_456', $1, 'boss')",
            };
            by_hand(story, call, *number).await;
        }
        Happens::Cancel(number) => {
            by_hand(story, "select chimeway.cancel('org_456', $1)", *number).await;
        }
        Happens::Fails(fails) => story.channel().always(match fails {
            true => Answer::Permanent,
            false => Answer::Takes,
        }),
        Happens::Passes(time) => {
            story.advance(time).await;
        }
    }
}

/// Calls something for the run of a trigger; nothing, where it is gone.
async fn by_hand(story: &Story, call: &'static str, number: usize) {
    let run: Option<RunId> = sqlx::query_scalar(
        "select r.id from chimeway.workflow_runs r
         join chimeway.notifications n on n.id = r.notification_id
         join chimeway.events e on e.id = n.event_id
         where e.correlation_id = $1",
    )
    .bind(number.to_string())
    .fetch_optional(story.pool())
    .await
    .unwrap();
    let Some(run) = run else { return };
    let called = sqlx::query(call).bind(run.0).execute(story.pool()).await;
    called.unwrap();
}

async fn ended(story: &Story) -> Vec<(String, String)> {
    let rows = sqlx::query(
        "select e.correlation_id, concat_ws(' ', d.workflow_key, r.state, r.terminal_reason, (
            select string_agg(t.reason, ' ' order by t.sequence)
            from chimeway.workflow_transitions t where t.workflow_run_id = r.id
         ))
         from chimeway.workflow_runs r
         join chimeway.workflow_definitions d on d.id = r.workflow_definition_id
         join chimeway.notifications n on n.id = r.notification_id
         join chimeway.events e on e.id = n.event_id
         where r.ended_at is not null",
    )
    .fetch_all(story.pool())
    .await
    .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn same_ends(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let script = script(seed);
        let (kept, pruned) = (plays(&script, false).await, plays(&script, true).await);
        let begun = script
            .iter()
            .filter(|one| matches!(one, Happens::Trigger(..)));
        assert_eq!(
            kept.0.len(),
            begun.count(),
            "seed {seed}: all come to an end"
        );
        assert_eq!(kept, pruned, "seed {seed}");
    }
}

#[tokio::test]
async fn journeys_beside_which_all_is_pruned_come_to_the_same_ends() {
    same_ends(1..2).await;
}

#[tokio::test]
async fn many_journeys_beside_which_all_is_pruned_come_to_the_same_ends() {
    same_ends(10..12).await;
}
