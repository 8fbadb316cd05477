//! Log lines, on standard error: standard output is for what commands print.

use std::io;

use anstream::ColorChoice;
use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    config::{Config, LogFormat},
    error::CliError,
};

/// Of libraries that tell, from `debug` on, which hosts they look up and connect to: addresses of recipients.
const QUIET: [&str; 5] = ["hyper", "hyper_util", "reqwest", "rustls", "want"];

/// Starts logging. `default` is the filter where the settings give none.
///
/// # Errors
///
/// [`CliError::Refused`] if the filter cannot be read.
pub(crate) fn start(config: &Config, default: &str) -> Result<(), CliError> {
    let filter = config.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        let example = "write one such as `info` or `chimeway=debug,sqlx=warn`";
        CliError::Refused(format!(
            "the log filter `{filter}` cannot be read: {error}; {example}"
        ))
    })?;
    let quiet = QUIET
        .iter()
        .filter_map(|name| format!("{name}=warn").parse().ok());
    let filter = quiet.fold(filter, EnvFilter::add_directive);
    let colors = anstream::AutoStream::choice(&io::stderr()) != ColorChoice::Never;
    let lines = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colors)
        // A closed standard error is not worth a panic.
        .log_internal_errors(false);
    let started = match config.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| CliError::Refused(format!("logging cannot start: {error}")))
}
