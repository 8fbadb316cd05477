//! What the tests of this crate share. Processes are looked up in `/proc`.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// Far more than any of this takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder for temporary clusters: whatever is in it afterwards was left behind. Anyone may write
/// in it, because root's server runs as another user.
pub(crate) fn shared_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    folder
}

/// Whether a process executes; one that has ended but that nobody has reaped does not.
pub(crate) fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        // The state follows the program's name, which is in parentheses and may hold any character.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    })
}

/// The running processes that have `word` in an argument or in their environment.
pub(crate) fn processes_that_mention(word: &str) -> Vec<u32> {
    let mentions = |pid: u32, file: &str| {
        std::fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|bytes| {
            bytes
                .windows(word.len())
                .any(|window| window == word.as_bytes())
        })
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id() && is_running(*pid))
        .filter(|pid| mentions(*pid, "cmdline") || mentions(*pid, "environ"))
        .collect()
}

/// Waits until `condition` holds; fails, naming it, when it never does.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What psql prints for `sql`, on a machine whose databases ask for TLS.
pub(crate) fn query(url: &str, sql: &str) -> String {
    let output = Command::new("psql")
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql])
        .env("PGSSLMODE", "verify-full")
        .output()
        .expect("psql: run scripts/setup");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{sql}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
