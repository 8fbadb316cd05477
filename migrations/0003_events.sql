create table chimeway.events (
    id uuid primary key,
    tenant_id text not null,
    workflow_key text not null,
    workflow_definition_id uuid not null,
    params jsonb not null,
    recipients jsonb,
    correlation_id text,
    idempotency_key text,
    occurred_at timestamptz not null,
    inserted_at timestamptz not null,
    expand_at timestamptz,
    expanded_count integer not null default 0,
    tries integer not null default 0,
    quarantine_reason text,
    entity text,
    record_id text,
    field text,
    from_value text,
    to_value text,
    depth integer not null default 0,
    constraint events_tenant_not_blank check (btrim(tenant_id) <> ''),
    constraint events_params_object check (jsonb_typeof(params) = 'object'),
    constraint events_record check ((entity is null) = (record_id is null))
);
comment on table chimeway.events is
    'Triggers: each starts one run per recipient, or one for a record of the host whose state changed';
comment on column chimeway.events.id is 'Time-ordered id';
comment on column chimeway.events.tenant_id is 'Whose it is';
comment on column chimeway.events.workflow_key is 'Which workflow was triggered';
comment on column chimeway.events.workflow_definition_id is 'The version that was the latest at the trigger; its runs keep it';
comment on column chimeway.events.params is 'What the host gave, or {record_id, record} of a record that changed its state; read when a message is rendered';
comment on column chimeway.events.recipients is 'Who is notified: [{identity, type?}]; null: the actor_id of params';
comment on column chimeway.events.correlation_id is 'The host''s own id for following a thing through systems';
comment on column chimeway.events.idempotency_key is 'Unique per tenant: a repeated trigger returns this event';
comment on column chimeway.events.occurred_at is 'The instant of the trigger call; runs take it as their start';
comment on column chimeway.events.inserted_at is 'When the row was written';
comment on column chimeway.events.expand_at is 'When a worker is to make its runs; null when they are made';
comment on column chimeway.events.expanded_count is 'How many recipients have their run, where a worker makes them in chunks';
comment on column chimeway.events.tries is 'How often making the runs failed';
comment on column chimeway.events.quarantine_reason is 'Why it was set aside; null: it was not';
comment on column chimeway.events.entity is 'What kind of record changed its state, in the host''s words; null: it was triggered by name';
comment on column chimeway.events.record_id is 'Which record';
comment on column chimeway.events.field is 'Which field of it';
comment on column chimeway.events.from_value is 'The state before, as text; null also where it was longer than 255 bytes';
comment on column chimeway.events.to_value is 'The state after, as text; null also where it was longer than 255 bytes';
comment on column chimeway.events.depth is
    'How many workflows stand before it in a chain in which each started the next; beyond 16 it is set aside';
create unique index events_idempotency_key_unique on chimeway.events (tenant_id, idempotency_key)
    where idempotency_key is not null;
create index events_due on chimeway.events (expand_at) where expand_at is not null;
-- Usually empty: counts what somebody has to mend.
create index events_set_aside on chimeway.events (id) where quarantine_reason is not null;

create table chimeway.notifications (
    id uuid primary key,
    event_id uuid not null,
    tenant_id text not null,
    recipient text not null,
    recipient_type text,
    inserted_at timestamptz not null,
    seen_at timestamptz,
    read_at timestamptz,
    archived_at timestamptz,
    constraint notifications_recipient_unique unique (event_id, recipient)
) with (fillfactor = 85);
comment on table chimeway.notifications is 'One recipient''s copy of an event; also that recipient''s inbox item';
comment on column chimeway.notifications.id is 'Time-ordered id';
comment on column chimeway.notifications.event_id is 'Of which event';
comment on column chimeway.notifications.tenant_id is 'Whose it is';
comment on column chimeway.notifications.recipient is 'Who is notified, in the host''s words';
comment on column chimeway.notifications.recipient_type is 'What the recipient is (user, team), where the host says so';
comment on column chimeway.notifications.inserted_at is 'When it was made';
comment on column chimeway.notifications.seen_at is 'When it was first listed before the recipient''s eyes';
comment on column chimeway.notifications.read_at is 'When it was opened';
comment on column chimeway.notifications.archived_at is 'When it was put away';
create index notifications_inbox on chimeway.notifications (tenant_id, recipient, id);

create table chimeway.recipients (
    tenant_id text not null,
    identity text not null,
    type text,
    addresses jsonb not null default '{}',
    locale text,
    time_zone text,
    updated_at timestamptz not null,
    primary key (tenant_id, identity),
    constraint recipients_addresses_object check (jsonb_typeof(addresses) = 'object')
);
comment on table chimeway.recipients is 'How people are reached; read when a message is claimed, so that a corrected address counts at once';
comment on column chimeway.recipients.tenant_id is 'Whose it is';
comment on column chimeway.recipients.identity is 'Who, in the host''s words';
comment on column chimeway.recipients.type is 'What the recipient is, where the host says so';
comment on column chimeway.recipients.addresses is 'Channel to address';
comment on column chimeway.recipients.locale is 'Language and region (BCP 47)';
comment on column chimeway.recipients.time_zone is 'IANA name';
comment on column chimeway.recipients.updated_at is 'When it was last written';

create table chimeway.preferences (
    tenant_id text not null,
    recipient text not null,
    kind text not null,
    name text not null,
    enabled boolean not null,
    updated_at timestamptz not null,
    primary key (tenant_id, recipient, kind, name),
    constraint preferences_kind check (kind in ('channel', 'category'))
);
comment on table chimeway.preferences is
    'What recipients want to be sent; without a row, everything. Looked at when a message is planned and again when it is claimed';
comment on column chimeway.preferences.tenant_id is 'Whose it is';
comment on column chimeway.preferences.recipient is 'Who, in the host''s words';
comment on column chimeway.preferences.kind is 'channel or category';
comment on column chimeway.preferences.name is 'Which channel, or which category of messages';
comment on column chimeway.preferences.enabled is 'Whether it is wanted';
comment on column chimeway.preferences.updated_at is 'When it was last said';
