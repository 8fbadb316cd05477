//! Keeping workflows: making one, giving it a new version, retiring it. What an admin does over HTTP;
//! [`Chimeway::apply`](crate::Chimeway::apply) is for documents in files.

use std::{convert::Infallible, fmt, str::FromStr};

use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoredWorkflow, Workflows, not_found};
use crate::{
    definition::{DefinitionError, Document, Problem, Validated, validate},
    flow::{FlowError, apply},
    ids::{WorkflowId, WorkflowKey},
    store::workflow_rows,
};

/// A workflow by its id or by its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkflowName {
    /// Its id: what looks like one is taken for one.
    Id(WorkflowId),
    /// Its key, unchecked: what is no key is nobody's.
    Key(String),
}

impl FromStr for WorkflowName {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match Uuid::try_parse(text) {
            Ok(id) => Self::Id(WorkflowId(id)),
            Err(_) => Self::Key(text.to_owned()),
        })
    }
}

impl fmt::Display for WorkflowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Key(key) => key.fmt(f),
        }
    }
}

impl Workflows {
    /// The workflows in use, each with its latest version, by key. Definitions belong to no tenant.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn list_workflows(
        &self,
        conn: &mut PgConnection,
    ) -> Result<Vec<StoredWorkflow>, FlowError> {
        Ok(workflow_rows::in_use(conn, None).await?)
    }

    /// A workflow in use, with its latest version.
    ///
    /// # Errors
    ///
    /// [`FlowError::NotFound`], also of one that was retired.
    pub async fn get_workflow(
        &self,
        conn: &mut PgConnection,
        name: &WorkflowName,
    ) -> Result<StoredWorkflow, FlowError> {
        let found = match name {
            WorkflowName::Id(id) => workflow_rows::in_use(conn, Some((&[*id], &[]))).await?,
            // Blank, too long, or with a character that no name has: not asked for.
            WorkflowName::Key(key) if WorkflowKey::new(key.as_str()).is_err() => vec![],
            WorkflowName::Key(key) => workflow_rows::in_use(conn, Some((&[], &[key]))).await?,
        };
        let found = found.into_iter().next();
        found.ok_or_else(|| not_found("workflow", name, None))
    }

    /// Makes a workflow of a document, in the caller's transaction. A retired one of that key is in use again,
    /// with this document as its next version, or the same version where the content is the same. Roll back
    /// where it is refused.
    ///
    /// # Errors
    ///
    /// [`FlowError::WorkflowExists`] where a workflow of that key is in use: of two that make the same one, one
    /// does. [`FlowError::InvalidDefinition`]; [`FlowError::VersionConflict`].
    pub async fn create_workflow(
        &self,
        conn: &mut PgConnection,
        document: &Document,
        active: bool,
    ) -> Result<StoredWorkflow, FlowError> {
        let checked = self.checked(document)?;
        let key = &checked.plan.key;
        let new = [(WorkflowId::fresh(), key.as_str())];
        if workflow_rows::make(conn, &new, active).await?.is_empty() {
            return Err(FlowError::WorkflowExists(key.clone()));
        }
        apply::store_version(self.core(), conn, &checked).await?;
        self.get_workflow(conn, &WorkflowName::Key(key.to_string()))
            .await
    }

    /// Gives a workflow in use a new version, in the caller's transaction: new runs follow it, running ones
    /// keep theirs. The same content as the latest version is that version. `active` pauses or resumes the
    /// workflow; `None` leaves that as it is. Roll back where it is refused.
    ///
    /// # Errors
    ///
    /// [`FlowError::NotFound`]; [`FlowError::InvalidDefinition`], also where the document is of another key;
    /// [`FlowError::VersionConflict`].
    pub async fn replace_workflow(
        &self,
        conn: &mut PgConnection,
        name: &WorkflowName,
        document: &Document,
        active: Option<bool>,
    ) -> Result<StoredWorkflow, FlowError> {
        let known = self.get_workflow(conn, name).await?;
        let checked = self.checked(document)?;
        if checked.plan.key.as_str() != known.key {
            return Err(FlowError::InvalidDefinition(vec![DefinitionError {
                pointer: format!("/{}", key_field(document)),
                problem: Problem::OtherKey {
                    found: checked.plan.key.to_string(),
                    expected: known.key.clone(),
                },
                hint: Some(
                    "a workflow keeps its key; make another workflow for another key".into(),
                ),
            }]));
        }
        // Held from here on: it is not retired before the caller commits.
        if workflow_rows::change(conn, &[known.id], active)
            .await?
            .is_empty()
        {
            return Err(not_found("workflow", name, None));
        }
        apply::store_version(self.core(), conn, &checked).await?;
        self.get_workflow(conn, name).await
    }

    /// Retires a workflow in use, in the caller's transaction: triggers start no runs of it, and it is listed
    /// no more. Its versions stay, and its running runs go on. What is made under its key later brings it back.
    ///
    /// # Errors
    ///
    /// [`FlowError::NotFound`].
    pub async fn retire_workflow(
        &self,
        conn: &mut PgConnection,
        name: &WorkflowName,
    ) -> Result<StoredWorkflow, FlowError> {
        let known = self.get_workflow(conn, name).await?;
        match workflow_rows::retire(conn, &[known.id]).await?.is_empty() {
            true => Err(not_found("workflow", name, None)),
            false => Ok(known),
        }
    }

    fn checked(&self, document: &Document) -> Result<Validated, FlowError> {
        validate(document, &self.core().known).map_err(FlowError::InvalidDefinition)
    }
}

/// Where a document has its key: each way of writing one has its own word.
fn key_field(document: &Document) -> &'static str {
    let fields = ["name", "workflow_key"].into_iter();
    let mut fields = fields.filter(|field| document.value().get(field).is_some());
    fields.next().unwrap_or("key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workflow_is_named_by_its_id_or_its_key() {
        let named = |text: &str| text.parse::<WorkflowName>().ok();
        let id = Uuid::from_u128(7);
        assert_eq!(
            named(&id.to_string()),
            Some(WorkflowName::Id(WorkflowId(id)))
        );
        assert_eq!(named("7"), Some(WorkflowName::Key("7".into())));
    }
}
