//! Stories over a real PostgreSQL, real processes, separate connections for races.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod invariants;
mod spine;

mod cron;

mod support;
mod tools;
