//! The program: what its command sees, and that no server survives it, however it ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod support;
use support::{eventually, is_running, processes_that_mention, query, shared_folder};

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

fn with_postgres(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_with-postgres"));
    command.env("TMPDIR", folder);
    command
}

/// A `with-postgres` whose command has started.
struct Running {
    process: Child,
    server: u32,
    url: String,
}

impl Running {
    /// Runs `before`, prints the address, runs `after`; that must end when its standard input does,
    /// so that a failed test leaves no process.
    fn start(command: &mut Command, before: &str, after: &str) -> Self {
        let script = format!("{before}\necho $TEST_DATABASE_URL\n{after}");
        let mut process = command
            .args(["--", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        let url = url.trim().to_owned();
        let file = query(&url, "select pg_read_file('postmaster.pid')");
        let server: u32 = file.lines().next().unwrap().parse().unwrap();
        assert!(is_running(server));
        Self {
            process,
            server,
            url,
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        // Not `wait` alone: that closes the standard input, and the script would end by itself.
        let input = self.process.stdin.take();
        let status = self.process.wait().unwrap();
        drop(input);
        status
    }
}

#[test]
fn the_command_sees_one_database_and_its_exit_code_comes_through() {
    let folder = shared_folder();
    let output = with_postgres(folder.path())
        .args(["sh", "-c", "env; exit 7"])
        .env("DATABASE_URL", "postgres://production/")
        .env("PGHOST", "production")
        .env("PGDATABASE", "production")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7));
    let environment = String::from_utf8(output.stdout).unwrap();
    assert!(!environment.contains("production"), "{environment}");
    let url = environment
        .lines()
        .find_map(|line| line.strip_prefix("TEST_DATABASE_URL="))
        .unwrap();
    assert!(url.starts_with("postgres://postgres@127.0.0.1:"), "{url}");
    assert!(url.contains("/chimeway_test?"), "{url}");
    assert!(is_empty(folder.path()));
    assert_eq!(
        processes_that_mention(folder.path().to_str().unwrap()),
        [0; 0]
    );
}

#[test]
fn it_finds_the_server_programs_off_the_path() {
    let folder = shared_folder();
    let status = with_postgres(folder.path())
        .arg("/bin/true")
        .env("PATH", "/nowhere")
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn durable_is_a_choice() {
    for (option, expected) in [(&[][..], "off"), (&["--durable"], "on")] {
        let output = with_postgres(shared_folder().path())
            .args(option)
            .args([
                "--",
                "sh",
                "-c",
                r#"psql -XAtq -d "$TEST_DATABASE_URL" -c 'show fsync'"#,
            ])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), expected);
    }
}

#[test]
fn bad_usage_and_a_missing_command_are_told_apart() {
    let folder = shared_folder();
    let code = |arguments: &[&str]| {
        let output = with_postgres(folder.path())
            .args(arguments)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (status, message) = code(&["--no-such-option", "true"]);
    assert_eq!(status, Some(2));
    assert!(message.starts_with("usage: "), "{message}");
    let (status, message) = code(&["--", "/no/such/program"]);
    assert_eq!(status, Some(1));
    assert!(message.contains("cannot run /no/such/program"), "{message}");
    assert!(is_empty(folder.path()));
}

#[test]
fn signals_reach_the_command_and_its_answer_counts() {
    for (signal, name, code) in [(Signal::SIGINT, "INT", 7), (Signal::SIGTERM, "TERM", 8)] {
        let folder = shared_folder();
        // The trap is set before the address is printed. Without the signal the script ends with 1.
        let trap = format!("trap 'exit {code}' {name}");
        let wait = "while read -r line; do :; done; exit 1";
        let mut running = Running::start(&mut with_postgres(folder.path()), &trap, wait);
        running.signal(signal);
        assert_eq!(running.wait().code(), Some(code));
        assert!(!is_running(running.server));
        assert!(is_empty(folder.path()));
    }
}

#[test]
fn kill_9_of_the_parent_stops_the_server_and_removes_the_folder() {
    let folder = shared_folder();
    let mut running = Running::start(&mut with_postgres(folder.path()), "", "cat");
    running.signal(Signal::SIGKILL);
    let status = running.wait();
    assert!(!status.success());
    eventually("the guard stops the server", || !is_running(running.server));
    eventually("the guard removes the folder", || is_empty(folder.path()));
    // `cat` goes with its standard input, the guard last.
    let word = folder.path().to_str().unwrap();
    eventually("nothing is left", || {
        processes_that_mention(word).is_empty()
    });
}

#[test]
fn kill_9_during_the_start_leaves_nothing_either() {
    // At three moments of `initdb` and the start that follows it.
    for milestone in ["data.new", "data.new/global", "data/postmaster.pid"] {
        let folder = shared_folder();
        let mut process = with_postgres(folder.path())
            .args(["sleep", "0"])
            .spawn()
            .unwrap();
        eventually(milestone, || {
            cluster_in(folder.path()).is_some_and(|cluster| cluster.join(milestone).exists())
                || process.try_wait().unwrap().is_some()
        });
        process.kill().unwrap();
        process.wait().unwrap();
        eventually("the guard removes the folder", || is_empty(folder.path()));
        let word = folder.path().to_str().unwrap();
        eventually("nothing is left", || {
            processes_that_mention(word).is_empty()
        });
        assert!(is_empty(folder.path()));
    }
}

/// The folder of the one cluster in `folder`.
fn cluster_in(folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .next()
}

#[test]
fn a_signal_during_the_start_stops_it() {
    let folder = shared_folder();
    let mut process = with_postgres(folder.path())
        .args(["sh", "-c", "exit 9"])
        .spawn()
        .unwrap();
    eventually("initdb starts", || {
        cluster_in(folder.path()).is_some_and(|cluster| cluster.join("data.new").exists())
    });
    kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(
        process.wait().unwrap().code(),
        Some(128 + 15),
        "the command must not run"
    );
    assert!(is_empty(folder.path()));
}

#[test]
fn kill_9_of_the_parent_keeps_persistent_data_and_frees_its_lock() {
    let folder = shared_folder();
    let data = folder.path().join("kept");
    let mut running = Running::start(
        with_postgres(folder.path())
            .arg("--durable")
            .arg("--data")
            .arg(&data),
        "",
        "cat",
    );
    query(&running.url, "create table kept as select 42 as answer");
    running.signal(Signal::SIGKILL);
    running.wait();
    // At once: the start waits for the guard of the one before.
    let mut again = Running::start(
        with_postgres(folder.path())
            .arg("--durable")
            .arg("--data")
            .arg(&data),
        "",
        "cat",
    );
    assert!(!is_running(running.server));
    assert_eq!(query(&again.url, "select answer from kept"), "42");
    drop(again.process.stdin.take());
    assert!(again.wait().success());
    assert!(!is_running(again.server));
}
