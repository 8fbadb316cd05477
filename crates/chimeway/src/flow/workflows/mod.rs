//! The workflow API: what hosts ask of definitions and runs, under the names of the original
//! ([docs/workflow-api.md](../../../../../docs/workflow-api.md) maps each one).
//!
//! Every call takes the caller's connection and has the fate of its transaction; only
//! [`Workflows::upsert_definition`] has one of its own. Calls that reveal or change a run for somebody
//! take the tenant: another tenant's run is not there, the same as one that never was. Calls that are
//! meant for the inside of a transaction script take none and are marked **trusted**: give them ids that
//! you have checked.

mod by_hand;
mod definitions;
mod keeping;
mod locked;
mod moving;

pub use by_hand::{Cancellation, Retried, Stamp};
pub use definitions::{StepLinkage, StoredDefinition};
pub use keeping::WorkflowName;
pub use locked::{HistoryLine, LockedRun, RunUpdate};
pub use moving::{Progressed, Routed, RunRouted};

use sqlx::PgConnection;

use super::{Chimeway, Core, Dispatcher, FlowError, made::Made};
pub use crate::store::{
    run_views::WorkflowRun, workflow_rows::StoredWorkflow, workflows::StoredStep,
};
use crate::{
    ids::{RunId, TenantId},
    queue::QueueName,
    store::{run_views, settings},
};

/// The calls about definitions and runs.
#[derive(Clone)]
pub struct Workflows {
    chimeway: Chimeway,
}

impl Chimeway {
    /// The calls about definitions and runs.
    #[must_use]
    pub fn workflows(&self) -> Workflows {
        Workflows {
            chimeway: self.clone(),
        }
    }
}

impl Workflows {
    fn core(&self) -> &Core {
        self.chimeway.core()
    }

    /// One tenant's run as it is stored; `None` where that tenant has no such run.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn get_run(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        run: RunId,
    ) -> Result<Option<WorkflowRun>, FlowError> {
        let found = run_views::find(conn, tenant.as_str(), &[run]).await?;
        Ok(found.into_iter().next())
    }

    /// Tells workers, at the caller's commit, what its transaction made due.
    async fn wake(&self, conn: &mut PgConnection, made: &Made) -> Result<(), FlowError> {
        let mut queues = vec![];
        if made.planned > 0 {
            queues.push(QueueName::Delivery.as_str());
        }
        if made.next_wake.is_some() {
            queues.push(QueueName::Workflows.as_str());
        }
        self.wake_queues(conn, &queues).await
    }

    async fn wake_queues(&self, conn: &mut PgConnection, queues: &[&str]) -> Result<(), FlowError> {
        if self.core().dispatcher == Dispatcher::Queued {
            settings::wake(conn, queues).await?;
        }
        Ok(())
    }
}

fn not_found(
    what: &'static str,
    id: impl std::fmt::Display,
    tenant: Option<&TenantId>,
) -> FlowError {
    FlowError::NotFound {
        what,
        id: id.to_string(),
        tenant: tenant.cloned(),
    }
}
