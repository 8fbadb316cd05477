//! What the operating system knows of processes, read from /proc. Where there is none, nothing is known.

use std::{collections::BTreeMap, fs, time::Duration};

/// Clock ticks per second, as /proc counts: 100 on every Linux that people run.
const TICKS_PER_SECOND: f64 = 100.0;

/// The fields of /proc/PID/stat that follow the name, which may hold anything.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Seconds of CPU that a process has used, and those of its children that have ended.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    // utime, stime, cutime, cstime
    let ticks = stat(pid)?
        .get(11..15)?
        .iter()
        .map(|field| field.parse::<f64>().ok())
        .sum::<Option<f64>>()?;
    Some(ticks / TICKS_PER_SECOND)
}

/// Its parent.
pub(super) fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// What it is called.
pub(super) fn name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim().to_owned())
}

/// The processes whose parent this is.
fn children(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|child| parent(*child) == Some(pid)).collect()
}

/// A process with its children: the CPU that they have used, those included that have ended.
pub(super) fn family_cpu_seconds(pid: u32) -> Option<f64> {
    let own = cpu_seconds(pid)?;
    // One that ends between the two looks is counted by neither; its next look counts it.
    Some(
        own + children(pid)
            .into_iter()
            .filter_map(cpu_seconds)
            .sum::<f64>(),
    )
}

/// PostgreSQL's own processes, as they call themselves.
const OWN: [&str; 5] = [
    "checkpointer",
    "background writer",
    "walwriter",
    "autovacuum launcher",
    "autovacuum worker",
];

/// What kind of process of PostgreSQL it is.
fn kind(pid: u32) -> &'static str {
    let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let own = OWN.into_iter().find(|own| title.contains(own));
    own.unwrap_or("sessions")
}

/// The CPU that a postmaster's processes have used, by what they are. Those that have ended are in its own.
pub(super) fn server_cpu_seconds(postmaster: u32) -> BTreeMap<&'static str, f64> {
    let mut by_kind = BTreeMap::new();
    if let Some(seconds) = cpu_seconds(postmaster) {
        by_kind.insert("postmaster, and what has ended", seconds);
    }
    for child in children(postmaster) {
        if let Some(seconds) = cpu_seconds(child) {
            *by_kind.entry(kind(child)).or_default() += seconds;
        }
    }
    by_kind
}

/// A line of /proc/PID/status, in KiB.
fn kib(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim_start_matches(':')
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// The most memory that a process has had at a time, in MiB.
pub(super) fn peak_mib(pid: u32) -> Option<f64> {
    Some(kib(pid, "VmHWM")? as f64 / 1024.0)
}

/// The memory that a process and its children do not share, in MiB.
fn family_private_mib(pid: u32) -> Option<f64> {
    let own = kib(pid, "RssAnon")?;
    let others: u64 = children(pid)
        .into_iter()
        .filter_map(|child| kib(child, "RssAnon"))
        .sum();
    Some((own + others) as f64 / 1024.0)
}

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Watches the memory that a process and its children do not share.
pub(super) struct Watch {
    task: tokio::task::JoinHandle<()>,
    peak: tokio::sync::watch::Receiver<Option<f64>>,
}

impl Watch {
    pub(super) fn begin(pid: Option<u32>) -> Self {
        let (peak, seen) = tokio::sync::watch::channel(None);
        let task = tokio::spawn(async move {
            while let Some(now) = pid.and_then(family_private_mib) {
                peak.send_modify(|peak: &mut Option<f64>| {
                    *peak = Some(peak.map_or(now, |peak| peak.max(now)));
                });
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { task, peak: seen }
    }

    /// The most there was at a time, in MiB.
    pub(super) fn peak_mib(&self) -> Option<f64> {
        *self.peak.borrow()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known_where_there_is_a_proc() {
        let own = std::process::id();
        if fs::metadata("/proc/self/stat").is_err() {
            return;
        }
        assert!(cpu_seconds(own).unwrap() >= 0.0);
        assert!(family_cpu_seconds(own).unwrap() >= 0.0);
        assert!(peak_mib(own).unwrap() > 1.0);
        assert!(parent(own).is_some());
        assert!(!name(own).unwrap().is_empty());
        assert_eq!(cpu_seconds(u32::MAX), None);
    }
}
