//! `chimeway migrate`: brings the schema up to what this program needs.

use chimeway::store::schema::{self, SchemaState};
use serde_json::json;
use sqlx::PgConnection;

use super::Context;
use crate::{database, error::CliError, output};

/// Bring the schema `chimeway` of the database up to date
///
/// Safe to run at any time and from several places at once, while workers run: they take turns, and what
/// does not get its locks within a second gives way and tries again, for about ten minutes. Workers of the
/// release before go on, unless what is new is nothing for them: then they are given 12 seconds to stop.
/// Other schemas are not touched.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway migrate
  chimeway migrate --check        exits 1 if there is something to do, changes nothing")]
pub(crate) struct Args {
    /// Change nothing; exit 0 if the schema is one for this program, else 1
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
        let (version, changed) = match before {
            SchemaState::Current => (version, false),
            SchemaState::Ahead { found, .. } => (found, false),
            _ => (version, true),
        };
        return output::print_json(&json!({ "version": version, "changed": changed }));
    }
    output::print(match before {
        SchemaState::Missing => {
            format!("migrated to version {version}; the schema `chimeway` is new")
        }
        SchemaState::Old { found, .. } => format!("migrated from version {found} to {version}"),
        SchemaState::Ahead { found, .. } => format!(
            "nothing to do: the database is at version {found}, which this program (version {version}) works with"
        ),
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
    if !matches!(before, SchemaState::New { .. } | SchemaState::Ahead { .. }) {
        let migrated = schema::migrate(conn).await;
        // A newer program may have come in between: then what it left is looked at.
        if !matches!(
            schema::state(conn).await,
            Ok(SchemaState::New { .. } | SchemaState::Ahead { .. })
        ) {
            migrated?;
        }
    }
    database::check(schema::state(conn).await?)?;
    Ok((before, schema::needed()))
}
