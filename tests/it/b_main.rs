//! Under construction: merged into main.rs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod audit;
mod backend;
mod bad_items;
mod crashes;
mod dispatch;
mod fleet;
mod hosts;
mod process;
mod races;
mod sharing;
mod support;
mod timing;
