//! Being told what an actor did.

use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{Chimeway, Dispatcher, FlowError, check::check_json};
use crate::{
    ids::{ActorId, SignalId, SignalName, TenantId},
    queue::QueueName,
    store::{settings, signals},
};

/// What an actor did.
#[derive(Debug, Clone)]
pub struct Signal {
    /// Whose it is.
    pub tenant: TenantId,
    /// Who did it.
    pub actor: ActorId,
    /// What was done.
    pub name: SignalName,
    /// Anything else; a JSON object. A `notification_id` of ours makes the signal about that
    /// notification only.
    pub payload: Value,
}

impl Signal {
    /// A signal with an empty payload.
    #[must_use]
    pub fn new(tenant: TenantId, actor: ActorId, name: SignalName) -> Self {
        Self {
            tenant,
            actor,
            name,
            payload: json!({}),
        }
    }

    /// Sets the payload.
    #[must_use]
    pub fn payload(mut self, payload: Value) -> Self {
        self.payload = payload;
        self
    }
}

impl Chimeway {
    /// Records a signal inside the caller's transaction. It counts for every run of that actor that
    /// began before this call, whenever the run comes to the wait that listens for it.
    ///
    /// # Errors
    ///
    /// [`FlowError::BadJson`]: nothing was written. [`FlowError::Store`]: the caller's transaction
    /// cannot go on.
    pub async fn track(
        &self,
        conn: &mut PgConnection,
        signal: Signal,
    ) -> Result<SignalId, FlowError> {
        let new = new_signal(signal)?;
        let id = new.id;
        self.record_signals(conn, &[new]).await?;
        Ok(id)
    }

    /// Records many signals at once, of whichever tenants, by one statement; the ids are in their order.
    /// All of them or none.
    ///
    /// # Errors
    ///
    /// Those of [`Chimeway::track`].
    pub async fn track_many(
        &self,
        conn: &mut PgConnection,
        signals: impl IntoIterator<Item = Signal>,
    ) -> Result<Vec<SignalId>, FlowError> {
        let new: Result<Vec<_>, FlowError> = signals.into_iter().map(new_signal).collect();
        let new = new?;
        self.record_signals(conn, &new).await?;
        Ok(new.into_iter().map(|signal| signal.id).collect())
    }

    pub(super) async fn record_signals(
        &self,
        conn: &mut PgConnection,
        signals: &[signals::NewSignal],
    ) -> Result<(), FlowError> {
        signals::insert(conn, signals).await?;
        if self.core.dispatcher == Dispatcher::Queued && !signals.is_empty() {
            settings::wake(conn, &[QueueName::Signals.as_str()]).await?;
        }
        Ok(())
    }
}

fn new_signal(signal: Signal) -> Result<signals::NewSignal, FlowError> {
    check_json("payload", &signal.payload)?;
    Ok(signals::NewSignal {
        id: SignalId::fresh(),
        tenant: signal.tenant.into(),
        actor: signal.actor.into(),
        name: signal.name.into(),
        payload: signal.payload,
    })
}
