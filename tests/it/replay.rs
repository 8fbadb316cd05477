//! The history of a run is the whole truth: replaying its stored lines gives its row, whatever
//! happened to it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use chimeway::{
    Document, FlowError, WorkflowBuilder,
    definition::{Definition, Outcome, To, read_stored},
    engine::{Reason, Run, RunState, StateName, TerminalReason, Transition},
    flow::{
        ActionCall, ActionError, ActionKind, Preference,
        workflows::{RunUpdate, Stamp},
    },
    ids::{
        ApprovalId, DefinitionId, DeliveryId, RunId, SignalId, SignalName, StepId, Version, Visit,
    },
    store::workflows,
};
use chimeway_testkit::{Answer, Story};
use chrono::{DateTime, Utc};
use rand::{RngExt, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Map, Value, json};
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use crate::{
    invariants::{audit, audit_signals_made_in_time},
    tools::{MORNING, lines, tenant, trigger, trigger_of},
};

const SIGNALS: [&str; 3] = ["a", "b", "c"];
const ACTORS: [&str; 3] = ["ada", "bob", "cleo"];

#[tokio::test]
async fn random_journeys_are_what_their_history_says() {
    let mut seen = BTreeSet::new();
    let mut unseen = vec![];
    // As many as it takes to go everywhere: how often a try is repeated is a matter of chance.
    for seed in 100..240 {
        seen.extend(random_journeys(seed).await);
        let reasons = Reason::ALL.iter().map(|reason| reason.as_str().to_owned());
        let outcomes = Outcome::NOTIFY
            .iter()
            .map(|outcome| outcome.as_str().to_owned());
        unseen = reasons
            .chain(outcomes)
            .filter(|name| !seen.contains(name))
            .collect();
        if seed >= 135 && unseen.is_empty() {
            break;
        }
    }
    assert_eq!(unseen, Vec::<String>::new());
}

/// Returns the reasons and outcomes that were met.
async fn random_journeys(seed: u64) -> BTreeSet<String> {
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let story = Story::builder()
        .with(|builder| builder.action("note", Note).unwrap())
        .begin(MORNING)
        .await;
    let mut workflows = vec![];
    while workflows.len() < 6 {
        let key = format!("workflow_{}", workflows.len());
        let document = workflow(&mut random, &key);
        match story.chimeway().apply(story.pool(), &document).await {
            Ok(_) => workflows.push(key),
            // Endless or unreachable: another one.
            Err(FlowError::InvalidDefinition(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for _ in 0..60 {
        something_happens(&mut random, &story, &workflows).await;
    }
    check(&story).await;
    // Most come to an end; the others are in loops.
    for _ in 0..8 {
        // Not each instant of a loop that turns every ten seconds.
        story.pass("PT1H").await;
        story.drain().await;
    }
    check(&story).await;
    let seen = lines(
        story.pool(),
        "select distinct unnest(array[reason, context ->> 'workflow_outcome'])
         from chimeway.workflow_transitions",
    );
    seen.await.lines().map(ToOwned::to_owned).collect()
}

async fn something_happens(random: &mut StdRng, story: &Story, workflows: &[String]) {
    let actor = ACTORS.choose(random).unwrap();
    match random.random_range(0..16) {
        0 | 1 => {
            let workflow = workflows.choose(random).unwrap();
            if random.random_bool(0.3) {
                sqlx::query("select chimeway.trigger($1, $2, 'org_456')")
                    .bind(workflow)
                    .bind(json!({ "actor_id": actor }))
                    .execute(story.pool())
                    .await
                    .unwrap();
            } else {
                let new = trigger_of(workflow, actor);
                trigger(story.chimeway(), story.pool(), new).await.unwrap();
            }
        }
        2..=4 => {
            let name = SIGNALS.choose(random).unwrap();
            let about: Option<String> = if random.random_bool(0.2) {
                sqlx::query_scalar(
                    "select id::text from chimeway.notifications order by id offset $1 limit 1",
                )
                .bind(random.random_range(0..20_i64))
                .fetch_optional(story.pool())
                .await
                .unwrap()
            } else {
                None
            };
            let payload = about.map_or(json!({}), |id| json!({ "notification_id": id }));
            story.signal_with(actor, name, payload).await;
        }
        5 | 6 => {
            let durations = ["PT0.001S", "PT1S", "PT20S", "PT1M", "PT10M", "PT1H"];
            story.pass(durations.choose(random).unwrap()).await;
        }
        7 => {
            let answers = (0..3).map(|_| match random.random_range(0..5) {
                0 => Answer::Permanent,
                1 => Answer::Bounced,
                2 => Answer::Takes,
                _ => Answer::Temporary(None),
            });
            story.channel().answer(answers.collect::<Vec<_>>());
            let away = random.random_bool(0.5);
            story.channel().always(if away {
                Answer::Temporary(None)
            } else {
                Answer::Takes
            });
        }
        8 | 9 => {
            story.drain().await;
        }
        14 | 15 => decide(random, story).await,
        10 => {
            let about = match random.random_range(0..3) {
                0 => Preference::Channel("email".parse().unwrap()),
                1 => Preference::Channel("in_app".parse().unwrap()),
                _ => Preference::Category("news".parse().unwrap()),
            };
            let wanted = random.random_bool(0.6);
            let mut conn = story.pool().acquire().await.unwrap();
            let preferences = story.chimeway().preferences();
            let who = actor.parse().unwrap();
            let said = [(about, wanted)];
            preferences
                .set(&mut conn, &tenant(), &who, &said)
                .await
                .unwrap();
        }
        _ => by_hand(random, story).await,
    }
}

/// Performs nothing, or refuses: always the same for a run.
struct Note;

#[async_trait]
impl ActionKind for Note {
    async fn perform(
        &self,
        _: &mut PgConnection,
        call: &ActionCall<'_>,
    ) -> Result<Map<String, Value>, ActionError> {
        match call.run.0.as_bytes()[15] % 3 {
            0 => Err(ActionError::Refused("not_this_one".to_owned())),
            _ => Ok(Map::from_iter([("noted".to_owned(), json!(true))])),
        }
    }
}

/// Somebody decides what some run waits for.
async fn decide(random: &mut StdRng, story: &Story) {
    let open = "select workflow_run_id from chimeway.approvals where decision is null order by id offset $1 limit 1";
    let run: Option<sqlx::types::Uuid> = sqlx::query_scalar(open)
        .bind(random.random_range(0..5_i64))
        .fetch_optional(story.pool())
        .await
        .unwrap();
    let by = *["boss", "mallory"].choose(random).unwrap();
    let say = match random.random_bool(0.5) {
        true => "select chimeway.approve('org_456', $1, $2)",
        false => "select chimeway.reject('org_456', $1, $2)",
    };
    let said = sqlx::query(say).bind(run).bind(by);
    said.execute(story.pool()).await.unwrap();
}

/// Somebody cancels a run, moves one to another step, reads an item, or loses a message's row.
async fn by_hand(random: &mut StdRng, story: &Story) {
    let live = "select id from chimeway.workflow_runs where ended_at is null order by id offset $1 limit 1";
    let run: Option<sqlx::types::Uuid> = sqlx::query_scalar(live)
        .bind(random.random_range(0..10_i64))
        .fetch_optional(story.pool())
        .await
        .unwrap();
    let Some(run) = run.map(RunId) else { return };
    let workflows = story.chimeway().workflows();
    let mut tx = story.pool().begin().await.unwrap();
    match random.random_range(0..7) {
        0 => {
            let stamp = Stamp::by("somebody");
            let asked = workflows.cancel(&mut tx, &tenant(), run, &stamp).await;
            asked.unwrap();
        }
        1 => {
            let current_step = Some(format!("step_{}", random.random_range(0..5)));
            let update = RunUpdate {
                current_step: current_step.map(|key| key.parse().unwrap()),
                ..RunUpdate::default()
            };
            let locked = workflows.lock_run(&mut tx, run).await.unwrap();
            // Not every workflow has as many steps.
            let _ = workflows.update_run(&mut tx, locked, update).await;
        }
        2 => {
            let read = "update chimeway.notifications set read_at = chimeway.now()
                        where id in (select notification_id from chimeway.workflow_runs where id = $1)";
            sqlx::query(read)
                .bind(run.0)
                .execute(&mut *tx)
                .await
                .unwrap();
        }
        _ => {
            let lose = "delete from chimeway.deliveries where id = (
                            select d.id from chimeway.deliveries d
                            join chimeway.workflow_runs r on r.id = d.workflow_run_id and r.visit = d.visit
                            where r.ended_at is null and d.status = 'pending' and d.attempts = 0
                                and d.action_index = 0
                            order by d.id limit 1
                        )";
            sqlx::query(lose).execute(&mut *tx).await.unwrap();
        }
    }
    tx.commit().await.unwrap();
    // What was lost is made again before anything else happens to its run.
    story.sweep().await;
    story.drain().await;
}

fn workflow(random: &mut StdRng, key: &str) -> Document {
    let count = random.random_range(1..=5);
    let ids: Vec<String> = (0..count).map(|place| format!("step_{place}")).collect();
    let mut builder = WorkflowBuilder::new(key);
    for id in &ids {
        if random.random_bool(0.35) {
            builder = business(random, builder, id, &ids);
        } else if random.random_bool(0.5) {
            let channel = if random.random_bool(0.5) {
                "in_app"
            } else {
                "email"
            };
            builder = builder.notify(id, channel, "hello");
            if random.random_bool(0.3) {
                builder = builder.category(id, "news");
            }
            if channel == "email" && random.random_bool(0.3) {
                builder = builder.unless_read(id);
            }
            for _ in 0..random.random_range(0..3) {
                let outcome = *Outcome::NOTIFY.choose(random).unwrap();
                builder = builder.on(id, outcome, target(random, &ids));
            }
        } else {
            let duration = *["PT10S", "PT5M", "PT1H"].choose(random).unwrap();
            let signals: Vec<(&str, Option<To>)> = SIGNALS
                .into_iter()
                .filter(|_| random.random_bool(0.5))
                .collect::<Vec<_>>()
                .into_iter()
                .map(|name| {
                    let released = random.random_bool(0.6);
                    (name, released.then(|| target(random, &ids)))
                })
                .collect();
            builder = builder.wait(id, duration, |wait| {
                signals.into_iter().fold(wait, |wait, (name, to)| match to {
                    Some(to) => wait.release_on(name, to),
                    None => wait.stop_on(name),
                })
            });
            if random.random_bool(0.4) {
                builder = builder.on(id, Outcome::Elapsed, target(random, &ids));
            }
        }
    }
    builder.document()
}

/// A step of a kind of business workflows.
fn business(
    random: &mut StdRng,
    builder: WorkflowBuilder,
    id: &str,
    ids: &[String],
) -> WorkflowBuilder {
    let (builder, outcomes): (_, &[Outcome]) = match random.random_range(0..3) {
        0 => {
            let expressions = [
                "true",
                "false",
                "has(context.noted)",
                "params.actor_id == 'ada'",
            ];
            let expression = *expressions.choose(random).unwrap();
            (builder.condition(id, expression), &Outcome::CONDITION)
        }
        1 => {
            let timeout = ["PT10S", "PT1H", "P30D"].choose(random).copied();
            let ends = random.random_bool(0.8);
            let asked = builder.approval(id, |ask| match timeout {
                Some(timeout) if ends => ask.user("boss").timeout(timeout),
                _ => ask.user("boss"),
            });
            (asked, &Outcome::APPROVAL)
        }
        _ => {
            let calls = random.random_bool(0.3);
            let acts = builder.action(id, |work| {
                let work = work.perform("note", json!({}));
                if calls {
                    work.webhook("https://example.com")
                        .perform("note", json!({}))
                } else {
                    work
                }
            });
            (acts, &Outcome::WORK)
        }
    };
    let ways = (0..random.random_range(0..3)).map(|_| *outcomes.choose(random).unwrap());
    let ways: Vec<Outcome> = ways.collect();
    ways.into_iter().fold(builder, |builder, outcome| {
        builder.on(id, outcome, target(random, ids))
    })
}

fn target(random: &mut StdRng, ids: &[String]) -> To {
    match random.random_range(0..6) {
        0 => To::Next,
        1 => To::Complete,
        2 => To::Stop,
        _ => To::step(ids.choose(random).unwrap()),
    }
}

/// All rules hold, and every run is what its history says.
pub(crate) async fn check(story: &Story) {
    audit(story.pool()).await;
    audit_signals_made_in_time(story.pool()).await;
    let definitions = definitions(story).await;
    let rows = sqlx::query("select * from chimeway.workflow_runs order by id")
        .fetch_all(story.pool())
        .await
        .unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let id = RunId(row.get("id"));
        let definition = &definitions[&DefinitionId(row.get("workflow_definition_id"))];
        let (run, context) = replayed(story, id, definition).await;
        let (state, until, signals) = columns(&run.state);
        assert_eq!(
            (
                run.definition.step_id(run.step).0,
                run.visit.0,
                run.sequence.0,
                state,
                run.status_reason.as_ref(),
                until,
                signals,
                run.state.terminal_reason().map(|reason| reason.to_string()),
                context,
            ),
            (
                row.get("current_step_id"),
                row.get("visit"),
                row.get("transition_count"),
                row.get("state"),
                row.get("status_reason"),
                row.get("suspended_until"),
                row.get("pending_signals"),
                row.get("terminal_reason"),
                row.get("status_context"),
            ),
            "{id}"
        );
    }
}

fn columns(state: &RunState) -> (&'static str, Option<DateTime<Utc>>, Vec<String>) {
    let name = state.name().unwrap().as_str();
    match state {
        RunState::Waiting { until, stop_on } => (
            name,
            Some(*until),
            stop_on.iter().map(ToString::to_string).collect(),
        ),
        RunState::AwaitingApproval { until } => (name, *until, vec![]),
        _ => (name, None, vec![]),
    }
}

async fn definitions(story: &Story) -> HashMap<DefinitionId, Arc<Definition>> {
    let mut conn = story.pool().acquire().await.unwrap();
    let ids: Vec<DefinitionId> = sqlx::query_scalar("select id from chimeway.workflow_definitions")
        .fetch_all(&mut *conn)
        .await
        .unwrap();
    let rows = workflows::load(&mut conn, &ids).await.unwrap();
    let definition = |row: workflows::DefinitionRow| {
        let plan = read_stored(&row.document).unwrap();
        let steps = row.step_ids.into_iter().map(StepId).collect();
        let definition = Definition::new(row.id, Version(row.version), plan, steps);
        (row.id, Arc::new(definition.unwrap()))
    };
    rows.into_iter().map(definition).collect()
}

/// The run that its stored lines make, and the facts beside its status.
async fn replayed(story: &Story, id: RunId, definition: &Arc<Definition>) -> (Run, Value) {
    let rows = sqlx::query(
        "select * from chimeway.workflow_transitions where workflow_run_id = $1 order by sequence",
    )
    .bind(id.0)
    .fetch_all(story.pool())
    .await
    .unwrap();
    let mut run = Run::born(id, Arc::clone(definition));
    let mut context = Value::Null;
    for row in &rows {
        if Reason::parse(row.get("reason")).is_none() {
            // A host's own: the run stays where it is.
            run.sequence = run.sequence.next();
            continue;
        }
        let line = transition(&run, &context, definition, row);
        assert_eq!(line.from, run.state.name(), "{id}");
        run.apply(&line);
        if line.reason != Reason::StepActivated {
            context = Value::Object(line.context);
        }
    }
    (run, context)
}

fn transition(
    before: &Run,
    facts_before: &Value,
    definition: &Definition,
    row: &PgRow,
) -> Transition {
    let context: Value = row.get("context");
    let reason = Reason::parse(row.get("reason")).unwrap();
    let from: Option<String> = row.get("from_state");
    let to = match StateName::parse(row.get("to_state")).unwrap() {
        StateName::Active => RunState::Active,
        StateName::Completed => RunState::Completed,
        StateName::Waiting if reason == Reason::WaitingForApproval => RunState::AwaitingApproval {
            until: context["suspended_until"]
                .as_str()
                .map(|until| until.parse().unwrap()),
        },
        StateName::Waiting => RunState::Waiting {
            until: context["suspended_until"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap(),
            stop_on: serde_json::from_value(context["pending_signals"].clone()).unwrap(),
        },
        StateName::Stopped if reason == Reason::WorkflowCancelled => {
            RunState::Stopped(TerminalReason::Cancelled)
        }
        StateName::Stopped => RunState::Stopped(stopped_by(before, facts_before, &context)),
        StateName::Failed => {
            let code = context["error"].as_str().unwrap();
            RunState::Failed(TerminalReason::Failed(code.to_owned()))
        }
    };
    Transition {
        step: definition
            .index_of(StepId(row.get("workflow_step_id")))
            .unwrap(),
        visit: Visit(row.get("visit")),
        from: from.map(|name| StateName::parse(&name).unwrap()),
        to,
        reason,
        delivery: row.get::<Option<_>, _>("delivery_id").map(DeliveryId),
        signal: row.get::<Option<_>, _>("signal_id").map(SignalId),
        approval: row.get::<Option<_>, _>("approval_id").map(ApprovalId),
        context: context.as_object().unwrap().clone(),
    }
}

/// Why a run was stopped: the line itself says it of a message, the line before it of a wait.
fn stopped_by(before: &Run, facts_before: &Value, facts: &Value) -> TerminalReason {
    if let Some(outcome) = facts["workflow_outcome"].as_str() {
        return TerminalReason::Outcome(Outcome::parse(outcome).unwrap());
    }
    match before.status_reason.as_ref() {
        "reactivated_from_wait" => TerminalReason::Outcome(Outcome::Elapsed),
        "approval_decided" | "condition_evaluated" => {
            let outcome = facts_before["workflow_outcome"].as_str().unwrap();
            TerminalReason::Outcome(Outcome::parse(outcome).unwrap())
        }
        "actions_performed" => TerminalReason::Outcome(Outcome::Succeeded),
        "action_failed" => TerminalReason::Outcome(Outcome::Failed),
        "signal_received" => {
            let name = facts_before["event_name"].as_str().unwrap();
            TerminalReason::StopCondition(SignalName::new(name).unwrap())
        }
        other => panic!("stopped after {other}"),
    }
}
