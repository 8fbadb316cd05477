//! A run held by the caller's transaction: what may be said of it by hand.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{Workflows, not_found};
use crate::{
    engine::Input,
    flow::{FlowError, check::check_json, progress},
    ids::{DeliveryId, MAX_NAME, RunId, Sequence, StepId, StepKey, Visit},
    store::{
        runs::{self, Note, RunRow},
        transitions::{self, NewTransition},
    },
};

/// The most a run's context may hold, in bytes of JSON.
const CONTEXT_LIMIT: usize = 64 * 1024;
/// The most a line of history may say, in bytes of JSON.
const LINE_LIMIT: usize = 4 * 1024;

/// A run that the caller's transaction holds: no worker moves it until that ends. Only
/// [`Workflows::lock_run`] makes one.
#[derive(Debug)]
pub struct LockedRun {
    row: RunRow,
}

impl LockedRun {
    /// Which run.
    #[must_use]
    pub fn id(&self) -> RunId {
        self.row.id
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant_id(&self) -> &str {
        &self.row.tenant_id
    }

    /// active, waiting, completed, stopped or failed.
    #[must_use]
    pub fn state(&self) -> &str {
        &self.row.state
    }

    /// Why it is where it is.
    #[must_use]
    pub fn status_reason(&self) -> &str {
        &self.row.status_reason
    }

    /// The step it is in, or ended in.
    #[must_use]
    pub fn current_step_id(&self) -> StepId {
        self.row.current_step_id
    }

    /// How many steps it has entered.
    #[must_use]
    pub fn visit(&self) -> Visit {
        Visit(self.row.visit)
    }

    /// The database's now, when it was locked.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.row.now
    }
}

/// What a host says of a run by hand; what is `None` stays as it is. The state is not among it: only what
/// happens to a run moves it.
#[derive(Debug, Clone, Default)]
pub struct RunUpdate {
    /// Why it is where it is, in the host's own words: at most 255 bytes. The next line of its history
    /// replaces it.
    pub status_reason: Option<String>,
    /// Facts beside it: a JSON object.
    pub status_context: Option<Value>,
    /// Values for later steps: a JSON object of at most 64 KiB.
    pub context: Option<Value>,
    /// Moves the run to this step, or lets it enter its own step anew: what it still had to send is not
    /// sent, and a wait begins now.
    pub current_step: Option<StepKey>,
}

/// A line that a host adds to a run's history: what happened beside its journey. The run stays where it
/// is.
#[derive(Debug, Clone)]
pub struct HistoryLine {
    /// What happened: at most 255 bytes.
    pub reason: String,
    /// The delivery it is about.
    pub delivery: Option<DeliveryId>,
    /// Structural facts: a JSON object of at most 4 KiB. Everybody who may see the run may see them: no
    /// payload, no address.
    pub context: Value,
}

impl HistoryLine {
    /// A line with nothing but a reason.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            delivery: None,
            context: json!({}),
        }
    }
}

impl Workflows {
    /// Holds a run until the caller's transaction ends, waiting for a session that holds it. **Trusted.**
    ///
    /// # Errors
    ///
    /// [`FlowError::NotFound`] where there is no such run.
    pub async fn lock_run(
        &self,
        conn: &mut PgConnection,
        run: RunId,
    ) -> Result<LockedRun, FlowError> {
        let rows = runs::lock_waiting(conn, None, &[run]).await?;
        let row = rows.into_iter().next();
        let row = row.ok_or_else(|| not_found("run", run, None))?;
        Ok(LockedRun { row })
    }

    /// Says something of a locked, live run, and may move it to another step: through the same decisions
    /// as everything that moves runs, so that its message is planned or its wait begins. It cannot be
    /// given a state. **Trusted.**
    ///
    /// # Errors
    ///
    /// [`FlowError::RunEnded`], [`FlowError::NotFound`] for a step that its definition does not have,
    /// [`FlowError::BadJson`]: nothing was written.
    pub async fn update_run(
        &self,
        conn: &mut PgConnection,
        run: LockedRun,
        update: RunUpdate,
    ) -> Result<LockedRun, FlowError> {
        if let Some(reason) = &update.status_reason {
            check_reason(reason)?;
        }
        for (what, value, limit) in [
            ("the status context", &update.status_context, LINE_LIMIT),
            ("the context", &update.context, CONTEXT_LIMIT),
        ] {
            if let Some(value) = value {
                check_object(what, value, limit)?;
            }
        }
        let id = run.id();
        if run.row.ended() {
            return Err(FlowError::RunEnded(id));
        }
        if let Some(key) = &update.current_step {
            self.enter(conn, run, key).await?;
        }
        let moved = self.lock_run(conn, id).await?;
        let note = Note {
            id,
            visit: moved.visit(),
            status_reason: update.status_reason,
            status_context: update.status_context,
            context: update.context,
            lines: 0,
            at: moved.now(),
        };
        if !moved.row.ended() {
            runs::note(conn, &[note]).await?;
        }
        self.lock_run(conn, id).await
    }

    async fn enter(
        &self,
        conn: &mut PgConnection,
        run: LockedRun,
        key: &StepKey,
    ) -> Result<(), FlowError> {
        let row = run.row;
        let definition = row.workflow_definition_id;
        let loaded = self.core().definitions.get(conn, [definition]).await?;
        let to = loaded.get(&definition).and_then(|it| it.index_of_key(key));
        let to = to.ok_or_else(|| not_found("step", key, None))?;
        let inputs = [(row.id, [Input::Moved { to }].into())].into();
        let made = progress::advance(self.core(), conn, vec![row], inputs).await?;
        self.wake(conn, &made).await
    }

    /// Adds a line to the history of a locked, live run; its state before and after is the run's.
    /// **Trusted.**
    ///
    /// # Errors
    ///
    /// [`FlowError::RunEnded`], [`FlowError::BadJson`]: nothing was written.
    pub async fn append_transition(
        &self,
        conn: &mut PgConnection,
        run: LockedRun,
        line: HistoryLine,
    ) -> Result<LockedRun, FlowError> {
        check_reason(&line.reason)?;
        check_object(
            "the context of a line of history",
            &line.context,
            LINE_LIMIT,
        )?;
        let row = run.row;
        if row.ended() {
            return Err(FlowError::RunEnded(row.id));
        }
        let Some(state) = crate::engine::StateName::parse(&row.state) else {
            return Err(not_found("state", &row.state, None));
        };
        let new = NewTransition {
            run: row.id,
            step: row.current_step_id,
            delivery: line.delivery,
            signal: None,
            approval: None,
            sequence: Sequence(row.transition_count).next(),
            visit: Visit(row.visit),
            from: Some(state.as_str()),
            to: state.as_str(),
            reason: line.reason.into(),
            context: line.context.into(),
            at: row.now,
        };
        transitions::append(conn, &[new]).await?;
        let note = Note {
            id: row.id,
            visit: Visit(row.visit),
            status_reason: None,
            status_context: None,
            context: None,
            lines: 1,
            at: row.now,
        };
        runs::note(conn, &[note]).await?;
        self.lock_run(conn, row.id).await
    }
}

fn check_reason(reason: &str) -> Result<(), FlowError> {
    if reason.trim().is_empty() || reason.len() > MAX_NAME || reason.chars().any(char::is_control) {
        return Err(FlowError::BadJson {
            what: "the reason",
            problem: "is blank, longer than 255 bytes or holds a control character; say it in a word",
        });
    }
    Ok(())
}

fn check_object(what: &'static str, value: &Value, limit: usize) -> Result<(), FlowError> {
    check_json(what, value)?;
    if value.to_string().len() > limit {
        return Err(FlowError::BadJson {
            what,
            problem: "is too large; keep large values in tables of your own, and their ids here",
        });
    }
    Ok(())
}
