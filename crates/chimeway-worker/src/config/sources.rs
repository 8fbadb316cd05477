//! Where each setting comes from, for `chimeway config`. What is secret is never shown.

use std::{collections::BTreeMap, fmt, path::Path};

use chimeway::{
    flow::{Age, Kept, Writable},
    queue::QueueName,
};
use clap::ValueEnum as _;
use serde_json::Value;

use super::{
    ConfigError, KEYS, Layer, channel_adapter, column, environment, kept_for, keys::Key, list,
    otlp, queue_limit,
};
use crate::database::Database;

/// One setting that holds.
pub(crate) struct Setting {
    pub(crate) name: String,
    /// `None` where there is none. A secret one is `set`.
    pub(crate) value: Option<Value>,
    pub(crate) source: Source,
}

/// What said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Default,
    File(String),
    Environment(&'static str),
    Flag(&'static str),
    /// A list to which both have added.
    Both(Box<Source>, Box<Source>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Both(one, other) => write!(f, "{one} and {other}"),
        }
    }
}

/// Every setting. What cannot be read has been refused by [`Config::load`](super::Config::load).
///
/// # Errors
///
/// [`ConfigError`].
pub(crate) fn settings(path: Option<&Path>, flags: &Layer) -> Result<Vec<Setting>, ConfigError> {
    from_sources(path, environment, flags)
}

fn from_sources(
    path: Option<&Path>,
    variable: impl Fn(&str) -> Option<String>,
    flags: &Layer,
) -> Result<Vec<Setting>, ConfigError> {
    let (path, named_by) = match path {
        Some(path) => (Some(path.to_owned()), Source::Flag("--config")),
        None => match variable("CHIMEWAY_CONFIG") {
            Some(path) => (Some(path.into()), Source::Environment("CHIMEWAY_CONFIG")),
            None => (None, Source::Default),
        },
    };
    let shown = path.as_ref().map(|path| path.display().to_string());
    let file = match &path {
        Some(path) => table(path)?,
        None => toml::Table::new(),
    };
    let in_file = Source::File(shown.clone().unwrap_or_default());
    let mut settings = vec![Setting {
        name: "config".to_owned(),
        value: shown.map(Value::from),
        source: named_by,
    }];
    for key in &KEYS {
        let of_file = file.get(key.name);
        match key.name {
            "queues" => settings.extend(queues(of_file, &in_file, &variable)?),
            "retention" => settings.extend(retention(of_file, &in_file, &variable)?),
            "channels" => settings.extend(channels(of_file, &in_file, &variable)?),
            "otlp" => settings.extend(otlp::settings(of_file, &in_file, &variable)),
            "extra_channels" | "extra_steps" | "extra_actions" | "allow_private" => {
                settings.push(names(key, of_file, &in_file, &variable));
            }
            "writable" => settings.push(writable(of_file, &in_file, &variable)?),
            name => {
                let flag = key
                    .flag
                    .and_then(|flag| Some((flag_value(name, flags)?, Source::Flag(flag))));
                let of_variable = key.variable.and_then(|key| {
                    let text = variable(key)?;
                    Some((plain(text.trim()), Source::Environment(key)))
                });
                let of_file = of_file.map(|value| (json(value), in_file.clone()));
                let (value, source) = match flag.or(of_variable).or(of_file) {
                    Some((value, source)) => (Some(value), source),
                    None => (default(key.default), Source::Default),
                };
                settings.push(Setting {
                    name: name.to_owned(),
                    value: value.map(|value| without_secret(name, value)),
                    source,
                });
            }
        }
    }
    Ok(settings)
}

fn table(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = chimeway::flow::read_text(path).map_err(|source| ConfigError::Unreadable {
        path: path.into(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| ConfigError::BadFile {
        path: path.into(),
        line: error
            .span()
            .map_or(1, |span| super::line_of(&text, span.start)),
        problem: super::without_value(error.message()).replace('\n', ", "),
    })
}

fn flag_value(name: &str, flags: &Layer) -> Option<Value> {
    match name {
        "database_url" => flags.database_url.clone().map(Value::from),
        "pooled" => flags.pooled.map(Value::from),
        "log" => flags.log.clone().map(Value::from),
        "log_format" => {
            let name = flags.log_format?.to_possible_value()?;
            Some(name.get_name().into())
        }
        _ => None,
    }
}

fn queues(
    of_file: Option<&toml::Value>,
    in_file: &Source,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Setting>, ConfigError> {
    const VARIABLE: &str = "CHIMEWAY_QUEUES";
    let of_variable: BTreeMap<QueueName, usize> =
        list(VARIABLE, variable, queue_limit)?.into_iter().collect();
    let setting = |queue: QueueName| {
        let name = queue.as_str();
        let of_file = of_file.and_then(|table| table.get(name));
        let (value, source) = match (of_variable.get(&queue), of_file) {
            (Some(&limit), _) => (limit.into(), Source::Environment(VARIABLE)),
            (None, Some(limit)) => (json(limit), in_file.clone()),
            (None, None) => (queue.default_limit().into(), Source::Default),
        };
        Setting {
            name: format!("queues.{name}"),
            value: Some(value),
            source,
        }
    };
    Ok(QueueName::ALL.into_iter().map(setting).collect())
}

fn retention(
    of_file: Option<&toml::Value>,
    in_file: &Source,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Setting>, ConfigError> {
    const VARIABLE: &str = "CHIMEWAY_RETENTION";
    let of_variable: BTreeMap<Kept, Age> =
        list(VARIABLE, variable, kept_for)?.into_iter().collect();
    let setting = |kind: Kept| {
        let of_file = of_file.and_then(|table| table.get(kind.as_str()));
        let (value, source) = match (of_variable.get(&kind), of_file) {
            (Some(age), _) => (age.to_string().into(), Source::Environment(VARIABLE)),
            (None, Some(age)) => (json(age), in_file.clone()),
            (None, None) => {
                let age = Age::Of(kind.default_age());
                (age.to_string().into(), Source::Default)
            }
        };
        Setting {
            name: format!("retention.{kind}"),
            value: Some(value),
            source,
        }
    };
    Ok(Kept::ALL.into_iter().map(setting).collect())
}

fn channels(
    of_file: Option<&toml::Value>,
    in_file: &Source,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Setting>, ConfigError> {
    const VARIABLE: &str = "CHIMEWAY_CHANNELS";
    let mut found: BTreeMap<String, Vec<Setting>> = BTreeMap::new();
    for (name, settings) in of_file
        .and_then(toml::Value::as_table)
        .into_iter()
        .flatten()
    {
        let mut flat = vec![];
        flatten(&format!("channels.{name}"), settings, in_file, &mut flat);
        found.insert(name.clone(), flat);
    }
    // A channel of the environment replaces one of the file whole.
    let pair = |text: &str| {
        let (name, _) = channel_adapter(text)?;
        let adapter = text.split_once('=').map_or("", |(_, adapter)| adapter);
        Ok((name, adapter.to_owned()))
    };
    for (name, adapter) in list(VARIABLE, variable, pair)? {
        let setting = Setting {
            name: format!("channels.{name}.adapter"),
            value: Some(adapter.into()),
            source: Source::Environment(VARIABLE),
        };
        found.insert(name.to_string(), vec![setting]);
    }
    Ok(found.into_values().flatten().collect())
}

/// A table as one setting for each value in it.
fn flatten(name: &str, value: &toml::Value, source: &Source, into: &mut Vec<Setting>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                flatten(&format!("{name}.{key}"), value, source, into);
            }
        }
        value => into.push(Setting {
            name: name.to_owned(),
            value: Some(without_secret(name, json(value))),
            source: source.clone(),
        }),
    }
}

/// A list of names; what the file and the environment say counts together.
fn names(
    key: &Key,
    of_file: Option<&toml::Value>,
    in_file: &Source,
    variable: impl Fn(&str) -> Option<String>,
) -> Setting {
    let named = key.variable.unwrap_or_default();
    let of_file: Vec<Value> = of_file
        .and_then(toml::Value::as_array)
        .map(|names| names.iter().map(json).collect())
        .unwrap_or_default();
    let text = variable(named).unwrap_or_default();
    let of_variable: Vec<Value> = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(Value::from)
        .collect();
    let source = match (of_file.is_empty(), of_variable.is_empty()) {
        (true, true) => Source::Default,
        (false, true) => in_file.clone(),
        (true, false) => Source::Environment(named),
        (false, false) => Source::Both(
            Box::new(in_file.clone()),
            Box::new(Source::Environment(named)),
        ),
    };
    let names = [of_file, of_variable].concat();
    Setting {
        name: key.name.to_owned(),
        value: (!names.is_empty()).then(|| Value::from(names)),
        source,
    }
}

/// The columns that may be written, and `TABLE +` where rows may be inserted.
fn writable(
    of_file: Option<&toml::Value>,
    in_file: &Source,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Setting, ConfigError> {
    const VARIABLE: &str = "CHIMEWAY_ALLOW_WRITE";
    let of_file: Vec<Writable> = of_file
        .cloned()
        .and_then(|tables| tables.try_into().ok())
        .unwrap_or_default();
    let of_variable = list(VARIABLE, variable, column)?;
    let source = match (of_file.is_empty(), of_variable.is_empty()) {
        (true, true) => Source::Default,
        (false, true) => in_file.clone(),
        (true, false) => Source::Environment(VARIABLE),
        (false, false) => Source::Both(
            Box::new(in_file.clone()),
            Box::new(Source::Environment(VARIABLE)),
        ),
    };
    let columns = of_file.iter().chain(&of_variable).flat_map(|one| {
        let insert = one.insert.then(|| format!("{} +", one.entity));
        let columns = one.columns.iter();
        columns
            .map(|column| format!("{}.{column}", one.entity))
            .chain(insert)
    });
    let columns: Vec<String> = columns.collect();
    Ok(Setting {
        name: "writable".to_owned(),
        value: (!columns.is_empty()).then(|| Value::from(columns)),
        source,
    })
}

/// A text that may be a number.
fn plain(text: &str) -> Value {
    if let Ok(answer) = text.parse::<bool>() {
        return answer.into();
    }
    text.parse::<u64>()
        .map_or_else(|_| text.into(), Value::from)
}

fn default(words: &str) -> Option<Value> {
    (words != "none").then(|| plain(words))
}

fn json(value: &toml::Value) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Texts of channels that may be shown: of any other, nobody knows.
const OPEN: [&str; 18] = [
    "adapter",
    "allow_private",
    "bounced",
    "content_type",
    "error_code",
    "from",
    "hello_name",
    "host",
    "idempotency_header",
    "list_unsubscribe",
    "message_id",
    "message_id_domain",
    "method",
    "reply_to",
    "root_certificates",
    "security",
    "success",
    "temporary",
];

fn without_secret(name: &str, value: Value) -> Value {
    const SET: &str = "set";
    match &value {
        Value::String(url) if ["database_url", "direct_url"].contains(&name) => {
            match Database::new(url) {
                Ok(database) => format!("{SET} ({})", database.place()).into(),
                Err(_) => SET.into(),
            }
        }
        // Only the name of a variable.
        Value::String(text) if text.starts_with("env:") => value,
        Value::String(_) | Value::Array(_) if name.starts_with("channels.") => {
            let key = name.rsplit('.').next().unwrap_or(name);
            let is_open = name.split('.').count() == 3 && OPEN.contains(&key);
            match is_open {
                true => value,
                false => SET.into(),
            }
        }
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn shown(text: &str, variables: &[(&str, &str)], flags: &Layer) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let variable = |name: &str| {
            let set = variables.iter().find(|(set, _)| *set == name);
            set.map(|(_, value)| (*value).to_owned())
        };
        let settings = from_sources(Some(file.path()), variable, flags).unwrap();
        let line = |setting: &Setting| {
            let value = setting.value.as_ref().map_or("-".into(), Value::to_string);
            let line = format!("{} = {value} by {}\n", setting.name, setting.source);
            line.replace(&file.path().display().to_string(), "FILE")
        };
        settings.iter().map(line).collect()
    }

    #[test]
    fn each_setting_has_the_source_that_won() {
        let text = "log = \"info\"\npool_size = 3\nlease_seconds = 40\nextra_channels = [\"sms\"]\n\
                    allow_private = [\"hooks.internal\"]\n\
                    [queues]\ndefault = 1\nchimeway_signals = 2\n[channels.email]\nadapter = \"log\"\n\
                    [retention]\ninbox = \"off\"\nruns = \"9d\"\n[[writable]]\nentity = \"orders\"\ncolumns = [\"status\"]\ninsert = true\n";
        let variables = [
            ("CHIMEWAY_ALLOW_WRITE", "orders.total"),
            ("CHIMEWAY_POOL_SIZE", "4"),
            ("CHIMEWAY_RETENTION", "runs=7d"),
            ("CHIMEWAY_ALLOW_PRIVATE", "10.1.0.0/16"),
            ("CHIMEWAY_LOG", "debug"),
            ("CHIMEWAY_QUEUES", "chimeway_signals=3"),
            ("CHIMEWAY_EXTRA_CHANNELS", "push"),
        ];
        let flags = Layer {
            log: Some("error".into()),
            ..Layer::default()
        };
        insta::assert_snapshot!(shown(text, &variables, &flags), @r#"
        config = "FILE" by flag --config
        database_url = - by default
        pooled = false by default
        direct_url = - by default
        log = "error" by flag --log
        log_format = "text" by default
        lease_seconds = 40 by file FILE
        grace_seconds = 25 by default
        transaction_seconds = 30 by default
        pool_size = 4 by environment CHIMEWAY_POOL_SIZE
        http = - by default
        extra_channels = ["sms","push"] by file FILE and environment CHIMEWAY_EXTRA_CHANNELS
        extra_steps = - by default
        extra_actions = - by default
        allow_private = ["hooks.internal","10.1.0.0/16"] by file FILE and environment CHIMEWAY_ALLOW_PRIVATE
        queues.default = 1 by file FILE
        queues.chimeway_delivery = 20 by default
        queues.chimeway_signals = 3 by environment CHIMEWAY_QUEUES
        queues.chimeway_workflows = 5 by default
        retention.runs = "7d" by environment CHIMEWAY_RETENTION
        retention.inbox = "off" by file FILE
        retention.events = "30d" by default
        retention.signals = "30d" by default
        retention.interventions = "365d" by default
        retention.ticks = "1d" by default
        otlp.endpoint = - by default
        otlp.service_name = "chimeway" by default
        otlp.ratio = 1 by default
        otlp.root_certificates = - by default
        writable = ["orders.status","orders +","orders.total"] by file FILE and environment CHIMEWAY_ALLOW_WRITE
        channels.email.adapter = "log" by file FILE
        "#);
    }

    #[test]
    fn nothing_secret_is_shown() {
        let text = "database_url = \"postgres://app:hunter2@db.example/app\"\n\
                    direct_url = \"postgres://app:hunter2@db1,db2/app\"\n\
                    [channels.email]\nadapter = \"smtp\"\nhost = \"mail.example\"\nport = 25\n\
                    username = \"hunter2\"\npassword = \"hunter2\"\n\
                    [channels.chat]\nadapter = \"http\"\nurl = \"https://chat.example/hunter2\"\n\
                    method = \"env:METHOD\"\ntemporary = [429, \"5xx\"]\n\
                    headers = { from = \"hunter2\", list = [\"hunter2\"] }\n";
        let variables = [
            (
                "CHIMEWAY_OTLP_ENDPOINT",
                "https://me:hunter2@traces.example",
            ),
            ("CHIMEWAY_OTLP_HEADERS", "authorization=hunter2"),
        ];
        let shown = shown(text, &variables, &Layer::default());
        assert!(!shown.contains("hunter2"), "{shown}");
        for line in [
            "otlp.endpoint = \"https://traces.example/v1/traces\"",
            "otlp.headers.authorization = \"set\"",
            "database_url = \"set (db.example:5432)\"",
            "direct_url = \"set (db1:5432, db2:5432)\"",
            "channels.email.host = \"mail.example\"",
            "channels.email.port = 25",
            "channels.email.password = \"set\"",
            "channels.chat.headers.from = \"set\"",
            "channels.chat.method = \"env:METHOD\"",
            "channels.chat.temporary = [429,\"5xx\"]",
        ] {
            assert!(shown.contains(line), "{line}: {shown}");
        }
        let flags = Layer {
            database_url: Some("no url hunter2".into()),
            ..Layer::default()
        };
        let shown = self::shown("", &[], &flags);
        assert!(
            shown.contains("database_url = \"set\" by flag --database-url"),
            "{shown}"
        );
    }
}
