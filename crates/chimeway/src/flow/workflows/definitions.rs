//! Definitions and their steps, stored and found.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use super::{StoredStep, Workflows, not_found};
use crate::{
    definition::{ContentHash, Document},
    flow::{FlowError, apply, definitions::undecodable},
    ids::{DefinitionId, NotificationId, RunId, StepId, StepKey, TenantId, Version, WorkflowKey},
    store::{run_views, workflows},
};

/// One version of a workflow as it is stored; it never changes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredDefinition {
    /// Its row.
    pub id: DefinitionId,
    /// Which workflow.
    pub workflow_key: WorkflowKey,
    /// Which version.
    pub workflow_version: Version,
    /// The checked document in canonical form, without its version.
    pub document: Value,
    /// SHA-256 of the document: equal content, equal hash. In hex.
    pub content_hash: String,
    /// In order.
    pub steps: Vec<StoredStep>,
    /// When it was stored.
    pub created_at: DateTime<Utc>,
}

/// Where the run of a notification is, for linking a message of the host's own to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepLinkage {
    /// The run.
    pub workflow_run_id: RunId,
    /// The step it is in.
    pub workflow_step_id: StepId,
    /// The channel of that step; `None` where it sends nothing.
    pub channel: Option<String>,
}

impl Workflows {
    /// Makes sure that a document is stored as a version of its workflow, in the caller's transaction:
    /// the same content under the same version is that definition, whoever stored it.
    ///
    /// Another session that stores the same version at the same time is waited for. For many documents,
    /// or where the caller's transaction is long, [`upsert_definition`](Workflows::upsert_definition)
    /// is better.
    ///
    /// # Errors
    ///
    /// [`FlowError::InvalidDefinition`] with every mistake; [`FlowError::VersionConflict`] where the
    /// version is stored with other content. Nothing is written then.
    pub async fn ensure_definition(
        &self,
        conn: &mut PgConnection,
        document: &Document,
    ) -> Result<StoredDefinition, FlowError> {
        let id = apply::ensure_document(self.core(), conn, document, None).await?;
        self.stored(conn, id)
            .await?
            .ok_or_else(|| undecodable(id).into())
    }

    /// As [`ensure_definition`](Workflows::ensure_definition), in a short transaction of its own. What
    /// [`Chimeway::apply`](crate::Chimeway::apply) does, without templates.
    ///
    /// # Errors
    ///
    /// As [`ensure_definition`](Workflows::ensure_definition).
    pub async fn upsert_definition(
        &self,
        pool: &PgPool,
        document: &Document,
    ) -> Result<StoredDefinition, FlowError> {
        let sessions = self.core().sessions(pool);
        let work = sessions.bounded();
        let store = async {
            let mut session = work.session().await?;
            let mut tx = session.begin_plain().await?;
            let stored = self.ensure_definition(&mut tx, document).await?;
            tx.commit().await?;
            Ok(stored)
        };
        work.run(store).await
    }

    /// One version of a workflow; `None` where it is not stored. Definitions belong to no tenant.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn fetch_definition(
        &self,
        conn: &mut PgConnection,
        key: &WorkflowKey,
        version: Version,
    ) -> Result<Option<StoredDefinition>, FlowError> {
        match workflows::find(conn, key.as_str(), Some(version.0)).await? {
            Some(id) => self.stored(conn, id).await,
            None => Ok(None),
        }
    }

    /// The step of that name in a definition; `None` where it has none.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn fetch_step_by_key(
        &self,
        conn: &mut PgConnection,
        definition: DefinitionId,
        key: &StepKey,
    ) -> Result<Option<StoredStep>, FlowError> {
        let steps = workflows::steps(conn, &[definition]).await?;
        Ok(steps.into_iter().find(|step| step.step_key == key.as_str()))
    }

    /// The definition that the run of a notification follows; `None` where it has no run.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn persisted_workflow(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        notification: NotificationId,
    ) -> Result<Option<StoredDefinition>, FlowError> {
        match self.run_of(conn, tenant, notification).await? {
            Some(run) => self.stored(conn, run.workflow_definition_id).await,
            None => Ok(None),
        }
    }

    /// Where the live run of a notification is; `None` where it has none, or the run has ended.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn active_step_linkage(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        notification: NotificationId,
    ) -> Result<Option<StepLinkage>, FlowError> {
        let run = self.run_of(conn, tenant, notification).await?;
        let Some(run) = run.filter(|run| run.ended_at.is_none()) else {
            return Ok(None);
        };
        let step = self.get_current_step(conn, &run).await?;
        Ok(Some(StepLinkage {
            workflow_run_id: run.id,
            workflow_step_id: step.id,
            channel: step.channel,
        }))
    }

    /// The step that a run is in, or ended in. **Trusted.**
    ///
    /// # Errors
    ///
    /// [`FlowError::NotFound`] where the row names a step that is not there: it was changed by hand.
    pub async fn get_current_step(
        &self,
        conn: &mut PgConnection,
        run: &super::WorkflowRun,
    ) -> Result<StoredStep, FlowError> {
        let steps = workflows::steps(conn, &[run.workflow_definition_id]).await?;
        steps
            .into_iter()
            .find(|step| step.id == run.current_step_id)
            .ok_or_else(|| not_found("step", run.current_step_id, None))
    }

    async fn run_of(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        notification: NotificationId,
    ) -> Result<Option<super::WorkflowRun>, FlowError> {
        let runs = run_views::of_notifications(conn, tenant.as_str(), &[notification]).await?;
        match runs.first() {
            Some(run) => self.get_run(conn, tenant, *run).await,
            None => Ok(None),
        }
    }

    async fn stored(
        &self,
        conn: &mut PgConnection,
        id: DefinitionId,
    ) -> Result<Option<StoredDefinition>, FlowError> {
        let Some(row) = workflows::load(conn, &[id]).await?.into_iter().next() else {
            return Ok(None);
        };
        Ok(Some(StoredDefinition {
            id,
            workflow_key: WorkflowKey::new(row.key)?,
            workflow_version: Version(row.version),
            content_hash: row.hash,
            document: row.document,
            steps: workflows::steps(conn, &[id]).await?,
            created_at: row.created_at,
        }))
    }
}

impl StoredDefinition {
    /// Whether the content is the same as a checked document's.
    #[must_use]
    pub fn holds(&self, hash: &ContentHash) -> bool {
        self.content_hash == hash.as_str()
    }
}
