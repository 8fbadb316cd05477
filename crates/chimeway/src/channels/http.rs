//! A channel for any provider with an HTTP API: settings say what is sent and what replies mean.

use std::{collections::BTreeMap, path::PathBuf};

use async_trait::async_trait;
use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    AllowedTarget, Channel, ChannelConfigError, Message, Receipt, SendError,
    request::Templates,
    web::{self, ChosenBy, Reply, Web},
};

/// The settings of a channel over a provider's HTTP API.
///
/// `url`, the values of `headers`, and `json`, `form` or `body` are templates over the message:
/// `delivery`, `attempt`, `token`, `tenant`, `recipient`, `run`, `notification`, `workflow`, `step`,
/// `channel`, `render_key`, `params`, `context`, `address`, `locale`, `time_zone`, and with `templates` also
/// `content.subject`, `content.text` and `content.html`. What the message does not have is undefined,
/// and a template that needs it fails the message.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// Where requests go. Values are percent-encoded as they are inserted, unless they are `| safe`.
    pub url: String,
    /// The method: `POST` by default.
    #[serde(default = "method")]
    pub method: String,
    /// Headers beside those that follow from the other settings.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body as JSON: every text in it is a template, whose result is encoded for JSON.
    pub json: Option<Value>,
    /// The body as a form: every value is a template, whose result is encoded for forms.
    pub form: Option<BTreeMap<String, String>>,
    /// The body as one template, for all else. `tojson` and `urlencode` encode what is inserted.
    pub body: Option<String>,
    /// The media type of `body`: `application/json` by default, which must then be well-formed.
    pub content_type: Option<String>,
    /// The token of an `authorization: Bearer` header.
    pub bearer: Option<SecretString>,
    /// Name and password of an `authorization: Basic` header.
    pub basic: Option<BasicAuth>,
    /// The header that has the delivery's id, the same on every try: `idempotency-key` by default;
    /// blank for none.
    #[serde(default = "idempotency_header")]
    pub idempotency_header: String,
    /// The statuses that mean that the provider took the message: `["2xx"]` by default.
    #[serde(default = "success")]
    pub success: Vec<Statuses>,
    /// The statuses after which it is tried again: `[408, 425, 429, "5xx"]` by default.
    #[serde(default = "temporary")]
    pub temporary: Vec<Statuses>,
    /// The statuses that mean that the address does not work; none by default.
    #[serde(default)]
    pub bounced: Vec<Statuses>,
    /// Where the provider's id of the message is in a JSON reply, such as `/sid`.
    pub message_id: Option<String>,
    /// Where the provider's code for what went wrong is in a JSON reply, such as `/code`.
    pub error_code: Option<String>,
    /// Whether a recipient without an address on this channel is passed over: true by default.
    #[serde(default = "needs_address")]
    pub needs_address: bool,
    /// Whether messages get their words from the templates of their render key; false by default.
    #[serde(default)]
    pub templates: bool,
    /// How long the provider has to begin its reply: 10 by default, at most 15.
    #[serde(default = "timeout_seconds")]
    pub timeout_seconds: u64,
    /// A PEM file with certificates to trust beside the usual ones.
    pub root_certificates: Option<PathBuf>,
    /// Private networks and hosts that may be called where a template makes the host of `url`; none by default.
    /// A host that stands in `url` may be any.
    #[serde(default)]
    pub allow_private: Vec<AllowedTarget>,
}

/// Name and password.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicAuth {
    /// The name.
    pub username: String,
    /// The password.
    pub password: SecretString,
}

/// One status, such as 429, or all of a hundred, such as `5xx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "StatusesText")]
pub struct Statuses {
    from: u16,
    to: u16,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a status such as 429, or \"5xx\" for all of a hundred"
)]
enum StatusesText {
    Number(u16),
    Text(String),
}

impl TryFrom<StatusesText> for Statuses {
    type Error = String;

    fn try_from(text: StatusesText) -> Result<Self, Self::Error> {
        let bad = || "a status is from 200 to 599 such as 429, or \"5xx\" for all of a hundred";
        let (from, to) = match text {
            StatusesText::Number(status) => (status, status),
            StatusesText::Text(text) => {
                let hundred = text.strip_suffix("xx").ok_or_else(bad)?;
                let hundred: u16 = hundred.parse().map_err(|_| bad())?;
                let from = hundred.saturating_mul(100);
                (from, from.saturating_add(99))
            }
        };
        if from < 200 || to > 599 {
            return Err(bad().to_owned());
        }
        Ok(Self { from, to })
    }
}

impl Statuses {
    fn has(self, status: StatusCode) -> bool {
        (self.from..=self.to).contains(&status.as_u16())
    }

    const fn one(status: u16) -> Self {
        Self {
            from: status,
            to: status,
        }
    }

    const fn hundred(from: u16) -> Self {
        Self {
            from,
            to: from + 99,
        }
    }
}

fn method() -> String {
    "POST".to_owned()
}

fn idempotency_header() -> String {
    "idempotency-key".to_owned()
}

fn success() -> Vec<Statuses> {
    vec![Statuses::hundred(200)]
}

fn temporary() -> Vec<Statuses> {
    let one = [408, 425, 429].map(Statuses::one);
    one.into_iter().chain([Statuses::hundred(500)]).collect()
}

fn needs_address() -> bool {
    true
}

fn timeout_seconds() -> u64 {
    web::TIMEOUT_SECONDS
}

impl HttpSettings {
    /// Settings with defaults for all but the URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            method: method(),
            headers: BTreeMap::new(),
            json: None,
            form: None,
            body: None,
            content_type: None,
            bearer: None,
            basic: None,
            idempotency_header: idempotency_header(),
            success: success(),
            temporary: temporary(),
            bounced: vec![],
            message_id: None,
            error_code: None,
            needs_address: needs_address(),
            templates: false,
            timeout_seconds: timeout_seconds(),
            root_certificates: None,
            allow_private: vec![],
        }
    }

    /// The channel.
    ///
    /// # Errors
    ///
    /// [`ChannelConfigError`] names the setting that cannot be used.
    pub fn build(self) -> Result<HttpChannel, ChannelConfigError> {
        let bodies = [
            self.json.is_some(),
            self.form.is_some(),
            self.body.is_some(),
        ];
        if bodies.iter().filter(|&&is_given| is_given).count() > 1 {
            return Err(bad(
                "body",
                "only one of `json`, `form` and `body` makes the body",
            ));
        }
        if self.content_type.is_some() && self.body.is_none() {
            return Err(bad("content_type", "it is for `body` alone"));
        }
        if self.bearer.is_some() && self.basic.is_some() {
            return Err(bad(
                "basic",
                "only one of `bearer` and `basic` makes the header",
            ));
        }
        let method = Method::from_bytes(self.method.as_bytes())
            .map_err(|_| bad("method", "it is not a method such as POST"))?;
        for (setting, pointer) in [
            ("message_id", &self.message_id),
            ("error_code", &self.error_code),
        ] {
            if pointer.as_deref().is_some_and(|it| !it.starts_with('/')) {
                return Err(bad(setting, "it is a JSON pointer such as /id"));
            }
        }
        let mut fixed = vec![];
        if let Some(token) = &self.bearer {
            let token = format!("Bearer {}", token.expose_secret());
            fixed.push((AUTHORIZATION, secret("bearer", &token)?));
        }
        if !self.idempotency_header.trim().is_empty() {
            header_name("idempotency_header", &self.idempotency_header)?;
        }
        for name in self.headers.keys() {
            header_name(&format!("headers.{name}"), name)?;
        }
        let chosen = match names_its_host(&self.url) {
            true => ChosenBy::Settings,
            false => ChosenBy::Others,
        };
        let web = Web::new(
            self.timeout_seconds,
            self.root_certificates.as_deref(),
            self.allow_private.clone(),
        )?;
        let templates = Templates::compile(&self)?;
        Ok(HttpChannel {
            method,
            fixed,
            templates,
            web,
            chosen,
            settings: self,
        })
    }
}

fn bad(setting: &str, problem: &str) -> ChannelConfigError {
    ChannelConfigError::new(setting, problem)
}

/// Whether the host stands in the template of a URL, up to the slash that ends it: then nothing that is
/// inserted is part of it.
fn names_its_host(template: &str) -> bool {
    let Some((scheme, rest)) = template.split_once("://") else {
        return false;
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    !scheme.contains('{') && !host.contains('{')
}

fn header_name(setting: &str, name: &str) -> Result<HeaderName, ChannelConfigError> {
    if web::is_of_connection(name) {
        return Err(bad(
            setting,
            "it is about the connection: only the client says that",
        ));
    }
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| bad(setting, "it is not a header's name such as x-api-key"))
}

/// A header's value that is not shown when requests are.
fn secret(setting: &str, text: &str) -> Result<HeaderValue, ChannelConfigError> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| bad(setting, "a header cannot have it"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Hands messages to a provider's HTTP API.
pub struct HttpChannel {
    method: Method,
    fixed: Vec<(HeaderName, HeaderValue)>,
    templates: Templates,
    web: Web,
    chosen: ChosenBy,
    settings: HttpSettings,
}

impl HttpChannel {
    fn request(&self, message: &Message) -> Result<RequestBuilder, SendError> {
        let settings = &self.settings;
        let rendered = self.templates.render(settings, message)?;
        let url = web::url(&rendered.url).map_err(|_| SendError::permanent(web::class("url")))?;
        let mut request = self.web.request(self.method.clone(), url, self.chosen)?;
        for (name, value) in &self.fixed {
            request = request.header(name, value);
        }
        if let Some(basic) = &settings.basic {
            request = request.basic_auth(&basic.username, Some(basic.password.expose_secret()));
        }
        if !settings.idempotency_header.trim().is_empty() {
            request = request.header(settings.idempotency_header.trim(), message.token());
        }
        if let Some((media_type, body)) = rendered.body {
            let is_told = settings
                .headers
                .keys()
                .any(|name| CONTENT_TYPE == *name.to_lowercase());
            if !is_told {
                request = request.header(CONTENT_TYPE, media_type);
            }
            request = request.body(body);
        }
        for (name, value) in rendered.headers {
            // A line break in a value would be another header.
            let value = HeaderValue::from_str(&value)
                .map_err(|_| SendError::permanent(web::class("header")))?;
            request = request.header(name, value);
        }
        Ok(request)
    }

    /// What an attempt keeps of a reply: the status, and the provider's code where it is a code.
    fn kept(&self, status: StatusCode, reply: Option<&Value>) -> Value {
        let mut kept = web::kept(status);
        let code = self.settings.error_code.as_deref();
        if let Some(code) = code
            .and_then(|pointer| reply?.pointer(pointer))
            .and_then(code_of)
        {
            kept["code"] = code;
        }
        kept
    }

    fn classify(&self, reply: &Reply) -> Result<Receipt, SendError> {
        let settings = &self.settings;
        let status = reply.status;
        let is_in = |list: &[Statuses]| list.iter().any(|it| it.has(status));
        let body: Option<Value> = serde_json::from_slice(&reply.body).ok();
        if is_in(&settings.success) {
            let pointer = settings.message_id.as_deref();
            let id = pointer.and_then(|pointer| body.as_ref()?.pointer(pointer));
            let provider_message_id = id.and_then(|id| match id {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            });
            return Ok(Receipt {
                provider_message_id,
                response: Some(web::kept(status)),
            });
        }
        let source = super::Answered(self.kept(status, body.as_ref())).into();
        Err(if is_in(&settings.bounced) {
            SendError::Bounced { source }
        } else if is_in(&settings.temporary) {
            SendError::Temporary {
                retry_after: reply.retry_after,
                source,
            }
        } else {
            SendError::Permanent { source }
        })
    }
}

/// A provider's code: a number, or a word that cannot hold an address.
fn code_of(value: &Value) -> Option<Value> {
    match value {
        Value::Number(_) => Some(value.clone()),
        Value::String(text) => {
            let is_word = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
            (text.len() <= 64 && text.chars().all(is_word)).then(|| json!(text))
        }
        _ => None,
    }
}

#[async_trait]
impl Channel for HttpChannel {
    fn adapter(&self) -> &'static str {
        "http"
    }

    fn needs_address(&self) -> bool {
        self.settings.needs_address
    }

    fn renders(&self) -> bool {
        self.settings.templates
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        if message.call.is_some() {
            // Its settings say what is sent; a document's call says something else.
            return Err(SendError::permanent(web::class("carries_no_calls")));
        }
        let reply = self.web.call(self.request(message)?).await?;
        self.classify(&reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_and_hundreds() {
        let has = |text: &str, status: u16| {
            let statuses: Statuses =
                serde_json::from_str(text).map_err(|error| error.to_string())?;
            Ok::<_, String>(statuses.has(StatusCode::from_u16(status).unwrap()))
        };
        assert_eq!(has("429", 429), Ok(true));
        assert_eq!(has("429", 430), Ok(false));
        assert_eq!(has("\"5xx\"", 500), Ok(true));
        assert_eq!(has("\"5xx\"", 599), Ok(true));
        assert_eq!(has("\"5xx\"", 499), Ok(false));
        for text in [
            "42",
            "700",
            "\"xx\"",
            "\"9xx\"",
            "\"50x\"",
            "true",
            "\"655xx\"",
        ] {
            assert!(has(text, 500).is_err(), "{text}");
        }
    }

    #[test]
    fn the_host_of_a_url_stands_in_it_or_is_inserted() {
        for (template, fixed) in [
            ("https://api.example.com/{{ address }}", true),
            ("https://api.example.com?to={{ address }}", true),
            ("http://127.0.0.1:4000", true),
            ("https://{{ address }}/x", false),
            ("https://api.example.com{{ address }}", false),
            ("https://api.example.com@{{ address }}/", false),
            ("https://api.example.com\\@{{ address }}/", false),
            ("{{ params.scheme }}://api.example.com/", false),
            ("{{ address }}", false),
            ("{# a://b/ #}{{ address }}", false),
            ("{% if params.x %}https://a/{% endif %}", false),
        ] {
            assert_eq!(names_its_host(template), fixed, "{template}");
        }
    }

    #[test]
    fn a_code_is_no_place_for_an_address() {
        assert_eq!(code_of(&json!(21211)), Some(json!(21211)));
        assert_eq!(
            code_of(&json!("invalid_number")),
            Some(json!("invalid_number"))
        );
        for text in ["+43 1 555", "ada@example.com", &"x".repeat(65)] {
            assert_eq!(code_of(&json!(text)), None);
        }
    }
}
