//! Who may decide as what.

use sqlx::PgConnection;

use super::{Chimeway, FlowError};
pub use crate::store::roles::RoleMember;
use crate::{
    ids::{ActorId, RoleName, TenantId},
    store::roles,
};

/// The calls about roles. Who has a role is looked at when somebody decides: a change counts at once.
#[derive(Clone)]
pub struct Roles(());

impl Chimeway {
    /// The calls about roles.
    #[must_use]
    pub fn roles(&self) -> Roles {
        Roles(())
    }
}

impl Roles {
    /// Gives people a role; returns those that did not have it.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn add(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        role: &RoleName,
        members: &[ActorId],
    ) -> Result<Vec<String>, FlowError> {
        let members: Vec<&str> = members.iter().map(ActorId::as_str).collect();
        Ok(roles::add(conn, tenant.as_str(), role.as_str(), &members).await?)
    }

    /// Takes a role from people; returns those that had it.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn remove(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        role: &RoleName,
        members: &[ActorId],
    ) -> Result<Vec<String>, FlowError> {
        let members: Vec<&str> = members.iter().map(ActorId::as_str).collect();
        Ok(roles::remove(conn, tenant.as_str(), role.as_str(), &members).await?)
    }

    /// Who has which role with a tenant, by role; of one role where that is given.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn list(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        role: Option<&RoleName>,
    ) -> Result<Vec<RoleMember>, FlowError> {
        Ok(roles::list(conn, tenant.as_str(), role.map(RoleName::as_str)).await?)
    }
}
