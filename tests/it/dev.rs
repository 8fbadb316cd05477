//! `chimeway dev`: a journey is written, mended and played while it runs.

use std::{fs, net::TcpStream, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use chimeway_testkit::TestDb;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    programs::{Ran, chimeway_path, command},
    running::Running,
    support::eventually,
};

/// A folder that the server's user can pass through, with a first journey whose wait is short.
fn project() -> TempDir {
    let folder = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o711))
        .tempdir()
        .unwrap();
    let mut init = at(folder.path());
    init.arg("init");
    Ran::from(init.output().unwrap()).expect(0);
    edit(folder.path(), "welcome.yaml", "PT20S", "PT0.2S");
    folder
}

fn at(folder: &Path) -> Command {
    let mut command = command(chimeway_path());
    command.current_dir(folder);
    command
}

fn dev(folder: &Path) -> Running {
    let mut command = at(folder);
    // What the shell has for other work does not count.
    command
        .arg("dev")
        .env("DATABASE_URL", "postgres://localhost:1/none");
    Running::of(command)
}

/// Replaces a part of a journey's file.
fn edit(folder: &Path, name: &str, part: &str, new: &str) {
    let path = folder.join("journeys").join(name);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(part), "{part}: {text}");
    fs::write(&path, text.replace(part, new)).unwrap();
}

/// What a person has in the other terminal, after pasting the first line.
struct Terminal {
    url: String,
}

impl Terminal {
    async fn open(dev: &Running) -> Self {
        dev.prints("Ctrl-C ends").await;
        let line = dev.prints("export DATABASE_URL=").await;
        let url = line.split('\'').nth(1).unwrap().to_owned();
        Self { url }
    }

    fn paste(&self, line: &str) -> Ran {
        let program = chimeway_path();
        let beside = program.parent().unwrap().display();
        let mut shell = command("bash");
        shell
            .arg("-c")
            .arg(format!("PATH={beside}:$PATH; {line}"))
            .env("DATABASE_URL", &self.url);
        shell.output().unwrap().into()
    }

    /// The port of the server.
    fn port(&self) -> u16 {
        let (_, rest) = self.url.rsplit_once(':').unwrap();
        rest.split('/').next().unwrap().parse().unwrap()
    }
}

#[tokio::test]
async fn heavy_a_journey_is_played_as_it_is_written() {
    let folder = project();
    let folder = folder.path();
    let running = dev(folder);
    let terminal = Terminal::open(&running).await;

    // The commands that it shows do what they say, as they are.
    let trigger = running.prints("chimeway trigger welcome").await;
    terminal.paste(&trigger).expect(0);
    let run = running.prints("run of welcome v1 for ada").await;
    running
        .prints("mail to ada@example.com: Welcome, Ada")
        .await;
    running.prints("| Hello Ada,").await;
    let (_, explain) = run.split_once(": ").unwrap();
    eventually("the run is complete", async || {
        let told = terminal.paste(explain).expect(0).out;
        told.contains("completed").then_some(())
    })
    .await;
    let inbox = running.prints("chimeway inbox list").await;
    let inbox = terminal.paste(&inbox).expect(0);
    assert!(inbox.out.contains("welcome_notification"), "{}", inbox.out);

    // A mistake has its place, and what was there stays.
    edit(folder, "welcome.yaml", "type: wait", "type: wat");
    running
        .prints("journeys/welcome.yaml:/steps/1/action/type: ")
        .await;
    let stored = terminal.paste("chimeway workflows show welcome").expect(0);
    assert!(stored.out.contains("welcome v1"), "{}", stored.out);
    edit(folder, "welcome.yaml", "type: wat", "type: wait");
    edit(folder, "welcome.yaml", "PT0.2S", "PT0.1S");
    running.prints("welcome v2 applied").await;

    // So has one in a template; the mail that is sent is the one as it was mended.
    edit(folder, "templates/welcome_email.txt", "}},", "},");
    running.prints("journeys/templates/welcome_email.txt").await;
    edit(
        folder,
        "templates/welcome_email.txt",
        "Hello {{ params.name },",
        "Dear {{ params.name }},",
    );
    running.prints("template welcome_email applied").await;
    eventually("the mended mail", async || {
        terminal.paste(&trigger).expect(0);
        let lines = running.lines();
        lines
            .iter()
            .any(|it| it.contains("| Dear Ada,"))
            .then_some(())
    })
    .await;

    let (status, lines) = running.told(Signal::SIGINT).await;
    assert!(status.success(), "{status}: {lines:?}");
    assert!(
        TcpStream::connect(("127.0.0.1", terminal.port())).is_err(),
        "its PostgreSQL still runs"
    );
}

#[tokio::test]
async fn heavy_what_was_played_is_there_the_next_time() {
    let folder = project();
    let ignored = folder.path().join(".chimeway/.gitignore");
    let first = dev(folder.path());
    let terminal = Terminal::open(&first).await;
    assert_eq!(fs::read_to_string(ignored).unwrap(), "*\n");
    let trigger = first.prints("chimeway trigger welcome").await;
    terminal.paste(&trigger).expect(0);
    let run = first.prints("run of welcome v1 for ada").await;
    let (status, lines) = first.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}: {lines:?}");

    let second = dev(folder.path());
    let same = Terminal::open(&second).await;
    let (_, explain) = run.split_once(": ").unwrap();
    same.paste(explain).expect(0);
    let other: Ran = at(folder.path()).arg("dev").output().unwrap().into();
    let other = other.expect(1);
    assert!(
        other
            .err
            .contains("in use by another process; end that one"),
        "{}",
        other.err
    );
    // It was told of already.
    let lines = second.lines();
    assert!(!lines.iter().any(|it| it.contains("run of")), "{lines:?}");
    let (status, lines) = second.told(Signal::SIGINT).await;
    assert!(status.success(), "{status}: {lines:?}");
}

#[tokio::test]
async fn dev_plays_in_the_database_it_is_given() {
    let db = TestDb::create().await;
    let folder = project();
    let url = db.url();
    let mut command = at(folder.path());
    command.args(["dev", "--database-url", &url]);
    let running = Running::of(command);
    running.prints("Ctrl-C ends").await;
    let terminal = Terminal { url };
    let trigger = running.prints("chimeway trigger welcome").await;
    terminal.paste(&trigger).expect(0);
    running
        .prints("mail to ada@example.com: Welcome, Ada")
        .await;
    let (status, lines) = running.told(Signal::SIGINT).await;
    assert!(status.success(), "{status}: {lines:?}");
    // The URL may hold a password: it is not shown.
    assert!(
        !lines.iter().any(|it| it.contains("postgres://")),
        "{lines:?}"
    );
    assert!(!folder.path().join(".chimeway").exists());
}

#[test]
fn dev_without_a_journey_says_how_to_begin() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = at(folder.path());
    let refused: Ran = dev.arg("dev").output().unwrap().into();
    let refused = refused.expect(1);
    assert_eq!(
        refused.err,
        "error: there is no folder journeys; write a first journey with `chimeway init`, or name yours with --journeys\n"
    );
    assert!(!folder.path().join(".chimeway").exists());
}
