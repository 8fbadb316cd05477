//! What must hold of every database at every moment, asserted over all its rows at once.
//!
//! The numbers are those of the invariants of concurrency. Everything is read in one snapshot, so that
//! it may be called while workers run.

use sqlx::{Executor as _, PgConnection, PgPool, Row as _};

/// A rule, and the statement that finds the rows that break it.
type Rule = (&'static str, &'static str);

/// Fails with the rows that break a rule which holds whatever hosts and workers do.
pub(crate) async fn audit(pool: &PgPool) {
    check(pool, RULES).await;
}

/// Fails if a signal that was made in time did not end its wait (invariant 1). Only for stories whose
/// hosts commit a signal at the moment they make it: no row says when another transaction committed.
pub(crate) async fn audit_signals_made_in_time(pool: &PgPool) {
    check(pool, &[SIGNAL_IN_TIME]).await;
}

async fn check(pool: &PgPool, rules: &[Rule]) {
    let mut tx = pool.begin().await.unwrap();
    tx.execute("set transaction isolation level repeatable read, read only")
        .await
        .unwrap();
    let broken = broken(&mut tx, rules).await;
    assert!(broken.is_empty(), "{broken}");
}

async fn broken(conn: &mut PgConnection, rules: &[Rule]) -> String {
    let mut broken = String::new();
    for (rule, sql) in rules {
        for row in conn.fetch_all(*sql).await.unwrap() {
            broken += &format!("{rule}: {}\n", row.get::<String, _>(0));
        }
    }
    broken
}

/// That nothing which the wait of this step wants of signal `s` is missing in it, for run `r`.
macro_rules! wanted {
    ($step:literal) => {
        concat!(
            r" not exists (
        select from chimeway.workflow_steps st
        cross join lateral jsonb_array_elements(st.config #> '{action,stop_conditions}') c
        cross join lateral jsonb_each(coalesce(c -> 'match', '{}')) m
        cross join lateral (
            select s.payload #> string_to_array(m.key, '.') as found,
                case jsonb_typeof(m.value)
                    when 'string' then (
                        select e.params #> string_to_array(substr(m.value #>> '{}', 8), '.')
                        from chimeway.events e
                        where e.id = coalesce(r.event_id, (
                            select n.event_id from chimeway.notifications n where n.id = r.notification_id
                        ))
                    )
                    when 'object' then m.value -> 'value'
                    else m.value
                end as expected
        ) compared
        where st.id = ",
            $step,
            r" and c ->> 'signal_type' = s.event_name
            and (found is null or found is distinct from expected)
    )"
        )
    };
}

const SIGNAL_IN_TIME: Rule = (
    "1: a signal made in time did not end its wait",
    concat!(
        r"
select w.workflow_run_id || ' visit ' || w.visit || ', signal ' || s.id
from chimeway.workflow_transitions w
join chimeway.workflow_runs r on r.id = w.workflow_run_id
join chimeway.workflow_transitions elapsed
    on elapsed.workflow_run_id = w.workflow_run_id and elapsed.visit = w.visit
    and elapsed.reason = 'reactivated_from_wait'
join chimeway.signals s on s.tenant_id = r.tenant_id and s.actor_id = r.actor_id
    and w.context -> 'pending_signals' ? s.event_name
    and s.occurred_at >= r.started_at
    and s.occurred_at < (w.context ->> 'suspended_until')::timestamptz
    and (s.notification_id is null or s.notification_id = r.notification_id)
where w.reason = 'waiting_for_step_progression'
    and",
        wanted!("w.workflow_step_id"),
        r"
    and s.occurred_at >= coalesce((
        select max(t.inserted_at) from chimeway.workflow_transitions t
        where t.workflow_run_id = w.workflow_run_id and t.workflow_step_id = w.workflow_step_id
            and t.from_state = 'waiting' and t.sequence < w.sequence
    ), r.started_at)
    and not exists (
        select from chimeway.workflow_transitions t
        where t.workflow_run_id = w.workflow_run_id and t.signal_id = s.id
            and t.sequence < elapsed.sequence
    )"
    ),
);

const RULES: &[Rule] = &[
    (
        "2: a run still waits for a signal that was routed",
        concat!(
            r"
select r.id || ', signal ' || s.id
from chimeway.workflow_runs r
join chimeway.signals s on s.tenant_id = r.tenant_id and s.actor_id = r.actor_id
    and s.event_name = any(r.pending_signals) and s.routed_at is not null
    and s.occurred_at >= r.started_at
    and (s.notification_id is null or s.notification_id = r.notification_id)
where r.state = 'waiting' and r.quarantine_reason is null and r.cancel_requested_at is null
    and",
            wanted!("r.current_step_id"),
            r"
    and s.occurred_at >= coalesce((
        select max(t.inserted_at) from chimeway.workflow_transitions t
        where t.workflow_run_id = r.id and t.workflow_step_id = r.current_step_id
            and t.from_state = 'waiting'
    ), r.started_at)
    and not exists (
        select from chimeway.workflow_transitions t
        where t.workflow_run_id = r.id and t.signal_id = s.id
    )"
        ),
    ),
    (
        "3: a signal acted twice, on a run that began later, or on another actor's",
        r"
select t.workflow_run_id || ', signal ' || t.signal_id
from chimeway.workflow_transitions t
join chimeway.workflow_runs r on r.id = t.workflow_run_id
join chimeway.signals s on s.id = t.signal_id
group by t.workflow_run_id, t.signal_id
having count(*) > 1 or bool_or(
    s.occurred_at < r.started_at or s.tenant_id <> r.tenant_id or s.actor_id <> r.actor_id
    or s.notification_id <> r.notification_id or t.context ->> 'event_name' is distinct from s.event_name
)",
    ),
    (
        "4: a live run that nothing can move",
        r"
select r.id || ' ' || r.state || ' ' || r.status_reason
from chimeway.workflow_runs r
where r.ended_at is null and r.wake_at is null and r.act_at is null and r.quarantine_reason is null
    and not exists (
        select from chimeway.deliveries d
        where d.workflow_run_id = r.id and d.visit = r.visit
            and (d.status in ('pending', 'dispatched', 'failed') or d.progress_owed_at is not null)
    )
    and not exists (
        select from chimeway.approvals a
        where a.workflow_run_id = r.id and a.visit = r.visit and a.decision is null
    )",
    ),
    (
        "4: an approval is open, and its run does not wait for it",
        r"
select a.id || ' visit ' || a.visit || ' of ' || r.visit || ' ' || r.state
from chimeway.approvals a
join chimeway.workflow_runs r on r.id = a.workflow_run_id
where a.decision is null and (r.state <> 'waiting' or r.visit <> a.visit)",
    ),
    (
        "29: a run went on with another decision than was made, or with none",
        r"
select t.workflow_run_id || ' visit ' || t.visit || ' ' || (t.context ->> 'workflow_outcome')
from chimeway.workflow_transitions t
left join chimeway.approvals a on a.id = t.approval_id and a.workflow_run_id = t.workflow_run_id
    and a.visit = t.visit
where t.reason = 'approval_decided' and a.decision is distinct from t.context ->> 'workflow_outcome'",
    ),
    (
        "4: an event or a signal that nothing can move",
        r"
select 'event ' || e.id from chimeway.events e
where e.expand_at is null and e.quarantine_reason is null and e.childless_at is null
    and not exists (select from chimeway.notifications n where n.event_id = e.id)
    and not exists (select from chimeway.workflow_runs r where r.event_id = e.id)
union all
select 'signal ' || s.id from chimeway.signals s
where s.route_at is null and s.routed_at is null and s.quarantine_reason is null",
    ),
    (
        "5: an ended run has something left to do, or moved after its end",
        r"
select r.id || ' ' || r.state
from chimeway.workflow_runs r
where r.ended_at is not null and (
    r.wake_at is not null or r.act_at is not null
    or exists (
        select from chimeway.deliveries d
        where d.workflow_run_id = r.id and d.status in ('pending', 'failed')
    )
    or exists (
        select from chimeway.workflow_transitions t
        where t.workflow_run_id = r.id and t.from_state in ('completed', 'stopped', 'failed')
    )
)",
    ),
    (
        "5: a message of a visit that was left is still to be sent",
        r"
select d.id || ' ' || d.status || ' visit ' || d.visit || ' of ' || r.visit
from chimeway.deliveries d
join chimeway.workflow_runs r on r.id = d.workflow_run_id
join chimeway.workflow_steps s on s.id = d.workflow_step_id
where d.status in ('pending', 'failed') and d.visit < r.visit
    and d.progress_owed_at is null
    and not coalesce(s.config -> 'on_outcome' ? 'temporary_failure', false)",
    ),
    (
        "6: the fence, the tries and the lease do not fit",
        r"
select d.id || ' claim ' || d.claim_no || ' attempts ' || d.attempts
from chimeway.deliveries d
where d.claim_no < d.attempts or (d.status = 'dispatched') <> (d.lease_owner is not null)
    or exists (
        select from chimeway.delivery_attempts a
        where a.delivery_id = d.id and a.claim_no > d.claim_no
    )",
    ),
    (
        "7: a send follows one that had succeeded",
        r"
select a.delivery_id || ' attempt ' || a.attempt_number
from chimeway.delivery_attempts a
join chimeway.deliveries d on d.id = a.delivery_id
-- Where a worker vanished, what it had sent may be told later.
where a.outcome = 'succeeded' and a.attempt_number < d.attempts and d.crashes = 0",
    ),
    (
        "7: a delivery that succeeded without a try that did",
        r"
select d.id::text
from chimeway.deliveries d
where d.status = 'succeeded' and not exists (
    select from chimeway.delivery_attempts a
    where a.delivery_id = d.id and a.outcome = 'succeeded'
)",
    ),
    (
        "8: tries with a gap, beyond the budget, or not counted",
        r"
select d.id || ' ' || d.status || ' attempts ' || d.attempts || ' rows ' || a.rows
from chimeway.deliveries d
cross join lateral (
    select count(*) as rows, coalesce(max(a.attempt_number), 0) as last
    from chimeway.delivery_attempts a where a.delivery_id = d.id
) a
where d.attempts > 5 or a.last <> a.rows
    or a.rows not between d.attempts - (d.status = 'dispatched')::int and d.attempts",
    ),
    (
        "9: a history with a gap, or a line that does not follow the one before",
        r"
select t.workflow_run_id || ' line ' || t.sequence || ' ' || t.reason
from (
    select t.*,
        lag(t.sequence, 1, 0) over w as sequence_before,
        lag(t.visit, 1, 0) over w as visit_before,
        lag(t.to_state) over w as state_before
    from chimeway.workflow_transitions t
    window w as (partition by t.workflow_run_id order by t.sequence)
) t
where t.sequence <> t.sequence_before + 1 or t.visit not between t.visit_before and t.visit_before + 1
    or t.from_state is distinct from t.state_before",
    ),
    (
        "9: the last line of a history is not where its run is",
        r"
select r.id || ' ' || r.state || ' but ' || coalesce(t.to_state, 'no line')
from chimeway.workflow_runs r
left join lateral (
    select * from chimeway.workflow_transitions t
    where t.workflow_run_id = r.id order by t.sequence desc limit 1
) t on true
where r.quarantine_reason is null and (
    t.sequence is distinct from r.transition_count or t.to_state is distinct from r.state
    or t.visit is distinct from r.visit or t.workflow_step_id is distinct from r.current_step_id
    or t.inserted_at is distinct from r.last_transition_at
    or (r.ended_at is not null and r.ended_at <> t.inserted_at)
)",
    ),
    (
        "9: a waiting run does not wait as its last line says",
        r"
select r.id::text
from chimeway.workflow_runs r
join lateral (
    -- The last line that entered a wait: a host may have added lines since.
    select * from chimeway.workflow_transitions t
    where t.workflow_run_id = r.id
        and t.reason in ('waiting_for_step_progression', 'waiting_for_approval')
    order by t.sequence desc limit 1
) t on true
where r.state = 'waiting' and r.quarantine_reason is null and (
    (t.context ->> 'suspended_until')::timestamptz is distinct from r.suspended_until
    or coalesce(t.context -> 'pending_signals', '[]') is distinct from to_jsonb(r.pending_signals)
    or (r.wake_at is distinct from r.suspended_until and r.cancel_requested_at is null
        and not exists (
            -- Somebody has decided, and a worker is about to look.
            select from chimeway.approvals a
            where a.workflow_run_id = r.id and a.visit = r.visit and a.decision is not null
        ))
)",
    ),
    (
        "a visit of a message without its one delivery, or a delivery without its visit",
        r"
select coalesce(v.workflow_run_id, d.workflow_run_id) || ' visit ' || coalesce(v.visit, d.visit)
from (
    select t.workflow_run_id, t.visit, t.workflow_step_id
    from chimeway.workflow_transitions t
    join chimeway.workflow_steps s on s.id = t.workflow_step_id
        and s.kind not in ('wait', 'condition', 'approval', 'action')
    where t.reason = 'step_activated'
    union all
    select t.workflow_run_id, t.visit, t.workflow_step_id
    from chimeway.workflow_transitions t
    where t.reason = 'action_sent'
) v
full join chimeway.deliveries d
    on d.workflow_run_id = v.workflow_run_id and d.visit = v.visit
    and d.workflow_step_id = v.workflow_step_id
where v.visit is null or d.visit is null",
    ),
    (
        "rows that belong to nothing",
        r"
select 'run ' || r.id from chimeway.workflow_runs r
where not exists (select from chimeway.workflow_definitions d where d.id = r.workflow_definition_id)
    or (r.notification_id is null and r.event_id is null)
    or (r.notification_id is not null and not exists (
        select from chimeway.notifications n
        where n.id = r.notification_id and n.tenant_id = r.tenant_id and n.recipient = r.actor_id
    ))
    or (r.event_id is not null and not exists (
        select from chimeway.events e
        where e.id = r.event_id and e.tenant_id = r.tenant_id
            and e.entity = r.record_entity and e.record_id = r.record_id
            and (r.notification_id is not null or r.actor_id = r.record_entity || '/' || r.record_id)
    ))
union all
select 'notification ' || n.id from chimeway.notifications n
where (select count(*) from chimeway.workflow_runs r where r.notification_id = n.id)
        <> (n.kept_run_id is null)::int
    or not exists (select from chimeway.events e where e.id = n.event_id and e.tenant_id = n.tenant_id)
union all
select 'delivery ' || d.id from chimeway.deliveries d
where not exists (
    select from chimeway.workflow_runs r
    where r.id = d.workflow_run_id and r.tenant_id = d.tenant_id
        and r.notification_id is not distinct from d.notification_id
)",
    ),
];

mod facts {
    use chimeway_testkit::Story;
    use sqlx::Executor as _;

    use super::{RULES, SIGNAL_IN_TIME, audit, audit_signals_made_in_time, broken};
    use crate::tools::{MENTION, MORNING};

    /// A statement for each rule that breaks it.
    const BREAKS: [(&str, &str); 20] = [
        (
            "4: an approval is open",
            "insert into chimeway.approvals (id, workflow_run_id, workflow_step_id, visit, tenant_id,
                assignee_kind, assignee, opened_at)
             select gen_random_uuid(), id, current_step_id, visit, tenant_id, 'user', 'grace', now()
             from chimeway.workflow_runs",
        ),
        (
            "29:",
            "update chimeway.workflow_transitions
             set reason = 'approval_decided', context = jsonb_build_object('workflow_outcome', 'approved')
             where sequence = 1",
        ),
        (
            "1:",
            "update chimeway.signals set occurred_at = occurred_at - interval '30 minutes'",
        ),
        (
            "2:",
            "update chimeway.signals set routed_at = now(), route_at = null",
        ),
        (
            "3:",
            "update chimeway.workflow_transitions set signal_id = (select id from chimeway.signals limit 1)
             where sequence = 1",
        ),
        (
            "4: a live",
            "update chimeway.workflow_runs set wake_at = null where state = 'waiting'",
        ),
        ("4: an event", "update chimeway.signals set route_at = null"),
        (
            "5: an ended",
            "update chimeway.deliveries set status = 'pending', next_attempt_at = now()
             where channel = 'email'",
        ),
        (
            "5: a message",
            "update chimeway.deliveries set status = 'pending', next_attempt_at = now()
             where channel = 'in_app'",
        ),
        ("6:", "update chimeway.deliveries set claim_no = 0"),
        ("7: a send", "update chimeway.deliveries set attempts = 2"),
        (
            "7: a delivery",
            "update chimeway.delivery_attempts set outcome = 'failed'",
        ),
        ("8:", "delete from chimeway.delivery_attempts"),
        (
            "9: a history",
            "delete from chimeway.workflow_transitions where sequence = 2",
        ),
        ("9: the last", "update chimeway.workflow_runs set visit = 7"),
        (
            "9: a waiting",
            "update chimeway.workflow_runs set pending_signals = '{other}' where state = 'waiting'",
        ),
        (
            "a visit",
            "delete from chimeway.deliveries where channel = 'in_app'",
        ),
        (
            "rows",
            "update chimeway.notifications set kept_run_id = id",
        ),
        ("rows", "delete from chimeway.events"),
        ("rows", "delete from chimeway.notifications"),
    ];

    #[tokio::test]
    async fn every_rule_finds_rows_that_break_it() {
        let story = Story::begin(MORNING).await;
        story.apply(MENTION).await;
        story.trigger("mention_escalation", "ada").await;
        story.drain().await;
        story.advance("PT2H").await;
        story.signal("ada", "notification_read").await;
        story.pass("PT1S").await;
        story.trigger("mention_escalation", "bob").await;
        story.drain().await;
        story.pass("PT1M").await;
        story.signal("bob", "notification_read").await;
        audit(story.pool()).await;
        audit_signals_made_in_time(story.pool()).await;

        // What no code can do is done by hand.
        story
            .pool()
            .execute("alter table chimeway.workflow_transitions disable trigger all")
            .await
            .unwrap();
        let rules: Vec<_> = RULES.iter().chain([&SIGNAL_IN_TIME]).copied().collect();
        for (rule, sql) in BREAKS {
            let mut tx = story.pool().begin().await.unwrap();
            tx.execute(sql).await.unwrap();
            let broken = broken(&mut tx, &rules).await;
            assert!(
                broken.lines().any(|line| line.starts_with(rule)),
                "`{rule}` is not in: {broken}"
            );
            tx.rollback().await.unwrap();
        }
        for (rule, _) in rules {
            assert!(
                BREAKS.iter().any(|(name, _)| rule.starts_with(name)),
                "{rule}"
            );
        }
    }
}
