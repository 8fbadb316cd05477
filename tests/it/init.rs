//! `chimeway init`, `config` and `completions`: what a newcomer meets before there is a database.

use std::{fs, path::Path, process::Command};

use serde_json::json;

use crate::programs::{Ran, chimeway_path, command};

fn at(folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = command(chimeway_path());
    command.current_dir(folder).args(arguments);
    command.output().unwrap().into()
}

#[test]
fn init_writes_a_journey_that_validates_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join("app").join(name);
    let first = at(folder.path(), &["init", "app"]).expect(0);
    insta::assert_snapshot!(first.out, @r"
    wrote  app/journeys/welcome.yaml
    wrote  app/journeys/templates/welcome_email.subject.txt
    wrote  app/journeys/templates/welcome_email.txt
    wrote  app/journeys/templates/welcome_email.html
    wrote  app/chimeway.toml
    wrote  app/.gitignore

    Next:
      cd app
      chimeway dev                  a database, a worker and your mail on the screen
      chimeway workflows validate journeys/
      chimeway config --config chimeway.toml
    ");
    // The commands that it names work, whatever email is.
    let settings = ["--config", "chimeway.toml"];
    let channels = path("email.toml");
    fs::write(
        &channels,
        "[channels.email]\nadapter = \"smtp\"\nhost = \"mail.example\"\nfrom = \"a@b.example\"\n",
    )
    .unwrap();
    for config in ["chimeway.toml", "email.toml"] {
        let validate = ["workflows", "validate", "journeys/", "--config", config];
        let extra = "CHIMEWAY_EXTRA_CHANNELS";
        let mut command: Command = command(chimeway_path());
        command
            .current_dir(path(""))
            .args(validate)
            .env(extra, "email");
        let checked: Ran = command.output().unwrap().into();
        assert_eq!(checked.expect(0).out, "1 document: no mistakes\n");
    }
    let shown = at(&path(""), &[&["config"], &settings[..]].concat()).expect(0);
    assert!(shown.out.contains("pool_size"), "{}", shown.out);

    // What is there is the person's.
    fs::write(path("journeys/welcome.yaml"), "mine").unwrap();
    fs::remove_file(path("chimeway.toml")).unwrap();
    fs::write(path(".gitignore"), "target\n/.chimeway").unwrap();
    let again = at(folder.path(), &["init", "app", "--json"])
        .expect(0)
        .json();
    assert_eq!(again["written"], json!(["chimeway.toml"]));
    assert_eq!(again["kept"].as_array().unwrap().len(), 5);
    let mine = fs::read_to_string(path("journeys/welcome.yaml")).unwrap();
    assert_eq!(mine, "mine");
    let ignored = fs::read_to_string(path(".gitignore")).unwrap();
    assert_eq!(ignored, "target\n/.chimeway");
}

#[test]
fn config_shows_each_setting_with_its_source_and_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("chimeway.toml"),
        "pool_size = 4\n[channels.email]\nadapter = \"smtp\"\nhost = \"mail.example\"\n\
         from = \"ops@example.com\"\nusername = \"ops\"\npassword = \"hunter2\"\n",
    )
    .unwrap();
    let shown = |more: &[&str]| -> Ran {
        let mut command = command(chimeway_path());
        command
            .current_dir(folder.path())
            .args(["config", "--config", "chimeway.toml", "--log", "debug"])
            .args(more)
            .env("DATABASE_URL", "postgres://app:hunter2@db.example/app")
            .env("CHIMEWAY_GRACE_SECONDS", "7");
        let ran: Ran = command.output().unwrap().into();
        ran.expect(0)
    };
    let table = shown(&[]).out;
    insta::assert_snapshot!(table, @r"
    SETTING                    VALUE                  SOURCE
    config                     chimeway.toml          flag --config
    database_url               set (db.example:5432)  environment DATABASE_URL
    pooled                     false                  default
    direct_url                 -                      default
    log                        debug                  flag --log
    log_format                 text                   default
    lease_seconds              30                     default
    grace_seconds              7                      environment CHIMEWAY_GRACE_SECONDS
    transaction_seconds        30                     default
    pool_size                  4                      file chimeway.toml
    http                       -                      default
    extra_channels             -                      default
    extra_steps                -                      default
    extra_actions              -                      default
    allow_private              -                      default
    queues.default             10                     default
    queues.chimeway_delivery   20                     default
    queues.chimeway_signals    10                     default
    queues.chimeway_workflows  5                      default
    retention.runs             30d                    default
    retention.inbox            90d                    default
    retention.events           30d                    default
    retention.signals          30d                    default
    retention.interventions    365d                   default
    retention.ticks            1d                     default
    otlp.endpoint              -                      default
    otlp.service_name          chimeway               default
    otlp.ratio                 1                      default
    otlp.root_certificates     -                      default
    writable                   -                      default
    channels.email.adapter     smtp                   file chimeway.toml
    channels.email.from        ops@example.com        file chimeway.toml
    channels.email.host        mail.example           file chimeway.toml
    channels.email.password    set                    file chimeway.toml
    channels.email.username    set                    file chimeway.toml
    ");
    let found = shown(&["--json"]);
    assert!(!found.out.contains("hunter2"), "{}", found.out);
    let found = found.json();
    let pool_size = found
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["setting"] == "pool_size");
    let expected = json!({
        "setting": "pool_size", "value": 4, "source": "file chimeway.toml",
    });
    assert_eq!(pool_size, Some(&expected));
    // What cannot be used is refused as everywhere.
    let bad = at(folder.path(), &["config", "--config", "no.toml"]).expect(1);
    assert!(bad.err.contains("no.toml"), "{}", bad.err);
}

#[test]
fn a_shell_that_has_the_script_knows_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        // Also where the settings are not usable: a shell reads this when it starts.
        let arguments = ["completions", shell, "--config", "no.toml"];
        let script = at(folder.path(), &arguments).expect(0);
        for word in ["workflows", "explain", "--tenant"] {
            let word = word.trim_start_matches("--");
            assert!(script.out.contains(word), "{shell}: {word}");
        }
    }
    let script = at(folder.path(), &["completions", "bash"]).expect(0).out;
    let file = folder.path().join("script");
    fs::write(&file, script).unwrap();
    let mut bash = command("bash");
    bash.arg("--norc").arg("-c").arg(format!(
        "source {} && COMP_WORDS=(chimeway workflows v) COMP_CWORD=2 && \
         _chimeway chimeway v workflows && echo \"${{COMPREPLY[@]}}\"",
        file.display()
    ));
    let completed: Ran = bash.output().unwrap().into();
    assert_eq!(completed.expect(0).out, "validate\n");
    at(folder.path(), &["completions", "cmd"]).expect(2);
    let version = at(folder.path(), &["--version"]).expect(0).out;
    assert!(version.starts_with("chimeway "), "{version}");
}
