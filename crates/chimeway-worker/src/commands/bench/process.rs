//! The worker processes that are measured: this program again, each a process of its own.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::timeout,
};

use super::{ground::Ground, system, worker};
use crate::{
    commands::child::{PATIENCE, WorkerChild},
    error::CliError,
};

/// How many workers, and of what kind.
#[derive(clap::Args, Debug, Clone, Copy)]
pub(super) struct Fleet {
    /// How many worker processes
    #[arg(long, value_name = "P", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) workers: u16,
    /// How many deliveries at a time in each of them, as chimeway_delivery=L
    #[arg(long, value_name = "L", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(super) limit: u16,
    /// Workers do not listen for NOTIFY, they only look
    #[arg(long)]
    pub(super) no_listen: bool,
}

/// Running workers.
pub(super) struct Workers {
    list: Vec<WorkerChild>,
    cpu_before: f64,
}

impl Workers {
    /// Starts them, and waits until each is about to begin.
    pub(super) async fn start(ground: &Ground, fleet: Fleet) -> Result<Self, CliError> {
        Self::start_keeping(ground, fleet, None).await
    }

    /// As [`Workers::start`], with workers that keep what is over for so long, where that is said.
    pub(super) async fn start_keeping(
        ground: &Ground,
        fleet: Fleet,
        keep: Option<&str>,
    ) -> Result<Self, CliError> {
        let mut list = vec![];
        for _ in 0..fleet.workers {
            list.push(start(ground, fleet, keep).await?);
        }
        let cpu_before = cpu(&list);
        Ok(Self { list, cpu_before })
    }

    /// Seconds of CPU that they have used since they were ready.
    pub(super) fn cpu_seconds(&self) -> f64 {
        cpu(&self.list) - self.cpu_before
    }

    /// The most memory that one of them has had, in MiB.
    pub(super) fn peak_mib(&self) -> Option<f64> {
        let peaks = self
            .list
            .iter()
            .filter_map(|one| system::peak_mib(one.id()));
        peaks.reduce(f64::max)
    }

    /// Refuses where one has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), CliError> {
        for one in &mut self.list {
            one.check().inspect_err(|_| one.show_log())?;
        }
        Ok(())
    }

    /// Lets them drain, all at once.
    pub(super) async fn stop(mut self) -> Result<(), CliError> {
        self.check()?;
        for one in &mut self.list {
            one.drain()?;
        }
        for one in &mut self.list {
            let drained = one.drained().await;
            drained.inspect_err(|_| one.show_log())?;
        }
        Ok(())
    }
}

fn cpu(list: &[WorkerChild]) -> f64 {
    list.iter()
        .filter_map(|one| system::cpu_seconds(one.id()))
        .sum()
}

async fn start(ground: &Ground, fleet: Fleet, keep: Option<&str>) -> Result<WorkerChild, CliError> {
    let limit = fleet.limit.to_string();
    let mut args = vec!["bench", "worker", "--limit", &limit];
    if fleet.no_listen {
        args.push("--no-listen");
    }
    if let Some(age) = keep {
        args.extend(["--keep", age]);
    }
    let mut one = WorkerChild::start(&ground.url, args, Stdio::piped())?;
    let printed = one.take_stdout();
    let said = async {
        let mut lines = BufReader::new(printed?).lines();
        lines.next_line().await.ok().flatten()
    };
    match timeout(PATIENCE, said).await {
        Ok(Some(line)) if line == worker::READY => Ok(one),
        _ => {
            one.show_log();
            Err(CliError::Refused(
                "a worker did not start; its log above says why".into(),
            ))
        }
    }
}
