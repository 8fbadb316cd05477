//! What can be wrong with a workflow, where, and how to mend it.

use std::fmt::{self, Write as _};

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::{
    duration::{BadDuration, IsoDuration},
    expression::BadExpression,
    step::Outcome,
};
use crate::ids::BadName;

/// One mistake in a workflow document.
///
/// Prints as `<pointer>: <problem>; <hint>`; serializes as `{pointer, code, message, hint}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionError {
    /// Where: a JSON pointer (RFC 6901) such as `/steps/2/action/duration`; empty for the whole
    /// document.
    pub pointer: String,
    /// What is wrong.
    pub problem: Problem,
    /// How to mend it, if that can be guessed.
    pub hint: Option<String>,
}

/// What is wrong, one variant for each mistake that a person can make.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "the message above each variant says what its fields mean"
)]
pub enum Problem {
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        line: u64,
        column: u64,
        message: String,
    },
    #[error("`{name}` is neither a YAML nor a JSON file")]
    UnknownFormat { name: String },
    #[error("expected {expected}, found {found}")]
    WrongType {
        expected: &'static str,
        found: String,
    },
    #[error("`{name}` is missing")]
    MissingKey { name: &'static str },
    #[error("unknown key `{name}`")]
    UnknownKey { name: String },
    #[error("{0}")]
    BadName(BadName),
    #[error("the key is `{found}`, and this is the workflow `{expected}`")]
    OtherKey { found: String, expected: String },
    #[error("a version is a whole number from 1 to {max}, found {found}", max = i32::MAX)]
    BadVersion { found: String },
    #[error("a workflow needs at least one step")]
    NoSteps,
    #[error("{found} steps are too many, at most {limit} are allowed")]
    TooManySteps { found: usize, limit: usize },
    #[error("the step id `{id}` is taken by {first}")]
    DuplicateStep { id: String, first: String },
    #[error("unknown step type `{found}`")]
    UnknownStepType { found: String },
    #[error("unknown channel `{found}`")]
    UnknownChannel { found: String },
    #[error("the duration `{text}` {reason}")]
    BadDuration { text: String, reason: BadDuration },
    #[error("{found} stop conditions are too many, at most {limit} are allowed")]
    TooManyStopConditions { found: usize, limit: usize },
    #[error("unknown type of stop condition `{found}`")]
    UnknownStopCondition { found: String },
    #[error("the signal `{signal}` is named already by {first}")]
    DuplicateSignal { signal: String, first: String },
    #[error("{found} comparisons are too many, at most {limit} are allowed")]
    TooManyMatches { found: usize, limit: usize },
    #[error("`{found}` is not a place in a JSON object")]
    BadPath { found: String },
    #[error("`{found}` is not a place in the trigger's params")]
    BadExpectation { found: String },
    #[error("holds a NUL character, which PostgreSQL cannot keep")]
    NulCharacter,
    #[error("is a number beyond 1e308, which cannot be kept")]
    HugeNumber,
    #[error("an in_app message cannot depend on whether it was read")]
    UnfitFallback,
    #[error("`on` and `on_outcome` mean the same and stand side by side")]
    BothSpellings,
    #[error("`{found}` and `{other}` mean the same and stand side by side")]
    TwoSpellings { found: String, other: String },
    #[error("unknown outcome `{found}`")]
    UnknownOutcome { found: String },
    #[error("a {kind} step never ends with `{outcome}`")]
    ImpossibleOutcome {
        outcome: Outcome,
        kind: &'static str,
    },
    #[error("unknown target `{found}`")]
    UnknownTarget { found: String },
    #[error("there is no step named `{found}`")]
    UnknownStep { found: String },
    #[error("nothing leads to the step `{id}`")]
    UnreachableStep { id: String },
    #[error("{steps} can repeat forever with no wait between")]
    EndlessLoop { steps: String },
    #[error("`{found}` and `{other}` belong to different ways of writing a workflow")]
    MixedShapes {
        found: &'static str,
        other: &'static str,
    },
    #[error(
        "a step order is a whole number from 1 to the number of steps ({steps}), found {found}"
    )]
    BadStepOrder { found: String, steps: usize },
    #[error("the step order {order} is taken by {first}")]
    DuplicateStepOrder { order: usize, first: String },
    #[error("unknown kind of rule `{found}`")]
    UnknownRuleKind { found: String },
    #[error("`{name}` is not a key of a `{kind}` rule but of another kind")]
    MixedRuleShape {
        name: &'static str,
        kind: &'static str,
    },
    #[error("{what} is given already by {first}")]
    DuplicateRule { what: String, first: String },
    #[error("unknown anchor `{found}`")]
    InvalidAnchor { found: String },
    #[error("a delay is a whole number of seconds from 1 to {max}, found {found}", max = IsoDuration::MAX.as_millis() / 1_000)]
    InvalidDelaySeconds { found: String },
    #[error("{found} cancel signals are too many, at most {limit} are allowed")]
    TooManyCancelSignals { found: usize, limit: usize },
    #[error("the wait of this rule is the step `{id}`, and that name is taken by {first}")]
    WaitKeyTaken { id: String, first: String },
    #[error("the expression `{text}` {reason}")]
    BadExpression { text: String, reason: BadExpression },
    #[error("an approval has one assignee, found {found}")]
    BadAssignee { found: String },
    #[error("`{found}` is not a place in the run's context")]
    BadContextPath { found: String },
    #[error("unknown type of trigger `{found}`")]
    UnknownTrigger { found: String },
    #[error("`{found}` is not a place that a context can be taken from")]
    BadSource { found: String },
    #[error("`{found}` is of a record, and no change of a record starts this workflow")]
    NoRecord { found: String },
    #[error("{found} names in the context are too many, at most {limit} are allowed")]
    TooManyMappings { found: usize, limit: usize },
    #[error("an action step needs at least one action")]
    NoActions,
    #[error("{found} actions are too many, at most {limit} are allowed")]
    TooManyActions { found: usize, limit: usize },
    #[error("unknown action `{found}`")]
    UnknownAction { found: String },
    #[error("unknown HTTP method `{found}`")]
    UnknownMethod { found: String },
    #[error("the header `{name}` is not one, or its value holds a control character")]
    BadHeader { name: String },
    #[error("{reason}")]
    BadSettings { reason: String },
    #[error("a workflow that is not active cannot be applied")]
    NotActive,
    #[error("the channel `{channel}` needs a template, and there is no `{key}`")]
    MissingTemplate { channel: String, key: String },
    #[error("the channel `{channel}` needs a subject, and the template `{key}` has none")]
    MissingSubject { channel: String, key: String },
}

impl Problem {
    /// The variant in snake case: stable, for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "syntax",
            Self::UnknownFormat { .. } => "unknown_format",
            Self::WrongType { .. } => "wrong_type",
            Self::MissingKey { .. } => "missing_key",
            Self::UnknownKey { .. } => "unknown_key",
            Self::BadName(_) => "bad_name",
            Self::OtherKey { .. } => "other_key",
            Self::BadVersion { .. } => "bad_version",
            Self::NoSteps => "no_steps",
            Self::TooManySteps { .. } => "too_many_steps",
            Self::DuplicateStep { .. } => "duplicate_step",
            Self::UnknownStepType { .. } => "unknown_step_type",
            Self::UnknownChannel { .. } => "unknown_channel",
            Self::BadDuration { .. } => "bad_duration",
            Self::TooManyStopConditions { .. } => "too_many_stop_conditions",
            Self::UnknownStopCondition { .. } => "unknown_stop_condition",
            Self::DuplicateSignal { .. } => "duplicate_signal",
            Self::TooManyMatches { .. } => "too_many_matches",
            Self::BadPath { .. } => "bad_path",
            Self::BadExpectation { .. } => "bad_expectation",
            Self::NulCharacter => "nul_character",
            Self::HugeNumber => "huge_number",
            Self::UnfitFallback => "unfit_fallback",
            Self::TwoSpellings { .. } => "two_spellings",
            Self::BothSpellings => "both_spellings",
            Self::UnknownOutcome { .. } => "unknown_outcome",
            Self::ImpossibleOutcome { .. } => "impossible_outcome",
            Self::UnknownTarget { .. } => "unknown_target",
            Self::UnknownStep { .. } => "unknown_step",
            Self::UnreachableStep { .. } => "unreachable_step",
            Self::EndlessLoop { .. } => "endless_loop",
            Self::MixedShapes { .. } => "mixed_shapes",
            Self::BadStepOrder { .. } => "bad_step_order",
            Self::DuplicateStepOrder { .. } => "duplicate_step_order",
            Self::UnknownRuleKind { .. } => "unknown_rule_kind",
            Self::MixedRuleShape { .. } => "mixed_rule_shape",
            Self::DuplicateRule { .. } => "duplicate_rule",
            Self::InvalidAnchor { .. } => "invalid_anchor",
            Self::InvalidDelaySeconds { .. } => "invalid_delay_seconds",
            Self::TooManyCancelSignals { .. } => "too_many_cancel_signals",
            Self::WaitKeyTaken { .. } => "wait_key_taken",
            Self::BadExpression { .. } => "bad_expression",
            Self::BadAssignee { .. } => "bad_assignee",
            Self::BadContextPath { .. } => "bad_context_path",
            Self::UnknownTrigger { .. } => "unknown_trigger",
            Self::BadSource { .. } => "bad_source",
            Self::NoRecord { .. } => "no_record",
            Self::TooManyMappings { .. } => "too_many_mappings",
            Self::NoActions => "no_actions",
            Self::TooManyActions { .. } => "too_many_actions",
            Self::UnknownAction { .. } => "unknown_action",
            Self::UnknownMethod { .. } => "unknown_method",
            Self::BadHeader { .. } => "bad_header",
            Self::BadSettings { .. } => "bad_settings",
            Self::NotActive => "not_active",
            Self::MissingTemplate { .. } => "missing_template",
            Self::MissingSubject { .. } => "missing_subject",
        }
    }
}

impl DefinitionError {
    /// What a host's own kind of step or action says of what it is given.
    pub(crate) fn bad_settings(pointer: String, reason: &str) -> Self {
        let reason = super::shape::shown(reason);
        Self {
            pointer,
            problem: Problem::BadSettings { reason },
            hint: None,
        }
    }
}

impl fmt::Display for DefinitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.pointer.is_empty() {
            // A key may hold anything; the line must stay one line.
            for c in self.pointer.chars() {
                if c.is_control() {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    f.write_char(c)?;
                }
            }
            f.write_str(": ")?;
        }
        self.problem.fmt(f)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for DefinitionError {}

impl Serialize for DefinitionError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("DefinitionError", 4)?;
        fields.serialize_field("pointer", &self.pointer)?;
        fields.serialize_field("code", self.problem.code())?;
        fields.serialize_field("message", &self.problem.to_string())?;
        fields.serialize_field("hint", &self.hint)?;
        fields.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mistake_prints_and_serializes() {
        let mut mistake = DefinitionError {
            pointer: "/steps/3/action/duration".into(),
            problem: Problem::BadDuration {
                text: "3 days".into(),
                reason: BadDuration::Unreadable { instead: None },
            },
            hint: Some("write `P3D`".into()),
        };
        assert_eq!(
            mistake.to_string(),
            "/steps/3/action/duration: the duration `3 days` is not an ISO 8601 duration; write `P3D`"
        );
        let expected = json!({
            "pointer": "/steps/3/action/duration",
            "code": "bad_duration",
            "message": "the duration `3 days` is not an ISO 8601 duration",
            "hint": "write `P3D`",
        });
        assert_eq!(serde_json::to_value(&mistake).unwrap(), expected);

        (mistake.pointer, mistake.hint) = (String::new(), None);
        assert_eq!(
            mistake.to_string(),
            "the duration `3 days` is not an ISO 8601 duration"
        );
    }
}
