//! State changes of hosts' records, recorded in the caller's transaction.

use serde_json::Value;
use sqlx::PgConnection;

use super::{Chimeway, FlowError, check::check_json};
use crate::{
    ids::{EntityName, EventId, FieldName, TenantId},
    store::state_changes::{self, NewStateChange},
};

/// The longest name of an entity, in bytes.
const LONGEST_ENTITY: usize = 100;
/// The longest key of a record, in bytes.
const LONGEST_KEY: usize = 150;

/// A record of a host has moved from one state to another.
#[derive(Debug, Clone)]
pub struct StateChange {
    /// Whose record it is.
    pub tenant: TenantId,
    /// What kind of record: `orders`. At most 100 bytes.
    pub entity: EntityName,
    /// Its key, as text. At most 150 bytes.
    pub record_id: String,
    /// The field that holds its state: `status`.
    pub field: FieldName,
    /// The state before; `None` (the default) for a record that is new.
    pub from: Option<String>,
    /// The state after.
    pub to: Option<String>,
    /// The record as it is now; a JSON object, `{}` by default. Fields of more than 64 KiB are left out.
    pub record: Value,
}

impl StateChange {
    /// A new record in this state.
    pub fn new(
        tenant: TenantId,
        entity: EntityName,
        record_id: impl Into<String>,
        field: FieldName,
        to: impl Into<String>,
    ) -> Self {
        Self {
            tenant,
            entity,
            record_id: record_id.into(),
            field,
            from: None,
            to: Some(to.into()),
            record: Value::Object(serde_json::Map::new()),
        }
    }

    /// Says which state it was in before.
    #[must_use]
    pub fn from(mut self, state: impl Into<String>) -> Self {
        self.from = Some(state.into());
        self
    }

    /// Says what the record is like now.
    #[must_use]
    pub fn record(mut self, record: Value) -> Self {
        self.record = record;
        self
    }

    fn checked(self) -> Result<NewStateChange, FlowError> {
        let bad = |what, problem| Err(FlowError::BadJson { what, problem });
        if self.entity.as_str().len() > LONGEST_ENTITY {
            return bad("the entity", "is longer than 100 bytes");
        }
        let key = &self.record_id;
        if key.trim().is_empty() || key.len() > LONGEST_KEY || key.chars().any(char::is_control) {
            return bad(
                "the key of the record",
                "is blank, longer than 150 bytes or holds a control character",
            );
        }
        let states = [&self.from, &self.to].into_iter().flatten();
        if states.into_iter().any(|state| state.contains('\0')) {
            return bad("the state of the record", "holds a NUL character");
        }
        check_json("the record", &self.record)?;
        Ok(NewStateChange {
            tenant: self.tenant.into(),
            entity: self.entity.into(),
            record_id: self.record_id,
            field: self.field.into(),
            from: self.from,
            to: self.to,
            record: self.record,
        })
    }
}

impl Chimeway {
    /// Records a state change in the caller's transaction: each active workflow that listens to it gets
    /// an event, and a worker makes its run. Returns the events: none where nobody listens, or where the
    /// state is what it was before.
    ///
    /// A table with the trigger `chimeway.on_state_change()` does this by itself.
    ///
    /// # Errors
    ///
    /// [`FlowError::BadJson`]: nothing was written. [`FlowError::Store`]: the caller's transaction cannot
    /// go on.
    pub async fn record_state_change(
        &self,
        conn: &mut PgConnection,
        change: StateChange,
    ) -> Result<Vec<EventId>, FlowError> {
        let mut events = record(conn, [change]).await?;
        Ok(events.pop().unwrap_or_default())
    }

    /// Records many state changes at once, of whichever tenants, by one statement; the events of each are
    /// in their order. All of them or none.
    ///
    /// # Errors
    ///
    /// Those of [`Chimeway::record_state_change`].
    pub async fn record_state_changes(
        &self,
        conn: &mut PgConnection,
        changes: impl IntoIterator<Item = StateChange>,
    ) -> Result<Vec<Vec<EventId>>, FlowError> {
        record(conn, changes).await
    }
}

/// Records state changes in the caller's transaction, without a handle: what
/// [`Chimeway::record_state_changes`] does.
///
/// # Errors
///
/// Those of [`Chimeway::record_state_change`].
pub async fn record(
    conn: &mut PgConnection,
    changes: impl IntoIterator<Item = StateChange>,
) -> Result<Vec<Vec<EventId>>, FlowError> {
    let changes: Result<Vec<_>, FlowError> =
        changes.into_iter().map(StateChange::checked).collect();
    let changes = changes?;
    let mut events = vec![vec![]; changes.len()];
    // Those that changed nothing keep their place in the answer.
    let real = changes.iter().enumerate();
    let (places, real): (Vec<usize>, Vec<NewStateChange>) = real
        .filter(|(_, change)| change.from != change.to)
        .map(|(place, change)| (place, change.clone()))
        .unzip();
    for (place, event) in state_changes::insert(conn, &real).await? {
        if let Some(of) = places.get(place).and_then(|place| events.get_mut(*place)) {
            of.push(event);
        }
    }
    Ok(events)
}
