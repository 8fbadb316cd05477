//! Holds `docs/scenarios.md`: every scenario has its line there, and the tests that it names exist and
//! name it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    programs::root,
    source::{Source, files},
};

/// The scenarios of what is built: all but digests, providers' callbacks, quiet hours and caps.
const NUMBERS: &[u32] = &[
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26,
    27, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 45, 46, 47, 48, 49, 50, 51, 52,
    54, 55, 56, 58, 59, 60, 61, 62, 64, 65, 66, 67, 68, 69, 70, 71, 72, 76, 78, 79, 80, 81, 82, 83,
    84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 94, 96, 97, 98, 99, 100, 102, 105, 107, 108, 112, 114,
    116, 117, 118, 119, 120, 121, 122, 123, 125, 126, 127, 129, 130, 131, 132, 133, 136, 138, 139,
    140, 142, 146, 147, 169, 173, 176, 179, 181, 182, 183, 184, 185,
];

/// Where the files of the page's tests lie.
const HOMES: [&str; 2] = ["tests/it/", "crates/chimeway/src/"];

/// A line of the page: the tests it names, and whether it says that ours differs.
struct Line {
    tests: BTreeSet<String>,
    differs: bool,
}

/// The lines of the page's tables, by number; what is no such line is left out.
fn page(text: &str) -> Vec<(u32, Line)> {
    let line = |row: &str| {
        let (number, rest) = row.strip_prefix("| ")?.split_once(" | ")?;
        let quoted = rest.split('`').skip(1).step_by(2);
        let tests = quoted.filter(|name| name.contains("::"));
        let line = Line {
            tests: tests.map(ToOwned::to_owned).collect(),
            differs: rest.contains("differs: "),
        };
        Some((number.parse().ok()?, line))
    };
    text.lines().filter_map(line).collect()
}

/// The numbers that a doc comment names: `/// Scenarios 68, 69.`
fn named(comment: &str) -> Option<Vec<u32>> {
    let rest = comment.trim_start().strip_prefix("/// Scenario")?;
    let numbers = rest.strip_prefix('s').unwrap_or(rest).trim_start();
    let numbers = numbers.split('.').next().unwrap_or_default().split(", ");
    let numbers = numbers.map(|number| {
        let parsed: Result<u32, _> = number.parse();
        parsed.unwrap_or_else(|_| panic!("`{comment}` is not like `/// Scenarios 68, 69.`"))
    });
    Some(numbers.collect())
}

/// The tests of a file, and the scenarios that each names.
fn tests_of(file: &Source) -> Vec<(String, Vec<u32>)> {
    let home = HOMES.iter().find_map(|home| file.path.strip_prefix(home));
    let Some(module) = home.and_then(|path| path.strip_suffix(".rs")) else {
        return vec![];
    };
    let (mut found, mut numbers, mut is_test) = (vec![], vec![], false);
    for line in file.text.lines() {
        let line = line.trim_start();
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(more) = named(line) {
            numbers.extend(more);
        } else if let Some((_, name)) = line.split_once("fn ")
            && !line.starts_with("//")
        {
            let numbers = std::mem::take(&mut numbers);
            let name = name.split('(').next().unwrap_or_default();
            if std::mem::take(&mut is_test) {
                found.push((format!("{module}::{name}"), numbers));
            } else {
                assert!(numbers.is_empty(), "`{module}::{name}` is no test");
            }
        }
    }
    found
}

#[test]
fn every_scenario_has_its_line_and_its_tests() {
    let text = std::fs::read_to_string(root().join("docs/scenarios.md")).unwrap();
    let page = page(&text);
    let numbers: Vec<u32> = page.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, NUMBERS, "the lines of the page, in order");
    let page: BTreeMap<u32, Line> = page.into_iter().collect();

    let sources = files(&["rs"]);
    let tests: BTreeMap<String, Vec<u32>> = sources.iter().flat_map(tests_of).collect();
    let mut wrong = vec![];
    for (number, line) in &page {
        if line.tests.is_empty() && !line.differs {
            wrong.push(format!("{number} names no test, nor why ours differs"));
        }
        for test in &line.tests {
            match tests.get(test) {
                None => wrong.push(format!("{number}: there is no test `{test}`")),
                Some(named) if !named.contains(number) => {
                    wrong.push(format!("{number}: `{test}` does not name it"));
                }
                Some(_) => {}
            }
        }
    }
    for (test, named) in &tests {
        for number in named {
            if !page
                .get(number)
                .is_some_and(|line| line.tests.contains(test))
            {
                wrong.push(format!(
                    "`{test}` names {number}, whose line does not name it"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn lines_and_comments_are_read() {
    let page = page(
        "| | what | shown by |\n|---|---|---|\n| 7 | `to_step` | `a/b::c`, `d::e` |\n| 9 | x | differs: `y` |",
    );
    let read: Vec<_> = page
        .iter()
        .map(|(number, line)| (*number, line.tests.len(), line.differs))
        .collect();
    assert_eq!(read, [(7, 2, false), (9, 0, true)]);
    assert_eq!(named("    /// Scenarios 68, 69."), Some(vec![68, 69]));
    assert_eq!(named("/// Scenario 7."), Some(vec![7]));
    assert_eq!(named("/// The rules of scenarios 49 and 50."), None);
    let file = Source {
        path: "tests/it/a/b.rs".to_owned(),
        text: "/// Scenario 7.\n#[test]\nfn c() {}\n\nfn d() {}\n".to_owned(),
    };
    assert_eq!(tests_of(&file), [("a/b::c".to_owned(), vec![7])]);
}
