//! Reading the source tree: files, and what in them is code, comment or text.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::programs::root;

/// A file, with its path from the root of the tree.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// Whether it lies in one of these folders, or is one of these files.
    pub(crate) fn is_in(&self, places: &[&str]) -> bool {
        let mut places = places.iter();
        places.any(|place| {
            self.path == *place || place.ends_with('/') && self.path.starts_with(place)
        })
    }

    /// The name of the file without its ending.
    pub(crate) fn stem(&self) -> &str {
        let stem = Path::new(&self.path).file_stem();
        stem.and_then(|stem| stem.to_str()).unwrap_or_default()
    }
}

/// Every file with one of these endings; not what is generated, installed or another tool's.
pub(crate) fn files(endings: &[&str]) -> Vec<Source> {
    let mut found = vec![];
    walk(root(), &mut found);
    let has_ending = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| endings.contains(&ending))
    };
    found.retain(has_ending);
    found.sort();
    let sources = found.into_iter().map(|path| Source {
        path: path
            .strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned(),
        text: fs::read_to_string(&path).unwrap(),
    });
    sources.collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        if is_hidden || name == "target" || name == "node_modules" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Code,
    Comment,
    /// What stands between the quotes of a string.
    Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part<'a> {
    pub(crate) kind: Kind,
    /// The line it begins in.
    pub(crate) line: usize,
    pub(crate) text: &'a str,
}

/// Takes a Rust source apart.
pub(crate) fn parts(source: &str) -> Vec<Part<'_>> {
    let mut parts = vec![];
    let mut line = 1;
    let mut push = |kind, from: usize, to: usize| {
        let text = &source[from..to];
        if !text.is_empty() {
            parts.push(Part { kind, line, text });
            line += text.matches('\n').count();
        }
    };
    let (mut at, mut code) = (0, 0);
    while at < source.len() {
        let rest = &source[at..];
        // How long the whole is, and what of it is inside the quotes.
        let (length, kind, inside) = if rest.starts_with("//") {
            let length = rest.find('\n').unwrap_or(rest.len());
            (length, Kind::Comment, 0..length)
        } else if rest.starts_with("/*") {
            let length = block_comment(rest);
            (length, Kind::Comment, 0..length)
        } else if rest.starts_with('"') {
            let (length, inside) = string(&source[code..at], rest);
            (length, Kind::Text, inside)
        } else {
            at += character(rest).unwrap_or_else(|| rest.chars().next().map_or(1, char::len_utf8));
            continue;
        };
        push(Kind::Code, code, at + inside.start);
        push(kind, at + inside.start, at + inside.end);
        (code, at) = (at + inside.end, at + length);
    }
    push(Kind::Code, code, source.len());
    parts
}

/// The length of a comment; they nest.
fn block_comment(rest: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        let (step, change) = match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (2, 1),
            [b'*', b'/', ..] => (2, -1),
            _ => (1, 0),
        };
        at += step;
        depth += change;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of a string with its quotes, and what is between them. `before` ends with the `r#` of a
/// raw one.
fn string(before: &str, rest: &str) -> (usize, std::ops::Range<usize>) {
    let bare = before.trim_end_matches('#');
    if bare.ends_with('r') {
        let end = format!("\"{}", "#".repeat(before.len() - bare.len()));
        let inside = rest[1..].find(&end).map_or(rest.len(), |length| length + 1);
        return ((inside + end.len()).min(rest.len()), 1..inside);
    }
    let mut escaped = false;
    for (place, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return (place + 1, 1..place),
            _ => {}
        }
    }
    (rest.len(), 1..rest.len())
}

/// The length of a character in quotes; a lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    if let Some(escape) = inside.strip_prefix('\\') {
        // The escaped character may be a quote itself.
        return Some(escape[1..].find('\'')? + 4);
    }
    let length = inside.chars().next()?.len_utf8();
    inside[length..].starts_with('\'').then_some(length + 2)
}

#[test]
fn code_comments_and_texts_are_told_apart() {
    let told = |source| -> Vec<(Kind, String)> {
        let parts = parts(source).into_iter();
        parts
            .map(|part| (part.kind, part.text.to_owned()))
            .collect()
    };
    let code = |text: &str| (Kind::Code, text.to_owned());
    let text = |text: &str| (Kind::Text, text.to_owned());
    let comment = |text: &str| (Kind::Comment, text.to_owned());
    assert_eq!(
        told(r#"a("b \" c", 'd') // e "f""#),
        [
            code("a(\""),
            text(r#"b \" c"#),
            code("\", 'd') "),
            comment("// e \"f\"")
        ]
    );
    assert_eq!(
        told("r#\"a \"b\" \\\"#; '\"' '\\'' &'a str \"c\""),
        [
            code("r#\""),
            text("a \"b\" \\"),
            code("\"#; '\"' '\\'' &'a str \""),
            text("c"),
            code("\"")
        ]
    );
    assert_eq!(
        told("a /* b /* c */ \" */ d"),
        [code("a "), comment("/* b /* c */ \" */"), code(" d")]
    );
    let lines: Vec<usize> = parts("a\n\"b\nc\"\n// d")
        .iter()
        .map(|part| part.line)
        .collect();
    assert_eq!(lines, [1, 2, 3, 4]);
}
