//! How sending a mail fails, told by when the server said what.

use std::{error::Error, io};

use lettre::transport::smtp::{self, response::Response};
use rustls::CertificateError;
use serde_json::json;

use crate::channels::{Answered, SendError};

/// How far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Until the server has greeted us, over TLS where that is asked for.
    Connect,
    Authenticate,
    Sender,
    Recipient,
    Data,
    /// The message was handed over whole.
    Message,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Temporary,
    Permanent,
    Bounced,
}

/// Why a mail was not taken. It holds none of the server's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) class: &'static str,
    pub(super) code: Option<u16>,
    pub(super) enhanced: Option<String>,
    kind: Kind,
    /// Whether it says something about the server rather than about this mail.
    of_server: bool,
}

impl Fault {
    /// Something that an operator or time can mend.
    pub(super) const fn of_server(class: &'static str) -> Self {
        Self {
            class,
            code: None,
            enhanced: None,
            kind: Kind::Temporary,
            of_server: true,
        }
    }

    pub(super) const fn timed_out() -> Self {
        Self::of_server("timeout")
    }

    /// A mail that can never be sent.
    pub(super) const fn of_mail(class: &'static str) -> Self {
        Self {
            class,
            code: None,
            enhanced: None,
            kind: Kind::Permanent,
            of_server: false,
        }
    }

    pub(super) const fn is_the_servers(&self) -> bool {
        self.of_server
    }

    /// Whether the server answered, and stays on the line: another mail can be sent over it.
    pub(super) fn leaves_the_line_open(&self) -> bool {
        self.code.is_some_and(|code| code != 421)
    }

    pub(super) fn new(phase: Phase, error: &smtp::Error) -> Self {
        if let Some(code) = error.status() {
            let words = error.source().map(ToString::to_string);
            let enhanced = enhanced(code.into(), words.as_deref().unwrap_or_default());
            return Self::refused(phase, code.into(), enhanced);
        }
        if let Some(class) = tls_class(error) {
            return Self::of_server(class);
        }
        let class = if error.is_timeout() {
            "timeout"
        } else if error.is_response() {
            "not_smtp"
        } else if error.is_client() && phase == Phase::Connect {
            "starttls_not_offered"
        } else if error.is_client() && phase == Phase::Authenticate {
            "authentication_not_offered"
        } else if phase == Phase::Connect {
            "unreachable"
        } else {
            "connection_lost"
        };
        Self::of_server(class)
    }

    /// The server's answer is no.
    fn refused(phase: Phase, code: u16, enhanced: Option<String>) -> Self {
        let status = enhanced.as_deref();
        let (class, kind) = match phase {
            _ if code == 421 => ("service_not_available", Kind::Temporary),
            Phase::Connect => ("service_not_available", Kind::Temporary),
            Phase::Authenticate => ("authentication_refused", Kind::Temporary),
            // Credentials are missing or too weak: nothing is wrong with the mail.
            _ if matches!(code, 530 | 534 | 535 | 538) => {
                ("authentication_required", Kind::Temporary)
            }
            _ if code < 500 => ("deferred", Kind::Temporary),
            Phase::Sender => ("sender_refused", Kind::Permanent),
            Phase::Recipient if is_dead_mailbox(code, status) => {
                ("mailbox_unavailable", Kind::Bounced)
            }
            Phase::Recipient => ("recipient_refused", Kind::Permanent),
            // After the message, a bare 550 is about what it says more often than about the mailbox.
            Phase::Data | Phase::Message if names_dead_mailbox(status) => {
                ("mailbox_unavailable", Kind::Bounced)
            }
            Phase::Data | Phase::Message => ("message_refused", Kind::Permanent),
        };
        let of_server = kind == Kind::Temporary && class != "deferred";
        Self {
            class,
            code: Some(code),
            enhanced,
            kind,
            of_server,
        }
    }
}

impl From<Fault> for SendError {
    fn from(fault: Fault) -> Self {
        let mut answer = json!({ "class": fault.class });
        if let Some(code) = fault.code {
            answer["code"] = code.into();
        }
        if let Some(enhanced) = fault.enhanced {
            answer["enhanced"] = enhanced.into();
        }
        let source = Answered(answer);
        match fault.kind {
            Kind::Temporary => Self::temporary(source),
            Kind::Permanent => Self::permanent(source),
            Kind::Bounced => Self::bounced(source),
        }
    }
}

/// What to look at, for the log.
pub(super) fn in_words(class: &str) -> &'static str {
    match class {
        "unreachable" => "there is no connection to the server (`host`, `port`)",
        "timeout" => "the server does not answer in time",
        "connection_lost" => "the server closes the connection",
        "not_smtp" => "what answers there does not speak SMTP as expected (`port`, `security`)",
        "starttls_not_offered" => "the server does not offer STARTTLS (`security`)",
        "tls_name_mismatch" => "the server's certificate is for another name (`host`)",
        "tls_unknown_issuer" => {
            "nobody known has signed the server's certificate (`root_certificates`)"
        }
        "tls_expired" => "the server's certificate is not valid at this time",
        "tls" => "no TLS connection could be made (`port`, `security`)",
        "authentication_refused" => "the server refuses `username` and `password`",
        "authentication_required" => "the server asks for another authentication",
        "authentication_not_offered" => "the server offers neither PLAIN nor LOGIN",
        _ => "the server refuses to serve",
    }
}

/// `5.1.1` at the beginning of `5.1.1 no such user`.
fn enhanced(code: u16, words: &str) -> Option<String> {
    let status = words.split_whitespace().next()?;
    let mut numbers = status.split('.');
    let class = numbers.next()?;
    let rest: Vec<&str> = numbers.collect();
    let is_number = |text: &&str| {
        (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    (class == (code / 100).to_string() && rest.len() == 2 && rest.iter().all(is_number))
        .then(|| status.to_owned())
}

/// The codes of a positive answer.
pub(super) fn codes(response: &Response) -> (u16, Option<String>) {
    let code = u16::from(response.code());
    let enhanced = response.first_word().and_then(|word| enhanced(code, word));
    (code, enhanced)
}

/// An enhanced status decides, where there is one that says more than "other": `550 5.7.1` is a rule of
/// the server's, not a mailbox that is gone.
fn is_dead_mailbox(code: u16, enhanced: Option<&str>) -> bool {
    match enhanced {
        Some(status) if !status.starts_with("5.0.") => names_dead_mailbox(enhanced),
        _ => matches!(code, 550 | 551 | 553),
    }
}

fn names_dead_mailbox(enhanced: Option<&str>) -> bool {
    // 5.1.7 and 5.1.8 are about the sender's address; 5.2.1 is a mailbox that is closed.
    enhanced.is_some_and(|status| {
        status == "5.2.1" || status.starts_with("5.1.") && status != "5.1.7" && status != "5.1.8"
    })
}

fn tls_class(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = || {
            let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
            inner.downcast_ref::<rustls::Error>()
        };
        if let Some(error) = error.downcast_ref::<rustls::Error>().or_else(inner) {
            return Some(match error {
                rustls::Error::InvalidCertificate(certificate) => match certificate {
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. } => "tls_name_mismatch",
                    // Or by somebody of the same name with another key.
                    CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                        "tls_unknown_issuer"
                    }
                    CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. } => "tls_expired",
                    _ => "tls",
                },
                _ => "tls",
            });
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(phase: Phase, code: u16, status: Option<&str>) -> (&'static str, Kind) {
        let fault = Fault::refused(phase, code, status.map(Into::into));
        (fault.class, fault.kind)
    }

    #[test]
    fn the_codes_and_the_phase_decide_what_a_refusal_means() {
        let bounced = ("mailbox_unavailable", Kind::Bounced);
        for (phase, code, status, expected) in [
            (Phase::Recipient, 550, Some("5.1.1"), bounced),
            (Phase::Recipient, 550, None, bounced),
            (Phase::Recipient, 551, None, bounced),
            (Phase::Recipient, 553, None, bounced),
            (Phase::Recipient, 550, Some("5.0.0"), bounced),
            (Phase::Recipient, 550, Some("5.2.1"), bounced),
            (Phase::Message, 550, Some("5.1.1"), bounced),
            (
                Phase::Recipient,
                550,
                Some("5.7.1"),
                ("recipient_refused", Kind::Permanent),
            ),
            (
                Phase::Recipient,
                552,
                Some("5.2.2"),
                ("recipient_refused", Kind::Permanent),
            ),
            (
                Phase::Sender,
                553,
                Some("5.1.8"),
                ("sender_refused", Kind::Permanent),
            ),
            (
                Phase::Message,
                550,
                None,
                ("message_refused", Kind::Permanent),
            ),
            (
                Phase::Recipient,
                451,
                Some("4.7.1"),
                ("deferred", Kind::Temporary),
            ),
            (
                Phase::Recipient,
                421,
                None,
                ("service_not_available", Kind::Temporary),
            ),
            (
                Phase::Connect,
                554,
                None,
                ("service_not_available", Kind::Temporary),
            ),
            (
                Phase::Authenticate,
                535,
                Some("5.7.8"),
                ("authentication_refused", Kind::Temporary),
            ),
            (
                Phase::Sender,
                530,
                None,
                ("authentication_required", Kind::Temporary),
            ),
        ] {
            assert_eq!(
                refused(phase, code, status),
                expected,
                "{phase:?} {code} {status:?}"
            );
        }
    }

    #[test]
    fn an_enhanced_status_is_three_numbers_of_the_same_class() {
        assert_eq!(
            enhanced(550, "5.1.1 no such user").as_deref(),
            Some("5.1.1")
        );
        assert_eq!(enhanced(250, "2.0.0").as_deref(), Some("2.0.0"));
        for words in ["", "4.1.1 x", "5.1", "5.1.1.1", "5.x.1", "ada@example.com"] {
            assert_eq!(enhanced(550, words), None, "{words}");
        }
    }
}
