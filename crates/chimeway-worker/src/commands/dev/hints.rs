//! What to try: commands that can be pasted as they are.

use std::{collections::BTreeSet, fs, path::Path};

use chimeway::store::workflows;
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::screen::Screen;
use crate::error::CliError;

const TENANT: &str = "acme";

/// Prints where the database is, and three commands; `url` is `None` where the person gave it.
pub(super) async fn show(
    screen: &mut Screen,
    conn: &mut PgConnection,
    journeys: &Path,
    url: Option<&str>,
) -> Result<(), CliError> {
    let stored = workflows::list(conn).await?;
    let newest = stored.iter().max_by_key(|workflow| workflow.applied_at);
    let key = newest.map_or("KEY", |workflow| workflow.key.as_str());
    screen.heading("Try it, in another terminal")?;
    let mut text = String::new();
    if let Some(url) = url {
        text.push_str(&format!("export DATABASE_URL='{url}'\n"));
    }
    let person = format!("--tenant {TENANT} --recipient ada");
    text.push_str(&format!(
        "chimeway trigger {key} {person} --address email=ada@example.com{}\n",
        params(journeys)
    ));
    text.push_str(&format!("chimeway inbox list {person}\n"));
    text.push_str(&format!(
        "chimeway explain RUN --tenant {TENANT}      # with every run that starts, its own is shown here\n"
    ));
    screen.block(&text)?;
    screen.line("")
}

/// `--params` with a value for each name that the templates ask for.
fn params(journeys: &Path) -> String {
    let mut names = BTreeSet::new();
    let templates = fs::read_dir(journeys.join("templates"));
    for file in templates.into_iter().flatten().flatten() {
        // What cannot be read here has been complained about when it was applied.
        if let Ok(text) = chimeway::flow::read_text(&file.path()) {
            names.extend(names_in(&text));
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let value = |name: &str| match name {
        "name" => "Ada",
        _ => "example",
    };
    let params: Map<String, Value> = names
        .iter()
        .map(|name| (name.clone(), value(name).into()))
        .collect();
    format!(" --params '{}'", Value::Object(params))
}

/// Every `params.NAME`.
fn names_in(text: &str) -> impl Iterator<Item = String> {
    text.split("params.").skip(1).filter_map(|rest| {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name: String = rest.chars().take_while(|&c| is_name(c)).collect();
        (!name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_that_the_templates_ask_for_has_a_value() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(params(folder.path()), "");
        let templates = folder.path().join("templates");
        fs::create_dir(&templates).unwrap();
        fs::write(templates.join("a.txt"), "{{ params.name }} {{params.name}}").unwrap();
        fs::write(
            templates.join("b.txt"),
            "{{ params.document_id|upper }}, params.",
        )
        .unwrap();
        assert_eq!(
            params(folder.path()),
            r#" --params '{"document_id":"example","name":"Ada"}'"#
        );
    }
}
