//! What a person writes down about their mail server.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use lettre::{
    message::Mailbox,
    transport::smtp::{
        SMTP_PORT, SUBMISSION_PORT, SUBMISSIONS_PORT,
        authentication::Credentials,
        client::{Certificate, TlsParameters},
        extension::ClientId,
    },
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    EmailChannel,
    compose::{Letterhead, Unsubscribe},
    dialogue::Server,
};
use crate::channels::ChannelConfigError;

const MAX_CONNECTIONS: usize = 1000;
const MAX_TIMEOUT: u64 = 600;

/// The mail server, and what every mail has in common.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailSettings {
    /// The server's name, as its certificate has it.
    pub host: String,
    /// Default: 587 with STARTTLS, 465 with TLS, 25 with neither.
    pub port: Option<u16>,
    /// How the connection is made secret. Default: `starttls`.
    #[serde(default)]
    pub security: Security,
    /// Allows `security = "none"` with a server that is not on this machine: whoever is on the way can
    /// read every mail, and the password. Default: false.
    #[serde(default)]
    pub allow_plain_text: bool,
    /// A PEM file with certificates to trust besides the well-known ones.
    pub root_certificates: Option<PathBuf>,
    /// The name to log in with (PLAIN or LOGIN). Default: no authentication.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
    /// The sender: `ops@example.com` or `Example <ops@example.com>`.
    pub from: String,
    /// Where replies go. Default: to the sender.
    pub reply_to: Option<String>,
    /// What follows the `@` in a Message-ID. Default: the sender's domain.
    pub message_id_domain: Option<String>,
    /// What this machine calls itself to the server. Default: the sender's domain.
    pub hello_name: Option<String>,
    /// The URL of the List-Unsubscribe header, in which `{recipient}` and `{tenant}` are filled in.
    /// Default: there is no such header.
    pub list_unsubscribe: Option<String>,
    /// Whether a POST to that URL unsubscribes at once (RFC 8058). Default: false.
    #[serde(default)]
    pub list_unsubscribe_one_click: bool,
    /// How long a mail may take, in seconds. Default: 15. A worker waits 20 seconds for a channel.
    #[serde(default = "fifteen")]
    pub timeout_seconds: u64,
    /// How many connections there are at most. Default: 10.
    #[serde(default = "ten")]
    pub max_connections: usize,
}

const fn fifteen() -> u64 {
    15
}

const fn ten() -> usize {
    10
}

/// How a connection to a mail server is made secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// It begins in plain text and goes on in TLS, or not at all.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Tls,
    /// Not at all: for a server on this machine.
    None,
}

impl EmailSettings {
    /// These, and a default for all else.
    #[must_use]
    pub fn new(host: impl Into<String>, from: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port: None,
            security: Security::default(),
            allow_plain_text: false,
            root_certificates: None,
            username: None,
            password: None,
            from: from.into(),
            reply_to: None,
            message_id_domain: None,
            hello_name: None,
            list_unsubscribe: None,
            list_unsubscribe_one_click: false,
            timeout_seconds: fifteen(),
            max_connections: ten(),
        }
    }

    /// Makes the channel. It connects when there is a mail to send.
    ///
    /// # Errors
    ///
    /// [`ChannelConfigError`] names the setting that does not work.
    pub fn build(self) -> Result<EmailChannel, ChannelConfigError> {
        let from = mailbox("from", &self.from)?;
        let domain = |setting, given: Option<&String>| match given {
            Some(given) => host_name(setting, given),
            // An address's domain was checked with it.
            None => Ok(from.email.domain().to_owned()),
        };
        let message_id_domain = domain("message_id_domain", self.message_id_domain.as_ref())?;
        let hello = domain("hello_name", self.hello_name.as_ref())?;
        let timeout = self.timeout()?;
        let server = Server {
            tls: self.tls()?,
            credentials: self.credentials()?,
            port: self.port.unwrap_or(match self.security {
                Security::Starttls => SUBMISSION_PORT,
                Security::Tls => SUBMISSIONS_PORT,
                Security::None => SMTP_PORT,
            }),
            security: self.security,
            hello: hello_as(&hello),
            timeout,
            connections: Semaphore::new(self.connections()?),
            idle: Mutex::default(),
            host: self.host.clone(),
        };
        let reply_to = self.reply_to.as_deref();
        let reply_to = reply_to.map(|text| mailbox("reply_to", text)).transpose()?;
        Ok(EmailChannel {
            letterhead: Letterhead {
                reply_to,
                domain: message_id_domain,
                unsubscribe: self.unsubscribe()?,
                from,
            },
            server,
            timeout,
            trouble: Mutex::default(),
        })
    }

    fn timeout(&self) -> Result<Duration, ChannelConfigError> {
        match self.timeout_seconds {
            seconds @ 1..=MAX_TIMEOUT => Ok(Duration::from_secs(seconds)),
            _ => Err(bad("timeout_seconds", "it must be between 1 and 600")),
        }
    }

    fn connections(&self) -> Result<usize, ChannelConfigError> {
        match self.max_connections {
            number @ 1..=MAX_CONNECTIONS => Ok(number),
            _ => Err(bad("max_connections", "it must be between 1 and 1000")),
        }
    }

    fn tls(&self) -> Result<Option<TlsParameters>, ChannelConfigError> {
        let host = host_name("host", &self.host)?;
        if self.security == Security::None {
            return if self.allow_plain_text || is_loopback(&host) {
                Ok(None)
            } else {
                Err(bad(
                    "security",
                    "`none` is for a server on this machine; anywhere else it takes \
                     `allow_plain_text = true`",
                ))
            };
        }
        let mut parameters = TlsParameters::builder(host);
        if let Some(path) = &self.root_certificates {
            parameters = parameters.add_root_certificate(certificates(path)?);
        }
        let unusable = |_| bad("root_certificates", "a certificate in it is not usable");
        parameters.build().map(Some).map_err(unusable)
    }

    fn credentials(&self) -> Result<Option<Credentials>, ChannelConfigError> {
        match (&self.username, &self.password) {
            (Some(name), Some(password)) => Ok(Some(Credentials::new(
                name.clone(),
                password.expose_secret().to_owned(),
            ))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(bad("password", "there is a `username` without it")),
            (None, Some(_)) => Err(bad("username", "there is a `password` without it")),
        }
    }

    fn unsubscribe(&self) -> Result<Option<Unsubscribe>, ChannelConfigError> {
        let one_click = self.list_unsubscribe_one_click;
        let Some(url) = &self.list_unsubscribe else {
            return if one_click {
                let problem = "there is no `list_unsubscribe`";
                Err(bad("list_unsubscribe_one_click", problem))
            } else {
                Ok(None)
            };
        };
        let is_web = url.starts_with("https://");
        if !is_web && !url.starts_with("mailto:") {
            return Err(bad(
                "list_unsubscribe",
                "it must begin with https:// or mailto:",
            ));
        }
        if one_click && !is_web {
            return Err(bad(
                "list_unsubscribe_one_click",
                "it takes an https:// URL",
            ));
        }
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"<>,".contains(&byte);
        if url.len() > 500 || !url.bytes().all(is_plain) {
            return Err(bad(
                "list_unsubscribe",
                "it must be a URL of at most 500 characters",
            ));
        }
        Ok(Some(Unsubscribe {
            url: url.clone(),
            one_click,
        }))
    }
}

fn bad(setting: &str, problem: &str) -> ChannelConfigError {
    ChannelConfigError::new(setting, problem)
}

fn mailbox(setting: &str, text: &str) -> Result<Mailbox, ChannelConfigError> {
    let problem = "it must be an address such as ops@example.com or Example <ops@example.com>";
    if text.chars().any(char::is_control) {
        return Err(bad(setting, problem));
    }
    text.trim().parse().map_err(|_| bad(setting, problem))
}

/// A name or an IP address, without a port or anything else around it.
fn host_name(setting: &str, text: &str) -> Result<String, ChannelConfigError> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = !text.is_empty() && text.len() <= 253 && text.bytes().all(is_part);
    if is_name || text.parse::<IpAddr>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err(bad(setting, "it must be a bare host name or IP address"))
    }
}

fn is_loopback(host: &str) -> bool {
    let is_loopback = |address: IpAddr| address.is_loopback();
    host == "localhost" || host.parse().is_ok_and(is_loopback)
}

fn hello_as(name: &str) -> ClientId {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    match bare.parse() {
        Ok(IpAddr::V4(address)) => ClientId::Ipv4(address),
        Ok(IpAddr::V6(address)) => ClientId::Ipv6(address),
        Err(_) => ClientId::Domain(name.to_owned()),
    }
}

fn certificates(path: &Path) -> Result<Certificate, ChannelConfigError> {
    let setting = "root_certificates";
    let pem = std::fs::read(path).map_err(|error| {
        bad(
            setting,
            &format!("{} cannot be read: {error}", path.display()),
        )
    })?;
    if !pem.windows(11).any(|bytes| bytes == b"-----BEGIN ") {
        return Err(bad(setting, &format!("{} holds no PEM", path.display())));
    }
    let unreadable = |_| bad(setting, &format!("{} is not valid PEM", path.display()));
    Certificate::from_pem(&pem).map_err(unreadable)
}

impl fmt::Debug for EmailSettings {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmailSettings")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("security", &self.security)
            .field("username", &self.username)
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut EmailSettings)) -> String {
        let mut settings = EmailSettings::new("mail.example.com", "Ops <ops@example.com>");
        change(&mut settings);
        settings.build().unwrap_err().to_string()
    }

    #[test]
    fn a_mistake_names_its_setting() {
        type Change = fn(&mut EmailSettings);
        let bad: [(&str, Change); 12] = [
            ("host", |it| it.host = "mail.example.com:25".into()),
            ("host", |it| it.host = String::new()),
            ("from", |it| it.from = "nobody".into()),
            ("from", |it| {
                it.from = "a@example.com\r\nBcc: b@example.com".into();
            }),
            ("reply_to", |it| it.reply_to = Some("nobody".into())),
            ("security", |it| it.security = Security::None),
            ("password", |it| it.username = Some("ops".into())),
            ("timeout_seconds", |it| it.timeout_seconds = 0),
            ("max_connections", |it| it.max_connections = 0),
            ("root_certificates", |it| {
                it.root_certificates = Some("/nowhere.pem".into());
            }),
            ("list_unsubscribe", |it| {
                it.list_unsubscribe = Some("http://example.com".into());
            }),
            ("list_unsubscribe_one_click", |it| {
                it.list_unsubscribe_one_click = true;
            }),
        ];
        for (setting, change) in bad {
            let problem = problem(change);
            assert!(problem.starts_with(&format!("`{setting}`")), "{problem}");
        }
    }

    #[test]
    fn plain_text_is_for_this_machine_unless_it_is_asked_for() {
        for (host, allow_plain_text) in [("127.0.0.1", false), ("localhost", false), ("mail", true)]
        {
            let mut settings = EmailSettings::new(host, "ops@example.com");
            settings.security = Security::None;
            settings.allow_plain_text = allow_plain_text;
            assert!(settings.build().is_ok(), "{host}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let mut settings = EmailSettings::new("mail.example.com", "ops@example.com");
        settings.username = Some("ops".into());
        settings.password = Some("a secret".into());
        assert!(!format!("{settings:?}").contains("a secret"));
        let channel = settings.build().unwrap();
        assert!(!format!("{channel:?}").contains("a secret"));
    }
}
