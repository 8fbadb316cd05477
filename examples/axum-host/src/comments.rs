//! Writing a comment: the host's rows and the journey of whoever is mentioned, in one transaction.

use axum::{Json, extract::State, http::StatusCode};
use chimeway::{
    Document, Recipient, Trigger, Workflow, WorkflowBuilder,
    ids::{ActorId, EventId, TenantId},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{App, TENANT, refused::Refused};

/// In the app; by email if they have not looked after two hours.
struct MentionEscalation;

impl Workflow for MentionEscalation {
    fn workflow(&self) -> Document {
        WorkflowBuilder::new("mention_escalation")
            .notify("in_app", "in_app", "mention_notification")
            .wait("wait_for_read", "PT2H", |wait| {
                wait.stop_on("notification_read")
            })
            .notify("email", "email", "mention_email")
            .document()
    }
}

#[derive(Deserialize)]
pub(crate) struct NewComment {
    document_id: String,
    author: String,
    body: String,
}

#[derive(Serialize)]
pub(crate) struct Added {
    comment: i64,
    /// The event that started the journeys; none where nobody is mentioned.
    event: Option<EventId>,
}

/// `POST /comments`
pub(crate) async fn add(
    State(app): State<App>,
    Json(new): Json<NewComment>,
) -> Result<(StatusCode, Json<Added>), Refused> {
    let mut tx = app.pool.begin().await?;
    let comment: i64 = sqlx::query_scalar(
        "insert into comments (document_id, author, body) values ($1, $2, $3) returning id",
    )
    .bind(&new.document_id)
    .bind(&new.author)
    .bind(&new.body)
    .fetch_one(&mut *tx)
    .await?;

    let mentioned = mentioned(&new.body);
    let mut event = None;
    if !mentioned.is_empty() {
        let mut trigger = Trigger::of(&MentionEscalation, TenantId::new(TENANT)?)?
            .params(json!({ "document_id": new.document_id, "author": new.author }))
            .idempotency_key(format!("comment-{comment}"));
        for name in mentioned {
            let person = Recipient::new(ActorId::new(name)?);
            trigger = trigger.recipient(person.address("email", format!("{name}@example.com")));
        }
        event = Some(app.chimeway.trigger(&mut tx, trigger).await?.event());
    }

    let counted = sqlx::query("update documents set comments = comments + 1 where id = $1")
        .bind(&new.document_id)
        .execute(&mut *tx)
        .await?;
    if counted.rows_affected() == 0 {
        // The transaction ends here: no comment, and no journey either.
        return Err(Refused::NotFound);
    }
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(Added { comment, event })))
}

/// The names after an `@`, each once.
fn mentioned(body: &str) -> Vec<&str> {
    let mut names: Vec<&str> = body
        .split('@')
        .skip(1)
        .map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric());
            &rest[..end.unwrap_or(rest.len())]
        })
        .filter(|name| !name.is_empty())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use chimeway_testkit::Story;

    use super::MentionEscalation;

    #[tokio::test]
    async fn who_reads_in_time_gets_no_email() {
        let story = Story::begin("2026-03-02T09:00:00Z").await;
        let run = story.start(&MentionEscalation, "ada").await;
        story.advance("PT1H59M").await;
        story.signal("ada", "notification_read").await;
        story.advance("PT2H").await;
        assert_eq!(story.sent(), ["in_app mention_notification to ada"]);
        assert_eq!(story.explain(run).await.state, "stopped");
    }

    #[tokio::test]
    async fn who_does_not_read_gets_an_email_after_two_hours() {
        let story = Story::begin("2026-03-02T09:00:00Z").await;
        story.start(&MentionEscalation, "ada").await;
        story.advance("PT1H59M").await;
        assert_eq!(story.sent().len(), 1);
        story.advance("PT1M").await;
        assert_eq!(story.sent()[1], "email mention_email to ada");
    }
}
