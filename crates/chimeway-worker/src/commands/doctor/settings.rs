//! What the settings say, by themselves.

use chimeway::flow::{Chimeway, Timing};

use super::finding::{Check, Finding, or_ok};
use crate::{commands::worker, config::Config};

pub(super) const CHECKS: [Check<Config>; 3] = [
    Check {
        name: "channels",
        judge: channels,
    },
    Check {
        name: "http",
        judge: http,
    },
    Check {
        name: "lease",
        judge: lease,
    },
];

/// Every channel can be built as a worker builds it, secrets included.
fn channels(config: &Config) -> Vec<Finding> {
    let broken = config.channels.iter().filter_map(|(name, settings)| {
        let built = settings.register(name, Chimeway::builder(), &config.allow_private, true);
        built.err().map(|error| Finding::failed(&error))
    });
    let configured = config.channels.keys().map(ToString::to_string);
    let all: Vec<String> = ["in_app".to_owned(), "log".to_owned()]
        .into_iter()
        .chain(configured)
        .collect();
    or_ok(broken.collect(), all.join(", "))
}

fn http(config: &Config) -> Vec<Finding> {
    vec![match config.http {
        None => Finding::ok("not in the settings: served where a worker has --http"),
        Some(address) if address.ip().is_loopback() => {
            Finding::ok(format!("{address}, of this machine"))
        }
        Some(address) => Finding::note(
            format!("{address} is reached by other machines, and tokens travel as they are"),
            "have TLS end in front of it, or let a firewall admit probes and scrapes alone",
        ),
    }]
}

/// How long a send has to have before a lease is worth holding.
const SHORTEST_SEND: std::time::Duration = std::time::Duration::from_secs(5);

fn lease(config: &Config) -> Vec<Finding> {
    let Timing { lease, send, .. } = worker::timing(config);
    let told = format!(
        "{} s, and a send may take {} s",
        lease.as_secs(),
        send.as_secs()
    );
    vec![if send < SHORTEST_SEND {
        Finding::note(
            told,
            "a slow provider is given up before it answers: leave lease_seconds at 30, or 10 at least",
        )
    } else {
        Finding::ok(told)
    }]
}

#[cfg(test)]
mod tests {
    use super::{
        super::finding::Level::{self, Note, Ok, Problem},
        *,
    };

    fn config(text: &str) -> Config {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::from_sources(Some(file.path()), |_| None, crate::config::Layer::default()).unwrap()
    }

    fn levels(findings: &[Finding]) -> Vec<Level> {
        findings.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_secret_that_is_not_there_keeps_workers_from_starting() {
        let with_secret = "[channels.hook]\nadapter = \"webhook\"\nsecret = \"env:HOOK_SECRET\"";
        let findings = channels(&config(with_secret));
        assert_eq!(levels(&findings), [Problem]);
        assert!(findings[0].what.contains("env:HOOK_SECRET"), "{findings:?}");
        assert_eq!(levels(&channels(&config(""))), [Ok]);
    }

    #[test]
    fn an_address_of_this_machine_is_no_news() {
        assert_eq!(levels(&http(&config(""))), [Ok]);
        assert_eq!(levels(&http(&config("http = \"9464\""))), [Ok]);
        assert_eq!(levels(&http(&config("http = \"0.0.0.0:9464\""))), [Note]);
    }

    #[test]
    fn a_lease_leaves_time_for_a_send() {
        assert_eq!(levels(&lease(&config(""))), [Ok]);
        assert_eq!(levels(&lease(&config("lease_seconds = 3"))), [Note]);
    }
}
