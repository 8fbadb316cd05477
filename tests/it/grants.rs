//! `deploy/grants.sql`: what each role may do, and that it is enough.

mod functions;

use std::collections::{BTreeMap, BTreeSet};

use chimeway_testkit::TestDb;
use nix::sys::signal::Signal as Kill;
use sqlx::{ConnectOptions as _, PgPool, postgres::PgConnectOptions, types::Uuid};

use functions::{API, INTERNAL};

use crate::{
    host::JOURNEY,
    programs::{Ran, chimeway, psql, root, words},
    running::Running,
    support::eventually,
};

const NAMES: [&str; 5] = ["owner", "worker", "host", "caller", "reader"];

/// A database with the grants, and a user for each role. Roles belong to the whole server, so they have names
/// of their own.
struct Granted {
    db: TestDb,
    suffix: String,
}

impl Granted {
    async fn begin() -> Self {
        let db = TestDb::create().await;
        let suffix = chimeway::ids::fresh().simple().to_string();
        let granted = Self { db, suffix };
        granted.apply();
        for name in NAMES {
            let role = granted.role(name);
            let user = format!("create role u_{role} login; grant {role} to u_{role}");
            psql(&granted.db.url(), &[], &user).expect(0);
        }
        granted
    }

    fn role(&self, name: &str) -> String {
        format!("{name}_{}", self.suffix)
    }

    /// As an operator does after `chimeway migrate`.
    fn apply(&self) {
        let roles = NAMES.map(|name| self.role(name));
        let variables: Vec<(&str, &str)> = NAMES
            .into_iter()
            .zip(roles.iter().map(String::as_str))
            .collect();
        psql(&self.db.url(), &variables, &grants()).expect(0);
    }

    fn pool(&self) -> &PgPool {
        self.db.pool()
    }

    fn options(&self, name: &str) -> PgConnectOptions {
        let options: PgConnectOptions = self.db.url().parse().unwrap();
        options.username(&format!("u_{}", self.role(name)))
    }

    fn url(&self, name: &str) -> String {
        let mut url = self.options(name).to_url_lossy();
        url.set_query(Some("sslmode=disable"));
        url.to_string()
    }

    /// Also what a failed test leaves is gone with the server.
    fn remove(self) {
        for name in NAMES {
            let role = self.role(name);
            let script = format!(
                "drop owned by u_{role}, {role} cascade; drop role u_{role}; drop role {role}"
            );
            psql(&self.db.url(), &[], &script).expect(0);
        }
    }
}

fn grants() -> String {
    std::fs::read_to_string(root().join("deploy/grants.sql")).unwrap()
}

/// Which functions of the schema this role may call; `public` is everybody.
async fn callable(granted: &Granted, role: &str) -> BTreeSet<String> {
    let found: Vec<String> = sqlx::query_scalar(
        "select replace(p.oid::regprocedure::text, 'chimeway.', '') from pg_proc p
        where p.pronamespace = 'chimeway'::regnamespace and has_function_privilege($1, p.oid, 'execute')",
    )
    .bind(role)
    .fetch_all(granted.pool())
    .await
    .unwrap();
    found.into_iter().collect()
}

/// Table by table, what this role may do: `r` read, `a` append, `w` write, `d` delete, and `c` some columns.
async fn tables(granted: &Granted, role: &str) -> BTreeMap<String, String> {
    let found: Vec<(String, String)> = sqlx::query_as(
        "select c.relname::text, concat(
            case when has_table_privilege($1, c.oid, 'select') then 'r' end,
            case when has_table_privilege($1, c.oid, 'insert') then 'a' end,
            case when has_table_privilege($1, c.oid, 'update') then 'w' end,
            case when has_table_privilege($1, c.oid, 'delete') then 'd' end,
            case when has_table_privilege($1, c.oid, 'truncate, references, trigger') then '!' end,
            case when has_any_column_privilege($1, c.oid, 'select') and not has_table_privilege($1, c.oid, 'select')
                then 'c' end)
        from pg_class c
        where c.relnamespace = 'chimeway'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'S')",
    )
    .bind(role)
    .fetch_all(granted.pool())
    .await
    .unwrap();
    found.into_iter().collect()
}

#[tokio::test]
async fn each_role_may_do_what_it_needs_and_nothing_else() {
    let granted = Granted::begin().await;
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let api: BTreeSet<String> = set(&API);
    let all: BTreeSet<String> = api.union(&set(&INTERNAL)).cloned().collect();
    // Twice is as once.
    for _ in 0..2 {
        for (name, expected) in [
            ("owner", all.clone()),
            ("worker", all.clone()),
            ("host", all.clone()),
            ("caller", api.clone()),
            ("reader", set(&["now()", "schema_version()"])),
            ("public", set(&[])),
        ] {
            let role = match name {
                "public" => "public".to_owned(),
                name => granted.role(name),
            };
            assert_eq!(callable(&granted, &role).await, expected, "{name}");
        }
        granted.apply();
    }
    for name in ["worker", "host", "caller", "reader"] {
        let may: (bool, bool, bool) = sqlx::query_as(
            "select has_schema_privilege($1, 'chimeway', 'create'), has_database_privilege($1, current_database(), 'create'),
                exists (select from pg_roles r where r.rolname = $1 and (r.rolsuper or r.rolcreaterole or r.rolcreatedb))",
        )
        .bind(granted.role(name))
        .fetch_one(granted.pool())
        .await
        .unwrap();
        assert_eq!(may, (false, false, false), "{name}");
    }
    let of_caller = tables(&granted, &granted.role("caller")).await;
    assert!(of_caller.values().all(String::is_empty), "{of_caller:?}");
    let shown = async |name: &str| {
        let found = tables(&granted, &granted.role(name)).await;
        let lines = found
            .iter()
            .filter(|(_, may)| !may.is_empty())
            .map(|(table, may)| format!("{table} {may}\n"));
        lines.collect::<String>()
    };
    insta::assert_snapshot!(shown("worker").await, @r"
    _sqlx_migrations r
    api_tokens r
    approvals rawd
    cron_ticks rawd
    deliveries rawd
    delivery_attempts rawd
    events rawd
    interventions rawd
    notifications rawd
    preferences raw
    recipients raw
    role_members rawd
    schema_versions r
    settings r
    signals rawd
    templates raw
    worker_processes rawd
    workflow_definitions raw
    workflow_runs rawd
    workflow_steps raw
    workflow_transitions rawd
    workflow_triggers raw
    workflows raw
    ");
    insta::assert_snapshot!(shown("host").await, @r"
    _sqlx_migrations r
    approvals raw
    cron_ticks r
    deliveries raw
    delivery_attempts raw
    events raw
    interventions raw
    notifications raw
    preferences raw
    recipients raw
    role_members rawd
    schema_versions r
    settings r
    signals raw
    templates raw
    worker_processes r
    workflow_definitions raw
    workflow_runs raw
    workflow_steps raw
    workflow_transitions raw
    workflow_triggers raw
    workflows raw
    ");
    insta::assert_snapshot!(shown("reader").await, @r"
    _sqlx_migrations c
    approvals c
    cron_ticks c
    deliveries c
    delivery_attempts c
    events c
    interventions c
    notifications c
    schema_versions c
    settings c
    signals c
    worker_processes c
    workflow_definitions c
    workflow_runs c
    workflow_steps c
    workflow_transitions c
    workflow_triggers c
    workflows c
    ");
    // Nothing is left to a superuser that has migrated: what is security definer runs as the owner.
    let others: i64 = sqlx::query_scalar(
        "select (select count(*) from pg_proc where pronamespace = 'chimeway'::regnamespace and proowner <> $1::regrole)
            + (select count(*) from pg_class where relnamespace = 'chimeway'::regnamespace and relkind in ('r', 'S')
                and relowner <> $1::regrole)",
    )
    .bind(granted.role("owner"))
    .fetch_one(granted.pool())
    .await
    .unwrap();
    assert_eq!(others, 0);
    granted.remove();
}

/// Every function and every table there is, whichever they are: what is added is refused too.
#[tokio::test]
async fn a_caller_is_refused_every_table_and_every_function_of_ours() {
    let granted = Granted::begin().await;
    // As a later migration would.
    let later = format!(
        "set role {}; create function chimeway.later() returns int language sql as 'select 1';
        create table chimeway.later (id int)",
        granted.role("owner")
    );
    psql(&granted.db.url(), &[], &later).expect(0);
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'chimeway'::regnamespace and relkind in ('r', 'p')",
    )
    .fetch_all(granted.pool())
    .await
    .unwrap();
    let caller = granted.url("caller");
    for table in &tables {
        for statement in [
            format!("select from chimeway.{table}"),
            format!("insert into chimeway.{table} default values"),
            format!("delete from chimeway.{table}"),
            format!("truncate chimeway.{table}"),
            format!("drop table chimeway.{table}"),
            format!(
                "create trigger t after insert on chimeway.{table} execute function chimeway.on_state_change()"
            ),
        ] {
            refused(&psql(&caller, &[], &statement), &statement);
        }
    }
    assert!(tables.len() > 15, "{tables:?}");
    let calls: Vec<String> = sqlx::query_scalar(
        "select format('select chimeway.%I(%s)', p.proname,
            (select string_agg('null::' || t::regtype, ', ') from unnest(p.proargtypes) t))
        from pg_proc p
        where p.pronamespace = 'chimeway'::regnamespace and p.prorettype <> 'trigger'::regtype
            and replace(p.oid::regprocedure::text, 'chimeway.', '') <> all($1)",
    )
    .bind(API.map(str::to_owned).to_vec())
    .fetch_all(granted.pool())
    .await
    .unwrap();
    assert!(calls.len() >= INTERNAL.len(), "{calls:?}");
    for call in &calls {
        refused(&psql(&caller, &[], call), call);
    }
    for statement in [
        "create table chimeway.mine (id int)",
        "create function chimeway.now(int) returns int language sql as 'select 1'",
        "alter function chimeway.track(text, text, text, jsonb) reset all",
        "set role postgres",
    ] {
        refused(&psql(&caller, &[], statement), statement);
    }
    granted.remove();
}

fn refused(ran: &Ran, statement: &str) {
    let denied = ["permission denied", "must be owner"];
    assert!(
        ran.code != 0 && denied.iter().any(|text| ran.err.contains(text)),
        "{statement}: {} {}",
        ran.out,
        ran.err
    );
}

/// Of a caller's own session nothing comes before ours, and what it makes of ours is told to nobody.
const SHADOWS: &str = "
    create temp table events (id int);
    create temp table signals (id int);
    create temp table settings (notify boolean, clock timestamptz);
    insert into settings values (true, 'epoch');
    create function pg_temp.clock() returns timestamptz language sql as $$ select 'epoch'::timestamptz $$;
    create function pg_temp.is_unfit(text, integer) returns boolean language sql as $$ select false $$;
    create function pg_temp.uuid_v7() returns uuid language sql as
        $$ select '00000000-0000-0000-0000-000000000000'::uuid $$;
    set search_path = pg_temp, chimeway, pg_catalog;";

const PURCHASE: &str = "
name: purchase_approval
trigger: { type: state_change, entity: orders, field: status, to: submitted }
context: { order: trigger.record_id }
steps:
  - id: ask_a_manager
    type: approval
    assignee: { type: role, role: manager }
    timeout: 72h
    on_approve: { goto: approve }
    on_reject: end
  - id: approve
    type: action
    actions:
      - { type: set_field, entity: orders, record_id: context.order, field: status, value: approved }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_worker_and_a_caller_need_no_more_than_their_roles() {
    let granted = Granted::begin().await;
    let shop = format!(
        "create schema shop; create table shop.orders (id text primary key, tenant_id text, status text, secret text);
        insert into shop.orders values ('42', 'org_456', 'draft', 'x');
        grant usage on schema shop to {worker}, {caller};
        grant select (id, tenant_id), update (status) on shop.orders to {worker};
        alter table shop.orders owner to {caller};
        ",
        worker = granted.role("worker"),
        caller = granted.role("caller"),
    );
    psql(&granted.db.url(), &[], &shop).expect(0);
    // The owner of a table makes its trigger.
    let trigger = "create trigger state after update of status on shop.orders for each row
        execute function chimeway.on_state_change('orders', 'status', 'tenant_id', 'id')";
    psql(&granted.url("caller"), &[], trigger).expect(0);
    let worker_url = granted.url("worker");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("purchase.yaml"), PURCHASE).unwrap();
    std::fs::write(
        folder.path().join("mention.yaml"),
        JOURNEY.replace("PT2H", "PT0.2S"),
    )
    .unwrap();
    let run = |line: &str| chimeway(&worker_url, &words(line));
    let folder_path = folder.path().display().to_string();
    run("migrate --check").expect(0);
    run(&format!("workflows apply {folder_path}")).expect(0);
    run("roles add manager grace --tenant org_456").expect(0);
    run("recipients set ada --tenant org_456 --address email=ada@example.com").expect(0);
    run("preferences set bob --tenant org_456 --channel email=off").expect(0);
    let settings = folder.path().join("chimeway.toml");
    std::fs::write(
        &settings,
        "[channels.email]\nadapter = \"log\"\n[[writable]]\nentity = \"orders\"\ntable = \"shop.orders\"\ncolumns = [\"status\"]\n",
    )
    .unwrap();
    let flags = format!("--http 127.0.0.1:0 --config {}", settings.display());
    let worker = Running::worker(&worker_url, &flags);
    worker.prints("chimeway_delivery=20").await;

    // A state change of the caller's own table, an approval, and the action that writes it.
    let submit = "update shop.orders set status = 'submitted' where id = '42'";
    psql(&granted.url("caller"), &[], &format!("{SHADOWS} {submit}")).expect(0);
    let run_id = eventually("the manager is asked", async || {
        let found: Option<Uuid> = sqlx::query_scalar(
            "select id from chimeway.workflow_runs where state = 'waiting' and record_id = '42'",
        )
        .fetch_optional(granted.pool())
        .await
        .unwrap();
        found
    })
    .await;
    let approve = format!("{SHADOWS} select chimeway.approve('org_456', '{run_id}', 'grace')");
    let answer = psql(&granted.url("caller"), &[], &approve).expect(0);
    assert_eq!(answer.out.trim(), "approved");
    eventually("the order is approved", async || {
        let status: String = sqlx::query_scalar("select status from shop.orders")
            .fetch_one(granted.pool())
            .await
            .unwrap();
        (status == "approved").then_some(())
    })
    .await;

    // A journey with a wait, and everything else that callers call.
    let trigger = format!(
        "{SHADOWS}
        select chimeway.upsert_recipient('org_456', 'ada', '{{\"email\": \"ada@example.com\"}}', 'en', 'Europe/London');
        select chimeway.set_preference('org_456', 'ada', 'category', 'news', false);
        select chimeway.trigger('mention_escalation', '{{\"document_id\": \"d\"}}', 'org_456',
            recipients => '[{{\"identity\": \"ada\"}}, {{\"identity\": \"bob\"}}]', idempotency_key => 'k');
        select chimeway.track('org_456', 'eve', 'notification_read');
        select (select pg_catalog.count(*) from pg_temp.events) + (select pg_catalog.count(*) from pg_temp.signals)"
    );
    let ran = psql(&granted.url("caller"), &[], &trigger).expect(0);
    assert_eq!(ran.out.lines().last(), Some("0"), "{}", ran.out);
    eventually("both journeys end", async || {
        let ended: i64 = sqlx::query_scalar(
            "select count(*) from chimeway.workflow_runs where ended_at is not null and state = 'completed'",
        )
        .fetch_one(granted.pool())
        .await
        .unwrap();
        (ended == 3).then_some(())
    })
    .await;
    let recent: bool = sqlx::query_scalar(
        "select bool_and(occurred_at > now() - interval '1 hour') and min(id::text) > '00000000-0000-0000-0000-000000000000'
        from (select id, occurred_at from chimeway.events union all select id, occurred_at from chimeway.signals) made",
    )
    .fetch_one(granted.pool())
    .await
    .unwrap();
    assert!(recent);
    let explain = format!(
        "select chimeway.explain('org_456', '{run_id}') ->> 'state', chimeway.cancel('org_456', '{run_id}'),
            chimeway.reject('org_456', '{run_id}', 'grace')"
    );
    let told = psql(&granted.url("caller"), &[], &explain).expect(0);
    assert_eq!(told.out.trim(), "completed|f|already_decided");

    // What people look at, and what is not theirs.
    for line in [
        "queues",
        "runs --tenant org_456",
        "workflows list",
        "pending",
        "inbox list --tenant org_456 --recipient ada",
        "workflows pause mention_escalation",
        "workflows resume mention_escalation",
        "roles remove manager grace --tenant org_456",
        "tokens list",
        "cancel --workflow mention_escalation --tenant org_456",
        &format!("explain {run_id} --tenant org_456"),
        &format!("traces {run_id} --tenant org_456"),
    ] {
        run(line).expect(0);
    }
    let refusal = run("tokens create root --operator").expect(1).err;
    assert!(refusal.contains("permission denied"), "{refusal}");
    for statement in [
        "create table chimeway.mine (id int)",
        "alter table chimeway.events add column mine int",
        "drop table chimeway.events",
        "truncate chimeway.events",
        "drop function chimeway.now()",
        "update chimeway.settings set clock = now()",
        "insert into chimeway.api_tokens default values",
        "delete from chimeway._sqlx_migrations",
        "delete from chimeway.workflow_definitions",
        "select secret from shop.orders",
        "update shop.orders set secret = 'y'",
        "delete from shop.orders",
        "create temp table t (id int); create trigger t after insert on shop.orders execute function chimeway.on_state_change()",
    ] {
        refused(&psql(&worker_url, &[], statement), statement);
    }
    // As retention does.
    let prune = "
        delete from chimeway.delivery_attempts; delete from chimeway.workflow_transitions; delete from chimeway.approvals;
        delete from chimeway.deliveries; delete from chimeway.interventions; delete from chimeway.workflow_runs;
        delete from chimeway.notifications; delete from chimeway.events; delete from chimeway.signals;
        delete from chimeway.cron_ticks";
    psql(&worker_url, &[], prune).expect(0);
    let (status, lines) = worker.told(Kill::SIGTERM).await;
    assert!(status.success(), "{lines:?}");
    let denied = lines.iter().find(|line| line.contains("denied"));
    assert_eq!(denied, None, "{lines:?}");

    // The owner migrates and makes tokens; dashboards read what is no person's.
    let owner = granted.url("owner");
    let as_owner = format!("{owner}&options[role]={}", granted.role("owner"));
    chimeway(&as_owner, &["migrate"]).expect(0);
    chimeway(&as_owner, &words("tokens create root --operator")).expect(0);
    let reader = granted.url("reader");
    psql(&reader, &[], "select id, state from chimeway.workflow_runs").expect(0);
    for statement in [
        "select params from chimeway.events",
        "select addresses from chimeway.recipients",
        "select payload from chimeway.signals",
        "select * from chimeway.api_tokens",
        "select document from chimeway.workflow_definitions",
        "update chimeway.workflow_runs set state = 'failed'",
        "select chimeway.track('org_456', 'eve', 'x')",
    ] {
        refused(&psql(&reader, &[], statement), statement);
    }
    granted.remove();
}

/// The library, as the program uses it: all that it offers to whoever triggers, decides and reads.
#[tokio::test]
async fn a_host_in_rust_needs_its_role_alone() {
    let granted = Granted::begin().await;
    let host = granted.url("host");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mention.yaml"), JOURNEY).unwrap();
    let path = folder.path().display().to_string();
    let run = |line: &str| chimeway(&host, &words(line)).expect(0);
    run(&format!("workflows apply {path}"));
    run("roles add manager grace --tenant org_456");
    run("roles remove manager grace --tenant org_456");
    run("recipients set ada --tenant org_456 --address email=ada@example.com");
    run("preferences set ada --tenant org_456 --channel email=off");
    for _ in 0..2 {
        run("trigger mention_escalation --tenant org_456 --recipient ada --idempotency-key k");
    }
    run("track document_opened --tenant org_456 --actor ada");
    run("pending");
    run("inbox list --tenant org_456 --recipient ada");
    let id = async |statement: &'static str| {
        let id: Uuid = sqlx::query_scalar(statement)
            .fetch_one(granted.pool())
            .await
            .unwrap();
        id
    };
    let item = id("select id from chimeway.notifications").await;
    run(&format!(
        "inbox read --tenant org_456 --recipient ada {item}"
    ));
    let journey = id("select id from chimeway.workflow_runs").await;
    run(&format!("explain {journey} --tenant org_456"));
    run(&format!("cancel {journey} --tenant org_456 --by grace"));
    for statement in [
        "delete from chimeway.events",
        "delete from chimeway.workflow_runs",
        "select from chimeway.api_tokens",
        "update chimeway.settings set notify = false",
        "create table chimeway.mine (id int)",
    ] {
        refused(&psql(&host, &[], statement), statement);
    }
    granted.remove();
}
