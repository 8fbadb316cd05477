//! Every setting, once: what `chimeway init` writes and `chimeway config` lists are made of this table.

use super::adapters::EXAMPLES;

/// A key of the settings file.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// Its environment variable.
    pub(crate) variable: Option<&'static str>,
    /// Its flag, where every command has it.
    pub(crate) flag: Option<&'static str>,
    /// What holds where nothing is said, in words.
    pub(crate) default: &'static str,
    about: &'static str,
    /// As it may stand in the file.
    example: &'static str,
}

/// In the order of the file: those of the tables come last, as TOML wants it.
pub(crate) const KEYS: [Key; 19] = [
    Key {
        name: "database_url",
        variable: Some("DATABASE_URL"),
        flag: Some("--database-url"),
        default: "none",
        about: "\
The database. A password is better kept in the environment than in a file. Several hosts of which one is
the primary: postgres://db1:5432,db2:5432/app. Only the primary is worked on, whichever it is at the time.",
        example: r#"database_url = "postgres://localhost/app""#,
    },
    Key {
        name: "pooled",
        variable: Some("CHIMEWAY_POOLED"),
        flag: Some("--pooled"),
        default: "false",
        about: "\
Whether the database is reached through a pooler in transaction mode, such as PgBouncer: everything is
then done in explicit transactions, and a worker listens over `direct_url` or not at all.",
        example: "pooled = true",
    },
    Key {
        name: "direct_url",
        variable: Some("CHIMEWAY_DIRECT_URL"),
        flag: None,
        default: "none",
        about: "\
Where the database is reached past the pooler: `chimeway migrate` needs it, and a worker listens there.",
        example: r#"direct_url = "postgres://db1:5432/app""#,
    },
    Key {
        name: "log",
        variable: Some("CHIMEWAY_LOG"),
        flag: Some("--log"),
        default: "warn; info for a worker",
        about: "\
What is logged on standard error: a level, or levels by module.
No address, name or payload is ever logged.",
        example: r#"log = "info,chimeway=debug""#,
    },
    Key {
        name: "log_format",
        variable: Some("CHIMEWAY_LOG_FORMAT"),
        flag: Some("--log-format"),
        default: "text",
        about: "`text` for people, `json` for one object a line.",
        example: r#"log_format = "json""#,
    },
    Key {
        name: "lease_seconds",
        variable: Some("CHIMEWAY_LEASE_SECONDS"),
        flag: None,
        default: "30",
        about: "\
How long a worker holds what it has claimed. When a worker is lost, others take over after this time;
a send ends within two thirds of it.",
        example: "lease_seconds = 30",
    },
    Key {
        name: "grace_seconds",
        variable: Some("CHIMEWAY_GRACE_SECONDS"),
        flag: None,
        default: "25",
        about: "How long a worker that is told to stop may take to finish what it has begun.",
        example: "grace_seconds = 25",
    },
    Key {
        name: "transaction_seconds",
        variable: Some("CHIMEWAY_TRANSACTION_SECONDS"),
        flag: None,
        default: "30",
        about: "\
How long a worker's transaction may take. After that the connection counts as lost: it is closed, and the
work is done again over another one.",
        example: "transaction_seconds = 30",
    },
    Key {
        name: "pool_size",
        variable: Some("CHIMEWAY_POOL_SIZE"),
        flag: None,
        default: "10",
        about: "How many connections to the database a worker opens at most, beside the one it listens on.",
        example: "pool_size = 10",
    },
    Key {
        name: "http",
        variable: Some("CHIMEWAY_HTTP"),
        flag: None,
        default: "none",
        about: "\
Where a worker serves /livez, /readyz and /metrics (Prometheus), without a password, and the HTTP API
under /api, to those who have a token. A port alone is one of this machine: 127.0.0.1. Other machines are
to reach it through something that ends TLS. A flag of the worker: --http ADDRESS.",
        example: r#"http = "127.0.0.1:9464""#,
    },
    Key {
        name: "extra_channels",
        variable: Some("CHIMEWAY_EXTRA_CHANNELS"),
        flag: None,
        default: "none",
        about: "\
Channels that only other workers have, such as your own in Rust: documents may name them, this worker
leaves their messages alone. In the environment: sms,push.",
        example: r#"extra_channels = ["sms", "push"]"#,
    },
    Key {
        name: "extra_steps",
        variable: Some("CHIMEWAY_EXTRA_STEPS"),
        flag: None,
        default: "none",
        about: "\
Kinds of steps that only other workers have, such as your own in Rust: documents may name them. A worker
that lacks one leaves its steps to be tried again. In the environment: scoring,translation.",
        example: r#"extra_steps = ["scoring"]"#,
    },
    Key {
        name: "extra_actions",
        variable: Some("CHIMEWAY_EXTRA_ACTIONS"),
        flag: None,
        default: "none",
        about: "\
Actions that only other workers have, such as your own in Rust: documents may name them. Runs are made to
act by workers of the queue chimeway_workflows: those must have them. In the environment: print,archive.",
        example: r#"extra_actions = ["print"]"#,
    },
    Key {
        name: "allow_private",
        variable: Some("CHIMEWAY_ALLOW_PRIVATE"),
        flag: None,
        default: "none",
        about: "\
Private networks, addresses and hosts that a worker may call although a recipient's address, a document or a
template says so. A channel may have more of its own. A URL that stands in this file may lead anywhere.
In the environment: 10.1.0.0/16,hooks.internal. A flag of the worker: --allow-private hooks.internal.",
        example: r#"allow_private = ["10.1.0.0/16", "hooks.internal"]"#,
    },
    Key {
        name: "queues",
        variable: Some("CHIMEWAY_QUEUES"),
        flag: None,
        default: "each its own",
        about: "\
How many tasks of a queue a worker runs at a time; the other queues keep theirs, 0 does not run it.
In the environment: chimeway_delivery=40,default=0. A flag of the worker: --queue NAME=N.",
        example: "\
[queues]
chimeway_delivery = 20
chimeway_signals = 10
chimeway_workflows = 5
default = 10",
    },
    Key {
        name: "retention",
        variable: Some("CHIMEWAY_RETENTION"),
        flag: None,
        default: "each its own",
        about: "\
How long a worker of the queue `default` keeps what is over: a span of time (30d, 12h, P30D), or `off` for
ever. Runs since their end, with their history and messages; items of inboxes, which outlive their run where
that is shorter; triggers with their idempotency keys; signals (1d at least); notes of what people did by
hand; ticks of the fleet's duties (1h at least). What a live run may still read stays. chimeway prune does it
by hand. In the environment: runs=7d,inbox=off.",
        example: r#"[retention]
runs = "30d"
inbox = "90d"
events = "30d"
signals = "30d"
interventions = "365d"
ticks = "1d""#,
    },
    Key {
        name: "otlp",
        variable: Some("CHIMEWAY_OTLP_ENDPOINT"),
        flag: None,
        default: "none",
        about: "\
Where a worker sends traces, by OTLP over HTTP: the address of a collector. One trace for each run.
headers, such as a token, are never shown; `env:NAME` is the value of a variable. ratio: of how many runs.
In the environment: CHIMEWAY_OTLP_ENDPOINT, _HEADERS (name=value,..), _SERVICE_NAME, _RATIO.",
        example: r#"[otlp]
endpoint = "http://127.0.0.1:4318"
headers = { authorization = "env:OTLP_AUTHORIZATION" }
service_name = "chimeway"
ratio = 1.0
root_certificates = "/etc/ca.pem""#,
    },
    Key {
        name: "writable",
        variable: Some("CHIMEWAY_ALLOW_WRITE"),
        flag: None,
        default: "none",
        about: "\
What the actions set_field and create_record may write, one table of yours each; nothing else is ever
written. `table` is found in the worker's search path by default, under the entity's name; `key` is the
column that a record is found by, `tenant` the one that says whose it is, if there is one.
In the environment: orders.status,orders.approved_by. A flag of the worker: --allow-write orders.status.",
        example: "\
[[writable]]
entity = \"orders\"
table = \"shop.orders\"
key = \"id\"
tenant = \"tenant_id\"
columns = [\"status\", \"approved_by\"]
insert = false",
    },
    Key {
        name: "channels",
        variable: Some("CHIMEWAY_CHANNELS"),
        flag: None,
        default: "in_app and log are built in",
        about: "\
What carries the messages of a channel, one table each, under the name that journeys use.
`env:NAME` is the value of a variable: secrets stay out of this file.
In the environment: email=log. A flag of the worker: --channel NAME=ADAPTER.",
        example: "",
    },
];

const HEAD: &str = "\
# The settings of Chimeway: every key there is, with its default.
#
# Read with --config chimeway.toml, or CHIMEWAY_CONFIG=chimeway.toml. The environment wins over this
# file, and flags win over both; `chimeway config` shows each setting and where it comes from.
# Remove the # before a key to set it.
";

/// A settings file with every key explained, and none set.
pub(crate) fn example_file() -> String {
    let mut text = HEAD.to_owned();
    for key in &KEYS {
        text.push('\n');
        for line in key.about.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        let mut facts = vec![format!("Default: {}.", key.default)];
        facts.extend(
            key.variable
                .map(|variable| format!("Environment: {variable}.")),
        );
        facts.extend(key.flag.map(|flag| format!("Flag: {flag}.")));
        text.push_str(&format!("# {}\n", facts.join(" ")));
        for line in key.example.lines() {
            text.push_str(&format!("#{line}\n"));
        }
    }
    for example in &EXAMPLES {
        text.push('\n');
        for line in example.about.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        for line in example.lines() {
            text.push_str(&format!("#{line}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use chimeway::{
        flow::{Age, Kept, Timing},
        queue::QueueName,
    };

    use super::{
        super::{Layer, LogFormat, POOL_SIZE},
        *,
    };

    /// The example with every key set.
    fn all_set() -> String {
        let set = |line: &str| match line.strip_prefix('#') {
            Some(key) if !key.is_empty() && !key.starts_with(' ') => key.to_owned(),
            _ => line.to_owned(),
        };
        example_file()
            .lines()
            .map(set)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn the_table_has_every_key_of_the_file_and_no_other() {
        let refused = toml::from_str::<Layer>("no_such_key = 1").err().unwrap();
        let (_, expected) = refused.message().split_once("expected one of ").unwrap();
        let mut expected: Vec<&str> = expected
            .split(", ")
            .map(|name| name.trim_matches('`'))
            .collect();
        let mut names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        expected.sort_unstable();
        names.sort_unstable();
        assert_eq!(names, expected);
    }

    #[test]
    fn the_example_file_sets_nothing_and_may_set_everything() {
        let nothing: toml::Table = toml::from_str(&example_file()).unwrap();
        assert!(nothing.is_empty(), "{nothing}");
        let everything: toml::Table = toml::from_str(&all_set()).unwrap();
        assert_eq!(everything.len(), KEYS.len(), "{everything}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chimeway.toml");
        std::fs::write(&file, all_set()).unwrap();
        let layer = Layer::from_file(&file).unwrap();
        assert_eq!(layer.log_format, Some(LogFormat::Json));
        assert_eq!(layer.channels.len(), EXAMPLES.len());
    }

    #[test]
    fn defaults_are_told_as_they_are() {
        let default = |name: &str| KEYS.iter().find(|key| key.name == name).unwrap().default;
        assert_eq!(default("pool_size"), POOL_SIZE.to_string());
        let lease = Timing::default().lease.as_secs();
        assert_eq!(default("lease_seconds"), lease.to_string());
        let transaction = Timing::default().transaction.as_secs();
        assert_eq!(default("transaction_seconds"), transaction.to_string());
        let layer: Layer = toml::from_str(&all_set()).unwrap();
        for queue in QueueName::ALL {
            assert_eq!(
                layer.queues.get(queue.as_str()),
                Some(&queue.default_limit())
            );
        }
        for kind in Kept::ALL {
            let age = Age::Of(kind.default_age()).to_string();
            assert_eq!(layer.retention.get(kind.as_str()), Some(&age));
        }
    }
}
