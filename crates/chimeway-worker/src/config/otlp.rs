//! `[otlp]`: where traces go.
//!
//! The variables that OpenTelemetry gives to every program count where our own settings name no collector:
//! headers that are meant for one never go to another.

use std::{collections::BTreeMap, path::PathBuf};

use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    ConfigError, one,
    sources::{Setting, Source},
};

const ENDPOINT: &str = "CHIMEWAY_OTLP_ENDPOINT";
const HEADERS: &str = "CHIMEWAY_OTLP_HEADERS";
const SERVICE_NAME: &str = "CHIMEWAY_OTLP_SERVICE_NAME";
const RATIO: &str = "CHIMEWAY_OTLP_RATIO";
const STANDARD_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const STANDARD_HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const STANDARD_SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// What is added to the address of a collector.
const PATH: &str = "/v1/traces";
pub(super) const SERVICE: &str = "chimeway";

/// What one source says.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OtlpLayer {
    endpoint: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    service_name: Option<String>,
    ratio: Option<f64>,
    root_certificates: Option<PathBuf>,
}

/// Where traces go, and which.
#[derive(Clone)]
pub(crate) struct Otlp {
    pub(crate) url: Url,
    /// The address without what may be secret in it.
    pub(crate) shown: String,
    /// Such as a token, and so never shown.
    pub(crate) headers: HeaderMap,
    pub(crate) service_name: String,
    /// The part of the runs that is told of; more than 0.
    pub(crate) ratio: f64,
    pub(crate) root_certificates: Option<PathBuf>,
    /// A setting, and the variable that it names and that is not set.
    missing: Option<(String, String)>,
}

impl OtlpLayer {
    pub(super) fn from_environment(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            endpoint: variable(ENDPOINT),
            headers: one(HEADERS, &variable, pairs)?.unwrap_or_default(),
            service_name: variable(SERVICE_NAME),
            ratio: one(RATIO, &variable, |text| {
                let number = text.parse();
                number.map_err(|_| format!("`{text}` is not a number from 0 to 1"))
            })?,
            root_certificates: None,
        })
    }

    /// What OpenTelemetry's own variables say, which are for every program of the place: what we cannot use
    /// is left to the others.
    fn standard(variable: impl Fn(&str) -> Option<String>) -> Self {
        let endpoint = variable(STANDARD_ENDPOINT);
        let headers = variable(STANDARD_HEADERS).and_then(|text| pairs(&text).ok());
        Self {
            endpoint: endpoint.filter(|text| address(text).is_ok()),
            headers: headers.unwrap_or_default(),
            service_name: variable(STANDARD_SERVICE_NAME),
            ..Self::default()
        }
    }

    /// This layer with another one over it. Headers are merged one by one.
    pub(super) fn under(mut self, over: Self) -> Self {
        self.headers.extend(over.headers);
        Self {
            endpoint: over.endpoint.or(self.endpoint),
            headers: self.headers,
            service_name: over.service_name.or(self.service_name),
            ratio: over.ratio.or(self.ratio),
            root_certificates: over.root_certificates.or(self.root_certificates),
        }
    }

    /// What it comes to; none where no collector is named, or nothing is to be told.
    pub(super) fn resolve(
        mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Otlp>, ConfigError> {
        let bad = |name, problem| ConfigError::BadValue { name, problem };
        if self.endpoint.is_none() {
            self = Self::standard(&variable).under(self);
        }
        let ratio = self.ratio.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&ratio) {
            let problem = format!("{ratio} is not from 0 to 1");
            return Err(bad("otlp.ratio", problem));
        }
        let mut missing = None;
        let mut filled = |key: &str, text: String| match text.strip_prefix("env:") {
            None => Some(text),
            Some(name) => {
                let found = variable(name);
                if found.is_none() {
                    missing.get_or_insert((key.to_owned(), name.to_owned()));
                }
                found
            }
        };
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            let Some(value) = filled(&format!("headers.{name}"), value) else {
                continue;
            };
            let header = HeaderName::try_from(&name).ok();
            let value = HeaderValue::try_from(value).ok();
            let Some((header, mut value)) = header.zip(value) else {
                let problem = format!("`{name}` is no name of a header, or its value is none");
                return Err(bad("otlp.headers", problem));
            };
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        let endpoint = self.endpoint.map(|text| filled("endpoint", text));
        let (url, missing) = match endpoint {
            None => return Ok(None),
            // Nobody calls it: a worker is refused.
            Some(None) => (address("http://localhost"), missing),
            Some(Some(text)) => (address(&text), missing),
        };
        let url = url.map_err(|problem| bad("otlp.endpoint", problem))?;
        Ok((ratio > 0.0).then(|| Otlp {
            shown: shown(&url),
            url,
            headers,
            service_name: self.service_name.unwrap_or_else(|| SERVICE.to_owned()),
            ratio,
            root_certificates: self.root_certificates,
            missing,
        }))
    }
}

impl Otlp {
    /// That nothing is missing: a process that sends needs all of it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::BadValue`] if a variable is not set that the settings name.
    pub(crate) fn whole(&self) -> Result<&Self, ConfigError> {
        match &self.missing {
            None => Ok(self),
            Some((key, variable)) => Err(ConfigError::BadValue {
                name: "otlp",
                problem: format!("`{key}` is `env:{variable}`, which is not set"),
            }),
        }
    }
}

/// The address of a collector as spans are sent to it.
fn address(text: &str) -> Result<Url, String> {
    // Not quoted: there may be a password in it.
    let problem = "it is not an address of HTTP such as http://127.0.0.1:4318";
    let mut url = Url::parse(text.trim()).map_err(|_| problem.to_owned())?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(problem.to_owned());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if !path.ends_with(PATH) {
        url.set_path(&format!("{path}{PATH}"));
    }
    Ok(url)
}

/// The address without a password, and what follows a question mark.
fn shown(url: &Url) -> String {
    let origin = url.origin().ascii_serialization();
    format!("{origin}{}", url.path())
}

/// Reads `name=value,name=value`, each value as in a URL.
fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let problem = "it is not NAME=VALUE,.. with every special character as %XX";
    let items = text.split(',').map(str::trim);
    let items = items.filter(|item| !item.is_empty());
    let pair = |item: &str| {
        let (name, value) = item.split_once('=').ok_or_else(|| problem.to_owned())?;
        let value = decoded(value.trim()).ok_or_else(|| problem.to_owned())?;
        Ok((name.trim().to_lowercase(), value))
    };
    items.map(pair).collect()
}

/// A text without its %XX.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// Each of them with its source, for `chimeway config`.
pub(super) fn settings(
    of_file: Option<&toml::Value>,
    in_file: &Source,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<Setting> {
    let in_table = |key: &str| of_file.and_then(|table| table.get(key));
    let text = |name: &str| variable(name).filter(|text| !text.trim().is_empty());
    // The standard ones count where ours name no collector.
    let named = text(ENDPOINT).is_some() || in_table("endpoint").is_some();
    let standard = |name: &'static str| text(name).filter(|_| !named);
    let plain = |key: &str, ours: Option<&'static str>, theirs: Option<&'static str>, usual| {
        let found = ours.and_then(|name| Some((Value::from(text(name)?), environment(name))));
        let found = found.or_else(|| {
            let value = serde_json::to_value(in_table(key)?).unwrap_or_default();
            Some((value, in_file.clone()))
        });
        let found = found
            .or_else(|| theirs.and_then(|name| Some((standard(name)?.into(), environment(name)))));
        let (value, source) = match found {
            Some((value, source)) => (Some(value), source),
            None => (usual, Source::Default),
        };
        Setting {
            name: format!("otlp.{key}"),
            value: value.map(|value| without_secret(key, value)),
            source,
        }
    };
    let mut settings = vec![plain(
        "endpoint",
        Some(ENDPOINT),
        Some(STANDARD_ENDPOINT),
        None,
    )];
    let mut headers = BTreeMap::new();
    let mut add = |names: BTreeMap<String, String>, source: &Source| {
        for (name, value) in names {
            let shown = match value.starts_with("env:") {
                true => value,
                false => "set".to_owned(),
            };
            headers.insert(name, (shown, source.clone()));
        }
    };
    let listed = |text: Option<String>| text.and_then(|text| pairs(&text).ok());
    add(
        listed(standard(STANDARD_HEADERS)).unwrap_or_default(),
        &environment(STANDARD_HEADERS),
    );
    let table = in_table("headers").cloned();
    add(
        table
            .and_then(|table| table.try_into().ok())
            .unwrap_or_default(),
        in_file,
    );
    add(
        listed(text(HEADERS)).unwrap_or_default(),
        &environment(HEADERS),
    );
    settings.extend(headers.into_iter().map(|(name, (value, source))| Setting {
        name: format!("otlp.headers.{name}"),
        value: Some(value.into()),
        source,
    }));
    let usual = Some(SERVICE.into());
    let theirs = Some(STANDARD_SERVICE_NAME);
    settings.push(plain("service_name", Some(SERVICE_NAME), theirs, usual));
    settings.push(plain("ratio", Some(RATIO), None, Some(1.into())));
    settings.push(plain("root_certificates", None, None, None));
    settings
}

fn environment(name: &'static str) -> Source {
    Source::Environment(name)
}

fn without_secret(key: &str, value: Value) -> Value {
    match &value {
        Value::String(text) if key == "endpoint" && !text.starts_with("env:") => {
            address(text).map_or_else(|_| "set".into(), |url| shown(&url).into())
        }
        Value::String(text) if key == "ratio" => {
            text.trim().parse::<f64>().map_or(value, Value::from)
        }
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str, variables: &[(&str, &str)]) -> Result<Option<Otlp>, ConfigError> {
        let variable = |name: &str| {
            let set = variables.iter().find(|(set, _)| *set == name);
            set.map(|(_, value)| (*value).to_owned())
        };
        let file: OtlpLayer = toml::from_str(text).unwrap();
        let layer = file.under(OtlpLayer::from_environment(variable)?);
        layer.resolve(variable)
    }

    fn told(text: &str, variables: &[(&str, &str)]) -> String {
        match resolved(text, variables) {
            Err(error) => error.to_string(),
            Ok(None) => "nothing".to_owned(),
            Ok(Some(otlp)) => {
                let headers = otlp.headers.iter();
                let headers =
                    headers.map(|(name, value)| format!(" {name}={}", value.to_str().unwrap()));
                let headers: String = headers.collect();
                let (url, service, ratio) = (otlp.url, otlp.service_name, otlp.ratio);
                format!("{url} {service} {ratio}{headers}")
            }
        }
    }

    #[test]
    fn traces_go_where_our_settings_say_and_else_where_the_standard_variables_do() {
        let file = "endpoint = \"http://file\"\nheaders = { A = \"1\", b = \"env:B\" }";
        let theirs = (STANDARD_ENDPOINT, "http://127.0.0.1:4318/");
        let their_headers = (STANDARD_HEADERS, "authorization=Basic%20YTpi, x=1");
        for (text, variables, expected) in [
            ("", &[][..], "nothing"),
            (
                file,
                &[("B", "2")],
                "http://file/v1/traces chimeway 1 a=1 b=2",
            ),
            (
                "ratio = 0.25",
                &[theirs, their_headers, (STANDARD_SERVICE_NAME, "shop")],
                "http://127.0.0.1:4318/v1/traces shop 0.25 authorization=Basic YTpi x=1",
            ),
            // Headers of theirs are for their collector.
            (
                "endpoint = \"https://file/v1/traces\"",
                &[theirs, their_headers],
                "https://file/v1/traces chimeway 1",
            ),
            (
                file,
                &[
                    (ENDPOINT, "http://ours"),
                    (RATIO, "0.5"),
                    ("B", "2"),
                    (HEADERS, "b=3"),
                ],
                "http://ours/v1/traces chimeway 0.5 a=1 b=3",
            ),
            ("", &[(STANDARD_ENDPOINT, "localhost:4317")], "nothing"),
            ("ratio = 0.0", &[theirs], "nothing"),
        ] {
            assert_eq!(told(text, variables), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_without_secrets() {
        for (text, variables, expected) in [
            (
                "endpoint = \"hunter2:4318\"",
                &[][..],
                "otlp.endpoint is not usable: it is not an address of HTTP such as http://127.0.0.1:4318",
            ),
            (
                "ratio = 2.0",
                &[],
                "otlp.ratio is not usable: 2 is not from 0 to 1",
            ),
            (
                "",
                &[(RATIO, "half")],
                "CHIMEWAY_OTLP_RATIO is not usable: `half` is not a number from 0 to 1",
            ),
            (
                "",
                &[(HEADERS, "hunter2")],
                "CHIMEWAY_OTLP_HEADERS is not usable: it is not NAME=VALUE,.. with every special character as %XX",
            ),
            (
                "headers = { \"a b\" = \"hunter2\" }",
                &[],
                "otlp.headers is not usable: `a b` is no name of a header, or its value is none",
            ),
        ] {
            assert_eq!(told(text, variables), expected);
        }
        let named = "endpoint = \"http://a\"\nheaders = { b = \"env:B\" }";
        let otlp = resolved(named, &[]).unwrap().unwrap();
        let refused = otlp.whole().err().unwrap().to_string();
        assert_eq!(
            refused,
            "otlp is not usable: `headers.b` is `env:B`, which is not set"
        );
    }

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        let url = address("https://me:hunter2@collector.example/otlp/?key=hunter2").unwrap();
        assert_eq!(shown(&url), "https://collector.example/otlp/v1/traces");
        assert_eq!(url.query(), Some("key=hunter2"));
    }
}
