//! One process that makes thumbnails by an apalis queue of its own and tells people by Chimeway.
//!
//! ```text
//! example-embedded-fleet DATABASE_URL run
//! example-embedded-fleet DATABASE_URL upload OWNER NAME
//! ```

mod thumbnails;

use std::{error::Error, time::Duration};

use apalis_postgres::PostgresStorage;
use chimeway::{Chimeway, flow::workers::Workers, store::schema};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use thumbnails::Host;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [url, "run"] => run(connect(url).await?).await,
        [url, "upload", owner, name] => {
            let id = thumbnails::upload(&connect(url).await?, owner, name).await?;
            println!("picture {id}");
            Ok(())
        }
        _ => Err("usage: example-embedded-fleet DATABASE_URL run | upload OWNER NAME".into()),
    }
}

/// One pool for both fleets: Chimeway's workers use about 10 connections, the host's few.
async fn connect(url: &str) -> Fallible<PgPool> {
    let pool = PgPoolOptions::new().max_connections(20);
    Ok(pool.connect(url).await?)
}

async fn run(pool: PgPool) -> Fallible<()> {
    // Three schemas side by side, each with its own migrations: `chimeway`, `apalis`, the host's.
    schema::migrate(&mut *pool.acquire().await?).await?;
    PostgresStorage::setup(&pool).await?;
    thumbnails::migrate(&pool).await?;

    let chimeway = Chimeway::builder().build();
    let workers = Workers::new(chimeway.clone(), pool.clone());
    let health = workers.health();
    tokio::spawn(async move {
        while !health.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("ready");
    });

    // One shutdown: both stop to take work, both finish what they have begun, and then we end.
    let stop = CancellationToken::new();
    tokio::join!(
        workers.run(stop.clone().cancelled_owned()),
        thumbnails::work(Host { pool, chimeway }, &stop),
        until_told(stop.clone()),
    );
    println!("drained");
    Ok(())
}

/// Cancels at the first SIGTERM or SIGINT.
async fn until_told(stop: CancellationToken) {
    let _stop = stop.drop_guard();
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
