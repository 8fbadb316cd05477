//! Chimeway: a durable, explainable engine for notification journeys and business workflows on
//! PostgreSQL.

pub mod channels;
pub mod definition;
pub mod engine;
pub mod flow;
pub mod ids;
pub mod queue;
pub mod store;

pub use definition::{Document, Workflow, WorkflowBuilder};
pub use flow::{Chimeway, Dispatcher, FlowError, Recipient, Signal, Trigger, Triggered};
