//! The chaos suite: real worker processes under load, a private PostgreSQL, and something that goes wrong over and
//! over. After each cell the same audit. `scripts/chaos` runs it, docs/chaos.md says what it shows.
//!
//! A cell is one ignored test (so that `scripts/test` and plain `cargo test` leave it out):
//!
//! 1. `Cell::begin(name)` or `Cell::durable(name)`: a private server (`cell.server`), the host's tables and
//!    workflows, a folder for what workers send. Everything random comes from `cell.rng(what)`, which the printed
//!    seed decides.
//! 2. `let worker = cell.worker(); Supervisor::start(n, move |_| worker())`: worker processes, each started anew when
//!    it ends. Give a worker other flags (`worker().with(..)`), or another URL (`cell.worker_at(url)`: of a proxy, of
//!    a pooler), as the cell needs.
//! 3. `Load::start(&cell)`: hosts that trigger, roll back, repeat keys, tell signals, and people who decide.
//! 4. Do the worst while `cell.goes_on()`; count it.
//! 5. `cell.verdict(load, supervisor, faults)`: ends the load, waits until every run has ended, stops the
//!    workers (each must end well), audits, prints the cell's line, and fails if a figure is not 0.
//! 6. Assert that the faults really hit: no cell may be vacuous.
//!
//! A cell goes into the file of its subject, is `async fn`, `#[ignore = "chaos: scripts/chaos"]`, and takes at most 20
//! seconds in the short form.

mod cell;
mod load;
mod supervisor;
mod verdict;

mod network;
mod poison;
mod postgres;
mod processes;
mod sessions;
