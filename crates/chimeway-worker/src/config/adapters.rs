//! The settings of each adapter, as the example file explains them.

/// A key of `[channels.NAME]`: its name, its value as it may stand in the file, and what it means.
type Setting = (&'static str, &'static str, &'static str);

/// A channel of the example file.
pub(super) struct Example {
    pub(super) channel: &'static str,
    pub(super) adapter: &'static str,
    pub(super) about: &'static str,
    pub(super) settings: &'static [Setting],
}

pub(super) const EXAMPLES: [Example; 4] = [
    Example {
        channel: "email",
        adapter: "smtp",
        about: "Mail, made of the templates of each render key.",
        settings: &[
            ("host", r#""smtp.example.com""#, "as its certificate has it"),
            (
                "port",
                "587",
                "default: 587 with starttls, 465 with tls, 25 with none",
            ),
            ("security", r#""starttls""#, "or tls, or none"),
            (
                "allow_plain_text",
                "false",
                "security = \"none\" with a server that is not here",
            ),
            (
                "root_certificates",
                r#""/etc/ca.pem""#,
                "to trust besides the usual ones",
            ),
            (
                "username",
                r#""env:SMTP_USERNAME""#,
                "default: no authentication",
            ),
            ("password", r#""env:SMTP_PASSWORD""#, ""),
            ("from", r#""Example <hello@example.com>""#, ""),
            (
                "reply_to",
                r#""support@example.com""#,
                "default: the sender",
            ),
            (
                "message_id_domain",
                r#""example.com""#,
                "default: the sender's",
            ),
            (
                "hello_name",
                r#""app.example.com""#,
                "what we call ourselves; default: the sender's domain",
            ),
            (
                "list_unsubscribe",
                r#""https://example.com/off/{recipient}""#,
                "default: none",
            ),
            (
                "list_unsubscribe_one_click",
                "false",
                "whether a POST to it is enough",
            ),
            ("timeout_seconds", "15", "for a whole mail"),
            ("max_connections", "10", ""),
        ],
    },
    Example {
        channel: "webhook",
        adapter: "webhook",
        about: "Signed JSON by POST, as Standard Webhooks has it.",
        settings: &[
            (
                "url",
                r#""https://example.com/hook""#,
                "default: the recipient's address",
            ),
            (
                "secret",
                r#""env:WEBHOOK_SECRET""#,
                "whsec_ and 24 to 64 bytes in base64",
            ),
            (
                "previous_secret",
                r#""env:WEBHOOK_OLD_SECRET""#,
                "while receivers change over",
            ),
            ("timeout_seconds", "10", "at most 15"),
            (
                "root_certificates",
                r#""/etc/ca.pem""#,
                "to trust besides the usual ones",
            ),
            (
                "allow_private",
                r#"["10.1.0.0/16", "hooks.internal"]"#,
                "where an address is the recipient's or a document's",
            ),
        ],
    },
    Example {
        channel: "chat",
        adapter: "http",
        about: "\
Any provider's HTTP API. Texts of url, headers, json, form and body are templates.
The body is one of json, form and body.",
        settings: &[
            ("url", r#""env:CHAT_URL""#, ""),
            ("method", r#""POST""#, ""),
            ("headers", r#"{ x-app = "example" }"#, ""),
            (
                "json",
                r#"{ text = "{{ params.text }}" }"#,
                "values are encoded for JSON",
            ),
            (
                "form",
                r#"{ text = "{{ params.text }}" }"#,
                "values are encoded for forms",
            ),
            ("body", r#""{{ params | tojson }}""#, "all else"),
            ("content_type", r#""application/json""#, "of `body`"),
            ("bearer", r#""env:CHAT_TOKEN""#, ""),
            (
                "basic",
                r#"{ username = "env:CHAT_USER", password = "env:CHAT_PASSWORD" }"#,
                "",
            ),
            (
                "idempotency_header",
                r#""idempotency-key""#,
                "the same on every try",
            ),
            ("success", r#"["2xx"]"#, "the provider took it"),
            (
                "temporary",
                r#"[408, 425, 429, "5xx"]"#,
                "tried again; all else is not",
            ),
            ("bounced", "[]", "the address does not work"),
            (
                "message_id",
                r#""/id""#,
                "where the provider's id is in a JSON reply",
            ),
            (
                "error_code",
                r#""/error/code""#,
                "where its code for a failure is",
            ),
            (
                "needs_address",
                "true",
                "recipients without one are passed over",
            ),
            (
                "templates",
                "false",
                "whether words come from the templates of the render key",
            ),
            ("timeout_seconds", "10", "at most 15"),
            (
                "root_certificates",
                r#""/etc/ca.pem""#,
                "to trust besides the usual ones",
            ),
            (
                "allow_private",
                r#"["10.1.0.0/16", "hooks.internal"]"#,
                "where a template makes the host",
            ),
        ],
    },
    Example {
        channel: "sms",
        adapter: "log",
        about: "Until there is a provider: a line in the log for each message.",
        settings: &[],
    },
];

impl Example {
    /// As it stands in the file, without the # of each line.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let head = [
            format!("[channels.{}]", self.channel),
            format!("adapter = \"{}\"", self.adapter),
        ];
        let settings = self.settings.iter().map(|(name, value, about)| {
            let end = if about.is_empty() {
                String::new()
            } else {
                format!(" # {about}")
            };
            format!("{name} = {value}{end}")
        });
        head.into_iter().chain(settings)
    }
}

#[cfg(test)]
mod tests {
    use chimeway::channels::{email::EmailSettings, http::HttpSettings, webhook::WebhookSettings};
    use serde::de::DeserializeOwned;

    use super::*;

    /// The keys that the library reads, as its refusal of another one lists them.
    fn read<T: DeserializeOwned>() -> Vec<String> {
        let refused = toml::from_str::<T>("no_such_key = 1").err().unwrap();
        let (_, keys) = refused.message().split_once("expected one of ").unwrap();
        keys.split(", ")
            .map(|key| key.trim_matches('`').to_owned())
            .collect()
    }

    #[test]
    fn every_setting_of_every_adapter_is_explained_in_the_order_of_the_library() {
        for (adapter, keys) in [
            ("smtp", read::<EmailSettings>()),
            ("webhook", read::<WebhookSettings>()),
            ("http", read::<HttpSettings>()),
        ] {
            let example = EXAMPLES
                .iter()
                .find(|example| example.adapter == adapter)
                .unwrap();
            let explained: Vec<&str> = example.settings.iter().map(|(name, _, _)| *name).collect();
            assert_eq!(explained, keys, "{adapter}");
        }
    }
}
