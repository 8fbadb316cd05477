//! Webhooks after the Standard Webhooks specification: signed, one id for all tries.

use std::{path::PathBuf, time::UNIX_EPOCH};

use async_trait::async_trait;
use reqwest::{
    Method, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use standardwebhooks::{
    HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook,
};

use super::{
    AllowedTarget, Channel, ChannelConfigError, Message, Receipt, SendError,
    web::{self, ChosenBy, Web},
};

/// Secrets are from 24 to 64 bytes, says the specification.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// What other receivers know as the name for "you have this one already".
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The settings of a webhook channel.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// Where messages go; without it, to the recipient's address on this channel.
    pub url: Option<String>,
    /// The secret that receivers verify with: `whsec_` and 24 to 64 bytes in base64.
    pub secret: SecretString,
    /// The secret before this one: messages carry both signatures while receivers change over.
    pub previous_secret: Option<SecretString>,
    /// How long a receiver has to begin its reply: 10 by default, at most 15.
    #[serde(default = "timeout_seconds")]
    pub timeout_seconds: u64,
    /// A PEM file with certificates to trust beside the usual ones.
    pub root_certificates: Option<PathBuf>,
    /// Private networks and hosts that addresses of recipients and documents may lead to; none by default.
    /// `url` may lead anywhere.
    #[serde(default)]
    pub allow_private: Vec<AllowedTarget>,
}

fn timeout_seconds() -> u64 {
    web::TIMEOUT_SECONDS
}

impl WebhookSettings {
    /// Settings with defaults for all but the secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self {
            url: None,
            secret: secret.into().into(),
            previous_secret: None,
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
    pub fn build(self) -> Result<WebhookChannel, ChannelConfigError> {
        let url = self.url.as_deref().map(web::url).transpose();
        let url = url.map_err(|problem| ChannelConfigError::new("url", problem))?;
        check_secret("secret", self.secret.expose_secret())?;
        if let Some(secret) = &self.previous_secret {
            check_secret("previous_secret", secret.expose_secret())?;
        }
        let web = Web::new(
            self.timeout_seconds,
            self.root_certificates.as_deref(),
            self.allow_private,
        )?;
        let secrets = [Some(self.secret), self.previous_secret];
        Ok(WebhookChannel {
            url,
            secrets: secrets.into_iter().flatten().collect(),
            web,
        })
    }
}

fn check_secret(setting: &str, secret: &str) -> Result<(), ChannelConfigError> {
    let problem = "it is `whsec_` and 24 to 64 random bytes in base64, such as made by \
        `echo whsec_$(openssl rand -base64 32)`";
    let bad = || ChannelConfigError::new(setting, problem);
    Webhook::new(secret).map_err(|_| bad())?;
    let text = secret.strip_prefix("whsec_").unwrap_or(secret);
    let padding = text.bytes().filter(|&byte| byte == b'=').count();
    // It is base64: 3 bytes in 4 letters.
    let bytes = (text.len() / 4 * 3).saturating_sub(padding);
    if SECRET_BYTES.contains(&bytes) {
        Ok(())
    } else {
        Err(bad())
    }
}

/// Posts signed JSON to a URL.
#[derive(Clone)]
pub struct WebhookChannel {
    url: Option<Url>,
    secrets: Vec<SecretString>,
    web: Web,
}

/// What a receiver gets in the `webhook-signature` header, for the body as it is sent.
///
/// # Errors
///
/// [`ChannelConfigError`] where the secret is not base64.
pub fn signature(
    secret: &str,
    id: &str,
    timestamp: i64,
    body: &str,
) -> Result<String, ChannelConfigError> {
    let unusable = |error: standardwebhooks::WebhookError| {
        ChannelConfigError::new("secret", error.to_string())
    };
    Webhook::new(secret)
        .and_then(|webhook| webhook.sign(id, timestamp, body.as_bytes()))
        .map_err(unusable)
}

#[async_trait]
impl Channel for WebhookChannel {
    fn adapter(&self) -> &'static str {
        "webhook"
    }

    fn needs_address(&self) -> bool {
        self.url.is_none()
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        let id = message.token();
        let now = web::wall_clock().duration_since(UNIX_EPOCH);
        let timestamp = now.map_or(0, |now| now.as_secs().cast_signed());
        let (method, url, chosen, body) = match &message.call {
            Some(call) => (
                method(&call.method)?,
                address(&call.url)?,
                ChosenBy::Others,
                call.body.as_ref().map(Value::to_string),
            ),
            None => {
                let (url, chosen) = match (&self.url, &message.address) {
                    (Some(url), _) => (url.clone(), ChosenBy::Settings),
                    (None, Some(to)) => (address(to)?, ChosenBy::Others),
                    (None, None) => return Err(SendError::permanent(web::class("no_address"))),
                };
                let body = body(message, timestamp).to_string();
                (Method::POST, url, chosen, Some(body))
            }
        };
        let signed = body.as_deref().unwrap_or_default();
        let signatures: Result<Vec<String>, _> = self
            .secrets
            .iter()
            .map(|secret| signature(secret.expose_secret(), &id, timestamp, signed))
            .collect();
        let signatures = signatures.map_err(SendError::permanent)?.join(" ");
        let mut request = self.web.request(method, url, chosen)?;
        // What signs it comes last: no document takes its place.
        let mut headers = own_headers(message)?;
        let mut put = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value);
            let value = value.map_err(|_| SendError::permanent(web::class("headers")))?;
            headers.insert(HeaderName::from_static(name), value);
            Ok::<(), SendError>(())
        };
        put(HEADER_WEBHOOK_ID, &id)?;
        put(HEADER_WEBHOOK_TIMESTAMP, &timestamp.to_string())?;
        put(HEADER_WEBHOOK_SIGNATURE, &signatures)?;
        put(IDEMPOTENCY_KEY, &id)?;
        request = request.headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let reply = self.web.call(request).await?;
        let status = reply.status;
        if status.is_success() {
            return Ok(Receipt {
                provider_message_id: None,
                response: Some(web::kept(status)),
            });
        }
        let source = web::refused(status).into();
        Err(if is_temporary(status) {
            SendError::Temporary {
                retry_after: reply.retry_after,
                source,
            }
        } else {
            // A redirect too: what is signed for one place is not sent to another.
            SendError::Permanent { source }
        })
    }
}

/// What a document's call sends with it: JSON, unless it says otherwise.
fn own_headers(message: &Message) -> Result<HeaderMap, SendError> {
    let json = HeaderValue::from_static("application/json");
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
    for (name, value) in message.call.iter().flat_map(|call| &call.headers) {
        let name = HeaderName::try_from(name.as_str());
        let value = HeaderValue::from_str(value);
        let (Ok(name), Ok(mut value)) = (name, value) else {
            return Err(SendError::permanent(web::class("headers")));
        };
        if web::is_of_connection(name.as_str()) {
            return Err(SendError::permanent(web::class("headers")));
        }
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn method(name: &str) -> Result<Method, SendError> {
    Method::from_bytes(name.as_bytes()).map_err(|_| SendError::permanent(web::class("method")))
}

fn address(text: &str) -> Result<Url, SendError> {
    web::url(text).map_err(|_| SendError::permanent(web::class("address")))
}

/// Whether the same request may succeed later.
pub(super) fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error() || [408, 425, 429].contains(&status.as_u16())
}

/// The body is the same on every try, as long as the recipient is.
fn body(message: &Message, now: i64) -> Value {
    // The id has the time at which the message came to be.
    let made = message.delivery.0.get_timestamp();
    let (seconds, nanos) = made.map_or((now, 0), |made| {
        let (seconds, nanos) = made.to_unix();
        (seconds.cast_signed(), nanos)
    });
    let time = chrono::DateTime::from_timestamp(seconds, nanos).unwrap_or_default();
    json!({
        "type": format!("{}.{}", message.workflow, message.step),
        "timestamp": time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        "data": {
            "delivery_id": message.delivery,
            "run_id": message.run,
            "notification_id": message.notification,
            "tenant_id": message.tenant,
            "workflow": message.workflow,
            "step": message.step,
            "channel": message.channel,
            "render_key": message.render_key,
            "recipient": {
                "identity": message.recipient,
                "locale": message.locale,
                "time_zone": message.time_zone,
            },
            "params": message.params,
        },
    })
}
