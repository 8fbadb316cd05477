//! Where a run is, why, and what comes next: from rows alone.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::{FlowError, workflows::Workflows};
use crate::{
    engine::attempt::status_reason,
    ids::{ApprovalId, DeliveryId, RunId, TenantId},
    store::{StoreError, run_views, transitions, transitions::StoredTransition},
};

/// Where a run is and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explanation {
    /// Which run.
    pub id: RunId,
    /// Whose it is.
    pub tenant_id: String,
    /// The record of the host that it is for, if it is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordFacts>,
    /// Its workflow.
    pub workflow: Option<String>,
    /// The version it follows.
    pub version: Option<i32>,
    /// active, waiting, completed, stopped or failed.
    pub state: String,
    /// Why it is where it is.
    pub status_reason: String,
    /// The step it is in, or ended in.
    pub current_step_name: Option<String>,
    /// When its wait ends by itself.
    pub suspended_until: Option<DateTime<Utc>>,
    /// The signals that end its wait.
    pub pending_signals: Vec<String>,
    /// Why it ended.
    pub terminal_reason: Option<String>,
    /// The place that it would have needed a value from, where it failed for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_path: Option<String>,
    /// Why it was set aside.
    pub quarantine_reason: Option<String>,
    /// How many steps it has entered.
    pub visit: i32,
    /// The instant of its trigger.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// When somebody asked for its end.
    #[serde(default)]
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// What people did to it, and to its messages, by hand.
    #[serde(default)]
    pub interventions: Vec<Intervention>,
    /// What people were asked to decide, in order.
    #[serde(default)]
    pub approvals: Vec<ApprovalFacts>,
    /// What it sent or is to send, in order.
    pub deliveries: Vec<DeliveryFacts>,
    /// What will happen, when, or what it waits for: one sentence.
    #[serde(default)]
    pub next: String,
    #[serde(default, skip_serializing)]
    now: DateTime<Utc>,
    #[serde(default, skip_serializing)]
    wake_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing)]
    act_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing)]
    tries: i32,
}

/// A record of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordFacts {
    /// What kind of record.
    pub entity: String,
    /// Which record.
    pub id: String,
}

/// What somebody did by hand.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Intervention {
    /// cancel or retry.
    pub kind: String,
    /// run, delivery, event or signal.
    pub subject: String,
    /// Which one.
    pub subject_id: uuid::Uuid,
    /// Who.
    pub made_by: String,
    /// Why.
    pub reason: Option<String>,
    /// When.
    pub made_at: DateTime<Utc>,
}

/// A decision that people were asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApprovalFacts {
    /// Which approval.
    pub id: ApprovalId,
    /// The step that asked.
    pub step: Option<String>,
    /// The visit that asked.
    pub visit: i32,
    /// user or role.
    pub assignee_kind: String,
    /// Which one.
    pub assignee: String,
    /// When they were asked.
    pub opened_at: DateTime<Utc>,
    /// Until when they could decide.
    pub deadline: Option<DateTime<Utc>>,
    /// approved, rejected, timed_out or withdrawn; `None` while it is open.
    pub decision: Option<String>,
    /// Who approved or rejected.
    pub decided_by: Option<String>,
    /// When.
    pub decided_at: Option<DateTime<Utc>>,
}

/// One message of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeliveryFacts {
    /// Which delivery.
    pub id: DeliveryId,
    /// Which channel carries it.
    pub channel: String,
    /// pending, dispatched, succeeded, failed, suppressed or cancelled.
    pub status: String,
    /// Why.
    pub status_reason: Option<String>,
    /// Where it was decided on purpose not to send it: planning or claim.
    #[serde(default)]
    pub checkpoint: Option<String>,
    /// Tries that count.
    pub attempts: i32,
    /// When it is tried next.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The step that sends it.
    pub step: Option<String>,
    /// The visit that made it.
    pub visit: i32,
    /// Until when a worker holds it.
    pub lease_until: Option<DateTime<Utc>>,
    /// Its result is recorded, and the run has not been told yet.
    pub progress_owed: bool,
    /// How its last try ended.
    pub last_outcome: Option<String>,
    /// What was wrong with it, in a word, where its channel has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_class: Option<String>,
}

impl Workflows {
    /// Where one tenant's run is and why; `None` where that tenant has no such run, whoever else has.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn explain(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        run: RunId,
    ) -> Result<Option<Explanation>, FlowError> {
        let Some(facts) = run_views::explain(conn, tenant.as_str(), run).await? else {
            return Ok(None);
        };
        let mut explanation: Explanation =
            serde_json::from_value(facts).map_err(|_| StoreError::Inconsistent {
                table: "workflow_runs",
                column: "explain",
                row: run.0,
            })?;
        explanation.next = format!("{}{}", explanation.sentence(), explanation.unsent());
        Ok(Some(explanation))
    }

    /// The history of one tenant's run, oldest first, the newest `limit` lines of it where that is
    /// given; `None` where that tenant has no such run.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn list_traces(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        run: RunId,
        limit: Option<i64>,
    ) -> Result<Option<Vec<StoredTransition>>, FlowError> {
        let lines = transitions::of_run(conn, tenant.as_str(), run, limit).await?;
        // Every run has a first line: none means no such run, unless none was asked for.
        if lines.is_empty() && self.explain(conn, tenant, run).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(lines))
    }
}

impl Explanation {
    fn sentence(&self) -> String {
        if self.cancel_requested_at.is_some() && self.ended_at.is_none() {
            return format!(
                "Nothing more is sent: its end was asked for, and a worker is about to end it.{}",
                self.still_out()
            );
        }
        if let Some(reason) = &self.quarantine_reason {
            return format!("Nothing happens by itself: the run was set aside ({reason}).");
        }
        match self.state.as_str() {
            "completed" => format!("Nothing: the run is completed.{}", self.still_out()),
            "stopped" | "failed" => {
                let reason = self.terminal_reason.as_deref().unwrap_or("no reason kept");
                let ended = &self.state;
                format!(
                    "Nothing: the run {} ({reason}).{}{}",
                    verb(ended),
                    self.missing(),
                    self.still_out()
                )
            }
            "waiting" => match self.approvals.iter().find(|one| one.visit == self.visit) {
                Some(approval) => self.asking(approval),
                None => self.waiting(),
            },
            _ => self.active(),
        }
    }

    fn waiting(&self) -> String {
        let until = self
            .suspended_until
            .map_or_else(|| "an unknown time".to_owned(), instant);
        let signals = or_list(&self.pending_signals);
        match (self.is_due(self.suspended_until), signals) {
            (true, _) => format!("The wait ended at {until}; a worker is about to go on."),
            (false, Some(signals)) => format!(
                "Waits until {until}, then goes on; the signal {signals} ends the wait before that."
            ),
            (false, None) => format!("Waits until {until}, then goes on."),
        }
    }

    fn asking(&self, approval: &ApprovalFacts) -> String {
        let who = match approval.assignee_kind.as_str() {
            "role" => format!("anybody with the role `{}`", approval.assignee),
            _ => format!("`{}`", approval.assignee),
        };
        match (&approval.decision, approval.deadline) {
            (Some(decision), _) => {
                let decision = decision.replace('_', " ");
                format!("The approval is {decision}; a worker is about to go on.")
            }
            (None, Some(deadline)) if self.is_due(Some(deadline)) => format!(
                "The time for the approval by {who} ended at {}; a worker is about to go on.",
                instant(deadline)
            ),
            (None, Some(deadline)) => format!(
                "Waits for approval by {who} until {}; `chimeway approve` or `reject` decides.",
                instant(deadline)
            ),
            (None, None) => {
                format!("Waits for approval by {who}; `chimeway approve` or `reject` decides.")
            }
        }
    }

    fn active(&self) -> String {
        let current = self
            .deliveries
            .iter()
            .rev()
            .find(|delivery| delivery.visit == self.visit);
        let Some(delivery) = current else {
            return if let Some(at) = self.act_at {
                self.acting(at)
            } else if self.wake_at.is_some() {
                "A worker is about to enter the current step.".to_owned()
            } else {
                "A worker is about to go on.".to_owned()
            };
        };
        if delivery.progress_owed {
            return "The message has its result; the run goes on as soon as another session lets go \
                    of its row."
                .to_owned();
        }
        if delivery.status_reason.as_deref() == Some(status_reason::SUPERSEDED) {
            return "Nothing happens by itself: its message was superseded by hand. `chimeway cancel` \
                    ends it."
                .to_owned();
        }
        let channel = &delivery.channel;
        let tries = delivery.attempts;
        match delivery.status.as_str() {
            "pending" if self.is_due(delivery.next_attempt_at) => {
                format!("The {channel} message is about to be sent.")
            }
            "dispatched" => match delivery.lease_until {
                Some(until) if self.is_due(Some(until)) => format!(
                    "The worker that was sending the {channel} message has vanished; it may have been \
                     sent, and is about to be tried again."
                ),
                _ => format!("The {channel} message is being sent (try {tries})."),
            },
            "failed" | "pending" => {
                let again = match delivery.next_attempt_at {
                    Some(at) if !self.is_due(Some(at)) => {
                        format!("is tried again at {}", instant(at))
                    }
                    _ => "is about to be tried again".to_owned(),
                };
                let unknown = if delivery.last_outcome.as_deref() == Some("unknown") {
                    " The last try may have been sent: its worker vanished."
                } else {
                    ""
                };
                format!(
                    "The {channel} message {again}; {tries} {} so far.{unknown}",
                    if tries == 1 { "try" } else { "tries" },
                )
            }
            _ => "A worker is about to go on.".to_owned(),
        }
    }

    /// The place that the run would have needed a value from.
    fn missing(&self) -> String {
        let path = self.missing_path.as_ref();
        path.map_or_else(String::new, |path| format!(" Nothing stands at `{path}`."))
    }

    /// What is to be done in the current step, and when.
    fn acting(&self, at: DateTime<Utc>) -> String {
        match (self.tries, self.is_due(Some(at))) {
            (0, _) => "A worker is about to carry out the actions of the current step.".to_owned(),
            (tries, true) => format!(
                "The actions of the current step are about to be tried again, after {tries} tries."
            ),
            (tries, false) => format!(
                "The actions of the current step are tried again at {}, after {tries} {}: another session held a row.",
                instant(at),
                if tries == 1 { "try" } else { "tries" },
            ),
        }
    }

    /// A message that was being sent when the run ended.
    fn still_out(&self) -> String {
        let out = self
            .deliveries
            .iter()
            .find(|delivery| delivery.status == "dispatched");
        out.map_or_else(String::new, |delivery| {
            format!(" One {} message is still being sent.", delivery.channel)
        })
    }

    /// Messages that were not sent on purpose, and why: a sentence for each reason.
    fn unsent(&self) -> String {
        let mut text = String::new();
        for (reason, why) in UNSENT {
            let mut channels: Vec<&str> = vec![];
            for delivery in &self.deliveries {
                if delivery.status_reason.as_deref() == Some(reason)
                    && !channels.contains(&delivery.channel.as_str())
                {
                    channels.push(&delivery.channel);
                }
            }
            if !channels.is_empty() {
                let channels = channels.join(" and ");
                text.push_str(&format!(" Nothing was sent over {channels}: {why}."));
            }
        }
        for delivery in &self.deliveries {
            if delivery.last_class.as_deref() == Some("private_target") {
                text.push_str(&format!(
                    " The {} message was not sent: its address is in a private network, and the \
                     worker's `allow_private` does not name it.",
                    delivery.channel
                ));
            }
        }
        text
    }

    fn is_due(&self, at: Option<DateTime<Utc>>) -> bool {
        at.is_some_and(|at| at <= self.now)
    }
}

/// Why a message is not sent on purpose, in words.
const UNSENT: [(&str, &str); 4] = [
    (
        status_reason::NO_ADDRESS,
        "no address is known for the recipient; `chimeway recipients set` stores one for later messages",
    ),
    (
        status_reason::CHANNEL_DISABLED,
        "the recipient does not want messages over that channel",
    ),
    (
        status_reason::CATEGORY_DISABLED,
        "the recipient does not want messages of that category",
    ),
    (
        status_reason::ALREADY_READ,
        "the recipient had read the notification already",
    ),
];

fn verb(state: &str) -> &str {
    if state == "stopped" {
        "was stopped"
    } else {
        "failed"
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn or_list(names: &[String]) -> Option<String> {
    match names {
        [] => None,
        [one] => Some(format!("`{one}`")),
        [first @ .., last] => Some(format!("`{}` or `{last}`", first.join("`, `"))),
    }
}
