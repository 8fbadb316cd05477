//! What recipients want to be sent.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreResult;

/// What a recipient says about one channel or one category.
#[derive(Debug, Clone)]
pub struct NewPreference {
    /// Who.
    pub recipient: String,
    /// channel or category.
    pub kind: &'static str,
    /// Which one.
    pub name: String,
    /// Whether it is wanted.
    pub enabled: bool,
}

/// Stores what recipients say; the last word counts. Each (recipient, kind, name) is given once. Written
/// in order, so that two sessions cannot deadlock.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn set(
    conn: &mut PgConnection,
    tenant: &str,
    preferences: &[NewPreference],
) -> StoreResult<()> {
    if preferences.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"-- preferences::set
insert into chimeway.preferences (tenant_id, recipient, kind, name, enabled, updated_at)
select $1, u.recipient, u.kind, u.name, u.enabled, chimeway.now()
from unnest($2::text[], $3::text[], $4::text[], $5::bool[]) as u (recipient, kind, name, enabled)
order by u.recipient, u.kind, u.name
on conflict (tenant_id, recipient, kind, name) do update
set enabled = excluded.enabled, updated_at = excluded.updated_at"#,
        tenant,
        &preferences
            .iter()
            .map(|one| one.recipient.clone())
            .collect::<Vec<_>>(),
        &preferences.iter().map(|one| one.kind).collect::<Vec<_>>() as _,
        &preferences
            .iter()
            .map(|one| one.name.clone())
            .collect::<Vec<_>>(),
        &preferences
            .iter()
            .map(|one| one.enabled)
            .collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A preference as stored.
#[derive(Debug, Clone)]
pub struct PreferenceRow {
    /// channel or category.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// Whether it is wanted.
    pub enabled: bool,
    /// When it was last said.
    pub updated_at: DateTime<Utc>,
}

/// What one tenant's recipient has said, channels after categories, by name.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn list(
    conn: &mut PgConnection,
    tenant: &str,
    recipient: &str,
) -> StoreResult<Vec<PreferenceRow>> {
    Ok(sqlx::query_as!(
        PreferenceRow,
        r#"-- preferences::list
select kind, name, enabled, updated_at
from chimeway.preferences
where tenant_id = $1 and recipient = $2
order by kind, name"#,
        tenant,
        recipient,
    )
    .fetch_all(conn)
    .await?)
}
