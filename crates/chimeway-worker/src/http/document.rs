//! A workflow as a body: its document in JSON or YAML, and beside it whether it is active.

use axum::extract::{FromRequest, Request};
use chimeway::Document;
use serde_json::Value;

use super::{
    extract::{body, is},
    refusal::Refusal,
};

const JSON: &[&str] = &["application/json"];
const YAML: &[&str] = &["application/yaml", "application/x-yaml", "text/yaml"];

/// What the body says.
pub(super) struct Written {
    /// The document, unchecked.
    pub(super) document: Document,
    /// Its `active`, as Rocket's documents have it: no part of the definition, but the workflow's.
    pub(super) active: Option<bool>,
}

impl<S: Send + Sync> FromRequest<S> for Written {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let (json, yaml) = (is(request.headers(), JSON), is(request.headers(), YAML));
        if !json && !yaml {
            return Err(Refusal::media_type("application/json or application/yaml"));
        }
        let bytes = body(request, state).await?;
        let text =
            std::str::from_utf8(&bytes).map_err(|_| Refusal::payload("the body is not UTF-8"))?;
        let read = match json {
            true => Document::from_json("the body", text),
            false => Document::from_yaml("the body", text),
        };
        let document = read.map_err(|mistake| Refusal::payload(mistake.to_string()))?;
        Self::of(&document)
    }
}

impl Written {
    fn of(document: &Document) -> Result<Self, Refusal> {
        let mut value = document.value().clone();
        let active = match value
            .as_object_mut()
            .and_then(|fields| fields.shift_remove("active"))
        {
            None => None,
            Some(Value::Bool(active)) => Some(active),
            Some(_) => {
                return Err(Refusal::invalid(
                    "/active",
                    "wrong_type",
                    "it is true or false",
                ));
            }
        };
        Ok(Self {
            document: Document::from_value(value),
            active,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whether_it_is_active_is_no_part_of_the_definition() {
        let of = |value| Written::of(&Document::from_value(value));
        let written = of(json!({ "key": "k", "active": false, "steps": [] }))
            .ok()
            .unwrap();
        assert_eq!(written.active, Some(false));
        assert_eq!(
            written.document.value(),
            &json!({ "key": "k", "steps": [] })
        );
        assert_eq!(of(json!([])).ok().unwrap().active, None);
        assert!(of(json!({ "active": "no" })).is_err());
    }
}
