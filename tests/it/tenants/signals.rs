//! What one tenant tells moves nothing of another's, whatever the payload names.

use serde_json::{Value, json};
use sqlx::Connection as _;

use super::world::{A, ADA, B, all_but, tell, world};
use crate::{
    invariants::{audit, audit_signals_made_in_time},
    tools::lines,
};

#[tokio::test]
async fn a_signal_moves_runs_of_its_own_tenant_only() {
    let world = world().await;
    let (story, a) = (&world.story, &world.a);
    // Its own open signal is routed first: that is its own doing.
    story.drain().await;
    let mut conn = story.db().connect().await;
    let of_a = all_but(&mut conn, B).await;
    let payloads = [
        json!({}),
        json!({ "notification_id": a.item }),
        json!({ "notification_id": a.item.to_string().to_uppercase() }),
        json!({ "delivery_id": a.delivered }),
        json!({ "delivery_id": a.failed, "notification_id": a.item }),
        json!({ "workflow_run_id": a.waiting, "tenant_id": A }),
    ];
    for who in [ADA, a.person.as_str()] {
        for payload in &payloads {
            tell(story, B, who, "notification_read", payload.clone()).await;
            story.drain().await;
            assert_eq!(all_but(&mut conn, B).await, of_a, "{who}: {payload}");
        }
    }
    // Through the inbox as well: the item is nobody's of this tenant.
    let marked = story
        .chimeway()
        .inbox()
        .mark(
            &mut conn,
            &B.parse().unwrap(),
            &ADA.parse().unwrap(),
            &[a.item, world.b.item],
            chimeway::flow::inbox::Mark::Read,
        )
        .await;
    assert_eq!(marked.unwrap(), [world.b.item]);
    story.drain().await;
    assert_eq!(all_but(&mut conn, B).await, of_a);
    let moved =
        "select string_agg(tenant_id, ' ') from chimeway.workflow_runs where state = 'stopped'";
    assert_eq!(lines(story.pool(), moved).await, B);

    // The same signal of its own tenant ends the wait that the others did not.
    tell(story, A, ADA, "notification_read", payloads[1].clone()).await;
    story.drain().await;
    let moved = "select string_agg(tenant_id, ' ' order by tenant_id) from chimeway.workflow_runs
                 where state = 'stopped'";
    assert_eq!(lines(story.pool(), moved).await, format!("{A} {B}"));
    audit(story.pool()).await;
}

/// Nor does it hold up a signal of another's: one tenant's router work is not in the other's way.
#[tokio::test]
async fn what_one_tenant_holds_locked_does_not_keep_another_from_going_on() {
    let world = world().await;
    let story = &world.story;
    let mut owner = story.db().connect().await;
    let mut held = owner.begin().await.unwrap();
    super::world::hold_all_of(&mut held, A).await;
    tell(story, B, ADA, "notification_read", json!({})).await;
    story.drain().await;
    let stopped =
        "select string_agg(tenant_id, ' ') from chimeway.workflow_runs where state = 'stopped'";
    assert_eq!(lines(story.pool(), stopped).await, B);
    story.advance("P1D").await;
    // What waits for a person waits for as long as it takes.
    let live = "select string_agg(distinct tenant_id, ' ') from chimeway.workflow_runs
                where ended_at is null and quarantine_reason is null
                    and status_reason <> 'waiting_for_approval'";
    assert_eq!(lines(story.pool(), live).await, A);
    held.rollback().await.unwrap();
    story.advance("P1D").await;
    assert_eq!(lines(story.pool(), live).await, "null");
    audit(story.pool()).await;
}

const MATCHING: &str = "
key: review
steps:
  - id: rest
    action:
      type: wait
      duration: PT2H
      stop_conditions:
        - type: signal_received
          signal_type: document_opened
          match: { document_id: params.document_id }
";

/// Two tenants, one person, the same workflow: a payload is compared with what started the run itself.
#[tokio::test]
async fn a_signal_is_compared_with_the_params_of_the_run_itself() {
    let world = world().await;
    let story = &world.story;
    story.apply(MATCHING).await;
    for org in [A, B] {
        let params = format!(r#"{{"actor_id": "ada", "document_id": "doc_of_{org}"}}"#);
        sqlx::query("select chimeway.trigger('review', $1::text::jsonb, $2)")
            .bind(params)
            .bind(org)
            .execute(story.pool())
            .await
            .unwrap();
    }
    story.drain().await;
    let stopped = async || {
        let runs =
            "select string_agg(r.tenant_id, ' ' order by r.tenant_id) from chimeway.workflow_runs r
                    join chimeway.workflow_definitions d on d.id = r.workflow_definition_id
                    where d.workflow_key = 'review' and r.ended_at is not null";
        lines(story.pool(), runs).await
    };
    let item = item_of(story, A).await;
    let doc = |org: &str| json!({ "document_id": format!("doc_of_{org}") });
    let about = |org: &str| {
        let mut payload = doc(org);
        payload["notification_id"] = Value::from(item.clone());
        payload
    };
    for payload in [doc(A), about(A), about(B)] {
        tell(story, B, ADA, "document_opened", payload).await;
        story.drain().await;
        assert_eq!(stopped().await, "null");
    }
    tell(story, B, ADA, "document_opened", doc(B)).await;
    story.drain().await;
    assert_eq!(stopped().await, B);
    tell(story, A, ADA, "document_opened", about(A)).await;
    story.drain().await;
    assert_eq!(stopped().await, format!("{A} {B}"));
    audit(story.pool()).await;
    audit_signals_made_in_time(story.pool()).await;
}

/// The notification of a tenant's review.
async fn item_of(story: &chimeway_testkit::Story, tenant: &str) -> String {
    let item = sqlx::query_scalar(
        "select r.notification_id::text from chimeway.workflow_runs r
         join chimeway.workflow_definitions d on d.id = r.workflow_definition_id
         where d.workflow_key = 'review' and r.tenant_id = $1",
    );
    item.bind(tenant).fetch_one(story.pool()).await.unwrap()
}
