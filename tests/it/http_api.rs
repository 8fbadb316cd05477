//! The HTTP API of a real worker: routes, refusals, tokens, and what generated requests find.

mod approvals;
pub(crate) mod client;
mod documents;
mod generated;
mod refusals;
mod runs;
mod tokens;
mod workflows;

pub(crate) use client::{Asker, Server, token};
pub(crate) use documents::operations;
