//! The dashboard, the alerts and the page about metrics have the metrics there are, and no others.

use std::collections::BTreeSet;

use chimeway::{
    flow::metrics::{self as ours, MetricKind},
    queue::QueueName,
};
use serde_json::Value;

use crate::programs::root;

const DASHBOARD: &str = "deploy/grafana/chimeway.json";
const ALERTS: &str = "deploy/prometheus/alerts.yaml";
const PAGE: &str = "docs/metrics.md";

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn all() -> BTreeSet<&'static str> {
    ours::ALL.iter().map(|metric| metric.name).collect()
}

/// The metrics that a text names, a series of a histogram by its metric.
pub(crate) fn named(text: &str) -> BTreeSet<&str> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let words = text.split(|letter| !is_name(letter));
    let words = words.filter(|word| word.starts_with("chimeway_"));
    let words = words.filter(|word| QueueName::parse(word).is_none());
    words.map(metric).collect()
}

fn metric(name: &str) -> &str {
    for suffix in ["_bucket", "_sum", "_count"] {
        if let Some(metric) = name.strip_suffix(suffix)
            && ours::ALL
                .iter()
                .any(|it| it.kind == MetricKind::Histogram && it.name == metric)
        {
            return metric;
        }
    }
    name
}

/// The expressions of the dashboard, by the title of their panel.
fn drawn() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut found = vec![];
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{title}: its id is another's"
        );
        if panel["type"] == "row" {
            continue;
        }
        for field in ["description", "type"] {
            assert!(panel[field].is_string(), "{title} has no {field}");
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            found.push((title.to_owned(), expression.to_owned()));
        }
    }
    found
}

struct Alert {
    name: String,
    expression: String,
    runbook: String,
}

/// Every alert, and where the runbook says what to do about it.
pub(crate) fn runbooks() -> Vec<(String, String)> {
    let alerts = alerts().into_iter();
    alerts.map(|alert| (alert.name, alert.runbook)).collect()
}

fn alerts() -> Vec<Alert> {
    let file: Value = serde_saphyr::from_str(&read(ALERTS)).unwrap();
    let groups = file["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    let rules = rules.map(|rule| {
        let name = rule["alert"].as_str().unwrap().to_owned();
        assert!(rule["for"].is_string(), "{name} has no `for`");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(
            ["critical", "warning"].contains(&severity),
            "{name}: {severity}"
        );
        for field in ["summary", "description", "runbook"] {
            assert!(
                rule["annotations"][field].is_string(),
                "{name} has no {field}"
            );
        }
        let expression = rule["expr"].as_str().unwrap().to_owned();
        let runbook = rule["annotations"]["runbook"].as_str().unwrap().to_owned();
        Alert {
            name,
            expression,
            runbook,
        }
    });
    rules.collect()
}

#[test]
fn every_metric_is_drawn_and_there_is_no_other() {
    let drawn = drawn();
    let drawn: BTreeSet<&str> = drawn.iter().flat_map(|(_, it)| named(it)).collect();
    assert_eq!(drawn, all());
}

#[test]
fn alerts_and_labels_are_about_metrics_that_are() {
    let drawn = drawn().into_iter();
    let alerts = alerts().into_iter().map(|it| (it.name, it.expression));
    for (place, expression) in drawn.chain(alerts) {
        let metrics = named(&expression);
        assert!(!metrics.is_empty(), "{place}: {expression}");
        let unknown: Vec<_> = metrics.difference(&all()).copied().collect();
        assert!(unknown.is_empty(), "{place}: there is no {unknown:?}");
        let opens = expression.matches(['(', '{', '[']).count();
        assert_eq!(
            opens,
            expression.matches([')', '}', ']']).count(),
            "{place}: {expression}"
        );
        // What is selected and summed by is a label of one of its metrics.
        let known: BTreeSet<&str> = ours::ALL
            .iter()
            .filter(|metric| metrics.contains(metric.name))
            .flat_map(|metric| metric.labels.iter().copied())
            .chain(["le", "instance", "job"])
            .collect();
        for label in labels(&expression) {
            assert!(
                known.contains(label),
                "{place}: no label {label} in {expression}"
            );
        }
    }
}

/// The labels that an expression selects by, or groups by.
fn labels(expression: &str) -> Vec<&str> {
    let groups = expression.split("by (").skip(1);
    let groups = groups.filter_map(|rest| rest.split(')').next());
    let groups = groups.flat_map(|list| list.split(',')).map(str::trim);
    let selections = expression.split('{').skip(1);
    let selections = selections.filter_map(|rest| rest.split('}').next());
    let selections = selections.flat_map(|list| list.split(','));
    let selections = selections.filter_map(|one| one.split(['=', '!']).next());
    groups.chain(selections.map(str::trim)).collect()
}

#[test]
fn the_page_has_every_metric_as_it_is_and_every_alert() {
    let page = read(PAGE);
    let alerts = alerts();
    for metric in ours::ALL {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{}` ", metric.name)))
            .unwrap_or_else(|| panic!("{PAGE} has no row for {}", metric.name));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let kind = format!("{:?}", metric.kind).to_lowercase();
        assert!(cells[2].starts_with(&kind), "{row}");
        let labels: Vec<&str> = cells[3].split('`').skip(1).step_by(2).collect();
        assert_eq!(labels, metric.labels, "{row}");
        // Its alert, if it has one, is an alert about it.
        for name in cells[5].split('`').skip(1).step_by(2) {
            let alert = alerts.iter().find(|alert| alert.name == name);
            let alert = alert.unwrap_or_else(|| panic!("there is no alert {name}: {row}"));
            assert!(named(&alert.expression).contains(metric.name), "{row}");
        }
    }
    let unknown: Vec<_> = named(&page).difference(&all()).copied().collect::<Vec<_>>();
    assert!(unknown.is_empty(), "there is no {unknown:?}");
    for alert in alerts {
        assert!(
            page.contains(&format!("`{}`", alert.name)),
            "{PAGE} has no {}",
            alert.name
        );
    }
}
