//! A web host: people comment on documents, and whoever is mentioned learns of it.
//!
//! `example-axum-host DATABASE_URL [ADDRESS]`

mod comments;
mod inbox;
mod refused;

use axum::{
    Router,
    routing::{get, post},
};
use chimeway::Chimeway;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Whose data all of this is. A real host takes it from the session, never from the request.
const TENANT: &str = "org_456";

/// What every handler has at hand.
#[derive(Clone)]
struct App {
    pool: PgPool,
    chimeway: Chimeway,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .ok_or("usage: example-axum-host DATABASE_URL [ADDRESS]")?;
    let address = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:3000".to_owned());

    let pool = PgPoolOptions::new()
        .max_connections(10)
        .connect(&url)
        .await?;
    // A real host keeps these in its own migrations.
    sqlx::raw_sql(include_str!("schema.sql"))
        .execute(&pool)
        .await?;

    // This process sends nothing: workers elsewhere do. It needs no channels.
    let chimeway = Chimeway::builder().build();
    let app = Router::new()
        .route("/comments", post(comments::add))
        .route("/inbox/{person}", get(inbox::list))
        .route("/inbox/{person}/{item}/read", post(inbox::read))
        .with_state(App { pool, chimeway });

    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await?;
    Ok(())
}
