//! Writes that a message was sent to the log: for development, and for channels that have no provider
//! yet.

use async_trait::async_trait;

use super::{Channel, Message, Receipt, SendError};

/// Writes ids and the content's name to the log; never an address or what the host gave.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log {
    show_messages: bool,
}

impl Log {
    /// Ids and names only.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            show_messages: false,
        }
    }

    /// Prints whole messages to standard output as well. For development only: they hold addresses and
    /// whatever the host gave.
    #[must_use]
    pub const fn showing_messages() -> Self {
        Self {
            show_messages: true,
        }
    }
}

#[async_trait]
impl Channel for Log {
    fn adapter(&self) -> &'static str {
        "log"
    }

    #[expect(
        clippy::print_stdout,
        reason = "showing messages on standard output is what was asked for"
    )]
    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        tracing::info!(
            delivery.id = %message.delivery,
            run.id = %message.run,
            channel = %message.channel,
            render_key = %message.render_key,
            attempt = message.attempt.0,
            "message sent to the log",
        );
        if self.show_messages {
            println!(
                "{} for {} over {}: {}",
                message.render_key,
                message
                    .address
                    .as_deref()
                    .or(message.recipient.as_ref().map(AsRef::as_ref))
                    .unwrap_or("-"),
                message.channel,
                message.params,
            );
        }
        Ok(Receipt::default())
    }
}
