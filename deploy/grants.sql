-- Roles with the rights that each needs and no other. Run it after every `chimeway migrate`, as a superuser, or
-- as somebody who may create roles and owns the schema; a second time changes nothing:
--
--   psql -v ON_ERROR_STOP=1 -d app -f deploy/grants.sql
--
-- The roles are groups: nobody logs in as one. Make users of your own members of them:
--
--   create role shop login password '..';           grant chimeway_caller to shop;
--   create role chimeway_fleet login password '..'; grant chimeway_worker to chimeway_fleet;
--
-- Other names, one or all: psql -v caller=shop_caller -v worker=shop_worker ..
--
--   owner    owns the schema: `chimeway migrate` and `chimeway tokens` are run by a member of it
--            (postgres://deployer@host/app?options[role]=chimeway_owner)
--   worker   `chimeway worker`, and the commands that look, apply documents and act by hand
--   host     an application in Rust that uses the library `chimeway` in its own transactions
--   caller   an application that calls the SQL API: EXECUTE on it, and nothing else
--   reader   a dashboard: structural facts; no payload, address, template, note or token
\set ON_ERROR_STOP 1
\if :{?owner} \else \set owner chimeway_owner \endif
\if :{?worker} \else \set worker chimeway_worker \endif
\if :{?host} \else \set host chimeway_host \endif
\if :{?caller} \else \set caller chimeway_caller \endif
\if :{?reader} \else \set reader chimeway_reader \endif

begin;
set local client_min_messages = warning;

select format('create role %I nologin', name)
from unnest(array[:'owner', :'worker', :'host', :'caller', :'reader']) as name
where to_regrole(quote_ident(name)) is null
\gexec

-- The functions of the SQL API run with the rights of their owner. A superuser who has migrated hands them to a
-- role that owns this schema and nothing else.
select format('grant create on database %I to %I', current_database(), :'owner')
\gexec
select format('alter schema chimeway owner to %I', :'owner')
from pg_namespace n
where n.nspname = 'chimeway' and n.nspowner <> to_regrole(quote_ident(:'owner'))
\gexec
select format('alter table chimeway.%I owner to %I', c.relname, :'owner')
from pg_class c
where c.relnamespace = 'chimeway'::regnamespace and c.relkind in ('r', 'p', 'v', 'm')
    and c.relowner <> to_regrole(quote_ident(:'owner'))
\gexec
select format('alter function %s owner to %I', p.oid::regprocedure, :'owner')
from pg_proc p
where p.pronamespace = 'chimeway'::regnamespace and p.proowner <> to_regrole(quote_ident(:'owner'))
\gexec

-- Everything back to nothing, and nothing for what later migrations make: a grant that is not below is none.
revoke all on schema chimeway from public, :"worker", :"host", :"caller", :"reader";
revoke all on all tables in schema chimeway from public, :"worker", :"host", :"caller", :"reader";
revoke all on all sequences in schema chimeway from public, :"worker", :"host", :"caller", :"reader";
revoke all on all functions in schema chimeway from public, :"worker", :"host", :"caller", :"reader";
alter default privileges for role :"owner" revoke execute on functions from public;
-- Columns are granted one by one, and taken back so.
select format('revoke select (%I) on chimeway.%I from %I', a.attname, c.relname, :'reader')
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attacl is not null
where c.relnamespace = 'chimeway'::regnamespace and c.relkind in ('r', 'p')
\gexec

grant usage on schema chimeway to :"worker", :"host", :"caller", :"reader";

-- Callers: the SQL API (docs/sql-api.md).
grant execute on function
    chimeway.trigger(text, jsonb, text, jsonb, text, text),
    chimeway.track(text, text, text, jsonb),
    chimeway.upsert_recipient(text, text, jsonb, text, text),
    chimeway.set_preference(text, text, text, text, boolean),
    chimeway.cancel(text, uuid, text),
    chimeway.approve(text, uuid, text, text),
    chimeway.reject(text, uuid, text, text),
    chimeway.explain(text, uuid),
    chimeway.on_state_change()
to :"caller", :"host", :"worker";

-- Workers read and write rows of every table, but what says who may do what: tokens of the HTTP API are made by
-- the owner, switches of the database are set by it, and nobody rewrites which migrations ran.
grant execute on all functions in schema chimeway to :"worker";
grant select, insert, update, delete on all tables in schema chimeway to :"worker";
revoke insert, update, delete on
    chimeway.api_tokens, chimeway.settings, chimeway._sqlx_migrations, chimeway.schema_versions
from :"worker";
revoke delete on
    chimeway.workflows, chimeway.workflow_definitions, chimeway.workflow_steps, chimeway.workflow_triggers,
    chimeway.templates, chimeway.recipients, chimeway.preferences
from :"worker";

-- The library in a host: it starts runs, tells signals, decides, cancels and reads, all in the host's
-- transaction. It sends nothing and deletes nothing.
grant execute on all functions in schema chimeway to :"host";
grant select on all tables in schema chimeway to :"host";
revoke select on chimeway.api_tokens from :"host";
grant insert, update on
    chimeway.workflows, chimeway.workflow_definitions, chimeway.workflow_steps, chimeway.workflow_triggers,
    chimeway.templates, chimeway.events, chimeway.notifications, chimeway.recipients, chimeway.preferences,
    chimeway.workflow_runs, chimeway.workflow_transitions, chimeway.interventions, chimeway.signals,
    chimeway.deliveries, chimeway.delivery_attempts, chimeway.approvals, chimeway.role_members
to :"host";
grant delete on chimeway.role_members to :"host";

-- Dashboards: every column but those that hold what people say, where they are reached, or who may call.
grant execute on function chimeway.now(), chimeway.schema_version() to :"reader";
select format('grant select (%s) on chimeway.%I to %I',
    string_agg(quote_ident(a.attname), ', ' order by a.attnum), c.relname, :'reader')
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = 'chimeway'::regnamespace and c.relkind in ('r', 'p')
    and c.relname in (
        '_sqlx_migrations', 'approvals', 'cron_ticks', 'deliveries', 'delivery_attempts', 'events', 'interventions',
        'notifications', 'schema_versions', 'settings', 'signals', 'worker_processes', 'workflow_definitions',
        'workflow_runs', 'workflow_steps', 'workflow_transitions', 'workflow_triggers', 'workflows'
    )
    and (c.relname, a.attname) not in (
        ('approvals', 'note'), ('events', 'params'), ('events', 'recipients'), ('interventions', 'reason'),
        ('signals', 'payload'), ('workflow_definitions', 'document'), ('workflow_runs', 'context'),
        ('workflow_steps', 'config')
    )
group by c.relname
\gexec

commit;

-- Host tables. Workers write those that [[writable]] names (docs/state-changes.md), and only by a grant of yours,
-- which says the same as the settings do:
--
--   [[writable]]
--   entity = "orders"
--   table = "shop.orders"
--   columns = ["status"]
--   insert = true
--
--   grant usage on schema shop to chimeway_worker;
--   grant select (id, tenant_id), update (status) on shop.orders to chimeway_worker;   -- key, tenant; columns
--   grant insert (tenant_id, status) on shop.orders to chimeway_worker;                -- insert = true
--
-- An INSERT into a table whose key is a serial column needs USAGE on its sequence too. Whoever creates a trigger
-- that calls chimeway.on_state_change() needs EXECUTE on it: the owner of the table is a member of caller.
