//! What people write: YAML or JSON, read into one value, not yet checked.

use serde_json::Value;

use super::{
    error::{DefinitionError, Problem},
    shape::shown,
    strict::Strict,
};
use crate::ids::Version;

/// A workflow as it was written. Only [`validate`](super::validate()) says whether it is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    name: Option<String>,
    value: Value,
    /// Mistakes of the writer that have no place in the value; only the builder makes them.
    pub(super) stray: Vec<DefinitionError>,
}

impl Document {
    /// Reads YAML 1.2. `name` says where the text is from, for messages.
    ///
    /// A key given twice is refused, so are merge keys (`<<`) and tags; aliases are limited.
    ///
    /// # Errors
    ///
    /// The first syntax error, with its line and column.
    pub fn from_yaml(name: impl Into<String>, text: &str) -> Result<Self, DefinitionError> {
        let options = serde_saphyr::options! {
            strict_booleans: true,
            merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
            duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
            reject_unsupported_tags: true,
            with_snippet: false,
        };
        match serde_saphyr::from_str_with_options::<Strict>(text, options) {
            Ok(Strict(value)) => Ok(Self::new(Some(name.into()), value)),
            Err(error) => {
                let (line, column) = error
                    .location()
                    .map_or((1, 1), |place| (place.line(), place.column()));
                Err(syntax(line, column, &yaml_message(&error)))
            }
        }
    }

    /// Reads JSON. `name` says where the text is from, for messages.
    ///
    /// # Errors
    ///
    /// The first syntax error, with its line and column; a key given twice is one.
    pub fn from_json(name: impl Into<String>, text: &str) -> Result<Self, DefinitionError> {
        match serde_json::from_str::<Strict>(text) {
            Ok(Strict(value)) => Ok(Self::new(Some(name.into()), value)),
            Err(error) => {
                let (line, column) = (error.line() as u64, error.column() as u64);
                // The parser repeats the place at the end of its text.
                let text = error.to_string();
                let message = text
                    .rsplit_once(" at line ")
                    .map_or(text.as_str(), |(text, _)| text);
                Err(syntax(line, column.max(1), message))
            }
        }
    }

    /// Takes a value that is parsed already.
    #[must_use]
    pub fn from_value(value: Value) -> Self {
        Self::new(None, value)
    }

    /// Reads YAML or JSON as the extension of `name` says: `.yaml`, `.yml` or `.json`.
    ///
    /// # Errors
    ///
    /// [`Problem::UnknownFormat`] for another extension, else as [`Document::from_yaml`].
    pub fn parse(name: impl Into<String>, text: &str) -> Result<Self, DefinitionError> {
        let name = name.into();
        let extension = name
            .rsplit_once('.')
            .map(|(_, end)| end.to_ascii_lowercase());
        match extension.as_deref() {
            Some("yaml" | "yml") => Self::from_yaml(name, text),
            Some("json") => Self::from_json(name, text),
            _ => Err(DefinitionError {
                pointer: String::new(),
                problem: Problem::UnknownFormat { name },
                hint: Some("name it `.yaml`, `.yml` or `.json`".into()),
            }),
        }
    }

    fn new(name: Option<String>, value: Value) -> Self {
        Self {
            name,
            value,
            stray: vec![],
        }
    }

    /// Where it is from, if it was read from a text.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What it says.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The workflow's key as the document gives it: unchecked, and in any way of writing one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        let text = |key| self.value.get(key).and_then(Value::as_str);
        // The rule dialect trims its names.
        let key = text("key").or_else(|| text("workflow_key").map(str::trim));
        key.or_else(|| text("name"))
    }

    /// The version the document gives itself, if it gives one and it is a version.
    #[must_use]
    pub fn explicit_version(&self) -> Option<Version> {
        let given = self.value.get("version");
        given
            .or_else(|| self.value.get("workflow_version"))
            .and_then(version)
    }
}

/// A whole number from 1 on that the database can hold.
pub(super) fn version(value: &Value) -> Option<Version> {
    let number = i32::try_from(value.as_i64()?).ok()?;
    (number >= 1).then_some(Version(number))
}

fn syntax(line: u64, column: u64, message: &str) -> DefinitionError {
    let message = shown(message.lines().next().unwrap_or_default());
    let problem = Problem::Syntax {
        line,
        column,
        message,
    };
    DefinitionError {
        pointer: String::new(),
        problem,
        hint: None,
    }
}

/// What the parser says, without its advice to the programmer who calls it.
fn yaml_message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as E;

    match error {
        E::AliasError { error, .. } => yaml_message(error),
        E::DuplicateMappingKey { key: Some(key), .. } => format!("the key `{key}` is given twice"),
        E::MultipleDocuments { .. } => "a file holds one workflow, this is the second".into(),
        E::Unexpected {
            expected: "string scalar",
            ..
        } => "a key must be a string".into(),
        E::MergeKeyNotAllowed { .. } => "merge keys (`<<`) are not allowed".into(),
        E::NonFiniteFloat { value, .. } => format!("`{value}` is not a number that JSON can hold"),
        E::Budget { .. }
        | E::AliasReplayCounterOverflow { .. }
        | E::AliasReplayLimitExceeded { .. }
        | E::AliasExpansionLimitExceeded { .. }
        | E::AliasReplayStackDepthExceeded { .. } => {
            "the document is too large or too deep, with its aliases written out".into()
        }
        other => {
            // The place stands at the end of its text; a `Syntax` problem says it in front.
            let text = other.to_string();
            text.rsplit_once(" at line ")
                .map_or(text.clone(), |(text, _)| text.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_and_json_say_the_same() {
        let yaml =
            "key: k\nversion: 2\nsteps:\n  - {id: a, on: {delivered: end}, n: 1.5, x: null}\n";
        let json = r#"{"key":"k","version":2,
            "steps":[{"id":"a","on":{"delivered":"end"},"n":1.5,"x":null}]}"#;
        let (yaml, json) = (
            Document::parse("a.yaml", yaml).unwrap(),
            Document::parse("a.JSON", json).unwrap(),
        );
        assert_eq!(yaml.value(), json.value());
        assert_eq!((yaml.name(), json.name()), (Some("a.yaml"), Some("a.JSON")));
        assert_eq!(yaml.explicit_version(), Some(Version(2)));
    }

    #[test]
    fn yaml_words_that_were_once_booleans_are_words() {
        let document = Document::from_yaml("w", "on: no\nyes: off\nt: true\n").unwrap();
        assert_eq!(
            document.value(),
            &json!({ "on": "no", "yes": "off", "t": true })
        );
    }

    #[test]
    fn only_a_version_is_a_version() {
        let versions = [
            json!(1),
            json!(0),
            json!(-1),
            json!("1"),
            json!(1.5),
            json!(2147483648_i64),
        ];
        let found: Vec<_> = versions
            .into_iter()
            .map(|version| Document::from_value(json!({ "version": version })).explicit_version())
            .collect();
        assert_eq!(found, [Some(Version(1)), None, None, None, None, None]);
        assert_eq!(Document::from_value(json!([])).explicit_version(), None);
    }

    #[test]
    fn key_and_version_are_found_in_either_spelling() {
        let found = |value| {
            let document = Document::from_value(value);
            (
                document.key().map(ToOwned::to_owned),
                document.explicit_version(),
            )
        };
        let given = || Some("k".to_owned());
        let table = [
            (
                json!({ "key": "k", "version": 2 }),
                given(),
                Some(Version(2)),
            ),
            (
                json!({ "workflow_key": " k ", "workflow_version": 3 }),
                given(),
                Some(Version(3)),
            ),
            (
                json!({ "workflow_key": 1, "workflow_version": 0 }),
                None,
                None,
            ),
            (json!({}), None, None),
            (json!([]), None, None),
        ];
        for (value, key, version) in table {
            assert_eq!(found(value.clone()), (key, version), "{value}");
        }
    }

    #[test]
    fn a_syntax_error_says_where() {
        let table = [
            (
                "a.yaml",
                "key: k\nkey: l\n",
                "line 2, column 1: the key `key` is given twice",
            ),
            (
                "a.yaml",
                "key: [1, 2\nsteps: 3\n",
                "line 2, column 6: illegal placement of ':' indicator",
            ),
            (
                "a.yaml",
                "key: k\n\tsteps: 1\n",
                "line 1, column 6: while scanning a plain scalar, found a tab",
            ),
            (
                "a.yaml",
                "a: &x 1\n<<: *y\n",
                "line 2, column 1: merge keys (`<<`) are not allowed",
            ),
            (
                "a.yaml",
                "a: {b: 1}\nc:\n  <<: {d: 1}\n",
                "line 3, column 3: merge keys (`<<`) are not allowed",
            ),
            (
                "a.yaml",
                "a: !custom 1\n",
                "line 1, column 12: unsupported tag `!custom`",
            ),
            (
                "a.yaml",
                "a: .inf\n",
                "line 1, column 4: `.inf` is not a number that JSON can hold",
            ),
            (
                "a.yaml",
                "a: 1\n---\nb: 2\n",
                "line 3, column 1: a file holds one workflow, this is the second",
            ),
            (
                "a.yaml",
                "? [1]\n: 2\n",
                "line 1, column 3: a key must be a string",
            ),
            (
                "a.json",
                "{\"key\": 1,\n \"key\": 2}",
                "line 2, column 6: the key `key` is given twice",
            ),
            (
                "a.json",
                "{\"key\": 1",
                "line 1, column 9: EOF while parsing an object",
            ),
            ("a.json", "{} {}", "line 1, column 4: trailing characters"),
            ("a.json", "", "line 1, column 1: EOF while parsing a value"),
            (
                "a.toml",
                "",
                "`a.toml` is neither a YAML nor a JSON file; name it `.yaml`, `.yml` or `.json`",
            ),
            (
                "steps",
                "",
                "`steps` is neither a YAML nor a JSON file; name it `.yaml`, `.yml` or `.json`",
            ),
        ];
        for (name, text, expected) in table {
            let error = Document::parse(name, text).expect_err(text);
            assert_eq!(error.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn aliases_do_not_explode() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for n in 1..12 {
            let past = vec![format!("*a{}", n - 1); 9].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{past}]\n"));
        }
        let error = Document::from_yaml("bomb.yaml", &text).unwrap_err();
        insta::assert_snapshot!(error, @"line 6, column 20: the document is too large or too deep, with its aliases written out");
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let deep = "[".repeat(100_000);
        assert!(Document::from_yaml("deep.yaml", &deep).is_err());
        assert!(Document::from_json("deep.json", &deep).is_err());
    }
}
