use std::fmt::Write as _;

use super::translated;
use crate::definition::{
    Action, Assignee, Document, Known, Outcome, Source, StepKind, Target, Validated,
    WorkflowBuilder, validate,
};

/// As Rocket's documents, its Go and its Express write it.
const PURCHASE: &str = r#"{
  "name": "purchase_approval", "active": true,
  "trigger": {"type": "state_change", "entity": "order", "field": "status", "to": "submitted"},
  "context": {"record_id": "trigger.record_id", "amount": "trigger.record.total"},
  "steps": [
    {"id": "check", "type": "condition", "expression": "context.amount > 1000 and not (context.amount == nil)",
     "on_true": {"goto": "manager"}, "on_false": {"goto": "accept"}},
    {"id": "manager", "type": "approval", "assignee": {"type": "role", "role": "manager"}, "timeout": "72h",
     "on_approve": {"goto": "accept"}, "on_reject": "refuse", "on_timeout": "end"},
    {"id": "accept", "type": "action", "actions": [
      {"type": "set_field", "entity": "order", "record_id": "context.record_id", "field": "status", "value": "approved"},
      {"type": "send_event", "event": "order_approved"}], "then": "end"},
    {"id": "refuse", "type": "action", "actions": [
      {"type": "set_field", "entity": "order", "record_id": "context.record_id", "field": "rejected_at", "value": "now"}]}
  ]}"#;

/// The same as its Elixir reads it.
const ELIXIR: &str = "
name: purchase_approval
trigger: {type: state_change, entity: order, field: status, to: submitted}
context: {record_id: trigger.record_id, amount: record.total}
steps:
  - {name: check, type: condition, condition: context.amount > 1000 && ! (context.amount == null),
     on_true: manager, on_false: accept}
  - {name: manager, type: approval, roles: [manager], deadline: 72h, on_approve: accept, on_reject: refuse,
     on_timeout: ''}
  - {name: accept, type: action, next: null, actions: [
      {type: set_field, entity: order, record_id: context.record_id, field: status, value: approved},
      {type: send_signal, signal: order_approved}]}
  - {name: refuse, type: action, next: end, actions: [
      {type: set_field, entity: order, record_id: context.record_id, field: rejected_at, value: now}]}
";

fn accept(document: &Document) -> Validated {
    validate(document, &Known::default()).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
}

fn refuse(yaml: &str) -> String {
    let document = Document::from_yaml("test", yaml).unwrap();
    let mistakes = validate(&document, &Known::default()).expect_err(yaml);
    mistakes.iter().fold(String::new(), |mut all, mistake| {
        writeln!(all, "{mistake}").unwrap();
        all
    })
}

#[test]
fn both_spellings_are_one_workflow() {
    let documented = accept(&Document::from_json("purchase.json", PURCHASE).unwrap());
    let elixir = accept(&Document::from_yaml("purchase.yaml", ELIXIR).unwrap());
    assert_eq!(documented.plan.steps[1..], elixir.plan.steps[1..]);
    assert_eq!(documented.plan.context, elixir.plan.context);
    assert_eq!(documented.plan.key.as_str(), "purchase_approval");
    let StepKind::Condition(condition) = &documented.plan.steps[0].kind else {
        panic!("the first step is a condition");
    };
    assert_eq!(
        condition.expression.as_str(),
        "context.amount > 1000 && ! (context.amount == null)"
    );
    assert_eq!(
        documented.plan.context["amount"],
        Source::parse("record.total").unwrap()
    );
    let StepKind::Approval(approval) = &documented.plan.steps[1].kind else {
        panic!("the second step is an approval");
    };
    assert_eq!(
        approval.assignee,
        Assignee::Role("manager".parse().unwrap())
    );
    assert_eq!(documented.hash, elixir.hash);
}

#[test]
fn it_is_the_workflow_that_our_own_way_of_writing_makes() {
    let rocket = accept(&Document::from_json("purchase.json", PURCHASE).unwrap());
    let ours = WorkflowBuilder::new("purchase_approval")
        .on_change("order", "status", "submitted")
        .context("record_id", "trigger.record_id")
        .context("amount", "trigger.record.total")
        .condition(
            "check",
            "context.amount > 1000 && ! (context.amount == null)",
        )
        .approval("manager", |ask| ask.role("manager").timeout("P3D"))
        .action("accept", |work| {
            work.set_field("order", "context.record_id", "status", "approved")
                .perform(
                    "send_signal",
                    serde_json::json!({ "signal": "order_approved" }),
                )
        })
        .action("refuse", |work| {
            work.set_field("order", "context.record_id", "rejected_at", "now")
        })
        .on(
            "check",
            Outcome::Met,
            crate::definition::To::step("manager"),
        )
        .on(
            "check",
            Outcome::Unmet,
            crate::definition::To::step("accept"),
        )
        .on(
            "manager",
            Outcome::Approved,
            crate::definition::To::step("accept"),
        )
        .on(
            "manager",
            Outcome::Rejected,
            crate::definition::To::step("refuse"),
        )
        .on("manager", Outcome::TimedOut, Target::Complete)
        .on("accept", Outcome::Succeeded, Target::Complete)
        .on("refuse", Outcome::Succeeded, Target::Complete)
        .build(&Known::default())
        .unwrap();
    assert_eq!(ours.document, rocket.document);
    assert_eq!(ours.hash, rocket.hash);
    // What is stored is read as the same plan.
    assert_eq!(
        crate::definition::read_stored(&rocket.document),
        Ok(rocket.plan)
    );
}

#[test]
fn what_it_leaves_out() {
    let short = accept(
        &Document::from_yaml(
            "short.yaml",
            "name: k\ntrigger: {entity: order, field: paid, to: true}\nsteps: [{id: a, type: approval, \
             assignee: {type: fixed, value: ada}}]",
        )
        .unwrap(),
    );
    let step = &short.plan.steps[0];
    // With Rocket a run that nothing leads on is through; nobody's time is up without a time.
    assert_eq!(step.leads(Outcome::Rejected), Some(&Target::Complete));
    assert_eq!(step.leads(Outcome::TimedOut), Some(&Target::Stop));
    assert_eq!(short.plan.trigger.unwrap().to, "true");
    let names: Vec<_> = short
        .plan
        .context
        .iter()
        .map(|(name, source)| format!("{name}: {source}"))
        .collect();
    assert_eq!(
        names,
        ["record: trigger.record", "record_id: trigger.record_id"]
    );
}

#[test]
fn every_mistake_has_its_place() {
    insta::assert_snapshot!(refuse("
name: k
active: false
trigger: {type: cron, entity: order, field: status}
context: {a: trigger.recrd.x, b: 3}
steps:
  - {id: a, type: condition, expression: context.x = 1, on_true: {goto: bb}, on_false: nowhere, then: b}
  - {id: b, type: approval, assignee: {type: group, group: x}, timeout: 3 days, on_approve: 3}
  - {id: c, type: approval, roles: [a, b], assignee: {role: x}, deadline: 1h, timeout: 1h}
  - {id: d, type: action, actions: [{type: set_feild, entity: x}, {type: set_field, entity: order, value: 1}],
     then: end, next: end}
  - {id: e, name: f, type: condition, expression: amount > 3}
  - {type: parallel}
  - {id: g, type: action, actions: []}
  - {id: h, type: condition, expression: lower(context.a) == 'x'}
  - {id: i, type: action, actions: [{type: webhook, method: FETCH, url: 3, headers: {'a b': c}}]}
"), @r#"
    /active: a workflow that is not active cannot be applied; take it out, apply it, then pause it with `chimeway workflows pause`
    /trigger: `to` is missing
    /trigger/type: unknown type of trigger `cron`; known: state_change
    /context/a: `trigger.recrd.x` is not a place that a context can be taken from; write `trigger.record_id`, `trigger.record.<field>` or `params.<name>`
    /context/b: expected a string, found 3
    /steps/0/expression: the expression `context.x = 1` does not compile: Syntax error: token recognition error at: '= '; it is CEL: `context.amount > 1000 && context.region in ["eu", "uk"]`
    /steps/0/on_true/goto: there is no step named `bb`; did you mean `b`?
    /steps/0/on_false: there is no step named `nowhere`
    /steps/0/then: unknown key `then`; known: id, name, type, expression, condition, on_true, on_false
    /steps/1/assignee/type: an approval has one assignee, found the type `group`; known: relation, role, fixed
    /steps/1/timeout: the duration `3 days` is not an ISO 8601 duration; write `P3D`
    /steps/1/on_approve: unknown target `3`; known: end, {goto: <step id>}
    /steps/2/roles: `roles` and `assignee` mean the same and stand side by side; keep `assignee`
    /steps/2/deadline: `deadline` and `timeout` mean the same and stand side by side; keep `timeout`
    /steps/3/actions/0/type: unknown action `set_feild`; did you mean `set_field`?
    /steps/3/actions/1: `record_id` is missing
    /steps/3/actions/1: `field` is missing
    /steps/3/next: `next` and `then` mean the same and stand side by side; keep `then`
    /steps/4/name: `name` and `id` mean the same and stand side by side; keep `id`
    /steps/4/expression: the expression `amount > 3` names `amount`, which cannot exist; known: context, params
    /steps/5: `id` is missing
    /steps/5/type: unknown step type `parallel`; known: action, condition, approval
    /steps/6/actions: an action step needs at least one action
    /steps/7/expression: the expression `lower(context.a) == 'x'` calls `lower`, which does not exist; known: size, contains, startsWith, endsWith, string, int, uint, double, bool, max, min, dyn
    /steps/8/actions/0/method: unknown HTTP method `FETCH`; did you mean `PATCH`?
    /steps/8/actions/0/url: expected a string, found 3
    /steps/8/actions/0/headers/a b: the header `a b` is not one, or its value holds a control character
    "#);
}

#[test]
fn a_loop_needs_an_approval() {
    let steps = |assignee: &str| {
        format!(
            "name: k\ntrigger: {{entity: o, field: f, to: x}}\nsteps:\n  - {{id: a, type: action, actions: \
             [{{type: send_event, event: e}}], then: b}}\n  - {assignee}\n"
        )
    };
    let condition = "{id: b, type: condition, expression: context.a, on_true: a, on_false: end}";
    let approval = "{id: b, type: approval, assignee: {role: r}, on_approve: end, on_reject: a}";
    insta::assert_snapshot!(refuse(&steps(condition)), @"/steps/0: `a`, `b` can repeat forever with no wait between; put an approval into the loop");
    accept(&Document::from_yaml("loop.yaml", &steps(approval)).unwrap());
}

#[test]
fn an_assignee_may_be_a_path() {
    let text = "name: k\ntrigger: {entity: o, field: f, to: x}\nsteps: [{id: a, type: approval, assignee: \
                {type: relation, path: record.manager}}]";
    let checked = accept(&Document::from_yaml("path.yaml", text).unwrap());
    let StepKind::Approval(approval) = &checked.plan.steps[0].kind else {
        panic!("it is an approval");
    };
    let Assignee::Path(path) = &approval.assignee else {
        panic!("it is a path");
    };
    assert_eq!(path.to_string(), "record.manager");
    assert!(matches!(&checked.plan.steps[0].kind, StepKind::Approval(_)));
}

#[test]
fn a_hosts_own_action_is_known_once_it_says_so() {
    let text = "name: k\ntrigger: {entity: o, field: f, to: x}\nsteps: [{id: a, type: action, actions: \
                [{type: print, copies: 2}]}]";
    let document = Document::from_yaml("own.yaml", text).unwrap();
    assert!(validate(&document, &Known::default()).is_err());
    let known = Known::default().with_actions(["print".parse().unwrap()]);
    let checked = validate(&document, &known).unwrap();
    let StepKind::Action(actions) = &checked.plan.steps[0].kind else {
        panic!("it is an action");
    };
    assert!(matches!(&actions[0], Action::Custom { settings, .. } if settings["copies"] == 2));
}

#[test]
fn words_become_operators() {
    let table = [
        ("a and b or not c", "a && b || ! c"),
        ("context.and == nil", "context.and == null"),
        ("x == 'and or \\' nil' and y", "x == 'and or \\' nil' && y"),
        ("len(context.items) > 0", "size(context.items) > 0"),
        ("android && nilly && notable", "android && nilly && notable"),
        ("'open", "'open"),
        ("é and ü", "é && ü"),
    ];
    for (rocket, cel) in table {
        assert_eq!(translated(rocket), cel, "{rocket}");
    }
}
