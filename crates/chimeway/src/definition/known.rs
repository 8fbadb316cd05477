//! What a document may name besides what is built in.

use std::collections::BTreeSet;

use crate::ids::ChannelName;

/// The channels that ship with Chimeway.
pub const BUILT_IN_CHANNELS: [&str; 4] = ["in_app", "log", "email", "webhook"];

/// What a document may name: the built-in channels and those that the host registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The names a notify step may give.
    pub channels: BTreeSet<ChannelName>,
    /// Those of them whose messages are made from templates: a step over one needs a template.
    pub rendering: BTreeSet<ChannelName>,
}

impl Default for Known {
    /// The built-in channels alone.
    fn default() -> Self {
        Self {
            channels: BUILT_IN_CHANNELS
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect(),
            rendering: BTreeSet::new(),
        }
    }
}

impl Known {
    /// These as well.
    #[must_use]
    pub fn with_channels(mut self, channels: impl IntoIterator<Item = ChannelName>) -> Self {
        self.channels.extend(channels);
        self
    }

    /// Channels whose messages are made from templates. They are known as well.
    #[must_use]
    pub fn with_rendering(mut self, channels: impl IntoIterator<Item = ChannelName>) -> Self {
        for channel in channels {
            self.channels.insert(channel.clone());
            self.rendering.insert(channel);
        }
        self
    }

    /// Whether messages over the channel are made from templates.
    #[must_use]
    pub fn renders(&self, channel: &ChannelName) -> bool {
        self.rendering.contains(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_adds_to_what_is_built_in() {
        let known = Known::default().with_channels(["sms".parse().unwrap()]);
        let names: Vec<_> = known.channels.iter().map(ChannelName::as_str).collect();
        assert_eq!(names, ["email", "in_app", "log", "sms", "webhook"]);
    }
}
