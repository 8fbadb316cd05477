//! The database that is measured in: a private one, or an empty one that somebody names.

use chimeway::{
    flow::{Chimeway, TemplateSource, Templates},
    store::schema::{self, SchemaState},
};
use chimeway_cluster::{Cluster, ClusterError, Durability, Mode};
use serde_json::{Map, Value};
use sqlx::{Connection as _, PgConnection, PgPool};

use super::{load, server, system, worker};
use crate::{
    commands::{blocking, migrate},
    database::Database,
    error::CliError,
};

const PRIVATE_DATABASE: &str = "chimeway_bench";
/// All that a private server has beyond what PostgreSQL is shipped with.
const SETTINGS: [(&str, &str); 3] = [
    ("shared_buffers", "512MB"),
    ("max_wal_size", "4GB"),
    // What is measured ends with a commit.
    ("track_commit_timestamp", "on"),
];
const STATEMENTS: (&str, &str) = ("shared_preload_libraries", "pg_stat_statements");
/// Minutes are to show what days would.
pub(super) const EAGER_VACUUM: (&str, &str) = ("autovacuum_naptime", "5s");

/// What the email says: subject, text, HTML.
const MAIL: [&str; 3] = [
    include_str!("../../../../../journeys/templates/mention_email.subject.txt"),
    include_str!("../../../../../journeys/templates/mention_email.txt"),
    include_str!("../../../../../journeys/templates/mention_email.html"),
];

/// A database with the workflows of the benchmark and no run.
pub(super) struct Ground {
    pub(super) database: Database,
    pub(super) url: String,
    pub(super) chimeway: Chimeway,
    /// For what is asked of the database beside what is measured.
    pub(super) pool: PgPool,
    /// The server's first process, where it runs on this machine.
    pub(super) postmaster: Option<u32>,
    /// Settings that matter for what is measured.
    pub(super) settings: Map<String, Value>,
    cluster: Option<Cluster>,
}

impl Ground {
    /// Makes everything ready; a private server has this setting beside its usual ones.
    pub(super) async fn open(
        url: Option<&str>,
        setting: Option<(&'static str, &'static str)>,
    ) -> Result<Self, CliError> {
        let (url, cluster) = match url {
            Some(url) => (url.to_owned(), None),
            None => {
                let cluster = blocking(move || private(setting)).await?;
                (cluster.url(PRIVATE_DATABASE), Some(cluster))
            }
        };
        let database = Database::new(&url)?;
        let mut conn = database.connect().await?;
        if schema::state(&mut conn).await? != SchemaState::Missing {
            crate::database::check(schema::state(&mut conn).await?)?;
            if server::has_rows(&mut conn).await? {
                return Err(CliError::Refused(format!(
                    "the database at {} has rows of Chimeway's; name an empty one, or leave out \
                     --database-url for a private PostgreSQL",
                    database.place()
                )));
            }
        }
        migrate::bring_up(&mut conn).await?;
        let postmaster = match &cluster {
            Some(cluster) => {
                server::watch_statements(&mut conn).await;
                cluster.server_pid()
            }
            None => local_postmaster(&mut conn).await,
        };
        let settings = server::settings(&mut conn).await?;
        conn.close().await?;

        let chimeway = worker::chimeway()
            .map_err(chimeway::FlowError::from)?
            .build();
        let pool = database.pool(2);
        let templates = templates()?;
        for document in load::documents() {
            chimeway.apply_with(&pool, &document, &templates).await?;
        }
        Ok(Self {
            database,
            url,
            chimeway,
            pool,
            postmaster,
            settings,
            cluster,
        })
    }

    pub(super) async fn close(self) -> Result<(), CliError> {
        self.pool.close().await;
        match self.cluster {
            Some(cluster) => blocking(move || cluster.stop(Mode::Immediate)).await,
            None => Ok(()),
        }
    }
}

/// A server that keeps what it commits. Where the module that counts statements is not installed,
/// there is none: statements are then not counted.
fn private(setting: Option<(&str, &str)>) -> Result<Cluster, ClusterError> {
    let start = |settings: &[(&str, &str)]| {
        let builder = Cluster::builder()
            .durability(Durability::Full)
            .database(PRIVATE_DATABASE);
        settings
            .iter()
            .fold(builder, |builder, &(name, value)| {
                builder.setting(name, value)
            })
            .start()
    };
    let mut settings = SETTINGS.to_vec();
    settings.extend(setting);
    let counting = [settings.as_slice(), &[STATEMENTS]].concat();
    match start(&counting) {
        Err(ClusterError::Start { log }) if log.contains(STATEMENTS.1) => start(&settings),
        started => started,
    }
}

/// The first process of the server of this connection, if it runs on this machine.
async fn local_postmaster(conn: &mut PgConnection) -> Option<u32> {
    let backend = server::local_backend(conn).await?;
    let is_server = |pid: u32| system::name(pid).is_some_and(|name| name.starts_with("postgres"));
    let parent = system::parent(backend)?;
    (is_server(backend) && is_server(parent)).then_some(parent)
}

fn templates() -> Result<Templates, CliError> {
    let [subject, text, html] = MAIL.map(|part| Some(part.to_owned()));
    let mut templates = Templates::new();
    let source = TemplateSource {
        subject,
        text,
        html,
    };
    match templates.add(load::MAIL_KEY, source) {
        Ok(()) => Ok(templates),
        Err(mistakes) => {
            let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            Err(CliError::Refused(mistakes.join("; ")))
        }
    }
}
