//! A run is one tenant's.

use chimeway::{
    FlowError,
    ids::{DefinitionId, TenantId},
};
use chimeway_testkit::Story;
use sqlx::Executor as _;

use super::{BASE, KEY, begin, notification_of};
use crate::tools::{MORNING, tenant, written};

/// Scenario 112.
#[tokio::test]
async fn nothing_is_made_for_no_tenant() {
    for blank in ["", " ", "\t"] {
        assert!(TenantId::new(blank).is_err(), "{blank:?}");
    }
    let story = Story::begin(MORNING).await;
    story.apply(BASE).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    for sql in [
        "select chimeway.trigger('comment.escalation', '{\"actor_id\": \"ada\"}', '')",
        "select chimeway.trigger('comment.escalation', '{\"actor_id\": \"ada\"}', null)",
        // Past the functions: the tables refuse it too.
        "insert into chimeway.events (id, tenant_id, workflow_key, workflow_definition_id, params,
            occurred_at, inserted_at)
         values (gen_random_uuid(), '', 'k', gen_random_uuid(), '{}', now(), now())",
        "insert into chimeway.workflow_runs (id, workflow_definition_id, current_step_id, started_at,
            last_transition_at, visit, transition_count, tenant_id, actor_id, state, status_reason)
         values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now(), now(), 1, 1, null,
            'ada', 'active', 'workflow_started')",
    ] {
        assert!(conn.execute(sql).await.is_err(), "{sql}");
    }
    assert_eq!(written(&mut conn).await, before);
}

/// Scenario 114.
#[tokio::test]
async fn nobody_plans_for_another_tenants_notification() {
    let (story, run) = begin(BASE, KEY).await;
    let notification = notification_of(&story, run).await;
    let definition: DefinitionId =
        sqlx::query_scalar("select id from chimeway.workflow_definitions")
            .fetch_one(story.pool())
            .await
            .unwrap();
    let mut conn = story.pool().acquire().await.unwrap();
    let before = written(&mut conn).await;
    let workflows = story.chimeway().workflows();
    let elsewhere: TenantId = "org_999".parse().unwrap();
    let refused = workflows
        .create_initial_run(&mut conn, &elsewhere, notification, definition, story.now())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, FlowError::TenantMismatch { .. }),
        "{refused}"
    );
    assert_eq!(refused.code(), "tenant_mismatch");
    assert_eq!(written(&mut conn).await, before);
    let own = workflows
        .create_initial_run(&mut conn, &tenant(), notification, definition, story.now())
        .await;
    assert_eq!(own.unwrap().id, run);
}
