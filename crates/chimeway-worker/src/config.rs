//! Settings: a TOML file, then the environment, then flags. The only reader of the environment.
//!
//! The settings of a channel may say `env:NAME` for a variable's value: secrets stay out of files.
//!
//! To add a setting: 1. a field of [`Layer`], which is its key in the file; 2. its variable in
//! [`Layer::from_environment`]; 3. its line in [`Layer::under`]; 4. what [`Config`] makes of it; 5. its
//! entry in `config/keys.rs`, which explains it to people.

mod adapters;
mod keys;
mod otlp;
mod sources;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use chimeway::{
    channels::AllowedTarget,
    flow::{Age, Kept, Retention, Writable, read_text},
    ids::{ActionName, ChannelName, KindName},
    queue::QueueName,
};
use serde::Deserialize;
use toml::Spanned;

pub(crate) use keys::{KEYS, example_file};
pub(crate) use otlp::{Otlp, OtlpLayer};
pub(crate) use sources::{Setting, settings};

use crate::channels::{ChannelSettings, Written};

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings of one source; what it does not say is `None` or empty.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layer {
    pub(crate) database_url: Option<String>,
    pub(crate) pooled: Option<bool>,
    pub(crate) direct_url: Option<String>,
    pub(crate) log: Option<String>,
    pub(crate) log_format: Option<LogFormat>,
    #[serde(default)]
    pub(crate) queues: BTreeMap<String, usize>,
    #[serde(default, rename = "channels")]
    pub(crate) written: BTreeMap<ChannelName, Spanned<Written>>,
    /// What was written in the file, and what the other sources say.
    #[serde(skip)]
    pub(crate) channels: BTreeMap<ChannelName, ChannelSettings>,
    #[serde(default)]
    pub(crate) extra_channels: Vec<ChannelName>,
    #[serde(default)]
    pub(crate) extra_steps: Vec<KindName>,
    #[serde(default)]
    pub(crate) extra_actions: Vec<ActionName>,
    #[serde(default)]
    pub(crate) allow_private: Vec<AllowedTarget>,
    pub(crate) lease_seconds: Option<u32>,
    pub(crate) grace_seconds: Option<u32>,
    pub(crate) transaction_seconds: Option<u32>,
    pub(crate) pool_size: Option<u32>,
    pub(crate) http: Option<String>,
    #[serde(default)]
    pub(crate) otlp: OtlpLayer,
    #[serde(default)]
    pub(crate) retention: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) writable: Vec<Writable>,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the settings in {}; check --config or CHIMEWAY_CONFIG", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}, line {line}: {problem}; correct the settings", path.display())]
    BadFile {
        path: PathBuf,
        line: usize,
        problem: String,
    },
    #[error("{name} is not usable: {problem}")]
    BadValue { name: &'static str, problem: String },
}

/// What the program runs with.
pub(crate) struct Config {
    pub(crate) database_url: Option<String>,
    /// Whether that leads through a pooler in transaction mode.
    pub(crate) pooled: bool,
    /// Past the pooler, for what needs a session of its own.
    pub(crate) direct_url: Option<String>,
    /// A filter like `RUST_LOG`; `None` leaves it to the command.
    pub(crate) log: Option<String>,
    pub(crate) log_format: LogFormat,
    /// Every queue and its limit.
    pub(crate) queues: BTreeMap<QueueName, usize>,
    /// Channels that have an adapter by configuration.
    pub(crate) channels: BTreeMap<ChannelName, ChannelSettings>,
    /// Channels that only other workers have: documents may name them.
    pub(crate) extra_channels: BTreeSet<ChannelName>,
    /// Kinds of steps that only other workers have: documents may name them.
    pub(crate) extra_steps: BTreeSet<KindName>,
    /// Actions that only other workers have: documents may name them.
    pub(crate) extra_actions: BTreeSet<ActionName>,
    /// Private places that channels may call where an address is not the operator's.
    pub(crate) allow_private: Vec<AllowedTarget>,
    /// How long a claim is held; `None` for the library's default.
    pub(crate) lease: Option<Duration>,
    /// How long a drain may take; `None` for the library's default.
    pub(crate) grace: Option<Duration>,
    /// How long a worker's transaction may take; `None` for the library's default.
    pub(crate) transaction: Option<Duration>,
    /// How many connections a worker opens at most, beside the one it listens on.
    pub(crate) pool_size: u32,
    /// Where a worker serves its health and its metrics; `None` where it does not.
    pub(crate) http: Option<SocketAddr>,
    /// Where a worker sends traces; `None` where it does not.
    pub(crate) otlp: Option<Otlp>,
    /// How long what is over is kept.
    pub(crate) retention: Retention,
    /// What workflows may write in the host's tables.
    pub(crate) writable: Vec<Writable>,
}

/// Enough for every queue: what many handlers have to write meets in few transactions.
const POOL_SIZE: u32 = 10;

impl Config {
    /// Reads the file that `path` or `CHIMEWAY_CONFIG` names, if any, and the environment; `flags`
    /// win over both.
    pub(crate) fn load(path: Option<&Path>, flags: Layer) -> Result<Self, ConfigError> {
        Self::from_sources(path, environment, flags)
    }

    pub(crate) fn from_sources(
        path: Option<&Path>,
        variable: impl Fn(&str) -> Option<String>,
        flags: Layer,
    ) -> Result<Self, ConfigError> {
        let path = path
            .map(PathBuf::from)
            .or_else(|| variable("CHIMEWAY_CONFIG").map(PathBuf::from));
        let file = path
            .as_deref()
            .map(Layer::from_file)
            .transpose()?
            .unwrap_or_default();
        let environment = Layer::from_environment(&variable)?;
        let mut layer = file.under(environment).under(flags);
        layer.channels = std::mem::take(&mut layer.channels)
            .into_iter()
            .map(|(name, settings)| (name, settings.resolved(&variable)))
            .collect();
        Self::resolve(layer, &variable)
    }

    fn resolve(
        layer: Layer,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut queues: BTreeMap<QueueName, usize> = QueueName::ALL
            .into_iter()
            .map(|queue| (queue, queue.default_limit()))
            .collect();
        for (name, limit) in layer.queues {
            let bad = |problem| ConfigError::BadValue {
                name: "queues",
                problem,
            };
            queues.insert(
                queue(&name).map_err(bad)?,
                checked_limit(limit).map_err(bad)?,
            );
        }
        let mut retention = Retention::default();
        for (kind, age) in layer.retention {
            let bad = |problem| ConfigError::BadValue {
                name: "retention",
                problem,
            };
            let (kind, age) = kept(&kind, &age).map_err(bad)?;
            retention = retention
                .with(kind, age)
                .map_err(|error| bad(error.to_string()))?;
        }
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let of_http = |text: &str| {
            http_address(text).map_err(|problem| ConfigError::BadValue {
                name: "http",
                problem,
            })
        };
        let at_least_one = |name, value: Option<u32>| match value {
            Some(0) => Err(ConfigError::BadValue {
                name,
                problem: "it is at least 1".into(),
            }),
            value => Ok(value),
        };
        Ok(Self {
            database_url: layer.database_url,
            pooled: layer.pooled.unwrap_or(false),
            direct_url: layer.direct_url,
            log: layer.log,
            log_format: layer.log_format.unwrap_or_default(),
            queues,
            channels: layer.channels,
            extra_channels: layer.extra_channels.into_iter().collect(),
            extra_steps: layer.extra_steps.into_iter().collect(),
            extra_actions: layer.extra_actions.into_iter().collect(),
            allow_private: layer.allow_private,
            lease: at_least_one("lease_seconds", layer.lease_seconds)?.map(seconds),
            grace: layer.grace_seconds.map(seconds),
            transaction: at_least_one("transaction_seconds", layer.transaction_seconds)?
                .map(seconds),
            pool_size: at_least_one("pool_size", layer.pool_size)?.unwrap_or(POOL_SIZE),
            http: layer.http.as_deref().map(of_http).transpose()?,
            otlp: layer.otlp.resolve(variable)?,
            retention,
            writable: layer.writable,
        })
    }
}

impl Layer {
    fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path).map_err(|source| ConfigError::Unreadable {
            path: path.into(),
            source,
        })?;
        let mut layer: Self = toml::from_str(&text).map_err(|error| ConfigError::BadFile {
            path: path.into(),
            line: error.span().map_or(1, |span| line_of(&text, span.start)),
            problem: without_value(error.message()).replace('\n', ", "),
        })?;
        for (name, written) in std::mem::take(&mut layer.written) {
            let settings = ChannelSettings::read(&name, written, path, &text)?;
            layer.channels.insert(name, settings);
        }
        Ok(layer)
    }

    fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let number = |name: &'static str| {
            let parse = |text: String| {
                let bad = |_| ConfigError::BadValue {
                    name,
                    problem: format!("`{text}` is not a whole number"),
                };
                text.trim().parse::<u32>().map_err(bad)
            };
            variable(name).map(parse).transpose()
        };
        Ok(Self {
            database_url: variable("DATABASE_URL"),
            pooled: one("CHIMEWAY_POOLED", &variable, |text| {
                text.parse()
                    .map_err(|_| format!("`{text}` is neither true nor false"))
            })?,
            direct_url: variable("CHIMEWAY_DIRECT_URL"),
            log: variable("CHIMEWAY_LOG"),
            log_format: one("CHIMEWAY_LOG_FORMAT", &variable, |text| {
                clap::ValueEnum::from_str(text, true)
            })?,
            queues: list("CHIMEWAY_QUEUES", &variable, queue_limit)?
                .into_iter()
                .map(|(queue, limit)| (queue.as_str().to_owned(), limit))
                .collect(),
            written: BTreeMap::new(),
            channels: list("CHIMEWAY_CHANNELS", &variable, channel_adapter)?
                .into_iter()
                .collect(),
            extra_channels: list("CHIMEWAY_EXTRA_CHANNELS", &variable, |text| {
                ChannelName::from_str(text).map_err(|error| error.to_string())
            })?,
            extra_steps: list("CHIMEWAY_EXTRA_STEPS", &variable, |text| {
                KindName::from_str(text).map_err(|error| error.to_string())
            })?,
            extra_actions: list("CHIMEWAY_EXTRA_ACTIONS", &variable, |text| {
                ActionName::from_str(text).map_err(|error| error.to_string())
            })?,
            allow_private: list("CHIMEWAY_ALLOW_PRIVATE", &variable, AllowedTarget::from_str)?,
            lease_seconds: number("CHIMEWAY_LEASE_SECONDS")?,
            grace_seconds: number("CHIMEWAY_GRACE_SECONDS")?,
            transaction_seconds: number("CHIMEWAY_TRANSACTION_SECONDS")?,
            pool_size: number("CHIMEWAY_POOL_SIZE")?,
            http: one("CHIMEWAY_HTTP", &variable, http_address)?.map(|address| address.to_string()),
            otlp: OtlpLayer::from_environment(&variable)?,
            retention: list("CHIMEWAY_RETENTION", &variable, kept_for)?
                .into_iter()
                .map(|(kind, age)| (kind.as_str().to_owned(), age.to_string()))
                .collect(),
            writable: list("CHIMEWAY_ALLOW_WRITE", &variable, column)?,
        })
    }

    /// This layer with another one over it. Queues and channels are merged one by one; what may be written, and
    /// what may be called, is what any of them names.
    fn under(mut self, over: Self) -> Self {
        self.queues.extend(over.queues);
        self.retention.extend(over.retention);
        self.channels.extend(over.channels);
        self.extra_channels.extend(over.extra_channels);
        self.writable.extend(over.writable);
        self.extra_steps.extend(over.extra_steps);
        self.extra_actions.extend(over.extra_actions);
        self.allow_private.extend(over.allow_private);
        Self {
            database_url: over.database_url.or(self.database_url),
            pooled: over.pooled.or(self.pooled),
            direct_url: over.direct_url.or(self.direct_url),
            log: over.log.or(self.log),
            log_format: over.log_format.or(self.log_format),
            queues: self.queues,
            written: self.written,
            channels: self.channels,
            extra_channels: self.extra_channels,
            extra_steps: self.extra_steps,
            extra_actions: self.extra_actions,
            allow_private: self.allow_private,
            lease_seconds: over.lease_seconds.or(self.lease_seconds),
            grace_seconds: over.grace_seconds.or(self.grace_seconds),
            transaction_seconds: over.transaction_seconds.or(self.transaction_seconds),
            pool_size: over.pool_size.or(self.pool_size),
            http: over.http.or(self.http),
            otlp: self.otlp.under(over.otlp),
            retention: self.retention,
            writable: self.writable,
        }
    }
}

fn http_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    // Whoever names no address means this machine alone.
    if let Ok(port) = text.parse::<u16>() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    text.parse()
        .map_err(|_| format!("`{text}` is not an address with a port, such as 127.0.0.1:9464"))
}

/// A variable; a blank one counts as not set.
#[expect(clippy::disallowed_methods, reason = "the one home of settings")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .filter(|value| !value.trim().is_empty())
}

/// The names of the variables that settings are read from, of those that are set.
pub(crate) fn variables_set() -> Vec<std::ffi::OsString> {
    let ours = |name: &std::ffi::OsString| {
        let bytes = name.as_encoded_bytes();
        name == "DATABASE_URL" || bytes.starts_with(b"CHIMEWAY_") || bytes.starts_with(b"OTEL_")
    };
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(ours)
        .collect()
}

/// The value of a variable.
fn one<T>(
    name: &'static str,
    variable: impl Fn(&str) -> Option<String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    let bad = |problem| ConfigError::BadValue { name, problem };
    variable(name)
        .map(|text| parse(text.trim()).map_err(bad))
        .transpose()
}

/// The values of a variable, separated by commas.
fn list<T>(
    name: &'static str,
    variable: impl Fn(&str) -> Option<String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, ConfigError> {
    let text = variable(name).unwrap_or_default();
    let items = text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty());
    let bad = |problem| ConfigError::BadValue { name, problem };
    items.map(|item| parse(item).map_err(bad)).collect()
}

/// More than this of one queue in one process is a mistake.
const HIGHEST_LIMIT: usize = 10_000;

/// Reads `NAME=N`.
pub(crate) fn queue_limit(text: &str) -> Result<(QueueName, usize), String> {
    let (name, limit) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not NAME=N, such as chimeway_delivery=20"))?;
    let limit = limit
        .parse()
        .map_err(|_| format!("`{limit}` is not a whole number"))?;
    Ok((queue(name)?, checked_limit(limit)?))
}

fn queue(name: &str) -> Result<QueueName, String> {
    QueueName::parse(name).ok_or_else(|| {
        let known = QueueName::ALL.map(QueueName::as_str).join(", ");
        format!("there is no queue `{name}`; the queues are {known}")
    })
}

fn checked_limit(limit: usize) -> Result<usize, String> {
    if limit > HIGHEST_LIMIT {
        return Err(format!(
            "a limit of {limit} is too high; at most {HIGHEST_LIMIT}"
        ));
    }
    Ok(limit)
}

/// Reads `NAME=ADAPTER`.
pub(crate) fn channel_adapter(text: &str) -> Result<(ChannelName, ChannelSettings), String> {
    let (name, adapter) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not NAME=ADAPTER, such as email=log"))?;
    let name = name
        .parse()
        .map_err(|error: chimeway::ids::BadName| error.to_string())?;
    match adapter {
        "log" => Ok((name, ChannelSettings::log())),
        "smtp" | "webhook" | "http" => Err(format!(
            "`{adapter}` needs settings: write [channels.{name}] in the file that --config names"
        )),
        _ => Err(format!(
            "there is no adapter `{adapter}`; the one without settings is: log"
        )),
    }
}

/// Reads `KIND=AGE`.
pub(crate) fn kept_for(text: &str) -> Result<(Kept, Age), String> {
    let (kind, age) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not KIND=AGE, such as runs=30d"))?;
    kept(kind, age)
}

fn kept(kind: &str, age: &str) -> Result<(Kept, Age), String> {
    let age: Age = age
        .parse()
        .map_err(|bad: chimeway::flow::retention::BadAge| bad.to_string())?;
    Ok((kind_kept(kind)?, age))
}

/// Reads a kind of rows that retention takes.
pub(crate) fn kind_kept(name: &str) -> Result<Kept, String> {
    Kept::parse(name).ok_or_else(|| {
        let known = Kept::ALL.map(Kept::as_str).join(", ");
        format!("there is no kind `{name}`; the kinds are {known}")
    })
}

/// Reads `TABLE.COLUMN`.
pub(crate) fn column(text: &str) -> Result<Writable, String> {
    Writable::parse(text).map_err(|bad| bad.to_string())
}

/// What is wrong with a value, without the value: in the wrong place it may be a secret.
pub(crate) fn without_value(problem: &str) -> String {
    let told = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|kind| {
            let (before, rest) = problem.split_once(kind)?;
            let (found, expected) = rest.rsplit_once(", expected ")?;
            let of_what = found.split(['`', '"']).next().unwrap_or_default().trim();
            Some(format!("{before}{kind}{of_what}, expected {expected}"))
        });
    told.unwrap_or_else(|| problem.to_owned())
}

pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes()
        .take(offset)
        .filter(|&byte| byte == b'\n')
        .count()
        + 1
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
