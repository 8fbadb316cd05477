//! Expressions: CEL over a run's `context` and the trigger's `params`. Compiled when a document is read,
//! evaluated without time, chance or anything outside the two.
//!
//! An evaluation is bounded by what it is given: the text is short, nesting is limited by the parser, and
//! a macro over a list may not stand inside another one, so that the work grows with the data and no
//! faster.

use std::{collections::HashMap, fmt, sync::Arc};

use cel::{
    Context, ExecutionError, Program, Value as Cel,
    common::ast::{EntryExpr, Expr, IdedExpr},
};
use serde_json::Value;

/// The longest expression, in bytes.
pub const MAX_EXPRESSION: usize = 2_000;
/// What an expression may name.
pub(super) const ROOTS: [&str; 2] = ["context", "params"];
/// What an expression may call; operators have names that no text can spell.
const FUNCTIONS: [&str; 12] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "string",
    "int",
    "uint",
    "double",
    "bool",
    "max",
    "min",
    "dyn",
];

/// A compiled expression. Equal where its text is.
#[derive(Clone)]
pub struct Expression {
    text: String,
    program: Arc<Program>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

/// Why a text is not an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadExpression {
    /// Too much to read.
    #[error("is longer than {MAX_EXPRESSION} bytes")]
    TooLong,
    /// Not CEL.
    #[error("does not compile: {0}")]
    Syntax(String),
    /// It names something that never exists.
    #[error("names `{0}`, which cannot exist")]
    UnknownName(String),
    /// It calls something that does not exist.
    #[error("calls `{0}`, which does not exist")]
    UnknownFunction(String),
    /// A macro over a list inside another one.
    #[error("walks over a list inside a walk over a list")]
    NestedWalk,
    /// It builds a message, of which there are none.
    #[error("builds a value of the type `{0}`, which does not exist")]
    UnknownType(String),
}

impl BadExpression {
    /// How to mend it.
    pub(super) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::TooLong => "split it over several condition steps".to_owned(),
            Self::Syntax(_) => {
                "it is CEL: `context.amount > 1000 && context.region in [\"eu\", \"uk\"]`"
                    .to_owned()
            }
            Self::UnknownName(_) => format!("known: {}", ROOTS.join(", ")),
            Self::UnknownFunction(name) => super::shape::suggest(name, FUNCTIONS.into_iter()),
            Self::NestedWalk => "one `exists`, `all`, `filter` or `map` at a time".to_owned(),
            Self::UnknownType(_) => return None,
        })
    }
}

/// Why an expression has no value. Says which names and types were at fault, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unevaluated {
    /// A name is not there, in the context or in the params.
    #[error("`{0}` is not there")]
    Missing(String),
    /// An operator or function met types it does not take.
    #[error("`{0}` does not take these types")]
    Types(String),
    /// A division by zero, an overflow, an index beyond a list.
    #[error("the arithmetic is impossible")]
    Arithmetic,
    /// It came to something other than true or false.
    #[error("the result is neither true nor false")]
    NotBoolean,
    /// Anything else.
    #[error("it cannot be evaluated")]
    Other,
}

impl Unevaluated {
    /// In a word, for `failed:<code>`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "expression_missing_name",
            Self::Types(_) => "expression_type_error",
            Self::Arithmetic => "expression_arithmetic",
            Self::NotBoolean => "expression_not_boolean",
            Self::Other => "expression_failed",
        }
    }
}

impl Expression {
    /// Compiles a text.
    ///
    /// # Errors
    ///
    /// [`BadExpression`], of the first thing that is wrong.
    pub fn compile(text: &str) -> Result<Self, BadExpression> {
        if text.len() > MAX_EXPRESSION {
            return Err(BadExpression::TooLong);
        }
        let program = Program::compile(text).map_err(|errors| {
            let first = errors.errors.first().map(|error| error.msg.clone());
            let message = first.unwrap_or_else(|| "it is empty".to_owned());
            BadExpression::Syntax(super::shape::shown(&message))
        })?;
        check(program.expression(), &mut vec![])?;
        Ok(Self {
            text: text.to_owned(),
            program: Arc::new(program),
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it holds of these.
    ///
    /// # Errors
    ///
    /// [`Unevaluated`] if that cannot be told: never silently false.
    pub fn holds(&self, context: &Value, params: &Value) -> Result<bool, Unevaluated> {
        let mut scope = Context::default();
        scope.add_variable_from_value("context", bound(context));
        scope.add_variable_from_value("params", bound(params));
        match self.program.execute(&scope) {
            Ok(Cel::Bool(holds)) => Ok(holds),
            Ok(_) => Err(Unevaluated::NotBoolean),
            Err(error) => Err(why(&error)),
        }
    }
}

fn why(error: &ExecutionError) -> Unevaluated {
    use ExecutionError as E;

    // Their texts show values: only names are kept.
    match error {
        E::NoSuchKey(name) | E::UndeclaredReference(name) => {
            Unevaluated::Missing(super::shape::shown(name))
        }
        E::NoSuchOverload(overload) => Unevaluated::Types(super::shape::shown(overload.function())),
        E::UnsupportedBinaryOperator(operator, ..) => Unevaluated::Types((*operator).to_owned()),
        E::ValuesNotComparable(..) => Unevaluated::Types("comparison".to_owned()),
        E::UnexpectedType { .. } | E::UnsupportedTargetType { .. } | E::UnsupportedKeyType(_) => {
            Unevaluated::Types("a function".to_owned())
        }
        E::DivisionByZero(_) | E::RemainderByZero(_) | E::Overflow(..) | E::IndexOutOfBounds(_) => {
            Unevaluated::Arithmetic
        }
        _ => Unevaluated::Other,
    }
}

/// Whole numbers bind as `int`, so that they can be compared with literals.
fn bound(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Cel::Int(number),
            None => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::from(text.as_str()),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(bound).collect())),
        Value::Object(fields) => {
            let fields: HashMap<String, Cel> = fields
                .iter()
                .map(|(name, value)| (name.clone(), bound(value)))
                .collect();
            Cel::from(fields)
        }
    }
}

/// Looks at every node. `bound` are the names that macros have bound around it; there is one walk at
/// most, so that they are few.
fn check<'a>(node: &'a IdedExpr, bound: &mut Vec<&'a str>) -> Result<(), BadExpression> {
    match &node.expr {
        Expr::Unspecified | Expr::Literal(_) => Ok(()),
        Expr::Ident(name) => {
            if ROOTS.contains(&name.as_str()) || bound.contains(&name.as_str()) {
                return Ok(());
            }
            Err(BadExpression::UnknownName(super::shape::shown(name)))
        }
        Expr::Select(select) => check(&select.operand, bound),
        Expr::Call(call) => {
            let name = call.func_name.as_str();
            let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
            if is_word && !FUNCTIONS.contains(&name) {
                return Err(BadExpression::UnknownFunction(super::shape::shown(name)));
            }
            let parts = call.target.iter().map(AsRef::as_ref).chain(&call.args);
            each(parts, bound)
        }
        Expr::List(list) => each(&list.elements, bound),
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    each([&entry.key, &entry.value], bound)?;
                }
            }
            Ok(())
        }
        Expr::Struct(built) => Err(BadExpression::UnknownType(super::shape::shown(
            &built.type_name,
        ))),
        Expr::Comprehension(walk) => {
            if !bound.is_empty() {
                return Err(BadExpression::NestedWalk);
            }
            each([&walk.iter_range, &walk.accu_init], bound)?;
            bound.push(&walk.iter_var);
            bound.extend(walk.iter_var2.as_deref());
            bound.push(&walk.accu_var);
            let inside = each([&walk.loop_cond, &walk.loop_step, &walk.result], bound);
            bound.clear();
            inside
        }
    }
}

fn each<'a>(
    nodes: impl IntoIterator<Item = &'a IdedExpr>,
    bound: &mut Vec<&'a str>,
) -> Result<(), BadExpression> {
    nodes.into_iter().try_for_each(|node| check(node, bound))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(text: &str) -> String {
        let context = json!({
            "amount": 1500, "share": 0.5, "region": "eu", "nobody": null, "big": u64::MAX,
            "items": [{ "price": 3 }, { "price": 700 }], "urgent": true,
        });
        let params = json!({ "kind": "order" });
        match Expression::compile(text) {
            Ok(expression) => match expression.holds(&context, &params) {
                Ok(holds) => holds.to_string(),
                Err(error) => format!("{}: {error}", error.code()),
            },
            Err(bad) => format!("it {bad}"),
        }
    }

    #[test]
    fn what_expressions_say() {
        let table = [
            (
                r#"context.amount > 1000 && context.region in ["eu", "uk"]"#,
                "true",
            ),
            ("context.amount == 1500", "true"),
            ("context.amount > 1499.5", "true"),
            ("context.share < 1", "true"),
            ("context.share * 2.0 == 1.0", "true"),
            ("context.big > 1", "true"),
            ("context.nobody == null", "true"),
            ("context.urgent", "true"),
            ("!context.urgent || params.kind == 'invoice'", "false"),
            ("context.items.exists(item, item.price > 500)", "true"),
            (
                "size(context.items) == 2 && size(context.region) == 2",
                "true",
            ),
            ("has(context.missing)", "false"),
            ("has(context.missing) && context.missing > 3", "false"),
            ("context.region.startsWith('e')", "true"),
            ("context.urgent ? true : context.amount", "true"),
        ];
        for (text, expected) in table {
            assert_eq!(holds(text), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_not_false() {
        let table = [
            (
                "context.missing > 3",
                "expression_missing_name: `missing` is not there",
            ),
            (
                "context.region > 3",
                "expression_type_error: `_>_` does not take these types",
            ),
            (
                "context.amount",
                "expression_not_boolean: the result is neither true nor false",
            ),
            (
                "context.amount / 0 == 1",
                "expression_arithmetic: the arithmetic is impossible",
            ),
            (
                "context.items[5].price == 1",
                "expression_arithmetic: the arithmetic is impossible",
            ),
            (
                "context.amount * 9000000000000000000 > 1",
                "expression_arithmetic: the arithmetic is impossible",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(holds(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression() {
        let table = [
            ("amount > 3", "it names `amount`, which cannot exist"),
            (
                "context.region.matches('a')",
                "it calls `matches`, which does not exist",
            ),
            ("now() > 3", "it calls `now`, which does not exist"),
            (
                "Order{total: 3}.total == 3",
                "it builds a value of the type `Order`, which does not exist",
            ),
            (
                "context.items.exists(a, context.items.exists(b, a == b))",
                "it walks over a list inside a walk over a list",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(holds(text), expected, "{text}");
        }
        for text in [
            "",
            "context.amount >",
            "context.amount > 3 and context.urgent",
            "1 +* 2",
        ] {
            assert!(
                holds(text).starts_with("it does not compile: "),
                "{text}: {}",
                holds(text)
            );
        }
        let long = format!("context.urgent {}", "|| context.urgent ".repeat(200));
        assert_eq!(holds(&long), "it is longer than 2000 bytes");
    }

    /// Were it the square of the length, this would take minutes.
    #[test]
    fn a_walk_over_a_long_list_takes_no_more_than_its_length() {
        let context = json!({ "items": (0..200_000).collect::<Vec<_>>() });
        for walk in [
            "!context.items.exists(i, i < 0)",
            "size(context.items.filter(i, i >= 0)) == 200000",
            "size(context.items.map(i, i + 1)) == 200000",
        ] {
            let expression = Expression::compile(walk).unwrap();
            assert_eq!(expression.holds(&context, &json!({})), Ok(true), "{walk}");
        }
    }

    /// The stack of a worker's thread is 2 MiB.
    #[test]
    fn no_text_exhausts_the_stack() {
        let texts = [
            format!("{}context.urgent{}", "(".repeat(990), ")".repeat(990)),
            "!".repeat(1_980) + "context.urgent",
            "-".repeat(1_980) + "1 == 1",
            "1+".repeat(990) + "1 == 991",
            "true ? ".repeat(200) + "true" + &" : true".repeat(200),
            "[".repeat(990) + &"]".repeat(990),
            "context".to_owned() + &".a".repeat(990),
            "context".to_owned() + &"[0]".repeat(600),
            "true && ".repeat(240) + "true",
        ];
        for text in texts {
            let answer = std::thread::Builder::new()
                .stack_size(2 << 20)
                .spawn(move || holds(&text))
                .unwrap()
                .join();
            assert!(answer.is_ok());
        }
    }
}
