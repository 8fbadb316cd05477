//! The checkers of `tidy.rs`, each with a test on a small violation.

use std::collections::BTreeSet;

use crate::{
    programs::root,
    source::{Kind, Source, files, parts},
};

pub(crate) const LIBRARY: &str = "crates/chimeway/src/";

/// The layers of the library, lowest first: a layer imports itself and those before it.
const LAYERS: [&str; 7] = [
    "ids",
    "definition",
    "engine",
    "store",
    "queue",
    "channels",
    "flow",
];

/// The layer of a file of the library; `lib` for its root.
pub(crate) fn layer(path: &str) -> &str {
    let inside = path.strip_prefix(LIBRARY).unwrap_or(path);
    inside.split(['/', '.']).next().unwrap_or_default()
}

pub(crate) fn wrong_imports(path: &str, text: &str) -> Vec<String> {
    let own = layer(path);
    let rank = |layer: &str| LAYERS.iter().position(|it| *it == layer);
    let Some(own_rank) = rank(own) else {
        return vec![];
    };
    let wrong = imports(text).into_iter().filter(|other| {
        let narrow =
            own == "channels" && !["ids", "definition", "channels"].contains(&other.as_str());
        narrow || rank(other).is_some_and(|rank| rank > own_rank)
    });
    wrong
        .map(|other| format!("{path}: {own} imports {other}"))
        .collect()
}

/// The modules that a file of the library names by their path from its root.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let code = code(text);
    for (place, path) in code.match_indices("crate::") {
        let rest = code[place + path.len()..].trim_start();
        match rest.strip_prefix('{') {
            None => found.extend(word(rest)),
            Some(list) => {
                let (mut depth, mut begins) = (0, true);
                for (place, letter) in list.char_indices() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        _ if begins && !letter.is_whitespace() => {
                            found.extend(word(&list[place..]));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

/// The word that a text begins with.
fn word(text: &str) -> Option<String> {
    let end = text.find(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
    let word = &text[..end.unwrap_or(text.len())];
    (!word.is_empty()).then(|| word.to_owned())
}

fn code(text: &str) -> String {
    let parts = parts(text)
        .into_iter()
        .filter(|part| part.kind == Kind::Code);
    parts.map(|part| part.text).collect()
}

/// Where one of these stands in the code, not in comments or texts. A word is not part of a longer one.
pub(crate) fn named(file: &Source, names: &[&str]) -> Vec<String> {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut found = vec![];
    for part in parts(&file.text)
        .iter()
        .filter(|part| part.kind == Kind::Code)
    {
        for name in names {
            for (place, _) in part.text.match_indices(name) {
                let (before, after) = (&part.text[..place], &part.text[place + name.len()..]);
                let is_part = |side: Option<char>, edge: Option<char>| {
                    edge.is_some_and(is_word) && side.is_some_and(is_word)
                };
                // `apalis_core` is apalis too; `unsafe_code` is not unsafe.
                let longer =
                    is_part(after.chars().next(), name.chars().next_back()) && *name != "apalis";
                if longer || is_part(before.chars().next_back(), name.chars().next()) {
                    continue;
                }
                let line = part.line + before.matches('\n').count();
                found.push(format!("{}:{line}: {name}", file.path));
            }
        }
    }
    found
}

/// Statements, whether they are given to sqlx or not.
pub(crate) fn sql(file: &Source) -> Vec<String> {
    const BEGINNINGS: [&str; 12] = [
        "select ",
        "select\n",
        "insert into ",
        "update chimeway.",
        "delete from ",
        "create table ",
        "create schema ",
        "alter table ",
        "drop table ",
        "truncate ",
        "listen ",
        "notify ",
    ];
    let mut found = named(
        file,
        &["sqlx::query", "query!", "query_as!", "query_scalar!"],
    );
    for part in parts(&file.text)
        .iter()
        .filter(|part| part.kind == Kind::Text)
    {
        let text = part.text.to_lowercase();
        let mut lines = text.lines().map(str::trim_start);
        let is_with = text.trim_start().starts_with("with ") && text.contains(" as (");
        if is_with
            || lines.any(|line| {
                BEGINNINGS
                    .iter()
                    .any(|it| format!("{line}\n").starts_with(it))
            })
        {
            found.push(format!("{}:{}: {}", file.path, part.line, part.text));
        }
    }
    found
}

/// Statements of `store` that do not begin with `-- file::function`.
pub(crate) fn nameless_statements(file: &Source) -> Vec<String> {
    let mut function = String::new();
    let mut is_statement = false;
    let mut found = vec![];
    for part in parts(&file.text) {
        match part.kind {
            Kind::Comment => {}
            Kind::Code => {
                if let Some((_, after)) = part.text.rsplit_once("fn ") {
                    function = word(after).unwrap_or_default();
                }
                let asks = ["query!(", "query_as!(", "query_scalar!(", "sqlx::query"];
                is_statement |= asks.iter().any(|ask| part.text.contains(ask));
            }
            Kind::Text if is_statement => {
                is_statement = false;
                let expected = format!("-- {}::{function}", file.stem());
                let first = part.text.lines().next().unwrap_or_default();
                let is_named = first == expected || first.starts_with(&format!("{expected} ("));
                if !is_named {
                    found.push(format!("{}:{}: not `{expected}`", file.path, part.line));
                }
            }
            Kind::Text => {}
        }
    }
    found
}

pub(crate) fn is_test_file(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("tests.rs")
}

/// Where a source panics, outside its tests: nowhere by `unwrap`, and otherwise only where the
/// function says so under `# Panics`.
pub(crate) fn gives_up(file: &Source) -> Vec<String> {
    let text = without_tests(&file.text);
    let is_told = |line: &str| {
        let number: usize = line
            .split(':')
            .nth(1)
            .and_then(|it| it.parse().ok())
            .unwrap_or(0);
        let end: usize = text.split_inclusive('\n').take(number).map(str::len).sum();
        let own = text[..end].rfind("fn ").unwrap_or(0);
        let before = text[..own].rfind("fn ").unwrap_or(0);
        text[before..own].contains("# Panics")
    };
    let path = file.path.clone();
    let file = Source {
        path,
        text: text.clone(),
    };
    let mut found = named(
        &file,
        &[".unwrap()", ".unwrap_err()", "todo!(", "unimplemented!("],
    );
    let aloud = named(&file, &[".expect(", "panic!(", "unreachable!("]);
    found.extend(aloud.into_iter().filter(|line| !is_told(line)));
    found
}

/// A source without its test modules, which rustfmt ends with a `}` that stands first in its line.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" {
            // The module's first line may be its last: `mod tests;`
            for line in lines.by_ref() {
                if line == "}" || line.ends_with(';') && line.starts_with("mod ") {
                    break;
                }
            }
            kept.push_str("\n\n");
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept.replace("#[cfg(test)]", "")
}

/// Links that lead nowhere, and files named in `code` that are not there.
pub(crate) fn dead_ends(file: &Source) -> Vec<String> {
    let mut missing = vec![];
    let mut in_block = false;
    for (number, line) in file.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        let targets = links(line).into_iter();
        let targets = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
        let broken = targets.filter(|target| {
            let path = target.split('#').next().unwrap_or_default();
            !folder(&file.path).join(path).exists()
        });
        let names = quoted(line)
            .into_iter()
            .filter(|name| looks_like_a_file(name));
        let absent = names.filter(|name| !is_there(&file.path, name));
        let absent: Vec<String> = broken.chain(absent).collect();
        missing.extend(
            absent
                .iter()
                .map(|name| format!("{}:{}: {name}", file.path, number + 1)),
        );
    }
    missing
}

/// Documents that a comment names and that are not there.
pub(crate) fn dead_documents(file: &Source) -> Vec<String> {
    let comments: Vec<(usize, &str)> = if file.path.ends_with(".rs") {
        let parts = parts(&file.text)
            .into_iter()
            .filter(|part| part.kind == Kind::Comment);
        parts.map(|part| (part.line, part.text)).collect()
    } else {
        let lines = file
            .text
            .lines()
            .enumerate()
            .map(|(place, line)| (place + 1, line));
        let is_comment = |line: &str| line.trim_start().starts_with(['-', '#']);
        lines.filter(|(_, line)| is_comment(line)).collect()
    };
    let mut missing = vec![];
    for (line, comment) in comments {
        let is_path = |letter: char| letter.is_alphanumeric() || "_-./".contains(letter);
        for name in comment.split(|letter| !is_path(letter)) {
            let name = name.trim_end_matches('.');
            if name.len() > 3 && name.ends_with(".md") && !is_there(&file.path, name) {
                missing.push(format!("{}:{line}: {name}", file.path));
            }
        }
    }
    missing
}

/// The targets of `[text](target)`.
fn links(line: &str) -> Vec<String> {
    let rest = line.split("](").skip(1);
    let targets = rest.filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// What stands between backticks.
fn quoted(line: &str) -> Vec<String> {
    line.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// `docs/adr/`, `scripts/test`, `tidy.rs`; not `a/b or c`, `/api/_admin`, `*.yaml` or `<KEY>.txt`.
fn looks_like_a_file(name: &str) -> bool {
    let is_path = |letter: char| letter.is_alphanumeric() || "_-./".contains(letter);
    let endings = [
        ".rs", ".sql", ".md", ".yaml", ".toml", ".py", ".snap", ".json",
    ];
    name.chars().all(is_path)
        && !name.starts_with('/')
        && (endings
            .iter()
            .any(|ending| name.len() > ending.len() && name.ends_with(ending))
            || name
                .split_once('/')
                .is_some_and(|(first, _)| root().join(first).is_dir()))
}

/// From the document's own folder, from the root, or from the library's sources, where most live.
fn is_there(document: &str, name: &str) -> bool {
    let folders = [folder(document), root().to_owned(), root().join(LIBRARY)];
    folders.iter().any(|folder| folder.join(name).exists())
        || !name.contains('/') && all_names().contains(name)
}

fn folder(path: &str) -> std::path::PathBuf {
    let path = root().join(path);
    path.parent().unwrap_or(root()).to_owned()
}

/// The names of all files in the folders of the tree.
fn all_names() -> BTreeSet<String> {
    let endings = ["rs", "sql", "md", "yaml", "toml", "py", "snap"];
    let names = files(&endings).into_iter();
    names
        .filter_map(|file| Some(file.path.rsplit('/').next()?.to_owned()))
        .collect()
}

mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        let path = "crates/chimeway/src/store/runs.rs".to_owned();
        Source {
            path,
            text: text.to_owned(),
        }
    }

    #[test]
    fn an_import_against_the_arrows_is_seen() {
        let wrong = |path: &str, text: &str| wrong_imports(&format!("{LIBRARY}{path}"), text).len();
        for text in [
            "use crate::store::runs;",
            "use crate::{definition::{Step, Plan}, store::{self, runs}};",
            "use crate::{\n    ids::RunId,\n    flow::{definition::X, store},\n};",
            "fn f() { crate::queue::wake() }",
        ] {
            assert_eq!(wrong("engine/wait.rs", text), 1, "{text}");
            assert_eq!(wrong("flow/wait.rs", text), 0, "{text}");
        }
        assert_eq!(
            wrong(
                "channels/log.rs",
                "use crate::{ids::A, engine::B, store::C};"
            ),
            2
        );
        assert_eq!(wrong("ids.rs", "use crate::definition::Step;"), 1);
        let innocent = "// crate::store\n/// [`crate::flow`]\nconst A: &str = \"crate::flow\"; use crate::ids::A;";
        assert_eq!(wrong("engine/wait.rs", innocent), 0);
        assert_eq!(wrong("lib.rs", "use crate::flow::A;"), 0);
    }

    #[test]
    fn a_statement_outside_the_store_is_seen() {
        for text in [
            "sqlx::query(sql)",
            "let rows = query_as!(Row, sql)",
            "const A: &str = \"select 1\";",
            "f(r#\"-- due::next\nselect\n  1\"#)",
            "f(\"UPDATE chimeway.settings set notify = false\")",
            "f(\"with a as (values (1)) table a\")",
            "conn.execute(\"listen chimeway\")",
        ] {
            assert_eq!(sql(&source(text)).len(), 1, "{text}");
        }
        for text in [
            "// select 1\nlet select = 1;",
            "f(\"please select one\")",
            "tokio::select! {}",
            "f(\"with care\")",
            "f(\"update it\")",
        ] {
            assert_eq!(sql(&source(text)), <[String; 0]>::default(), "{text}");
        }
    }

    #[test]
    fn a_forbidden_name_is_seen_in_code_only() {
        let seen = |text: &str, name: &str| named(&source(text), &[name]);
        assert_eq!(
            seen("\nuse apalis_core::Task;", "apalis"),
            ["crates/chimeway/src/store/runs.rs:2: apalis"]
        );
        assert_eq!(seen("unsafe { f() }", "unsafe").len(), 1);
        assert_eq!(seen("a.unwrap()", ".unwrap()").len(), 1);
        for text in [
            "#![forbid(unsafe_code)]",
            "// unsafe",
            "f(\"unsafe\")",
            "not_unsafe()",
        ] {
            assert_eq!(seen(text, "unsafe").len(), 0, "{text}");
        }
        assert_eq!(seen("a.unwrap_or(1)", ".unwrap()").len(), 0);
    }

    #[test]
    fn a_statement_without_its_functions_name_is_seen() {
        let nameless = |text: &str| nameless_statements(&source(text)).len();
        for (text, expected) in [
            ("fn lock() { query!(r#\"-- runs::lock\nselect 1\"#) }", 0),
            (
                "fn lock() { query!(r#\"-- runs::lock (steps)\nselect 1\"#) }",
                0,
            ),
            ("fn lock() { query!(r#\"-- runs::save\nselect 1\"#) }", 1),
            ("fn lock() { query!(r#\"-- signals::lock\nselect 1\"#) }", 1),
            ("fn lock() { sqlx::query_as!(Row, \"select 1\") }", 1),
            ("fn lock() { f(\"text\") }", 0),
        ] {
            assert_eq!(nameless(text), expected, "{text}");
        }
    }

    #[test]
    fn test_modules_are_left_out_and_nothing_else() {
        let text = "fn a() { x.unwrap() }\n#[cfg(test)]\nmod tests {\n    fn b() {\n        y.unwrap()\n    }\n}\n\
                    fn c() { z.unwrap() }\n#[cfg(test)]\n#[path = \"d.rs\"]\nmod tests;\nfn d() { u.unwrap() }\n";
        let kept = without_tests(text);
        for (name, expected) in [("x", true), ("y", false), ("z", true), ("u", true)] {
            assert_eq!(
                kept.contains(&format!("{name}.unwrap()")),
                expected,
                "{name}: {kept}"
            );
        }
    }

    #[test]
    fn giving_up_is_seen_unless_it_is_told() {
        let seen = |text: &str| gives_up(&source(text)).len();
        let told = "/// Does.\n///\n/// # Panics\n///\n/// If not.\n";
        for (text, expected) in [
            ("fn f() { a.expect(\"b\") }".to_owned(), 1),
            (format!("{told}fn f() {{ panic!(\"b\") }}"), 0),
            (format!("{told}fn f() {{ a.unwrap() }}"), 1),
            (
                format!("{told}fn f() {{}}\nfn g() {{\n    a.expect(\"b\")\n}}"),
                1,
            ),
            (
                "fn f() {}\n#[cfg(test)]\nmod tests {\n    a.unwrap()\n}\n".to_owned(),
                0,
            ),
        ] {
            assert_eq!(seen(&text), expected, "{text}");
        }
    }

    #[test]
    fn a_link_that_leads_nowhere_is_seen() {
        let document = |text: &str| Source {
            path: "docs/a.md".into(),
            text: text.into(),
        };
        let dead = |text: &str| dead_ends(&document(text));
        assert_eq!(
            dead("[a](no_such.md) [b](https://example.com/a.md) [c](#here)"),
            ["docs/a.md:1: no_such.md"]
        );
        assert_eq!(
            dead("\n`scripts/no_such` `no_such.rs` `migrations/`").len(),
            2
        );
        assert_eq!(
            dead("[a](lifecycle.md#states) `scripts/test` `store/runs.rs` `tidy.rs`"),
            <[String; 0]>::default()
        );
        assert_eq!(
            dead("```\n[a](no_such.md)\n```\n`/api/_admin/a` `a / b`"),
            <[String; 0]>::default()
        );
        let comment = |text: &str| dead_documents(&source(text)).len();
        assert_eq!(comment("// see docs/no_such.md.\nf(\"docs/none.md\")"), 1);
        assert_eq!(comment("// see docs/lifecycle.md."), 0);
    }
}
