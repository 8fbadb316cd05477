//! The tries of deliveries.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, types::Json};

use super::{StoreResult, claims::ClaimRef, deliveries::interval};
use crate::ids::AttemptNumber;

/// One try, as it is written.
#[derive(Debug, Clone)]
pub struct NewAttempt {
    /// Which delivery, under which fence.
    pub claim: ClaimRef,
    /// Which try.
    pub number: AttemptNumber,
    /// succeeded, failed or unknown.
    pub outcome: &'static str,
    /// temporary, permanent, bounced or unknown.
    pub error_class: Option<&'static str>,
    /// Which adapter was called.
    pub adapter: String,
    /// Which worker process called it.
    pub worker: String,
    /// The provider's id for the message.
    pub provider_message_id: Option<String>,
    /// What the adapter kept of the answer.
    pub response: Option<Value>,
    /// Which template made the message.
    pub template_hash: Option<String>,
    /// When the channel was called.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub took: Duration,
}

/// Writes tries of claims that held their deliveries until now: nobody else can have written them.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn insert(conn: &mut PgConnection, attempts: &[NewAttempt]) -> StoreResult<()> {
    if attempts.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- attempts::insert
insert into chimeway.delivery_attempts (
    delivery_id, claim_no, attempt_number, outcome, error_class, adapter, worker,
    provider_message_id, response, started_at, finished_at, template_hash
)
select u.id, u.claim_no, u.number, u.outcome, u.error_class, u.adapter, u.worker,
    u.provider_message_id, u.response, u.started_at, u.started_at + u.took, u.template_hash
from unnest(
        $1::uuid[], $2::int[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::jsonb[], $10::timestamptz[], $11::interval[], $12::text[]
    ) as u (
        id, claim_no, number, outcome, error_class, adapter, worker, provider_message_id,
        response, started_at, took, template_hash
    )"#,
        &attempts.iter().map(|one| one.claim.id.0).collect::<Vec<_>>(),
        &attempts.iter().map(|one| one.claim.claim_no.0).collect::<Vec<_>>(),
        &attempts.iter().map(|one| one.number.0).collect::<Vec<_>>(),
        &attempts.iter().map(|one| one.outcome).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.error_class).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.adapter.as_str()).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.worker.as_str()).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.provider_message_id.as_deref()).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.response.as_ref().map(Json)).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.started_at).collect::<Vec<_>>(),
        &attempts.iter().map(|one| interval(one.took)).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.template_hash.as_deref()).collect::<Vec<_>>() as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes tries of claims that may have lost their deliveries. One that was closed as unknown is amended by its real
/// outcome, whoever holds the delivery now; any other is written once. A delivery that retention has taken gets none.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn amend(conn: &mut PgConnection, attempts: &[NewAttempt]) -> StoreResult<()> {
    if attempts.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- attempts::amend
insert into chimeway.delivery_attempts as a (
    delivery_id, claim_no, attempt_number, outcome, error_class, adapter, worker,
    provider_message_id, response, started_at, finished_at, template_hash
)
select u.id, u.claim_no, u.number, u.outcome, u.error_class, u.adapter, u.worker,
    u.provider_message_id, u.response, u.started_at, u.started_at + u.took, u.template_hash
from unnest(
        $1::uuid[], $2::int[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::jsonb[], $10::timestamptz[], $11::interval[], $12::text[]
    ) as u (
        id, claim_no, number, outcome, error_class, adapter, worker, provider_message_id,
        response, started_at, took, template_hash
    )
    join chimeway.deliveries d on d.id = u.id
on conflict (delivery_id, attempt_number) do update
set outcome = excluded.outcome, error_class = excluded.error_class,
    provider_message_id = excluded.provider_message_id, response = excluded.response,
    finished_at = excluded.finished_at, template_hash = excluded.template_hash
where a.outcome = 'unknown' and a.claim_no = excluded.claim_no and excluded.outcome <> 'unknown'"#,
        &attempts.iter().map(|one| one.claim.id.0).collect::<Vec<_>>(),
        &attempts.iter().map(|one| one.claim.claim_no.0).collect::<Vec<_>>(),
        &attempts.iter().map(|one| one.number.0).collect::<Vec<_>>(),
        &attempts.iter().map(|one| one.outcome).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.error_class).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.adapter.as_str()).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.worker.as_str()).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.provider_message_id.as_deref()).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.response.as_ref().map(Json)).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.started_at).collect::<Vec<_>>(),
        &attempts.iter().map(|one| interval(one.took)).collect::<Vec<_>>() as _,
        &attempts.iter().map(|one| one.template_hash.as_deref()).collect::<Vec<_>>() as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}
