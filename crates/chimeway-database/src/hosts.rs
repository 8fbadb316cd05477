//! The hosts that a database URL names: one, or several of which one is the primary.

use std::{net::IpAddr, str::FromStr as _, sync::Arc};

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::DatabaseError;

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// What libpq has for "only the primary", which is what we always want where there are several.
const PRIMARY_ONLY: [&str; 2] = ["read-write", "primary"];

/// Reads `postgres://user:password@host1:5432,host2:5432/database`, or several whole URLs with commas between
/// them. In their order; at least one.
///
/// # Errors
///
/// [`DatabaseError::BadUrl`], which holds no part of the URL that may be secret.
pub(crate) fn read(url: &str) -> Result<Vec<PgConnectOptions>, DatabaseError> {
    let mut hosts = vec![];
    for url in whole_urls(url) {
        for one in with_one_host_each(url)? {
            hosts.push(options(&one)?);
        }
    }
    Ok(hosts)
}

/// A comma stands between URLs where one follows it.
fn whole_urls(text: &str) -> Vec<&str> {
    let mut urls = vec![];
    let (mut begin, mut from) = (0, 0);
    while let Some(found) = text[from..].find(',') {
        let comma = from + found;
        let rest = &text[comma + 1..];
        if SCHEMES.iter().any(|scheme| rest.starts_with(scheme)) {
            urls.push(&text[begin..comma]);
            begin = comma + 1;
        }
        from = comma + 1;
    }
    urls.push(&text[begin..]);
    urls
}

fn with_one_host_each(url: &str) -> Result<Vec<String>, DatabaseError> {
    let scheme = SCHEMES.iter().find(|scheme| url.starts_with(**scheme));
    let scheme = scheme.ok_or_else(|| bad("it is not a PostgreSQL URL"))?;
    let rest = &url[scheme.len()..];
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = match authority.rfind('@') {
        Some(at) => authority.split_at(at + 1),
        None => ("", authority),
    };
    let tail = without_session_attributes(tail)?;
    let one = |host: &str| format!("{scheme}{user}{host}{tail}");
    if hosts.contains(',') && hosts.split(',').any(str::is_empty) {
        return Err(bad("a host between commas is missing"));
    }
    Ok(hosts.split(',').map(one).collect())
}

/// `target_session_attrs` is libpq's; what it asks for is what we do, or nothing that we can do.
fn without_session_attributes(tail: &str) -> Result<String, DatabaseError> {
    let Some((path, query)) = tail.split_once('?') else {
        return Ok(tail.to_owned());
    };
    let mut kept = vec![];
    for pair in query.split('&') {
        match pair.strip_prefix("target_session_attrs=") {
            None => kept.push(pair),
            Some(value) if PRIMARY_ONLY.contains(&value) => {}
            Some(_) => {
                return Err(bad(
                    "target_session_attrs can only be read-write or primary",
                ));
            }
        }
    }
    Ok(match kept.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", kept.join("&")),
    })
}

fn options(url: &str) -> Result<PgConnectOptions, DatabaseError> {
    let options = PgConnectOptions::from_str(url).map_err(|error| match error {
        sqlx::Error::Configuration(reason) => DatabaseError::BadUrl(reason.to_string()),
        other => DatabaseError::BadUrl(other.to_string()),
    })?;
    check_root_certificate(url)?;
    Ok(match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("chimeway"),
    })
}

fn bad(problem: &str) -> DatabaseError {
    DatabaseError::BadUrl(problem.to_owned())
}

pub(crate) fn without_prepared_statements(hosts: &[PgConnectOptions]) -> Arc<[PgConnectOptions]> {
    let bare = |one: &PgConnectOptions| one.clone().statement_cache_capacity(0);
    hosts.iter().map(bare).collect()
}

/// What fails later would not say which file it is.
fn check_root_certificate(url: &str) -> Result<(), DatabaseError> {
    const NAMES: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
    let parsed = url::Url::parse(url).ok();
    let pairs = parsed.iter().flat_map(url::Url::query_pairs);
    for (name, path) in pairs.filter(|(name, _)| NAMES.contains(&name.as_ref())) {
        if let Err(error) = std::fs::File::open(path.as_ref()) {
            let problem = format!("the file of `{name}`, {path}, cannot be read: {error}");
            return Err(DatabaseError::BadUrl(problem));
        }
    }
    Ok(())
}

/// Whether it is this machine.
pub(crate) fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Whether a server is refused that cannot show a certificate of its own.
pub(crate) fn verifies(options: &PgConnectOptions) -> bool {
    matches!(
        options.get_ssl_mode(),
        PgSslMode::VerifyCa | PgSslMode::VerifyFull
    )
}

/// Where one is, for messages.
pub(crate) fn place(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(url: &str) -> Vec<String> {
        let hosts = read(url).unwrap();
        hosts
            .iter()
            .map(|one| {
                let (user, database) = (one.get_username(), one.get_database().unwrap_or("-"));
                format!("{user}@{}/{database}", place(one))
            })
            .collect()
    }

    #[test]
    fn a_url_names_one_host_or_several() {
        assert_eq!(
            places("postgres://ada:p,w@db1:5433/app"),
            ["ada@db1:5433/app"]
        );
        let two = ["ada@db1:5433/app", "ada@db2:5432/app"];
        assert_eq!(
            places("postgresql://ada:p%40w@db1:5433,db2/app?sslmode=disable"),
            two
        );
        assert_eq!(
            places("postgres://ada@db1:5433/app,postgresql://ada@db2/app"),
            two
        );
        let six = "postgres://ada@[::1]:5433,[::2]/app?target_session_attrs=read-write";
        assert_eq!(places(six), ["ada@[::1]:5433/app", "ada@[::2]:5432/app"]);
        let sockets = "postgres://ada@%2Frun%2Fpg,db2/app";
        assert_eq!(places(sockets), ["ada@/run/pg/app", "ada@db2:5432/app"]);
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        for (host, local) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.8.0.1", true),
            ("[::1]", true),
            ("%2Frun%2Fpostgresql", true),
            ("10.0.0.7", false),
            ("db.example.com", false),
            ("localhost.example.com", false),
        ] {
            let url = format!("postgres://ada@{host}/app");
            assert_eq!(is_local(&read(&url).unwrap()[0]), local, "{host}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_its_secret() {
        for url in [
            "postgres://ada:hunter2@db1,,db2/app",
            "postgres://ada:hunter2@db1,db2:port/app",
            "postgres://ada:hunter2@db1,db2/app?target_session_attrs=any",
            "postgres://ada:hunter2@db1/app,mysql://ada:hunter2@db2/app?sslmode=perhaps",
        ] {
            let line = read(url).err().unwrap().to_string();
            assert!(line.contains("the database URL cannot be used"), "{line}");
            assert!(!line.contains("hunter2"), "{line}");
        }
    }
}
