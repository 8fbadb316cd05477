//! Traces by OTLP: what a collector gets of real workers, read with the types that OpenTelemetry publishes;
//! and that nobody waits for one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chimeway_testkit::TestDb;
use nix::sys::signal::Signal;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message as _;

use crate::{
    host::{TRIGGER, apply_short},
    metrics::{address, get},
    programs::{chimeway, chimeway_at, psql, words},
    receiver::{Receiver, Reply, Request},
    running::Running,
    support::eventually,
};

/// A host in any language, with a correlation id of its own.
fn trigger(url: &str) {
    let correlated = TRIGGER.replace(
        "'org_456',",
        "'org_456', correlation_id => 'request of Ada',",
    );
    psql(url, &[], &correlated).expect(0);
}

/// A worker with these variables.
fn worker(url: &str, arguments: &str, variables: &[(&str, &str)]) -> Running {
    let line = format!("worker --until-stdin-ends --channel email=log {arguments}");
    let mut command = chimeway_at(url, &words(line.trim_end()));
    command.envs(variables.iter().copied());
    Running::of(command)
}

fn address_of(collector: &Receiver) -> String {
    format!("http://127.0.0.1:{}", collector.port)
}

async fn until_it_ends(url: &str) {
    let over = "select count(*) from chimeway.workflow_runs where state = 'completed'";
    eventually("the journey ends", async || {
        (psql(url, &[], over).expect(0).out == "1\n").then_some(())
    })
    .await;
}

/// A span, and who sent it.
struct Got {
    span: Span,
    resource: BTreeMap<String, String>,
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| {
        let value = attribute.value.as_ref().unwrap().value.as_ref().unwrap();
        let value = match value {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (attribute.key.clone(), value)
    };
    attributes.iter().map(text).collect()
}

fn spans(requests: &[Request]) -> Vec<Got> {
    let mut got = vec![];
    for request in requests {
        assert_eq!(request.line, "POST /v1/traces HTTP/1.1");
        assert_eq!(
            request.header("content-type"),
            Some("application/x-protobuf")
        );
        let told = ExportTraceServiceRequest::decode(request.bytes.as_slice()).unwrap();
        for of_process in told.resource_spans {
            let resource = texts(&of_process.resource.unwrap().attributes);
            for scope in of_process.scope_spans {
                assert_eq!(scope.scope.unwrap().name, "chimeway");
                let spans = scope.spans.into_iter().map(|span| Got {
                    span,
                    resource: resource.clone(),
                });
                got.extend(spans);
            }
        }
    }
    got
}

fn taken() -> Reply {
    Reply::status(200)
}

async fn until_told(collector: &Receiver, count: usize) -> Vec<Got> {
    eventually(&format!("{count} spans are told"), async || {
        let got = spans(&collector.requests());
        (got.len() >= count).then_some(got)
    })
    .await
}

#[tokio::test]
async fn a_journey_is_one_trace_across_two_workers_and_nobody_is_in_it() {
    let db = TestDb::create().await;
    let url = db.url();
    apply_short(&url);
    let collector = Receiver::start([taken()]).await;
    let endpoint = address_of(&collector);
    // The one sends, the other makes runs and ends waits.
    let sends = worker(
        &url,
        "--queue chimeway_workflows=0 --queue default=0",
        &[
            ("CHIMEWAY_OTLP_ENDPOINT", &endpoint),
            ("CHIMEWAY_OTLP_HEADERS", "x-key=a%20b"),
        ],
    );
    let moves = worker(
        &url,
        "--queue chimeway_delivery=0",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_SERVICE_NAME", "journeys"),
        ],
    );
    moves.prints("traces go to http://127.0.0.1").await;
    trigger(&url);
    until_it_ends(&url).await;
    let got = until_told(&collector, 6).await;

    let run = psql(&url, &[], "select id from chimeway.workflow_runs");
    let run = run.expect(0).out.trim().replace('-', "");
    let root = got.iter().find(|it| it.span.parent_span_id.is_empty());
    let root = root.unwrap().span.span_id.clone();
    let mut names = vec![];
    for Got { span, .. } in &got {
        assert_eq!(hex(&span.trace_id), run, "{span:?}");
        assert!(span.parent_span_id.is_empty() || span.parent_span_id == root);
        assert!(span.start_time_unix_nano > 1_700_000_000_000_000_000);
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        names.push(span.name.as_str());
    }
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "expand mention_escalation",
            "run mention_escalation",
            "send email",
            "send in_app",
            "trigger mention_escalation",
            "wait step_wait_for_read",
        ]
    );
    let of = |name: &str| {
        got.iter()
            .find(|it| it.span.name.starts_with(name))
            .unwrap()
    };
    // Each by whoever did it.
    for (name, service) in [
        ("expand", "journeys"),
        ("send in_app", "chimeway"),
        ("wait", "journeys"),
        ("send email", "chimeway"),
    ] {
        assert_eq!(of(name).resource["service.name"], service, "{name}");
    }
    let processes: BTreeSet<&String> = got
        .iter()
        .map(|it| &it.resource["service.instance.id"])
        .collect();
    assert_eq!(processes.len(), 2);
    let wait = &of("wait").span;
    assert!(wait.end_time_unix_nano - wait.start_time_unix_nano >= 200_000_000);
    assert!(of("send email").span.start_time_unix_nano >= wait.end_time_unix_nano);
    // What it takes as a whole.
    let (whole, root) = (&of("run").span, &of("trigger").span);
    assert_eq!(whole.start_time_unix_nano, root.start_time_unix_nano);
    assert!(whole.end_time_unix_nano >= wait.end_time_unix_nano);
    assert_eq!(of("send email").span.kind(), SpanKind::Client);
    assert_eq!(of("trigger").span.kind(), SpanKind::Producer);
    let email = texts(&of("send email").span.attributes);
    let delivery = "select id from chimeway.deliveries where channel = 'email'";
    let delivery = psql(&url, &[], delivery).expect(0).out;
    let event = psql(&url, &[], "select id from chimeway.events")
        .expect(0)
        .out;
    for (key, value) in [
        ("chimeway.delivery.id", delivery.trim()),
        ("chimeway.event.id", event.trim()),
        ("chimeway.workflow.key", "mention_escalation"),
        ("chimeway.workflow.version", "1"),
        ("chimeway.step.key", "step_email_escalation"),
        ("chimeway.channel", "email"),
        ("chimeway.attempt.number", "1"),
        ("chimeway.outcome", "succeeded"),
    ] {
        assert_eq!(email.get(key).map(String::as_str), Some(value), "{email:?}");
    }

    let known = [
        "chimeway.attempt.number",
        "chimeway.channel",
        "chimeway.delivery.id",
        "chimeway.event.id",
        "chimeway.outcome",
        "chimeway.reason",
        "chimeway.run.id",
        "chimeway.step.key",
        "chimeway.workflow.key",
        "chimeway.workflow.version",
    ];
    let keys = got
        .iter()
        .flat_map(|it| texts(&it.span.attributes).into_keys());
    let keys: BTreeSet<String> = keys.collect();
    assert_eq!(keys, known.map(str::to_owned).into());
    let requests = collector.requests();
    let keyed = requests
        .iter()
        .filter(|it| it.header("x-key") == Some("a b"));
    assert!((1..requests.len()).contains(&keyed.count()));
    for request in requests {
        for secret in ["user_123", "org_456", "ada@", "doc_789", "request of Ada"] {
            assert!(!request.body.contains(secret), "{secret}: {}", request.body);
        }
    }
    for worker in [sends, moves] {
        let (status, lines) = worker.told(Signal::SIGTERM).await;
        assert!(status.success(), "{status}: {lines:?}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_collector_that_hangs_holds_back_neither_messages_nor_the_end() {
    let db = TestDb::create().await;
    let url = db.url();
    apply_short(&url);
    let collector = Receiver::start([Reply::Nothing]).await;
    let endpoint = address_of(&collector);
    let worker = worker(&url, "", &[("CHIMEWAY_OTLP_ENDPOINT", &endpoint)]);
    trigger(&url);
    eventually("the collector is called", async || {
        (!collector.requests().is_empty()).then_some(())
    })
    .await;
    // It hangs for ten seconds; a journey takes less than one.
    let began = Instant::now();
    chimeway(&url, &words("trigger mention_escalation --tenant org_456 --recipient bob --address email=b@example.com")).expect(0);
    let over = "select count(*) from chimeway.workflow_runs where state = 'completed'";
    eventually("both journeys end", async || {
        (psql(&url, &[], over).expect(0).out == "2\n").then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(9));
    let told = Instant::now();
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
    assert!(told.elapsed() < Duration::from_secs(20), "{lines:?}");
    let lost = lines
        .iter()
        .find(|line| line.contains("spans are not sent"));
    assert!(lost.is_some(), "{lines:?}");
}

/// What was gathered and not sent yet.
#[tokio::test]
async fn a_worker_that_ends_sends_what_there_is() {
    let db = TestDb::create().await;
    let url = db.url();
    apply_short(&url);
    let collector = Receiver::start([taken()]).await;
    let endpoint = address_of(&collector);
    let worker = worker(&url, "", &[("CHIMEWAY_OTLP_ENDPOINT", &endpoint)]);
    trigger(&url);
    until_it_ends(&url).await;
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
    assert_eq!(spans(&collector.requests()).len(), 6, "{lines:?}");
}

#[tokio::test]
async fn nothing_is_sent_at_a_ratio_of_0_and_without_a_collector() {
    let db = TestDb::create().await;
    let url = db.url();
    apply_short(&url);
    let collector = Receiver::start([taken()]).await;
    let endpoint = address_of(&collector);
    let worker = worker(
        &url,
        "",
        &[
            ("CHIMEWAY_OTLP_ENDPOINT", endpoint.as_str()),
            ("CHIMEWAY_OTLP_RATIO", "0"),
        ],
    );
    trigger(&url);
    until_it_ends(&url).await;
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
    assert!(!lines.iter().any(|line| line.contains("traces")));
    assert_eq!(collector.requests().len(), 0);
}

/// Away for a moment, then it takes all but two, and at last it wants nothing any more.
#[tokio::test]
async fn what_a_collector_does_not_take_is_sent_again_or_counted() {
    let db = TestDb::create().await;
    let url = db.url();
    apply_short(&url);
    let partly = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 2,
            error_message: String::new(),
        }),
    };
    let partly = String::from_utf8(partly.encode_to_vec()).unwrap();
    let collector = Receiver::start([
        Reply::status(503),
        Reply::Reset,
        Reply::with(200, "", &partly),
        Reply::status(400),
    ])
    .await;
    let endpoint = address_of(&collector);
    let worker = worker(
        &url,
        "--http 127.0.0.1:0",
        &[("CHIMEWAY_OTLP_ENDPOINT", &endpoint)],
    );
    let address = address(&worker).await;
    trigger(&url);
    until_it_ends(&url).await;
    let scraped = async |expected: &str| {
        eventually(expected, async || {
            let (_, text) = get(&address, "/metrics").await;
            text.contains(expected).then_some(())
        })
        .await;
    };
    scraped("chimeway_spans_total{result=\"sent\"} 4\n").await;
    scraped("chimeway_spans_total{result=\"dropped\"} 2\n").await;
    let requests = collector.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|it| it.bytes == requests[0].bytes));
    worker.prints("traces reach http://127.0.0.1").await;
    chimeway(&url, &words("trigger mention_escalation --tenant org_456 --recipient bob --address email=b@example.com")).expect(0);
    scraped("chimeway_spans_total{result=\"dropped\"} 7\n").await;
    assert_eq!(
        worker
            .lines()
            .iter()
            .filter(|line| line.contains("status 400"))
            .count(),
        1
    );
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
}

#[tokio::test]
async fn a_try_that_fails_is_an_error_over_tls_too() {
    let db = TestDb::create().await;
    let url = db.url();
    apply_short(&url);
    let collector = Receiver::with_tls("127.0.0.1", taken()).await;
    let provider = Receiver::start([Reply::status(410)]).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("chimeway.toml");
    let text = format!(
        "[channels.email]\nadapter = \"http\"\nurl = \"{}\"\njson = {{ a = \"1\" }}\n\
         [otlp]\nendpoint = \"https://127.0.0.1:{}\"\nroot_certificates = \"{}\"\n\
         headers = {{ authorization = \"env:KEY\" }}\n",
        provider.url(),
        collector.port,
        collector.root().display(),
    );
    std::fs::write(&settings, text).unwrap();
    let line = format!("worker --until-stdin-ends --config {}", settings.display());
    let start = || chimeway_at(&url, &words(&line));
    let refused = start().output().unwrap();
    let refused = String::from_utf8(refused.stderr).unwrap();
    assert!(
        refused
            .contains("otlp is not usable: `headers.authorization` is `env:KEY`, which is not set"),
        "{refused}"
    );
    let mut command = start();
    command.env("KEY", "Bearer hunter2");
    let worker = Running::of(command);
    trigger(&url);
    let got = until_told(&collector, 6).await;
    let email = got.iter().find(|it| it.span.name == "send email").unwrap();
    let status = email.span.status.as_ref().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    let attributes = texts(&email.span.attributes);
    assert_eq!(attributes["error.type"], "permanent");
    assert_eq!(attributes["chimeway.outcome"], "failed");
    let others = got.iter().filter(|it| it.span.status.is_some());
    assert_eq!(others.count(), 1);
    for request in collector.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer hunter2"));
    }
    let (status, lines) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");
    assert!(!lines.iter().any(|line| line.contains("hunter2")));
}
