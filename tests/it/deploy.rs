//! What `deploy/` says is what the product has: commands, flags, variables, settings, ports, paths, metrics; and every
//! block of the runbook runs.

use std::{collections::BTreeSet, fs, path::PathBuf};

use chimeway::{
    Chimeway, Document,
    definition::{Known, validate},
};
use chimeway_testkit::TestDb;
use nix::sys::signal::Signal;
use serde_json::Value;
use sqlx::types::Uuid;

use crate::{
    docs::{blocks_of, shell},
    host::{Host, TRIGGER},
    observing,
    programs::{chimeway, psql, root, run_with_input},
    running::Running,
};

const RUNBOOK: &str = "deploy/RUNBOOK.md";
/// What a drain takes at most, by the table of settings, and for how long connections may close after it.
const CLOSING_SECONDS: u64 = 4;

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `deploy/`, with its path.
fn files() -> Vec<(String, String)> {
    let mut found = vec![];
    let mut folders = vec![PathBuf::from("deploy")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                let path = path.to_str().unwrap().to_owned();
                found.push((path.clone(), read(&path)));
            }
        }
    }
    found.sort();
    found
}

fn texts(value: &Value) -> Vec<String> {
    let items = value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"));
    items
        .iter()
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

/// The arguments of `chimeway` wherever it is started.
fn started() -> Vec<(&'static str, Vec<String>)> {
    let deployment = yaml("deploy/kubernetes/deployment.yaml");
    let job = yaml("deploy/kubernetes/migrate.yaml");
    let compose = yaml("deploy/compose.yaml");
    let of_pod =
        |manifest: &Value| texts(&manifest["spec"]["template"]["spec"]["containers"][0]["args"]);
    let mut found = vec![
        ("deployment", of_pod(&deployment)),
        ("job", of_pod(&job)),
        (
            "compose migrate",
            texts(&compose["services"]["migrate"]["command"]),
        ),
        (
            "compose worker",
            texts(&compose["services"]["worker"]["command"]),
        ),
    ];
    let program = "/usr/local/bin/chimeway";
    let probe = texts(&compose["services"]["worker"]["healthcheck"]["test"]);
    assert_eq!(&probe[..2], ["CMD", program]);
    found.push(("compose probe", probe[2..].to_vec()));
    let dockerfile = read("deploy/Dockerfile");
    let json =
        |line: &str| texts(&serde_json::from_str(line.split_once("CMD ").unwrap().1).unwrap());
    let commands: Vec<_> = dockerfile
        .lines()
        .filter(|line| line.contains("CMD ["))
        .collect();
    let [probe, command] = commands.as_slice() else {
        panic!("{commands:?}")
    };
    found.push(("image probe", json(probe)[1..].to_vec()));
    found.push(("image", json(command)));
    assert!(
        dockerfile.contains(&format!("ENTRYPOINT [\"{program}\"]\n")),
        "{dockerfile}"
    );
    for unit in ["chimeway-worker@.service", "chimeway-migrate.service"] {
        let text = read(&format!("deploy/systemd/{unit}"));
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("ExecStart="))
            .unwrap();
        let line = line.strip_prefix(program).unwrap();
        found.push((
            "systemd",
            line.split_whitespace().map(str::to_owned).collect(),
        ));
    }
    found
}

#[test]
fn what_is_started_is_a_command_with_flags_that_there_are() {
    let url = "postgres://127.0.0.1:1/none";
    for (place, arguments) in started() {
        let mut line: Vec<&str> = arguments.iter().map(String::as_str).collect();
        line.push("--help");
        let ran = chimeway(url, &line);
        assert_eq!(ran.code, 0, "{place}: {line:?}: {}", ran.err);
    }
    // A flag that is not known is refused before help is given.
    chimeway(url, &["worker", "--queues", "a=1", "--help"]).expect(2);
}

#[test]
fn variables_and_metrics_that_are_named_are_ours() {
    let page = read("docs/configuration.md");
    let ours: BTreeSet<&str> = observing::all();
    // Roles of PostgreSQL, whose names are anybody's.
    let is_role =
        |name: &str| ["chimeway_fleet", "chimeway_worker", "chimeway_owner"].contains(&name);
    for (path, text) in files() {
        for word in text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')) {
            if word.starts_with("CHIMEWAY_") {
                assert!(
                    page.contains(&format!("`{word}`")),
                    "{path}: {word} is no variable of ours"
                );
            }
        }
        if path.ends_with(".sql") {
            continue;
        }
        let unknown: Vec<_> = observing::named(&text)
            .into_iter()
            .filter(|name| !ours.contains(name) && !is_role(name))
            .collect();
        assert!(unknown.is_empty(), "{path}: there is no {unknown:?}");
    }
}

#[test]
fn settings_are_read_and_their_secrets_are_in_the_secret() {
    let url = "postgres://127.0.0.1:1/none";
    let secrets = read("deploy/kubernetes/secret.example.yaml");
    for file in [
        "deploy/compose/chimeway.toml",
        "deploy/kubernetes/chimeway.toml",
    ] {
        let path = root().join(file);
        chimeway(url, &["config", "--config", path.to_str().unwrap()]).expect(0);
        for name in read(file).split("\"env:").skip(1) {
            let name = name.split('"').next().unwrap();
            assert!(
                secrets.contains(&format!("  {name}: ")),
                "{file}: no {name} in the secret"
            );
        }
    }
}

#[test]
fn probes_ports_and_graces_fit_the_program() {
    let row = read("docs/configuration.md");
    let row = row
        .lines()
        .find(|line| line.starts_with("| `grace_seconds`"))
        .unwrap()
        .to_owned();
    let grace: u64 = row.split('|').nth(4).unwrap().trim().parse().unwrap();
    let enough = |place: &str, seconds: u64| {
        assert!(
            seconds > grace + CLOSING_SECONDS,
            "{place} waits {seconds} s for a drain"
        );
    };

    let deployment = yaml("deploy/kubernetes/deployment.yaml");
    let pod = &deployment["spec"]["template"]["spec"];
    enough(
        "the pod",
        pod["terminationGracePeriodSeconds"].as_u64().unwrap(),
    );
    let worker = &pod["containers"][0];
    let port = worker["ports"][0]["containerPort"].as_u64().unwrap();
    let served = texts(&worker["args"]).pop().unwrap();
    assert!(served.ends_with(&format!(":{port}")), "{served}");
    // An outage of the database must not restart every pod.
    for (probe, path) in [
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ] {
        assert_eq!(worker[probe]["httpGet"]["path"], path, "{probe}");
        assert_eq!(
            worker[probe]["httpGet"]["port"], worker["ports"][0]["name"],
            "{probe}"
        );
    }

    let compose = yaml("deploy/compose.yaml");
    let seconds = |text: &str| text.strip_suffix('s').unwrap().parse().unwrap();
    enough(
        "compose",
        seconds(
            compose["services"]["worker"]["stop_grace_period"]
                .as_str()
                .unwrap(),
        ),
    );
    let unit = read("deploy/systemd/chimeway-worker@.service");
    let stop = unit
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStopSec="))
        .unwrap();
    enough("systemd", stop.parse().unwrap());
    let dockerfile = read("deploy/Dockerfile");
    for line in [
        format!("EXPOSE {port}\n"),
        "STOPSIGNAL SIGTERM\n".to_owned(),
        "USER 65532:65532\n".to_owned(),
    ] {
        assert!(dockerfile.contains(&line), "{line}");
    }
}

#[test]
fn whoever_selects_workers_selects_the_pods_of_the_deployment() {
    let deployment = yaml("deploy/kubernetes/deployment.yaml");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let name = &deployment["metadata"]["name"];
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(
        &yaml("deploy/kubernetes/service.yaml")["spec"]["selector"],
        labels
    );
    for manifest in ["disruption", "operators/podmonitor"] {
        let selector = &yaml(&format!("deploy/kubernetes/{manifest}.yaml"))["spec"]["selector"];
        assert_eq!(&selector["matchLabels"], labels, "{manifest}");
    }
    // The Job's pod is nobody's worker.
    let job = yaml("deploy/kubernetes/migrate.yaml");
    assert_ne!(&job["spec"]["template"]["metadata"]["labels"], labels);
    let scaled = yaml("deploy/kubernetes/operators/scaledobject.yaml");
    assert_eq!(&scaled["spec"]["scaleTargetRef"]["name"], name);
    let folder = root().join("deploy/kubernetes");
    for list in ["kustomization.yaml", "operators/kustomization.yaml"] {
        let path = folder.join(list);
        let parsed = yaml(&format!("deploy/kubernetes/{list}"));
        for file in texts(&parsed["resources"]) {
            assert!(path.with_file_name(&file).exists(), "{list}: {file}");
        }
    }
}

#[test]
fn the_image_is_built_of_every_member_of_the_workspace() {
    let ignored = read("deploy/Dockerfile.dockerignore");
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    let members = members.iter().map(|member| member.as_str().unwrap());
    for member in members.chain(["Cargo.toml", "Cargo.lock", "migrations", "journeys"]) {
        let top = member.split('/').next().unwrap();
        assert!(
            ignored.contains(&format!("\n!{top}\n")),
            "{top} does not get into the build"
        );
    }
    let needed = manifest["workspace"]["package"]["rust-version"]
        .as_str()
        .unwrap();
    let dockerfile = read("deploy/Dockerfile");
    assert!(
        dockerfile.contains(&format!("FROM rust:{needed}-")),
        "Rust {needed} builds it"
    );
}

#[tokio::test]
async fn workers_are_scaled_by_how_late_work_is() {
    let db = TestDb::create().await;
    let scaled = yaml("deploy/kubernetes/operators/scaledobject.yaml");
    let query = scaled["spec"]["triggers"][0]["metadata"]["query"]
        .as_str()
        .unwrap();
    let lag = || -> f64 {
        let told = psql(&db.url(), &[], query).expect(0).out;
        told.trim()
            .parse()
            .unwrap_or_else(|error| panic!("{error}: {told}"))
    };
    assert!(lag() == 0.0);
    for (table, column) in [("signals", "route_at"), ("deliveries", "next_attempt_at")] {
        // Another delivery is not due yet, and a signal has been routed.
        let script = match table {
            "signals" => "insert into chimeway.signals (id, tenant_id, actor_id, event_name, occurred_at, route_at) values
                (gen_random_uuid(), 't', 'a', 'e', now(), now() - interval '90 s'), (gen_random_uuid(), 't', 'a', 'e', now(), null)",
            _ => "insert into chimeway.deliveries (id, workflow_run_id, workflow_step_id, inserted_at, updated_at, visit,
                tenant_id, channel, next_attempt_at) values
                (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now(), now(), 1, 't', 'log', now() - interval '200 s'),
                (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now(), now(), 1, 't', 'log', now() + interval '1 h')",
        };
        psql(&db.url(), &[], script).expect(0);
        let expected = if table == "signals" { 90.0 } else { 200.0 };
        let lag = lag();
        assert!(
            (expected..expected + 60.0).contains(&lag),
            "{table}.{column}: {lag}"
        );
    }
}

#[test]
fn every_alert_has_a_section_that_names_it_and_every_section_is_linked() {
    let runbook = read(RUNBOOK);
    let sections: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    for (alert, place) in observing::runbooks() {
        let section = place.strip_prefix(&format!("{RUNBOOK}, "));
        let section = section.unwrap_or_else(|| panic!("{alert}: {place}"));
        assert!(
            sections.contains(section),
            "{alert}: there is no section {section:?}"
        );
        let (_, text) = runbook.split_once(&format!("\n## {section}\n")).unwrap();
        let text = text.split("\n## ").next().unwrap();
        assert!(
            text.contains(&format!("`{alert}`")),
            "{section} does not name {alert}"
        );
    }
    for section in &sections {
        let anchor: String = section
            .to_lowercase()
            .chars()
            .filter_map(|letter| match letter {
                ' ' => Some('-'),
                letter if letter.is_alphanumeric() => Some(letter),
                _ => None,
            })
            .collect();
        let is_linked = runbook.contains(&format!("](#{anchor})"));
        let of_an_alert = observing::runbooks()
            .iter()
            .any(|(_, place)| place.ends_with(section));
        assert!(is_linked || of_an_alert, "nothing leads to {section}");
    }
    for link in runbook.split("](#").skip(1) {
        let anchor = link.split(')').next().unwrap();
        let is_there = sections.iter().any(|section| {
            let plain = section.to_lowercase().replace(' ', "-");
            plain.replace(['?', ',', '\''], "") == anchor
        });
        assert!(is_there, "there is no section #{anchor}");
    }
}

/// As in the middle of an incident: a run in its wait, a message that waits for its next try, a signal set aside, a
/// worker that answers probes.
#[tokio::test]
async fn every_block_of_the_runbook_runs() {
    let host = Host::begin().await;
    let (db, url) = (&host.db, host.db.url());
    sqlx::raw_sql(TRIGGER).execute(db.pool()).await.unwrap();
    host.settle().await;
    let failing = Document::from_yaml(
        "a.yaml",
        "key: hook\nsteps: [{id: a, action: {type: notify, channel: webhook, render_key: a}}]",
    );
    let failing = failing.unwrap();
    validate(&failing, &Known::default()).unwrap();
    let without_adapter = Chimeway::builder()
        .dispatcher(chimeway::Dispatcher::Inline)
        .build();
    without_adapter.apply(db.pool(), &failing).await.unwrap();
    let prepared = psql(
        &url,
        &[],
        "select chimeway.trigger('hook', '{}', 'org_456', '[{\"identity\": \"ada\"}]') \\g /dev/null
         insert into chimeway.signals (id, tenant_id, actor_id, event_name, occurred_at, quarantine_reason)
         values (gen_random_uuid(), 'org_456', 'ada', 'read', now(), 'P0001')",
    );
    prepared.expect(0);
    without_adapter.settle(db.pool()).await.unwrap();
    let one = |sql: &str| {
        psql(&url, &[], sql)
            .expect(0)
            .out
            .trim()
            .parse::<Uuid>()
            .unwrap()
            .to_string()
    };
    let run = one("select id from chimeway.workflow_runs where state = 'waiting'");
    let delivery = one("select id from chimeway.deliveries where status = 'failed'");
    let aside = one("select id from chimeway.signals where quarantine_reason is not null");
    let nothing = "--queue default=0 --queue chimeway_delivery=0 --queue chimeway_signals=0 --queue chimeway_workflows=0";
    let worker = Running::worker(&url, &format!("{nothing} --http 127.0.0.1:0"));
    let line = worker.prints("serves /livez").await;
    let address = line
        .split("http://")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();

    let variables = [
        ("TENANT", "org_456"),
        ("WORKFLOW", "mention_escalation"),
        ("RUN", run.as_str()),
        ("DELIVERY", delivery.as_str()),
        ("SET_ASIDE", aside.as_str()),
        ("ADDRESS", address.as_str()),
    ];
    let mut ran = BTreeSet::new();
    for block in blocks_of("deploy") {
        let done = match block.language.as_str() {
            "sql" => psql(&url, &[("tenant", "org_456"), ("run", &run)], &block.text),
            "sh" => {
                let mut bash = shell(&url);
                bash.envs(variables);
                run_with_input(bash, &block.text)
            }
            "sh ignore" => continue,
            other => panic!("{}: who runs {other}?", block.place),
        };
        assert_eq!(done.code, 0, "{}: {}{}", block.place, done.out, done.err);
        assert!(
            !done.err.contains("no such"),
            "{}: {}",
            block.place,
            done.err
        );
        ran.insert(block.language);
    }
    assert_eq!(ran.len(), 2, "statements and commands: {ran:?}");
    let (status, _) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_probe_tells_what_a_worker_says_of_itself() {
    let db = TestDb::create().await;
    let worker = Running::worker(&db.url(), "--http 127.0.0.1:0");
    let line = worker.prints("serves /livez").await;
    let address = line
        .split("http://")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    worker.prints(" runs ").await;
    let url = "postgres://127.0.0.1:1/of-nobody";
    crate::support::eventually("it is ready", async || {
        let ran = chimeway(url, &["ready", "--http", &address]);
        (ran.code == 0 && ran.out == "ready\n").then_some(())
    })
    .await;
    assert_eq!(
        chimeway(url, &["ready", "--live", "--http", &address])
            .expect(0)
            .out,
        "alive\n"
    );
    let (status, _) = worker.told(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");
    let gone = chimeway(url, &["ready", "--http", &address]).expect(1);
    assert!(
        gone.err
            .starts_with(&format!("error: no worker answers at {address}: ")),
        "{}",
        gone.err
    );
    chimeway(url, &["ready"]).expect(2);
}
