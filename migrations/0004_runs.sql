create table chimeway.workflow_runs (
    id uuid primary key,
    notification_id uuid,
    workflow_definition_id uuid not null,
    current_step_id uuid not null,
    started_at timestamptz not null,
    last_transition_at timestamptz not null,
    wake_at timestamptz,
    suspended_until timestamptz,
    ended_at timestamptz,
    cancel_requested_at timestamptz,
    visit integer not null,
    transition_count integer not null,
    tries integer not null default 0,
    tenant_id text not null,
    actor_id text not null,
    state text not null,
    status_reason text not null,
    terminal_reason text,
    quarantine_reason text,
    pending_signals text[] not null default '{}',
    status_context jsonb not null default '{}',
    context jsonb not null default '{}',
    event_id uuid,
    record_entity text,
    record_id text,
    act_at timestamptz,
    constraint workflow_runs_state check (state in ('active', 'waiting', 'completed', 'stopped', 'failed')),
    constraint workflow_runs_ended check ((state in ('completed', 'stopped', 'failed')) = (ended_at is not null)),
    constraint workflow_runs_terminal_reason check ((ended_at is null) = (terminal_reason is null)),
    constraint workflow_runs_terminal_sleeps check (ended_at is null or (wake_at is null and act_at is null)),
    constraint workflow_runs_record check
        ((event_id is null) = (record_entity is null) and (event_id is null) = (record_id is null)),
    -- Only an approval may wait for as long as it takes; what enters a wait says which signals end it.
    constraint workflow_runs_waiting check
        (state <> 'waiting' or suspended_until is not null or not status_context ? 'pending_signals')
) with (fillfactor = 70);
comment on table chimeway.workflow_runs is 'The State Spine: one row says where a run is and why';
comment on column chimeway.workflow_runs.id is 'Time-ordered id';
comment on column chimeway.workflow_runs.notification_id is 'The notification it is for; null for a run that is for a record alone';
comment on column chimeway.workflow_runs.workflow_definition_id is 'The version it follows to its end';
comment on column chimeway.workflow_runs.current_step_id is 'The step it is in, or ended in';
comment on column chimeway.workflow_runs.started_at is 'The instant of the trigger; a signal from then on counts';
comment on column chimeway.workflow_runs.last_transition_at is 'When its history last grew';
comment on column chimeway.workflow_runs.wake_at is 'When a worker is to look at it: a wait''s end, a decision, a step to enter; null: nothing is due';
comment on column chimeway.workflow_runs.suspended_until is 'When the current wait, or the time of an approval, ends by itself; null: it does not';
comment on column chimeway.workflow_runs.ended_at is 'When it ended; null: it is live';
comment on column chimeway.workflow_runs.cancel_requested_at is
    'When somebody asked for its end: nothing more is sent for it, and a worker ends it; interventions has who and why';
comment on column chimeway.workflow_runs.visit is 'How many steps it has entered; fences what belongs to an earlier one';
comment on column chimeway.workflow_runs.transition_count is 'The length of its history; the next line''s sequence is one more';
comment on column chimeway.workflow_runs.tries is 'How often deciding it failed';
comment on column chimeway.workflow_runs.tenant_id is 'Whose it is';
comment on column chimeway.workflow_runs.actor_id is 'Whose signals it listens to: the recipient, or the record as entity/id';
comment on column chimeway.workflow_runs.state is 'active, waiting, completed, stopped or failed';
comment on column chimeway.workflow_runs.status_reason is 'Why it is where it is';
comment on column chimeway.workflow_runs.terminal_reason is 'Why it ended: completed, stop_condition:<signal>, outcome:<outcome>, cancelled, failed:<code>';
comment on column chimeway.workflow_runs.quarantine_reason is 'Why it was set aside; null: it was not';
comment on column chimeway.workflow_runs.pending_signals is 'The signals that end the current wait';
comment on column chimeway.workflow_runs.status_context is 'Structural facts beside status_reason';
comment on column chimeway.workflow_runs.context is 'Values for later steps: what its document takes from the trigger, and what steps have added; at most 64 KiB';
comment on column chimeway.workflow_runs.event_id is 'The state change that started it; null: its notification names the event';
comment on column chimeway.workflow_runs.record_entity is 'What kind of record of the host it is for';
comment on column chimeway.workflow_runs.record_id is 'Which record';
comment on column chimeway.workflow_runs.act_at is
    'When a worker is to carry out the actions of its current step, in a transaction of its own; null: none are due';
-- State and status stay out of the index predicates: most updates of a run are then heap-only.
create index workflow_runs_due on chimeway.workflow_runs (wake_at) where wake_at is not null;
create index workflow_runs_actions on chimeway.workflow_runs (act_at) where act_at is not null;
create unique index workflow_runs_event_once on chimeway.workflow_runs (event_id) where event_id is not null;
create index workflow_runs_live on chimeway.workflow_runs (tenant_id, actor_id, id) where ended_at is null;
-- Usually empty: counts what somebody has to mend.
create index workflow_runs_set_aside on chimeway.workflow_runs (id)
    where quarantine_reason is not null and ended_at is null;
create index workflow_runs_notification on chimeway.workflow_runs (notification_id);

create table chimeway.workflow_transitions (
    workflow_run_id uuid not null,
    workflow_step_id uuid not null,
    delivery_id uuid,
    signal_id uuid,
    approval_id uuid,
    inserted_at timestamptz not null,
    sequence integer not null,
    visit integer not null,
    from_state text,
    to_state text not null,
    reason text not null,
    context jsonb not null default '{}',
    constraint workflow_transitions_pkey primary key (workflow_run_id, sequence)
);
comment on table chimeway.workflow_transitions is 'The history of runs; append-only; structural facts only, never a payload or an address';
comment on column chimeway.workflow_transitions.workflow_run_id is 'Of which run';
comment on column chimeway.workflow_transitions.workflow_step_id is 'In which step';
comment on column chimeway.workflow_transitions.delivery_id is 'The delivery that moved the run';
comment on column chimeway.workflow_transitions.signal_id is 'The signal that moved the run';
comment on column chimeway.workflow_transitions.approval_id is 'The approval that moved the run';
comment on column chimeway.workflow_transitions.inserted_at is 'When it happened';
comment on column chimeway.workflow_transitions.sequence is 'Its place in the run''s history: 1, 2, 3 ... without gaps';
comment on column chimeway.workflow_transitions.visit is 'The run''s visit after it';
comment on column chimeway.workflow_transitions.from_state is 'The state before; null for the first line';
comment on column chimeway.workflow_transitions.to_state is 'The state after';
comment on column chimeway.workflow_transitions.reason is 'What happened';
comment on column chimeway.workflow_transitions.context is 'Structural facts about it';
create unique index workflow_transitions_signal_once on chimeway.workflow_transitions (workflow_run_id, signal_id)
    where signal_id is not null;

create trigger workflow_transitions_append_only before update on chimeway.workflow_transitions
    for each row execute function chimeway.refuse_change();

create table chimeway.interventions (
    id uuid primary key,
    tenant_id text not null,
    kind text not null,
    subject text not null,
    subject_id uuid not null,
    made_by text not null,
    reason text,
    made_at timestamptz not null,
    constraint interventions_kind check (kind in ('cancel', 'retry')),
    constraint interventions_subject check (subject in ('run', 'delivery', 'event', 'signal'))
);
comment on table chimeway.interventions is 'What people did by hand: who, when and why; append-only';
comment on column chimeway.interventions.id is 'Time-ordered id';
comment on column chimeway.interventions.tenant_id is 'Whose it is';
comment on column chimeway.interventions.kind is 'cancel or retry';
comment on column chimeway.interventions.subject is 'What it was done to: run, delivery, event or signal';
comment on column chimeway.interventions.subject_id is 'Which one';
comment on column chimeway.interventions.made_by is 'Who did it, in their own words; else the database role';
comment on column chimeway.interventions.reason is 'Why, in their own words';
comment on column chimeway.interventions.made_at is 'When';
create index interventions_of_subject on chimeway.interventions (subject_id, made_at);

create trigger interventions_append_only before update on chimeway.interventions
    for each row execute function chimeway.refuse_change();
