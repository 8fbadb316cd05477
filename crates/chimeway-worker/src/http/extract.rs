//! What is read of a request, and refused in our own words where it cannot be: the path, the query, the body.

use std::str::FromStr;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
        request::Parts,
    },
    response::IntoResponse as _,
};
use chimeway::ids::ActorId;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::refusal::Refusal;

/// The largest body in bytes.
pub(super) const LARGEST_BODY: usize = 1024 * 1024;

/// The id in the path. What is no id names nothing: 404.
pub(super) struct Id<T>(pub(super) T);

impl<T: FromStr, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| Refusal::no_route())?;
        let id = text.parse().map_err(|_| {
            Refusal::not_found(format!(
                "`{text}` is not an id: nothing is there by that name"
            ))
        })?;
        Ok(Self(id))
    }
}

/// Whose inbox, in the path. What is no name is refused: 422.
pub(super) struct Recipient(pub(super) ActorId);

impl<S: Send + Sync> FromRequestParts<S> for Recipient {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| Refusal::no_route())?;
        match ActorId::new(text) {
            Ok(who) => Ok(Self(who)),
            Err(error) => Err(Refusal::invalid("recipient", "bad_name", error.to_string())),
        }
    }
}

/// The query. A parameter that there is not is refused too: it may be a typing mistake.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let text = parts.uri.query().unwrap_or_default();
        let pairs = serde_urlencoded::Deserializer::new(form_urlencoded(text));
        match serde_path_to_error::deserialize(pairs) {
            Ok(query) => Ok(Self(query)),
            Err(error) => Err(Refusal::invalid(
                match error.path().iter().next() {
                    Some(_) => error.path().to_string(),
                    None => String::new(),
                },
                "bad_parameter",
                error.inner().to_string(),
            )),
        }
    }
}

fn form_urlencoded(text: &str) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(text.as_bytes())
}

/// A JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        if !is(request.headers(), &["application/json"]) {
            return Err(Refusal::media_type("application/json"));
        }
        decoded(&body(request, state).await?).map(Self)
    }
}

/// A JSON body that may be left out: an empty one says nothing.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let is_json = is(request.headers(), &["application/json"]);
        let bytes = body(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json {
            return Err(Refusal::media_type("application/json"));
        }
        decoded(&bytes).map(Self)
    }
}

/// The whole body. One that says beforehand that it is too large is not waited for.
pub(super) async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Refusal> {
    let said = request.headers().get(CONTENT_LENGTH);
    let said: Option<usize> = said.and_then(|length| length.to_str().ok()?.parse().ok());
    if said.is_some_and(|length| length > LARGEST_BODY) {
        return Err(Refusal::too_large(LARGEST_BODY));
    }
    let read = Bytes::from_request(request, state).await;
    read.map_err(|rejection| match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::too_large(LARGEST_BODY),
        _ => Refusal::payload("the body could not be read to its end"),
    })
}

/// Whether the body is said to be of one of these kinds.
pub(super) fn is(headers: &HeaderMap, kinds: &[&str]) -> bool {
    let said = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map_or("", str::trim);
    kinds.iter().any(|kind| said.eq_ignore_ascii_case(kind))
}

/// Syntax first, then the shape: the one is 400, the other 422 with the place.
fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| Refusal::payload(format!("the body is not JSON: {error}")))?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        Refusal::invalid(
            pointer(error.path()),
            "bad_value",
            error.inner().to_string(),
        )
    })
}

/// As a JSON pointer.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut text = String::new();
    for segment in path.iter() {
        text.push('/');
        match segment {
            Segment::Seq { index } => text.push_str(&index.to_string()),
            Segment::Map { key } => text.push_str(&key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => text.push_str(variant),
            Segment::Unknown => text.push('?'),
        }
    }
    text
}

/// How many things a list has at most: 50 unless it is said, from 1 to 1,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub(super) struct Limit(pub(super) i64);

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<i64> for Limit {
    type Error = &'static str;

    fn try_from(limit: i64) -> Result<Self, Self::Error> {
        match limit {
            1..=1_000 => Ok(Self(limit)),
            _ => Err("a limit is a whole number from 1 to 1000"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Shape {
        #[serde(rename = "a/b")]
        _list: Vec<Limit>,
    }

    #[test]
    fn a_body_is_refused_with_the_place_of_what_is_wrong() {
        let refused = |text: &str| format!("{:?}", decoded::<Shape>(text.as_bytes()).unwrap_err());
        for (text, expected) in [
            ("{", "INVALID_PAYLOAD"),
            ("{\"a/b\": 1e999}", "INVALID_PAYLOAD"),
            ("{}", "missing field `a/b`"),
            ("{\"a/b\": [], \"c\": 1}", "unknown field `c`"),
            ("{\"a/b\": [1, 0]}", "field: \"/a~1b/1\""),
            ("[]", "VALIDATION_FAILED"),
        ] {
            let refused = refused(text);
            assert!(refused.contains(expected), "{text}: {refused}");
        }
        assert!(decoded::<Shape>(b"{\"a/b\": [1, 1000]}").is_ok());
    }

    #[test]
    fn a_kind_may_have_parameters() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, text.parse().unwrap());
            is(&headers, &["application/json"])
        };
        assert!(of("application/json") && of("Application/JSON; charset=utf-8"));
        assert!(!of("text/plain") && !of("application/jsonp"));
        assert!(!is(&HeaderMap::new(), &["application/json"]));
    }
}
