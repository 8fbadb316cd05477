//! How a message leaves the building.
//!
//! A [`Channel`] hands one [`Message`] to the outside and says how that went. It is called outside any
//! transaction, with a time-out, and may be called again for the same message after a failure or a
//! crash: [`Message::token`] is the same each time, for providers that take an idempotency key.
//!
//! Must not: know the database, decide about retries (the class of the error says enough), log an
//! address or a payload.
//!
//! To add a channel of your own: 1. implement [`Channel`]; 2. register it under its name with
//! [`ChimewayBuilder::channel`](crate::flow::ChimewayBuilder::channel); 3. documents may name it.

mod call;
mod dates;
pub mod email;
mod error;
pub mod http;
mod in_app;
mod log;
mod registry;
pub mod render;
mod request;
mod scan;
mod target;
mod web;
pub mod webhook;

use async_trait::async_trait;
use serde_json::Value;

pub use call::Call;
pub use error::{Answered, BoxError, ChannelConfigError, SendError};
pub use in_app::InApp;
pub use log::Log;
pub use registry::Registry;
/// A password, a token or a key: it is not shown, and wiped where it is dropped.
pub use secrecy::{ExposeSecret, SecretString};
pub use target::AllowedTarget;
pub use web::client as http_client;

use crate::ids::{
    ActorId, AttemptNumber, ChannelName, DeliveryId, NotificationId, RenderKey, RunId, StepKey,
    TenantId, WorkflowKey,
};

/// Carries messages to the outside.
#[async_trait]
pub trait Channel: Send + Sync + 'static {
    /// What is called, as attempts keep it: the provider's name rather than the channel's.
    fn adapter(&self) -> &str;

    /// Whether a message needs an address of the recipient's.
    ///
    /// Where one is needed and none is known, nothing is sent: the delivery is suppressed.
    fn needs_address(&self) -> bool {
        false
    }

    /// Whether messages carry content made from templates ([`Message::content`]).
    fn renders(&self) -> bool {
        false
    }

    /// Hands one message over.
    ///
    /// A panic, and no answer within the worker's time-out (20 s), count as
    /// [`SendError::Temporary`].
    ///
    /// # Errors
    ///
    /// [`SendError`], whose variant decides what happens next.
    async fn send(&self, message: &Message) -> Result<Receipt, SendError>;
}

/// One message to one recipient.
#[derive(Debug, Clone)]
pub struct Message {
    /// The delivery.
    pub delivery: DeliveryId,
    /// Which try this is.
    pub attempt: AttemptNumber,
    /// Whose it is.
    pub tenant: TenantId,
    /// Who receives it.
    pub recipient: Option<ActorId>,
    /// The run.
    pub run: RunId,
    /// The recipient's notification.
    pub notification: Option<NotificationId>,
    /// The workflow.
    pub workflow: WorkflowKey,
    /// The step.
    pub step: StepKey,
    /// The channel it goes over.
    pub channel: ChannelName,
    /// Which content.
    pub render_key: RenderKey,
    /// The content's data: what the host gave to the trigger.
    pub params: Value,
    /// The run's own values: what its document takes from the trigger, and what its steps have added.
    pub context: Value,
    /// The recipient's address on this channel, where one is known.
    pub address: Option<String>,
    /// The recipient's language and region (BCP 47).
    pub locale: Option<String>,
    /// The recipient's time zone (IANA name).
    pub time_zone: Option<String>,
    /// What the templates of the render key made, for channels that
    /// [render](Channel::renders).
    pub content: Option<Content>,
    /// The call that a `webhook` action describes; `None` for a message to somebody.
    pub call: Option<Call>,
}

/// What a message says, in the forms that its templates have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// The subject line.
    pub subject: Option<String>,
    /// The plain text.
    pub text: Option<String>,
    /// The HTML.
    pub html: Option<String>,
}

impl Message {
    /// The idempotency token: the same for every try of this delivery, and of no other.
    #[must_use]
    pub fn token(&self) -> String {
        self.delivery.to_string()
    }
}

/// What a provider answered when it took a message.
#[derive(Debug, Clone, Default)]
pub struct Receipt {
    /// The provider's id for the message.
    pub provider_message_id: Option<String>,
    /// What is worth keeping of the answer: codes and classes, no content and no address.
    pub response: Option<Value>,
}
