//! Who may call what, and what a caller's session cannot change about it.

use sqlx::{ConnectOptions as _, PgConnection, postgres::PgConnectOptions, types::Uuid};

use crate::{
    host::{Host, TRIGGER, rows},
    programs::psql,
};

/// A role that exists for one test. Roles belong to the whole server, so it has a name of its own.
struct Role {
    name: String,
    url: String,
}

impl Role {
    fn create(host: &Host, grants: &str) -> Self {
        let role = Self {
            name: format!("caller_{}", chimeway::ids::fresh().simple()),
            url: host.db.url(),
        };
        role.run(&format!("create role :role login; {grants}"));
        role
    }

    fn run(&self, script: &str) {
        psql(&self.url, &[("role", &self.name)], script).expect(0);
    }

    async fn connect(&self) -> PgConnection {
        let options: PgConnectOptions = self.url.parse().unwrap();
        options.username(&self.name).connect().await.unwrap()
    }

    /// Also what a failed test leaves is gone with the server.
    fn remove(self) {
        self.run("drop owned by :role; drop role :role");
    }
}

/// What a caller may be allowed to call.
const CALLABLE: [&str; 9] = [
    "approve",
    "cancel",
    "explain",
    "on_state_change",
    "reject",
    "set_preference",
    "track",
    "trigger",
    "upsert_recipient",
];

/// The API of `docs/sql-api.md`.
const API: &str = "
    grant usage on schema chimeway to :role;
    grant execute on function chimeway.trigger, chimeway.track, chimeway.upsert_recipient, chimeway.explain,
        chimeway.cancel, chimeway.set_preference, chimeway.approve, chimeway.reject, chimeway.on_state_change to :role;";

#[tokio::test]
async fn a_role_that_may_execute_the_api_can_do_that_and_nothing_else() {
    let host = Host::begin().await;
    let role = Role::create(&host, API);
    let mut conn = role.connect().await;
    let event: Uuid = sqlx::query_scalar(TRIGGER)
        .fetch_one(&mut conn)
        .await
        .unwrap();
    host.settle().await;
    sqlx::query("select chimeway.track('org_456', 'user_123', 'notification_read')")
        .execute(&mut conn)
        .await
        .unwrap();
    host.settle().await;
    let run: Uuid = sqlx::query_scalar(
        "select r.id from chimeway.workflow_runs r
        join chimeway.notifications n on n.id = r.notification_id where n.event_id = $1",
    )
    .bind(event)
    .fetch_one(host.pool())
    .await
    .unwrap();
    let state: Option<String> =
        sqlx::query_scalar("select chimeway.explain('org_456', $1) ->> 'state'")
            .bind(run)
            .fetch_one(&mut conn)
            .await
            .unwrap();
    assert_eq!(state.as_deref(), Some("stopped"));

    sqlx::query("select chimeway.upsert_recipient('org_456', 'eve', '{}', 'en', 'Europe/London')")
        .execute(&mut conn)
        .await
        .unwrap();

    let decided: String = sqlx::query_scalar("select chimeway.approve('org_456', $1, 'eve')")
        .bind(run)
        .fetch_one(&mut conn)
        .await
        .unwrap();
    assert_eq!(decided, "not_pending");

    let callable: Vec<String> = sqlx::query_scalar(
        "select p.proname::text from pg_proc p
        where p.pronamespace = 'chimeway'::regnamespace and has_function_privilege(p.oid, 'execute')
        order by 1",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert_eq!(callable, CALLABLE);
    let open: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_class c
        where c.relnamespace = 'chimeway'::regnamespace and c.relkind in ('r', 'v', 'm', 'p')
            and (has_table_privilege(c.oid, 'select, insert, update, delete, truncate, references, trigger')
                or has_any_column_privilege(c.oid, 'select, insert, update, references'))",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    assert_eq!(open, <[String; 0]>::default());
    for statement in [
        "select from chimeway.events",
        "insert into chimeway.settings default values",
        "select chimeway.wake('chimeway_delivery')",
        "select chimeway.upsert_recipients('org_456', '[]')",
        "create table chimeway.mine (id int)",
    ] {
        let refused = sqlx::query(statement).execute(&mut conn).await.unwrap_err();
        assert_eq!(code(&refused), "42501", "{statement}");
    }
    drop(conn);
    role.remove();
}

#[tokio::test]
async fn nobody_may_call_without_a_grant() {
    let host = Host::begin().await;
    let role = Role::create(&host, "grant usage on schema chimeway to :role");
    let mut conn = role.connect().await;
    for statement in [
        TRIGGER,
        "select chimeway.track('org_456', 'user_123', 'notification_read')",
        "select chimeway.explain('org_456', '0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10')",
        "select chimeway.upsert_recipient('org_456', 'ada', '{}')",
    ] {
        let refused = sqlx::query(statement).execute(&mut conn).await.unwrap_err();
        assert_eq!(code(&refused), "42501", "{statement}");
    }
    let callable: i64 = sqlx::query_scalar(
        "select count(*) from pg_proc p
        where p.pronamespace = 'chimeway'::regnamespace and has_function_privilege(p.oid, 'execute')",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(callable, 0);
    drop(conn);
    role.remove();
}

#[tokio::test]
async fn another_tenants_run_looks_like_none() {
    let host = Host::begin().await;
    let mut conn = host.db.connect().await;
    sqlx::query(TRIGGER).execute(&mut conn).await.unwrap();
    host.settle().await;
    let found: (bool, bool, bool) = sqlx::query_as(
        "select chimeway.explain('org_456', r.id) is null, chimeway.explain('org_789', r.id) is null,
            chimeway.explain('org_456', gen_random_uuid()) is null
        from chimeway.workflow_runs r",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    assert_eq!(found, (false, true, true));
}

/// Tables, functions and an operator that come first in this session.
const SHADOWS: &str = "
    create schema evil;
    create function evil.jsonb_typeof(jsonb) returns text language sql as $$ select 'object' $$;
    create function evil.btrim(text) returns text language sql as $$ select 'org_456' $$;
    create function evil.now() returns timestamptz language sql as $$ select 'epoch'::timestamptz $$;
    create function evil.clock_timestamp() returns timestamptz language sql as $$ select 'epoch'::timestamptz $$;
    create function evil.gen_random_uuid() returns uuid language sql as
        $$ select '00000000-0000-0000-0000-000000000000'::uuid $$;
    create function evil.never(text, text) returns boolean language sql as $$ select false $$;
    create operator evil.= (leftarg = text, rightarg = text, function = evil.never);
    create temp table settings as select * from chimeway.settings;
    update settings set clock = 'epoch';
    create temp table workflows (like chimeway.workflows including all);
    create temp table workflow_definitions (like chimeway.workflow_definitions including all);
    create temp table events (like chimeway.events including all);
    create temp table recipients (like chimeway.recipients including all);
    create temp table signals (like chimeway.signals including all);
    set search_path = pg_temp, evil, pg_catalog, public;";

#[tokio::test]
async fn what_a_session_has_of_its_own_does_not_come_before_ours() {
    let host = Host::begin().await;
    let url = host.db.url();
    let call = format!(
        "{SHADOWS}
        {TRIGGER};
        select chimeway.track('org_456', 'user_123', 'notification_read');
        select (select pg_catalog.count(*) from pg_temp.events) + (select pg_catalog.count(*) from pg_temp.signals)
            + (select pg_catalog.count(*) from pg_temp.recipients);"
    );
    let ran = psql(&url, &[], &call).expect(0);
    assert_eq!(ran.out.lines().last(), Some("0"), "{}", ran.out);
    assert_eq!(
        rows(host.pool()).await,
        "comments 0, events 1, recipients 1, runs 0, deliveries 0, signals 1"
    );
    let is_now: bool = sqlx::query_scalar(
        "select bool_and(at > now() - interval '1 minute')
        from (
            select occurred_at as at from chimeway.events union all
            select occurred_at from chimeway.signals union all
            select updated_at from chimeway.recipients
        ) written",
    )
    .fetch_one(host.pool())
    .await
    .unwrap();
    assert!(is_now);
    // A refusal cannot be talked away, nor a row be hidden.
    for (call, answer) in [
        (
            "select chimeway.trigger('mention_escalation', '[]', 'org_456')",
            "params is not a JSON object",
        ),
        (
            "select chimeway.trigger('mention_escalation', '{\"actor_id\": \"a\"}', ' ')",
            "the tenant is blank",
        ),
        (
            "select chimeway.track('org_456', 'user_123', 'read', '[]')",
            "payload is not a JSON object",
        ),
    ] {
        let ran = psql(&url, &[], &format!("set search_path = evil; {call}")).expect(3);
        assert!(ran.err.contains(answer), "{}", ran.err);
    }
    host.settle().await;
    let script = "set search_path = evil, pg_catalog; create temp table workflow_runs (id int);
        select chimeway.explain(r.tenant_id, r.id) is not null from chimeway.workflow_runs r";
    assert_eq!(psql(&url, &[], script).expect(0).out, "t\n");
}

/// Also of those that only ours call: a security definer's path holds for what it calls, but not
/// everybody who calls is one.
#[tokio::test]
async fn every_function_has_a_pinned_search_path() {
    let host = Host::begin().await;
    let loose: Vec<String> = sqlx::query_scalar(
        "select p.oid::regprocedure::text from pg_proc p
        where p.pronamespace = 'chimeway'::regnamespace
            and 'search_path=pg_catalog, chimeway, pg_temp' <> all(coalesce(p.proconfig, '{}'))",
    )
    .fetch_all(host.pool())
    .await
    .unwrap();
    assert_eq!(loose, <[String; 0]>::default());
    let definers: Vec<String> = sqlx::query_scalar(
        "select p.proname::text from pg_proc p
        where p.pronamespace = 'chimeway'::regnamespace and p.prosecdef order by 1",
    )
    .fetch_all(host.pool())
    .await
    .unwrap();
    assert_eq!(definers, CALLABLE);
}

fn code(error: &sqlx::Error) -> String {
    let error = error.as_database_error().unwrap();
    error.code().unwrap().into_owned()
}
