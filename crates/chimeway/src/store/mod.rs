//! All SQL, one file per aggregate.
//!
//! Every function takes `conn: &mut PgConnection`, the caller's transaction, and a **slice**: one row
//! is a slice of one, and no function sends more statements for more rows. The first line of a
//! statement names its function, so that `pg_stat_activity` points at code.
//!
//! Must not: decide anything, begin a transaction, know how its rows become tasks, read the clock.
//!
//! Lock order inside a transaction: queue row (events, signals), runs by id, deliveries by id,
//! inserts. Workers take queue rows and runs with `skip locked` and never wait for a row that a
//! host's transaction may hold (ARCHITECTURE.md, "Locks").
//!
//! To add a table: 1. a migration with a comment on each column; 2. a file here named for the
//! aggregate; 3. its place in the lock order; 4. `scripts/prepare-queries`.

pub mod acting;
pub mod approvals;
pub mod attempts;
pub mod claims;
pub mod crashes;
pub mod cron;
pub mod deliveries;
pub mod doctor;
pub mod due;
pub mod error;
pub mod events;
pub mod healing;
pub mod health;
pub mod host_rows;
pub mod inbox;
pub mod interventions;
pub mod json;
pub mod owed;
pub mod preferences;
pub mod processes;
pub mod prunable;
pub mod recipients;
mod refusal;
pub mod retention;
pub mod roles;
pub mod run_views;
pub mod runs;
pub mod schema;
pub mod server;
pub mod settings;
pub mod signals;
pub mod state_changes;
pub mod templates;
pub mod tokens;
pub mod transitions;
pub mod turns;
pub mod workflow_rows;
pub mod workflows;

pub use error::{StoreError, StoreResult};
