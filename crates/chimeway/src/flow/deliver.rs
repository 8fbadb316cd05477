//! The first two beats of a delivery: what is claimed is turned into a message and handed to its
//! channel, with no transaction open.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Core, Point, definitions::Loaded, record::Attempted};
use crate::{
    channels::{Channel, Message, Receipt, SendError},
    definition::{Definition, Outcome, StepKind},
    engine::AttemptResult,
    ids::{ActorId, ChannelName, TenantId},
    store::deliveries::{ClaimRef, ClaimedRow},
};

/// What is kept of a provider's answer, in bytes of JSON.
const RESPONSE_LIMIT: usize = 8 * 1024;
/// What is kept of a provider's message id, in characters.
const MESSAGE_ID_LIMIT: usize = 512;
/// What must be left of a lease beyond the time-out of a send.
const MARGIN: Duration = Duration::from_secs(1);

/// A claimed delivery, and when this process asked for it: its lease counts from then.
#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    pub(super) row: ClaimedRow,
    pub(super) asked: Instant,
}

impl Claimed {
    pub(super) fn reference(&self) -> ClaimRef {
        ClaimRef {
            id: self.row.id,
            claim_no: self.row.claim_no,
        }
    }
}

/// What became of a claim.
pub(super) enum Delivery {
    /// The channel was called, or the message is not to be sent: to be recorded.
    Attempted(Box<Attempted>),
    /// Too little of the lease was left to call the channel: to be given back.
    TooLate,
}

/// Hands a claimed delivery to its channel.
pub(super) async fn deliver(core: &Core, claimed: &Claimed, definitions: &Loaded) -> Delivery {
    let row = &claimed.row;
    let definition = row.definition.and_then(|id| definitions.get(&id));
    let message = definition.and_then(|definition| message(row, definition));
    if !is_wanted(row, definition.map(AsRef::as_ref)) {
        return attempted(claimed, "", &core.worker, Ended::superseded());
    }
    let Some(message) = message else {
        let ended = Ended::failed(
            AttemptResult::Permanent,
            "the stored delivery does not decode",
        );
        return attempted(claimed, "", &core.worker, ended);
    };
    let Some(channel) = core.channels.get(&row.channel) else {
        tracing::warn!(
            channel = %row.channel, delivery.id = %row.id,
            "this worker has no channel `{}`; the delivery is tried again later", row.channel,
        );
        let result = AttemptResult::Temporary { retry_after: None };
        return attempted(
            claimed,
            "",
            &core.worker,
            Ended::failed(result, "this worker has no such channel"),
        );
    };
    if claimed.asked.elapsed() + core.timing.send + MARGIN > core.timing.lease {
        return Delivery::TooLate;
    }
    core.reach(Point::BeforeSend).await;
    let began = Instant::now();
    let ended = send(channel.as_ref(), &message, core.timing.send).await;
    let took = began.elapsed();
    core.reach(Point::AfterSend).await;
    let waited = began.saturating_duration_since(claimed.asked);
    attempted(
        claimed,
        channel.adapter(),
        &core.worker,
        Ended {
            took,
            waited,
            ..ended
        },
    )
}

/// Whether the message is still to be sent: its run is live and in the visit that made it, or its step
/// said that the journey goes on while it is being tried.
fn is_wanted(row: &ClaimedRow, definition: Option<&Definition>) -> bool {
    if row.run_live != Some(true) {
        return false;
    }
    row.run_visit == Some(row.visit)
        || definition
            .and_then(|definition| Some(definition.step(definition.index_of(row.step)?)))
            .is_some_and(|step| step.on_outcome.contains_key(&Outcome::TemporaryFailure))
}

fn message(row: &ClaimedRow, definition: &Definition) -> Option<Message> {
    let step = definition.step(definition.index_of(row.step)?);
    let StepKind::Notify(notify) = &step.kind else {
        return None;
    };
    Some(Message {
        delivery: row.id,
        attempt: row.attempt,
        tenant: TenantId::new(row.tenant.as_str()).ok()?,
        recipient: row
            .recipient
            .as_deref()
            .and_then(|text| ActorId::new(text).ok()),
        run: row.run,
        notification: row.notification,
        workflow: definition.key.clone(),
        step: step.key.clone(),
        channel: ChannelName::new(row.channel.as_str()).ok()?,
        render_key: notify.render_key.clone(),
        params: row.params.clone().unwrap_or_else(|| json!({})),
        address: row.address.clone(),
        locale: row.locale.clone(),
        time_zone: row.time_zone.clone(),
    })
}

/// How a try ended.
struct Ended {
    result: AttemptResult,
    receipt: Receipt,
    took: Duration,
    waited: Duration,
    superseded: bool,
}

impl Ended {
    fn new(result: AttemptResult, receipt: Receipt) -> Self {
        let (took, waited) = (Duration::ZERO, Duration::ZERO);
        Self {
            result,
            receipt,
            took,
            waited,
            superseded: false,
        }
    }

    /// Keeps our own word for what went wrong, never the provider's text: that may hold an address.
    fn failed(result: AttemptResult, error: &str) -> Self {
        let response = Some(json!({ "error": error }));
        Self::new(
            result,
            Receipt {
                provider_message_id: None,
                response,
            },
        )
    }

    fn superseded() -> Self {
        let result = AttemptResult::Permanent;
        Self {
            superseded: true,
            ..Self::new(result, Receipt::default())
        }
    }
}

/// Calls the channel. A panic and no answer in time are failures like others.
async fn send(channel: &dyn Channel, message: &Message, limit: Duration) -> Ended {
    let calling = AssertUnwindSafe(channel.send(message)).catch_unwind();
    let temporary = AttemptResult::Temporary { retry_after: None };
    match tokio::time::timeout(limit, calling).await {
        Err(_) => Ended::failed(temporary, "no answer in time"),
        Ok(Err(_)) => Ended::failed(temporary, "the channel panicked"),
        Ok(Ok(Ok(receipt))) => Ended::new(AttemptResult::Succeeded, receipt),
        Ok(Ok(Err(error))) => {
            let what = error.to_string();
            let result = match error {
                SendError::Temporary { retry_after, .. } => {
                    AttemptResult::Temporary { retry_after }
                }
                SendError::Permanent { .. } => AttemptResult::Permanent,
                SendError::Bounced { .. } => AttemptResult::Bounced,
            };
            Ended::failed(result, &what)
        }
    }
}

fn attempted(claimed: &Claimed, adapter: &str, worker: &str, ended: Ended) -> Delivery {
    let row = &claimed.row;
    let waited = chrono::TimeDelta::from_std(ended.waited).unwrap_or_default();
    Delivery::Attempted(Box::new(Attempted {
        claim: claimed.reference(),
        number: row.attempt,
        crashes: row.crashes,
        run: row.run,
        visit: row.visit,
        result: ended.result,
        adapter: if adapter.is_empty() {
            row.channel.clone()
        } else {
            scrubbed(adapter)
        },
        worker: worker.to_owned(),
        provider_message_id: ended
            .receipt
            .provider_message_id
            .map(|id| scrubbed(&id).chars().take(MESSAGE_ID_LIMIT).collect()),
        response: ended.receipt.response.map(kept),
        // The database's clock at the claim, and durations of ours.
        started_at: row.now + waited,
        took: ended.took,
        jitter: rand::rng().random::<f64>(),
        superseded: ended.superseded,
    }))
}

/// PostgreSQL cannot keep a NUL.
fn scrubbed(text: &str) -> String {
    text.replace('\0', "")
}

/// What is kept of an answer: without NUL, and only if it is small.
fn kept(response: Value) -> Value {
    let scrubbed = scrub(response);
    let size = scrubbed.to_string().len();
    if size > RESPONSE_LIMIT {
        json!({ "left_out": format!("{size} bytes") })
    } else {
        scrubbed
    }
}

fn scrub(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(scrubbed(&text)),
        Value::Array(items) => items.into_iter().map(scrub).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (scrubbed(&name), scrub(value)))
            .collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_without_nul_and_only_if_it_is_small() {
        let answer = json!({ "a\0b": ["x\0y", 1, null] });
        assert_eq!(kept(answer), json!({ "ab": ["xy", 1, null] }));
        let long = json!({ "body": "x".repeat(10_000) });
        assert_eq!(kept(long), json!({ "left_out": "10011 bytes" }));
    }
}
