//! Addresses that the host keeps: asked for when a message is claimed and none is stored.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};

use super::{Core, Timing, deliver::Claimed, recipients::unfit};
use crate::{
    channels::{BoxError, Channel, Message},
    ids::{ActorId, TenantId},
};

/// The longest that a look-up may take.
const LONGEST: Duration = Duration::from_secs(5);

/// How a recipient is reached, as the host knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contact {
    /// Channel to address.
    pub addresses: BTreeMap<String, String>,
    /// Language and region (BCP 47), where none is stored.
    pub locale: Option<String>,
    /// IANA name, where none is stored.
    pub time_zone: Option<String>,
}

/// Where a host keeps addresses of its own.
///
/// Asked for recipients of whom no address is stored for a channel that
/// [needs one](crate::channels::Channel::needs_address): once for each tenant of a batch that was
/// claimed, outside any transaction, with a time-out (5 s, or less where leases are short). What it
/// answers is used for these messages and not stored.
#[async_trait]
pub trait AddressBook: Send + Sync + 'static {
    /// What is known of these recipients; those that are not known are left out.
    ///
    /// # Errors
    ///
    /// Any error, a panic and no answer in time count as a temporary failure of the messages that ask.
    /// The error's text is logged: it holds no address.
    async fn look_up(
        &self,
        tenant: &TenantId,
        recipients: &[ActorId],
    ) -> Result<HashMap<ActorId, Contact>, BoxError>;
}

/// What one call answers, for all the deliveries that wait for it; `None` where it failed. Nothing is
/// called before the first of them asks.
pub(super) type LookUp = Shared<BoxFuture<'static, Option<Arc<HashMap<ActorId, Contact>>>>>;

/// Gives each of these claims that lacks an address its part in a look-up.
pub(super) fn consult(core: &Core, claimed: &mut [Claimed]) {
    let Some(book) = &core.address_book else {
        return;
    };
    let mut asking: HashMap<TenantId, (HashSet<ActorId>, Vec<usize>)> = HashMap::new();
    for (place, one) in claimed.iter().enumerate() {
        if let Some((tenant, recipient)) = asks(core, one) {
            let (recipients, places) = asking.entry(tenant).or_default();
            recipients.insert(recipient);
            places.push(place);
        }
    }
    for (tenant, (recipients, places)) in asking {
        let recipients = recipients.into_iter().collect();
        let call = look_up(Arc::clone(book), tenant, recipients, limit(core.timing));
        let call: LookUp = call.boxed().shared();
        for place in places {
            if let Some(one) = claimed.get_mut(place) {
                one.look_up = Some(call.clone());
            }
        }
    }
}

fn asks(core: &Core, claimed: &Claimed) -> Option<(TenantId, ActorId)> {
    let row = &claimed.row;
    if row.address.is_some() || row.run_live != Some(true) {
        return None;
    }
    core.channels
        .get(&row.channel)
        .filter(|channel| channel.needs_address())?;
    let recipient = ActorId::new(row.recipient.as_deref()?).ok()?;
    Some((TenantId::new(row.tenant.as_str()).ok()?, recipient))
}

/// Half of what a lease has to spare beside a send: the message is still to be sent in it.
fn limit(timing: Timing) -> Duration {
    (timing.lease.saturating_sub(timing.send) / 2).min(LONGEST)
}

async fn look_up(
    book: Arc<dyn AddressBook>,
    tenant: TenantId,
    recipients: Vec<ActorId>,
    limit: Duration,
) -> Option<Arc<HashMap<ActorId, Contact>>> {
    let asking = AssertUnwindSafe(book.look_up(&tenant, &recipients)).catch_unwind();
    let problem = match tokio::time::timeout(limit, asking).await {
        Ok(Ok(Ok(contacts))) => return Some(Arc::new(contacts)),
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(_)) => "it panicked".to_owned(),
        Err(_) => "no answer in time".to_owned(),
    };
    tracing::warn!(
        %tenant, recipients = recipients.len(), problem,
        "the address book failed; the deliveries that asked it are tried again later",
    );
    None
}

/// Whether a message can be addressed.
pub(super) enum Addressed {
    /// It can, or needs not to be.
    Yes,
    /// Nobody knows an address.
    Nowhere,
    /// The address book did not answer.
    Unknown,
    /// There is one that nothing may be sent to.
    Unfit(&'static str),
}

/// Completes a message by what the address book answers, if it was asked.
pub(super) async fn address(
    channel: &dyn Channel,
    claimed: &Claimed,
    message: &mut Message,
) -> Addressed {
    if let Some(look_up) = &claimed.look_up {
        let Some(contacts) = look_up.clone().await else {
            return Addressed::Unknown;
        };
        let contact = message.recipient.as_ref().and_then(|who| contacts.get(who));
        if let Some(contact) = contact {
            message.address = contact.addresses.get(message.channel.as_str()).cloned();
            let given = |known: &mut Option<String>, told: &Option<String>| {
                if known.is_none() {
                    known.clone_from(told);
                }
            };
            given(&mut message.locale, &contact.locale);
            given(&mut message.time_zone, &contact.time_zone);
        }
    }
    match message.address.as_deref() {
        // It says itself where it goes.
        _ if message.call.is_some() => Addressed::Yes,
        None if channel.needs_address() => Addressed::Nowhere,
        None => Addressed::Yes,
        Some(address) => unfit(address).map_or(Addressed::Yes, Addressed::Unfit),
    }
}
