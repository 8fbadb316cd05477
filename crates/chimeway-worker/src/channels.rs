//! The channels of the settings: `[channels.NAME]`, and what they become.
//!
//! To add an adapter: 1. a variant of [`Adapter`]; 2. its arm in [`ChannelSettings::check`]; 3. its arm
//! in [`ChannelSettings::register`]; 4. its part of docs/channels.md.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use chimeway::{
    channels::{
        AllowedTarget, Channel, ChannelConfigError, Log, Message, Receipt, SendError,
        email::EmailSettings, http::HttpSettings, webhook::WebhookSettings,
    },
    flow::{ChimewayBuilder, FlowError},
    ids::ChannelName,
};
use serde::{Deserialize, de::DeserializeOwned};
use toml::{Spanned, Table, Value};

use crate::{
    config::{ConfigError, line_of, without_value},
    error::CliError,
};

/// What carries the messages of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Adapter {
    /// Writes to the log that a message was sent.
    Log,
    /// Mail by SMTP.
    Smtp,
    /// Signed JSON to a URL.
    Webhook,
    /// A provider's HTTP API.
    Http,
}

/// `[channels.NAME]` as it stands in a file.
pub(crate) type Written = BTreeMap<String, Spanned<Value>>;

/// The settings of one channel.
#[derive(Clone)]
pub(crate) struct ChannelSettings {
    pub(crate) adapter: Adapter,
    place: Place,
    table: Table,
    /// Variables that the settings name and that are not set.
    missing: Vec<(String, String)>,
}

/// Nothing of the table, in which secrets are.
impl fmt::Debug for ChannelSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelSettings")
            .field("adapter", &self.adapter)
            .finish_non_exhaustive()
    }
}

/// Where settings are from.
#[derive(Debug, Clone, Default)]
struct Place {
    path: PathBuf,
    section: usize,
    lines: BTreeMap<String, usize>,
}

/// What a channel is built from.
enum Checked {
    Log,
    Smtp(Box<EmailSettings>),
    Webhook(Box<WebhookSettings>),
    Http(Box<HttpSettings>),
}

impl ChannelSettings {
    /// The log, which needs no settings.
    pub(crate) fn log() -> Self {
        Self {
            adapter: Adapter::Log,
            place: Place::default(),
            table: Table::new(),
            missing: vec![],
        }
    }

    /// Reads a section of the file; what is wrong with it has its line.
    pub(crate) fn read(
        name: &ChannelName,
        written: Spanned<Written>,
        path: &Path,
        text: &str,
    ) -> Result<Self, ConfigError> {
        let section = line_of(text, written.span().start);
        let mut lines = BTreeMap::new();
        let mut table = Table::new();
        for (key, value) in written.into_inner() {
            lines.insert(key.clone(), line_of(text, value.span().start));
            table.insert(key, value.into_inner());
        }
        let place = Place {
            path: path.into(),
            section,
            lines,
        };
        let adapter = match table.remove("adapter") {
            Some(value) => Adapter::deserialize(value)
                .map_err(|error| place.bad(name, Some("adapter"), error.message()))?,
            None => {
                let problem = "`adapter` is missing; it is log, smtp, webhook or http";
                return Err(place.bad(name, None, problem));
            }
        };
        let settings = Self {
            adapter,
            place,
            table,
            missing: vec![],
        };
        // As they are written: no message can quote a secret of the environment.
        settings.check(name)?;
        Ok(settings)
    }

    /// With every `env:NAME` replaced by the variable's value.
    pub(crate) fn resolved(mut self, variable: &impl Fn(&str) -> Option<String>) -> Self {
        for (key, value) in &mut self.table {
            fill(key, value, variable, &mut self.missing);
        }
        self
    }

    /// The settings as those of their adapter.
    fn check(&self, name: &ChannelName) -> Result<Checked, ConfigError> {
        Ok(match self.adapter {
            Adapter::Log => {
                if let Some(key) = self.table.keys().next() {
                    let problem = format!("unknown field `{key}`; `log` has no settings");
                    return Err(self.place.bad(name, Some(key), problem));
                }
                Checked::Log
            }
            Adapter::Smtp => Checked::Smtp(self.typed(name)?),
            Adapter::Webhook => Checked::Webhook(self.typed(name)?),
            Adapter::Http => Checked::Http(self.typed(name)?),
        })
    }

    fn typed<T: DeserializeOwned>(&self, name: &ChannelName) -> Result<Box<T>, ConfigError> {
        T::deserialize(Value::Table(self.table.clone()))
            .map(Box::new)
            .map_err(|error| {
                let mut keys = self.table.keys();
                let told = error.to_string();
                let key = keys.find(|key| told.contains(&format!("`{key}`")));
                let told = without_value(told.trim());
                self.place.bad(name, key.map(String::as_str), told)
            })
    }

    /// Adds the channel to the library's. It may call private places that it allows, or that all may call.
    ///
    /// A process that sends needs all of it. One that does not takes a channel whose secrets are in
    /// other processes' environments as what it is, without being able to send.
    pub(crate) fn register(
        &self,
        name: &ChannelName,
        builder: ChimewayBuilder,
        allow_private: &[AllowedTarget],
        sends: bool,
    ) -> Result<ChimewayBuilder, CliError> {
        let mut checked = self.check(name)?;
        match &mut checked {
            Checked::Webhook(settings) => settings.allow_private.extend_from_slice(allow_private),
            Checked::Http(settings) => settings.allow_private.extend_from_slice(allow_private),
            Checked::Log | Checked::Smtp(_) => {}
        }
        if let Some((key, variable)) = self.missing.first() {
            if sends {
                let problem = format!("`{key}` is `env:{variable}`, which is not set");
                let key = key.split('.').next();
                return Err(self.place.bad(name, key, problem).into());
            }
            let channel = Elsewhere::from(&checked);
            return Ok(builder
                .channel(name.as_str(), channel)
                .map_err(FlowError::from)?);
        }
        let bad = |error: ChannelConfigError| {
            let key = error.setting.split('.').next().unwrap_or_default();
            self.place.bad(name, Some(key), &error)
        };
        let name = name.as_str();
        let builder = match checked {
            Checked::Log => builder.channel(name, Log::new()),
            Checked::Smtp(settings) => builder.channel(name, settings.build().map_err(bad)?),
            Checked::Webhook(settings) => builder.channel(name, settings.build().map_err(bad)?),
            Checked::Http(settings) => builder.channel(name, settings.build().map_err(bad)?),
        };
        Ok(builder.map_err(FlowError::from)?)
    }
}

impl Place {
    fn bad(&self, name: &ChannelName, key: Option<&str>, problem: impl Display) -> ConfigError {
        let line = key.and_then(|key| self.lines.get(key));
        let problem = problem.to_string().replace('\n', ", ");
        ConfigError::BadFile {
            path: self.path.clone(),
            line: line.copied().unwrap_or(self.section),
            problem: format!("[channels.{name}] {problem}"),
        }
    }
}

/// Replaces `env:NAME` in the value and all that is in it.
fn fill(
    path: &str,
    value: &mut Value,
    variable: &impl Fn(&str) -> Option<String>,
    missing: &mut Vec<(String, String)>,
) {
    match value {
        Value::String(text) => {
            let Some(name) = text.strip_prefix("env:") else {
                return;
            };
            match variable(name) {
                Some(found) => *text = found,
                None => missing.push((path.to_owned(), name.to_owned())),
            }
        }
        Value::Array(items) => {
            for (place, item) in items.iter_mut().enumerate() {
                fill(&format!("{path}.{place}"), item, variable, missing);
            }
        }
        Value::Table(fields) => {
            for (key, field) in fields {
                fill(&format!("{path}.{key}"), field, variable, missing);
            }
        }
        _ => {}
    }
}

/// A channel over which only processes with its secrets can send.
struct Elsewhere {
    needs_address: bool,
    renders: bool,
}

impl From<&Checked> for Elsewhere {
    fn from(checked: &Checked) -> Self {
        let (needs_address, renders) = match checked {
            Checked::Log => (false, false),
            Checked::Smtp(_) => (true, true),
            Checked::Webhook(settings) => (settings.url.is_none(), false),
            Checked::Http(settings) => (settings.needs_address, settings.templates),
        };
        Self {
            needs_address,
            renders,
        }
    }
}

#[async_trait]
impl Channel for Elsewhere {
    fn adapter(&self) -> &'static str {
        "elsewhere"
    }

    fn needs_address(&self) -> bool {
        self.needs_address
    }

    fn renders(&self) -> bool {
        self.renders
    }

    async fn send(&self, _message: &Message) -> Result<Receipt, SendError> {
        let problem = "this process does not have the channel's secrets";
        Err(SendError::temporary(problem))
    }
}

#[cfg(test)]
#[path = "channels_tests.rs"]
mod tests;
