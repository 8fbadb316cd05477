//! The plans of the library's statements over 20,000 rows: cost follows what is due, not what there is.
//!
//! The statements are those of the `.sqlx` cache, which is what the library sends. A generic plan is
//! forced, as PostgreSQL may choose one for any prepared statement.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use chimeway::{Recipient, Trigger, store::settings};
use chimeway_testkit::{Story, TestDb};
use serde_json::Value;
use sqlx::Connection as _;

use crate::{
    programs::{psql, root},
    tools::{MORNING, actor},
};

/// Lists for people at a prompt, who may ask for anything.
const MAY_READ_ALL: &[&str] = &["run_views::list", "prunable::count"];

/// Tables that grow with what hosts do.
const HOT: [&str; 9] = [
    "events",
    "notifications",
    "recipients",
    "preferences",
    "workflow_runs",
    "workflow_transitions",
    "signals",
    "deliveries",
    "delivery_attempts",
];

/// What the queues ask all day, and the index that answers.
const BY_INDEX: &[(&str, &str)] = &[
    ("acting::due", "workflow_runs_actions"),
    ("claims::claim", "deliveries_crashed"),
    ("claims::claim", "deliveries_due"),
    ("claims::claim", "deliveries_turns"),
    ("turns::due", "deliveries_turns"),
    ("claims::claim", "preferences_pkey"),
    ("deliveries::plan", "preferences_pkey"),
    ("healing::walk", "workflow_runs_live"),
    ("claims::expired", "deliveries_due"),
    ("due::deliveries", "deliveries_due"),
    ("due::signals", "signals_due"),
    ("due::workflows", "deliveries_progress_owed"),
    ("due::workflows", "events_due"),
    ("due::workflows", "workflow_runs_actions"),
    ("due::workflows", "workflow_runs_due"),
    ("events::find_by_keys", "events_idempotency_key_unique"),
    ("events::lock_due", "events_due"),
    ("health::due", "deliveries_due"),
    ("health::due", "deliveries_progress_owed"),
    ("health::due", "events_due"),
    ("health::due", "signals_due"),
    ("health::due", "workflow_runs_actions"),
    ("health::due", "workflow_runs_due"),
    ("health::left", "deliveries_due"),
    ("health::left", "events_set_aside"),
    ("health::left", "signals_set_aside"),
    ("health::left", "workflow_runs_set_aside"),
    ("inbox::list", "notifications_inbox"),
    ("owed::list", "deliveries_progress_owed"),
    ("retention::lock_ended", "workflow_runs_ended"),
    ("retention::lock_deliveries", "deliveries_visit_unique"),
    ("retention::delete_runs", "workflow_transitions_pkey"),
    ("retention::delete_runs", "delivery_attempts_pkey"),
    ("retention::delete_runs", "deliveries_pkey"),
    ("retention::delete_runs", "workflow_runs_pkey"),
    ("retention::leave_events", "notifications_recipient_unique"),
    ("retention::leave_events", "workflow_runs_event_once"),
    ("retention::delete_childless", "events_childless"),
    ("retention::lock_kept_items", "notifications_kept"),
    ("retention::unexpanded", "events_due"),
    ("retention::unexpanded", "events_set_aside"),
    ("retention::delete_signals", "signals_pkey"),
    ("retention::delete_signals", "workflow_runs_live"),
    ("runs::lock_due", "workflow_runs_due"),
    ("signals::candidates", "workflow_runs_live"),
    ("signals::lock_due", "signals_due"),
    ("signals::look_up", "signals_of_actor"),
    ("signals::look_up", "workflow_transitions_signal_once"),
];

/// 20,000 runs of 2,000 people in 20 tenants; one in ten is live, one in a hundred is due.
const ROWS: &str = "
begin;
insert into chimeway.workflow_definitions (id, workflow_key, workflow_version, document, content_hash, created_at)
values (gen_random_uuid(), 'journey', 1, '{}', '', now());
insert into chimeway.workflow_steps (id, workflow_definition_id, step_key, step_order, kind, config)
select gen_random_uuid(), d.id, 'step', 1, 'wait', '{}' from chimeway.workflow_definitions d;

create temp table n on commit drop as
select i, gen_random_uuid() as event, gen_random_uuid() as notification, gen_random_uuid() as run,
    gen_random_uuid() as delivery, 'org_' || i % 20 as tenant, 'user_' || i % 2000 as actor,
    now() - interval '1 minute' * i as at, i % 10 = 0 as live, i % 100 = 0 as due, d.id as definition, s.id as step
from generate_series(1, 20000) i, chimeway.workflow_definitions d, chimeway.workflow_steps s;

insert into chimeway.events (id, tenant_id, workflow_key, workflow_definition_id, params, idempotency_key,
    occurred_at, inserted_at, expand_at)
select event, tenant, 'journey', definition, '{}', 'key_' || i, at, at, case when due then at end from n;
insert into chimeway.notifications (id, event_id, tenant_id, recipient, inserted_at)
select notification, event, tenant, actor, at from n;
insert into chimeway.recipients (tenant_id, identity, updated_at) select distinct tenant, actor, now() from n;
insert into chimeway.preferences (tenant_id, recipient, kind, name, enabled, updated_at)
select distinct tenant, actor, 'channel', 'email', false, now() from n;
insert into chimeway.workflow_runs (id, notification_id, workflow_definition_id, current_step_id, started_at,
    last_transition_at, wake_at, suspended_until, ended_at, visit, transition_count, tenant_id, actor_id, state,
    status_reason, terminal_reason)
select run, notification, definition, step, at, at, case when live then at + interval '10 days' end,
    case when live then at + interval '10 days' end, case when not live then at end, 1, 2, tenant, actor,
    case when live then 'waiting' else 'completed' end, 'some', case when not live then 'completed' end
from n;
insert into chimeway.workflow_transitions (workflow_run_id, workflow_step_id, signal_id, inserted_at, sequence,
    visit, to_state, reason)
select run, step, case when sequence = 2 then gen_random_uuid() end, at, sequence, 1, 'active', 'some'
from n, generate_series(1, 2) sequence;
insert into chimeway.signals (id, tenant_id, actor_id, event_name, occurred_at, route_at, routed_at)
select gen_random_uuid(), tenant, actor, 'notification_read', at, case when due then at end,
    case when not due then at end
from n;
insert into chimeway.deliveries (id, workflow_run_id, workflow_step_id, notification_id, inserted_at, updated_at,
    next_attempt_at, progress_owed_at, visit, tenant_id, channel, status)
select delivery, run, step, notification, at, at, case when live then at end, case when due then at end, 1,
    tenant, 'email', case when live then 'pending' else 'succeeded' end
from n;
insert into chimeway.delivery_attempts (delivery_id, attempt_number, claim_no, started_at, finished_at, outcome,
    adapter, worker)
select delivery, 1, 1, at, at, 'succeeded', 'log', 'worker' from n where not live;
commit;
vacuum analyze;
set plan_cache_mode = force_generic_plan;
";

/// As workers begin their transactions, for a whole session.
fn as_workers() -> String {
    let settings = settings::BEGIN.strip_prefix("begin; ").unwrap();
    format!("{};", settings.replace("set local", "set"))
}

/// Scenario 185.
#[tokio::test]
async fn no_statement_reads_a_whole_table_that_grows() {
    let db = TestDb::create().await;
    let plans = plans(&db.url(), ROWS);
    assert!(plans.len() > 40, "{} statements", plans.len());
    let mut wrong = String::new();
    for (name, plan) in &plans {
        let whole = whole_reads(plan);
        if !whole.is_empty() && !MAY_READ_ALL.contains(&name.as_str()) {
            writeln!(wrong, "{name} reads all of {}:\n{plan}", whole.join(", ")).unwrap();
        }
    }
    for (name, index) in BY_INDEX {
        let plan = plans
            .get(*name)
            .map_or("there is no such statement", String::as_str);
        if !uses(plan, index) {
            writeln!(wrong, "{name} does not use {index}:\n{plan}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A worker that begins before there is a row keeps the plans that it makes then.
#[tokio::test]
async fn a_plan_that_is_made_while_tables_are_empty_does_for_full_ones() {
    let db = TestDb::create().await;
    let plans = plans(&db.url(), &as_workers());
    let wrong: Vec<&str> = plans
        .iter()
        .filter(|(name, plan)| {
            !MAY_READ_ALL.contains(&name.as_str()) && !whole_reads(plan).is_empty()
        })
        .map(|(_, plan)| plan.as_str())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Beside a long history statistics say that nothing is due, and the planner that one who reads all that is due would read
/// a third of the table: with more processes, and to sort it, instead of the first of it in its order.
#[tokio::test]
async fn beside_a_long_history_the_first_that_is_due_is_found_by_one_process() {
    const NOTHING_DUE: &str = "
        update chimeway.deliveries set next_attempt_at = null, progress_owed_at = null, status = 'succeeded';
        update chimeway.workflow_runs
        set wake_at = null, suspended_until = null, state = 'completed', terminal_reason = 'completed', ended_at = now();
        update chimeway.events set expand_at = null;
        update chimeway.signals set route_at = null;
        vacuum analyze;
        set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;
        set min_parallel_index_scan_size = 0;";
    let db = TestDb::create().await;
    let plans = plans(&db.url(), &[ROWS, NOTHING_DUE, &as_workers()].concat());
    let all_at_once = |plan: &str| plan.contains("Gather") || plan.contains("Bitmap");
    let wrong: Vec<String> = plans
        .iter()
        .filter(|(name, plan)| !MAY_READ_ALL.contains(&name.as_str()) && all_at_once(plan))
        .map(|(name, plan)| format!("{name}:\n{plan}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Each of them passes over all that is done and cannot be removed: once is enough.
    for (name, kinds) in [
        ("due::deliveries", 2),
        ("due::signals", 1),
        ("due::workflows", 4),
    ] {
        let plan = &plans[name];
        assert_eq!(plan.matches("InitPlan").count(), kinds, "{name}:\n{plan}");
    }
}

/// A host's own connection: nothing says there how to plan. To plan a trigger takes longer than to run it.
#[tokio::test]
async fn a_host_does_not_plan_each_trigger_anew() {
    let story = Story::begin(MORNING).await;
    let step = "{ id: tell, action: { type: notify, channel: in_app } }";
    story
        .apply(&format!("{{ key: tell, steps: [{step}] }}"))
        .await;
    let mut host = story.pool().acquire().await.unwrap();
    for n in 0..12 {
        let trigger = Trigger::new("tell".parse().unwrap(), "org_456".parse().unwrap());
        let trigger = trigger.recipient(Recipient::new(actor(&format!("user_{n}"))));
        let mut tx = host.begin().await.unwrap();
        story.chimeway().trigger(&mut tx, trigger).await.unwrap();
        tx.commit().await.unwrap();
    }
    let planned = "select split_part(statement, E'\\n', 1) || ': ' || custom_plans from pg_prepared_statements
                   where statement like '-- %' and custom_plans > 5";
    let planned: Vec<String> = sqlx::query_scalar(planned)
        .fetch_all(&mut *host)
        .await
        .unwrap();
    assert_eq!(
        planned,
        Vec::<String>::new(),
        "planned more than five times"
    );
}

/// Every cached statement that has a plan, by the name in its first line.
fn plans(url: &str, beginning: &str) -> BTreeMap<String, String> {
    let mut script = beginning.to_owned();
    let mut names = vec![];
    for entry in fs::read_dir(root().join("crates/chimeway/.sqlx")).unwrap() {
        let cached = fs::read_to_string(entry.unwrap().path()).unwrap();
        let cached: Value = serde_json::from_str(&cached).unwrap();
        let query = cached["query"].as_str().unwrap();
        if query.lines().nth(1).unwrap().starts_with("set ") {
            continue;
        }
        let types = cached["describe"]["parameters"]["Left"].as_array().unwrap();
        let types: Vec<String> = types
            .iter()
            .map(|it| type_name(it.as_str().unwrap()))
            .collect();
        let name = query
            .lines()
            .next()
            .unwrap()
            .trim_start_matches("-- ")
            .to_owned();
        let number = names.len();
        let (list, nulls) = match types.len() {
            0 => (String::new(), String::new()),
            count => (
                format!("({})", types.join(", ")),
                format!("({})", vec!["null"; count].join(", ")),
            ),
        };
        writeln!(
            script,
            "prepare s{number}{list} as {query};\n\\echo == {name}\nexplain execute s{number}{nulls};"
        )
        .unwrap();
        names.push(name);
    }
    let printed = psql(url, &[], &script).expect(0).out;
    let sections = printed.split("== ").skip(1);
    let plans: BTreeMap<String, String> = sections
        .map(|section| {
            let (name, plan) = section.split_once('\n').unwrap();
            (name.to_owned(), plan.to_owned())
        })
        .collect();
    assert_eq!(
        plans.len(),
        names.len(),
        "two statements have the same name"
    );
    plans
}

/// `UuidArray` is `uuid[]`.
fn type_name(cached: &str) -> String {
    match cached.strip_suffix("Array") {
        Some(element) => format!("{element}[]"),
        None => cached.to_owned(),
    }
}

/// The hot tables that a plan reads from end to end: row by row, or along a whole index.
fn whole_reads(plan: &str) -> Vec<&'static str> {
    let lines: Vec<&str> = plan.lines().collect();
    let is_whole = |place: usize, table: &str| {
        let line = lines[place];
        if !line.contains(&format!(" on {table} ")) {
            return false;
        }
        line.contains("Seq Scan")
            || (line.contains("Scan using") || line.contains("Scan Backward using"))
                && !has_condition(&lines, place)
                && !is_limited(&lines, place)
    };
    let reads_all = |table: &&str| (0..lines.len()).any(|place| is_whole(place, table));
    HOT.into_iter().filter(reads_all).collect()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn has_condition(lines: &[&str], place: usize) -> bool {
    let below = lines[place + 1..].iter();
    let mut details = below.take_while(|line| indent(line) > indent(lines[place]));
    details.any(|line| line.contains("Index Cond"))
}

/// Whether some node above stops the reading.
fn is_limited(lines: &[&str], place: usize) -> bool {
    let mut depth = indent(lines[place]);
    for line in lines[..place].iter().rev() {
        if indent(line) < depth {
            depth = indent(line);
            if line.contains("Limit  (") {
                return true;
            }
        }
    }
    false
}

fn uses(plan: &str, index: &str) -> bool {
    plan.lines().any(|line| {
        line.contains(&format!("using {index} ")) || line.contains(&format!("Scan on {index} "))
    })
}

#[test]
fn a_read_of_a_whole_table_is_seen() {
    let nothing: [&str; 0] = [];
    for (plan, expected) in [
        (
            "Limit  (cost=0)\n  ->  Parallel Seq Scan on workflow_runs r  (cost=0)",
            &["workflow_runs"][..],
        ),
        (
            "Sort  (cost=0)\n  ->  Index Scan using events_due on events  (cost=0)\n        Filter: (x)",
            &["events"],
        ),
        (
            "Limit  (cost=0)\n  ->  Index Scan using events_due on events  (cost=0)",
            &nothing,
        ),
        (
            "Index Scan using workflow_runs_due on workflow_runs  (cost=0)\n  Index Cond: (a < $0)\n\
             Seq Scan on settings s  (cost=0)",
            &nothing,
        ),
    ] {
        assert_eq!(whole_reads(plan), expected, "{plan}");
    }
    let plan = "Index Scan using workflow_runs_due on workflow_runs  (cost=0)";
    assert!(uses(plan, "workflow_runs_due"));
    assert!(!uses(plan, "workflow_runs"));
}
