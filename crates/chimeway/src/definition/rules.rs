//! The rule dialect: workflows as the original Chimeway writes them, read into the same plan.
//!
//! Steps are numbered by `step_order`, and what happens after one is a list of rules in its
//! `config.progress`. `rules/rule.rs` reads the rules, `rules/plan.rs` says what they mean in ours.

mod plan;
mod rule;
mod spelling;
#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
};

use serde_json::Value;

use self::rule::Rules;
pub(super) use self::spelling::Spelling;
use super::{
    document,
    error::Problem,
    graph::Places,
    read::{MAX_STEPS, Reader},
    shape::{Node, Object, found},
    step::WorkflowPlan,
};
use crate::ids::{BadName, ChannelName, RenderKey, StepKey, Version, WorkflowKey};

const STEP_KEYS: [&str; 5] = ["step_key", "step_order", "channel", "render_key", "config"];

/// A step as the dialect has it: read, not yet in its place.
struct RuleStep {
    pointer: String,
    order: usize,
    key: StepKey,
    channel: ChannelName,
    render_key: RenderKey,
    rules: Rules,
}

impl<'a> Reader<'a> {
    /// The plan of a document in the rule dialect, if nothing stood in the way of reading it.
    pub(super) fn rule_dialect(
        &mut self,
        value: &'a Value,
    ) -> Option<(WorkflowPlan, Option<Version>)> {
        let root = Node::root(value).object(&mut self.mistakes)?;
        let known = ["workflow_key", "workflow_version", "source", "steps"];
        root.only(&known, |_| None, &mut self.mistakes);
        // Who declared it: the original writes it when it stores a workflow, and it means nothing here.
        if let Some(source) = root.get("source") {
            source.text(&mut self.mistakes);
        }
        let key = root
            .need("workflow_key", &mut self.mistakes)
            .and_then(|key| self.trimmed::<WorkflowKey>(&key));
        let version = root
            .need("workflow_version", &mut self.mistakes)
            .and_then(|version| self.workflow_version(&version));
        let steps = root
            .need("steps", &mut self.mistakes)
            .and_then(|steps| self.rule_steps(&steps, key.as_ref()));
        let (key, version, (steps, pointers)) = (key?, version?, plan::steps(steps?));
        self.places = Places::Rules(pointers);
        Some((
            WorkflowPlan {
                key,
                trigger: None,
                context: BTreeMap::new(),
                steps,
            },
            Some(version),
        ))
    }

    fn workflow_version(&mut self, node: &Node<'a>) -> Option<Version> {
        let version = document::version(node.value);
        if version.is_none() {
            let problem = Problem::BadVersion {
                found: found(node.value),
            };
            self.mistakes.add(&node.pointer, problem, None);
        }
        version
    }

    /// In the order of the file.
    fn rule_steps(
        &mut self,
        node: &Node<'a>,
        workflow: Option<&WorkflowKey>,
    ) -> Option<Vec<RuleStep>> {
        let steps = node.list(&mut self.mistakes)?;
        if steps.is_empty() {
            self.mistakes.add(&node.pointer, Problem::NoSteps, None);
        }
        let waits = steps.iter().filter(|step| rule::waits(step.value)).count();
        if steps.len() + waits > MAX_STEPS {
            let problem = Problem::TooManySteps {
                found: steps.len() + waits,
                limit: MAX_STEPS,
            };
            let hint = (waits > 0).then(|| "each `wait_until` is a step as well".to_owned());
            self.mistakes.add(&node.pointer, problem, hint);
        }
        for step in &steps {
            let key = step.value.get("step_key").and_then(Value::as_str);
            if let Some(key) = key.map(str::trim).filter(|key| !key.is_empty()) {
                self.take_id(key, format!("{}/step_key", step.pointer));
            }
        }
        let mut orders = Orders::of(steps.len());
        // A document beyond the limit is refused already; reading on would only cost time.
        let read = steps.iter().take(MAX_STEPS);
        let read = read.map(|step| self.rule_step(step, workflow, &mut orders));
        read.collect::<Vec<_>>().into_iter().collect()
    }

    fn rule_step(
        &mut self,
        node: &Node<'a>,
        workflow: Option<&WorkflowKey>,
        orders: &mut Orders,
    ) -> Option<RuleStep> {
        let step = node.object(&mut self.mistakes)?;
        let under_config = |key: &str| (key == "progress").then_some("it belongs under `config`");
        step.only(&STEP_KEYS, under_config, &mut self.mistakes);
        let key = step
            .need("step_key", &mut self.mistakes)
            .and_then(|key| self.trimmed::<StepKey>(&key));
        let order = step
            .need("step_order", &mut self.mistakes)
            .and_then(|order| self.step_order(&order, orders));
        let channel = step.need("channel", &mut self.mistakes).and_then(|node| {
            let name = self.trimmed(&node)?;
            self.known_channel(name, &node.pointer)
        });
        let render_key = match step.get("render_key") {
            Some(render_key) => self.name(&render_key),
            None => self.default_render_key(&step, workflow, channel.as_ref()),
        };
        let rules = self.rules(&step, key.as_ref());
        Some(RuleStep {
            pointer: step.pointer,
            order: order?,
            key: key?,
            channel: channel?,
            render_key: render_key?,
            rules: rules?,
        })
    }

    fn step_order(&mut self, node: &Node<'a>, orders: &mut Orders) -> Option<usize> {
        let order = node.value.as_u64().and_then(|n| usize::try_from(n).ok());
        let Some(order) = order.filter(|order| (1..=orders.steps).contains(order)) else {
            let problem = Problem::BadStepOrder {
                found: found(node.value),
                steps: orders.steps,
            };
            let hint = "number the steps 1, 2, 3 .. without gaps".to_owned();
            self.mistakes.add(&node.pointer, problem, Some(hint));
            return None;
        };
        if let Some(first) = orders.taken.get(&order) {
            let first = first.to_owned();
            let problem = Problem::DuplicateStepOrder { order, first };
            self.mistakes.add(&node.pointer, problem, None);
            return None;
        }
        orders.taken.insert(order, node.pointer.clone());
        Some(order)
    }

    /// `<workflow key>.<channel>`, as in the original.
    fn default_render_key(
        &mut self,
        step: &Object<'a>,
        workflow: Option<&WorkflowKey>,
        channel: Option<&ChannelName>,
    ) -> Option<RenderKey> {
        match RenderKey::new(format!("{}.{}", workflow?, channel?)) {
            Ok(key) => Some(key),
            Err(bad) => {
                let hint = "the workflow key and the channel make it; give the step a `render_key`";
                self.mistakes
                    .add(&step.pointer, Problem::BadName(bad), Some(hint.to_owned()));
                None
            }
        }
    }

    /// A name without the blanks around it, as the original takes every name.
    fn trimmed<T: FromStr<Err = BadName>>(&mut self, node: &Node<'a>) -> Option<T> {
        match node.text(&mut self.mistakes)?.trim().parse() {
            Ok(name) => Some(name),
            Err(bad) => {
                self.mistakes
                    .add(&node.pointer, Problem::BadName(bad), None);
                None
            }
        }
    }
}

/// Which step orders are taken, and where.
struct Orders {
    steps: usize,
    taken: HashMap<usize, String>,
}

impl Orders {
    fn of(steps: usize) -> Self {
        let taken = HashMap::new();
        Self { steps, taken }
    }
}
