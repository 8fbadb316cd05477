//! How handing a message over can fail, sorted by what happens next.

use std::{error::Error, time::Duration};

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
}
