//! Sends spans to a collector by OTLP over HTTP, in batches, beside the work.
//!
//! No worker waits for a collector: spans wait in a queue of bounded length, and one that finds it full is
//! dropped, which is counted. A batch that a collector does not take now is sent again a few times.

mod message;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chimeway::{
    channels::{ChannelConfigError, http_client},
    flow::{Span, SpanSink, metrics},
    ids::RunId,
};
use reqwest::{Client, Response, StatusCode, header::CONTENT_TYPE};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use self::message::Resource;
use crate::{
    config::{ConfigError, Otlp},
    error::CliError,
};

/// How many spans wait at most.
const QUEUE: usize = 8_192;
/// How many are sent at a time.
const BATCH: usize = 512;
/// How long a batch is gathered for.
const GATHER: Duration = Duration::from_secs(1);
/// How long a collector may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a batch is sent in all.
const TRIES: u32 = 6;
/// The pause after the first of them; the next ones are twice as long each.
const PAUSE: Duration = Duration::from_secs(1);
/// What is read of an answer.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Takes the spans of the runs that are sampled.
struct Sampled {
    queue: mpsc::Sender<Span>,
    /// Runs below it are: of a range of 32 bits.
    below: u64,
    unsent: Arc<AtomicUsize>,
}

/// What sends them, until it is told to finish.
pub(crate) struct Exporter {
    task: JoinHandle<()>,
    stop: CancellationToken,
    unsent: Arc<AtomicUsize>,
}

/// Begins to send spans to a collector, in the name of this process.
///
/// # Errors
///
/// [`CliError::Config`] where the settings cannot be used.
pub(crate) fn start(otlp: &Otlp, process: &str) -> Result<(impl SpanSink, Exporter), CliError> {
    let bad = |error: ChannelConfigError| ConfigError::BadValue {
        name: "otlp.root_certificates",
        problem: error.problem,
    };
    let client = http_client(otlp.root_certificates.as_deref()).map_err(bad)?;
    let (queue, spans) = mpsc::channel(QUEUE);
    let (stop, unsent) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
    let sender = Sender {
        client,
        otlp: otlp.clone(),
        resource: Resource::new(&otlp.service_name, process),
        spans,
        stop: stop.clone(),
        unsent: Arc::clone(&unsent),
        fails: false,
    };
    let collector = &otlp.shown;
    tracing::info!(collector, ratio = otlp.ratio, "traces go to {collector}");
    let sampled = Sampled {
        queue,
        below: below(otlp.ratio),
        unsent: Arc::clone(&unsent),
    };
    let exporter = Exporter {
        task: tokio::spawn(sender.run()),
        stop,
        unsent,
    };
    Ok((sampled, exporter))
}

/// Where the sampled part of a range of 32 bits ends.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a ratio is from 0 to 1"
)]
fn below(ratio: f64) -> u64 {
    (ratio * 2_f64.powi(32)) as u64
}

impl SpanSink for Sampled {
    /// By the end of the id, which is its random part: the same in every process.
    fn wants(&self, run: RunId) -> bool {
        let (_, end) = run.0.as_u64_pair();
        (end & u64::from(u32::MAX)) < self.below
    }

    fn take(&self, spans: Vec<Span>) {
        let mut dropped = 0;
        for span in spans {
            self.unsent.fetch_add(1, Ordering::Relaxed);
            if self.queue.try_send(span).is_err() {
                dropped += 1;
            }
        }
        if dropped > 0 {
            self.unsent.fetch_sub(dropped, Ordering::Relaxed);
            metrics::spans_dropped(dropped);
        }
    }
}

impl Exporter {
    /// Sends what there still is, for so long at most.
    pub(crate) async fn finish(self, patience: Duration) {
        let Self {
            mut task,
            stop,
            unsent,
        } = self;
        stop.cancel();
        if tokio::time::timeout(patience, &mut task).await.is_err() {
            task.abort();
            let spans = unsent.load(Ordering::Relaxed);
            metrics::spans_dropped(spans);
            if spans > 0 {
                tracing::warn!(spans, "spans are not sent: the collector does not answer");
            }
        }
    }
}

/// How an attempt to send a batch went.
enum Sent {
    /// It was taken, but for so many.
    Taken(usize),
    /// Not now, for this reason.
    NotNow(String),
    /// Not ever.
    Never(String),
}

struct Sender {
    client: Client,
    otlp: Otlp,
    resource: Resource,
    spans: mpsc::Receiver<Span>,
    stop: CancellationToken,
    unsent: Arc<AtomicUsize>,
    /// The last attempt failed: that is told once.
    fails: bool,
}

impl Sender {
    async fn run(mut self) {
        while let Some(batch) = self.gather().await {
            let spans = batch.len();
            let body = message::encode(&self.resource, batch);
            let sent = spans.saturating_sub(self.deliver(body, spans).await);
            metrics::spans_sent(sent);
            metrics::spans_dropped(spans - sent);
            self.unsent.fetch_sub(spans, Ordering::Relaxed);
        }
    }

    /// The next batch; none after the last one.
    async fn gather(&mut self) -> Option<Vec<Span>> {
        let mut batch = vec![];
        let mut until = None;
        while batch.len() < BATCH {
            let stopped = self.spans.is_closed();
            if stopped && self.spans.is_empty() {
                break;
            }
            let over = async move {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let room = BATCH - batch.len();
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if !stopped => self.spans.close(),
                _ = self.spans.recv_many(&mut batch, room) => {
                    until.get_or_insert_with(|| Instant::now() + GATHER);
                }
                () = over => break,
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Sends a batch, again where that may help; how many of it are lost.
    async fn deliver(&mut self, body: Vec<u8>, spans: usize) -> usize {
        let mut pause = PAUSE;
        for again in (0..TRIES).rev() {
            let (reason, helps) = match self.post(body.clone()).await {
                Sent::Taken(refused) => {
                    self.works(refused);
                    return refused.min(spans);
                }
                Sent::NotNow(reason) => (reason, again > 0 && !self.stop.is_cancelled()),
                Sent::Never(reason) => (reason, false),
            };
            if !self.fails {
                let collector = &self.otlp.shown;
                tracing::warn!(
                    collector,
                    reason,
                    "traces do not reach {collector}: {reason}"
                );
                self.fails = true;
            }
            if !helps {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause *= 2,
                () = self.stop.cancelled() => {}
            }
        }
        spans
    }

    fn works(&mut self, refused: usize) {
        if refused > 0 {
            tracing::warn!(spans = refused, "the collector refuses spans");
        }
        if self.fails {
            let collector = &self.otlp.shown;
            tracing::info!(collector, "traces reach {collector} again");
            self.fails = false;
        }
    }

    async fn post(&self, body: Vec<u8>) -> Sent {
        let asking = async {
            let request = self.client.post(self.otlp.url.clone());
            let request = request.headers(self.otlp.headers.clone());
            let request = request.header(CONTENT_TYPE, "application/x-protobuf");
            let response = request.body(body).send().await?;
            let status = response.status();
            let answer = match status.is_success() {
                true => read(response).await?,
                false => vec![],
            };
            Ok::<_, reqwest::Error>((status, answer))
        };
        match tokio::time::timeout(ANSWER, asking).await {
            Err(_) => Sent::NotNow("no answer in time".to_owned()),
            // Its own text may quote the address, and so a secret.
            Ok(Err(error)) if error.is_connect() => Sent::NotNow("it is not reached".to_owned()),
            Ok(Err(error)) if error.is_builder() => Sent::Never("no such request".to_owned()),
            Ok(Err(_)) => Sent::NotNow("the connection was lost".to_owned()),
            Ok(Ok((status, answer))) if status.is_success() => {
                Sent::Taken(message::refused(&answer))
            }
            Ok(Ok((status, _))) if comes_back(status) => Sent::NotNow(format!("status {status}")),
            Ok(Ok((status, _))) => Sent::Never(format!("status {status}")),
        }
    }
}

/// Whether OTLP has a batch sent again after this answer.
fn comes_back(status: StatusCode) -> bool {
    [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ]
    .contains(&status)
}

/// The body of an answer, as far as one can be long.
async fn read(mut response: Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = vec![];
    while let Some(chunk) = response.chunk().await? {
        let room = ANSWER_LIMIT - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == ANSWER_LIMIT {
            break;
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use chimeway::{
        flow::spans::{SpanId, SpanKind},
        ids,
    };
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn sampled(ratio: f64) -> (Sampled, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(1);
        let sampled = Sampled {
            queue,
            below: below(ratio),
            unsent: Arc::default(),
        };
        (sampled, spans)
    }

    fn span() -> Span {
        let at = "2026-03-02T09:00:00Z".parse().unwrap();
        Span {
            run: ids::fresh().into(),
            id: SpanId([1; 8]),
            parent: None,
            kind: SpanKind::Run,
            name: "run a".to_owned(),
            began: at,
            ended: at,
            failed: false,
            attributes: vec![],
        }
    }

    #[test]
    fn what_finds_the_queue_full_is_dropped_and_counted() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (sampled, mut spans) = sampled(1.0);
        ::metrics::with_local_recorder(&recorder, || sampled.take(vec![span(), span(), span()]));
        let scraped = recorder.handle().render();
        let dropped = "chimeway_spans_total{result=\"dropped\"} 2\n";
        assert!(scraped.contains(dropped), "{scraped}");
        assert!(spans.try_recv().is_ok() && spans.try_recv().is_err());
        assert_eq!(sampled.unsent.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_ratio_is_that_of_the_runs() {
        let runs: Vec<RunId> = (0..10_000).map(|_| ids::fresh().into()).collect();
        let wanted = |ratio| {
            let (sampled, _spans) = sampled(ratio);
            runs.iter().filter(|run| sampled.wants(**run)).count()
        };
        assert_eq!(wanted(1.0), runs.len());
        assert_eq!(wanted(0.0), 0);
        assert!((700..1_300).contains(&wanted(0.1)), "{}", wanted(0.1));
    }
}
