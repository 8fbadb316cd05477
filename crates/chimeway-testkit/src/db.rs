//! A database per test, cloned from a template that is migrated once.

use std::{fmt::Write as _, time::Duration};

use sha2::{Digest as _, Sha256};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// Serializes the making of the template among all test processes of a server.
const TEMPLATE_LOCK: i64 = 0x6368_696d_6577_6179;

/// A database that lives as long as this value.
#[derive(Debug)]
pub struct TestDb {
    name: String,
    server: PgConnectOptions,
    pool: PgPool,
}

impl TestDb {
    /// A migrated, empty database on the server of `TEST_DATABASE_URL`.
    ///
    /// # Panics
    ///
    /// If the variable is not set or the server cannot be used; a test cannot go on then.
    pub async fn create() -> Self {
        Self::try_create().await.unwrap_or_else(|error| {
            panic!("no test database: {error}; run the tests with scripts/test")
        })
    }

    async fn try_create() -> Result<Self, Box<dyn std::error::Error>> {
        let server = server()?;
        let name = format!("chimeway_{}", chimeway::ids::fresh().simple());
        let mut conn = server.connect().await?;
        let template = template(&mut conn, &server).await?;
        conn.execute(AssertSqlSafe(format!(
            "create database {name} template {template}"
        )))
        .await?;
        conn.close().await?;
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(server.clone().database(&name))
            .await?;
        Ok(Self { name, server, pool })
    }

    /// Connections to it.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Its URL, for other processes in any language.
    #[must_use]
    pub fn url(&self) -> String {
        let mut url = self.server.clone().database(&self.name).to_url_lossy();
        // libpq refuses what it does not know.
        let is_ours = |name: &str| name == "statement-cache-capacity";
        let pairs = url.query_pairs().into_owned();
        let pairs: Vec<_> = pairs.filter(|(name, _)| !is_ours(name)).collect();
        url.query_pairs_mut().clear().extend_pairs(pairs);
        url.to_string()
    }

    /// A connection outside the pool, for a session of its own.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached.
    pub async fn connect(&self) -> PgConnection {
        let connected = self.server.clone().database(&self.name).connect().await;
        connected.unwrap_or_else(|error| panic!("cannot reach the test database: {error}"))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests are told their server by this variable alone"
)]
fn server() -> Result<PgConnectOptions, Box<dyn std::error::Error>> {
    let url = std::env::var("TEST_DATABASE_URL").map_err(|_| "TEST_DATABASE_URL is not set")?;
    Ok(url.parse()?)
}

/// The migrated template, made by the first who asks. Its name follows the migrations, so that a
/// changed one makes another template.
async fn template(
    conn: &mut PgConnection,
    server: &PgConnectOptions,
) -> Result<String, Box<dyn std::error::Error>> {
    let mut hash = Sha256::new();
    for migration in chimeway::store::schema::MIGRATOR.iter() {
        hash.update(&migration.checksum);
    }
    let mut name = String::from("chimeway_template_");
    for byte in hash.finalize().iter().take(8) {
        write!(name, "{byte:02x}")?;
    }
    sqlx::query("select pg_advisory_lock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *conn)
        .await?;
    let known: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(&name)
            .fetch_one(&mut *conn)
            .await?;
    if !known {
        let making = format!("{name}_making");
        conn.execute(AssertSqlSafe(format!(
            "drop database if exists {making} with (force)"
        )))
        .await?;
        conn.execute(AssertSqlSafe(format!("create database {making}")))
            .await?;
        let mut inside = server.clone().database(&making).connect().await?;
        chimeway::store::schema::migrate(&mut inside).await?;
        inside.close().await?;
        conn.execute(AssertSqlSafe(format!(
            "alter database {making} rename to {name}"
        )))
        .await?;
    }
    sqlx::query("select pg_advisory_unlock($1)")
        .bind(TEMPLATE_LOCK)
        .execute(&mut *conn)
        .await?;
    Ok(name)
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A runtime of its own: this one may be ending.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let Ok(runtime) = runtime else { return };
            runtime.block_on(async {
                let Ok(mut conn) = server.connect().await else {
                    return;
                };
                let sql = format!("drop database if exists {name} with (force)");
                let _ = conn.execute(AssertSqlSafe(sql)).await;
            });
        });
        let _ = dropped.join();
    }
}
