//! Reading a JSON value by hand, so that every mistake is found and none ends the reading.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::error::{DefinitionError, Problem};

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Vec<DefinitionError>);

impl Mistakes {
    pub(super) fn add(&mut self, pointer: &str, problem: Problem, hint: Option<String>) {
        self.0.push(DefinitionError {
            pointer: pointer.to_owned(),
            problem,
            hint,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them in the order of the document, whatever the order they were found in.
    pub(super) fn in_order_of(mut self, document: &Value) -> Vec<DefinitionError> {
        let mut places = HashMap::new();
        number_places(document, String::new(), &mut places);
        self.0
            .sort_by_key(|mistake| places.get(&mistake.pointer).copied());
        self.0
    }
}

fn number_places(value: &Value, pointer: String, places: &mut HashMap<String, usize>) {
    match value {
        Value::Array(items) => {
            let items = items.iter().enumerate();
            let children: Vec<_> = items
                .map(|(i, v)| (child(&pointer, &i.to_string()), v))
                .collect();
            places.insert(pointer, places.len());
            children
                .into_iter()
                .for_each(|(at, value)| number_places(value, at, places));
        }
        Value::Object(map) => {
            let children: Vec<_> = map.iter().map(|(k, v)| (child(&pointer, k), v)).collect();
            places.insert(pointer, places.len());
            children
                .into_iter()
                .for_each(|(at, value)| number_places(value, at, places));
        }
        _ => {
            places.insert(pointer, places.len());
        }
    }
}

/// The pointer to a member (RFC 6901, section 3).
pub(super) fn child(pointer: &str, member: &str) -> String {
    format!("{pointer}/{}", member.replace('~', "~0").replace('/', "~1"))
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    pub(super) pointer: String,
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            value,
            pointer: String::new(),
        }
    }

    pub(super) fn text(&self, mistakes: &mut Mistakes) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong_type("a string", mistakes);
        }
        text
    }

    pub(super) fn boolean(&self, mistakes: &mut Mistakes) -> Option<bool> {
        let boolean = self.value.as_bool();
        if boolean.is_none() {
            self.wrong_type("true or false", mistakes);
        }
        boolean
    }

    pub(super) fn list(&self, mistakes: &mut Mistakes) -> Option<Vec<Node<'a>>> {
        let Value::Array(items) = self.value else {
            self.wrong_type("a list", mistakes);
            return None;
        };
        let node = |(i, value)| Node {
            value,
            pointer: format!("{}/{i}", self.pointer),
        };
        Some(items.iter().enumerate().map(node).collect())
    }

    pub(super) fn object(&self, mistakes: &mut Mistakes) -> Option<Object<'a>> {
        let Value::Object(map) = self.value else {
            self.wrong_type("an object", mistakes);
            return None;
        };
        Some(Object {
            map,
            pointer: self.pointer.clone(),
        })
    }

    pub(super) fn wrong_type(&self, expected: &'static str, mistakes: &mut Mistakes) {
        let problem = Problem::WrongType {
            expected,
            found: found(self.value),
        };
        mistakes.add(&self.pointer, problem, None);
    }
}

/// An object and its place.
#[derive(Debug, Clone)]
pub(super) struct Object<'a> {
    map: &'a Map<String, Value>,
    pub(super) pointer: String,
}

impl<'a> Object<'a> {
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        self.map.iter().map(|(key, value)| {
            (
                key.as_str(),
                Node {
                    value,
                    pointer: child(&self.pointer, key),
                },
            )
        })
    }

    pub(super) fn get(&self, key: &str) -> Option<Node<'a>> {
        let value = self.map.get(key)?;
        Some(Node {
            value,
            pointer: child(&self.pointer, key),
        })
    }

    pub(super) fn need(&self, key: &'static str, mistakes: &mut Mistakes) -> Option<Node<'a>> {
        let node = self.get(key);
        if node.is_none() {
            mistakes.add(&self.pointer, Problem::MissingKey { name: key }, None);
        }
        node
    }

    /// Reports every key that is not one of `known`; `elsewhere` says where a key belongs that is
    /// right in another place.
    pub(super) fn only(
        &self,
        known: &[&str],
        elsewhere: impl Fn(&str) -> Option<&'static str>,
        mistakes: &mut Mistakes,
    ) {
        for (key, node) in self.entries().filter(|(key, _)| !known.contains(key)) {
            let hint = match elsewhere(key) {
                Some(place) => place.to_owned(),
                None => suggest(key, known.iter().copied()),
            };
            mistakes.add(
                &node.pointer,
                Problem::UnknownKey { name: shown(key) },
                Some(hint),
            );
        }
    }
}

/// `did you mean ..?` if something is close, else the list of what is known.
pub(super) fn suggest<'a>(found: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match closest(found, known.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// The name that was probably meant.
pub(super) fn closest<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // The measures are quadratic, and no name is this long.
    if found.len() > 1_000 {
        return None;
    }
    let found = found.trim().to_lowercase();
    known
        .filter(|name| name.len() <= 1_000)
        .filter_map(|name| {
            let likeness = strsim::jaro_winkler(&found, &name.to_lowercase());
            let distance = strsim::osa_distance(&found, &name.to_lowercase());
            // Two of two letters changed is another word.
            let typo = distance <= 2 && distance < found.chars().count();
            (typo || likeness >= 0.7).then_some((name, likeness))
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(name, _)| name)
}

/// A text as a message may carry it: on one line, and not a page of it.
pub(super) fn shown(text: &str) -> String {
    const LIMIT: usize = 120;
    let mut line = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == LIMIT {
            line.push('…');
            break;
        }
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// A value as a message may carry it.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("\"{}\"", shown(text)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_probably_meant() {
        let known = ["notify", "wait", "in_app", "email", "log"];
        let table = [
            ("notfy", Some("notify")),
            ("Notify", Some("notify")),
            ("emial", Some("email")),
            ("inapp", Some("in_app")),
            ("wiat", Some("wait")),
            ("lgo", Some("log")),
            ("approval", None),
            ("sms", None),
            ("ab", None),
            ("", None),
        ];
        for (found, expected) in table {
            assert_eq!(closest(found, known.into_iter()), expected, "{found}");
        }
        assert_eq!(closest(&"notify".repeat(1_000), known.into_iter()), None);
    }

    #[test]
    fn what_a_message_shows_is_one_short_line() {
        assert_eq!(shown("a\nb\u{1b}[31m"), r"a\nb\u{1b}[31m");
        assert_eq!(shown(&"x".repeat(1_000)).chars().count(), 121);
    }
}
