//! Arguments and files of the program `chimeway`, each given to a process of its own.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use futures::{StreamExt as _, stream};
use tokio::process::Command;

use super::{
    Ground, JOURNEY, shown,
    values::{long, nested},
};
use crate::programs::{Ran, chimeway_path, command};

/// What a word stands for; other words are themselves.
fn value(word: &str, run: &str) -> OsString {
    let deep = |levels: usize| format!(r#"{{"a": {}}}"#, nested(levels)).into();
    match word {
        "@run" => run.into(),
        "@blank" => " ".into(),
        "@nbsp" => "\u{a0}".into(),
        "@lines" => "a\r\nBcc: eve@example.com".into(),
        "@escape" => "\u{1b}[2J\u{1b}]0;owned\u{7}".into(),
        "@bidi" => "\u{202e}gnp.exe".into(),
        "@emoji" => "👩‍👩‍👧‍👦".into(),
        "@sql" => "'; drop table chimeway.events; --".into(),
        "@256" => long("ß", 256).into(),
        "@3000" => long("x", 3_000).into(),
        "@100000" => long("x", 100_000).into(),
        "@bytes" => OsString::from_vec(b"a\xff\xfe".to_vec()),
        "@deep" => deep(110),
        "@deeper" => deep(200),
        "@inf" => r#"{"a": 1e400}"#.into(),
        "@huge" => r#"{"a": 1.7e308}"#.into(),
        "@nul" => r#"{"a": "\u0000"}"#.into(),
        "@surrogate" => r#"{"a": "\ud800"}"#.into(),
        "@twice" => r#"{"a": 1, "a": 2}"#.into(),
        "@odd" => r#"{"a": -0.0, "": "\u0001", "document_id": {"$ne": null}}"#.into(),
        "@nothing" => r#"email="#.into(),
        "@newline_in_address" => "email=a\nb".into(),
        "@long_address" => format!("email={}", long("x", 100_000)).into(),
        "@blank_channel" => "=eve@example.com".into(),
        "@channel_of_two_lines" => "a\nb=off".into(),
        "@emoji_off" => "👩‍👩‍👧‍👦=off".into(),
        "@sql_address" => "in_app='; drop table chimeway.events; --".into(),
        word => {
            assert!(!word.starts_with('@'), "there is no {word}");
            word.into()
        }
    }
}

/// Refused, with this exit code: 1 refused, 2 bad usage, 3 not there.
const REFUSED: &[(i32, &str)] = &[
    (2, "trigger @escape --tenant org_456 --recipient eve"),
    (3, "trigger @sql --tenant org_456 --recipient eve"),
    (3, "trigger @bidi --tenant org_456 --recipient eve"),
    (2, "trigger @bytes --tenant org_456 --recipient eve"),
    (2, "trigger hostile --tenant @nbsp --recipient eve"),
    (2, "trigger hostile --tenant @100000 --recipient eve"),
    (2, "trigger hostile --tenant org_456 --recipient @lines"),
    (2, "trigger hostile --tenant org_456 --recipient @256"),
    (
        1,
        "trigger hostile --tenant org_456 --recipient eve --params @deep",
    ),
    (
        2,
        "trigger hostile --tenant org_456 --recipient eve --params @deeper",
    ),
    (
        2,
        "trigger hostile --tenant org_456 --recipient eve --params @inf",
    ),
    (
        1,
        "trigger hostile --tenant org_456 --recipient eve --params @huge",
    ),
    (
        1,
        "trigger hostile --tenant org_456 --recipient eve --params @nul",
    ),
    (
        2,
        "trigger hostile --tenant org_456 --recipient eve --params @surrogate",
    ),
    (
        2,
        "trigger hostile --tenant org_456 --recipient eve --params @100000",
    ),
    (
        1,
        "trigger hostile --tenant org_456 --recipient eve --idempotency-key @nbsp",
    ),
    (
        1,
        "trigger hostile --tenant org_456 --recipient eve --idempotency-key @3000",
    ),
    (
        1,
        "trigger hostile --tenant org_456 --recipient eve --address @newline_in_address",
    ),
    (
        1,
        "trigger hostile --tenant org_456 --recipient eve --address @long_address",
    ),
    (
        2,
        "trigger hostile --tenant org_456 --recipient eve --address @blank_channel",
    ),
    (2, "track @lines --tenant org_456 --actor ada"),
    (2, "track go_on --tenant org_456 --actor @256"),
    (2, "track go_on --tenant org_456 --actor ada --payload []"),
    (
        1,
        "track go_on --tenant org_456 --actor ada --payload @deep",
    ),
    (
        2,
        "recipients set @3000 --tenant org_456 --address email=eve@example.com",
    ),
    (1, "recipients set eve --tenant org_456 --locale @sql"),
    (1, "recipients set eve --tenant org_456 --time-zone @bidi"),
    (2, "recipients set eve --tenant org_456 --forget @blank"),
    (2, "recipients set eve --tenant org_456 --address @nothing"),
    (3, "recipients show @emoji --tenant org_456"),
    (
        2,
        "preferences set eve --tenant org_456 --channel @channel_of_two_lines",
    ),
    (2, "preferences set eve --tenant org_456 --category @emoji"),
    (2, "explain @sql --tenant org_456"),
    (2, "explain @run --tenant @blank"),
    (3, "explain @run --tenant @bidi"),
    (
        2,
        "traces @run --tenant org_456 --limit 99999999999999999999",
    ),
    (1, "cancel @run --tenant org_456 --reason @3000"),
    (1, "cancel @run --tenant org_456 --by @nbsp"),
    (3, "cancel @run --tenant @emoji"),
    (3, "cancel --workflow @bidi --tenant org_456"),
    (1, "retry @run --tenant org_456 --by @256"),
    (2, "retry @bytes --tenant org_456"),
    (2, "inbox list --tenant org_456 --recipient @escape"),
    (2, "inbox list --tenant org_456 --recipient eve --limit -1"),
    (2, "inbox read --tenant org_456 --recipient eve @lines"),
    (3, "inbox read --tenant org_456 --recipient @bidi @run"),
    (1, "workflows validate bomb.yaml"),
    (1, "workflows validate deep.json"),
    (1, "workflows validate bytes.yaml"),
    (1, "workflows validate nothing.yaml"),
    (1, "workflows validate twice.json"),
    (1, "workflows validate escape.yaml"),
    (1, "workflows validate @sql"),
    (1, "workflows validate @bytes"),
    (1, "workflows validate @3000"),
    (1, "workflows apply ."),
    (1, "workflows apply bytes.yaml"),
    (1, "workflows apply journey.yaml"),
    (1, "workflows validate journey.yaml"),
    (3, "workflows pause @bidi"),
];

/// Taken, each in its own way.
const TAKEN: &[&str] = &[
    "trigger hostile --tenant org_456 --recipient @bidi --params @odd --correlation-id @escape",
    "trigger hostile --tenant @sql --recipient @sql --params @twice --idempotency-key @lines",
    "trigger hostile --tenant org_456 --recipient @sql --address @sql_address",
    "track @sql --tenant @bidi --actor @emoji --payload @odd",
    "recipients set @bidi --tenant org_456 --address @sql_address --type @lines",
    "recipients show @bidi --tenant org_456",
    "preferences set @sql --tenant org_456 --channel @emoji_off --category @emoji_off",
    "preferences show @sql --tenant org_456",
    "runs --tenant org_456",
    "runs --tenant @sql --recipient @sql --json",
    "cancel @run --tenant org_456 --by @escape --reason @lines",
    "explain @run --tenant org_456",
    "explain @run --tenant org_456 --json",
    "traces @run --tenant org_456",
    "inbox list --tenant org_456 --recipient ada",
];

/// Files that no program should have written.
fn files(folder: &Path) {
    let nines = |n: usize| vec![format!("*a{n}"); 9].join(", ");
    let bomb: String = (1..30)
        .map(|n| format!("a{n}: &a{n} [{}]\n", nines(n - 1)))
        .collect();
    let bomb = format!("a0: &a0 [x]\n{bomb}");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let twice = r#"{"key": "k", "steps": [], "key": "k"}"#;
    let escape = "\"key\\e[2J\": \"\\e]0;owned\\a\"\n\"a\\nb\": [\"\\0\"]\n";
    for (name, bytes) in [
        ("bomb.yaml", bomb.as_bytes()),
        ("deep.json", deep.as_bytes()),
        ("bytes.yaml", b"key: \xff\xfe"),
        ("nothing.yaml", b""),
        ("twice.json", twice.as_bytes()),
        ("escape.yaml", escape.as_bytes()),
        ("journey.yaml", JOURNEY.as_bytes()),
    ] {
        fs::write(folder.join(name), bytes).unwrap();
    }
    fs::create_dir(folder.join("templates")).unwrap();
    for (name, bytes) in [
        ("letter.txt", &b"a\0b"[..]),
        ("note.txt", b"{% for %}"),
        ("escape.html", b"<p>\n{{ \x1b[2J }}"),
    ] {
        fs::write(folder.join("templates").join(name), bytes).unwrap();
    }
}

struct Desk {
    url: String,
    run: String,
    folder: PathBuf,
}

impl Desk {
    async fn run(&self, line: &str) -> Ran {
        let words = line.split(' ').map(|word| value(word, &self.run));
        let mut command = command(chimeway_path());
        command
            .args(words)
            .current_dir(&self.folder)
            .env("DATABASE_URL", &self.url)
            .env("CHIMEWAY_EXTRA_CHANNELS", "letter");
        let ran = Command::from(command).output().await.unwrap().into();
        let Ran { code, out, err } = &ran;
        assert!(!err.contains("panicked"), "{line}: {code} {out}{err}");
        ran
    }
}

#[tokio::test]
async fn a_hostile_argument_or_file_is_taken_or_refused_in_one_line() {
    let ground = Ground::new().await;
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    let desk = Desk {
        url: ground.story.db().url(),
        run: ground.waiting().await.to_string(),
        folder: folder.path().to_owned(),
    };
    let mut conn = ground.story.pool().acquire().await.unwrap();
    let before = ground.everything(&mut conn).await;
    let refusing = stream::iter(REFUSED).map(async |(code, line)| {
        let ran = desk.run(line).await;
        let told = shown(&ran.err);
        assert_eq!(ran.code, *code, "{line}: {}{told}", ran.out);
        assert!(ran.err.starts_with("error: "), "{line}: {told}");
        if line.ends_with("journey.yaml") {
            let told: Vec<&str> = ran.out.lines().collect();
            assert_eq!(told.len(), 3, "{told:?}");
            assert!(told[0].starts_with("templates/escape.html: line 2: "));
            assert!(told[1].starts_with("templates/letter.txt: line 1: a NUL"));
            assert!(!ran.out.contains('\u{1b}'), "{:?}", ran.out);
        }
        if *code != 2 && !line.starts_with("workflows") {
            assert_eq!(ran.out, "", "{line}");
        }
        if *code != 2 {
            let one_line = ran.err.trim_end_matches('\n');
            assert!(!one_line.contains(char::is_control), "{line}: {told}");
        }
    });
    refusing.buffer_unordered(3).collect::<Vec<()>>().await;
    assert_eq!(ground.everything(&mut conn).await, before);

    for line in TAKEN {
        let ran = desk.run(line).await;
        assert_eq!(ran.code, 0, "{line}: {}{}", ran.out, ran.err);
        // Nothing that is stored steers a terminal.
        let steers = |c: char| c.is_control() && c != '\n';
        assert!(!ran.out.contains(steers), "{line}: {:?}", ran.out);
        assert_eq!(ran.err, "", "{line}");
    }
    ground.goes_on().await;
}
