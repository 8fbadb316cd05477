//! Who may decide as what.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreResult;

/// Gives a tenant's people a role; returns those that did not have it.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn add(
    conn: &mut PgConnection,
    tenant: &str,
    role: &str,
    members: &[&str],
) -> StoreResult<Vec<String>> {
    Ok(sqlx::query_scalar!(
        r#"-- roles::add
insert into chimeway.role_members (tenant_id, role, member, added_at)
select distinct $1, $2, member, chimeway.now()
from unnest($3::text[]) as member
order by member
on conflict (tenant_id, role, member) do nothing
returning member"#,
        tenant,
        role,
        members as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Takes a role from a tenant's people; returns those that had it.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn remove(
    conn: &mut PgConnection,
    tenant: &str,
    role: &str,
    members: &[&str],
) -> StoreResult<Vec<String>> {
    Ok(sqlx::query_scalar!(
        r#"-- roles::remove
delete from chimeway.role_members
where tenant_id = $1 and role = $2 and member = any($3)
returning member"#,
        tenant,
        role,
        members as _,
    )
    .fetch_all(conn)
    .await?)
}

/// Who has a role.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RoleMember {
    /// Whose it is.
    pub tenant_id: String,
    /// Which role.
    pub role: String,
    /// Who has it.
    pub member: String,
    /// Since when.
    pub added_at: DateTime<Utc>,
}

/// Who has which role with a tenant, by role; of one role where that is given.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn list(
    conn: &mut PgConnection,
    tenant: &str,
    role: Option<&str>,
) -> StoreResult<Vec<RoleMember>> {
    Ok(sqlx::query_as!(
        RoleMember,
        r#"-- roles::list
select tenant_id, role, member, added_at
from chimeway.role_members
where tenant_id = $1 and ($2::text is null or role = $2)
order by role, member"#,
        tenant,
        role,
    )
    .fetch_all(conn)
    .await?)
}
