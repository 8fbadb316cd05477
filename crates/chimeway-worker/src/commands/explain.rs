//! `chimeway explain`: where a run is and why.

use chimeway::{
    flow::{
        DeliveryFacts, Explanation,
        explain::{ApprovalFacts, Intervention},
    },
    ids::{RunId, TenantId},
};

use super::Context;
use crate::{error::CliError, output};

/// Say where a run is, why, and what happens next
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway explain 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456
  chimeway explain 0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10 --tenant org_456 --json

`chimeway traces` shows how it came there.")]
pub(crate) struct Args {
    /// The run
    #[arg(value_name = "RUN")]
    run: RunId,
    /// Whose data this is
    #[arg(long)]
    tenant: TenantId,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    let chimeway = context.chimeway()?.build();
    let mut conn = context.open().await?;
    let found = chimeway
        .workflows()
        .explain(&mut conn, &args.tenant, args.run)
        .await?;
    let explanation = found.ok_or_else(|| CliError::no_run(args.run, &args.tenant))?;
    match context.json {
        true => output::print_json(&explanation),
        false => output::print(block(&explanation)),
    }
}

/// The facts on aligned lines, the sentence last.
pub(crate) fn block(run: &Explanation) -> String {
    let mut lines = vec![
        ("run", run.id.to_string()),
        ("workflow", workflow(run)),
        ("tenant", run.tenant_id.clone()),
        ("state", state(run)),
    ];
    for delivery in &run.deliveries {
        lines.push(("delivery", delivery_line(delivery)));
    }
    for one in &run.approvals {
        lines.push(("approval", approval(one)));
    }
    for one in &run.interventions {
        lines.push(("by hand", by_hand(one)));
    }
    lines.push(("next", run.next.clone()));
    let lines = lines
        .iter()
        .map(|(name, text)| format!("{name:<10}{}\n", output::visible(text)));
    lines.collect()
}

/// `mention_escalation v1`
fn workflow(run: &Explanation) -> String {
    let version = run
        .version
        .map_or_else(String::new, |version| format!(" v{version}"));
    format!("{}{version}", output::or_dash(run.workflow.as_ref()))
}

/// `waiting (waiting_for_step_progression) in step_wait_for_read, until 2026-03-02 11:00:00Z`
fn state(run: &Explanation) -> String {
    let mut text = match &run.terminal_reason {
        Some(reason) if *reason == run.state => run.state.clone(),
        Some(reason) => format!("{} ({reason})", run.state),
        None => format!("{} ({})", run.state, run.status_reason),
    };
    if let Some(step) = &run.current_step_name {
        text.push_str(&format!(" in {step}"));
    }
    if let Some(until) = run.suspended_until {
        text.push_str(&format!(", until {}", output::instant(until)));
    }
    if !run.pending_signals.is_empty() {
        text.push_str(&format!(" or {}", run.pending_signals.join(", ")));
    }
    text
}

/// `approved by carol at 2026-03-02 11:00:00Z, asked role manager in ask`
fn approval(one: &ApprovalFacts) -> String {
    let who = format!("{} {}", one.assignee_kind, one.assignee);
    let step = one.step.as_deref().unwrap_or("-");
    let Some(decision) = &one.decision else {
        let until = one
            .deadline
            .map_or_else(String::new, |at| format!(" until {}", output::instant(at)));
        return format!("open{until}, asks {who} in {step}");
    };
    let by = one
        .decided_by
        .as_ref()
        .map_or_else(String::new, |by| format!(" by {by}"));
    let at = one
        .decided_at
        .map_or_else(String::new, |at| format!(" at {}", output::instant(at)));
    format!(
        "{}{by}{at}, asked {who} in {step}",
        decision.replace('_', " ")
    )
}

/// `cancel run by carol at 2026-03-02 11:00:00Z: sent by mistake`
fn by_hand(one: &Intervention) -> String {
    let Intervention {
        kind,
        subject,
        made_by,
        reason,
        made_at,
        ..
    } = one;
    let why = reason
        .as_ref()
        .map_or_else(String::new, |why| format!(": {why}"));
    format!(
        "{kind} {subject} by {made_by} at {}{why}",
        output::instant(*made_at)
    )
}

/// `email: succeeded, 1 attempt, 0198f2c4-...`
fn delivery_line(delivery: &DeliveryFacts) -> String {
    let attempts = output::count(usize::try_from(delivery.attempts).unwrap_or(0), "attempt");
    let mut text = format!("{}: {}", delivery.channel, delivery.status);
    match (&delivery.status_reason, &delivery.checkpoint) {
        (Some(reason), Some(checkpoint)) => {
            text.push_str(&format!(" ({reason}, decided at {checkpoint})"));
        }
        (Some(reason), None) => text.push_str(&format!(" ({reason})")),
        (None, _) => {}
    }
    text.push_str(&format!(", {attempts}"));
    if let Some(next) = delivery.next_attempt_at {
        text.push_str(&format!(", next at {}", output::instant(next)));
    }
    format!("{text}, {}", delivery.id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_facts_stand_in_a_block() {
        let id = "0198f2c4-0000-7000-8000-000000000000";
        let run: Explanation = serde_json::from_value(json!({
            "id": id, "tenant_id": "a\u{7}", "workflow": "escalation", "version": 2,
            "state": "waiting", "status_reason": "waiting_for_step_progression",
            "current_step_name": "pause", "suspended_until": "2026-03-02T11:00:00.5Z",
            "pending_signals": ["read", "opened"], "terminal_reason": null,
            "quarantine_reason": null, "visit": 2, "started_at": "2026-03-02T09:00:00Z",
            "ended_at": null, "now": "2026-03-02T09:00:01Z", "wake_at": null,
            "next": "Waits.",
            "interventions": [{
                "kind": "cancel", "subject": "run", "subject_id": id, "made_by": "carol",
                "reason": "a mistake", "made_at": "2026-03-02T09:00:00Z",
            }],
            "deliveries": [{
                "id": id, "channel": "in_app", "status": "failed", "status_reason": "slow",
                "attempts": 2, "next_attempt_at": "2026-03-02T09:01:00Z", "step": "tell",
                "visit": 1, "lease_until": null, "progress_owed": false, "last_outcome": "failed",
            }],
        }))
        .unwrap();
        let expected = format!(
            "run       {id}
workflow  escalation v2
tenant    a\\u{{7}}
state     waiting (waiting_for_step_progression) in pause, until 2026-03-02 11:00:00Z or read, opened
delivery  in_app: failed (slow), 2 attempts, next at 2026-03-02 09:01:00Z, {id}
by hand   cancel run by carol at 2026-03-02 09:00:00Z: a mistake
next      Waits.
"
        );
        assert_eq!(block(&run), expected);
    }
}
