//! What a workflow is: the documents people write, the one checker, and the plan it makes.
//!
//! Must not: do I/O, read a clock, make ids, know a database or a queue. What a document may name
//! beyond the built-in channels comes in as [`Known`].
//!
//! [`Document`] is what people write, [`WorkflowPlan`] is what the engine can trust, and between
//! them stands [`validate()`], which reports every mistake with its place. Past it no step names a
//! step that does not exist.
//!
//! `read.rs` and `routes.rs` read our own way of writing a workflow, `rules.rs` that of the original
//! Chimeway, `rocket.rs` Rocket's; all make the same plan. `condition.rs`, `approval.rs`, `action.rs` and
//! `trigger.rs` have the parts of business workflows, each with what reads it.
//!
//! To add a step kind:
//!
//! 1. `step.rs`: a variant of [`StepKind`] with its struct, and its outcomes in [`Outcome`];
//! 2. `read.rs`: its name in `KINDS`, its keys, and a function that reads them;
//! 3. `canonical.rs`: how it is written down, with defaults left out;
//! 4. `stored.rs`: the targets it names besides `on_outcome`;
//! 5. `graph.rs`: whether a loop through it takes time;
//! 6. `builder.rs`: a method, and a variant in `properties.rs`;
//! 7. a file in the engine that says what entering and leaving it means.

pub mod action;
pub mod approval;
pub mod builder;
pub mod canonical;
pub mod condition;
pub mod custom;
pub mod document;
pub mod duration;
pub mod error;
pub mod expression;
mod graph;
pub mod known;
mod matches;
#[cfg(test)]
mod properties;
mod read;
pub mod rocket;
mod routes;
mod rules;
mod shape;
pub mod step;
pub mod stored;
mod strict;
pub mod trigger;
pub mod validate;

pub use action::{Action, MAX_ACTIONS, Operand, Webhook};
pub use approval::{Approval, Assignee};
pub use builder::{ActionBuilder, ApprovalBuilder, To, WaitBuilder, WorkflowBuilder};
pub use canonical::ContentHash;
pub use condition::Condition;
pub use custom::Custom;
pub use document::Document;
pub use duration::{BadDuration, IsoDuration};
pub use error::{DefinitionError, Problem};
pub use expression::{BadExpression, Expression, Unevaluated};
pub use known::Known;
pub(crate) use matches::is_huge;
pub use read::{MAX_STEPS, MAX_STOP_CONDITIONS};
pub use step::{
    Expected, JsonPath, Match, Notify, Outcome, Step, StepKind, StopCondition, Target, Wait,
    WorkflowPlan,
};
pub use stored::{Definition, DefinitionMismatch, Resolved, StepIndex};
pub use trigger::{Source, StateChange};
pub use validate::{Validated, read_stored, validate};

/// A workflow written in Rust. A trigger with one makes sure that its definition is stored.
///
/// ```
/// use chimeway::definition::{Document, Workflow, WorkflowBuilder};
///
/// struct MentionEscalation;
///
/// impl Workflow for MentionEscalation {
///     fn workflow(&self) -> Document {
///         WorkflowBuilder::new("mention_escalation")
///             .notify("step_in_app", "in_app", "mention_notification")
///             .wait("step_wait_for_read", "PT2H", |wait| wait.stop_on("notification_read"))
///             .notify("step_email_escalation", "email", "mention_email")
///             .document()
///     }
/// }
/// # let _ = MentionEscalation.workflow();
/// ```
pub trait Workflow {
    /// The document; it should be the same one every time.
    fn workflow(&self) -> Document;
}
