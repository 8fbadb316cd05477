//! How people are reached.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::StoreResult;

/// Stores how these recipients of these tenants are reached, where that is given: for each tenant
/// `[{identity, type?, addresses?, locale?, time_zone?}]`; tenants come in order, each once. What is not given keeps what is stored; an address that is null is
/// forgotten. Only a host's own transaction does this; a worker would have to wait for a row that a
/// host holds.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn upsert(
    conn: &mut PgConnection,
    tenants: &[&str],
    recipients: &[Value],
) -> StoreResult<()> {
    if tenants.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- recipients::upsert
select chimeway.upsert_recipients(u.tenant_id, u.recipients)
from unnest($1::text[], $2::jsonb[]) as u (tenant_id, recipients)"#,
        tenants as _,
        recipients,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether one of these recipients of these tenants has a time zone that the server does not know. Zones that are
/// stored with their recipient are not looked at again: the list of all of them is slow to read.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn has_unknown_zone(
    conn: &mut PgConnection,
    tenants: &[&str],
    recipients: &[Value],
) -> StoreResult<bool> {
    if tenants.is_empty() {
        return Ok(false);
    }
    Ok(sqlx::query_scalar!(
        r#"-- recipients::has_unknown_zone
select bool_or(chimeway.has_unknown_zone(u.tenant_id, u.recipients)) as "unknown!"
from unnest($1::text[], $2::jsonb[]) as u (tenant_id, recipients)"#,
        tenants as _,
        recipients,
    )
    .fetch_one(conn)
    .await?)
}

/// A recipient as stored.
#[derive(Debug, Clone)]
pub struct RecipientRow {
    /// Who.
    pub identity: String,
    /// What the recipient is.
    pub kind: Option<String>,
    /// Channel to address.
    pub addresses: Value,
    /// Language and region.
    pub locale: Option<String>,
    /// Time zone.
    pub time_zone: Option<String>,
    /// When it was last written.
    pub updated_at: DateTime<Utc>,
}

/// Those of one tenant's recipients that are stored, in order of their identities.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn find(
    conn: &mut PgConnection,
    tenant: &str,
    identities: &[&str],
) -> StoreResult<Vec<RecipientRow>> {
    Ok(sqlx::query_as!(
        RecipientRow,
        r#"-- recipients::find
select identity, type as kind, addresses, locale, time_zone, updated_at
from chimeway.recipients
where tenant_id = $1 and identity = any($2)
order by identity"#,
        tenant,
        identities as _,
    )
    .fetch_all(conn)
    .await?)
}
