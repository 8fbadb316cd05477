//! TLS to PostgreSQL, as the database URL asks for it: a server with a certificate of a test's own authority.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt},
    path::{Path, PathBuf},
};

use chimeway_cluster::{Cluster, Mode};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::{
    programs::{Ran, chimeway_path, command, psql, words},
    running::Running,
};

struct Tls {
    cluster: Cluster,
    folder: tempfile::TempDir,
}

/// An authority, whose certificate is written to a file of that name.
fn authority(folder: &Path, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join(name), root.pem()).unwrap();
    root
}

impl Tls {
    /// A server that speaks TLS, with a certificate for `localhost`.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::builder().database("app").start().unwrap();
        let root = authority(folder.path(), "ca.pem");
        authority(folder.path(), "other.pem");
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let own = own.signed_by(&key, &root).unwrap();
        // The server wants its key to be its own, and nobody else's.
        let data = data_folder(&cluster);
        let owner = std::fs::metadata(&data).unwrap();
        for (name, text) in [
            ("server.crt", own.pem()),
            ("server.key", key.serialize_pem()),
        ] {
            let path = data.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let script = "alter system set ssl = on; select pg_reload_conf()";
        psql(&cluster.url("app"), &[], script).expect(0);
        Self { cluster, folder }
    }

    fn url(&self, host: &str, mode: &str, root: Option<&str>) -> String {
        let port = self.cluster.port();
        let root = root.map_or_else(String::new, |name| {
            format!("&sslrootcert={}", self.folder.path().join(name).display())
        });
        format!("postgres://postgres:hunter2@{host}:{port}/app?sslmode={mode}{root}")
    }
}

fn data_folder(cluster: &Cluster) -> PathBuf {
    cluster.folder().join("data")
}

fn run(url: &str, line: &str) -> Ran {
    let mut program = command(chimeway_path());
    program.args(words(line)).env("DATABASE_URL", url);
    program.output().unwrap().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_database_is_who_it_says_and_nobody_listens() {
    let tls = tokio::task::spawn_blocking(Tls::start).await.unwrap();
    let right = tls.url("localhost", "verify-full", Some("ca.pem"));
    run(&right, "migrate").expect(0);
    let worker = Running::worker(&right, "");
    worker.prints("chimeway_delivery=20").await;
    // All of its connections, the listener's too.
    let open = "select count(*) filter (where s.ssl), count(*) filter (where not s.ssl)
        from pg_stat_activity a join pg_stat_ssl s using (pid) where a.application_name = 'chimeway'";
    let counted = crate::support::eventually("the worker is connected", async || {
        let counted = psql(&tls.cluster.url("app"), &[], open).expect(0).out;
        (!counted.starts_with("0|")).then_some(counted)
    })
    .await;
    assert!(counted.trim().ends_with("|0"), "{counted}");
    let (status, printed) = worker.told(nix::sys::signal::Signal::SIGTERM).await;
    assert!(status.success(), "{printed:?}");

    // Another authority, another name, none at all: there is no connection, and the reason has no password.
    for (url, reason) in [
        (
            tls.url("localhost", "verify-full", Some("other.pem")),
            "certificate",
        ),
        (
            tls.url("localhost", "verify-ca", Some("other.pem")),
            "certificate",
        ),
        (
            tls.url("127.0.0.1", "verify-full", Some("ca.pem")),
            "certificate",
        ),
        (tls.url("localhost", "verify-full", None), "certificate"),
        (
            tls.url("localhost", "verify-full", Some("missing.pem")),
            "missing.pem",
        ),
    ] {
        let refused = run(&url, "runs").expect(1).err;
        assert!(refused.contains(reason), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
        assert_eq!(refused.lines().count(), 1, "{refused}");
    }
    // Encrypted, and not verified: what docs/security.md says of `require`.
    run(&tls.url("127.0.0.1", "require", None), "runs").expect(0);
    let off = "alter system set ssl = off; select pg_reload_conf()";
    psql(&tls.cluster.url("app"), &[], off).expect(0);
    let refused = run(&tls.url("localhost", "require", None), "runs")
        .expect(1)
        .err;
    assert!(refused.contains("TLS"), "{refused}");
    let stopped = tokio::task::spawn_blocking(move || tls.cluster.stop(Mode::Immediate)).await;
    stopped.unwrap().unwrap();
}
