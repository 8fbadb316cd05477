//! What a document may name besides what is built in.

use std::collections::BTreeSet;

use crate::ids::{ActionName, ChannelName, KindName};

/// The channels that ship with Chimeway.
pub const BUILT_IN_CHANNELS: [&str; 4] = ["in_app", "log", "email", "webhook"];

/// What a document may name: the built-in channels, step kinds and actions, and those that the host
/// registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The names a notify step may give.
    pub channels: BTreeSet<ChannelName>,
    /// Those of them whose messages are made from templates: a step over one needs a template.
    pub rendering: BTreeSet<ChannelName>,
    /// The kinds of steps beside those that are built in.
    pub steps: BTreeSet<KindName>,
    /// The actions beside those that are built in.
    pub actions: BTreeSet<ActionName>,
}

impl Default for Known {
    /// What is built in, alone.
    fn default() -> Self {
        Self {
            channels: BUILT_IN_CHANNELS
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect(),
            rendering: BTreeSet::new(),
            steps: BTreeSet::new(),
            actions: BTreeSet::new(),
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

    /// These kinds of steps as well.
    #[must_use]
    pub fn with_steps(mut self, kinds: impl IntoIterator<Item = KindName>) -> Self {
        self.steps.extend(kinds);
        self
    }

    /// These actions as well.
    #[must_use]
    pub fn with_actions(mut self, actions: impl IntoIterator<Item = ActionName>) -> Self {
        self.actions.extend(actions);
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
