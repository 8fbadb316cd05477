//! Tokens of the HTTP API, by the hash of what is shown once.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreResult;
use crate::ids::TokenId;

/// A token to store.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its row.
    pub id: TokenId,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// Who calls.
    pub subject: String,
    /// Whose data it reaches; `None`: an operator's.
    pub tenant: Option<String>,
    /// Whether a call may name somebody else as the one who acts.
    pub acts_for_others: bool,
}

/// A token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StoredToken {
    /// Which token.
    pub id: TokenId,
    /// Who calls.
    pub subject: String,
    /// Whose data it reaches; `None`: an operator's.
    pub tenant_id: Option<String>,
    /// Whether a call may name somebody else as the one who acts.
    pub acts_for_others: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// From when on it opens nothing.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Stores tokens.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn insert(conn: &mut PgConnection, tokens: &[NewToken]) -> StoreResult<()> {
    sqlx::query!(
        r#"-- tokens::insert
insert into chimeway.api_tokens (id, token_hash, subject, tenant_id, acts_for_others, created_at)
select u.id, u.hash, u.subject, u.tenant, u.acts_for_others, chimeway.now()
from unnest($1::uuid[], $2::bytea[], $3::text[], $4::text[], $5::boolean[])
    as u (id, hash, subject, tenant, acts_for_others)"#,
        &tokens.iter().map(|token| token.id.0).collect::<Vec<_>>(),
        &tokens
            .iter()
            .map(|token| token.hash.to_vec())
            .collect::<Vec<_>>(),
        &tokens
            .iter()
            .map(|token| token.subject.clone())
            .collect::<Vec<_>>(),
        &tokens
            .iter()
            .map(|token| token.tenant.clone())
            .collect::<Vec<_>>() as _,
        &tokens
            .iter()
            .map(|token| token.acts_for_others)
            .collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Those of these that open something: neither unknown nor revoked. Never cached: a token that is revoked
/// opens nothing from that commit on.
///
/// How long the index takes to find a hash may tell of hashes near it, but who calls cannot choose the digits of
/// a hash, and a hash tells nothing of its token: no comparison here needs to take a constant time.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn live(conn: &mut PgConnection, hashes: &[[u8; 32]]) -> StoreResult<Vec<StoredToken>> {
    Ok(sqlx::query_as!(
        StoredToken,
        r#"-- tokens::live
select id as "id: TokenId", subject, tenant_id, acts_for_others, created_at, revoked_at
from chimeway.api_tokens
where token_hash = any($1) and revoked_at is null
order by id"#,
        &hashes.iter().map(|hash| hash.to_vec()).collect::<Vec<_>>(),
    )
    .fetch_all(conn)
    .await?)
}

/// All tokens, or one tenant's, the newest first; revoked ones too.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn list(conn: &mut PgConnection, tenant: Option<&str>) -> StoreResult<Vec<StoredToken>> {
    Ok(sqlx::query_as!(
        StoredToken,
        r#"-- tokens::list
select id as "id: TokenId", subject, tenant_id, acts_for_others, created_at, revoked_at
from chimeway.api_tokens
where $1::text is null or tenant_id = $1
order by id desc"#,
        tenant,
    )
    .fetch_all(conn)
    .await?)
}

/// Takes back tokens; returns those that there are. A second time keeps the first instant.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn revoke(conn: &mut PgConnection, ids: &[TokenId]) -> StoreResult<Vec<StoredToken>> {
    Ok(sqlx::query_as!(
        StoredToken,
        r#"-- tokens::revoke
update chimeway.api_tokens
set revoked_at = coalesce(revoked_at, chimeway.now())
where id = any($1)
returning id as "id: TokenId", subject, tenant_id, acts_for_others, created_at, revoked_at"#,
        ids as _,
    )
    .fetch_all(conn)
    .await?)
}
