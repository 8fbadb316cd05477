//! What moves runs on a caller's behalf, in the caller's transaction: the same decisions as a worker's.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{WorkflowRun, Workflows, not_found};
use crate::{
    engine::Noop,
    flow::{
        FlowError,
        definitions::undecodable,
        due,
        progress::{self, Acting, Advanced},
        route,
        start::{self, Born},
    },
    ids::{DefinitionId, NotificationId, RunId, SignalId, TenantId},
    store::{events, run_views, runs, signals},
};

/// What asking a run to go on has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progressed {
    /// It moved.
    Moved,
    /// It could not move, for this reason; nothing was written.
    Noop(Noop),
    /// Its row does not decode: it was changed by hand, or is a newer version's. It is set aside once it
    /// has been tried three times.
    DoesNotDecode,
}

impl Progressed {
    /// Why nothing happened, by name; `None` where it moved.
    #[must_use]
    pub const fn noop(self) -> Option<&'static str> {
        match self {
            Self::Moved => None,
            Self::Noop(noop) => Some(noop.as_str()),
            Self::DoesNotDecode => Some("does_not_decode"),
        }
    }
}

/// What showing a signal to runs has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// The live runs of the signal's actor that it was shown to, and what they did.
    pub runs: Vec<(RunId, RunRouted)>,
    /// Whether that is all of them. Else the signal stays due: another session holds a run, or there are
    /// more than 1,000.
    pub complete: bool,
}

/// What a run did about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunRouted {
    /// It moved: its wait ended.
    Moved,
    /// It does not wait for that signal, now. A wait that it enters later looks for it again.
    Unmoved,
    /// Another session holds it: it is shown the signal later.
    Held,
}

impl From<&Advanced> for RunRouted {
    fn from(advanced: &Advanced) -> Self {
        if advanced.moved {
            Self::Moved
        } else {
            Self::Unmoved
        }
    }
}

impl Workflows {
    /// Makes the run of a notification, with its first lines of history and its first message, in the
    /// caller's transaction. A trigger does this by itself; this is for a notification whose run is
    /// missing. Where it has one, that one is returned and nothing is written.
    ///
    /// `started_at` is the instant from which on signals count. Two callers for one notification wait
    /// for each other: one run is made.
    ///
    /// # Errors
    ///
    /// [`FlowError::NotFound`] for an unknown notification or definition;
    /// [`FlowError::TenantMismatch`] for another tenant's notification.
    pub async fn create_initial_run(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        notification: NotificationId,
        definition: DefinitionId,
        started_at: DateTime<Utc>,
    ) -> Result<WorkflowRun, FlowError> {
        let locked = events::lock_notifications(conn, tenant.as_str(), &[notification]).await?;
        let Some(row) = locked.into_iter().next() else {
            let there = events::known_notifications(conn, &[notification]).await?;
            return Err(match there.is_empty() {
                true => not_found("notification", notification, Some(tenant)),
                false => FlowError::TenantMismatch {
                    what: "notification",
                    id: notification.to_string(),
                    tenant: tenant.clone(),
                },
            });
        };
        let known = run_views::of_notifications(conn, tenant.as_str(), &[notification]).await?;
        let run = match known.first() {
            Some(run) => *run,
            None => {
                let loaded = self.core().definitions.get(conn, [definition]).await?;
                if !loaded.contains_key(&definition) {
                    return Err(not_found("definition", definition, None));
                }
                let born = Born {
                    notification,
                    tenant: row.tenant,
                    actor: row.recipient,
                    definition,
                    started_at,
                };
                let (made, runs) = start::runs_of(conn, &loaded, [born]).await?;
                self.wake(conn, &made).await?;
                let made = runs.first().copied();
                made.ok_or_else(|| undecodable(definition))?
            }
        };
        let found = self.get_run(conn, tenant, run).await?;
        found.ok_or_else(|| not_found("run", run, Some(tenant)))
    }

    /// Lets a run do what it can do now: a wait that is over, a signal that came, a result that it was
    /// not told, a message that has gone missing. Waits for a session that holds the run, so that of ten
    /// callers one moves it and nine are told why not.
    ///
    /// # Errors
    ///
    /// [`FlowError::NotFound`] where that tenant has no such run.
    pub async fn progress(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        run: RunId,
    ) -> Result<Progressed, FlowError> {
        let rows = runs::lock_waiting(conn, Some(tenant.as_str()), &[run]).await?;
        let Some(row) = rows.first() else {
            return Err(not_found("run", run, Some(tenant)));
        };
        if row.ended() {
            return Ok(Progressed::Noop(Noop::RunNotActive));
        }
        let inputs = due::inputs(self.core(), conn, &rows).await?;
        let (made, advanced) =
            progress::advance_each(self.core(), conn, rows, inputs, Acting::Now).await?;
        self.wake(conn, &made).await?;
        match advanced.first() {
            Some(advanced) if advanced.moved => Ok(Progressed::Moved),
            Some(advanced) => Ok(Progressed::Noop(
                advanced.noop.unwrap_or(Noop::DeliveryPending),
            )),
            None => Ok(Progressed::DoesNotDecode),
        }
    }

    /// Shows a signal to the live runs of its actor now, in the caller's transaction, and does not wait
    /// for a run that another session holds. A worker does this by itself.
    ///
    /// # Errors
    ///
    /// [`FlowError::NotFound`] where that tenant has no such signal.
    pub async fn route_signal(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        signal: SignalId,
    ) -> Result<Routed, FlowError> {
        let locked = signals::lock_waiting(conn, tenant.as_str(), &[signal]).await?;
        if locked.is_empty() {
            return Err(not_found("signal", signal, Some(tenant)));
        }
        let shown = route::route(self.core(), conn, &locked).await?;
        self.wake(conn, &shown.made).await?;
        let mut runs: Vec<(RunId, RunRouted)> = shown
            .advanced
            .iter()
            .map(|one| (one.run, RunRouted::from(one)))
            .collect();
        let known: HashSet<RunId> = runs.iter().map(|(run, _)| *run).collect();
        let held = shown.held.iter().filter(|run| !known.contains(run));
        runs.extend(held.map(|run| (*run, RunRouted::Held)));
        runs.sort_unstable_by_key(|(run, _)| *run);
        Ok(Routed {
            runs,
            complete: shown.held.is_empty() && shown.unfinished.is_empty(),
        })
    }
}
