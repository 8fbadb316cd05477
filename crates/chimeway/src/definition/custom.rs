//! A step of a kind that a host has registered.

use serde_json::{Map, Value};

use crate::ids::{ChannelName, KindName};

/// A step of a host's own kind: outcome `succeeded` or `failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custom {
    /// Which kind.
    pub kind: KindName,
    /// Everything else that the document says of it.
    pub settings: Map<String, Value>,
}

impl Custom {
    /// The channel that its work goes through: the kind's own name.
    #[must_use]
    pub fn channel(&self) -> Option<ChannelName> {
        ChannelName::new(self.kind.as_str()).ok()
    }
}
