//! The program `chimeway`: parse, run, exit code.

mod channels;
mod cli;
mod commands;
mod config;
mod database;
mod error;
mod http;
mod otlp;
mod output;
mod shutdown;
mod sink;
mod telemetry;

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    match commands::run(cli::Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough, as in `chimeway runs | head`.
        Err(error) if error.is_closed_output() => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed too.
            let _ = writeln!(std::io::stderr(), "error: {}", error.line());
            ExitCode::from(error.exit_code())
        }
    }
}
