//! What the documents say works: every block of YAML is a valid workflow or a setting, every block of
//! SQL and of commands runs. A block marked `ignore` does not end by itself or is only shown.

use std::{path::PathBuf, process::Command};

use chimeway::{
    Chimeway, Document,
    definition::{Known, validate},
};
use chimeway_testkit::TestDb;
use sqlx::Executor as _;

use crate::programs::{chimeway_path, command, psql, root, run_with_input};

/// A fenced block.
pub(crate) struct Block {
    pub(crate) place: String,
    pub(crate) language: String,
    pub(crate) text: String,
}

/// The blocks of this language in `docs/`.
fn blocks(language: &str) -> Vec<Block> {
    let mut found = blocks_of("docs");
    found.retain(|block| block.language == language);
    assert!(!found.is_empty(), "no block of {language} is left");
    found
}

/// The blocks of the pages in a folder.
pub(crate) fn blocks_of(folder: &str) -> Vec<Block> {
    let mut pages: Vec<PathBuf> = std::fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "md"))
        .collect();
    pages.sort();
    let mut found = vec![];
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            match (&mut open, line.strip_prefix("```")) {
                (None, Some(language)) => {
                    open = Some(Block {
                        place: format!("{folder}/{name}:{}", number + 1),
                        language: language.to_owned(),
                        text: String::new(),
                    });
                }
                (Some(_), Some(_)) => found.extend(open.take()),
                (Some(block), None) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
    }
    found
}

/// A shell that stops at the first error, has `chimeway` in its path, and sees that database alone.
pub(crate) fn shell(url: &str) -> Command {
    let program = chimeway_path();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = program.parent().map(PathBuf::from).into_iter();
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap();
    let mut shell = command("bash");
    shell.args(["-euo", "pipefail"]).current_dir(root());
    shell.env("PATH", &path).env("DATABASE_URL", url);
    shell
}

#[test]
fn every_workflow_in_the_documents_is_valid() {
    for block in blocks("yaml") {
        let document = Document::from_yaml(block.place.as_str(), &block.text).unwrap();
        if let Err(mistakes) = validate(&document, &Known::default()) {
            panic!("{}: {mistakes:?}", block.place);
        }
    }
}

/// What a page shows of a host's test is in that host, and so runs.
#[test]
fn the_test_in_the_documents_is_a_test_of_an_example() {
    let host = std::fs::read_to_string(root().join("examples/axum-host/src/comments.rs")).unwrap();
    let dedented: Vec<&str> = host
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .collect();
    let host = dedented.join("\n");
    let page = std::fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let (_, test) = page.split_once("```rust\n").unwrap();
    let (test, _) = test.split_once("```").unwrap();
    assert!(test.lines().count() <= 12, "it was ten lines once");
    assert!(host.contains(test.trim_end()), "{test}");
}

/// A database with the journeys, and the host's table that examples write to.
async fn database() -> TestDb {
    let db = TestDb::create().await;
    let journey = std::fs::read_to_string(root().join("journeys/mention_escalation.yaml")).unwrap();
    let document = Document::from_yaml("journeys", &journey).unwrap();
    Chimeway::builder()
        .build()
        .apply(db.pool(), &document)
        .await
        .unwrap();
    db.pool()
        .execute("create table comments (id int primary key, body text)")
        .await
        .unwrap();
    db
}

#[tokio::test]
async fn every_statement_in_the_documents_runs() {
    let db = database().await;
    for block in blocks("sql") {
        // A role belongs to the server, which tests share.
        let statements = block
            .text
            .replace("create role app login;", "")
            .replace("to app;", "to public;");
        let ran = psql(&db.url(), &[], &statements);
        assert_eq!(ran.code, 0, "{}: {}", block.place, ran.err);
    }
}

#[tokio::test]
async fn the_transaction_in_the_readme_starts_a_run() {
    let db = database().await;
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, from) = readme.split_once("<<'SQL'\n").unwrap();
    let (script, _) = from.split_once("\nSQL\n").unwrap();
    let script = format!("drop table comments; {script}");
    psql(&db.url(), &[], &script).expect(0);
    let events: i64 = sqlx::query_scalar("select count(*) from chimeway.events")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(events, 1);
}

#[tokio::test]
async fn every_command_in_the_documents_runs() {
    let db = database().await;
    for block in blocks("sh") {
        let ran = run_with_input(shell(&db.url()), &block.text);
        assert_eq!(ran.code, 0, "{}: {}", block.place, ran.err);
    }
}
