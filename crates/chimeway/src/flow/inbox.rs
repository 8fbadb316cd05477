//! One recipient's inbox.

use serde_json::json;
use sqlx::PgConnection;

use super::{Chimeway, FlowError};
pub use crate::store::inbox::{InboxItem, Mark};
use crate::{
    ids::{ActorId, NotificationId, SignalId, TenantId},
    store::{inbox, signals},
};

/// The signal that opening an item tells the runs of its recipient.
pub const NOTIFICATION_READ: &str = "notification_read";

/// Inbox calls; every one of them takes the tenant and the recipient, and touches nothing of another's.
#[derive(Clone)]
pub struct Inbox {
    chimeway: Chimeway,
}

impl Chimeway {
    /// The inbox calls.
    #[must_use]
    pub fn inbox(&self) -> Inbox {
        Inbox {
            chimeway: self.clone(),
        }
    }
}

/// Which items to list.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// At most so many; 50.
    pub limit: i64,
    /// Only those older than this one.
    pub before: Option<NotificationId>,
    /// Also those put away.
    pub archived: bool,
}

impl Default for Page {
    fn default() -> Self {
        Self {
            limit: 50,
            before: None,
            archived: false,
        }
    }
}

impl Inbox {
    /// A recipient's items, newest first.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn list(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        recipient: &ActorId,
        page: Page,
    ) -> Result<Vec<InboxItem>, FlowError> {
        let Page {
            limit,
            before,
            archived,
        } = page;
        let (tenant, recipient) = (tenant.as_str(), recipient.as_str());
        Ok(inbox::list(conn, tenant, recipient, archived, before, limit).await?)
    }

    /// How many of a recipient's items are unread; archived ones count only where asked for.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn unread_count(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        recipient: &ActorId,
        archived: bool,
    ) -> Result<i64, FlowError> {
        Ok(inbox::unread_count(conn, tenant.as_str(), recipient.as_str(), archived).await?)
    }

    /// Marks items; returns those that are the recipient's. Marking as read tells
    /// [`NOTIFICATION_READ`] for those that were unread, in the same transaction. A second mark
    /// changes nothing.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn mark(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        recipient: &ActorId,
        items: &[NotificationId],
        mark: Mark,
    ) -> Result<Vec<NotificationId>, FlowError> {
        let marked = inbox::mark(conn, tenant.as_str(), recipient.as_str(), items, mark).await?;
        if mark == Mark::Read {
            let told: Vec<signals::NewSignal> = marked
                .iter()
                .filter(|item| item.changed)
                .map(|item| signals::NewSignal {
                    id: SignalId::fresh(),
                    tenant: tenant.as_str().to_owned(),
                    actor: recipient.as_str().to_owned(),
                    name: NOTIFICATION_READ.to_owned(),
                    payload: json!({ "notification_id": item.id }),
                })
                .collect();
            self.chimeway.record_signals(conn, &told).await?;
        }
        Ok(marked.into_iter().map(|item| item.id).collect())
    }
}
