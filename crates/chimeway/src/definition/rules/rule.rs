//! What happens after a step: the rules in its `config.progress`.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::{
    definition::{
        duration::IsoDuration,
        error::Problem,
        read::{MAX_STOP_CONDITIONS, Reader},
        shape::{Node, Object, found, shown, suggest},
        step::{Outcome, Target},
    },
    ids::{SignalName, StepKey},
};

/// What a `wait_until` waits from: the moment the step's own delivery came to its end.
const ANCHOR: &str = "prior_delivery_terminal_at";

/// What the original's inbox tells when an item is read, and what ours does: a wait of the dialect that
/// is to end when the recipient reads would never hear of it under the other name.
const READ_THERE: &str = "chimeway.notification.read";
const READ_HERE: &str = "notification_read";

/// The rules of one step.
#[derive(Default)]
pub(super) struct Rules {
    /// Where the run goes at once.
    pub(super) on_outcome: BTreeMap<Outcome, Target>,
    /// What it does for the other outcomes, if that is to wait.
    pub(super) wait: Option<WaitUntil>,
}

/// A `wait_until` rule.
pub(super) struct WaitUntil {
    pub(super) pointer: String,
    /// The step it becomes: `<step key>.wait`.
    pub(super) key: StepKey,
    pub(super) duration: IsoDuration,
    pub(super) cancel_signals: Vec<SignalName>,
    pub(super) to_step: StepKey,
}

/// A kind of rule and the keys it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    WaitUntil,
    OnOutcome,
    Stop,
}

impl Kind {
    const ALL: [Self; 3] = [Self::WaitUntil, Self::OnOutcome, Self::Stop];

    const fn name(self) -> &'static str {
        match self {
            Self::WaitUntil => "wait_until",
            Self::OnOutcome => "on_outcome",
            Self::Stop => "stop",
        }
    }

    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::WaitUntil => &[
                "kind",
                "anchor",
                "delay_seconds",
                "to_step",
                "cancel_signals",
            ],
            Self::OnOutcome => &["kind", "outcome", "to_step"],
            Self::Stop => &["kind", "outcome"],
        }
    }

    fn every_key() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().flat_map(Self::keys).copied()
    }
}

/// Whether a step has a `wait_until` rule, whatever else is wrong with it.
pub(super) fn waits(step: &Value) -> bool {
    let rules = step.pointer("/config/progress").and_then(Value::as_array);
    rules.is_some_and(|rules| {
        rules
            .iter()
            .any(|rule| rule.get("kind").and_then(Value::as_str) == Some(Kind::WaitUntil.name()))
    })
}

/// Where the rule for an outcome is, and under `None` the one that waits.
type Given = HashMap<Option<Outcome>, String>;

impl<'a> Reader<'a> {
    /// The rules of a step; `key` is the step's own, where it has a sound one.
    pub(super) fn rules(&mut self, step: &Object<'a>, key: Option<&StepKey>) -> Option<Rules> {
        let Some(config) = step.get("config") else {
            return Some(Rules::default());
        };
        let config = config.object(&mut self.mistakes)?;
        let in_a_rule = |key: &str| {
            let known = Kind::every_key().any(|known| known == key);
            known.then_some("it belongs in a rule of the list `progress`")
        };
        config.only(&["progress"], in_a_rule, &mut self.mistakes);
        let Some(progress) = config.get("progress") else {
            return Some(Rules::default());
        };
        let mut rules = Some(Rules::default());
        let mut given = Given::new();
        for rule in progress.list(&mut self.mistakes)? {
            match (self.rule(&rule, key, &mut given), &mut rules) {
                (Some(Rule::Wait(wait)), Some(rules)) => rules.wait = Some(wait),
                (Some(Rule::Leave(outcome, to)), Some(rules)) => {
                    rules.on_outcome.insert(outcome, to);
                }
                _ => rules = None,
            }
        }
        rules
    }

    fn rule(&mut self, node: &Node<'a>, key: Option<&StepKey>, given: &mut Given) -> Option<Rule> {
        let rule = node.object(&mut self.mistakes)?;
        let kind = rule
            .need("kind", &mut self.mistakes)
            .and_then(|kind| self.kind(&kind));
        self.only_keys_of(kind, &rule);
        match kind? {
            Kind::WaitUntil => {
                let new = self.first_of_its_sort(None, &rule.pointer, given);
                let wait = self.wait_until(&rule, key)?;
                new.then_some(Rule::Wait(wait))
            }
            Kind::OnOutcome => {
                let outcome = self.outcome_of(&rule, given);
                let to = self.destination(&rule);
                Some(Rule::Leave(outcome?, Target::Goto(to?)))
            }
            Kind::Stop => Some(Rule::Leave(self.outcome_of(&rule, given)?, Target::Stop)),
        }
    }

    fn kind(&mut self, node: &Node<'a>) -> Option<Kind> {
        let name = node.text(&mut self.mistakes)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        if kind.is_none() {
            let problem = Problem::UnknownRuleKind { found: shown(name) };
            let hint = suggest(name, Kind::ALL.into_iter().map(Kind::name));
            self.mistakes.add(&node.pointer, problem, Some(hint));
        }
        kind
    }

    /// Reports what does not belong in a rule; of a kind that is not known, what belongs in none.
    fn only_keys_of(&mut self, kind: Option<Kind>, rule: &Object<'a>) {
        for (key, node) in rule.entries() {
            let elsewhere = Kind::every_key().find(|known| *known == key);
            let (problem, hint) = match (kind, elsewhere) {
                (Some(kind), _) if kind.keys().contains(&key) => continue,
                (None, Some(_)) => continue,
                (Some(kind), Some(name)) => {
                    let (kind, keys) = (kind.name(), kind.keys().join(", "));
                    let hint = format!("a `{kind}` rule has: {keys}");
                    (Problem::MixedRuleShape { name, kind }, hint)
                }
                (kind, None) => {
                    let hint = match kind {
                        Some(kind) => suggest(key, kind.keys().iter().copied()),
                        None => "no kind of rule has it".to_owned(),
                    };
                    (Problem::UnknownKey { name: shown(key) }, hint)
                }
            };
            self.mistakes.add(&node.pointer, problem, Some(hint));
        }
    }

    /// Says so if the step has a rule of that sort already.
    fn first_of_its_sort(
        &mut self,
        sort: Option<Outcome>,
        pointer: &str,
        given: &mut Given,
    ) -> bool {
        let Some(first) = given.get(&sort) else {
            given.insert(sort, pointer.to_owned());
            return true;
        };
        let (what, hint) = match sort {
            Some(outcome) => (format!("a rule for `{outcome}`"), "keep one of them"),
            None => ("a `wait_until` rule".to_owned(), "a step waits once"),
        };
        let first = first.to_owned();
        let problem = Problem::DuplicateRule { what, first };
        self.mistakes.add(pointer, problem, Some(hint.to_owned()));
        false
    }

    fn outcome_of(&mut self, rule: &Object<'a>, given: &mut Given) -> Option<Outcome> {
        let node = rule.need("outcome", &mut self.mistakes)?;
        let name = node.text(&mut self.mistakes)?;
        let mut possible = Outcome::NOTIFY.into_iter();
        let Some(outcome) = possible.find(|outcome| outcome.as_str() == name) else {
            let hint = suggest(name, Outcome::NOTIFY.into_iter().map(Outcome::as_str));
            let problem = Problem::UnknownOutcome { found: shown(name) };
            self.mistakes.add(&node.pointer, problem, Some(hint));
            return None;
        };
        self.first_of_its_sort(Some(outcome), &rule.pointer, given)
            .then_some(outcome)
    }

    fn destination(&mut self, rule: &Object<'a>) -> Option<StepKey> {
        let node = rule.need("to_step", &mut self.mistakes)?;
        let key = self.trimmed(&node)?;
        self.existing(key, &node.pointer)
    }

    fn wait_until(&mut self, rule: &Object<'a>, step: Option<&StepKey>) -> Option<WaitUntil> {
        let anchored = self.anchor(rule);
        let duration = rule
            .need("delay_seconds", &mut self.mistakes)
            .and_then(|delay| self.delay(&delay));
        let to_step = self.destination(rule);
        let cancel_signals = match rule.get("cancel_signals") {
            Some(signals) => self.cancel_signals(&signals),
            None => Some(vec![]),
        };
        let key = step.and_then(|step| self.wait_key(step, &rule.pointer));
        anchored?;
        Some(WaitUntil {
            pointer: rule.pointer.clone(),
            key: key?,
            duration: duration?,
            cancel_signals: cancel_signals?,
            to_step: to_step?,
        })
    }

    fn anchor(&mut self, rule: &Object<'a>) -> Option<()> {
        let node = rule.need("anchor", &mut self.mistakes)?;
        let anchor = node.text(&mut self.mistakes)?;
        if anchor == ANCHOR {
            return Some(());
        }
        let problem = Problem::InvalidAnchor {
            found: shown(anchor),
        };
        let hint = suggest(anchor, [ANCHOR].into_iter());
        self.mistakes.add(&node.pointer, problem, Some(hint));
        None
    }

    fn delay(&mut self, node: &Node<'a>) -> Option<IsoDuration> {
        let millis = node.value.as_i64().and_then(|n| n.checked_mul(1_000));
        let duration = millis.and_then(|millis| IsoDuration::from_millis(millis).ok());
        if duration.is_none() {
            let problem = Problem::InvalidDelaySeconds {
                found: found(node.value),
            };
            let meant = node.value.as_str().and_then(|text| text.parse().ok());
            let hint = meant.and_then(in_seconds);
            self.mistakes.add(&node.pointer, problem, hint);
        }
        duration
    }

    /// Without blanks around them and without the repeated ones, as the original takes them; the one
    /// that the inbox tells has our name.
    fn cancel_signals(&mut self, node: &Node<'a>) -> Option<Vec<SignalName>> {
        let mut seen = HashSet::new();
        let mut signals = Some(vec![]);
        for signal in node.list(&mut self.mistakes)? {
            if let Value::String(text) = signal.value
                && !text.trim().is_empty()
                && !seen.insert(named_here(text.trim()))
            {
                continue;
            }
            match (self.trimmed(&signal), &mut signals) {
                (Some(name), Some(signals)) => signals.push(heard_here(name)),
                _ => signals = None,
            }
        }
        if seen.len() > MAX_STOP_CONDITIONS {
            let (found, limit) = (seen.len(), MAX_STOP_CONDITIONS);
            let problem = Problem::TooManyCancelSignals { found, limit };
            self.mistakes.add(&node.pointer, problem, None);
            return None;
        }
        signals
    }

    /// The key of the step that a wait becomes.
    fn wait_key(&mut self, step: &StepKey, pointer: &str) -> Option<StepKey> {
        let name = format!("{step}.wait");
        let (problem, hint) = match (StepKey::new(name.as_str()), self.ids.get(name.as_str())) {
            (Ok(key), None) => return Some(key),
            (Ok(_), Some(first)) => {
                let (id, first) = (shown(&name), first.to_owned());
                (Problem::WaitKeyTaken { id, first }, "rename that step")
            }
            (Err(bad), _) => {
                let hint = "the wait is the step `<step_key>.wait`; shorten the `step_key`";
                (Problem::BadName(bad), hint)
            }
        };
        self.mistakes.add(pointer, problem, Some(hint.to_owned()));
        None
    }
}

/// One rule that was read.
enum Rule {
    Wait(WaitUntil),
    Leave(Outcome, Target),
}

fn named_here(signal: &str) -> &str {
    if signal == READ_THERE {
        READ_HERE
    } else {
        signal
    }
}

fn heard_here(signal: SignalName) -> SignalName {
    SignalName::new(named_here(signal.as_str())).unwrap_or(signal)
}

/// How to write a duration as a delay, if it is whole seconds.
fn in_seconds(duration: IsoDuration) -> Option<String> {
    let millis = duration.as_millis();
    (millis % 1_000 == 0).then(|| format!("write `{}`", millis / 1_000))
}
