//! Which channels this process can send over.

use std::{collections::BTreeMap, sync::Arc};

use super::{Channel, InApp, Log};
use crate::ids::ChannelName;

/// Channels by name.
#[derive(Clone)]
pub struct Registry {
    channels: BTreeMap<String, Arc<dyn Channel>>,
}

impl Default for Registry {
    /// The built-in ones: `in_app` and `log`.
    fn default() -> Self {
        let mut channels: BTreeMap<String, Arc<dyn Channel>> = BTreeMap::new();
        channels.insert("in_app".to_owned(), Arc::new(InApp));
        channels.insert("log".to_owned(), Arc::new(Log::new()));
        Self { channels }
    }
}

impl Registry {
    /// Adds a channel; one of the same name is replaced.
    pub fn register(&mut self, name: &ChannelName, channel: Arc<dyn Channel>) {
        self.channels.insert(name.as_str().to_owned(), channel);
    }

    /// The channel of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<dyn Channel>> {
        self.channels.get(name).cloned()
    }

    /// Whether there is a channel of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.channels.contains_key(name)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.channels.keys().map(String::as_str)
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
