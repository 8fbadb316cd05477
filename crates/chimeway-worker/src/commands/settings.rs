//! `chimeway config`: what holds, and who said so.

use serde_json::{Value, json};

use crate::{
    cli::Global,
    config::{self, Setting},
    error::CliError,
    output::{self, Table},
};

/// Show every setting, with where it comes from
///
/// Flags win over the environment, and that over the file. What is secret is shown as `set`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway config
  chimeway config --config chimeway.toml --json")]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args, global: &Global) -> Result<(), CliError> {
    let settings = config::settings(global.config.as_deref(), &global.layer())?;
    if global.json {
        return output::print_json(&settings.iter().map(as_json).collect::<Value>());
    }
    let mut table = Table::new(["SETTING", "VALUE", "SOURCE"]);
    for setting in settings {
        let value = setting.value.as_ref().map(in_words);
        table.row([
            setting.name,
            output::or_dash(value),
            setting.source.to_string(),
        ]);
    }
    output::print(table)
}

fn as_json(setting: &Setting) -> Value {
    json!({
        "setting": setting.name,
        "value": setting.value,
        "source": setting.source.to_string(),
    })
}

fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(in_words).collect::<Vec<_>>().join(", "),
        value => value.to_string(),
    }
}
