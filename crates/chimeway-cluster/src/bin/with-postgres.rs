//! Runs a command beside a private PostgreSQL: `with-postgres [--durable] [--data DIR] -- CMD ARGS`.
//!
//! The command finds an empty database `chimeway_test` at `TEST_DATABASE_URL`, and no other database
//! in its environment. Its exit code is ours; the server is gone when we are.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};

use chimeway_cluster::{Cluster, Data, Durability, without_postgres_variables};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin};

const DATABASE: &str = "chimeway_test";
const USAGE: &str = "usage: with-postgres [--durable] [--data DIR] [--] COMMAND [ARGUMENT...]

Starts a private PostgreSQL, runs COMMAND with TEST_DATABASE_URL set, stops the server.
  --durable   commits survive a crash of the server (otherwise fsync is off)
  --data DIR  keep the data in DIR (otherwise it is removed)";

struct Options {
    durability: Durability,
    data: Data,
    command: OsString,
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == "--help")
    {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some(options) = parse(std::env::args_os().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("with-postgres: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None` when the arguments make no sense.
fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Options> {
    let mut durability = Durability::OffForTests;
    let mut data = Data::Temporary;
    let command = loop {
        let argument = arguments.next()?;
        match argument.to_str() {
            Some("--durable") => durability = Durability::Full,
            Some("--data") => data = Data::Persistent(PathBuf::from(arguments.next()?)),
            Some("--") => break arguments.next()?,
            Some(option) if option.starts_with('-') => return None,
            _ => break argument,
        }
    };
    Some(Options {
        durability,
        data,
        command,
        arguments: arguments.collect(),
    })
}

fn run(options: Options) -> Result<u8, Box<dyn std::error::Error>> {
    // From the start: a signal that comes while the server starts is not lost.
    let mut signals = SignalsInfo::<WithOrigin>::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])?;
    let cluster = Cluster::builder()
        .durability(options.durability)
        .data(options.data)
        .database(DATABASE)
        .setting("max_connections", "200")
        .start()?;
    if let Some(early) = signals.pending().find(|origin| origin.signal != SIGCHLD) {
        return Ok(exit_code_of_signal(early.signal));
    }

    let mut command = Command::new(&options.command);
    without_postgres_variables(&mut command);
    command
        .args(&options.arguments)
        .env("TEST_DATABASE_URL", cluster.url(DATABASE));
    let status = match command.spawn() {
        Ok(child) => wait(child, &mut signals)?,
        Err(error) => {
            let name = options.command.display();
            return Err(format!("cannot run {name}: {error}").into());
        }
    };
    Ok(exit_code(status))
}

/// Waits for the command, and passes signals on to it.
fn wait(
    mut child: Child,
    signals: &mut SignalsInfo<WithOrigin>,
) -> Result<ExitStatus, std::io::Error> {
    for origin in signals.forever() {
        if origin.signal == SIGCHLD {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
        } else if !reaches_the_child_anyway(&origin) {
            // Not reaped yet, so the id is still the child's.
            let _ = kill(
                Pid::from_raw(child.id().cast_signed()),
                Signal::try_from(origin.signal)?,
            );
        }
    }
    child.wait()
}

/// Ctrl-C in a terminal goes to the whole foreground group; passed on it would arrive twice, and a
/// second Ctrl-C means "stop the hard way" to many programs.
fn reaches_the_child_anyway(origin: &Origin) -> bool {
    matches!(origin.cause, Cause::Kernel)
}

fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => exit_code_of_signal(signal),
        (None, None) => u8::MAX,
    }
}

/// As a shell reports it.
fn exit_code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}
