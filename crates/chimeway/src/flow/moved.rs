//! A run on its way through a transaction: read from its row, moved by decisions, written back.

use std::{ops::Range, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{
    definition::{Definition, StepIndex, StepKind},
    engine::{
        Asked, Decision, Reason, Run, RunState, StateName, TerminalReason, Transition,
        attempt::status_reason::{CANCELLED, SUPERSEDED},
    },
    ids::{ApprovalId, DeliveryId, NotificationId, Sequence, SignalName, Visit},
    store::{
        StoreError, StoreResult,
        approvals::NewApproval,
        deliveries::NewDelivery,
        runs::{RunRow, SavedRun},
        transitions::NewTransition,
    },
};

/// Whose a run is.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) tenant: String,
    pub(super) actor: String,
    pub(super) notification: Option<NotificationId>,
}

/// What is to be written for a run that moved.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) transitions: Vec<NewTransition>,
    pub(super) deliveries: Vec<NewDelivery>,
    /// What it still had to send is not sent, for this reason.
    pub(super) cancel_unsent: Option<&'static str>,
    /// Decisions that people are asked for.
    pub(super) approvals: Vec<NewApproval>,
    /// What it had asked for is not needed any more.
    pub(super) withdraw: bool,
    /// Actions that are to be performed before anything else happens to it.
    pub(super) execute: Option<Range<usize>>,
    context: Option<Value>,
    status_context: Option<Arc<Value>>,
}

/// A run on its way through a transaction.
pub(super) struct Moved {
    pub(super) run: Run,
    pub(super) writes: Writes,
    pub(super) owner: Owner,
}

impl Moved {
    pub(super) fn new(run: Run, owner: Owner) -> Self {
        Self {
            run,
            owner,
            writes: Writes::default(),
        }
    }

    /// Carries decisions out in memory.
    pub(super) fn apply(&mut self, decisions: Vec<Decision>, now: DateTime<Utc>) {
        for decision in decisions {
            match decision {
                Decision::Transition(transition) => {
                    self.run.apply(&transition);
                    let activates = transition.reason == Reason::StepActivated;
                    let line = self.line(transition, now);
                    if !activates {
                        self.writes.status_context = Some(Arc::clone(&line.context));
                    }
                    self.writes.transitions.push(line);
                }
                Decision::Plan {
                    step,
                    visit,
                    action,
                    channel,
                } => {
                    // What is no message to the recipient is none that they could not want.
                    let (recipient, category, unless_read) =
                        match &self.run.definition.step(step).kind {
                            StepKind::Notify(notify) => (
                                Some(self.owner.actor.clone()),
                                notify.category.as_ref(),
                                notify.unless_read,
                            ),
                            _ => (None, None, false),
                        };
                    self.writes.deliveries.push(NewDelivery {
                        id: DeliveryId::fresh(),
                        run: self.run.id,
                        step: self.run.definition.step_id(step),
                        visit,
                        action: i32::try_from(action).unwrap_or(i32::MAX),
                        notification: self.owner.notification,
                        tenant: self.owner.tenant.clone(),
                        channel: channel.as_str().to_owned(),
                        recipient,
                        category: category.map(ToString::to_string),
                        unless_read,
                        due: now,
                    });
                }
                Decision::CancelUnsent => {
                    let by_hand = self.run.state == RunState::Stopped(TerminalReason::Cancelled);
                    self.writes.cancel_unsent = Some(if by_hand { CANCELLED } else { SUPERSEDED });
                }
                Decision::Ask {
                    step,
                    visit,
                    assignee,
                    until,
                } => self.ask((step, visit), &assignee, until, now),
                Decision::Withdraw => self.writes.withdraw = true,
                Decision::Execute { actions, .. } => self.writes.execute = Some(actions),
                Decision::Remember(added) => {
                    self.run.remember(&added);
                    let facts = self.run.facts.as_ref();
                    self.writes.context = facts.map(|facts| facts.context.clone());
                }
            }
        }
    }

    /// The line that entered the step, written just before, names the approval.
    fn ask(
        &mut self,
        (step, visit): (StepIndex, Visit),
        assignee: &Asked,
        deadline: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) {
        let id = ApprovalId::fresh();
        let (assignee_kind, assignee) = match assignee {
            Asked::User(user) => ("user", user.as_str()),
            Asked::Role(role) => ("role", role.as_str()),
        };
        if let Some(line) = self.writes.transitions.last_mut() {
            line.approval = Some(id);
        }
        self.writes.approvals.push(NewApproval {
            id,
            run: self.run.id,
            step: self.run.definition.step_id(step),
            visit,
            tenant: self.owner.tenant.clone(),
            assignee_kind,
            assignee: assignee.to_owned(),
            deadline,
            at: now,
        });
    }

    fn line(&self, transition: Transition, now: DateTime<Utc>) -> NewTransition {
        NewTransition {
            run: self.run.id,
            step: self.run.definition.step_id(transition.step),
            delivery: transition.delivery,
            signal: transition.signal,
            approval: transition.approval,
            sequence: self.run.sequence,
            visit: transition.visit,
            from: transition.from.map(StateName::as_str),
            to: transition.to.name().map_or("active", StateName::as_str),
            reason: transition.reason.as_str().into(),
            context: Arc::new(Value::Object(transition.context)),
            at: now,
        }
    }

    /// The run's row now.
    pub(super) fn row(&self, now: DateTime<Utc>) -> SavedRun {
        let (suspended_until, pending_signals) = match &self.run.state {
            RunState::Waiting { until, stop_on } => (
                Some(*until),
                stop_on.iter().map(ToString::to_string).collect(),
            ),
            RunState::AwaitingApproval { until } => (*until, vec![]),
            _ => (None, vec![]),
        };
        // Its actions are carried out in a transaction of its own: see `actions/act.rs`.
        let wake_at = match self.writes.execute {
            Some(_) => Some(now),
            None => self.run.wake_at(now),
        };
        let kind = &self.run.definition.step(self.run.step).kind;
        let acts = self.run.state == RunState::Active && matches!(kind, StepKind::Action(_));
        SavedRun {
            id: self.run.id,
            step: self.run.definition.step_id(self.run.step),
            visit: self.run.visit,
            state: self.run.state.name().map_or("active", StateName::as_str),
            status_reason: self.run.status_reason.clone().into_owned(),
            status_context: self.writes.status_context.clone(),
            context: self.writes.context.clone(),
            suspended_until,
            wake_at: wake_at.filter(|_| !acts),
            act_at: wake_at.filter(|_| acts),
            pending_signals,
            terminal_reason: self
                .run
                .state
                .terminal_reason()
                .map(|reason| reason.to_string()),
            sequence: self.run.sequence,
            at: now,
        }
    }
}

/// A run's row as the engine knows it; an error names the column that makes no sense.
pub(super) fn decode(row: &RunRow, definition: Option<Arc<Definition>>) -> StoreResult<Run> {
    let bad = |column| StoreError::Inconsistent {
        table: "workflow_runs",
        column,
        row: row.id.0,
    };
    let definition = definition.ok_or_else(|| bad("workflow_definition_id"))?;
    let step = definition
        .index_of(row.current_step_id)
        .ok_or_else(|| bad("current_step_id"))?;
    let is_approval = matches!(definition.step(step).kind, StepKind::Approval(_));
    let reason = || {
        let text = row.terminal_reason.as_deref().unwrap_or_default();
        TerminalReason::parse(text).ok_or_else(|| bad("terminal_reason"))
    };
    let state = match StateName::parse(&row.state).ok_or_else(|| bad("state"))? {
        StateName::Active => RunState::Active,
        StateName::Waiting if is_approval => RunState::AwaitingApproval {
            until: row.suspended_until,
        },
        StateName::Waiting => RunState::Waiting {
            until: row.suspended_until.ok_or_else(|| bad("suspended_until"))?,
            stop_on: row
                .pending_signals
                .iter()
                .map(|name| SignalName::new(name.as_str()))
                .collect::<Result<_, _>>()
                .map_err(|_| bad("pending_signals"))?,
        },
        StateName::Completed => RunState::Completed,
        StateName::Stopped => RunState::Stopped(reason()?),
        StateName::Failed => RunState::Failed(reason()?),
    };
    Ok(Run {
        id: row.id,
        definition,
        step,
        visit: Visit(row.visit),
        state,
        status_reason: row.status_reason.clone().into(),
        sequence: Sequence(row.transition_count),
        facts: None,
        // Else it is due: its deliveries say how far it has come.
        sent: row.wake_at.is_none() && row.act_at.is_none(),
    })
}

/// The end of a run whose row does not decode, when somebody asks for it: the one thing that can be
/// done for it without knowing what it would do next. Its last line follows the history that is there.
pub(super) fn ended_undecoded(row: &RunRow) -> (SavedRun, NewTransition) {
    let sequence = Sequence(row.transition_count).next();
    let to = StateName::Stopped.as_str();
    let reason = Reason::WorkflowCancelled.as_str();
    let saved = SavedRun {
        id: row.id,
        step: row.current_step_id,
        visit: Visit(row.visit),
        state: to,
        status_reason: reason.to_owned(),
        status_context: None,
        context: None,
        suspended_until: None,
        wake_at: None,
        act_at: None,
        pending_signals: vec![],
        terminal_reason: Some(TerminalReason::Cancelled.to_string()),
        sequence,
        at: row.now,
    };
    let line = NewTransition {
        run: row.id,
        step: row.current_step_id,
        delivery: None,
        signal: None,
        approval: None,
        sequence,
        visit: Visit(row.visit),
        from: StateName::parse(&row.state).map(StateName::as_str),
        to,
        reason: reason.into(),
        context: Arc::new(Value::Object(serde_json::Map::new())),
        at: row.now,
    };
    (saved, line)
}
