//! `match` of a stop condition: which signals of its name are about this run.

use serde_json::{Number, Value};

use super::{
    error::Problem,
    read::Reader,
    shape::{Node, found, shown},
    step::{Expected, JsonPath, Match},
};

/// The most comparisons that a stop condition may make.
pub(super) const MAX_MATCHES: usize = 10;

/// Whether a number is too large to be stored and read again: PostgreSQL writes it out digit by digit,
/// and what is near the end of the doubles is then read as beyond it.
#[must_use]
pub(crate) fn is_huge(number: &Number) -> bool {
    number.as_f64().is_none_or(|number| number.abs() > 1e308)
}

impl<'a> Reader<'a> {
    /// `{place in the payload: what must stand there}`.
    pub(super) fn matches(&mut self, node: &Node<'a>) -> Option<Vec<Match>> {
        let comparisons = node.object(&mut self.mistakes)?;
        let count = comparisons.entries().count();
        if count > MAX_MATCHES {
            let problem = Problem::TooManyMatches {
                found: count,
                limit: MAX_MATCHES,
            };
            self.mistakes.add(&node.pointer, problem, None);
        }
        let read = comparisons.entries().take(MAX_MATCHES);
        let read = read.map(|(place, expected)| self.comparison(place, &expected));
        let mut matches: Vec<Match> = read
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Option<_>>()?;
        // As the canonical form has them, so that equal content is equal.
        matches.sort_by(|a, b| a.payload.names().cmp(b.payload.names()));
        Some(matches)
    }

    fn comparison(&mut self, place: &str, expected: &Node<'a>) -> Option<Match> {
        let payload = JsonPath::parse(place);
        if payload.is_none() {
            let problem = Problem::BadPath {
                found: shown(place),
            };
            let hint = "write names with dots between: `order.id`".to_owned();
            self.mistakes.add(&expected.pointer, problem, Some(hint));
        }
        let expected = self.expected(expected);
        Some(Match {
            payload: payload?,
            expected: expected?,
        })
    }

    fn expected(&mut self, node: &Node<'a>) -> Option<Expected> {
        match node.value {
            Value::String(text) => {
                let path = text.strip_prefix("params.").and_then(JsonPath::parse);
                if path.is_none() {
                    let problem = Problem::BadExpectation { found: shown(text) };
                    let hint = "write `params.<name>`; a text of its own is `{value: <text>}`";
                    self.mistakes
                        .add(&node.pointer, problem, Some(hint.to_owned()));
                }
                path.map(Expected::Params)
            }
            Value::Number(_) | Value::Bool(_) => self.literal(node),
            Value::Object(_) => {
                let literal = node.object(&mut self.mistakes)?;
                literal.only(&["value"], |_| None, &mut self.mistakes);
                let value = literal.need("value", &mut self.mistakes)?;
                if !matches!(
                    value.value,
                    Value::String(_) | Value::Number(_) | Value::Bool(_)
                ) {
                    value.wrong_type("a text, a number or a boolean", &mut self.mistakes);
                    return None;
                }
                self.literal(&value)
            }
            Value::Null | Value::Array(_) => {
                let problem = Problem::BadExpectation {
                    found: found(node.value),
                };
                let hint = "write `params.<name>`, or a number or boolean".to_owned();
                self.mistakes.add(&node.pointer, problem, Some(hint));
                None
            }
        }
    }

    /// A value that PostgreSQL can keep, and that can be read again.
    fn literal(&mut self, node: &Node<'a>) -> Option<Expected> {
        let (problem, hint) = match node.value {
            Value::String(text) if text.contains('\0') => {
                let hint = "take it out: no payload can hold one";
                (Problem::NulCharacter, hint)
            }
            Value::Number(number) if is_huge(number) => {
                let hint = "compare texts: no payload can hold such a number";
                (Problem::HugeNumber, hint)
            }
            value => return Some(Expected::Literal(value.clone())),
        };
        self.mistakes
            .add(&node.pointer, problem, Some(hint.to_owned()));
        None
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use serde_json::{Value, json};

    use crate::definition::{
        Document, Expected, JsonPath, Known, Match, StepKind, Validated, validate,
    };

    fn document(comparisons: &Value) -> Document {
        Document::from_value(json!({ "key": "k", "steps": [{ "id": "w", "action": {
            "type": "wait", "duration": "PT1H",
            "stop_conditions": [
                { "type": "signal_received", "signal_type": "s", "match": comparisons },
            ],
        }}]}))
    }

    fn accept(comparisons: &Value) -> Validated {
        validate(&document(comparisons), &Known::default()).unwrap()
    }

    fn matches(comparisons: &Value) -> Vec<Match> {
        match accept(comparisons).plan.steps.remove(0).kind {
            StepKind::Wait(mut wait) => wait.stop_conditions.remove(0).matches,
            other => panic!("{other:?}"),
        }
    }

    fn path(text: &str) -> JsonPath {
        JsonPath::parse(text).unwrap()
    }

    #[test]
    fn a_payload_is_compared_with_params_and_with_literals() {
        let comparisons = json!({
            "order.id": "params.order.id", "kind": { "value": "params.x" }, "count": 3, "urgent": true,
        });
        let literal = |place: &str, value| Match {
            payload: path(place),
            expected: Expected::Literal(value),
        };
        assert_eq!(
            matches(&comparisons),
            [
                literal("count", json!(3)),
                literal("kind", json!("params.x")),
                Match {
                    payload: path("order.id"),
                    expected: Expected::Params(path("order.id")),
                },
                literal("urgent", json!(true)),
            ]
        );
        assert_eq!(matches(&json!({})), []);
    }

    #[test]
    fn however_it_is_written_it_is_stored_in_one_way() {
        let one = accept(&json!({ "a": "params.a", "b": { "value": 1 } }));
        let other = accept(&json!({ "b": 1, "a": "params.a" }));
        assert_eq!(one, other);
        let stored = crate::definition::read_stored(&one.document);
        assert_eq!(stored.unwrap(), one.plan);
    }

    #[test]
    fn every_mistake_has_its_place() {
        let comparisons = json!({
            "": 1, "a..b": "params.a", "c": "document_id", "d": "params.", "e": null, "f": [1],
            "g": { "value": {} }, "h": { "vale": 1 }, "i": { "value": "a\0b" }, "j": -1.5e308,
        });
        let mistakes = validate(&document(&comparisons), &Known::default()).unwrap_err();
        let lines = mistakes.iter().fold(String::new(), |mut all, mistake| {
            writeln!(all, "{mistake}").unwrap();
            all.replace("/steps/0/action/stop_conditions/0", "")
        });
        insta::assert_snapshot!(lines, @"
        /match/: `` is not a place in a JSON object; write names with dots between: `order.id`
        /match/a..b: `a..b` is not a place in a JSON object; write names with dots between: `order.id`
        /match/c: `document_id` is not a place in the trigger's params; write `params.<name>`; a text of its own is `{value: <text>}`
        /match/d: `params.` is not a place in the trigger's params; write `params.<name>`; a text of its own is `{value: <text>}`
        /match/e: `nothing` is not a place in the trigger's params; write `params.<name>`, or a number or boolean
        /match/f: `a list` is not a place in the trigger's params; write `params.<name>`, or a number or boolean
        /match/g/value: expected a text, a number or a boolean, found an object
        /match/h: `value` is missing
        /match/h/vale: unknown key `vale`; did you mean `value`?
        /match/i/value: holds a NUL character, which PostgreSQL cannot keep; take it out: no payload can hold one
        /match/j: is a number beyond 1e308, which cannot be kept; compare texts: no payload can hold such a number
        ");
        let many: serde_json::Map<_, _> = (0..11).map(|n| (format!("m{n}"), json!(n))).collect();
        let mistakes = validate(&document(&many.into()), &Known::default()).unwrap_err();
        insta::assert_snapshot!(mistakes[0], @"/steps/0/action/stop_conditions/0/match: 11 comparisons are too many, at most 10 are allowed");
    }
}
