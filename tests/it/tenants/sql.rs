//! Every function of the SQL API: the tenant is the first argument of each statement, then what it is
//! about.

use sqlx::PgConnection;

use super::world::Things;

/// A function, a statement that calls it, and what it is given.
pub(super) type SqlCall = (&'static str, &'static str, fn(&Things) -> [String; 2]);

pub(super) const CALLS: &[SqlCall] = &[
    (
        "explain",
        "select chimeway.explain($1, $2::text::uuid)::text where $3 = ''",
        |its| [its.waiting.to_string(), String::new()],
    ),
    (
        "cancel",
        "select chimeway.cancel($1, $2::text::uuid, $3)::text",
        |its| [its.waiting.to_string(), "curiosity".to_owned()],
    ),
    (
        "cancel",
        "select chimeway.cancel($1, $2::text::uuid, $3)::text",
        |its| [its.lost_run.to_string(), "curiosity".to_owned()],
    ),
    (
        "approve",
        "select chimeway.approve($1, $2::text::uuid, $3)",
        |its| [its.asked.to_string(), "approver".to_owned()],
    ),
    (
        "reject",
        "select chimeway.reject($1, $2::text::uuid, $3, 'curiosity')",
        |its| [its.asked.to_string(), "approver".to_owned()],
    ),
    (
        "track",
        "select chimeway.track($1, 'ada', 'notification_read',
            jsonb_build_object('notification_id', $2::text, 'delivery_id', $3::text))::text",
        |its| [its.item.to_string(), its.delivered.to_string()],
    ),
    (
        "trigger",
        "select chimeway.trigger('mention_escalation', '{}', $1,
            jsonb_build_array(jsonb_build_object('identity', $2::text)), $3)::text",
        |its| [its.person.to_string(), its.key.clone()],
    ),
    (
        "upsert_recipient",
        "select chimeway.upsert_recipient($1, $2, jsonb_build_object('email', $3::text))::text",
        |its| [its.person.to_string(), "eve@e.example".to_owned()],
    ),
    (
        "set_preference",
        "select chimeway.set_preference($1, $2, 'category', $3, true)::text",
        |its| [its.person.to_string(), "marketing".to_owned()],
    ),
];

/// The whole answer, as text.
pub(super) async fn call(
    conn: &mut PgConnection,
    call: &SqlCall,
    tenant: &str,
    its: &Things,
) -> String {
    let (_, statement, arguments) = call;
    let [one, other] = arguments(its);
    let answer: Result<Option<String>, sqlx::Error> = sqlx::query_scalar(*statement)
        .bind(tenant)
        .bind(one)
        .bind(other)
        .fetch_one(conn)
        .await;
    format!("{answer:?}")
}
