//! Whether a worker lives, whether it is ready, and what it measures. Nothing here needs a token, and nothing
//! here tells of a person.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use chimeway::{
    flow::{
        Overview,
        metrics::{self, MetricKind, Unit},
    },
    queue::Health,
};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use sqlx::PgPool;
use tokio::{sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use super::api::Reading;

/// From a millisecond, which is what a claim takes, to an hour, which is what nobody should see.
const SECONDS: [f64; 18] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 900.0, 3600.0,
];
/// A batch holds 500 at most.
const SIZES: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];

/// For how long what was read of the database is told again.
const KEPT: Duration = Duration::from_secs(5);
/// How long the database may take; a scrape is not to fail by it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the recorder sums up what it has gathered.
const SUMMED_UP: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the answers are made of.
pub(super) struct Told {
    pub(super) health: Arc<Health>,
    pub(super) draining: CancellationToken,
    pub(super) metrics: PrometheusHandle,
    /// A connection of its own: scrapes answer also when the workers' are all taken.
    pub(super) pool: PgPool,
    /// It is reached through a pooler in transaction mode.
    pub(super) pooled: bool,
    /// What was read of the database, and when.
    pub(super) read: Mutex<Option<(Instant, String)>>,
}

/// `/livez`, `/readyz` and `/metrics`.
pub(super) fn router(told: Told) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Arc::new(told))
}

/// Keeps what was gathered small where nobody scrapes.
pub(super) async fn sum_up(metrics: &PrometheusHandle) {
    let mut ticks = tokio::time::interval(SUMMED_UP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

async fn readyz(State(told): State<Arc<Told>>) -> Response {
    match told.not_ready() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn scrape(State(told): State<Arc<Told>>) -> Response {
    let of_database = told.of_database().await;
    metrics::ready(told.not_ready().is_none());
    let body = told.metrics.render() + &of_database;
    ([(CONTENT_TYPE, TEXT)], body).into_response()
}

impl Told {
    fn not_ready(&self) -> Option<String> {
        if self.draining.is_cancelled() {
            return Some("draining".to_owned());
        }
        if self.health.is_ready() {
            return None;
        }
        if let Some((found, known)) = self.health.foreign_schema() {
            return Some(format!(
                "the database is at version {found}, this program knows {known}"
            ));
        }
        let missing = self.health.missing();
        let missing: Vec<&str> = missing.iter().map(|queue| queue.as_str()).collect();
        Some(match missing.as_slice() {
            [] => "starting: the database has not been reached".to_owned(),
            missing => format!("the database is not reached by {}", missing.join(", ")),
        })
    }

    /// What the database says, as it is scraped. One scrape reads for all that come meanwhile.
    async fn of_database(&self) -> String {
        let mut read = self.read.lock().await;
        if let Some((at, text)) = &*read
            && at.elapsed() < KEPT
        {
            return text.clone();
        }
        let reading = async {
            let conn = Reading::begin(&self.pool, self.pooled).await;
            let mut conn = conn.map_err(|error| error.to_string())?;
            let overview = Overview::read(&mut conn).await;
            overview.map_err(|error| error.to_string())
        };
        let overview = match tokio::time::timeout(PATIENCE, reading).await {
            Ok(Ok(overview)) => Some(overview),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a scrape could not read the database");
                None
            }
            Err(_) => None,
        };
        let text = as_scraped(overview.as_ref());
        *read = Some((Instant::now(), text.clone()));
        text
    }
}

/// By a recorder of its own: what cannot be read is left out, instead of being told as it was once.
fn as_scraped(overview: Option<&Overview>) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    ::metrics::with_local_recorder(&recorder, || {
        metrics::describe();
        metrics::database_up(overview.is_some());
        if let Some(overview) = overview {
            overview.report();
        }
    });
    recorder.handle().render()
}

pub(super) fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    let histograms = metrics::ALL
        .iter()
        .filter(|metric| metric.kind == MetricKind::Histogram);
    for metric in histograms {
        let buckets: &[f64] = match metric.unit {
            Unit::Seconds => &SECONDS,
            _ => &SIZES,
        };
        builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
    }
    Ok(builder.build_recorder())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_told() {
        let scraped = as_scraped(None);
        assert!(scraped.contains("\nchimeway_database_up 0\n"), "{scraped}");
        assert!(!scraped.contains("chimeway_queue_depth"), "{scraped}");
    }
}
