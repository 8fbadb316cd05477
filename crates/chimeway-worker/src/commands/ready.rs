//! `chimeway ready`: a worker's own answer to a probe, for places without curl.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use chimeway::channels::http_client;

use super::Context;
use crate::{
    config::Layer,
    error::CliError,
    output::{self, visible},
};

/// How long a worker may take to answer; what a kubelet and Docker give it, and less.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer that is shown.
const SHOWN: usize = 200;

/// Ask a worker of this machine whether it is ready, as a health check does
///
/// Exits 0 where it is, else 1. It asks /readyz at the worker's --http, and needs no database of its own: for
/// images without a shell.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway ready --http 9464
  chimeway ready --live          whether the process lives, be its database away or not
  CHIMEWAY_HTTP=0.0.0.0:9464 chimeway ready")]
pub(crate) struct Args {
    /// Where the worker serves HTTP; the settings say it otherwise
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// Ask /livez: whether it lives, not whether it is ready
    #[arg(long)]
    live: bool,
}

impl Args {
    /// The settings that these flags give, over those of all commands.
    pub(super) fn layer(&self, everywhere: Layer) -> Layer {
        Layer {
            http: self.http.clone(),
            ..everywhere
        }
    }
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let Some(address) = context.config.http else {
        return Err(CliError::Usage(
            "no worker's address is named; pass --http ADDRESS or set CHIMEWAY_HTTP".into(),
        ));
    };
    let address = from_here(address);
    let path = if args.live { "livez" } else { "readyz" };
    let client = http_client(None).map_err(|error| CliError::Refused(error.to_string()))?;
    let asked = client
        .get(format!("http://{address}/{path}"))
        .timeout(PATIENCE)
        .send();
    let no_answer = |error: &dyn std::error::Error| {
        CliError::Refused(format!(
            "no worker answers at {address}: {}; does it run, with --http?",
            crate::error::causes(error)
        ))
    };
    let answer = asked.await.map_err(|error| no_answer(&error))?;
    let is_well = answer.status().is_success();
    let text = answer.text().await.map_err(|error| no_answer(&error))?;
    let text: String = visible(text.trim()).chars().take(SHOWN).collect();
    if is_well {
        output::print(text)
    } else {
        Err(CliError::Refused(text))
    }
}

/// A worker that serves every address of its machine is asked at the machine's own.
fn from_here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_asked_at_one_of_this_machine() {
        for (served, asked) in [
            ("0.0.0.0:9464", "127.0.0.1:9464"),
            ("[::]:9464", "[::1]:9464"),
            ("10.0.0.7:80", "10.0.0.7:80"),
        ] {
            assert_eq!(from_here(served.parse().unwrap()).to_string(), asked);
        }
    }
}
