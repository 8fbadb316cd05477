//! What is read before anything is judged. Of a database that cannot be reached, or has no schema of ours, the rest
//! is told all the same.

use std::collections::BTreeMap;

use chimeway::{
    flow::{Chimeway, Overview, Reviewed, Writable},
    ids::ChannelName,
    store::{
        StoreResult,
        doctor::{self, FlawRow, HolderRow, ServerRow, SignsRow, WritableRow},
        health::{self, ServerRow as Held},
        schema,
        settings::BEGIN_REQUEST_POOLED,
    },
};
use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection};

use crate::{
    commands::Context,
    config::Config,
    database::{self, Database},
    error::CliError,
};

/// The settings of the server that are judged.
const SETTINGS: [&str; 12] = [
    "autovacuum",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "fsync",
    "full_page_writes",
    "idle_in_transaction_session_timeout",
    "jit",
    "jit_above_cost",
    "server_encoding",
    "statement_timeout",
    "synchronous_commit",
    "track_counts",
];

/// How many times two connections are compared: under load a pooler may give them different servers once.
const LOOKS: usize = 3;

/// Everything that is judged.
pub(super) struct Facts {
    pub(super) server: Result<Server, CliError>,
    /// The version of the schema, where the server could be asked.
    pub(super) schema: Option<Result<i64, CliError>>,
    /// What is stored, where the schema is the one that this program knows.
    pub(super) ours: Option<Result<Ours, CliError>>,
}

/// The server, the way to it, and who we are there.
pub(super) struct Server {
    /// Version and place, for people.
    pub(super) place: String,
    /// Whether it is on this machine.
    pub(super) is_local: bool,
    /// Whether the certificate is checked, where there is TLS.
    pub(super) verified: bool,
    /// Whether statements of one session are served by several of the server's.
    pub(super) pooled: bool,
    pub(super) row: ServerRow,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) held: Held,
    pub(super) holders: Vec<HolderRow>,
    pub(super) flaws: Vec<FlawRow>,
    pub(super) lacking: Vec<FlawRow>,
    /// How many seconds this machine's clock is ahead of the server's.
    pub(super) ahead_seconds: f64,
    /// How many connections a worker with these settings opens at most.
    pub(super) connections_of_a_worker: i64,
}

/// What is stored, beside what the settings say of it.
pub(super) struct Ours {
    pub(super) sessions: i64,
    pub(super) signs: SignsRow,
    pub(super) overview: Overview,
    pub(super) reviewed: Vec<Reviewed>,
    pub(super) extra_channels: Vec<ChannelName>,
    pub(super) allowed: Vec<Writable>,
    pub(super) writable: Vec<WritableRow>,
}

impl Facts {
    pub(super) async fn read(context: &Context) -> Self {
        let nothing = |error| Self {
            server: Err(error),
            schema: None,
            ours: None,
        };
        let database = match context.database() {
            Ok(database) => database.without_prepared_statements(),
            Err(error) => return nothing(error),
        };
        let mut conn = match database.connect().await {
            Ok(conn) => conn,
            Err(error) => return nothing(error.into()),
        };
        let server = match Server::read(&mut conn, &database, &context.config).await {
            Ok(server) => server,
            Err(error) => return nothing(error),
        };
        let schema = version(&mut conn).await;
        let ours = match (&schema, context.chimeway()) {
            (Ok(_), Ok(builder)) => Some(
                Ours::read(
                    &mut conn,
                    &builder.build(),
                    &context.config,
                    server.row.sessions_of_ours,
                )
                .await,
            ),
            // A channel that cannot be built is a finding of its own.
            _ => None,
        };
        Self {
            server: Ok(server),
            schema: Some(schema),
            ours,
        }
    }
}

async fn version(conn: &mut PgConnection) -> Result<i64, CliError> {
    let mut tx = conn.begin_with(BEGIN_REQUEST_POOLED).await?;
    database::check(schema::state(&mut tx).await?)?;
    Ok(schema::needed())
}

impl Server {
    async fn read(
        conn: &mut PgConnection,
        database: &Database,
        config: &Config,
    ) -> Result<Self, CliError> {
        let pooled = !database.is_pooled() && is_pooled(conn, database).await?;
        let mut tx = conn.begin_with(BEGIN_REQUEST_POOLED).await?;
        let before = here();
        let row = doctor::facts(&mut tx).await?;
        let taken = here() - before;
        let ahead = before + taken / 2 - row.now;
        let settings = doctor::settings(&mut tx, &SETTINGS).await?;
        let held = health::server(&mut tx).await?;
        let holders = doctor::holders(&mut tx).await?;
        let flaws = doctor::flaws(&mut tx).await?;
        let lacking = doctor::lacking(&mut tx).await?;
        Ok(Self {
            place: format!("{} at {}", row.version, database.place()),
            is_local: database.is_local(),
            verified: database.verifies(),
            pooled,
            row,
            settings: settings
                .into_iter()
                .map(|setting| (setting.name, setting.value))
                .collect(),
            held,
            holders,
            flaws,
            lacking,
            ahead_seconds: ahead.as_seconds_f64(),
            connections_of_a_worker: connections(config),
        })
    }

    pub(super) fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        self.setting(name) == "on"
    }

    /// The objects with a flaw of this kind.
    pub(super) fn flawed(&self, flaw: &str) -> Vec<&str> {
        let flaws = self.flaws.iter().filter(|row| row.flaw == flaw);
        flaws.map(|row| row.object.as_str()).collect()
    }
}

/// Whether what is between gives the server's sessions to whoever has a statement: two connections that live at
/// the same time then have one process of the server, or one has two.
async fn is_pooled(conn: &mut PgConnection, database: &Database) -> Result<bool, CliError> {
    let mut other = database.connect().await?;
    match share_a_process(conn, &mut other).await {
        Ok(false) => {}
        Ok(true) => return Ok(true),
        // What another client has prepared is in the way.
        Err(error) if error.is_of_a_pooler() => return Ok(true),
        Err(error) => return Err(error.into()),
    }
    // It would end by being dropped, too; so the server hears of it at once.
    let _ = other.close().await;
    Ok(false)
}

async fn share_a_process(conn: &mut PgConnection, other: &mut PgConnection) -> StoreResult<bool> {
    let first = doctor::backend(conn).await?;
    for _ in 0..LOOKS {
        if doctor::backend(other).await? == first || doctor::backend(conn).await? != first {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Ours {
    async fn read(
        conn: &mut PgConnection,
        chimeway: &Chimeway,
        config: &Config,
        sessions: i64,
    ) -> Result<Self, CliError> {
        let mut tx = conn.begin_with(BEGIN_REQUEST_POOLED).await?;
        let wanted: Vec<(String, String)> = config.writable.iter().flat_map(columns).collect();
        let (tables, fields): (Vec<&str>, Vec<&str>) = wanted
            .iter()
            .map(|(table, column)| (table.as_str(), column.as_str()))
            .unzip();
        Ok(Self {
            sessions,
            signs: doctor::signs(&mut tx).await?,
            overview: Overview::read(&mut tx).await?,
            reviewed: chimeway.review(&mut tx).await?,
            extra_channels: config.extra_channels.iter().cloned().collect(),
            allowed: config.writable.clone(),
            writable: doctor::writable(&mut tx, &tables, &fields).await?,
        })
    }
}

/// The columns that a worker needs of it: the key, the tenant's, and those that may be written.
fn columns(allowed: &Writable) -> impl Iterator<Item = (String, String)> {
    let named = [&allowed.key, &allowed.tenant];
    let columns = named.into_iter().chain(&allowed.columns);
    columns.map(|column| (allowed.table().to_owned(), column.clone()))
}

/// The pool; and with HTTP the requests' and the probes' own.
fn connections(config: &Config) -> i64 {
    let http = if config.http.is_some() {
        crate::http::CONNECTIONS_IN_ALL
    } else {
        0
    };
    (config.pool_size + http).into()
}

#[expect(
    clippy::disallowed_methods,
    reason = "to be compared with the database's clock, and for nothing else"
)]
fn here() -> DateTime<Utc> {
    Utc::now()
}
