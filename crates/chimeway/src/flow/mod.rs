//! Transaction scripts: where decisions meet the database. Lock, decide, save.
//!
//! [`Chimeway`] is the handle a host holds. Its calls that write take the caller's connection and have
//! the fate of the caller's transaction. What happens after a commit is done by the same handlers
//! either way: by a fleet of workers ([`workers`], the [`Dispatcher::Queued`] way), or in this process
//! by [`Chimeway::settle`] (the [`Dispatcher::Inline`] way, for tests and development).
//!
//! Must not: hold SQL, know what runs the fleet's tasks (that is [`queue`](crate::queue)'s), make a network call inside a transaction.

pub mod actions;
mod address_book;
pub mod apply;
pub mod approvals;
mod batch;
mod check;
mod claim;
mod commit;
mod context;
mod definitions;
mod deliver;
mod dispatch;
mod due;
pub mod error;
mod expand;
pub mod explain;
mod files;
pub mod hooks;
pub mod inbox;
mod made;
pub mod metrics;
mod moved;
mod outage;
mod overview;
mod owed;
pub mod preferences;
mod progress;
mod prune;
pub mod recipients;
mod record;
pub mod retention;
mod review;
pub mod roles;
mod route;
mod session;
pub mod spans;
mod start;
pub mod state_change;
pub mod steps;
mod sweep;
pub mod templates;
pub mod tokens;
pub mod track;
pub mod trigger;
pub mod workers;
pub mod workflows;

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

pub use actions::{ActionCall, ActionError, ActionKind, Writable};
pub use address_book::{AddressBook, Contact};
pub use apply::{Applied, ApplyStatus};
pub use approvals::{Approvals, Decided};
pub use dispatch::Settled;
pub use error::FlowError;
pub use explain::{DeliveryFacts, Explanation, RecordFacts};
pub use files::{LARGEST_FILE, read_text};
pub use hooks::{Hook, Point};
pub use inbox::Inbox;
pub use overview::{DueWork, Overview, SetAside, TableRows, channel_tries};
pub use preferences::{Preference, Preferences, StoredPreference};
pub use prune::{KeptRows, PruneStep, PrunedKind, Pruning};
pub use recipients::{Recipient, Recipients, StoredRecipient};
pub use retention::{Age, Kept, Retention};
pub use review::Reviewed;
pub use roles::Roles;
pub use spans::{Span, SpanSink};
pub use state_change::StateChange;
pub use steps::{CustomStep, StepCall};
pub use templates::{TemplateMistake, TemplateSource, Templates};
pub use tokens::{Bearer, Issued, NewToken, StoredToken, Tokens};
pub use track::Signal;
pub use trigger::{Trigger, Triggered};
pub use workflows::Workflows;

use session::{Bounded, Sessions};

use crate::{
    channels::{Channel, Registry},
    definition::Known,
    engine::Budget,
    ids::{ActionName, BadName, ChannelName, KindName},
    queue::{QueueName, Wakes},
    store::{StoreResult, healing::Place, settings},
};

/// Who does what a commit made due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dispatcher {
    /// A fleet of workers, in this process or another.
    #[default]
    Queued,
    /// This process, when it calls [`Chimeway::settle`]. For tests and development.
    Inline,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a claim is held; 30 s. A claim not recorded by then is closed as unknown.
    pub lease: Duration,
    /// How long a channel may take; 20 s. Less than the lease.
    pub send: Duration,
    /// How long after its end a lease is closed; 2 s, so that a worker that was kept from the database
    /// records first.
    pub grace: Duration,
    /// How long a worker's transaction may take, with what it waits for a connection; 30 s. What was not
    /// answered by then is taken for lost: the connection is closed, the work is done again.
    pub transaction: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            send: Duration::from_secs(20),
            grace: Duration::from_secs(2),
            transaction: Duration::from_secs(30),
        }
    }
}

/// The handle a host holds; cheap to clone.
#[derive(Clone)]
pub struct Chimeway {
    core: Arc<Core>,
}

/// What every script shares.
pub(crate) struct Core {
    pub(crate) channels: Registry,
    pub(crate) known: Known,
    pub(crate) actions: actions::Registry,
    pub(crate) steps: steps::Registry,
    pub(crate) definitions: definitions::Cache,
    pub(crate) templates: templates::Cache,
    pub(crate) wakes: Wakes,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) worker: String,
    pub(crate) timing: Timing,
    pub(crate) pooled: bool,
    pub(crate) budget: Budget,
    pub(crate) hook: Option<Hook>,
    pub(crate) address_book: Option<Arc<dyn AddressBook>>,
    pub(crate) spans: Option<Arc<dyn SpanSink>>,
    /// How far this process's walks over the live runs have come.
    pub(crate) walked: Mutex<Place>,
    /// How far its passes over what is over have come.
    pub(crate) pruned: Mutex<prune::Walked>,
    /// When the database was away, as this process noticed.
    pub(crate) outage: outage::Outage,
    /// The queues that this process runs; empty where it runs none.
    pub(crate) runs: OnceLock<Vec<QueueName>>,
}

impl Chimeway {
    /// A handle with the built-in channels, to be changed before it is built.
    #[must_use]
    pub fn builder() -> ChimewayBuilder {
        ChimewayBuilder::default()
    }

    /// The channels that documents may name.
    #[must_use]
    pub fn known(&self) -> Known {
        self.core.known.clone()
    }

    /// This process, as attempts and leases keep it.
    #[must_use]
    pub fn worker_name(&self) -> &str {
        &self.core.worker
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

/// Makes a [`Chimeway`].
#[derive(Default)]
pub struct ChimewayBuilder {
    channels: Registry,
    known: Vec<ChannelName>,
    actions: actions::Registry,
    steps: steps::Registry,
    known_actions: Vec<ActionName>,
    known_steps: Vec<KindName>,
    rendering: Vec<ChannelName>,
    dispatcher: Dispatcher,
    worker: Option<String>,
    timing: Timing,
    pooled: bool,
    hook: Option<Hook>,
    address_book: Option<Arc<dyn AddressBook>>,
    spans: Option<Arc<dyn SpanSink>>,
}

impl ChimewayBuilder {
    /// Registers a channel under a name; documents may then name it. Replaces one of the same name.
    ///
    /// # Errors
    ///
    /// [`BadName`] if the name is blank or too long.
    pub fn channel(mut self, name: &str, channel: impl Channel) -> Result<Self, BadName> {
        let name = ChannelName::new(name)?;
        self.rendering.retain(|other| *other != name);
        if channel.renders() {
            self.rendering.push(name.clone());
        }
        self.channels.register(&name, Arc::new(channel));
        self.known.push(name);
        Ok(self)
    }

    /// A channel that documents may name although this process cannot send over it.
    ///
    /// # Errors
    ///
    /// [`BadName`] if the name is blank or too long.
    pub fn extra_channel(mut self, name: &str) -> Result<Self, BadName> {
        self.known.push(ChannelName::new(name)?);
        Ok(self)
    }

    /// Registers an action under a name; action steps may then name it. Replaces one of the same name.
    ///
    /// # Errors
    ///
    /// [`BadName`] if the name is blank or too long.
    pub fn action(mut self, name: &str, action: impl ActionKind) -> Result<Self, BadName> {
        let name = ActionName::new(name)?;
        self.actions.register(&name, Arc::new(action));
        self.known_actions.push(name);
        Ok(self)
    }

    /// An action that documents may name although this process cannot perform it.
    ///
    /// # Errors
    ///
    /// [`BadName`] if the name is blank or too long.
    pub fn extra_action(mut self, name: &str) -> Result<Self, BadName> {
        self.known_actions.push(ActionName::new(name)?);
        Ok(self)
    }

    /// Registers a kind of step under a name; documents may then name it. Replaces one of the same name.
    ///
    /// # Errors
    ///
    /// [`BadName`] if the name is blank or too long.
    pub fn step_kind(mut self, name: &str, kind: impl CustomStep) -> Result<Self, BadName> {
        let name = KindName::new(name)?;
        self.steps.register(&name, Arc::new(kind));
        self.known_steps.push(name);
        Ok(self)
    }

    /// A kind of step that documents may name although this process cannot do its work.
    ///
    /// # Errors
    ///
    /// [`BadName`] if the name is blank or too long.
    pub fn extra_step(mut self, kind: &str) -> Result<Self, BadName> {
        self.known_steps.push(KindName::new(kind)?);
        Ok(self)
    }

    /// Who does what a commit made due; [`Dispatcher::Queued`] unless told otherwise.
    #[must_use]
    pub fn dispatcher(mut self, dispatcher: Dispatcher) -> Self {
        self.dispatcher = dispatcher;
        self
    }

    /// The name of this process in attempts and leases: unique among those that live. By default made
    /// of the process's number and a fresh id.
    #[must_use]
    pub fn worker_name(mut self, name: impl Into<String>) -> Self {
        self.worker = Some(name.into());
        self
    }

    /// How long things may take.
    #[must_use]
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// Whether the pools that this handle is given reach the database through a pooler in transaction mode, such
    /// as PgBouncer; false. Everything is then done in explicit transactions. Such a pool is to have
    /// `statement_cache_capacity(0)`, and its workers listen through another one, or not at all
    /// ([`Workers::listen`](workers::Workers::listen)). Calls that are given a connection are in the
    /// transaction of the caller, which begins with [`settings::BEGIN_PLAIN_POOLED`].
    #[must_use]
    pub fn pooled(mut self, pooled: bool) -> Self {
        self.pooled = pooled;
        self
    }

    /// Where addresses are looked up that are not stored.
    #[must_use]
    pub fn address_book(mut self, book: impl AddressBook) -> Self {
        self.address_book = Some(Arc::new(book));
        self
    }

    /// Where spans of what happens to runs go. Without it none are made.
    #[must_use]
    pub fn spans(mut self, sink: impl SpanSink) -> Self {
        self.spans = Some(Arc::new(sink));
        self
    }

    /// Allows the actions `set_field` and `create_record` to write there; nothing else is ever written.
    #[must_use]
    pub fn writable(mut self, table: Writable) -> Self {
        self.actions.allow(table);
        self
    }

    /// Called at named points of the handlers: for tests that need a crash or a pause there.
    #[doc(hidden)]
    #[must_use]
    pub fn hook(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// The handle.
    #[must_use]
    pub fn build(self) -> Chimeway {
        let worker = self
            .worker
            .unwrap_or_else(|| format!("{}-{}", std::process::id(), crate::ids::fresh().simple()));
        Chimeway {
            core: Arc::new(Core {
                channels: self.channels,
                known: Known::default()
                    .with_channels(self.known)
                    .with_rendering(self.rendering)
                    .with_steps(self.known_steps)
                    .with_actions(self.known_actions),
                actions: self.actions,
                steps: self.steps,
                definitions: definitions::Cache::default(),
                templates: templates::Cache::default(),
                wakes: Wakes::default(),
                dispatcher: self.dispatcher,
                worker,
                timing: self.timing,
                pooled: self.pooled,
                budget: Budget::default(),
                hook: self.hook,
                address_book: self.address_book,
                spans: self.spans,
                walked: Mutex::default(),
                pruned: Mutex::default(),
                outage: outage::Outage::default(),
                runs: OnceLock::new(),
            }),
        }
    }
}

impl Core {
    /// What a worker's committed transaction made due is told to this process's own queues, and by
    /// NOTIFY to others where this process does not run the queue. A hint: should it be lost, polling
    /// finds the work. Its spans are told to whoever takes them.
    pub(crate) async fn wake_after(&self, sessions: &Sessions, made: &mut made::Made) {
        metrics::set_aside(&made.set_aside);
        metrics::timer_lateness(&std::mem::take(&mut made.late));
        metrics::signal_lag(&std::mem::take(&mut made.lags));
        if let Some(sink) = self.spans.as_ref().filter(|_| !made.spans.is_empty()) {
            sink.take(std::mem::take(&mut made.spans));
        }
        if made.planned > 0 {
            self.wakes.of(QueueName::Delivery).now();
        }
        if let Some(delay) = made.next_wake {
            self.wakes.of(QueueName::Workflows).later(delay);
        }
        if let Some(delay) = made.next_retry {
            self.wakes.of(QueueName::Delivery).later(delay);
        }
        let elsewhere = self
            .runs
            .get()
            .is_some_and(|queues| !queues.contains(&QueueName::Delivery));
        if made.planned > 0 && elsewhere {
            let work = sessions.bounded();
            let _ = work.run(wake_delivery(work)).await;
        }
    }

    /// Pauses or crashes there, where a test asked for it.
    pub(crate) async fn reach(&self, point: Point) {
        if let Some(hook) = &self.hook {
            hook(point).await;
        }
    }
}

async fn wake_delivery(work: Bounded<'_>) -> StoreResult<()> {
    let mut session = work.session().await?;
    let mut tx = session.begin_plain().await?;
    settings::wake(&mut tx, &[QueueName::Delivery.as_str()]).await?;
    Ok(tx.commit().await?)
}
