//! The HTTP API of a real worker: routes, refusals, tokens, and what generated requests find.

mod client;
mod documents;
mod generated;
mod refusals;
mod runs;
mod tokens;
mod workflows;
