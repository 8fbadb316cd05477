//! Listens for the one NOTIFY a commit sends per queue. A hint only: polling is the truth.

use std::{future::Future, time::Duration};

use sqlx::{PgPool, postgres::PgListener};
use tokio_util::sync::CancellationToken;

use super::{QueueName, Wakes};

/// The channel of every NOTIFY; its payload is the queue's name.
pub const CHANNEL: &str = "chimeway";

/// How long a dead connection may go unnoticed where the network says nothing.
const QUIET: Duration = Duration::from_secs(30);
/// How long the server may then take to answer, and how long it may take to connect and to listen.
const ANSWER: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(10);
/// First and longest pause before connecting again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Listens on a connection of its own until told to stop. sqlx's listener does not come back from every
/// way of losing its connection, so this one is made anew each time; whenever it is, something may have
/// been missed, and every queue is looked at.
///
/// It is in a pool of its own, made like the one it is given: what is lost with a dead network is then not that
/// pool's to wait for.
pub(super) async fn listen(pool: PgPool, wakes: Wakes, stop: CancellationToken) {
    let mut pause = PAUSE.0;
    loop {
        let session = async {
            let own = pool
                .options()
                .clone()
                .min_connections(0)
                .max_connections(1)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_lazy_with((*pool.connect_options()).clone());
            let mut listener = PgListener::connect_with(&own).await?;
            // Errors are ours to see: a silent reconnect would hide what was missed.
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            wakes.all();
            Ok::<_, sqlx::Error>(listener)
        };
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            session = in_time(CONNECT, session) => match session {
                Ok(listener) => {
                    pause = PAUSE.0;
                    tokio::select! {
                        () = stop.cancelled() => return,
                        lost = hear(listener, &wakes) => lost,
                    }
                }
                Err(error) => error,
            },
        };
        tracing::warn!(error = %outcome, retry_ms = pause.as_millis(), "the listener lost its connection");
        wakes.all();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

async fn hear(mut listener: PgListener, wakes: &Wakes) -> sqlx::Error {
    loop {
        match tokio::time::timeout(QUIET, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => {
                if let Some(queue) = QueueName::parse(notification.payload()) {
                    wakes.of(queue).now();
                }
            }
            Ok(Ok(None)) => return sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()),
            Ok(Err(error)) => return error,
            // Nothing for a while: ask whether the connection lives.
            Err(_) => {
                let asked = sqlx::query("-- listener\nselect 1").execute(&mut listener);
                if let Err(error) = in_time(ANSWER, asked).await {
                    return error;
                }
            }
        }
    }
}

async fn in_time<T>(
    longest: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(longest, work).await {
        Ok(done) => done,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}
