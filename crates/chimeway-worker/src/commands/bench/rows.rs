//! What the rows of a journey that elapses have in common: its definition, and its history.

use serde_json::Value;
use sqlx::{PgConnection, Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

use super::load::Journey;
use crate::error::CliError;

/// The definition of the journey that elapses, and its steps in the order of the document: in-app,
/// wait, email.
pub(super) async fn definition(conn: &mut PgConnection) -> Result<(Uuid, [Uuid; 3]), CliError> {
    let (definition, steps): (Uuid, Vec<Uuid>) = sqlx::query_as(
        "select d.id, array_agg(s.id order by s.step_order) \
         from chimeway.workflow_definitions d \
         join chimeway.workflow_steps s on s.workflow_definition_id = d.id \
         where d.workflow_key = $1 group by d.id",
    )
    .bind(Journey::Elapses.key())
    .fetch_one(conn)
    .await?;
    let steps = steps
        .try_into()
        .map_err(|_| CliError::Refused("the journey has not three steps".into()))?;
    Ok((definition, steps))
}

/// A line of the history of a journey that elapses.
#[derive(Clone, Copy)]
pub(super) struct Line {
    step: usize,
    sequence: i32,
    visit: i32,
    from: Option<&'static str>,
    to: &'static str,
    reason: &'static str,
    context: &'static str,
}

impl Line {
    const fn new(
        (sequence, step, visit): (i32, usize, i32),
        (from, to): (Option<&'static str>, &'static str),
        (reason, context): (&'static str, &'static str),
    ) -> Self {
        Self {
            step,
            sequence,
            visit,
            from,
            to,
            reason,
            context,
        }
    }

    pub(super) const STARTED: Self = Self::new(
        (1, 0, 0),
        (None, "active"),
        ("workflow_started", r#"{"workflow": "bench_elapses"}"#),
    );
    pub(super) const IN_APP: Self = Self::new(
        (2, 0, 1),
        (Some("active"), "active"),
        ("step_activated", r#"{"step_key": "step_in_app"}"#),
    );
    pub(super) const WAITING: Self = Self::new(
        (3, 1, 2),
        (Some("active"), "waiting"),
        (
            "waiting_for_step_progression",
            r#"{"from_step": "step_in_app", "delivery_status": "succeeded",
                "pending_signals": ["notification_read"],
                "suspended_until": "2026-03-02T09:00:00.000000Z", "workflow_outcome": "delivered"}"#,
        ),
    );
    pub(super) const ELAPSED: Self = Self::new(
        (4, 1, 2),
        (Some("waiting"), "active"),
        (
            "reactivated_from_wait",
            r#"{"step_key": "step_wait_for_read"}"#,
        ),
    );
    pub(super) const EMAIL: Self = Self::new(
        (5, 2, 3),
        (Some("active"), "active"),
        ("step_activated", r#"{"step_key": "step_email_escalation"}"#),
    );
    pub(super) const COMPLETED: Self = Self::new(
        (6, 2, 3),
        (Some("active"), "completed"),
        (
            "workflow_completed",
            r#"{"from_step": "step_email_escalation", "delivery_status": "succeeded",
                "workflow_outcome": "delivered"}"#,
        ),
    );

    /// All of them, in order.
    pub(super) const ALL: [Self; 6] = [
        Self::STARTED,
        Self::IN_APP,
        Self::WAITING,
        Self::ELAPSED,
        Self::EMAIL,
        Self::COMPLETED,
    ];

    /// Its facts.
    pub(super) fn context(&self) -> Value {
        serde_json::from_str(self.context).unwrap_or_default()
    }
}

/// Gives a statement its first seven arguments: step, reason, sequence, visit, from, to and context of
/// each line.
pub(super) fn bind_lines<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    lines: &[Line],
    steps: &[Uuid; 3],
) -> Query<'q, Postgres, PgArguments> {
    let texts = |of: fn(&Line) -> &'static str| lines.iter().map(of).collect::<Vec<_>>();
    let numbers = |of: fn(&Line) -> i32| lines.iter().map(of).collect::<Vec<_>>();
    statement
        .bind(
            lines
                .iter()
                .map(|line| steps[line.step])
                .collect::<Vec<_>>(),
        )
        .bind(texts(|line| line.reason))
        .bind(numbers(|line| line.sequence))
        .bind(numbers(|line| line.visit))
        .bind(lines.iter().map(|line| line.from).collect::<Vec<_>>())
        .bind(texts(|line| line.to))
        .bind(lines.iter().map(Line::context).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_whole_and_its_facts_can_be_read() {
        for (line, sequence) in Line::ALL.iter().zip(1..) {
            assert_eq!(line.sequence, sequence);
            assert!(line.context().is_object(), "{}", line.reason);
        }
    }
}
