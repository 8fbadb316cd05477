//! A message as a mail: its headers, and its parts.

use lettre::{
    Address,
    message::{
        Mailbox, MessageBuilder, MultiPart, SinglePart,
        header::{HeaderName, HeaderValue},
    },
};

use super::fault::Fault;
use crate::channels::Message;

/// The longest address that mail knows (RFC 5321), in bytes.
const LONGEST_ADDRESS: usize = 254;
/// The longest unsubscribe URL: a header's line holds 998 bytes.
const LONGEST_URL: usize = 900;

/// What every mail has in common.
#[derive(Debug)]
pub(super) struct Letterhead {
    pub(super) from: Mailbox,
    pub(super) reply_to: Option<Mailbox>,
    /// What follows the `@` in a Message-ID.
    pub(super) domain: String,
    pub(super) unsubscribe: Option<Unsubscribe>,
}

/// Where a recipient goes who wants no more mail.
#[derive(Debug)]
pub(super) struct Unsubscribe {
    /// With `{recipient}` and `{tenant}` to be filled in.
    pub(super) url: String,
    /// Whether a mail program may post there at one click (RFC 8058).
    pub(super) one_click: bool,
}

/// A mail that is ready to be sent.
pub(super) struct Mail {
    pub(super) from: Address,
    pub(super) to: Address,
    pub(super) message_id: String,
    pub(super) bytes: Vec<u8>,
}

/// Makes the mail.
pub(super) fn mail(letterhead: &Letterhead, message: &Message) -> Result<Mail, Fault> {
    let to = address(message.address.as_deref().unwrap_or_default())?;
    let content = message.content.as_ref();
    let content = content.ok_or(const { Fault::of_mail("no_content") })?;
    let subject = one_line(content.subject.as_deref().unwrap_or_default());
    if subject.is_empty() {
        return Err(Fault::of_mail("no_subject"));
    }
    // The same for each try.
    let message_id = format!("<{}@{}>", message.token(), letterhead.domain);
    let mut builder = lettre::Message::builder()
        .from(letterhead.from.clone())
        .to(Mailbox::new(None, to.clone()))
        .subject(subject)
        .message_id(Some(message_id.clone()))
        // No out-of-office reply is wanted (RFC 3834).
        .raw_header(raw("Auto-Submitted", "auto-generated".to_owned()));
    if let Some(reply_to) = &letterhead.reply_to {
        builder = builder.reply_to(reply_to.clone());
    }
    if let Some(unsubscribe) = &letterhead.unsubscribe {
        builder = unsubscribe.headers(builder, message);
    }
    let is_there = |text: &&String| !text.trim().is_empty();
    let plain = content.text.as_ref().filter(is_there).cloned();
    let html = content.html.as_ref().filter(is_there).cloned();
    let built = match (plain, html) {
        (Some(plain), Some(html)) => {
            builder.multipart(MultiPart::alternative_plain_html(plain, html))
        }
        (Some(plain), None) => builder.singlepart(SinglePart::plain(plain)),
        (None, Some(html)) => builder.singlepart(SinglePart::html(html)),
        (None, None) => return Err(Fault::of_mail("no_body")),
    };
    let built = built.map_err(|_| Fault::of_mail("not_a_mail"))?;
    Ok(Mail {
        from: letterhead.from.email.clone(),
        to,
        message_id,
        bytes: built.formatted(),
    })
}

impl Mail {
    /// Whether everything in it, and its envelope, is ASCII.
    pub(super) fn is_ascii(&self) -> bool {
        let addresses: [&str; 2] = [self.from.as_ref(), self.to.as_ref()];
        self.bytes.is_ascii() && addresses.iter().all(|address| address.is_ascii())
    }
}

/// A bare address. One with a line break in it would be read as commands or headers.
fn address(text: &str) -> Result<Address, Fault> {
    let invalid = Fault::of_mail("invalid_address");
    if text.len() > LONGEST_ADDRESS || text.chars().any(char::is_control) {
        return Err(invalid);
    }
    text.parse().map_err(|_| invalid)
}

/// A template's file ends with a line break, and a value in it may hold one: a subject has none.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text
        .split(|character: char| character.is_whitespace() || character.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

impl Unsubscribe {
    fn headers(&self, builder: MessageBuilder, message: &Message) -> MessageBuilder {
        let recipient = message.recipient.as_ref().map_or("", AsRef::as_ref);
        let url = self
            .url
            .replace("{recipient}", &encoded(recipient))
            .replace("{tenant}", &encoded(message.tenant.as_str()));
        if url.len() > LONGEST_URL {
            return builder;
        }
        let builder = builder.raw_header(raw("List-Unsubscribe", format!("<{url}>")));
        if !self.one_click {
            return builder;
        }
        let click = "List-Unsubscribe=One-Click".to_owned();
        builder.raw_header(raw("List-Unsubscribe-Post", click))
    }
}

/// A header of ASCII without line breaks: it goes out as it is.
fn raw(name: &'static str, value: String) -> HeaderValue {
    let name = HeaderName::new_from_ascii_str(name);
    HeaderValue::dangerous_new_pre_encoded(name, value.clone(), value)
}

/// As a part of a URL (RFC 3986).
fn encoded(text: &str) -> String {
    use std::fmt::Write as _;

    let mut url = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a text does not fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_bare_address() {
        assert!(address("ada@example.com").is_ok());
        assert!(address("ada.l+news@mail.example.co.uk").is_ok());
        for text in [
            "",
            "ada",
            "ada@",
            "@example.com",
            "ada@example.com\r\nRCPT TO:<eve@example.com>",
            "ada@example.com\nBcc: eve@example.com",
            "ada\r\n@example.com",
            "\"a\r\nb\"@example.com",
            "ada@example.com, eve@example.com",
            "Ada <ada@example.com>",
            "ada@exa\0mple.com",
            "ada @example.com",
        ] {
            assert!(address(text).is_err(), "{text:?}");
        }
        assert!(address(&format!("{}@example.com", "a".repeat(300))).is_err());
    }

    #[test]
    fn a_subject_is_one_line() {
        assert_eq!(
            one_line("You were\r\nBcc: eve \0 mentioned\n"),
            "You were Bcc: eve mentioned"
        );
        assert_eq!(one_line("\n"), "");
    }

    #[test]
    fn what_goes_into_a_url_is_encoded() {
        assert_eq!(encoded("a b/ü>&~"), "a%20b%2F%C3%BC%3E%26~");
    }
}
