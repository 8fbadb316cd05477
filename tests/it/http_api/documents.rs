//! `docs/http-api.md` can be repeated as it stands, and lists what there is.

use std::{collections::BTreeSet, net::TcpListener, path::PathBuf};

use chimeway_testkit::TestDb;
use serde_json::Value;

use super::client::{Served, request};
use crate::programs::{chimeway_path, command, root, run_with_input};

fn page() -> String {
    std::fs::read_to_string(root().join("docs/http-api.md")).unwrap()
}

/// The operations of the document: `GET /api/runs`.
pub(crate) fn operations(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        let methods = methods.filter(|method| *method != "parameters");
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    operations.collect()
}

#[tokio::test]
async fn the_page_lists_every_operation_of_the_document() {
    let served = Served::begin().await;
    let answer = request(&served.address, "GET /api/openapi.json", &[], "").await;
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let page = page();
    let listed: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|cell| cell.contains(" /api/"))
        .map(ToOwned::to_owned)
        .collect();
    assert_eq!(listed, operations(&document));
}

/// All of its commands in one shell, in their order, as somebody types them.
#[tokio::test]
async fn the_session_on_the_page_can_be_repeated() {
    let page = page();
    let blocks = page.split("```sh session\n").skip(1);
    let blocks: Vec<&str> = blocks
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() > 3, "{blocks:?}");
    // A port that nobody has at the moment.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let session = blocks.concat().replace("9464", &port);

    let db = TestDb::create().await;
    let program = chimeway_path();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = program.parent().map(PathBuf::from).into_iter();
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&path))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("journeys"), folder.path().join("journeys")).unwrap();
    let mut shell = command("bash");
    shell.args(["-euo", "pipefail"]).current_dir(folder.path());
    shell.env("PATH", &path).env("DATABASE_URL", db.url());
    let session = format!("trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{session}");
    let ran = tokio::task::spawn_blocking(move || run_with_input(shell, &session));
    let ran = ran.await.unwrap();
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
}
