//! `chimeway migrate`: brings the schema up to what this program needs.

use chimeway::store::schema::{self, SchemaState};
use serde_json::json;
use sqlx::PgConnection;

use super::Context;
use crate::{database, error::CliError, output};

/// Bring the schema `chimeway` of the database up to date
///
/// Safe to run at any time and from several places at once: they take turns. Other schemas are not
/// touched.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway migrate
  chimeway migrate --check        exits 1 if there is something to do, changes nothing")]
pub(crate) struct Args {
    /// Change nothing; exit 0 if the schema is current, else 1
    #[arg(long)]
    check: bool,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<(), CliError> {
    let Some(database) = context.direct_database()? else {
        return Err(CliError::Refused(
            "migrate needs a session of its own, which a pooler does not give; set `direct_url` \
             (CHIMEWAY_DIRECT_URL), past the pooler"
                .into(),
        ));
    };
    let mut conn = database.connect().await?;
    let (before, version) = match args.check {
        true => {
            let state = schema::state(&mut conn).await?;
            database::check(state)?;
            (state, schema::needed())
        }
        false => bring_up(&mut conn).await?,
    };
    if context.json {
        let changed = before != SchemaState::Current;
        return output::print_json(&json!({ "version": version, "changed": changed }));
    }
    output::print(match before {
        SchemaState::Missing => {
            format!("migrated to version {version}; the schema `chimeway` is new")
        }
        SchemaState::Old { found, .. } => format!("migrated from version {found} to {version}"),
        SchemaState::Current | SchemaState::New { .. } => format!("current, at version {version}"),
    })
}

/// Applies what is missing; what there was before, and the version there is now.
///
/// # Errors
///
/// [`CliError::SchemaNew`], and what the database refuses.
pub(crate) async fn bring_up(conn: &mut PgConnection) -> Result<(SchemaState, i64), CliError> {
    let before = schema::state(conn).await?;
    if !matches!(before, SchemaState::New { .. }) {
        schema::migrate(conn).await?;
    }
    database::check(schema::state(conn).await?)?;
    Ok((before, schema::needed()))
}
