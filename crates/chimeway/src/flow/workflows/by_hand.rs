//! What people do to runs by hand: cancel, and retry. Each is stamped with who, when and why.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Workflows, not_found};
use crate::{
    engine::attempt::status_reason::RETRIES_EXHAUSTED,
    flow::FlowError,
    ids::{DeliveryId, EventId, MAX_NAME, RunId, SignalId, TenantId, WorkflowKey},
    queue::QueueName,
    store::{interventions, run_views},
};

/// The longest reason in bytes.
const LONGEST_REASON: usize = 1_000;
/// How many runs one call cancels.
const RUNS_AT_ONCE: i64 = 1_000;

/// Who does something by hand, and why.
#[derive(Debug, Clone, Default)]
pub struct Stamp {
    /// Who, at most 255 bytes; `None`: the database role of the connection.
    pub by: Option<String>,
    /// Why, at most 1,000 bytes.
    pub reason: Option<String>,
}

impl Stamp {
    /// Somebody, for no reason given.
    #[must_use]
    pub fn by(who: impl Into<String>) -> Self {
        Self {
            by: Some(who.into()),
            reason: None,
        }
    }

    /// Says why.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    fn check(&self) -> Result<(), FlowError> {
        let unfit =
            |text: &str, limit| text.trim().is_empty() || text.len() > limit || text.contains('\0');
        if self.by.as_deref().is_some_and(|by| unfit(by, MAX_NAME)) {
            return Err(FlowError::BadJson {
                what: "who did it",
                problem: "is blank, longer than 255 bytes or holds a NUL character",
            });
        }
        if self
            .reason
            .as_deref()
            .is_some_and(|reason| unfit(reason, LONGEST_REASON))
        {
            return Err(FlowError::BadJson {
                what: "the reason",
                problem: "is blank, longer than 1000 bytes or holds a NUL character; say it shorter",
            });
        }
        Ok(())
    }
}

/// What a cancellation has done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Cancellation {
    /// Whether this call asked for it; false where it was asked for before.
    pub requested: bool,
    /// Messages that a worker is sending at this moment: those cannot be called back.
    pub in_flight: Vec<DeliveryId>,
}

/// What was made due by a retry: delivery, run, event or signal.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Retried {
    /// What it is.
    pub subject: String,
    /// Which one.
    pub id: Uuid,
}

impl Workflows {
    /// Asks for the end of a run, in the caller's transaction. Once that has committed, nothing more is
    /// sent for the run, and a worker ends it: state stopped, terminal reason `cancelled`. A message that
    /// is being sent at that moment cannot be called back; it is named.
    ///
    /// Workers pass the run over while the caller's transaction is open.
    ///
    /// # Errors
    ///
    /// [`FlowError::NotFound`] where that tenant has no such run; [`FlowError::RunEnded`];
    /// [`FlowError::BadJson`] for an unfit stamp.
    pub async fn cancel(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        run: RunId,
        stamp: &Stamp,
    ) -> Result<Cancellation, FlowError> {
        let asked = self.request(conn, tenant, &[run], stamp).await?;
        if asked.is_empty() {
            let found = run_views::find(conn, tenant.as_str(), &[run]).await?;
            match found.first() {
                None => return Err(not_found("run", run, Some(tenant))),
                Some(run) if run.ended_at.is_some() => return Err(FlowError::RunEnded(run.id)),
                Some(_) => {}
            }
        }
        Ok(Cancellation {
            requested: !asked.is_empty(),
            in_flight: interventions::in_flight(conn, &[run]).await?,
        })
    }

    /// Asks for the end of up to 1,000 live runs of one tenant's workflow, over all its versions; returns
    /// them. Call it until it returns none, each time in a transaction of its own, so that none is long.
    /// Runs that are made meanwhile are cancelled too: pause the workflow first, and let the workers make
    /// the runs of what was triggered before.
    ///
    /// # Errors
    ///
    /// [`FlowError::BadJson`] for an unfit stamp.
    pub async fn cancel_workflow(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        workflow: &WorkflowKey,
        stamp: &Stamp,
    ) -> Result<Vec<RunId>, FlowError> {
        stamp.check()?;
        let (tenant_text, key) = (tenant.as_str(), workflow.as_str());
        let live = interventions::live_of_workflow(conn, tenant_text, key, RUNS_AT_ONCE).await?;
        self.request(conn, tenant, &live, stamp).await
    }

    async fn request(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        runs: &[RunId],
        stamp: &Stamp,
    ) -> Result<Vec<RunId>, FlowError> {
        stamp.check()?;
        let (by, reason) = (stamp.by.as_deref(), stamp.reason.as_deref());
        let asked = interventions::request_cancel(conn, tenant.as_str(), runs, by, reason).await?;
        if !asked.is_empty() {
            self.wake_queues(conn, &[QueueName::Workflows.as_str()])
                .await?;
        }
        Ok(asked)
    }

    /// Makes due now what waits for another try, or was set aside: a delivery, run, event or signal of
    /// that tenant. A message's tries still count: five are its budget.
    ///
    /// A message that was given up is not sent again: its journey has gone on, and so has the reader's.
    /// Trigger the workflow again where the message is still wanted.
    ///
    /// # Errors
    ///
    /// [`FlowError::NotFound`]; [`FlowError::NotRetryable`] with the reason; [`FlowError::BadJson`] for an
    /// unfit stamp.
    pub async fn retry(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        id: Uuid,
        stamp: &Stamp,
    ) -> Result<Retried, FlowError> {
        stamp.check()?;
        let tenant_text = tenant.as_str();
        let Some(subject) = interventions::subject(conn, tenant_text, id).await? else {
            return Err(not_found(
                "delivery, run, event or signal",
                id,
                Some(tenant),
            ));
        };
        let (freed, queue) = match subject.subject.as_str() {
            "delivery" => {
                let freed = interventions::hurry(conn, tenant_text, &[DeliveryId(id)]).await?;
                (freed, QueueName::Delivery)
            }
            "run" => {
                let freed = interventions::free_runs(conn, tenant_text, &[RunId(id)]).await?;
                (freed, QueueName::Workflows)
            }
            "event" => {
                let freed = interventions::free_events(conn, tenant_text, &[EventId(id)]).await?;
                (freed, QueueName::Workflows)
            }
            _ => {
                let freed = interventions::free_signals(conn, tenant_text, &[SignalId(id)]).await?;
                (freed, QueueName::Signals)
            }
        };
        if freed.is_empty() {
            return Err(FlowError::NotRetryable {
                why: why_not(&subject),
                subject: subject.subject,
                id,
            });
        }
        let (by, reason) = (stamp.by.as_deref(), stamp.reason.as_deref());
        let kind = subject.subject.as_str();
        interventions::stamp_retry(conn, tenant_text, kind, &freed, by, reason).await?;
        self.wake_queues(conn, &[queue.as_str()]).await?;
        Ok(Retried {
            subject: subject.subject,
            id,
        })
    }
}

fn why_not(subject: &interventions::Subject) -> String {
    let reason = subject.status_reason.as_deref().unwrap_or_default();
    match (subject.subject.as_str(), subject.status.as_deref()) {
        ("delivery", Some("succeeded")) => "it was delivered".to_owned(),
        ("delivery", Some("dispatched")) => "it is being sent at this moment".to_owned(),
        ("delivery", Some("cancelled")) if reason == RETRIES_EXHAUSTED => {
            "every try failed, and its journey has gone on; trigger the workflow again where the \
             message is still wanted"
                .to_owned()
        }
        ("delivery", Some(status)) => format!(
            "it is {status}{}, and its journey has gone on; trigger the workflow again where the \
             message is still wanted",
            if reason.is_empty() {
                String::new()
            } else {
                format!(" ({reason})")
            }
        ),
        ("run", Some(_)) if !reason.is_empty() => format!("it has ended ({reason})"),
        _ => "it was not set aside; it goes on by itself".to_owned(),
    }
}
