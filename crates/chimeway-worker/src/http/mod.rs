//! What a worker serves over HTTP where it is told to: its health and metrics to everybody, and the API to
//! those who have a token.
//!
//! To add a route: 1. a handler in the file of its resource, and its line in that file's `routes`; 2. its
//! place in `openapi.json`, which a test compares with the routes, and another one with the answers; 3. its
//! line in `docs/http-api.md`.

mod answer;
mod api;
mod approvals;
mod caller;
mod document;
mod extract;
mod health;
mod inbox;
mod openapi;
mod refusal;
mod runs;
mod serve;
mod signals;
mod triggers;
mod workflows;

use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use chimeway::{Chimeway, flow::metrics, queue::Health};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, sync::Mutex, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{database::Database, error::CliError};

/// How many requests of the API have a connection at a time; others wait for one.
const CONNECTIONS: u32 = 10;
/// How many connections there are beside the workers': those, and one for scrapes.
pub(crate) const CONNECTIONS_IN_ALL: u32 = CONNECTIONS + 1;

/// Where it listens, before anything is served.
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
    metrics: PrometheusHandle,
}

impl Server {
    /// Takes the address, and begins to measure.
    ///
    /// # Errors
    ///
    /// [`CliError::Refused`] if the address is not free or not of this machine.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, CliError> {
        let refused = |reason: &dyn std::fmt::Display| {
            CliError::Refused(format!(
                "cannot serve HTTP on {address}: {reason}; give --http a free address such as 127.0.0.1:9464"
            ))
        };
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| refused(&error))?;
        let address = listener.local_addr().map_err(|error| refused(&error))?;
        let recorder = health::recorder().map_err(|error| refused(&error))?;
        let handle = recorder.handle();
        ::metrics::set_global_recorder(recorder).map_err(|error| refused(&error))?;
        metrics::describe();
        Ok(Self {
            listener,
            address,
            metrics: handle,
        })
    }

    /// Answers until `ended`; `draining` says that the worker is coming to its end.
    pub(crate) fn serve(
        self,
        chimeway: Chimeway,
        health: Arc<Health>,
        database: &Database,
        draining: CancellationToken,
        ended: CancellationToken,
    ) -> JoinHandle<()> {
        let address = self.address;
        tracing::info!(%address, "http://{address} serves /livez, /readyz, /metrics and /api");
        if !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                "other machines reach {address}: tokens travel as they are, so have TLS end in front of it"
            );
        }
        let told = health::Told {
            health,
            draining,
            metrics: self.metrics.clone(),
            pool: database.request_pool(1),
            pooled: database.is_pooled(),
            read: Mutex::default(),
        };
        let api = api::Api {
            chimeway,
            pool: database.request_pool(CONNECTIONS),
            pooled: database.is_pooled(),
        };
        let routes = Router::new()
            .merge(health::router(told))
            .merge(api::router(api));
        let routes = api::with_errors_in_json(routes);
        tokio::spawn(async move {
            tokio::select! {
                () = serve::serve(self.listener, routes, serve::LIMITS, ended) => {}
                () = health::sum_up(&self.metrics) => {}
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_taken_is_refused_in_one_line() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let line = Server::bind(address).await.err().unwrap().line();
        assert!(
            line.starts_with(&format!("cannot serve HTTP on {address}: ")),
            "{line}"
        );
        assert!(line.ends_with("such as 127.0.0.1:9464"), "{line}");
    }
}
