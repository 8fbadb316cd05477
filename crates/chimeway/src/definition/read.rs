//! From a document to a plan: every key read, every mistake noted.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::{
    approval, condition,
    custom::Custom,
    document,
    duration::IsoDuration,
    error::Problem,
    graph::Places,
    known::Known,
    rules::Spelling,
    shape::{Mistakes, Node, Object, found, shown, suggest},
    step::{Notify, Outcome, Step, StepKind, StopCondition, Target, Wait, WorkflowPlan},
};
use crate::ids::{BadName, ChannelName, KindName, StepKey, Version};

/// The most steps a workflow may have.
pub const MAX_STEPS: usize = 100;
/// The most stop conditions a wait may have.
pub const MAX_STOP_CONDITIONS: usize = 10;

const ROOT_KEYS: [&str; 5] = ["key", "version", "trigger", "context", "steps"];
const STEP_KEYS: [&str; 4] = ["id", "action", "on_outcome", "on"];
const NOTIFY_KEYS: [&str; 5] = ["type", "channel", "render_key", "category", "unless_read"];
const WAIT_KEYS: [&str; 3] = ["type", "duration", "stop_conditions"];

/// What is known of a step from its type alone, whatever else is wrong with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) outcomes: &'static [Outcome],
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "notify",
        outcomes: &Outcome::NOTIFY,
    },
    Kind {
        name: "wait",
        outcomes: &Outcome::WAIT,
    },
    Kind {
        name: "condition",
        outcomes: &Outcome::CONDITION,
    },
    Kind {
        name: "approval",
        outcomes: &Outcome::APPROVAL,
    },
    Kind {
        name: "action",
        outcomes: &Outcome::WORK,
    },
];
/// A host's own.
const CUSTOM: Kind = Kind {
    name: "custom",
    outcomes: &Outcome::WORK,
};

impl Kind {
    /// The kind that a text names, where a document may name it.
    pub(super) fn named(name: &str, known: Option<&Known>) -> Option<Self> {
        let built_in = KINDS.into_iter().find(|kind| kind.name == name);
        let is_known = |known: &Known| known.steps.iter().any(|kind| kind.as_str() == name);
        built_in.or_else(|| known.is_none_or(is_known).then_some(CUSTOM))
    }
}

const ACTION_KEYS: [&str; 2] = ["type", "actions"];

/// Reads one document; afterwards `mistakes` holds what is wrong with it.
pub(super) struct Reader<'a> {
    /// `None` takes every channel, kind of step and action.
    pub(super) known: Option<&'a Known>,
    /// The id of each step that has one, and where: targets may point forward.
    pub(super) ids: HashMap<&'a str, String>,
    /// Where the steps of the plan were read.
    pub(super) places: Places,
    pub(super) mistakes: Mistakes,
}

impl<'a> Reader<'a> {
    pub(super) fn new(known: Option<&'a Known>) -> Self {
        Self {
            known,
            ids: HashMap::new(),
            places: Places::default(),
            mistakes: Mistakes::default(),
        }
    }

    /// The plan, if nothing stood in the way of reading it.
    pub(super) fn workflow(&mut self, value: &'a Value) -> Option<(WorkflowPlan, Option<Version>)> {
        match Spelling::of(value, &mut self.mistakes)? {
            Spelling::Rules => return self.rule_dialect(value),
            Spelling::Rocket => return self.rocket(value),
            Spelling::Steps => {}
        }
        let root = Node::root(value).object(&mut self.mistakes)?;
        root.only(&ROOT_KEYS, |_| None, &mut self.mistakes);
        let key = root
            .need("key", &mut self.mistakes)
            .and_then(|key| self.name(&key));
        let version = root
            .get("version")
            .and_then(|version| self.version(&version));
        let trigger = match root.get("trigger") {
            Some(trigger) => self.trigger(&trigger).map(Some),
            None => Some(None),
        };
        let context = match root.get("context") {
            Some(context) => self.context(&context, root.get("trigger").is_some()),
            None => Some(BTreeMap::new()),
        };
        let steps = root
            .need("steps", &mut self.mistakes)
            .and_then(|steps| self.steps(&steps, Self::step));
        Some((
            WorkflowPlan {
                key: key?,
                trigger: trigger?,
                context: context?,
                steps: steps?,
            },
            version,
        ))
    }

    pub(super) fn name<T: std::str::FromStr<Err = BadName>>(
        &mut self,
        node: &Node<'a>,
    ) -> Option<T> {
        match node.text(&mut self.mistakes)?.parse() {
            Ok(name) => Some(name),
            Err(bad) => {
                self.mistakes
                    .add(&node.pointer, Problem::BadName(bad), None);
                None
            }
        }
    }

    pub(super) fn version(&mut self, node: &Node<'a>) -> Option<Version> {
        let version = document::version(node.value);
        if version.is_none() {
            let problem = Problem::BadVersion {
                found: found(node.value),
            };
            let hint = "leave it out to have versions counted for you".to_owned();
            self.mistakes.add(&node.pointer, problem, Some(hint));
        }
        version
    }

    /// The steps of a list, each read by `step`.
    pub(super) fn steps(
        &mut self,
        node: &Node<'a>,
        step: fn(&mut Self, &Node<'a>) -> Option<Step>,
    ) -> Option<Vec<Step>> {
        let steps = node.list(&mut self.mistakes)?;
        if steps.is_empty() {
            self.mistakes.add(&node.pointer, Problem::NoSteps, None);
        }
        if steps.len() > MAX_STEPS {
            let problem = Problem::TooManySteps {
                found: steps.len(),
                limit: MAX_STEPS,
            };
            self.mistakes.add(&node.pointer, problem, None);
        }
        self.collect_ids(&steps);
        // A document beyond the limit is refused already; reading on would only cost time.
        let read = steps.iter().take(MAX_STEPS).map(|one| step(self, one));
        read.collect::<Vec<_>>().into_iter().collect()
    }

    fn collect_ids(&mut self, steps: &[Node<'a>]) {
        for step in steps {
            let Some(id) = step.value.get("id").and_then(Value::as_str) else {
                continue;
            };
            self.take_id(id, format!("{}/id", step.pointer));
        }
    }

    /// Notes the id of a step, or that it is taken.
    pub(super) fn take_id(&mut self, id: &'a str, pointer: String) {
        match self.ids.get(id) {
            Some(first) => {
                let problem = Problem::DuplicateStep {
                    id: shown(id),
                    first: first.to_owned(),
                };
                self.mistakes.add(&pointer, problem, None);
            }
            None => {
                self.ids.insert(id, pointer);
            }
        }
    }

    fn step(&mut self, node: &Node<'a>) -> Option<Step> {
        let step = node.object(&mut self.mistakes)?;
        let under_action = |key: &str| {
            let of_kinds: [&[&str]; 5] = [
                &NOTIFY_KEYS,
                &WAIT_KEYS,
                &condition::KEYS,
                &approval::KEYS,
                &ACTION_KEYS,
            ];
            let known = of_kinds.iter().any(|keys| keys.contains(&key));
            known.then_some("it belongs under `action`")
        };
        step.only(&STEP_KEYS, under_action, &mut self.mistakes);
        let key = step
            .need("id", &mut self.mistakes)
            .and_then(|id| self.name::<StepKey>(&id));
        let action = step.need("action", &mut self.mistakes);
        let named = action.as_ref().and_then(|action| {
            let name = action.value.get("type")?.as_str()?;
            Kind::named(name, self.known)
        });
        let kind = action.and_then(|action| self.action(&action, key.as_ref()));
        let on_outcome = self.on_outcome(&step, named);
        Some(Step {
            key: key?,
            kind: kind?,
            on_outcome: on_outcome?,
        })
    }

    fn action(&mut self, node: &Node<'a>, step: Option<&StepKey>) -> Option<StepKind> {
        let action = node.object(&mut self.mistakes)?;
        let kind = action.need("type", &mut self.mistakes)?;
        match kind.text(&mut self.mistakes)? {
            "notify" => self.notify(&action, step).map(StepKind::Notify),
            "wait" => self.wait(&action).map(StepKind::Wait),
            "condition" => self.condition(&action).map(StepKind::Condition),
            "approval" => self.approval(&action).map(StepKind::Approval),
            "action" => {
                action.only(&ACTION_KEYS, beside_action, &mut self.mistakes);
                let actions = action.need("actions", &mut self.mistakes)?;
                self.actions(&actions).map(StepKind::Action)
            }
            other => self.custom(&action, other, &kind).map(StepKind::Custom),
        }
    }

    /// A step of a host's own kind, if a document may name it.
    pub(super) fn custom(
        &mut self,
        action: &Object<'a>,
        name: &str,
        kind: &Node<'a>,
    ) -> Option<Custom> {
        if Kind::named(name, self.known).is_none() {
            self.unknown_type(name, kind);
            return None;
        }
        let kind = self.name(kind);
        let settings = self.settings(action);
        Some(Custom {
            kind: kind?,
            settings: settings?,
        })
    }

    fn unknown_type(&mut self, name: &str, kind: &Node<'a>) {
        let own = self.known.map(|known| &known.steps).into_iter().flatten();
        let names = KINDS
            .iter()
            .map(|kind| kind.name)
            .chain(own.map(KindName::as_str));
        let hint = suggest(name, names);
        let problem = Problem::UnknownStepType { found: shown(name) };
        self.mistakes.add(&kind.pointer, problem, Some(hint));
    }

    fn notify(&mut self, action: &Object<'a>, step: Option<&StepKey>) -> Option<Notify> {
        action.only(&NOTIFY_KEYS, beside_action, &mut self.mistakes);
        let channel = action.need("channel", &mut self.mistakes);
        let channel = channel.and_then(|channel| self.channel(&channel));
        let render_key = match action.get("render_key") {
            Some(render_key) => self.name(&render_key),
            None => step.and_then(|step| step.as_str().parse().ok()),
        };
        let category = match action.get("category") {
            Some(category) => self.name(&category).map(Some),
            None => Some(None),
        };
        let unless_read = match action.get("unless_read") {
            Some(node) => self.unless_read(&node, channel.as_ref()),
            None => Some(false),
        };
        Some(Notify {
            channel: channel?,
            render_key: render_key?,
            category: category?,
            unless_read: unless_read?,
        })
    }

    /// An item of the inbox that is not there once it has been read would never have been there.
    fn unless_read(&mut self, node: &Node<'a>, channel: Option<&ChannelName>) -> Option<bool> {
        let wanted = node.boolean(&mut self.mistakes)?;
        if wanted && channel.is_some_and(|channel| channel.as_str() == "in_app") {
            let hint = "a fallback goes over another channel, `email` for instance".to_owned();
            let problem = Problem::UnfitFallback;
            self.mistakes.add(&node.pointer, problem, Some(hint));
            return None;
        }
        Some(wanted)
    }

    fn channel(&mut self, node: &Node<'a>) -> Option<ChannelName> {
        let name = self.name::<ChannelName>(node)?;
        self.known_channel(name, &node.pointer)
    }

    /// The channel, if a document may name it.
    pub(super) fn known_channel(
        &mut self,
        name: ChannelName,
        pointer: &str,
    ) -> Option<ChannelName> {
        let Some(known) = self.known.filter(|known| !known.channels.contains(&name)) else {
            return Some(name);
        };
        let hint = suggest(
            name.as_str(),
            known.channels.iter().map(ChannelName::as_str),
        );
        let problem = Problem::UnknownChannel {
            found: shown(name.as_str()),
        };
        self.mistakes.add(pointer, problem, Some(hint));
        None
    }

    fn wait(&mut self, action: &Object<'a>) -> Option<Wait> {
        action.only(&WAIT_KEYS, beside_action, &mut self.mistakes);
        let duration = action
            .need("duration", &mut self.mistakes)
            .and_then(|duration| self.duration(&duration));
        let stop_conditions = match action.get("stop_conditions") {
            Some(conditions) => self.stop_conditions(&conditions),
            None => Some(vec![]),
        };
        Some(Wait {
            duration: duration?,
            stop_conditions: stop_conditions?,
        })
    }

    pub(super) fn duration(&mut self, node: &Node<'a>) -> Option<IsoDuration> {
        let text = node.text(&mut self.mistakes)?;
        text.parse()
            .map_err(|reason| self.bad_duration(node, text, reason))
            .ok()
    }

    fn bad_duration(&mut self, node: &Node<'a>, text: &str, reason: super::duration::BadDuration) {
        let hint = Some(reason.hint());
        let problem = Problem::BadDuration {
            text: shown(text),
            reason,
        };
        self.mistakes.add(&node.pointer, problem, hint);
    }

    fn stop_conditions(&mut self, node: &Node<'a>) -> Option<Vec<StopCondition>> {
        let conditions = node.list(&mut self.mistakes)?;
        if conditions.len() > MAX_STOP_CONDITIONS {
            let (found, limit) = (conditions.len(), MAX_STOP_CONDITIONS);
            let problem = Problem::TooManyStopConditions { found, limit };
            self.mistakes.add(&node.pointer, problem, None);
        }
        let mut seen = HashMap::new();
        let read = conditions
            .iter()
            .take(MAX_STOP_CONDITIONS)
            .map(|condition| self.stop_condition(condition, &mut seen));
        read.collect::<Vec<_>>().into_iter().collect()
    }

    fn stop_condition(
        &mut self,
        node: &Node<'a>,
        seen: &mut HashMap<&'a str, String>,
    ) -> Option<StopCondition> {
        let condition = node.object(&mut self.mistakes)?;
        condition.only(
            &["type", "signal_type", "match", "then"],
            |_| None,
            &mut self.mistakes,
        );
        if let Some(kind) = condition.need("type", &mut self.mistakes)
            && let Some(text) = kind.text(&mut self.mistakes)
            && text != "signal_received"
        {
            let problem = Problem::UnknownStopCondition { found: shown(text) };
            let hint = suggest(text, ["signal_received"].into_iter());
            self.mistakes.add(&kind.pointer, problem, Some(hint));
        }
        let signal = condition.need("signal_type", &mut self.mistakes);
        if let Some(node) = &signal
            && let Some(text) = node.value.as_str()
        {
            match seen.get(text) {
                Some(first) => {
                    let (signal, first) = (shown(text), first.to_owned());
                    let problem = Problem::DuplicateSignal { signal, first };
                    self.mistakes.add(&node.pointer, problem, None);
                }
                None => {
                    seen.insert(text, node.pointer.clone());
                }
            }
        }
        let signal = signal.and_then(|signal| self.name(&signal));
        let matches = match condition.get("match") {
            Some(comparisons) => self.matches(&comparisons),
            None => Some(vec![]),
        };
        let then = match condition.get("then") {
            Some(then) => self.target(&then),
            None => Some(Target::Stop),
        };
        Some(StopCondition {
            signal: signal?,
            matches: matches?,
            then: then?,
        })
    }
}

pub(super) fn beside_action(key: &str) -> Option<&'static str> {
    matches!(key, "on" | "on_outcome").then_some("it belongs beside `action`")
}
