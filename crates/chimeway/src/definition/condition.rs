//! A step that goes one way or the other.

use super::{
    error::Problem,
    expression::Expression,
    read::Reader,
    shape::{Node, Object, shown},
};

/// Goes one way or the other: outcome `met` or `unmet`. An expression that cannot be told fails the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What must hold.
    pub expression: Expression,
}

pub(super) const KEYS: [&str; 2] = ["type", "expression"];

impl<'a> Reader<'a> {
    pub(super) fn condition(&mut self, action: &Object<'a>) -> Option<Condition> {
        action.only(&KEYS, super::read::beside_action, &mut self.mistakes);
        let expression = action.need("expression", &mut self.mistakes)?;
        let text = expression.text(&mut self.mistakes)?;
        self.expression(&expression, text)
            .map(|expression| Condition { expression })
    }

    /// The expression that a text is; `node` is where it was written.
    pub(super) fn expression(&mut self, node: &Node<'a>, text: &str) -> Option<Expression> {
        match Expression::compile(text) {
            Ok(expression) => Some(expression),
            Err(reason) => {
                let hint = reason.hint();
                let problem = Problem::BadExpression {
                    text: shown(text),
                    reason,
                };
                self.mistakes.add(&node.pointer, problem, hint);
                None
            }
        }
    }
}
