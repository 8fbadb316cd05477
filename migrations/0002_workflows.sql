create table chimeway.workflows (
    id uuid primary key,
    workflow_key text not null constraint workflows_key_unique unique,
    active boolean not null default true,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    retired_at timestamptz,
    constraint workflows_key_not_blank check (btrim(workflow_key) <> ''),
    constraint workflows_retired_is_inactive check (retired_at is null or not active)
);
comment on table chimeway.workflows is 'A workflow over all its versions';
comment on column chimeway.workflows.id is 'Time-ordered id';
comment on column chimeway.workflows.workflow_key is 'What it is called';
comment on column chimeway.workflows.active is 'Whether triggers start runs; running runs go on either way';
comment on column chimeway.workflows.created_at is 'When its first version was stored';
comment on column chimeway.workflows.updated_at is 'When it was last paused, resumed, retired or given a version over HTTP';
comment on column chimeway.workflows.retired_at is 'When it was retired: as paused, and not listed over HTTP; null where it is in use';

create table chimeway.workflow_definitions (
    id uuid primary key,
    workflow_key text not null,
    workflow_version integer not null,
    document jsonb not null,
    content_hash text not null,
    created_at timestamptz not null,
    stored_at timestamptz not null default clock_timestamp(),
    constraint workflow_definitions_version_unique unique (workflow_key, workflow_version),
    constraint workflow_definitions_version_positive check (workflow_version > 0)
);
comment on table chimeway.workflow_definitions is 'The steps stored under one key and version; never changed';
comment on column chimeway.workflow_definitions.id is 'Time-ordered id';
comment on column chimeway.workflow_definitions.workflow_key is 'Which workflow';
comment on column chimeway.workflow_definitions.workflow_version is '1, 2, 3 ...; a trigger starts the highest';
comment on column chimeway.workflow_definitions.document is 'The checked document in canonical form, without its version';
comment on column chimeway.workflow_definitions.content_hash is 'SHA-256 of the canonical document, in hex: equal content is the same version';
comment on column chimeway.workflow_definitions.created_at is 'When it was stored';
comment on column chimeway.workflow_definitions.stored_at is
    'The real time of the insert: a reader whose transaction began later knows that it is committed, and may cache it';

create table chimeway.workflow_steps (
    id uuid primary key,
    workflow_definition_id uuid not null references chimeway.workflow_definitions (id),
    step_key text not null,
    step_order integer not null,
    kind text not null,
    channel text,
    config jsonb not null,
    constraint workflow_steps_key_unique unique (workflow_definition_id, step_key),
    constraint workflow_steps_order_unique unique (workflow_definition_id, step_order),
    constraint workflow_steps_order_positive check (step_order > 0)
);
comment on table chimeway.workflow_steps is 'The steps of a definition, one row each, for reading and for linking';
comment on column chimeway.workflow_steps.id is 'Time-ordered id';
comment on column chimeway.workflow_steps.workflow_definition_id is 'Of which definition';
comment on column chimeway.workflow_steps.step_key is 'What it is called in its document';
comment on column chimeway.workflow_steps.step_order is 'Its place: 1, 2, 3 ...';
comment on column chimeway.workflow_steps.kind is 'notify, wait, condition, approval, action, or a kind that a host has registered';
comment on column chimeway.workflow_steps.channel is 'The channel of a notify step';
comment on column chimeway.workflow_steps.config is 'The step as it stands in the document';

create function chimeway.refuse_change() returns trigger
language plpgsql
set search_path = pg_catalog, chimeway, pg_temp
as $$
begin
    raise exception 'a stored row of chimeway.% is never changed', tg_table_name
        using hint = 'store a new version with `chimeway workflows apply`';
end
$$;
comment on function chimeway.refuse_change() is 'Keeps immutable rows immutable';

create trigger workflow_definitions_immutable before update on chimeway.workflow_definitions
    for each row execute function chimeway.refuse_change();
create trigger workflow_steps_immutable before update on chimeway.workflow_steps
    for each row execute function chimeway.refuse_change();
