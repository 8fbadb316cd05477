//! A definition as the engine runs it: the checked plan beside the ids of its rows.

use super::{
    approval::Assignee,
    step::{Outcome, Step, StepKind, Target, WorkflowPlan},
};
use crate::ids::{DefinitionId, StepId, StepKey, Version, WorkflowKey};

/// The place of a step in its definition, counted from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepIndex(pub usize);

impl StepIndex {
    /// Where every run begins.
    pub const FIRST: Self = Self(0);
}

/// Where a run goes, once a [`Target`] has been looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// The run enters this step.
    Step(StepIndex),
    /// The run ends `completed`.
    Complete,
    /// The run ends `stopped`.
    Stop,
}

/// One version of a workflow as it is stored: immutable, and so safe to cache by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The row.
    pub id: DefinitionId,
    /// The workflow it is a version of.
    pub key: WorkflowKey,
    /// Which revision.
    pub version: Version,
    /// What to do.
    pub plan: WorkflowPlan,
    /// The rows of the steps, in the order of the plan.
    pub step_ids: Vec<StepId>,
}

/// A plan and its rows that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionMismatch {
    /// The plan and the rows count differently.
    #[error("the document has {steps} steps and the definition {rows} step rows")]
    StepCount {
        /// In the plan.
        steps: usize,
        /// In the table.
        rows: usize,
    },
    /// The plan was not checked: there is nothing to run.
    #[error("the document has no steps")]
    NoSteps,
    /// The plan was not checked: a target names no step.
    #[error("there is no step named `{0}`")]
    NoSuchStep(StepKey),
}

impl Definition {
    /// Puts a plan and its rows together. `step_ids` are in the order of the plan.
    ///
    /// # Errors
    ///
    /// [`DefinitionMismatch`] if they cannot belong together or the plan was never checked; either
    /// means that the stored rows were changed by hand.
    pub fn new(
        id: DefinitionId,
        version: Version,
        plan: WorkflowPlan,
        step_ids: Vec<StepId>,
    ) -> Result<Self, DefinitionMismatch> {
        if plan.steps.is_empty() {
            return Err(DefinitionMismatch::NoSteps);
        }
        if plan.steps.len() != step_ids.len() {
            let (steps, rows) = (plan.steps.len(), step_ids.len());
            return Err(DefinitionMismatch::StepCount { steps, rows });
        }
        for target in plan.steps.iter().flat_map(Step::targets) {
            if let Target::Goto(key) = target
                && plan.position(key).is_none()
            {
                return Err(DefinitionMismatch::NoSuchStep(key.clone()));
            }
        }
        Ok(Self {
            id,
            key: plan.key.clone(),
            version,
            plan,
            step_ids,
        })
    }

    /// The step at that place.
    ///
    /// # Panics
    ///
    /// If the index is not of this definition.
    #[must_use]
    pub fn step(&self, index: StepIndex) -> &Step {
        &self.plan.steps[index.0]
    }

    /// The row of the step at that place.
    ///
    /// # Panics
    ///
    /// If the index is not of this definition.
    #[must_use]
    pub fn step_id(&self, index: StepIndex) -> StepId {
        self.step_ids[index.0]
    }

    /// The place of a step row, if it is one of this definition.
    #[must_use]
    pub fn index_of(&self, id: StepId) -> Option<StepIndex> {
        self.step_ids
            .iter()
            .position(|known| *known == id)
            .map(StepIndex)
    }

    /// The place of the step of that name.
    #[must_use]
    pub fn index_of_key(&self, key: &StepKey) -> Option<StepIndex> {
        self.plan.position(key).map(StepIndex)
    }

    /// Whether a run may leave a message behind that is still being tried: a step names
    /// `temporary_failure`.
    #[must_use]
    pub fn moves_early(&self) -> bool {
        let named = |step: &Step| step.on_outcome.contains_key(&Outcome::TemporaryFailure);
        self.plan.steps.iter().any(named)
    }

    /// Whether one of its steps looks into the run's context or the trigger's params when it is entered.
    #[must_use]
    pub fn needs_facts(&self) -> bool {
        self.plan.steps.iter().any(|step| match &step.kind {
            StepKind::Condition(_) | StepKind::Action(_) => true,
            StepKind::Approval(approval) => matches!(approval.assignee, Assignee::Path(_)),
            StepKind::Notify(_) | StepKind::Wait(_) | StepKind::Custom(_) => false,
        })
    }

    /// Looks a target up, as seen from the step that the run leaves.
    ///
    /// # Panics
    ///
    /// If the target is not of this definition: [`Definition::new`] has checked those that are.
    #[must_use]
    pub fn resolve(&self, from: StepIndex, target: &Target) -> Resolved {
        match target {
            Target::Next if from.0 + 1 < self.plan.steps.len() => {
                Resolved::Step(StepIndex(from.0 + 1))
            }
            Target::Next | Target::Complete => Resolved::Complete,
            Target::Stop => Resolved::Stop,
            Target::Goto(key) => match self.index_of_key(key) {
                Some(index) => Resolved::Step(index),
                None => panic!("`{key}` is not a step of `{}` {}", self.key, self.version),
            },
        }
    }
}

impl Step {
    /// Every target the step names, in no particular order.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Target> {
        let releases = match &self.kind {
            StepKind::Wait(wait) => wait.stop_conditions.as_slice(),
            _ => [].as_slice(),
        };
        self.on_outcome
            .values()
            .chain(releases.iter().map(|condition| &condition.then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::{Document, WorkflowBuilder, read_stored};

    fn plan() -> WorkflowPlan {
        let document = WorkflowBuilder::new("journey")
            .notify("first", "log", "hello")
            .wait("pause", "PT1H", |wait| wait.stop_on("seen"))
            .notify("last", "log", "bye")
            .document();
        read_stored(document.value()).unwrap()
    }

    fn definition() -> Definition {
        let ids = (1..=3).map(|n| StepId(uuid::Uuid::from_u128(n))).collect();
        let id = DefinitionId(uuid::Uuid::from_u128(9));
        Definition::new(id, Version(1), plan(), ids).unwrap()
    }

    #[test]
    fn a_target_leads_where_it_says() {
        let definition = definition();
        let goto = |key: &str| Target::Goto(key.parse().unwrap());
        let table = [
            (0, Target::Next, Resolved::Step(StepIndex(1))),
            (1, Target::Next, Resolved::Step(StepIndex(2))),
            (2, Target::Next, Resolved::Complete),
            (0, Target::Complete, Resolved::Complete),
            (0, Target::Stop, Resolved::Stop),
            (0, goto("last"), Resolved::Step(StepIndex(2))),
            (2, goto("first"), Resolved::Step(StepIndex(0))),
            (1, goto("pause"), Resolved::Step(StepIndex(1))),
        ];
        for (from, target, expected) in table {
            let resolved = definition.resolve(StepIndex(from), &target);
            assert_eq!(resolved, expected, "from {from} to {target:?}");
        }
    }

    #[test]
    fn rows_and_steps_find_each_other() {
        let definition = definition();
        for index in (0..3).map(StepIndex) {
            let key = &definition.step(index).key;
            assert_eq!(definition.index_of(definition.step_id(index)), Some(index));
            assert_eq!(definition.index_of_key(key), Some(index));
        }
        assert_eq!(definition.index_of(StepId(uuid::Uuid::from_u128(7))), None);
    }

    #[test]
    fn a_plan_and_rows_that_do_not_fit_are_refused() {
        let id = DefinitionId(uuid::Uuid::from_u128(9));
        let step_ids = vec![StepId(uuid::Uuid::from_u128(1)); 3];

        let short = Definition::new(id, Version(1), plan(), step_ids[..2].to_vec());
        assert_eq!(
            short,
            Err(DefinitionMismatch::StepCount { steps: 3, rows: 2 })
        );

        let mut astray = plan();
        let nowhere: StepKey = "nowhere".parse().unwrap();
        astray.steps[1].on_outcome.insert(
            crate::definition::Outcome::Elapsed,
            Target::Goto(nowhere.clone()),
        );
        let astray = Definition::new(id, Version(1), astray, step_ids);
        assert_eq!(astray, Err(DefinitionMismatch::NoSuchStep(nowhere)));

        let empty = WorkflowPlan {
            steps: vec![],
            ..plan()
        };
        let empty = Definition::new(id, Version(1), empty, vec![]);
        assert_eq!(empty, Err(DefinitionMismatch::NoSteps));
    }

    #[test]
    fn a_stored_document_may_name_a_channel_that_this_process_lacks() {
        let document = WorkflowBuilder::new("journey").notify("only", "carrier_pigeon", "coo");
        let document: Document = document.document();
        assert!(read_stored(document.value()).is_ok());
    }
}
