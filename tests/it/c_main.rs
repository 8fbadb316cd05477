//! Under construction: merged into main.rs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod checkers;
mod cli;
mod cli_refusals;
mod cli_worker;
mod host;
mod plans;
mod programs;
mod python_host;
mod schema;
mod source;
mod sql_refusals;
mod sql_security;
mod support;
mod tidy;
mod trigger_sql;
