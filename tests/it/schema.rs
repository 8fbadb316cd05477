//! The migrated schema as text: what a migration changes is seen in review.

use chimeway_testkit::TestDb;

/// Every table with its columns, constraints, indexes and triggers, then every function.
const SCHEMA: &str = r#"
with tables as (
    select c.oid, c.relname, c.reloptions
    from pg_class c
    where c.relnamespace = 'chimeway'::regnamespace and c.relkind in ('r', 'p')
        and c.relname <> '_sqlx_migrations'
), lines as (
    select relname as thing, 0 as part, 0 as place,
        'table ' || relname || coalesce(' with ' || array_to_string(reloptions, ', '), '') as line
    from tables
    union all
    select t.relname, 1, a.attnum,
        '    ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
        || case when a.attnotnull then ' not null' else '' end
        || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
    from tables t
    join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped
    left join pg_attrdef d on d.adrelid = t.oid and d.adnum = a.attnum
    union all
    select t.relname, 2, row_number() over (partition by t.oid order by k.conname),
        '    constraint ' || k.conname || ' ' || pg_get_constraintdef(k.oid)
    from tables t
    join pg_constraint k on k.conrelid = t.oid and k.contype in ('c', 'f', 'p', 'u', 'x')
    union all
    select t.relname, 3, row_number() over (partition by t.oid order by i.indexrelid::regclass::text),
        '    ' || pg_get_indexdef(i.indexrelid)
    from tables t
    join pg_index i on i.indrelid = t.oid
    where not exists (select from pg_constraint k where k.conindid = i.indexrelid)
    union all
    select t.relname, 4, row_number() over (partition by t.oid order by g.tgname), '    ' || pg_get_triggerdef(g.oid)
    from tables t
    join pg_trigger g on g.tgrelid = t.oid and not g.tgisinternal
    union all
    select '~' || p.proname, 5, 0,
        'function ' || p.proname || '(' || pg_get_function_arguments(p.oid) || ') returns '
        || pg_get_function_result(p.oid)
        || case p.provolatile when 'i' then ' immutable' when 's' then ' stable' else ' volatile' end
        || case when p.prosecdef then ' security definer' else '' end
    from pg_proc p
    where p.pronamespace = 'chimeway'::regnamespace
)
select string_agg(line, chr(10) order by thing collate "C", part, place) from lines"#;

#[tokio::test]
async fn the_migrated_schema_is_the_one_in_the_snapshot() {
    let db = TestDb::create().await;
    let schema: String = sqlx::query_scalar(SCHEMA)
        .fetch_one(db.pool())
        .await
        .unwrap();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("schema", schema));
}

#[tokio::test]
async fn every_table_column_and_function_has_a_comment() {
    let db = TestDb::create().await;
    let bare: Vec<String> = sqlx::query_scalar(
        "select 'table ' || c.relname
        from pg_class c
        where c.relnamespace = 'chimeway'::regnamespace and c.relkind in ('r', 'p', 'v')
            and c.relname <> '_sqlx_migrations' and obj_description(c.oid, 'pg_class') is null
        union all
        select 'column ' || c.relname || '.' || a.attname
        from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'chimeway'::regnamespace and c.relkind in ('r', 'p', 'v')
            and c.relname <> '_sqlx_migrations' and col_description(c.oid, a.attnum) is null
        union all
        select 'function ' || p.oid::regprocedure
        from pg_proc p
        where p.pronamespace = 'chimeway'::regnamespace and obj_description(p.oid, 'pg_proc') is null
        order by 1",
    )
    .fetch_all(db.pool())
    .await
    .unwrap();
    assert_eq!(bare, <[String; 0]>::default());
}

/// `migrations/README.md` says why; rows are written parent first and deleted children first.
#[tokio::test]
async fn only_the_steps_of_a_definition_have_a_foreign_key() {
    let db = TestDb::create().await;
    let with: Vec<String> = sqlx::query_scalar(
        "select k.conrelid::regclass || ' to ' || k.confrelid::regclass
        from pg_constraint k
        where k.connamespace = 'chimeway'::regnamespace and k.contype = 'f'",
    )
    .fetch_all(db.pool())
    .await
    .unwrap();
    assert_eq!(
        with,
        ["chimeway.workflow_steps to chimeway.workflow_definitions"]
    );
}

#[tokio::test]
async fn definitions_and_history_are_never_changed() {
    let db = TestDb::create().await;
    let mut conn = db.connect().await;
    for insert in [
        "insert into chimeway.workflow_definitions
            (id, workflow_key, workflow_version, document, content_hash, created_at)
        values (chimeway.uuid_v7(), 'journey', 1, '{}', '', now())",
        "insert into chimeway.workflow_steps (id, workflow_definition_id, step_key, step_order, kind, config)
        select chimeway.uuid_v7(), id, 'step', 1, 'wait', '{}' from chimeway.workflow_definitions",
        "insert into chimeway.workflow_transitions
            (workflow_run_id, workflow_step_id, inserted_at, sequence, visit, to_state, reason)
        select chimeway.uuid_v7(), id, now(), 1, 1, 'active', 'workflow_started' from chimeway.workflow_steps",
    ] {
        sqlx::query(insert).execute(&mut conn).await.unwrap();
    }
    for update in [
        "update chimeway.workflow_definitions set document = '[]'",
        "update chimeway.workflow_steps set config = '[]'",
        "update chimeway.workflow_transitions set reason = 'another'",
    ] {
        let refused = sqlx::query(update).execute(&mut conn).await.unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("is never changed"), "{update}: {refused}");
    }
}
