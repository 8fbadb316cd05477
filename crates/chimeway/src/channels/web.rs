//! What the channels over HTTP share: one client, and what a reply or the lack of one means.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use reqwest::{
    Client, ClientBuilder, RequestBuilder, Response, StatusCode, Url,
    header::{DATE, HeaderMap, RETRY_AFTER},
    redirect,
};
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde_json::{Value, json};

use super::{
    AllowedTarget, Answered, ChannelConfigError, SendError,
    target::{self, Refused, Targets},
};

/// How long a receiver has by default to begin its reply, in seconds.
pub(super) const TIMEOUT_SECONDS: u64 = 10;
/// The most that may be asked for: a send has 20 seconds in all.
const LONGEST_TIMEOUT_SECONDS: u64 = 15;
/// What is read of a reply's body; the rest is left where it is.
const BODY_LIMIT: usize = 64 * 1024;
/// How long the body may take once the reply has begun: its status has told what matters.
const BODY_TIME: Duration = Duration::from_secs(2);
/// The longest wish that is heard: a receiver cannot park a delivery for ever.
const LONGEST_WISH: Duration = Duration::from_secs(24 * 60 * 60);

/// Calls receivers.
#[derive(Clone)]
pub(super) struct Web {
    /// For addresses of the settings.
    fixed: Client,
    /// For addresses of others: it connects to nothing private. A client of its own, for it must not use a
    /// connection that the other one has open.
    checked: Client,
    targets: Targets,
    timeout: Duration,
}

/// Who has chosen the host that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChosenBy {
    /// It stands in the settings: the operator.
    Settings,
    /// A recipient's address, a document, what a template inserts.
    Others,
}

/// What a receiver replied.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// How long it wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// At most 64 KiB of it, and less where it was slow.
    pub(super) body: Vec<u8>,
}

impl Web {
    /// It follows no redirect and trusts the usual certificates, and those of the file.
    pub(super) fn new(
        timeout_seconds: u64,
        root_certificates: Option<&Path>,
        allow_private: Vec<AllowedTarget>,
    ) -> Result<Self, ChannelConfigError> {
        let targets = Targets::new(allow_private, target::by_system());
        Self::with_targets(timeout_seconds, root_certificates, targets)
    }

    pub(super) fn with_targets(
        timeout_seconds: u64,
        root_certificates: Option<&Path>,
        targets: Targets,
    ) -> Result<Self, ChannelConfigError> {
        if !(1..=LONGEST_TIMEOUT_SECONDS).contains(&timeout_seconds) {
            return Err(ChannelConfigError::new(
                "timeout_seconds",
                format!("it is from 1 to {LONGEST_TIMEOUT_SECONDS}"),
            ));
        }
        // A proxy of the environment would look up names for itself.
        let checked = builder(root_certificates)?
            .no_proxy()
            .dns_resolver(Arc::new(targets.clone()));
        Ok(Self {
            fixed: client(root_certificates)?,
            checked: built(checked)?,
            targets,
            timeout: Duration::from_secs(timeout_seconds),
        })
    }

    /// Begins a request to an address that [`url`] has checked.
    pub(super) fn request(
        &self,
        method: reqwest::Method,
        url: Url,
        chosen: ChosenBy,
    ) -> Result<RequestBuilder, SendError> {
        match chosen {
            ChosenBy::Settings => Ok(self.fixed.request(method, url)),
            ChosenBy::Others => {
                self.targets.check(&url).map_err(|_| private_target())?;
                Ok(self.checked.request(method, url))
            }
        }
    }

    /// Sends a request and waits for the reply, whatever its status.
    pub(super) async fn call(&self, request: RequestBuilder) -> Result<Reply, SendError> {
        let response = match tokio::time::timeout(self.timeout, request.send()).await {
            Err(_) => return Err(SendError::temporary(class("timeout"))),
            Ok(Err(error)) if error.is_builder() => {
                return Err(SendError::permanent(class("request")));
            }
            Ok(Err(error)) if Refused::is_cause_of(&error) => return Err(private_target()),
            Ok(Err(error)) => return Err(SendError::temporary(class(class_of(&error)))),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let body = body(response).await;
        Ok(Reply {
            status,
            retry_after,
            body,
        })
    }
}

/// A client as the built-in channels over HTTP have it: TLS with the usual certificates and those of a file
/// in PEM form, no redirect followed, nothing repeated. It sets no time-out.
///
/// # Errors
///
/// [`ChannelConfigError`] of `root_certificates` if the file cannot be used.
pub fn client(root_certificates: Option<&Path>) -> Result<Client, ChannelConfigError> {
    built(builder(root_certificates)?)
}

fn builder(root_certificates: Option<&Path>) -> Result<ClientBuilder, ChannelConfigError> {
    Ok(Client::builder()
        .tls_backend_preconfigured(tls(root_certificates)?)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .user_agent(concat!("Chimeway/", env!("CARGO_PKG_VERSION"))))
}

fn built(builder: ClientBuilder) -> Result<Client, ChannelConfigError> {
    let client = builder.build();
    client.map_err(|error| ChannelConfigError::new("adapter", error.to_string()))
}

/// It will be private for as long as the settings are what they are.
fn private_target() -> SendError {
    SendError::permanent(class("private_target"))
}

/// An address of the web, or what is wrong with it.
pub(super) fn url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "it is not a URL such as https://example.com/path")?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err("it begins with neither https:// nor http://");
    }
    Ok(url)
}

/// Whether a header is about the connection or the framing of a request: nobody but the client says that, or a
/// body could be taken for another request.
pub(super) fn is_of_connection(name: &str) -> bool {
    const OURS: [&str; 11] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    OURS.iter()
        .any(|ours| name.trim().eq_ignore_ascii_case(ours))
}

/// A failure of which the attempt keeps this word.
pub(super) fn class(class: &str) -> Answered {
    Answered(json!({ "class": class }))
}

/// A failure of which the attempt keeps the status.
pub(super) fn refused(status: StatusCode) -> Answered {
    Answered(kept(status))
}

/// What an attempt keeps of a reply.
pub(super) fn kept(status: StatusCode) -> Value {
    json!({ "status": status.as_u16() })
}

fn tls(root_certificates: Option<&Path>) -> Result<ClientConfig, ChannelConfigError> {
    let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = root_certificates {
        let bad = |problem: String| {
            let file = path.display();
            ChannelConfigError::new("root_certificates", format!("{file}: {problem}"))
        };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| bad(error.to_string()))?;
        if certificates.is_empty() {
            return Err(bad("it holds no certificate in PEM form".to_owned()));
        }
        for certificate in certificates {
            roots
                .add(certificate)
                .map_err(|error| bad(error.to_string()))?;
        }
    }
    let provider = rustls::crypto::ring::default_provider();
    Ok(ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| ChannelConfigError::new("adapter", error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Why there was no reply: a word for operators. The error's own text may quote the address.
fn class_of(error: &reqwest::Error) -> &'static str {
    use rustls::Error::InvalidCertificate;
    match tls_error(error) {
        Some(InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "tls_name_mismatch",
        Some(InvalidCertificate(CertificateError::UnknownIssuer)) => "tls_unknown_issuer",
        Some(_) => "tls",
        None if error.is_connect() => "unreachable",
        None => "connection_lost",
    }
}

/// What TLS says, if it is the cause: an error of input and output has its cause inside.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    match error.downcast_ref::<std::io::Error>() {
        Some(error) => tls_error(error.get_ref()?),
        None => tls_error(error.source()?),
    }
}

/// Up to 64 KiB of the body. What is left of it closes the connection rather than being read.
async fn body(mut response: Response) -> Vec<u8> {
    let mut body = vec![];
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = BODY_LIMIT - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if body.len() == BODY_LIMIT {
                break;
            }
        }
    };
    // Slow or broken off: the status has been told.
    let _ = tokio::time::timeout(BODY_TIME, reading).await;
    body
}

/// `Retry-After` in both of its forms: seconds, and a date, which is compared with the receiver's own
/// clock where it told it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wish = if let Ok(seconds) = text.parse() {
        Duration::from_secs(seconds)
    } else {
        let until = httpdate::parse_http_date(text).ok()?;
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let now = date.and_then(|date| httpdate::parse_http_date(date).ok());
        until.duration_since(now.unwrap_or_else(wall_clock)).ok()?
    };
    Some(wish.min(LONGEST_WISH))
}

#[expect(
    clippy::disallowed_methods,
    reason = "receivers compare with their wall clocks, and the database is not at hand"
)]
pub(super) fn wall_clock() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_heard_in_both_forms_and_is_bounded() {
        let wish = |retry_after: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
            if let Some(date) = date {
                headers.insert(DATE, date.parse().unwrap());
            }
            super::retry_after(&headers).map(|wish| wish.as_secs())
        };
        let noon = Some("Sun, 06 Nov 1994 12:00:00 GMT");
        for (text, date, expected) in [
            ("120", None, Some(120)),
            ("0", None, Some(0)),
            ("99999999999", None, Some(86_400)),
            ("Sun, 06 Nov 1994 12:01:30 GMT", noon, Some(90)),
            ("Sunday, 06-Nov-94 12:01:30 GMT", noon, Some(90)),
            ("Sun, 06 Nov 1994 11:00:00 GMT", noon, None),
            ("Sun, 06 Nov 1994 11:00:00 GMT", None, None),
            ("soon", None, None),
            ("-5", None, None),
        ] {
            assert_eq!(wish(text, date), expected, "{text}");
        }
    }

    #[test]
    fn an_address_is_one_of_the_web() {
        assert!(url("https://example.com/a?b=c").is_ok());
        for text in [
            "example.com",
            "ftp://example.com",
            "file:///etc/passwd",
            "",
            "https://",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
    }
}
