//! The call of another system that a `webhook` action describes, its templates filled in.

use minijinja::Environment;
use serde_json::{Value, json};

use super::{SendError, render, request};
use crate::definition::Webhook;

/// A request to another system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Where to.
    pub url: String,
    /// `POST`, `PUT`, `PATCH`, `DELETE` or `GET`.
    pub method: String,
    /// What goes with it, besides what signs it.
    pub headers: Vec<(String, String)>,
    /// The body, as JSON; a `GET` has none.
    pub body: Option<Value>,
}

impl Call {
    /// Fills in the templates of a webhook: they see `context` and `params`, and what is missing there is
    /// a mistake. Values are percent-encoded in the URL. Without a body of its own it sends the context.
    ///
    /// # Errors
    ///
    /// A permanent failure that names the place and the expression, never a value.
    pub fn fill(webhook: &Webhook, context: &Value, params: &Value) -> Result<Self, SendError> {
        let mut environment = request::environment();
        request::add(&mut environment, "url", &webhook.url)?;
        for (name, template) in &webhook.headers {
            request::add(&mut environment, &format!("headers.{name}"), template)?;
        }
        if let Some(body) = &webhook.body {
            request::each_text("body", body, &mut |name: &str, template: &str| {
                request::add(&mut environment, name, template)
            })?;
        }
        let scope = json!({ "context": context, "params": params });
        let scope = minijinja::Value::from(minijinja::value::Serde(scope));
        let render = |name: &str| filled(&environment, name, &scope);
        let headers = webhook.headers.keys();
        let headers = headers.map(|name| Ok((name.clone(), render(&format!("headers.{name}"))?)));
        let body = match &webhook.body {
            _ if webhook.method == "GET" => None,
            Some(body) => Some(request::filled("body", body, &render)?),
            None => Some(context.clone()),
        };
        Ok(Self {
            url: render("url")?,
            method: webhook.method.clone(),
            headers: headers.collect::<Result<_, SendError>>()?,
            body,
        })
    }
}

fn filled(
    environment: &Environment<'static>,
    name: &str,
    scope: &minijinja::Value,
) -> Result<String, SendError> {
    environment
        .get_template(name)
        .and_then(|template| render::limited(&template, scope))
        .map_err(|error| SendError::permanent(request::failed(name, &error)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn webhook(url: &str, body: Option<Value>) -> Webhook {
        Webhook {
            url: url.to_owned(),
            method: "POST".to_owned(),
            headers: BTreeMap::from([("x-region".to_owned(), "{{ context.region }}".to_owned())]),
            body,
        }
    }

    #[test]
    fn a_call_is_made_of_the_context_and_the_params() {
        let context = json!({ "region": "eu", "id": "a/b", "total": 1500 });
        let params = json!({ "record_id": "42" });
        let body =
            json!({ "order": "{{ params.record_id }}", "lines": ["{{ context.total }}", 7] });
        let call = Call::fill(
            &webhook("https://a.example/{{ context.id }}", Some(body)),
            &context,
            &params,
        );
        let call = call.unwrap();
        assert_eq!(call.url, "https://a.example/a%2Fb");
        assert_eq!(call.headers, [("x-region".to_owned(), "eu".to_owned())]);
        assert_eq!(
            call.body,
            Some(json!({ "order": "42", "lines": ["1500", 7] }))
        );

        let plain = Call::fill(&webhook("https://a.example/", None), &context, &params).unwrap();
        assert_eq!(plain.body, Some(context));
    }

    #[test]
    fn what_grows_without_end_fails_the_call() {
        let body = json!({ "all": "{% for i in range(40000) %}{{ params.text }}{% endfor %}" });
        let params = json!({ "text": "x".repeat(100_000) });
        let webhook = webhook("https://a.example/", Some(body));
        let failed = Call::fill(&webhook, &json!({ "region": "eu" }), &params).unwrap_err();
        assert_eq!(failed.answer().unwrap()["setting"], "body.all");
    }

    #[test]
    fn what_is_missing_fails_the_call_and_is_named() {
        let call = Call::fill(
            &webhook("https://a.example/{{ context.nothing }}", None),
            &json!({}),
            &json!({}),
        );
        let answer = call.unwrap_err().answer().cloned().unwrap();
        assert_eq!(answer["setting"], "url");
        assert_eq!(answer["expression"], "context.nothing");
    }
}
