//! Aborts the process at a warning of PostgreSQL: so a trigger on a row says when a worker dies, in the middle of
//! the transaction that works on this very row.

use std::fmt::Debug;

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer};

/// What a trigger says: `raise warning 'abort this process'`.
const WORDS: &str = "abort this process";

pub(crate) struct Detonator;

struct Fuse(bool);

impl Visit for Fuse {
    fn record_debug(&mut self, _field: &Field, value: &dyn Debug) {
        self.0 |= format!("{value:?}").contains(WORDS);
    }
}

impl<S: tracing::Subscriber> Layer<S> for Detonator {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() != "sqlx::postgres::notice" {
            return;
        }
        let mut fuse = Fuse(false);
        event.record(&mut fuse);
        if fuse.0 {
            std::process::abort();
        }
    }
}
