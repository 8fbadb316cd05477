//! How handing a message over can fail, sorted by what happens next.

use std::{error::Error, time::Duration};

use serde_json::Value;

/// Any error of a provider's library.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// How handing a message over can fail.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Try again, with backoff, up to 5 times in all.
    #[error("the channel is not available now")]
    Temporary {
        /// The receiver's own wish, if it gave one; the longer of it and the backoff counts.
        retry_after: Option<Duration>,
        /// What the provider said.
        #[source]
        source: BoxError,
    },
    /// The address or the message will never work: the workflow branches.
    #[error("the channel refused the message")]
    Permanent {
        /// What the provider said.
        #[source]
        source: BoxError,
    },
    /// The address took it and sent it back: the workflow branches.
    #[error("the message bounced")]
    Bounced {
        /// What the provider said.
        #[source]
        source: BoxError,
    },
}

impl SendError {
    /// A failure worth another try.
    pub fn temporary(source: impl Into<BoxError>) -> Self {
        Self::Temporary {
            retry_after: None,
            source: source.into(),
        }
    }

    /// A failure that will not go away.
    pub fn permanent(source: impl Into<BoxError>) -> Self {
        Self::Permanent {
            source: source.into(),
        }
    }

    /// A bounce.
    pub fn bounced(source: impl Into<BoxError>) -> Self {
        Self::Bounced {
            source: source.into(),
        }
    }

    /// What the attempt keeps of the provider's answer, where the source is [`Answered`].
    #[must_use]
    pub fn answer(&self) -> Option<&Value> {
        let (Self::Temporary { source, .. }
        | Self::Permanent { source }
        | Self::Bounced { source }) = self;
        source.downcast_ref().map(|Answered(answer)| answer)
    }
}

/// What a provider answered when it refused a message, in codes and classes: no content, no address.
///
/// Attempts keep nothing of a failure's source unless it is this one: any other text may quote an
/// address.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Answered(pub Value);

/// Settings from which a channel cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{setting}` is not usable: {problem}")]
pub struct ChannelConfigError {
    /// The setting's name, such as `url`.
    pub setting: String,
    /// What is wrong with it; never its value, which may be a secret.
    pub problem: String,
}

impl ChannelConfigError {
    /// A mistake in a setting.
    pub fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            setting: setting.into(),
            problem: problem.into(),
        }
    }
}
