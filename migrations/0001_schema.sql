create schema if not exists chimeway;
comment on schema chimeway is 'Chimeway: durable notification journeys and business workflows';

create table chimeway.settings (
    only_row boolean primary key default true constraint settings_only_row check (only_row),
    notify boolean not null default true,
    clock timestamptz
);
comment on table chimeway.settings is 'One row of switches that hold for the whole database';
comment on column chimeway.settings.only_row is 'Always true: there is one row';
comment on column chimeway.settings.notify is
    'Whether a commit that makes work sends NOTIFY. It costs every such commit a shared lock; off, idle workers find work by polling within a second';
comment on column chimeway.settings.clock is
    'For tests: the instant that Chimeway takes for now. Null (always, outside tests) means the real time';
insert into chimeway.settings default values;

-- Two notions of now. `now()` is stable within a statement, so that an index can be searched by it;
-- `clock()` is the very instant, for the time of a trigger or a signal inside a long host transaction.
-- plpgsql because it keeps its plan for the session.
create function chimeway.now() returns timestamptz
language plpgsql stable parallel safe
set search_path = pg_catalog, chimeway, pg_temp
as $$
declare
    fixed timestamptz;
begin
    select s.clock into fixed from chimeway.settings s;
    return coalesce(fixed, statement_timestamp());
end
$$;
comment on function chimeway.now() is 'The instant this statement began, or the test clock';

create function chimeway.clock() returns timestamptz
language plpgsql volatile
set search_path = pg_catalog, chimeway, pg_temp
as $$
declare
    fixed timestamptz;
begin
    select s.clock into fixed from chimeway.settings s;
    return coalesce(fixed, clock_timestamp());
end
$$;
comment on function chimeway.clock() is 'This very instant, or the test clock';

-- Where a run's action writes, its transaction says how deep what it starts will be: a host's trigger may start
-- a workflow that writes what starts the next one.
create function chimeway.depth() returns integer
language plpgsql stable
set search_path = pg_catalog, chimeway, pg_temp
as $$
declare
    said text := current_setting('chimeway.depth', true);
begin
    return case when said ~ '^[0-9]{1,6}$' then said::integer else 0 end;
end
$$;
comment on function chimeway.depth() is 'How deep in a chain of workflows this transaction writes; 0 for a host''s own';

-- RFC 9562, section 5.7; PostgreSQL 18 brings its own.
create function chimeway.uuid_v7() returns uuid
language sql volatile parallel safe
set search_path = pg_catalog, chimeway, pg_temp
as $$
    select encode(
        set_bit(
            set_bit(
                overlay(
                    uuid_send(gen_random_uuid())
                    placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                    from 1 for 6
                ),
                52, 1
            ),
            53, 1
        ),
        'hex'
    )::uuid
$$;
comment on function chimeway.uuid_v7() is 'A new time-ordered id';

create function chimeway.wake(queue text) returns void
language plpgsql volatile
set search_path = pg_catalog, chimeway, pg_temp
as $$
begin
    -- The payload is fixed per queue: PostgreSQL folds equal notifications of one transaction into one.
    if (select s.notify from chimeway.settings s) then
        perform pg_notify('chimeway', queue);
    end if;
end
$$;
comment on function chimeway.wake(text) is 'Tells idle workers, at commit, that a queue has work';

create function chimeway.schema_version() returns bigint
language plpgsql stable
set search_path = pg_catalog, chimeway, pg_temp
as $$
begin
    return (select max(m.version) from chimeway._sqlx_migrations m where m.success);
end
$$;
comment on function chimeway.schema_version() is 'The newest migration that was applied';

create table chimeway.cron_ticks (
    schedule text not null,
    tick timestamptz not null,
    ran_at timestamptz not null,
    primary key (schedule, tick)
);
comment on table chimeway.cron_ticks is 'Which process-wide duties ran: one row per schedule and tick, so that a fleet does each once';
comment on column chimeway.cron_ticks.schedule is 'The name of the duty';
comment on column chimeway.cron_ticks.tick is 'The instant it was planned for';
comment on column chimeway.cron_ticks.ran_at is 'When a worker took it';
