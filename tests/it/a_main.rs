//! Under construction: merged into main.rs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod custom_channel;
mod definitions;
mod explain;
mod inbox;
mod invariants;
mod notify;
mod outcomes;
mod privacy;
mod replay;
mod signals;
mod spine;
mod tools;
mod trigger_api;
mod wait;
