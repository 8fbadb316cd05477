//! A channel that keeps what it is given and answers as it is told.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chimeway::channels::{Channel, Message, Receipt, SendError};

/// What was handed to a channel.
pub type Sent = Message;

/// How a [`RecordingChannel`] answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It takes the message.
    Takes,
    /// Worth another try, as the receiver wishes where it says when.
    Temporary(Option<Duration>),
    /// Never.
    Permanent,
    /// It came back.
    Bounced,
    /// It panics.
    Panics,
    /// It never answers.
    Hangs,
    /// It takes the message and answers with this.
    With(Receipt),
}

/// Keeps every message in order; takes them, unless told otherwise. Clones share what they keep.
#[derive(Debug, Clone, Default)]
pub struct RecordingChannel {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: Vec<Sent>,
    answers: VecDeque<Answer>,
    always: Option<Answer>,
}

impl RecordingChannel {
    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next messages are answered so, in order; then as before.
    pub fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared().answers.extend(answers);
    }

    /// From now on every message is answered so, where nothing else was told.
    pub fn always(&self, answer: Answer) {
        self.shared().always = Some(answer);
    }

    /// Every message handed over, in order; a repeated try is there again.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.shared().sent.clone()
    }
}

#[async_trait]
impl Channel for RecordingChannel {
    fn adapter(&self) -> &'static str {
        "recording"
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        let answer = {
            let mut shared = self.shared();
            shared.sent.push(message.clone());
            let always = shared.always.clone().unwrap_or(Answer::Takes);
            shared.answers.pop_front().unwrap_or(always)
        };
        let refused = || std::io::Error::other("the test said so");
        match answer {
            Answer::Takes => Ok(Receipt::default()),
            Answer::With(receipt) => Ok(receipt),
            Answer::Temporary(retry_after) => Err(SendError::Temporary {
                retry_after,
                source: Box::new(refused()),
            }),
            Answer::Permanent => Err(SendError::permanent(refused())),
            Answer::Bounced => Err(SendError::bounced(refused())),
            Answer::Panics => panic!("the test said so"),
            Answer::Hangs => std::future::pending().await,
        }
    }
}
