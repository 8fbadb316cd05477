create table chimeway.deliveries (
    id uuid primary key,
    workflow_run_id uuid not null,
    workflow_step_id uuid not null,
    notification_id uuid,
    inserted_at timestamptz not null,
    updated_at timestamptz not null,
    next_attempt_at timestamptz,
    lease_until timestamptz,
    progress_owed_at timestamptz,
    visit integer not null,
    action_index integer not null default 0,
    claim_no integer not null default 0,
    attempts integer not null default 0,
    crashes integer not null default 0,
    tenant_id text not null,
    channel text not null,
    status text not null default 'pending',
    status_reason text,
    checkpoint text,
    lease_owner text,
    constraint deliveries_visit_unique unique (workflow_run_id, visit, action_index),
    constraint deliveries_status check
        (status in ('pending', 'dispatched', 'succeeded', 'failed', 'suppressed', 'cancelled')),
    constraint deliveries_due check
        ((status in ('pending', 'dispatched', 'failed')) = (next_attempt_at is not null)),
    constraint deliveries_checkpoint check (checkpoint in ('planning', 'claim')),
    constraint deliveries_lease check ((status = 'dispatched') = (lease_until is not null))
) with (fillfactor = 40);
comment on table chimeway.deliveries is 'Messages to the outside, one per visit of a notify step. The row is the job: there is no other queue';
comment on column chimeway.deliveries.id is 'Time-ordered id; also the idempotency token that providers are given';
comment on column chimeway.deliveries.workflow_run_id is 'Of which run';
comment on column chimeway.deliveries.workflow_step_id is 'Of which step';
comment on column chimeway.deliveries.notification_id is 'Whose notification; null for what is not to a recipient';
comment on column chimeway.deliveries.inserted_at is 'When it was planned';
comment on column chimeway.deliveries.updated_at is 'When its status last changed';
comment on column chimeway.deliveries.next_attempt_at is
    'When it is due. While a claim holds the row it keeps the instant it was due, so that a claim changes no indexed column; null once it has ended';
comment on column chimeway.deliveries.lease_until is 'Until when a claim is held; after that the try is closed as unknown';
comment on column chimeway.deliveries.progress_owed_at is
    'When a worker is to try again to move the run on: its row was locked by another session when the result was recorded';
comment on column chimeway.deliveries.visit is 'Of which visit';
comment on column chimeway.deliveries.action_index is '0 for a notify step; else the place of the action in its step';
comment on column chimeway.deliveries.claim_no is 'The fence: raised by every claim, never lowered';
comment on column chimeway.deliveries.attempts is 'Tries that count against the budget';
comment on column chimeway.deliveries.crashes is 'Tries whose lease ended without a record';
comment on column chimeway.deliveries.tenant_id is 'Whose it is';
comment on column chimeway.deliveries.channel is 'Which channel carries it';
comment on column chimeway.deliveries.status is 'pending, dispatched, succeeded, failed (will be tried again), suppressed or cancelled';
comment on column chimeway.deliveries.status_reason is
    'Why: retries_exhausted, permanent_failure, bounced, superseded, cancelled, quarantined; no_address, channel_disabled, category_disabled, already_read';
comment on column chimeway.deliveries.checkpoint is
    'Where it was decided on purpose not to send it: at planning, or at claim';
comment on column chimeway.deliveries.lease_owner is 'The worker process that holds the claim';
create index deliveries_due on chimeway.deliveries (next_attempt_at) where next_attempt_at is not null;
-- For taking turns, where one tenant or one channel has very much that is late. `crashes >= 0` holds for every row: who
-- does not ask for it, to find the earliest of all, is not led here by young statistics.
create index deliveries_turns on chimeway.deliveries (tenant_id collate "C", channel collate "C", next_attempt_at)
    where next_attempt_at is not null and crashes >= 0;
-- Those with which a worker died: few, among however many that are due.
create index deliveries_crashed on chimeway.deliveries (next_attempt_at) where next_attempt_at is not null and crashes > 0;
create index deliveries_progress_owed on chimeway.deliveries (progress_owed_at) where progress_owed_at is not null;

create table chimeway.delivery_attempts (
    delivery_id uuid not null,
    attempt_number integer not null,
    claim_no integer not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    outcome text not null,
    error_class text,
    adapter text not null,
    worker text not null,
    provider_message_id text,
    response jsonb,
    constraint delivery_attempts_pkey primary key (delivery_id, attempt_number),
    constraint delivery_attempts_outcome check (outcome in ('succeeded', 'failed', 'unknown')),
    constraint delivery_attempts_error_class check
        (error_class in ('temporary', 'permanent', 'bounced', 'unknown'))
);
comment on table chimeway.delivery_attempts is 'One row per try of a delivery';
comment on column chimeway.delivery_attempts.delivery_id is 'Of which delivery';
comment on column chimeway.delivery_attempts.attempt_number is '1, 2, 3 ... without gaps';
comment on column chimeway.delivery_attempts.claim_no is 'Under which claim';
comment on column chimeway.delivery_attempts.started_at is 'When the channel was called';
comment on column chimeway.delivery_attempts.finished_at is 'When the channel answered, or the lease was closed';
comment on column chimeway.delivery_attempts.outcome is 'succeeded, failed, or unknown: the worker vanished, it may have been sent';
comment on column chimeway.delivery_attempts.error_class is 'temporary, permanent, bounced or unknown';
comment on column chimeway.delivery_attempts.adapter is 'Which adapter was called';
comment on column chimeway.delivery_attempts.worker is 'Which worker process called it';
comment on column chimeway.delivery_attempts.provider_message_id is 'The provider''s id for the message';
comment on column chimeway.delivery_attempts.response is 'What the adapter kept of the answer: codes and classes, no content';
