//! The API: what every handler has at hand, and what holds for every route.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request},
    handler::Handler,
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use chimeway::{Chimeway, store::settings};
use sqlx::{PgConnection, PgPool, Postgres, Transaction, pool::PoolConnection};
use tokio::time::{Instant, timeout};

use super::{
    approvals, extract::LARGEST_BODY, inbox, openapi, refusal::Refusal, runs, signals, triggers,
    workflows,
};

/// How long a request may take, with the reading of its body.
const PATIENCE: Duration = Duration::from_secs(30);

/// What every handler has at hand.
pub(super) struct Api {
    pub(super) chimeway: Chimeway,
    /// Connections of its own: requests do not take those of the workers.
    pub(super) pool: PgPool,
    /// They are reached through a pooler in transaction mode.
    pub(super) pooled: bool,
}

impl Api {
    /// A transaction that waits for nothing for long.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, Refusal> {
        let begin = match self.pooled {
            true => settings::BEGIN_REQUEST_POOLED,
            false => settings::BEGIN_REQUEST,
        };
        Ok(self.pool.begin_with(begin).await?)
    }

    /// To read one thing.
    pub(super) async fn connection(&self) -> Result<Reading, Refusal> {
        Ok(Reading::begin(&self.pool, self.pooled).await?)
    }
}

/// A connection that is read from: as it is, but within a transaction where a pooler wants one.
pub(super) enum Reading {
    Plain(PoolConnection<Postgres>),
    Within(Transaction<'static, Postgres>),
}

impl Reading {
    pub(super) async fn begin(pool: &PgPool, pooled: bool) -> sqlx::Result<Self> {
        Ok(match pooled {
            true => Self::Within(pool.begin_with(settings::BEGIN_REQUEST_POOLED).await?),
            false => Self::Plain(pool.acquire().await?),
        })
    }
}

impl Deref for Reading {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Plain(conn) => conn,
            Self::Within(tx) => tx,
        }
    }
}

impl DerefMut for Reading {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Plain(conn) => conn,
            Self::Within(tx) => tx,
        }
    }
}

/// One way to ask one path.
pub(super) struct Route {
    pub(super) path: &'static str,
    handler: MethodRouter<Arc<Api>>,
    #[cfg(test)]
    pub(super) method: &'static str,
}

macro_rules! ways_to_ask {
    ($($name:ident: $method:ident,)*) => {
        impl Route {$(
            pub(super) fn $name<T: 'static>(
                path: &'static str,
                handler: impl Handler<T, Arc<Api>>,
            ) -> Self {
                Self {
                    path,
                    handler: on(MethodFilter::$method, handler),
                    #[cfg(test)]
                    method: stringify!($method),
                }
            }
        )*}
    };
}

ways_to_ask! {
    get: GET,
    post: POST,
    put: PUT,
    delete: DELETE,
}

/// Every route there is.
pub(super) fn routes() -> Vec<Route> {
    [
        workflows::routes(),
        approvals::routes(),
        runs::routes(),
        triggers::routes(),
        signals::routes(),
        inbox::routes(),
        openapi::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(super) fn router(api: Api) -> Router {
    let empty = Router::new();
    routes()
        .into_iter()
        .fold(empty, |router, route| {
            router.route(route.path, route.handler)
        })
        .layer(middleware::from_fn(watched))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(Arc::new(api))
}

/// Answers in time, lets nobody keep what may be private, and tells the log which route it was: never the path,
/// the query or a header, which may name somebody or hold a token.
async fn watched(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = match timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            Refusal::unavailable(format!("it took longer than {seconds} seconds")).into_response()
        }
    };
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .entry(CACHE_CONTROL)
        .or_insert(no_store);
    tracing::debug!(
        %method,
        route = route.as_ref().map_or("", |route| route.as_str()),
        status = response.status().as_u16(),
        duration_ms = begun.elapsed().as_millis(),
        "a request was answered"
    );
    response
}

/// Of a path that there is not, and of a way to ask that there is not, the error is JSON too.
pub(super) fn with_errors_in_json(router: Router) -> Router {
    router
        .fallback(async || Refusal::no_route())
        .layer(middleware::map_response(in_json))
}

async fn in_json(response: Response) -> Response {
    if response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    // Its header `Allow` stays.
    let (mut parts, _) = response.into_parts();
    let (json, body) = Refusal::method().into_response().into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.extend(
        json.headers
            .get(CONTENT_TYPE)
            .map(|kind| (CONTENT_TYPE, kind.clone())),
    );
    Response::from_parts(parts, body)
}
