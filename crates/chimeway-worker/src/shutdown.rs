//! The first SIGTERM or SIGINT asks to come to an end, the second one ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::CliError;

/// The exit code of a process that was told to stop twice.
const ENDED_AT_ONCE: i32 = 1;

/// Begins to watch for signals; the token is cancelled by the first one.
///
/// # Errors
///
/// [`CliError::Io`] if the operating system does not let us watch.
pub(crate) fn watch() -> Result<CancellationToken, CliError> {
    let listen = |kind| signal(kind).map_err(CliError::io("watch for signals"));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let asked = CancellationToken::new();
    let token = asked.clone();
    tokio::spawn(async move {
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::info!("{name}: coming to an end; a second signal ends at once");
        asked.cancel();
        let name = next(&mut terminate, &mut interrupt).await;
        tracing::warn!("{name} again: ending at once");
        std::process::exit(ENDED_AT_ONCE);
    });
    Ok(token)
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
