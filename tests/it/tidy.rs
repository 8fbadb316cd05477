//! Rules of the source tree that no compiler holds. `checkers.rs` has how each is checked.

use crate::{
    checkers::{
        LIBRARY, dead_documents, dead_ends, gives_up, is_test_file, layer, named,
        nameless_statements, sql, wrong_imports,
    },
    source::{Source, files},
};

/// The layers that do no input or output, and what they would need for it.
const PURE: [&str; 2] = ["definition", "engine"];
const IMPURE: [&str; 9] = [
    "sqlx::",
    "tokio::",
    "tracing::",
    "std::fs",
    "std::env",
    "std::net",
    "std::io",
    "Instant",
    "SystemTime",
];

/// Where SQL may be written beside `store`: each a host's or a test's, the listener's own connection, or
/// what measures the engine from outside.
const SQL_HOMES: [&str; 9] = [
    "benches/",
    "crates/chimeway/src/store/",
    "crates/chimeway/src/queue/listener.rs",
    "crates/chimeway-cluster/tests/",
    "crates/chimeway-testkit/",
    "crates/chimeway-worker/src/commands/bench/",
    "crates/chimeway-worker/src/commands/demo/host.rs",
    "examples/",
    "tests/",
];

/// Where apalis may be named: by us in the queue, in the example of a host that has a queue of its own, and in what
/// is measured beside it. In
/// `crates/` that goes for comments and texts too.
const APALIS_HOMES: [&str; 3] = [
    "benches/over-apalis-postgres/",
    "crates/chimeway/src/queue/",
    "examples/embedded-fleet/",
];
const APALIS_MANIFESTS: [&str; 4] = [
    "Cargo.toml",
    "benches/over-apalis-postgres/Cargo.toml",
    "crates/chimeway/Cargo.toml",
    "examples/embedded-fleet/Cargo.toml",
];

const LONGEST_FILE: usize = 600;

#[test]
fn imports_point_one_way() {
    assert_none(
        library()
            .iter()
            .flat_map(|file| wrong_imports(&file.path, &file.text)),
    );
}

#[test]
fn definition_and_engine_do_no_input_and_output() {
    let pure = library()
        .into_iter()
        .filter(|file| PURE.contains(&layer(&file.path)) && !is_test_file(&file.path));
    assert_none(pure.flat_map(|file| named(&file, &IMPURE)));
}

#[test]
fn only_flow_and_queue_measure() {
    let elsewhere = library()
        .into_iter()
        .filter(|file| !["flow", "queue"].contains(&layer(&file.path)));
    assert_none(elsewhere.flat_map(|file| named(&file, &["metrics"])));
}

#[test]
fn sql_is_in_the_store_and_the_migrations_only() {
    let elsewhere = files(&["rs"])
        .into_iter()
        .filter(|file| !file.is_in(&SQL_HOMES));
    assert_none(elsewhere.flat_map(|file| sql(&file)));
}

#[test]
fn only_the_queue_names_apalis() {
    let elsewhere = files(&["rs"]).into_iter();
    let elsewhere = elsewhere.filter(|file| !file.is_in(&APALIS_HOMES));
    assert_none(elsewhere.flat_map(|file| {
        if file.is_in(&["crates/"]) && file.text.contains("apalis") {
            return vec![file.path];
        }
        named(&file, &["apalis"])
    }));
    let manifests = files(&["toml"]).into_iter();
    let manifests = manifests.filter(|file| !file.is_in(&APALIS_MANIFESTS));
    assert_none(
        manifests
            .filter(|file| file.text.contains("apalis"))
            .map(|file| file.path),
    );
}

#[test]
fn few_files_make_statements_of_texts() {
    let homes = [
        "crates/chimeway-testkit/",
        // The tables of hosts.
        "crates/chimeway/src/store/host_rows.rs",
        // A number of milliseconds.
        "crates/chimeway/src/store/settings.rs",
    ];
    let elsewhere = files(&["rs"]).into_iter();
    let elsewhere = elsewhere.filter(|file| !file.is_in(&homes));
    assert_none(elsewhere.flat_map(|file| named(&file, &["AssertSqlSafe"])));
}

#[test]
fn a_statement_names_its_function_first() {
    let store = files(&["rs"]).into_iter();
    let store = store.filter(|file| file.is_in(&["crates/chimeway/src/store/"]));
    assert_none(store.flat_map(|file| nameless_statements(&file)));
}

#[test]
fn nothing_but_a_test_gives_up() {
    let products = files(&["rs"]).into_iter().filter(|file| {
        file.path.starts_with("crates/")
            && file.path.contains("/src/")
            && !file.is_in(&["crates/chimeway-testkit/"])
            && !is_test_file(&file.path)
    });
    assert_none(products.flat_map(|file| gives_up(&file)));
}

#[test]
fn no_code_is_unsafe_and_every_crate_takes_the_lints_of_the_workspace() {
    assert_none(
        files(&["rs"])
            .iter()
            .flat_map(|file| named(file, &["unsafe"])),
    );
    let members = files(&["toml"])
        .into_iter()
        .filter(|file| file.text.contains("[package]"));
    let bare = members.filter(|file| !file.text.contains("[lints]\nworkspace = true"));
    assert_none(bare.map(|file| file.path));
}

#[test]
fn files_are_short_and_nothing_is_left_to_do() {
    for file in files(&["rs", "sql", "py", "md", "yaml"]) {
        let lines = file.text.lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines", file.path);
        for mark in [
            concat!("TO", "DO"),
            concat!("FIX", "ME"),
            concat!("XX", "X"),
        ] {
            assert!(!file.text.contains(mark), "{} says {mark}", file.path);
        }
    }
}

#[test]
fn what_documents_and_comments_point_to_is_there() {
    let documents = files(&["md"]);
    assert!(
        documents.iter().any(|file| file.path == "README.md"),
        "there is no README.md"
    );
    assert_none(documents.iter().flat_map(dead_ends));
    let sources = files(&["rs", "sql", "py"]);
    assert_none(sources.iter().flat_map(dead_documents));
}

fn library() -> Vec<Source> {
    let files = files(&["rs"]).into_iter();
    let files: Vec<Source> = files
        .filter(|file| file.path.starts_with(LIBRARY))
        .collect();
    assert!(files.len() > 40, "the library was not found");
    files
}

/// Fails with every finding.
#[track_caller]
fn assert_none(findings: impl IntoIterator<Item = String>) {
    let findings: Vec<String> = findings.into_iter().collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}
