//! A host with a channel of its own, and the workers that send over it.
//!
//! `example-custom-channel DATABASE_URL`

mod letters;

use std::time::Duration;

use chimeway::{Chimeway, Document, flow::workers::Workers};
use sqlx::postgres::PgPoolOptions;
use tokio::signal::unix::{SignalKind, signal};

use letters::Letters;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments
        .next()
        .ok_or("usage: example-custom-channel DATABASE_URL")?;
    let pool = PgPoolOptions::new()
        .max_connections(15)
        .connect(&url)
        .await?;
    // A real host keeps this in its own migrations.
    sqlx::raw_sql(
        "create table if not exists letters (
            token text primary key, address text not null, content text not null, params jsonb not null
        )",
    )
    .execute(&pool)
    .await?;

    // Documents may name the channel from here on: this is what makes it known.
    let chimeway = Chimeway::builder()
        .channel("letter", Letters::new(pool.clone()))?
        .build();
    let journey = Document::from_yaml("reminder.yaml", include_str!("../reminder.yaml"))?;
    chimeway.apply(&pool, &journey).await?;

    let workers = Workers::new(chimeway, pool);
    let health = workers.health();
    tokio::spawn(async move {
        while !health.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("ready");
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    workers
        .run(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
    Ok(())
}
