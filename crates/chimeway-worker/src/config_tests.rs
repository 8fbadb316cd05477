use std::io::Write as _;

use super::*;

const FILE: &str = r#"
database_url = "postgres://file"
log = "info"
log_format = "json"
extra_channels = ["sms"]
lease_seconds = 31
pool_size = 3
http = "127.0.0.1:1"

[queues]
chimeway_delivery = 7
chimeway_signals = 7

[channels.email]
adapter = "log"
"#;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(text: &str, variables: &[(&str, &str)], flags: Layer) -> Result<Config, ConfigError> {
    let file = file(text);
    let variable = |name: &str| {
        let set = variables.iter().find(|(set, _)| *set == name);
        set.map(|(_, value)| (*value).to_owned())
    };
    Config::from_sources(Some(file.path()), variable, flags)
}

fn problem(text: &str, variables: &[(&str, &str)]) -> String {
    match load(text, variables, Layer::default()) {
        Ok(_) => panic!("{text} {variables:?} is accepted"),
        Err(ConfigError::BadFile { line, problem, .. }) => format!("line {line}: {problem}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let variables = [
        ("DATABASE_URL", "postgres://environment"),
        ("CHIMEWAY_LOG", "warn"),
        ("CHIMEWAY_HTTP", "[::1]:9464"),
        (
            "CHIMEWAY_QUEUES",
            "chimeway_signals=8, chimeway_workflows=8",
        ),
    ];
    let flags = Layer {
        database_url: Some("postgres://flag".into()),
        queues: [("chimeway_workflows".to_owned(), 0)].into(),
        ..Layer::default()
    };
    let config = load(FILE, &variables, flags).unwrap();
    assert_eq!(config.database_url.as_deref(), Some("postgres://flag"));
    assert_eq!(config.log.as_deref(), Some("warn"));
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.pool_size, 3);
    assert_eq!(config.http, "[::1]:9464".parse().ok());
    let port_alone = load("http = \"9464\"", &[], Layer::default()).unwrap();
    assert_eq!(port_alone.http, "127.0.0.1:9464".parse().ok());
    assert_eq!(config.lease, Some(Duration::from_secs(31)));
    assert_eq!(config.grace, None);
    let limits: Vec<_> = config
        .queues
        .iter()
        .map(|(queue, &limit)| (queue.as_str(), limit))
        .collect();
    let expected = [
        ("default", 10),
        ("chimeway_delivery", 7),
        ("chimeway_signals", 8),
        ("chimeway_workflows", 0),
    ];
    assert_eq!(limits, expected);
    let channels: Vec<_> = config.channels.keys().map(ChannelName::as_str).collect();
    assert_eq!(channels, ["email"]);
    assert!(config.extra_channels.contains(&"sms".parse().unwrap()));
}

#[test]
fn the_environment_may_name_the_file_and_the_flag_wins() {
    let (named, flagged) = (file("pool_size = 4"), file("pool_size = 5"));
    let variable =
        |name: &str| (name == "CHIMEWAY_CONFIG").then(|| named.path().to_str().unwrap().to_owned());
    let pool_size = |path: Option<&Path>| {
        Config::from_sources(path, variable, Layer::default())
            .map(|config| config.pool_size)
            .unwrap()
    };
    assert_eq!(pool_size(None), 4);
    assert_eq!(pool_size(Some(flagged.path())), 5);
}

#[test]
fn without_any_source_there_are_defaults() {
    let config = Config::from_sources(None, |_| None, Layer::default()).unwrap();
    assert_eq!((config.database_url, config.log), (None, None));
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!(config.pool_size, POOL_SIZE);
    assert!(
        config
            .queues
            .iter()
            .all(|(queue, &limit)| limit == queue.default_limit())
    );
}

#[test]
fn a_mistake_in_the_file_has_its_line() {
    for (text, expected) in [
        ("pool_size = 1\npool = 2", "line 2: unknown field `pool`"),
        (
            "\n[channels.email]\nadapter = \"pigeon\"",
            "line 3: [channels.email] unknown variant `pigeon`",
        ),
        (
            "lease_seconds = \"30\"",
            "line 1: invalid type: string, expected u32",
        ),
        ("log = ", "line 1: "),
        (
            "[queues]\nmail = 3",
            "queues is not usable: there is no queue `mail`; the queues are default",
        ),
        ("pool_size = 0", "pool_size is not usable: it is at least 1"),
        (
            "http = \"localhost\"",
            "http is not usable: `localhost` is not an address with a port, such as 127.0.0.1:9464",
        ),
    ] {
        let found = problem(text, &[]);
        assert!(found.starts_with(expected), "{found}");
        assert!(!found.contains('\n'), "{found}");
    }
}

#[test]
fn a_mistake_in_the_environment_names_its_variable() {
    for (name, value, expected) in [
        (
            "CHIMEWAY_HTTP",
            "localhost",
            "CHIMEWAY_HTTP is not usable: `localhost` is not an address with a port, such as 127.0.0.1:9464",
        ),
        (
            "CHIMEWAY_POOL_SIZE",
            "ten",
            "CHIMEWAY_POOL_SIZE is not usable: `ten` is not a whole number",
        ),
        (
            "CHIMEWAY_QUEUES",
            "chimeway_delivery",
            "CHIMEWAY_QUEUES is not usable: `chimeway_delivery` is not NAME=N, such as chimeway_delivery=20",
        ),
        (
            "CHIMEWAY_CHANNELS",
            "email=pigeon",
            "CHIMEWAY_CHANNELS is not usable: there is no adapter `pigeon`; the one without settings is: log",
        ),
        (
            "CHIMEWAY_EXTRA_CHANNELS",
            "a\u{7}b",
            "CHIMEWAY_EXTRA_CHANNELS is not usable: the channel holds a control character",
        ),
    ] {
        assert_eq!(problem("", &[(name, value)]), expected);
    }
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let path = Path::new("no/such/chimeway.toml");
    let error = Config::load(Some(path), Layer::default()).err().unwrap();
    assert!(
        error.to_string().contains("no/such/chimeway.toml"),
        "{error}"
    );
}

#[test]
fn a_limit_names_a_queue_and_a_number() {
    assert_eq!(
        queue_limit("chimeway_delivery=0"),
        Ok((QueueName::Delivery, 0))
    );
    for text in [
        "chimeway_delivery",
        "delivery=1",
        "chimeway_delivery=-1",
        "chimeway_delivery=99999",
    ] {
        assert!(queue_limit(text).is_err(), "{text}");
    }
}
