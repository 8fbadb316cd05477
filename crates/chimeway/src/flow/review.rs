//! Whether this process can do what the workflows in use ask of it: stored definitions are checked again, against
//! the channels, step kinds, actions and templates there are now.

use std::collections::BTreeSet;

use serde::Serialize;
use sqlx::PgConnection;

use super::{Chimeway, FlowError, apply, templates};
use crate::{
    definition::{Action, Document, StepKind, WorkflowPlan},
    ids::DefinitionId,
    store::workflows,
};

/// The latest version of a workflow that starts runs, as this process sees it.
#[derive(Debug, Clone, Serialize)]
pub struct Reviewed {
    /// Which workflow.
    pub workflow: String,
    /// Its latest version.
    pub version: i32,
    /// What is wrong with it here: a channel, a kind of step or an action that is not known, a template that is
    /// missing, a document that was changed by hand. One line each.
    pub mistakes: Vec<String>,
    /// Channels of its steps and webhooks that are known, and over which this process cannot send: another one must.
    pub not_sent_here: Vec<String>,
    /// What its actions write of a host's, and may not here: `orders.status`, `a row of orders`.
    pub not_written_here: Vec<String>,
}

impl Chimeway {
    /// Checks the latest versions of all active workflows again, in four statements.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn review(&self, conn: &mut PgConnection) -> Result<Vec<Reviewed>, FlowError> {
        let listed = workflows::list(conn).await?;
        let keys: Vec<&str> = listed
            .iter()
            .filter(|workflow| workflow.active)
            .map(|workflow| workflow.key.as_str())
            .collect();
        let latest = workflows::latest(conn, &keys).await?;
        let ids: Vec<DefinitionId> = latest.iter().map(|latest| latest.definition).collect();
        let rows = workflows::load(conn, &ids).await?;
        let checked: Vec<_> = rows
            .iter()
            .map(|row| apply::checked(self.core(), &Document::from_value(row.document.clone())))
            .collect();
        let sound = checked.iter().filter_map(|checked| checked.as_ref().ok());
        let stored = templates::stored_subjects(conn, sound, &self.core().known).await?;
        let mut reviewed: Vec<Reviewed> = rows
            .into_iter()
            .zip(checked)
            .map(|(row, checked)| {
                let mistakes = match &checked {
                    Ok(checked) => templates::missing(checked, &self.core().known, |key| {
                        stored.get(key).copied()
                    }),
                    Err(FlowError::InvalidDefinition(mistakes)) => mistakes.clone(),
                    Err(_) => vec![],
                };
                let plan = checked.as_ref().ok().map(|checked| &checked.plan);
                Reviewed {
                    workflow: row.key,
                    version: row.version,
                    mistakes: mistakes.iter().map(ToString::to_string).collect(),
                    not_sent_here: plan.map_or_else(Vec::new, |plan| self.not_sent_here(plan)),
                    not_written_here: plan
                        .map_or_else(Vec::new, |plan| self.not_written_here(plan)),
                }
            })
            .collect();
        reviewed.sort_by(|one, other| one.workflow.cmp(&other.workflow));
        Ok(reviewed)
    }

    fn not_sent_here(&self, plan: &WorkflowPlan) -> Vec<String> {
        let channels: BTreeSet<String> = plan
            .steps
            .iter()
            .flat_map(|step| match &step.kind {
                StepKind::Notify(notify) => vec![notify.channel.clone()],
                StepKind::Action(actions) => actions.iter().filter_map(Action::channel).collect(),
                _ => vec![],
            })
            .map(|channel| channel.to_string())
            .collect();
        let channels = channels.into_iter();
        channels
            .filter(|channel| !self.core().channels.has(channel))
            .collect()
    }

    fn not_written_here(&self, plan: &WorkflowPlan) -> Vec<String> {
        let actions = plan.steps.iter().filter_map(|step| match &step.kind {
            StepKind::Action(actions) => Some(actions),
            _ => None,
        });
        let refused: BTreeSet<String> = actions
            .flatten()
            .filter_map(|action| self.core().actions.refused(action))
            .collect();
        refused.into_iter().collect()
    }
}
