//! The first two beats of a delivery: what is claimed is turned into a message and handed to its
//! channel, with no transaction open.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Core, Point,
    address_book::{self, Addressed, LookUp},
    definitions, metrics,
    record::{Attempted, Unsent},
    session::Sessions,
    spans::Origin,
    steps::StepCall,
    templates::{self, Unrendered},
};
use crate::{
    channels::{Call, Message, Receipt, SendError},
    definition::{Action, Definition, Outcome, StepKind, Webhook},
    engine::{AttemptResult, attempt::status_reason},
    ids::{ActorId, CategoryName, ChannelName, KindName, RenderKey, TenantId},
    store::{
        StoreResult,
        claims::{ClaimRef, ClaimedRow},
        json::Kept,
    },
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
    /// Where no address is stored and one is needed: what the host's address book answers.
    pub(super) look_up: Option<LookUp>,
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

/// What claims need besides their rows.
pub(super) struct Needs {
    definitions: definitions::Loaded,
    templates: templates::Loaded,
}

/// The definitions and templates that claims need: nearly always in memory.
pub(super) async fn needs_of(
    core: &Core,
    sessions: &Sessions,
    claims: &[Claimed],
) -> StoreResult<Needs> {
    let ids: Vec<_> = claims
        .iter()
        .filter_map(|claimed| claimed.row.definition)
        .collect();
    let definitions = match core.definitions.known(&ids) {
        Some(known) => known,
        None => {
            let work = sessions.bounded();
            let read = async {
                let mut session = work.session().await?;
                core.definitions.get(&mut *session.read().await?, ids).await
            };
            work.run(read).await?
        }
    };
    let templates = core
        .templates
        .of(core, sessions, claims, &definitions)
        .await?;
    Ok(Needs {
        definitions,
        templates,
    })
}

/// Hands a claimed delivery to its channel.
pub(super) async fn deliver(core: &Core, claimed: &Claimed, needs: &Needs) -> Delivery {
    let row = &claimed.row;
    let definition = row.definition.and_then(|id| needs.definitions.get(&id));
    let message = definition.and_then(|definition| message(row, definition));
    let own = definition.and_then(|definition| step_call(row, definition));
    if row.delivered {
        return attempted(claimed, "", &core.worker, Ended::unsent(Unsent::Delivered));
    }
    if !is_wanted(row, definition.map(AsRef::as_ref)) {
        return attempted(claimed, "", &core.worker, Ended::unsent(Unsent::Superseded));
    }
    if definition.is_none() {
        // A newer worker may know it.
        let temporary = AttemptResult::Temporary { retry_after: None };
        let ended = Ended::failed(temporary, "this worker cannot read the definition");
        return attempted(claimed, "", &core.worker, ended);
    }
    if let Some(reason) = definition.and_then(|definition| suppressed(row, definition)) {
        let unsent = Ended::unsent(Unsent::Suppressed(reason));
        return attempted(claimed, "", &core.worker, unsent);
    }
    if let Some((kind, call)) = own {
        return own_step(core, claimed, &kind, &call).await;
    }
    let Some(mut message) = message else {
        let ended = Ended::failed(
            AttemptResult::Permanent,
            "the stored delivery does not decode",
        );
        return attempted(claimed, "", &core.worker, ended);
    };
    if let Some(webhook) = definition.and_then(|definition| webhook(row, definition)) {
        match Call::fill(webhook, &message.context, &message.params) {
            Ok(call) => message.call = Some(call),
            Err(error) => return attempted(claimed, "", &core.worker, Ended::refused(&error)),
        }
    }
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
    let addressed = address_book::address(channel.as_ref(), claimed, &mut message).await;
    if let Some(ended) = unaddressed(&addressed) {
        return attempted(claimed, channel.adapter(), &core.worker, ended);
    }
    let mut template_hash = None;
    if channel.renders() {
        match needs.templates.render(&mut message) {
            Ok(hash) => template_hash = Some(hash),
            Err(unrendered) => {
                let ended = Ended::unrendered(unrendered);
                return attempted(claimed, channel.adapter(), &core.worker, ended);
            }
        }
    }
    if claimed.asked.elapsed() + core.timing.send + MARGIN > core.timing.lease {
        return Delivery::TooLate;
    }
    core.reach(Point::BeforeSend).await;
    let began = Instant::now();
    let ended = send(channel.send(&message), core.timing.send).await;
    let took = began.elapsed();
    core.reach(Point::AfterSend).await;
    let waited = began.saturating_duration_since(claimed.asked);
    count_call(core, row, waited, took);
    attempted(
        claimed,
        channel.adapter(),
        &core.worker,
        Ended {
            took,
            waited,
            template_hash,
            ..ended
        },
    )
}

/// How late the claim was by the database's clock, and what passed since by ours.
fn count_call(core: &Core, row: &ClaimedRow, waited: Duration, took: Duration) {
    let late = (row.now - row.due_at).to_std().unwrap_or_default();
    metrics::sent(core, &row.channel, late + waited, took);
}

/// Does the work of a step of a host's own kind.
async fn own_step(core: &Core, claimed: &Claimed, name: &KindName, call: &StepCall) -> Delivery {
    let Some(kind) = core.steps.get(name) else {
        tracing::warn!(
            kind = %name, delivery.id = %claimed.row.id,
            "this worker has no kind of step `{name}`; the work is tried again later",
        );
        let temporary = AttemptResult::Temporary { retry_after: None };
        let ended = Ended::failed(temporary, "this worker has no such kind of step");
        return attempted(claimed, "", &core.worker, ended);
    };
    if claimed.asked.elapsed() + core.timing.send + MARGIN > core.timing.lease {
        return Delivery::TooLate;
    }
    core.reach(Point::BeforeSend).await;
    let began = Instant::now();
    let ended = send(kind.perform(call), core.timing.send).await;
    core.reach(Point::AfterSend).await;
    let took = began.elapsed();
    let waited = began.saturating_duration_since(claimed.asked);
    count_call(core, &claimed.row, waited, took);
    let ended = Ended {
        took,
        waited,
        ..ended
    };
    attempted(claimed, "", &core.worker, ended)
}

fn step_call(row: &ClaimedRow, definition: &Definition) -> Option<(KindName, StepCall)> {
    let step = definition.step(definition.index_of(row.step)?);
    let StepKind::Custom(custom) = &step.kind else {
        return None;
    };
    let params = match &row.params {
        None => json!({}),
        Some(kept) => kept.read()?.clone(),
    };
    let recipient = row.recipient.as_deref();
    let call = StepCall {
        delivery: row.id,
        attempt: row.attempt,
        tenant: TenantId::new(row.tenant.as_str()).ok()?,
        run: row.run,
        recipient: recipient.and_then(|text| ActorId::new(text).ok()),
        notification: row.notification,
        workflow: definition.key.clone(),
        step: step.key.clone(),
        settings: custom.settings.clone(),
        params,
    };
    Some((custom.kind.clone(), call))
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

/// Why the recipient is not to get this message, if so: what was looked at when it was planned is
/// looked at again, for it may have been said since.
fn suppressed(row: &ClaimedRow, definition: &Definition) -> Option<&'static str> {
    let step = definition.step(definition.index_of(row.step)?);
    let StepKind::Notify(notify) = &step.kind else {
        return None;
    };
    let category = notify.category.as_ref().map(CategoryName::as_str);
    let category = category.or_else(|| row.params.as_ref()?.read()?.get("category")?.as_str());
    let unwanted = row.disabled_categories.as_deref().unwrap_or_default();
    if row.channel_disabled {
        Some(status_reason::CHANNEL_DISABLED)
    } else if category.is_some_and(|category| unwanted.iter().any(|one| one == category)) {
        Some(status_reason::CATEGORY_DISABLED)
    } else if notify.unless_read && row.read {
        Some(status_reason::ALREADY_READ)
    } else {
        None
    }
}

/// How a try ends that has no address to go to.
fn unaddressed(addressed: &Addressed) -> Option<Ended> {
    match addressed {
        Addressed::Yes => None,
        Addressed::Nowhere => {
            let unsent = Unsent::Suppressed(status_reason::NO_ADDRESS);
            Some(Ended::unsent(unsent))
        }
        Addressed::Unknown => {
            let temporary = AttemptResult::Temporary { retry_after: None };
            Some(Ended::failed(temporary, "the address book did not answer"))
        }
        Addressed::Unfit(problem) => {
            let error = format!("the recipient's address {problem}");
            Some(Ended::failed(AttemptResult::Permanent, &error))
        }
    }
}

/// The call that a delivery makes for an action.
fn webhook<'a>(row: &ClaimedRow, definition: &'a Definition) -> Option<&'a Webhook> {
    let step = definition.step(definition.index_of(row.step)?);
    let StepKind::Action(actions) = &step.kind else {
        return None;
    };
    match actions.get(usize::try_from(row.action).ok()?)? {
        Action::Webhook(webhook) => Some(webhook),
        _ => None,
    }
}

fn message(row: &ClaimedRow, definition: &Definition) -> Option<Message> {
    let step = definition.step(definition.index_of(row.step)?);
    let render_key = match &step.kind {
        StepKind::Notify(notify) => notify.render_key.clone(),
        // It has no content but the call.
        StepKind::Action(_) => RenderKey::new(step.key.as_str()).ok()?,
        _ => return None,
    };
    let object = |kept: &Option<Kept>| match kept {
        None => Some(json!({})),
        Some(kept) => kept.read().cloned(),
    };
    let params = object(&row.params)?;
    let context = object(&row.context)?;
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
        render_key,
        params,
        context,
        call: None,
        address: row.address.clone(),
        locale: row.locale.clone(),
        time_zone: row.time_zone.clone(),
        content: None,
    })
}

/// How a try ended.
struct Ended {
    result: AttemptResult,
    receipt: Receipt,
    template_hash: Option<String>,
    took: Duration,
    waited: Duration,
    unsent: Option<Unsent>,
}

impl Ended {
    fn new(result: AttemptResult, receipt: Receipt) -> Self {
        let (took, waited) = (Duration::ZERO, Duration::ZERO);
        Self {
            result,
            receipt,
            template_hash: None,
            took,
            waited,
            unsent: None,
        }
    }

    /// No content, no message: nothing that the host gave will change that.
    fn unrendered(unrendered: Unrendered) -> Self {
        let receipt = Receipt {
            provider_message_id: None,
            response: Some(unrendered.response),
        };
        Self {
            template_hash: unrendered.hash,
            ..Self::new(AttemptResult::Permanent, receipt)
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

    /// The channel did not take it; what it kept of the answer is kept.
    fn refused(error: &SendError) -> Self {
        let what = error.to_string();
        let answer = error.answer().cloned();
        let result = match error {
            SendError::Temporary { retry_after, .. } => AttemptResult::Temporary {
                retry_after: *retry_after,
            },
            SendError::Permanent { .. } => AttemptResult::Permanent,
            SendError::Bounced { .. } => AttemptResult::Bounced,
        };
        let mut ended = Self::failed(result, &what);
        if let (Some(Value::Object(kept)), Some(Value::Object(answer))) =
            (&mut ended.receipt.response, answer)
        {
            kept.extend(answer);
        }
        ended
    }

    fn unsent(why: Unsent) -> Self {
        let result = AttemptResult::Permanent;
        Self {
            unsent: Some(why),
            ..Self::new(result, Receipt::default())
        }
    }
}

/// Calls the channel, or a host's own step. A panic and no answer in time are failures like others.
async fn send(calling: impl Future<Output = Result<Receipt, SendError>>, limit: Duration) -> Ended {
    let calling = AssertUnwindSafe(calling).catch_unwind();
    let temporary = AttemptResult::Temporary { retry_after: None };
    match tokio::time::timeout(limit, calling).await {
        Err(_) => Ended::failed(temporary, "no answer in time"),
        Ok(Err(_)) => Ended::failed(temporary, "the channel panicked"),
        Ok(Ok(Ok(receipt))) => Ended::new(AttemptResult::Succeeded, receipt),
        Ok(Ok(Err(error))) => Ended::refused(&error),
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
        action: row.action,
        channel: row.channel.clone(),
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
        template_hash: ended.template_hash,
        // The database's clock at the claim, and durations of ours.
        started_at: row.now + waited,
        took: ended.took,
        jitter: rand::rng().random::<f64>(),
        unsent: ended.unsent,
        origin: Origin {
            event: row.event,
            definition: row.definition,
            step: Some(row.step),
            started_at: row.run_started_at,
        },
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
