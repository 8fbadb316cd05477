use chimeway::{Chimeway, channels::ExposeSecret as _};

use super::*;
use crate::config::{Config, Layer};

const FILE: &str = r#"
[channels.email]
adapter = "smtp"
host = "mail.example.com"
username = "chimeway"
password = "env:SMTP_PASSWORD"
from = "Chimeway <no-reply@example.com>"

[channels.webhook]
adapter = "webhook"
secret = "env:WEBHOOK_SECRET"

[channels.sms]
adapter = "http"
url = "https://sms.example.com/{{ address }}"
basic = { username = "env:SMS_USER", password = "env:SMS_PASSWORD" }
form = { Body = "{{ content.text }}" }
templates = true

[channels.push]
adapter = "log"
"#;

const SET: [(&str, &str); 4] = [
    ("SMTP_PASSWORD", "secret-one"),
    ("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
    ("SMS_USER", "AC1"),
    ("SMS_PASSWORD", "secret-two"),
];

fn config(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let variable = |name: &str| {
        let set = variables.iter().find(|(set, _)| *set == name);
        set.map(|(_, value)| (*value).to_owned())
    };
    Config::from_sources(Some(file.path()), variable, Layer::default())
}

fn registered(text: &str, variables: &[(&str, &str)], sends: bool) -> Result<(), String> {
    let config = config(text, variables).map_err(|error| error.to_string())?;
    let mut builder = Chimeway::builder();
    for (name, settings) in &config.channels {
        let line = |error: CliError| error.line();
        builder = settings.register(name, builder, &[], sends).map_err(line)?;
    }
    let known = builder.build().known();
    for name in config.channels.keys() {
        assert!(known.channels.contains(name), "{name}");
    }
    Ok(())
}

/// What is said of the file, from its line on.
fn problem(text: &str, sends: bool) -> String {
    let error = registered(text, &SET, sends).unwrap_err();
    let (path, problem) = error.split_once(", ").unwrap();
    assert!(path.contains('/'), "{error} does not name the file");
    assert!(!error.contains("secret-"), "{error}");
    problem.replace("; correct the settings", "")
}

#[test]
fn every_adapter_is_made_of_its_settings() {
    assert_eq!(registered(FILE, &SET, true), Ok(()));
    let settings = config(FILE, &SET).unwrap().channels;
    let Checked::Smtp(email) = settings[&"email".parse().unwrap()]
        .check(&"email".parse().unwrap())
        .unwrap()
    else {
        panic!("email is not smtp")
    };
    let password = email.password.unwrap();
    assert_eq!(password.expose_secret(), "secret-one");
    let Checked::Http(sms) = settings[&"sms".parse().unwrap()]
        .check(&"sms".parse().unwrap())
        .unwrap()
    else {
        panic!("sms is not http")
    };
    let basic = sms.basic.unwrap();
    assert_eq!(basic.password.expose_secret(), "secret-two");
}

#[test]
fn a_secret_matters_only_where_messages_are_sent() {
    assert_eq!(registered(FILE, &SET[1..], false), Ok(()));
    let error = registered(FILE, &SET[1..], true).unwrap_err();
    assert!(
        error.contains(
            "line 6: [channels.email] `password` is `env:SMTP_PASSWORD`, which is not set"
        ),
        "{error}"
    );
    let error = registered(FILE, &SET[..3], true).unwrap_err();
    assert!(
        error.contains("line 16: [channels.sms] `basic.password` is `env:SMS_PASSWORD`"),
        "{error}"
    );
}

#[test]
fn a_mistake_names_the_file_the_line_and_the_key() {
    for (text, expected) in [
        (
            "\n[channels.email]\nadapter = \"pigeon\"",
            "line 3: [channels.email] unknown variant `pigeon`",
        ),
        (
            "[channels.email]\nhost = 1",
            "line 1: [channels.email] `adapter` is missing",
        ),
        (
            "[channels.a]\nadapter = \"http\"\nurl = \"https://a.example\"\nurk = 1",
            "line 4: [channels.a] unknown field `urk`",
        ),
        (
            "[channels.a]\nadapter = \"http\"\nurl = \"https://a.example/{{ address\"",
            "line 3: [channels.a] `url` is not usable: the template does not compile: line 1:",
        ),
        (
            "[channels.a]\nadapter = \"http\"\nurl = \"https://a.example\"\ntemporary = [\"6xx\"]",
            "line 4: [channels.a] a status is from 200 to 599",
        ),
        (
            "[channels.a]\nadapter = \"http\"\nurl = \"https://a.example\"\njson.text = \"{{ 1 +\"",
            "line 4: [channels.a] `json.text` is not usable: the template does not compile",
        ),
        (
            "[channels.a]\nadapter = \"webhook\"\nsecret = \"short\"",
            "line 3: [channels.a] `secret` is not usable: it is `whsec_`",
        ),
        (
            "[channels.a]\nadapter = \"webhook\"\nsecret = \"env:WEBHOOK_SECRET\"\nurl = \"a.example\"",
            "line 4: [channels.a] `url` is not usable: it is not a URL",
        ),
        (
            "[channels.a]\nadapter = \"log\"\nlevel = \"info\"",
            "line 3: [channels.a] unknown field `level`; `log` has no settings",
        ),
    ] {
        let found = problem(text, true);
        assert!(found.starts_with(expected), "{found}");
        assert!(!found.contains('\n'), "{found}");
    }
}
