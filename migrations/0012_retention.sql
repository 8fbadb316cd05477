-- What retention finds its rows by. Each index holds only what is over, so that the cost of a look does not grow
-- with what lives: an ended run gets its one entry as it ends, the others are empty until something is pruned.

create index workflow_runs_ended on chimeway.workflow_runs (ended_at) where ended_at is not null;

-- An event outlives its runs where its idempotency key is to be known for longer.
alter table chimeway.events add column childless_at timestamptz;
comment on column chimeway.events.childless_at is
    'When its last run was pruned; null: it has some, or is to get them. Retention takes it once it is old enough';
create index events_childless on chimeway.events (inserted_at) where childless_at is not null;

-- An item of an inbox outlives its run where it is to be readable for longer.
alter table chimeway.notifications add column kept_run_id uuid, add column kept_step_id uuid;
comment on column chimeway.notifications.kept_run_id is
    'Its run, which was pruned while the item stays in the inbox; null: the run is there';
comment on column chimeway.notifications.kept_step_id is 'The step whose in-app message it shows, of the run that was pruned';
create index notifications_kept on chimeway.notifications (inserted_at) where kept_run_id is not null;

create index interventions_made_at on chimeway.interventions (made_at);

-- Runs and deliveries are written some five times in their lives, events and signals twice. By default PostgreSQL
-- cleans up when a fifth of a table is dead: of a month's history that is days of dead rows in the indexes that
-- queues read. Two in a hundred, and 1,000 rows.
alter table chimeway.workflow_runs set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05);
alter table chimeway.deliveries set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05);
alter table chimeway.events set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05);
alter table chimeway.signals set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05);
alter table chimeway.notifications set (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.05);
-- Only ever inserted, and deleted at the end: what was inserted is made visible to index-only scans earlier.
alter table chimeway.workflow_transitions set (autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_insert_scale_factor = 0.1);
alter table chimeway.delivery_attempts set (autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_insert_scale_factor = 0.1);

-- A key is free again when its event is pruned, which may happen between the two looks of a trigger.
create or replace function chimeway.trigger(
    workflow text,
    params jsonb,
    tenant_id text,
    recipients jsonb default null,
    idempotency_key text default null,
    correlation_id text default null
) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, chimeway, pg_temp
as $$
#variable_conflict use_column
declare
    called_at timestamptz := chimeway.clock();
    is_active boolean;
    definition uuid;
    event uuid := chimeway.uuid_v7();
    known record;
    too_deep boolean := chimeway.depth() > 16;
    rounds integer := 0;
begin
    if chimeway.is_unfit(trigger.tenant_id, 255) then
        perform chimeway.refuse('CW003', 'the tenant is blank, longer than 255 bytes or holds a control character',
            'pass tenant_id, for example tenant_id => ''org_456''');
    end if;
    perform chimeway.check_json('params', trigger.params, 'write {"actor_id": "user_123", ..}');
    if trigger.idempotency_key is not null
        and (chimeway.is_blank(trigger.idempotency_key) or octet_length(trigger.idempotency_key) > 255) then
        perform chimeway.refuse('CW006', 'the idempotency key is blank or longer than 255 bytes',
            'leave it out, or pass what makes this trigger unique');
    end if;
    if trigger.recipients is not null then
        perform chimeway.check_recipients(trigger.recipients);
        perform chimeway.check_zones(trigger.tenant_id, trigger.recipients);
    elsif jsonb_typeof(trigger.params -> 'actor_id') is distinct from 'string'
        or chimeway.is_unfit(trigger.params ->> 'actor_id', 255) then
        perform chimeway.refuse('CW005', 'there is no recipient: neither recipients nor params.actor_id is given',
            'pass recipients => ''[{"identity": "user_123"}]''');
    end if;

    loop
        -- A repeated key first: it returns what it began, also when the workflow has been paused since.
        if trigger.idempotency_key is not null then
            select e.id, e.workflow_key into known from chimeway.events e
            where e.tenant_id = trigger.tenant_id and e.idempotency_key = trigger.idempotency_key;
            if found then
                return chimeway.same_trigger(known.id, known.workflow_key, trigger.workflow);
            end if;
        end if;

        select w.active into is_active from chimeway.workflows w where w.workflow_key = trigger.workflow;
        if not found then
            perform chimeway.refuse('CW001', format('there is no workflow %L', trigger.workflow),
                'apply its document with `chimeway workflows apply`; `chimeway workflows list` shows what there is');
        elsif not is_active then
            perform chimeway.refuse('CW002', format('the workflow %L is paused', trigger.workflow),
                format('resume it with `chimeway workflows resume %s`', trigger.workflow));
        end if;
        select d.id into definition from chimeway.workflow_definitions d
        where d.workflow_key = trigger.workflow
        order by d.workflow_version desc limit 1;

        insert into chimeway.events (
            id, tenant_id, workflow_key, workflow_definition_id, params, recipients,
            correlation_id, idempotency_key, occurred_at, inserted_at, expand_at, quarantine_reason, depth
        ) values (
            event, trigger.tenant_id, trigger.workflow, definition, trigger.params,
            (
                -- Addresses live in one place, with the recipient.
                select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('identity', r -> 'identity', 'type', r -> 'type')))
                from jsonb_array_elements(trigger.recipients) r
            ),
            trigger.correlation_id, trigger.idempotency_key, called_at, called_at,
            case when not too_deep then called_at end, case when too_deep then 'depth_exceeded' end, chimeway.depth()
        )
        on conflict (tenant_id, idempotency_key) where idempotency_key is not null do nothing;
        exit when found;
        -- Another session committed the same key meanwhile: a new statement sees its row. Where that snapshot
        -- cannot see it, the caller has to repeat its transaction.
        rounds := rounds + 1;
        if rounds = 10 then
            raise exception using errcode = 'serialization_failure',
                message = 'another transaction used the idempotency key',
                hint = 'repeat the transaction';
        end if;
    end loop;

    if trigger.recipients is not null then
        perform chimeway.upsert_recipients(trigger.tenant_id, trigger.recipients);
    end if;
    perform chimeway.wake('chimeway_workflows');
    return event;
end
$$;
