//! `chimeway templates`: what messages will say, before they are sent.

use std::{
    fs,
    path::{Path, PathBuf},
};

use chimeway::{
    channels::Message,
    flow::{
        FlowError, Templates,
        templates::{RenderFailure, Template},
    },
    ids::{ActorId, AttemptNumber, BadName, DeliveryId, RenderKey, RunId},
    store::templates,
};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Context, json_object};
use crate::{
    error::CliError,
    output::{self, Table},
};

/// Where templates lie in a project that `chimeway init` made.
const USUAL_FOLDER: &str = "journeys/templates";

/// Whose it is in a preview, and where it comes from.
const PLACE: &str = "preview";

/// See what messages say, and which templates are stored
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway templates preview mention_email --templates journeys/templates \\
      --params '{\"document_id\": \"doc_789\"}' --locale de-AT --time-zone Europe/Vienna
  chimeway templates list")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make the message of a template and print it; nothing is sent
    ///
    /// From the files of a folder with --templates, which needs no database; else from what is stored.
    /// Without a database, from journeys/templates.
    #[command(after_help = "Examples:
  chimeway templates preview mention_email --params '{\"document_id\": \"doc_789\"}'
  chimeway templates preview mention_email --params '{\"document_id\": \"doc_789\"}' --html mail.html")]
    Preview(Box<Preview>),
    /// List the templates that are stored
    #[command(after_help = "Example:\n  chimeway templates list --json")]
    List,
}

#[derive(clap::Args)]
struct Preview {
    /// Which template: the `render_key` of a step
    #[arg(value_name = "KEY")]
    key: RenderKey,
    /// What a trigger would give
    #[arg(long, value_name = "JSON", value_parser = json_object, default_value = "{}")]
    params: Value,
    /// Who would receive it
    #[arg(long, value_name = "IDENTITY", default_value = "someone")]
    recipient: ActorId,
    /// The recipient's language and region, such as de-AT
    #[arg(long, value_name = "LOCALE")]
    locale: Option<String>,
    /// The recipient's time zone, such as Europe/Vienna
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Write the HTML to a file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Use the files of this folder instead of what is stored
    #[arg(long, value_name = "DIR")]
    templates: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), CliError> {
    match args.action {
        Action::Preview(preview) => preview.run(context).await,
        Action::List => list(context).await,
    }
}

impl Preview {
    async fn run(&self, context: &Context) -> Result<(), CliError> {
        let usual = Path::new(USUAL_FOLDER);
        let without_database = context.config.database_url.is_none() && usual.is_dir();
        let (template, place) = match &self.templates {
            Some(folder) => (self.in_folder(folder)?, format!("{}/", folder.display())),
            None if without_database => (self.in_folder(usual)?, format!("{USUAL_FOLDER}/")),
            None => (self.stored(context).await?, String::new()),
        };
        let content = template
            .render(&self.message().map_err(FlowError::from)?)
            .map_err(|failure| refused(&place, &failure))?;
        if let (Some(file), Some(html)) = (&self.html, &content.html) {
            fs::write(file, html).map_err(CliError::io(format!("write {}", file.display())))?;
        }
        if self.html.is_some() && content.html.is_none() {
            return Err(CliError::Refused(format!(
                "the template `{0}` has no HTML; write {0}.html, or leave --html out",
                self.key
            )));
        }
        if context.json {
            return output::print_json(&json!({
                "render_key": self.key,
                "template_hash": template.hash(),
                "subject": content.subject,
                "text": content.text,
                "html": content.html,
            }));
        }
        let mut lines = String::new();
        if let Some(subject) = &content.subject {
            lines.push_str(&format!("Subject: {}\n\n", output::visible(subject)));
        }
        if let Some(text) = &content.text {
            for line in text.lines() {
                lines.push_str(&output::visible(line));
                lines.push('\n');
            }
        }
        if let Some(html) = &content.html {
            let told = match &self.html {
                Some(file) => format!("\nHTML: {} bytes, in {}\n", html.len(), file.display()),
                None => format!("\nHTML: {} bytes; see it with --html FILE\n", html.len()),
            };
            lines.push_str(&told);
        }
        output::print(lines)
    }

    fn in_folder(&self, folder: &Path) -> Result<Template, CliError> {
        if !folder.is_dir() {
            return Err(CliError::NotFound(format!(
                "there is no folder {}; name the one with your templates",
                folder.display()
            )));
        }
        let (all, mistakes) = Templates::read(folder);
        if let Some(template) = all.get(self.key.as_str()) {
            return Ok(template.clone());
        }
        let own = mistakes.iter().filter(|mistake| {
            mistake
                .file
                .strip_prefix(self.key.as_str())
                .is_some_and(|end| [".subject.txt", ".txt", ".html"].contains(&end))
        });
        let own: Vec<String> = own
            .map(|mistake| format!("{}/{mistake}", folder.display()))
            .collect();
        if own.is_empty() {
            let keys: Vec<&str> = all.keys().collect();
            return Err(CliError::NotFound(format!(
                "there is no template `{}` in {}; there are: {}",
                self.key,
                folder.display(),
                if keys.is_empty() {
                    "none".to_owned()
                } else {
                    keys.join(", ")
                },
            )));
        }
        Err(CliError::Refused(own.join(" | ")))
    }

    async fn stored(&self, context: &Context) -> Result<Template, CliError> {
        let mut conn = context.open().await?;
        let template = Templates::stored(&mut conn, &self.key).await?;
        template.ok_or_else(|| {
            CliError::NotFound(format!(
                "there is no template `{}`; `chimeway templates list` shows what is stored, \
                 --templates DIR uses files",
                self.key
            ))
        })
    }

    /// A message as a worker would make it.
    fn message(&self) -> Result<Message, BadName> {
        Ok(Message {
            delivery: DeliveryId::fresh(),
            attempt: AttemptNumber(1),
            tenant: PLACE.parse()?,
            recipient: Some(self.recipient.clone()),
            run: RunId::fresh(),
            notification: None,
            workflow: PLACE.parse()?,
            step: PLACE.parse()?,
            channel: PLACE.parse()?,
            render_key: self.key.clone(),
            params: self.params.clone(),
            address: None,
            locale: self.locale.clone(),
            time_zone: self.time_zone.clone(),
            content: None,
            call: None,
            context: serde_json::json!({}),
        })
    }
}

fn refused(place: &str, failure: &RenderFailure) -> CliError {
    CliError::Refused(format!(
        "{place}{failure}; correct the template or give it in --params"
    ))
}

async fn list(context: &Context) -> Result<(), CliError> {
    let mut conn = context.open().await?;
    let found = templates::list(&mut conn).await?;
    if context.json {
        return output::print_json(&found);
    }
    if found.is_empty() {
        return output::print("no templates");
    }
    let mut table = Table::new(["TEMPLATE", "PARTS", "REVISIONS", "HASH", "APPLIED"]);
    for template in found {
        let parts = [
            (template.subject, "subject"),
            (template.text, "text"),
            (template.html, "html"),
        ];
        let parts = parts
            .into_iter()
            .filter_map(|(there, name)| there.then_some(name));
        table.row([
            template.render_key,
            parts.collect::<Vec<_>>().join(" "),
            template.revisions.to_string(),
            template.hash.chars().take(12).collect(),
            output::instant(template.applied_at),
        ]);
    }
    output::print(table)
}
