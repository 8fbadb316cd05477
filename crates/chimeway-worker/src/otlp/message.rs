//! What a collector is told: of the messages of OTLP 1.x (`opentelemetry/proto/trace/v1`), what we say.

use chimeway::flow::spans::{Span, SpanKind, SpanValue};
use chrono::{DateTime, Utc};
use prost::Message;

/// `ExportTraceServiceRequest`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

/// Who tells it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Told>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

/// `Span`
#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(int64, tag = "3")]
    Int(i64),
}

/// `ExportTraceServiceResponse`
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
}

/// As OTLP numbers them.
mod kind {
    pub(super) const INTERNAL: i32 = 1;
    pub(super) const CLIENT: i32 = 3;
    pub(super) const PRODUCER: i32 = 4;
}

/// As OTLP numbers it.
const STATUS_ERROR: i32 = 2;

const SCOPE: &str = "chimeway";
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Resource {
    /// A process of a service.
    pub(super) fn new(service: &str, process: &str) -> Self {
        let attributes = [
            ("service.name", service),
            ("service.version", VERSION),
            ("service.instance.id", process),
        ];
        let attributes = attributes.map(|(key, value)| KeyValue::new(key, value.into()));
        Self {
            attributes: attributes.into(),
        }
    }
}

impl KeyValue {
    fn new(key: &str, value: SpanValue) -> Self {
        let value = match value {
            SpanValue::Text(text) => Value::String(text),
            SpanValue::Number(number) => Value::Int(number),
        };
        Self {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
        }
    }
}

/// The bytes of a request with these spans.
pub(super) fn encode(resource: &Resource, spans: Vec<Span>) -> Vec<u8> {
    let scope_spans = ScopeSpans {
        scope: Some(Scope {
            name: SCOPE.to_owned(),
            version: VERSION.to_owned(),
        }),
        spans: spans.into_iter().map(Told::from).collect(),
    };
    let resource_spans = ResourceSpans {
        resource: Some(resource.clone()),
        scope_spans: vec![scope_spans],
    };
    let request = Request {
        resource_spans: vec![resource_spans],
    };
    request.encode_to_vec()
}

/// How many spans a collector has refused, of the answer by which it took the others.
pub(super) fn refused(answer: &[u8]) -> usize {
    let partly = Response::decode(answer).ok();
    let partly = partly.and_then(|answer| answer.partial_success);
    let refused = partly.map_or(0, |partly| partly.rejected_spans);
    usize::try_from(refused).unwrap_or_default()
}

impl From<Span> for Told {
    fn from(span: Span) -> Self {
        let kind = match span.kind {
            SpanKind::Trigger => kind::PRODUCER,
            SpanKind::Attempt => kind::CLIENT,
            SpanKind::Expand | SpanKind::Suppress | SpanKind::Wait | SpanKind::Run => {
                kind::INTERNAL
            }
        };
        let attributes = span.attributes.into_iter();
        Self {
            trace_id: span.run.0.as_bytes().to_vec(),
            span_id: span.id.0.to_vec(),
            parent_span_id: span.parent.map(|id| id.0.to_vec()).unwrap_or_default(),
            name: span.name,
            kind,
            start_time_unix_nano: nanoseconds(span.began),
            end_time_unix_nano: nanoseconds(span.ended),
            attributes: attributes
                .map(|(key, value)| KeyValue::new(key, value))
                .collect(),
            status: span.failed.then_some(Status { code: STATUS_ERROR }),
        }
    }
}

/// Since 1970, and until 2262.
fn nanoseconds(at: DateTime<Utc>) -> u64 {
    let since = at.timestamp_nanos_opt().unwrap_or_default();
    u64::try_from(since).unwrap_or_default()
}
