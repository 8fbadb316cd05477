//! The templates of a channel over HTTP: what makes a request of a message.

use std::fmt::Write as _;

use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::{Map, Value, json};

use super::{Answered, ChannelConfigError, Message, SendError, http::HttpSettings, render, web};

/// What rendering one template may cost: far more than a message needs.
const FUEL: u64 = 100_000;
/// The escaping of the URL's template.
const IN_URL: AutoEscape = AutoEscape::Custom(std::borrow::Cow::Borrowed("url"));
const JSON: &str = "application/json";

/// The templates of a channel, by the names of their settings.
pub(super) struct Templates {
    environment: Environment<'static>,
}

/// A request's parts.
pub(super) struct Rendered {
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    /// The media type and the body.
    pub(super) body: Option<(String, String)>,
}

impl Templates {
    /// Compiles every template of the settings.
    pub(super) fn compile(settings: &HttpSettings) -> Result<Self, ChannelConfigError> {
        let mut environment = environment();
        let mut add = |name: &str, template: &str| {
            environment
                .add_template_owned(name.to_owned(), template.to_owned())
                .map_err(|error| ChannelConfigError::new(name, mistake(&error)))
        };
        add("url", &settings.url)?;
        for (name, template) in &settings.headers {
            add(&format!("headers.{name}"), template)?;
        }
        for (name, template) in settings.form.iter().flatten() {
            add(&format!("form.{name}"), template)?;
        }
        if let Some(template) = &settings.body {
            add("body", template)?;
        }
        if let Some(json) = &settings.json {
            each_text("json", json, &mut add)?;
        }
        Ok(Self { environment })
    }

    /// Makes a message's request. A template that fails will fail again: a permanent failure.
    pub(super) fn render(
        &self,
        settings: &HttpSettings,
        message: &Message,
    ) -> Result<Rendered, SendError> {
        let context = minijinja::Value::from(minijinja::value::Serde(context(message)));
        let render = |name: &str| -> Result<String, SendError> {
            self.environment
                .get_template(name)
                .and_then(|template| render::limited(&template, &context))
                .map_err(|error| SendError::permanent(failed(name, &error)))
        };
        let headers = settings.headers.keys();
        let headers = headers.map(|name| Ok((name.clone(), render(&format!("headers.{name}"))?)));
        let body = if let Some(json) = &settings.json {
            let body = filled("json", json, &render)?;
            Some((JSON.to_owned(), body.to_string()))
        } else if let Some(form) = &settings.form {
            let fields = form.keys().map(|name| {
                let value = render(&format!("form.{name}"))?;
                Ok(format!("{}={}", encode(name), encode(&value)))
            });
            let fields: Vec<String> = fields.collect::<Result<_, SendError>>()?;
            let media_type = "application/x-www-form-urlencoded".to_owned();
            Some((media_type, fields.join("&")))
        } else if settings.body.is_some() {
            let media_type = settings.content_type.as_deref().unwrap_or(JSON);
            let body = render("body")?;
            if media_type == JSON && serde_json::from_str::<serde::de::IgnoredAny>(&body).is_err() {
                return Err(SendError::permanent(web::class("body_is_not_json")));
            }
            Some((media_type.to_owned(), body))
        } else {
            None
        };
        Ok(Rendered {
            url: render("url")?,
            headers: headers.collect::<Result<_, SendError>>()?,
            body,
        })
    }
}

/// Where templates of requests are compiled and filled in: what is missing is a mistake, and what stands
/// in a URL cannot leave its place.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|name| match name {
        "url" => IN_URL,
        _ => AutoEscape::None,
    });
    environment.set_formatter(|out, state, value| {
        if *state.auto_escape() == IN_URL && !value.is_safe() {
            return Ok(out.write_str(&encode(&value.to_string()))?);
        }
        minijinja::escape_formatter(out, state, value)
    });
    environment.add_filter("urlencode", |value: &minijinja::Value| {
        minijinja::Value::from_safe_string(encode(&value.to_string()))
    });
    environment
}

/// Compiles one more template.
pub(super) fn add(
    environment: &mut Environment<'static>,
    name: &str,
    template: &str,
) -> Result<(), SendError> {
    environment
        .add_template_owned(name.to_owned(), template.to_owned())
        .map_err(|error| SendError::permanent(failed(name, &error)))
}

/// Calls `add` for every text in the value, with its path as name.
pub(super) fn each_text<E>(
    path: &str,
    value: &Value,
    add: &mut impl FnMut(&str, &str) -> Result<(), E>,
) -> Result<(), E> {
    match value {
        Value::String(template) => add(path, template),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.try_for_each(|(place, item)| each_text(&format!("{path}.{place}"), item, add))
        }
        Value::Object(fields) => {
            let mut fields = fields.iter();
            fields.try_for_each(|(name, field)| each_text(&format!("{path}.{name}"), field, add))
        }
        _ => Ok(()),
    }
}

/// The value with every text rendered.
pub(super) fn filled(
    path: &str,
    value: &Value,
    render: &impl Fn(&str) -> Result<String, SendError>,
) -> Result<Value, SendError> {
    Ok(match value {
        Value::String(_) => Value::String(render(path)?),
        Value::Array(items) => {
            let items = items.iter().enumerate();
            let items = items.map(|(place, item)| filled(&format!("{path}.{place}"), item, render));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, field)| {
                Ok((
                    name.clone(),
                    filled(&format!("{path}.{name}"), field, render)?,
                ))
            });
            Value::Object(fields.collect::<Result<_, SendError>>()?)
        }
        other => other.clone(),
    })
}

/// What templates see. What the message does not have is left out, so that it is undefined.
fn context(message: &Message) -> Value {
    let mut context = json!({
        "delivery": message.delivery,
        "attempt": message.attempt.0,
        "token": message.token(),
        "tenant": message.tenant,
        "recipient": message.recipient,
        "run": message.run,
        "notification": message.notification,
        "workflow": message.workflow,
        "step": message.step,
        "channel": message.channel,
        "render_key": message.render_key,
        "params": message.params,
        "context": message.context,
        "address": message.address,
        "locale": message.locale,
        "time_zone": message.time_zone,
    });
    let Value::Object(fields) = &mut context else {
        return context;
    };
    fields.retain(|_, value| !value.is_null());
    if let Some(content) = &message.content {
        let forms = [
            ("subject", &content.subject),
            ("text", &content.text),
            ("html", &content.html),
        ];
        let forms: Map<String, Value> = forms
            .into_iter()
            .filter_map(|(name, form)| Some((name.to_owned(), json!(form.as_ref()?))))
            .collect();
        fields.insert("content".to_owned(), Value::Object(forms));
    }
    context
}

/// Percent-encodes all but what RFC 3986 calls unreserved: right in paths, queries and forms.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// What is wrong with a template, on one line.
fn mistake(error: &minijinja::Error) -> String {
    let line = error.line().unwrap_or(1);
    let detail = error.detail().map(ToOwned::to_owned);
    let detail = detail.unwrap_or_else(|| error.kind().to_string());
    format!("the template does not compile: line {line}: {detail}")
}

/// What an attempt keeps of a template that failed: the place and the expression, never a value.
pub(super) fn failed(setting: &str, error: &minijinja::Error) -> Answered {
    let source = error.template_source().unwrap_or_default();
    let expression = error.range().and_then(|range| source.get(range));
    Answered(json!({
        "class": "template",
        "setting": setting,
        "line": error.line(),
        "problem": error.kind().to_string(),
        "expression": expression,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_cannot_leave_its_place() {
        assert_eq!(encode("a-b_c.d~e"), "a-b_c.d~e");
        assert_eq!(
            encode("../x?y=1&z#ä +"),
            "..%2Fx%3Fy%3D1%26z%23%C3%A4%20%2B"
        );
    }
}
