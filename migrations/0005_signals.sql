create table chimeway.signals (
    id uuid primary key,
    tenant_id text not null,
    actor_id text not null,
    event_name text not null,
    payload jsonb not null default '{}',
    notification_id uuid,
    occurred_at timestamptz not null,
    route_at timestamptz,
    routed_at timestamptz,
    route_cursor uuid,
    tries integer not null default 0,
    quarantine_reason text,
    constraint signals_tenant_not_blank check (btrim(tenant_id) <> ''),
    constraint signals_actor_not_blank check (btrim(actor_id) <> ''),
    constraint signals_event_name_not_blank check (btrim(event_name) <> ''),
    constraint signals_payload_object check (jsonb_typeof(payload) = 'object')
);
comment on table chimeway.signals is 'What actors did, as hosts told us';
comment on column chimeway.signals.id is 'Time-ordered id';
comment on column chimeway.signals.tenant_id is 'Whose it is';
comment on column chimeway.signals.actor_id is 'Who did it';
comment on column chimeway.signals.event_name is 'What was done';
comment on column chimeway.signals.payload is 'What the host gave; compared, never copied';
comment on column chimeway.signals.notification_id is 'Where the payload names a notification: the signal is about that one only';
comment on column chimeway.signals.occurred_at is 'The instant of the track call';
comment on column chimeway.signals.route_at is 'When a worker is to look for the runs that wait for it; null when that is done';
comment on column chimeway.signals.routed_at is 'When every live run had been shown it';
comment on column chimeway.signals.route_cursor is 'Where the actor has very many live runs: the last one that was shown it';
comment on column chimeway.signals.tries is 'How often routing it failed';
comment on column chimeway.signals.quarantine_reason is 'Why it was set aside; null: it was not';
create index signals_due on chimeway.signals (route_at) where route_at is not null;
-- Usually empty: counts what somebody has to mend.
create index signals_set_aside on chimeway.signals (id) where quarantine_reason is not null;
create index signals_of_actor on chimeway.signals (tenant_id, actor_id, event_name, occurred_at);
