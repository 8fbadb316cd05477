-- A host's record moved from one state to another, and workflows that listen start.

create table chimeway.workflow_triggers (
    workflow_key text primary key,
    workflow_version integer not null,
    workflow_definition_id uuid not null,
    entity text,
    field text,
    from_value text,
    to_value text
);
comment on table chimeway.workflow_triggers is
    'Which state change the latest version of each workflow listens to: one row per workflow';
comment on column chimeway.workflow_triggers.workflow_key is 'Which workflow';
comment on column chimeway.workflow_triggers.workflow_version is 'Its latest version; an older one never takes its place';
comment on column chimeway.workflow_triggers.workflow_definition_id is 'The row of that version';
comment on column chimeway.workflow_triggers.entity is 'Of which kind of record; null: it listens to none';
comment on column chimeway.workflow_triggers.field is 'Which field; null: any';
comment on column chimeway.workflow_triggers.from_value is 'The state before, as text; null: any';
comment on column chimeway.workflow_triggers.to_value is 'The state after, as text; null: any';
create index workflow_triggers_entity on chimeway.workflow_triggers (entity) where entity is not null;

-- What a worker could not read, or no context could hold, would only set the event aside: it is left out,
-- and a path that leads there is missing.
-- plpgsql, as all that is called for each row of a host's statement: it keeps its plans for the session.
create function chimeway.readable_record(record jsonb) returns jsonb
language plpgsql immutable
set search_path = pg_catalog, chimeway, pg_temp
as $$
begin
    -- Nearly every record is small, flat enough and read as it is.
    if octet_length(record::text) <= 65536 and record::text !~ '[0-9]{200}'
        and not jsonb_path_exists(record, 'strict $.**{20}') then
        return record;
    end if;
    return (
        select coalesce(jsonb_object_agg(c.key, c.value), '{}')
        from jsonb_each(record) c
        where octet_length(c.value::text) <= 65536
            and not jsonb_path_exists(c.value, 'strict $.**{98}')
            and not jsonb_path_exists(c.value, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))')
    );
end
$$;
comment on function chimeway.readable_record(jsonb) is
    'A record without the columns that are longer than 64 KiB, or that a worker could not read';

-- Each workflow that listens gets an event of its own: it pins that workflow's version, and is expanded,
-- tried again and set aside without the others.
create function chimeway.store_state_change(
    tenant_id text,
    entity text,
    record_id text,
    field text,
    from_value text,
    to_value text,
    record jsonb,
    depth integer
) returns setof uuid
language plpgsql volatile
set search_path = pg_catalog, chimeway, pg_temp
as $$
#variable_conflict use_column
declare
    called_at timestamptz := chimeway.clock();
    -- A worker refuses what would go on for ever: a chain of workflows in which each starts the next.
    too_deep boolean := store_state_change.depth > 16;
    kept jsonb := chimeway.readable_record(store_state_change.record);
begin
    return query insert into chimeway.events (
        id, tenant_id, workflow_key, workflow_definition_id, params, occurred_at, inserted_at, expand_at,
        quarantine_reason, entity, record_id, field, from_value, to_value, depth
    )
    select chimeway.uuid_v7(), store_state_change.tenant_id, t.workflow_key, t.workflow_definition_id,
        jsonb_build_object(
            'record_id', store_state_change.record_id,
            'record', kept
        ),
        called_at, called_at, case when not too_deep then called_at end,
        case when too_deep then 'depth_exceeded' end, store_state_change.entity, store_state_change.record_id,
        store_state_change.field,
        case when octet_length(store_state_change.from_value) <= 255 then store_state_change.from_value end,
        case when octet_length(store_state_change.to_value) <= 255 then store_state_change.to_value end,
        store_state_change.depth
    from chimeway.workflow_triggers t
    join chimeway.workflows w on w.workflow_key = t.workflow_key and w.active
    where t.entity = store_state_change.entity
        and (t.field is null or t.field = store_state_change.field)
        and (t.from_value is null or t.from_value = store_state_change.from_value)
        and (t.to_value is null or t.to_value = store_state_change.to_value)
    order by t.workflow_key
    returning id;
    if found and not too_deep then
        perform chimeway.wake('chimeway_workflows');
    end if;
end
$$;
comment on function chimeway.store_state_change(text, text, text, text, text, text, jsonb, integer) is
    'Stores an event for each workflow that listens to a state change; returns them';

create function chimeway.on_state_change() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, chimeway, pg_temp
as $$
declare
    entity text := tg_argv[0];
    field text := tg_argv[1];
    before jsonb;
    after jsonb;
    tenant text;
    key text;
    problem text;
begin
    if tg_level <> 'ROW' or tg_op not in ('INSERT', 'UPDATE') then
        raise warning 'no state change is recorded: chimeway.on_state_change() is for each row, after insert or update';
        -- What a trigger before a deletion returns must not be null.
        return case when tg_op = 'DELETE' then old else new end;
    end if;
    -- Only reads: whatever a host's types do when they are made JSON of, the host's statement goes on.
    begin
        after := to_jsonb(new);
        if tg_op = 'UPDATE' then
            before := to_jsonb(old);
        end if;
        if tg_nargs < 3 then
            problem := 'its arguments are the entity, the field, the tenant column and the key column';
        elsif not (after ? field and after ? tg_argv[2] and after ? coalesce(tg_argv[3], 'id')) then
            problem := format('%I.%I has not all the columns that its arguments name', tg_table_schema, tg_table_name);
        elsif coalesce(before -> field, 'null') = after -> field or not exists (
            -- Nearly every change interests nobody: that is found out first.
            select from chimeway.workflow_triggers t
            join chimeway.workflows w on w.workflow_key = t.workflow_key and w.active
            where t.entity = tg_argv[0]
                and (t.field is null or t.field = tg_argv[1])
                and (t.from_value is null or t.from_value = before ->> tg_argv[1])
                and (t.to_value is null or t.to_value = after ->> tg_argv[1])
        ) then
            return new;
        else
            tenant := after ->> tg_argv[2];
            key := after ->> coalesce(tg_argv[3], 'id');
            if tenant ~ '^[A-Za-z0-9_.:-]{1,255}$' and key ~ '^[A-Za-z0-9_.:-]{1,150}$'
                and entity ~ '^[A-Za-z0-9_.:-]{1,100}$' then
                null; -- As nearly all names are: the look at every letter costs more.
            elsif chimeway.is_unfit(entity, 100) then
                problem := 'the entity is blank, longer than 100 bytes or holds a control character';
            elsif chimeway.is_unfit(tenant, 255) then
                problem := 'the tenant is null, blank, longer than 255 bytes or holds a control character';
            elsif chimeway.is_unfit(key, 150) then
                problem := 'the key is null, blank, longer than 150 bytes or holds a control character';
            end if;
        end if;
    exception when others then
        problem := format('the row does not become JSON (%s)', sqlstate);
    end;
    if problem is not null then
        raise warning 'no state change is recorded: %', problem
            using hint = 'create trigger .. after update on orders for each row execute function '
                || 'chimeway.on_state_change(''orders'', ''status'', ''tenant_id'', ''id'')';
        return new;
    end if;
    perform chimeway.store_state_change(
        tenant, entity, key, field, before ->> field, after ->> field, after, chimeway.depth()
    );
    return new;
end
$$;
comment on function chimeway.on_state_change() is
    'A trigger of a host''s table, after update (or insert) for each row: (entity, field, tenant column [, key column]). Records the state change in that very transaction for each active workflow that listens; never makes the host''s statement fail for what is in its row';

revoke execute on all functions in schema chimeway from public;
