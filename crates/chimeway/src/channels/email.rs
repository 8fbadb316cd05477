//! Mail over SMTP: TLS by rustls, connections kept open, one recipient a mail.
//!
//! A mail's Message-ID is made of its delivery's id and is the same for each try, so that a receiver can
//! tell a repetition. What the server answers is kept as a class and its codes; its words are not, since
//! they often quote the address.

mod compose;
mod dialogue;
mod fault;
mod settings;

use std::{sync::Mutex, time::Duration};

use async_trait::async_trait;
use serde_json::json;

pub use settings::{EmailSettings, Security};

use self::{
    compose::Letterhead,
    dialogue::{Accepted, Server},
    fault::Fault,
};
use super::{Channel, Message, Receipt, SendError};

/// Sends mail over an SMTP server; made by [`EmailSettings::build`].
#[derive(Debug)]
pub struct EmailChannel {
    letterhead: Letterhead,
    server: Server,
    timeout: Duration,
    /// What the operator was last told about the server, until it works again.
    trouble: Mutex<Option<&'static str>>,
}

#[async_trait]
impl Channel for EmailChannel {
    fn adapter(&self) -> &'static str {
        "smtp"
    }

    fn needs_address(&self) -> bool {
        true
    }

    fn renders(&self) -> bool {
        true
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        let mail = compose::mail(&self.letterhead, message)?;
        let sending = tokio::time::timeout(self.timeout, self.server.send(&mail));
        match sending.await.unwrap_or_else(|_| Err(Fault::timed_out())) {
            Ok(accepted) => {
                self.note(None);
                Ok(receipt(mail.message_id, accepted))
            }
            Err(fault) => {
                self.note(Some(&fault));
                Err(fault.into())
            }
        }
    }
}

fn receipt(message_id: String, accepted: Accepted) -> Receipt {
    let mut response = json!({ "code": accepted.code });
    if let Some(enhanced) = accepted.enhanced {
        response["enhanced"] = enhanced.into();
    }
    Receipt {
        provider_message_id: Some(message_id),
        response: Some(response),
    }
}

impl EmailChannel {
    /// Tells the operator once what is wrong with the server, and once that it works again: not for
    /// every mail that waits for it.
    fn note(&self, fault: Option<&Fault>) {
        let class = match fault {
            // A mail was refused, which says that the server works.
            Some(fault) if !fault.is_the_servers() => None,
            fault => fault.map(|fault| fault.class),
        };
        let mut trouble = self
            .trouble
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if *trouble == class {
            return;
        }
        match (class, fault.and_then(|fault| fault.code)) {
            (Some(class), code) => tracing::warn!(
                server = %self.server, class, code,
                "mail cannot be sent: {}; it is tried again later", fault::in_words(class),
            ),
            (None, _) => tracing::info!(server = %self.server, "mail can be sent again"),
        }
        *trouble = class;
    }
}
