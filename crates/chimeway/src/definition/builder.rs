//! Writing a workflow in Rust.

mod steps;

pub use steps::{ActionBuilder, ApprovalBuilder};

use serde_json::{Map, Value, json};

use super::{
    canonical,
    document::Document,
    error::{DefinitionError, Problem},
    known::Known,
    shape::{closest, shown},
    step::{Outcome, Target},
    validate::{Validated, validate},
};

/// Builds the [`Document`] of a workflow; the same checker looks at it as at a file.
///
/// ```
/// use chimeway::definition::{Known, Outcome, To, WorkflowBuilder};
///
/// let checked = WorkflowBuilder::new("mention_escalation")
///     .version(1)
///     .notify("step_in_app", "in_app", "mention_notification")
///     .wait("step_wait_for_read", "PT2H", |wait| wait.stop_on("notification_read"))
///     .notify("step_email", "email", "mention_email")
///     .on("step_in_app", Outcome::Suppressed, To::step("step_email"))
///     .build(&Known::default())?;
///
/// assert_eq!(checked.plan.steps.len(), 3);
/// # Ok::<(), Vec<chimeway::definition::DefinitionError>>(())
/// ```
#[derive(Debug, Clone)]
pub struct WorkflowBuilder {
    key: String,
    version: Option<i32>,
    trigger: Option<Value>,
    context: Map<String, Value>,
    steps: Vec<Value>,
    on_outcome: Vec<(String, Outcome, To)>,
    stray: Vec<DefinitionError>,
}

impl WorkflowBuilder {
    /// Begins a workflow of that key, without steps.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            version: None,
            trigger: None,
            context: Map::new(),
            steps: vec![],
            on_outcome: vec![],
            stray: vec![],
        }
    }

    /// Gives it a version. Without one, versions are counted when the content changes.
    #[must_use]
    pub fn version(mut self, version: i32) -> Self {
        self.version = Some(version);
        self
    }

    /// Adds a step that sends one message.
    #[must_use]
    pub fn notify(
        mut self,
        id: impl Into<String>,
        channel: impl Into<String>,
        render_key: impl Into<String>,
    ) -> Self {
        let (channel, render_key) = (channel.into(), render_key.into());
        let action = json!({ "type": "notify", "channel": channel, "render_key": render_key });
        self.steps
            .push(json!({ "id": id.into(), "action": action }));
        self
    }

    /// Makes the message of a notify step one of that category, for recipients who do not want it.
    #[must_use]
    pub fn category(self, step: &str, category: impl Into<String>) -> Self {
        self.notify_key(step, "category", json!(category.into()))
    }

    /// Makes the message of a notify step a fallback: not sent to somebody who has read the
    /// notification already.
    #[must_use]
    pub fn unless_read(self, step: &str) -> Self {
        self.notify_key(step, "unless_read", json!(true))
    }

    fn notify_key(mut self, step: &str, key: &str, value: Value) -> Self {
        match self.steps.iter_mut().find(|known| known["id"] == step) {
            Some(known) => known["action"][key] = value,
            None => self.stray.push(no_such_step(step, &self.steps)),
        }
        self
    }

    /// Adds a step that waits so long (`PT2H`, `72h`), or until a signal that `configure` names.
    #[must_use]
    pub fn wait(
        mut self,
        id: impl Into<String>,
        duration: impl Into<String>,
        configure: impl FnOnce(WaitBuilder) -> WaitBuilder,
    ) -> Self {
        let wait = configure(WaitBuilder {
            stop_conditions: vec![],
        });
        let mut action = json!({ "type": "wait", "duration": duration.into() });
        if !wait.stop_conditions.is_empty() {
            action["stop_conditions"] = Value::Array(wait.stop_conditions);
        }
        self.steps
            .push(json!({ "id": id.into(), "action": action }));
        self
    }

    /// Says where the run goes when that step ends so; a later call for the same outcome wins.
    #[must_use]
    pub fn on(mut self, step: impl Into<String>, outcome: Outcome, to: impl Into<To>) -> Self {
        self.on_outcome.push((step.into(), outcome, to.into()));
        self
    }

    /// What was built, unchecked: what a [`Workflow`](super::Workflow) returns.
    #[must_use]
    pub fn document(self) -> Document {
        let mut steps = self.steps;
        let mut stray = self.stray;
        for (id, outcome, to) in self.on_outcome {
            match steps.iter_mut().find(|step| step["id"] == id.as_str()) {
                Some(step) => step["on_outcome"][outcome.as_str()] = to.value(),
                None => stray.push(no_such_step(&id, &steps)),
            }
        }
        let mut value = Map::from_iter([("key".to_owned(), json!(self.key))]);
        if let Some(version) = self.version {
            value.insert("version".to_owned(), json!(version));
        }
        if let Some(trigger) = self.trigger {
            value.insert("trigger".to_owned(), trigger);
        }
        if !self.context.is_empty() {
            value.insert("context".to_owned(), Value::Object(self.context));
        }
        value.insert("steps".to_owned(), Value::Array(steps));
        let mut document = Document::from_value(Value::Object(value));
        document.stray = stray;
        document
    }

    /// Checks what was built.
    ///
    /// # Errors
    ///
    /// As [`validate`]; an `on` that names no step is a mistake of the whole document.
    pub fn build(self, known: &Known) -> Result<Validated, Vec<DefinitionError>> {
        validate(&self.document(), known)
    }
}

fn no_such_step(id: &str, steps: &[Value]) -> DefinitionError {
    let ids = steps.iter().filter_map(|step| step["id"].as_str());
    let hint = closest(id, ids).map(|id| format!("did you mean `{}`?", shown(id)));
    DefinitionError {
        pointer: String::new(),
        problem: Problem::UnknownStep { found: shown(id) },
        hint,
    }
}

/// What ends a wait early.
#[derive(Debug, Clone)]
pub struct WaitBuilder {
    stop_conditions: Vec<Value>,
}

impl WaitBuilder {
    /// The signal ends the wait and the run.
    #[must_use]
    pub fn stop_on(mut self, signal: impl Into<String>) -> Self {
        let signal = signal.into();
        self.stop_conditions
            .push(json!({ "type": "signal_received", "signal_type": signal }));
        self
    }

    /// Of the signal named last, only those count whose payload has at `place` what the trigger's
    /// params have at `params_place`: `matching("document_id", "document_id")`.
    #[must_use]
    pub fn matching(mut self, place: impl Into<String>, params_place: impl Into<String>) -> Self {
        if let Some(condition) = self.stop_conditions.last_mut() {
            condition["match"][place.into()] = json!(format!("params.{}", params_place.into()));
        }
        self
    }

    /// The signal ends the wait; the run goes there.
    #[must_use]
    pub fn release_on(mut self, signal: impl Into<String>, to: impl Into<To>) -> Self {
        let (signal, then) = (signal.into(), to.into().value());
        let condition = json!({ "type": "signal_received", "signal_type": signal, "then": then });
        self.stop_conditions.push(condition);
        self
    }
}

/// Where a run goes, before anybody has looked whether the step exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// To the step after this one.
    Next,
    /// The run ends `completed`.
    Complete,
    /// The run ends `stopped`.
    Stop,
    /// To the step of that id.
    Step(String),
}

impl To {
    /// To the step of that id.
    #[must_use]
    pub fn step(id: impl Into<String>) -> Self {
        Self::Step(id.into())
    }

    fn value(self) -> Value {
        match self {
            Self::Next => canonical::target(&Target::Next),
            Self::Complete => canonical::target(&Target::Complete),
            Self::Stop => canonical::target(&Target::Stop),
            Self::Step(id) => json!({ "goto": id }),
        }
    }
}

impl From<Target> for To {
    fn from(target: Target) -> Self {
        match target {
            Target::Next => Self::Next,
            Target::Complete => Self::Complete,
            Target::Stop => Self::Stop,
            Target::Goto(key) => Self::Step(key.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_it_can_say() {
        let document = WorkflowBuilder::new("k")
            .version(3)
            .notify("a", "log", "hello")
            .wait("b", "72h", |wait| {
                wait.stop_on("seen")
                    .release_on("asked", To::step("a"))
                    .release_on("done", To::Next)
            })
            .wait("c", "PT1H", |wait| wait)
            .on("a", Outcome::Bounced, To::Stop)
            .on("c", Outcome::Elapsed, Target::Complete)
            .on("a", Outcome::Bounced, To::Complete)
            .document();
        let expected = json!({
            "key": "k",
            "version": 3,
            "steps": [
                {
                    "id": "a",
                    "action": { "type": "notify", "channel": "log", "render_key": "hello" },
                    "on_outcome": { "bounced": "complete" },
                },
                {
                    "id": "b",
                    "action": { "type": "wait", "duration": "72h", "stop_conditions": [
                        { "type": "signal_received", "signal_type": "seen" },
                        { "type": "signal_received", "signal_type": "asked", "then": { "goto": "a" } },
                        { "type": "signal_received", "signal_type": "done", "then": "next" },
                    ] },
                },
                {
                    "id": "c",
                    "action": { "type": "wait", "duration": "PT1H" },
                    "on_outcome": { "elapsed": "complete" },
                },
            ],
        });
        assert_eq!(document.value(), &expected);
        assert!(validate(&document, &Known::default()).is_ok());
    }

    #[test]
    fn its_mistakes_are_found_by_the_same_checker() {
        let mistakes = WorkflowBuilder::new("k")
            .version(0)
            .notify("greet", "pigeon", " ")
            .on("gret", Outcome::Bounced, To::Stop)
            .on("greet", Outcome::Elapsed, To::step("gone"))
            .build(&Known::default())
            .unwrap_err();
        let mistakes: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(mistakes.join("\n"), @r#"
    there is no step named `gret`; did you mean `greet`?
    /version: a version is a whole number from 1 to 2147483647, found 0; leave it out to have versions counted for you
    /steps/0/action/channel: unknown channel `pigeon`; known: email, in_app, log, webhook
    /steps/0/action/render_key: the render key is blank
    /steps/0/on_outcome/elapsed: a notify step never ends with `elapsed`; known: delivered, suppressed, temporary_failure, retries_exhausted, permanent_failure, bounced
    /steps/0/on_outcome/elapsed/goto: there is no step named `gone`
"#);
    }
}
