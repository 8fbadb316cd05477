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
