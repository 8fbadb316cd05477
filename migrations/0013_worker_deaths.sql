-- What dies with its worker process again and again: seen by the next process, and set aside alone.
create table chimeway.worker_processes (
    id uuid primary key,
    name text not null,
    started_at timestamptz not null,
    seen_at timestamptz not null
);
comment on table chimeway.worker_processes is
    'Worker processes that run batches, or that ended without a drain within the last ten minutes';
comment on column chimeway.worker_processes.id is 'Time-ordered id';
comment on column chimeway.worker_processes.name is 'The name of the process, as in deliveries.lease_owner';
comment on column chimeway.worker_processes.started_at is 'When it began';
comment on column chimeway.worker_processes.seen_at is
    'When it last said that it lives, every sixth of a lease; a process that drains deletes its row';

alter table chimeway.events add column crashes integer not null default 0;
comment on column chimeway.events.crashes is
    'How often in a row worker processes died while they made its runs, since somebody looked whether they do';
alter table chimeway.signals add column crashes integer not null default 0;
comment on column chimeway.signals.crashes is
    'How often in a row worker processes died while they routed it, since somebody looked whether they do';
alter table chimeway.workflow_runs add column crashes integer not null default 0;
comment on column chimeway.workflow_runs.crashes is
    'How often in a row worker processes died while they decided it, since somebody looked whether they do';
