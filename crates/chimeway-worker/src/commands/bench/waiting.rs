//! Stub.
use super::{ground::Ground, report::Report};
use crate::error::CliError;
/// Stub
#[derive(clap::Args)]
#[command(after_help = "Example:\n  chimeway bench waiting")]
pub(super) struct Args {}
pub(super) async fn run(_args: &Args, _ground: &Ground, _report: &Report) -> Result<(), CliError> {
    Ok(())
}
