//! No secret of the settings is told: not in what commands print, not in errors, not in the most talkative log.

use std::collections::BTreeSet;

use chimeway_testkit::TestDb;
use nix::sys::signal::Signal;

use crate::{
    programs::{Ran, chimeway, chimeway_at, chimeway_path, command, words},
    receiver::{Receiver, Reply},
    running::Running,
    support::eventually,
    tools::lines,
};

/// In every secret; some are written otherwise, because they must be of a form.
const MARK: &str = "hunter2";
const WHSEC: &str = "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==";
const OLD_WHSEC: &str = "whsec_cHJldmlvdXNwcmV2aW91c3ByZXZpb3VzcHJldmlvdXM=";
const NUMBER: &str = "48151623";

const JOURNEY: &str = "
key: k
steps:
  - { id: chat, action: { type: notify, channel: chat, render_key: r } }
  - { id: basic, action: { type: notify, channel: basic, render_key: r } }
  - { id: hook, action: { type: notify, channel: hook, render_key: r } }
";

/// Settings with a secret in every place that may have one.
fn settings(url: &str) -> String {
    format!(
        "[channels.email]
adapter = \"smtp\"
host = \"127.0.0.1\"
port = 9
security = \"none\"
username = \"user-{MARK}\"
password = \"{MARK}\"
from = \"a@example.com\"
[channels.hook]
adapter = \"webhook\"
url = \"{url}/{MARK}\"
secret = \"{WHSEC}\"
previous_secret = \"{OLD_WHSEC}\"
[channels.chat]
adapter = \"http\"
url = \"{url}/{MARK}?key={MARK}\"
bearer = \"{MARK}\"
needs_address = false
headers = {{ x-api-key = \"{MARK}\" }}
[channels.basic]
adapter = \"http\"
url = \"http://{MARK}:{MARK}@127.0.0.1:9/\"
basic = {{ username = \"{MARK}\", password = \"env:BASIC_PASSWORD\" }}
needs_address = false
[otlp]
endpoint = \"http://{MARK}:{MARK}@127.0.0.1:9/?token={MARK}\"
headers = {{ authorization = \"env:OTLP_AUTHORIZATION\", x-key = \"{MARK}\" }}
"
    )
}

/// Every command, and a way to call it; `ID` is an id of nothing, `DIR` a folder with a journey.
const COMMANDS: [&str; 35] = [
    "config",
    "config --json",
    "migrate",
    "migrate --check",
    "workflows validate DIR",
    "workflows apply DIR",
    "workflows list",
    "workflows show k",
    "workflows pause k",
    "workflows resume k",
    "templates list",
    "trigger k --tenant t --recipient ada",
    "track read --tenant t --actor ada",
    "recipients set ada --tenant t --address email=ada@example.com",
    "preferences set ada --tenant t --channel email=off",
    "queues",
    "doctor",
    "doctor --json",
    "ready",
    "prune --dry-run",
    "runs",
    "explain ID --tenant t",
    "traces ID --tenant t",
    "cancel ID --tenant t",
    "retry ID --tenant t",
    "pending",
    "approve ID --tenant t --by ada",
    "reject ID --tenant t --by ada",
    "roles list --tenant t",
    "inbox list --tenant t --recipient ada",
    "tokens list",
    "completions bash",
    "dev --journeys DIR/none",
    "demo --no-such-flag",
    "bench --no-such-flag",
];

/// They are not tried here: one writes files, one waits, and one is tried by itself.
const ELSEWHERE: [&str; 2] = ["init", "worker"];

fn told_nothing(what: &str, out: &str) {
    for secret in [MARK, WHSEC, OLD_WHSEC, &WHSEC[6..], NUMBER] {
        let found = out.lines().find(|line| line.contains(secret));
        assert_eq!(found, None, "{what}");
    }
}

fn all(ran: &Ran) -> String {
    format!("{}\n{}", ran.out, ran.err)
}

#[test]
fn every_command_is_tried() {
    let mut program = command(chimeway_path());
    let help = Ran::from(program.arg("--help").output().unwrap())
        .expect(0)
        .out;
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let known: BTreeSet<&str> = list
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .collect();
    let tried = COMMANDS.iter().map(|line| words(line)[0]);
    let tried: BTreeSet<&str> = tried.chain(ELSEWHERE).collect();
    let missing: Vec<&&str> = known.difference(&tried).collect();
    assert!(missing.is_empty(), "add these: {missing:?}");
}

/// A URL with a password. The server of the tests asks for none.
fn with_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (user, rest) = rest.split_once('@').unwrap();
    let user = user.split(':').next().unwrap();
    format!("{scheme}://{user}:{MARK}@{rest}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_no_command_tells_a_secret() {
    let receiver = Receiver::start([Reply::status(503), Reply::status(200)]).await;
    let db = TestDb::create().await;
    let url = with_password(&db.url());
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    std::fs::write(folder.path().join("k.yaml"), JOURNEY).unwrap();
    let file = folder.path().join("chimeway.toml");
    let at = format!("http://127.0.0.1:{}", receiver.port);
    std::fs::write(&file, settings(&at)).unwrap();
    let file = file.display().to_string();
    let run = |line: &str, log: &str| {
        let line = line
            .replace("ID", "0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10")
            .replace("DIR", &dir);
        let line = format!("--config {file} --log {log} {line}");
        let mut command = chimeway_at(&url, &words(&line));
        command
            .env("BASIC_PASSWORD", MARK)
            .env("OTLP_AUTHORIZATION", format!("Bearer {MARK}"))
            .env("OTEL_EXPORTER_OTLP_HEADERS", format!("a={MARK}"));
        command
    };
    for line in COMMANDS {
        for log in ["debug", "trace"] {
            let ran = Ran::from(run(line, log).output().unwrap());
            told_nothing(line, &all(&ran));
        }
    }
    // A worker that calls all of them, some of which fail.
    chimeway(
        &db.url(),
        &words("recipients set ada --tenant t --address hook=x"),
    )
    .expect(0);
    let worker = Running::of(run("worker --until-stdin-ends --http 127.0.0.1:0", "trace"));
    eventually("every channel was tried", async || {
        let tried =
            "select count(distinct channel)::text from chimeway.deliveries where attempts > 0";
        let tried = lines(db.pool(), tried).await;
        ["2", "3"].contains(&tried.as_str()).then_some(())
    })
    .await;
    worker.prints("traces").await;
    let (_, printed) = worker.told(Signal::SIGTERM).await;
    told_nothing("worker", &printed.join("\n"));
    assert!(!receiver.requests().is_empty());
    let kept = "select coalesce(string_agg(a::text, E'\\n'), '') from chimeway.delivery_attempts a";
    told_nothing("attempts", &lines(db.pool(), kept).await);
}

/// Settings that are wrong, near a secret or in it.
#[test]
fn no_refusal_quotes_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chimeway.toml");
    let good = settings("http://127.0.0.1:9");
    let hook = format!("[channels.hook]\nadapter = \"webhook\"\nsecret = \"{WHSEC}\"\n");
    let email = "[channels.email]\nadapter = \"smtp\"\nhost = \"h\"\nfrom = \"a@example.com\"\n";
    let chat = "[channels.chat]\nadapter = \"http\"\nurl = \"http://h/\"\n";
    let bad: Vec<String> = vec![
        good.replace("password = \"hunter2\"", "password = \"hunter2"),
        good.replace("password = \"hunter2\"", "password = hunter2"),
        good.replace("port = 9", "port = \"hunter2\""),
        format!("database_url = [\"postgres://a:{MARK}@h/d\"]\n"),
        format!("database_url = {NUMBER}\n"),
        format!("{hook}previous_secret = \"{MARK}\"\n"),
        format!("{hook}previous_secret = {NUMBER}\n"),
        format!("{hook}url = \"{MARK}\"\n"),
        format!("{hook}root_certificates = \"/no/such\"\n"),
        format!("[channels.hook]\nadapter = \"webhook\"\nsecret = \"whsec_{MARK}\"\n"),
        format!("{email}password = {NUMBER}\nusername = \"u\"\n"),
        format!("{email}password = [\"{MARK}\"]\n"),
        format!("{email}password = \"{MARK}\"\n"),
        format!("{email}username = \"{MARK}\"\n"),
        format!("{chat}bearer = {NUMBER}\n"),
        format!("{chat}bearer = \"{MARK}\\n\"\n"),
        format!(
            "{chat}bearer = \"{MARK}\"\nbasic = {{ username = \"a\", password = \"{MARK}\" }}\n"
        ),
        format!("{chat}basic = \"user:{MARK}\"\n"),
        format!("{chat}basic = [\"user, expected\", \"{MARK}\"]\n"),
        format!("{chat}basic = {{ username = \"{MARK}\" }}\n"),
        format!("{chat}basic = {{ username = \"{MARK}\", password = {NUMBER} }}\n"),
        format!("{chat}headers = \"authorization: {MARK}\"\n"),
        format!("{chat}headers = {{ x-key = {NUMBER} }}\n"),
        format!("{chat}headers = {{ x-key = \"{{{{ {MARK} \" }}\n"),
        format!("[channels.chat]\nadapter = \"http\"\nurl = \"{MARK} {{{{\"\n"),
        format!("[otlp]\nendpoint = \"{MARK}\"\n"),
        format!("[otlp]\nendpoint = \"http://h:4318\"\nheaders = \"authorization={MARK}\"\n"),
        format!("[otlp]\nendpoint = \"http://h:4318\"\nheaders = {{ a = {NUMBER} }}\n"),
        format!("[otlp]\nendpoint = \"http://h:4318\"\nheaders = {{ a = \"{MARK}\\n\" }}\n"),
    ];
    let run = |text: &str, variables: &[(&str, &str)], line: &str| {
        std::fs::write(&file, text).unwrap();
        let line = format!("--config {} --log trace {line}", file.display());
        let mut program = command(chimeway_path());
        program.args(words(&line));
        program
            .env("BASIC_PASSWORD", MARK)
            .env("OTLP_AUTHORIZATION", MARK);
        program.env("DATABASE_URL", format!("postgres://a:{MARK}@127.0.0.1:9/d"));
        for (name, value) in variables {
            program.env(name, value);
        }
        Ran::from(program.output().unwrap())
    };
    for text in &bad {
        for line in ["config", "workflows list", "worker --until-stdin-ends"] {
            let ran = run(text, &[], line);
            told_nothing(text, &all(&ran));
        }
    }
    for url in [
        format!("postgres://a:{MARK}@127.0.0.1:port/d"),
        format!("mysql://a:{MARK}@h/d"),
        MARK.to_owned(),
        format!("postgres://a:{MARK}@127.0.0.1:9/d?sslmode=perhaps"),
        format!("postgres://a:{MARK}@127.0.0.1:9/d?sslrootcert=/no/such&sslmode=verify-full"),
        format!("postgres://a:{MARK}@[::1/d"),
    ] {
        for line in ["config", "runs", "migrate"] {
            let ran = run("", &[("DATABASE_URL", &url)], line);
            told_nothing(&url, &all(&ran));
            let flagged = format!("--database-url {url} {line}");
            told_nothing(&url, &all(&run("", &[], &flagged)));
        }
    }
    for (name, value) in [
        ("CHIMEWAY_OTLP_HEADERS", "hunter2"),
        ("CHIMEWAY_OTLP_HEADERS", "a=hunter2%0a"),
        ("CHIMEWAY_OTLP_ENDPOINT", "hunter2"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
        ("OTLP_AUTHORIZATION", "hunter2\nx"),
        ("BASIC_PASSWORD", "hunter2\nx"),
    ] {
        for line in ["config", "worker --until-stdin-ends"] {
            let ran = run(&good, &[(name, value)], line);
            told_nothing(name, &all(&ran));
        }
    }
}
