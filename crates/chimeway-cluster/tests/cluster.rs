//! The library: what a started server is like, and that it never outlives its owner.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::net::TcpStream;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

use chimeway_cluster::{Cluster, ClusterError, Data, Durability, Mode};

mod support;
use support::{eventually, is_running, processes_that_mention, query, shared_folder};

fn start_temporary() -> Cluster {
    Cluster::builder()
        .durability(Durability::OffForTests)
        .database("chimeway_test")
        .setting("max_connections", "37")
        .start()
        .unwrap()
}

fn start_persistent(folder: &Path) -> Result<Cluster, ClusterError> {
    Cluster::builder()
        .data(Data::Persistent(folder.join("data of dev")))
        .database("chimeway_dev")
        .start()
}

/// One line of `name = value` for each setting.
fn settings(url: &str, names: &[&str]) -> Vec<String> {
    names
        .iter()
        .map(|name| query(url, &format!("show {name}")))
        .collect()
}

#[test]
fn a_temporary_cluster_is_private_and_gone_when_dropped() {
    let cluster = start_temporary();
    let url = cluster.url("chimeway_test");
    assert_eq!(
        settings(
            &url,
            &[
                "listen_addresses",
                "unix_socket_directories",
                "server_encoding",
                "timezone",
                "max_connections"
            ]
        ),
        ["127.0.0.1", "", "UTF8", "UTC", "37"]
    );
    assert_eq!(
        settings(&url, &["fsync", "synchronous_commit", "full_page_writes"]),
        ["off"; 3]
    );
    let facts = query(
        &url,
        "select current_user, current_database(), datcollate from pg_database \
         where datname = current_database()",
    );
    assert_eq!(facts, "postgres|chimeway_test|C");

    let (pid, folder, port) = (
        cluster.server_pid().unwrap(),
        cluster.folder().to_owned(),
        cluster.port(),
    );
    assert!(is_running(pid));
    drop(cluster);
    assert!(!is_running(pid));
    assert!(!folder.exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert_eq!(processes_that_mention(folder.to_str().unwrap()), [0; 0]);
}

#[test]
fn a_panic_stops_the_server() {
    let cluster = start_temporary();
    let (pid, folder) = (cluster.server_pid().unwrap(), cluster.folder().to_owned());
    let result = std::panic::catch_unwind(AssertUnwindSafe(move || {
        let _owned = cluster;
        panic!("on purpose");
    }));
    assert!(result.is_err());
    assert!(!is_running(pid));
    assert!(!folder.exists());
}

#[test]
fn a_failed_start_shows_the_log_and_leaves_nothing_running() {
    let folder = shared_folder();
    let path = folder.path().join("failed");
    let error = Cluster::builder()
        .data(Data::Persistent(path.clone()))
        .setting("no_such_setting", "1")
        .start()
        .unwrap_err();
    assert!(matches!(error, ClusterError::Start { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("unrecognized configuration parameter"),
        "{error}"
    );
    assert_eq!(processes_that_mention(path.to_str().unwrap()), [0; 0]);
}

#[test]
fn a_durable_server_keeps_what_was_committed_before_a_crash() {
    let mut cluster = Cluster::builder().start().unwrap();
    let url = cluster.url("postgres");
    assert_eq!(
        settings(&url, &["fsync", "synchronous_commit", "full_page_writes"]),
        ["on"; 3]
    );
    query(&url, "create table kept as select 42 as answer");

    let (port, first) = (cluster.port(), cluster.server_pid().unwrap());
    cluster.restart(Mode::Immediate, Duration::ZERO).unwrap();
    assert_eq!(cluster.port(), port);
    assert_ne!(cluster.server_pid(), Some(first));
    assert!(!is_running(first));
    assert_eq!(query(&url, "select answer from kept"), "42");

    cluster.stop_server(Mode::Fast).unwrap();
    assert_eq!(cluster.server_pid(), None);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    cluster.start_server().unwrap();
    assert_eq!(query(&url, "select answer from kept"), "42");

    let last = cluster.server_pid().unwrap();
    cluster.stop(Mode::Fast).unwrap();
    assert!(!is_running(last));
}

#[test]
fn a_server_that_crashed_starts_again() {
    let mut cluster = start_temporary();
    let pid = cluster.server_pid().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    support::eventually("the crash", || !is_running(pid.as_raw().cast_unsigned()));
    cluster.start_server().unwrap();
    assert_eq!(query(&cluster.url("chimeway_test"), "select 1"), "1");
}

#[test]
fn a_persistent_cluster_keeps_its_data_and_belongs_to_one_owner_at_a_time() {
    let folder = shared_folder();
    let cluster = start_persistent(folder.path()).unwrap();
    query(
        &cluster.url("chimeway_dev"),
        "create table kept as select 42 as answer",
    );
    let pid = cluster.server_pid().unwrap();

    let error = start_persistent(folder.path()).unwrap_err();
    assert!(matches!(error, ClusterError::InUse { .. }), "{error}");
    assert!(
        is_running(pid),
        "the refused start must not stop the other's server"
    );

    drop(cluster);
    assert!(!is_running(pid));
    let cluster = start_persistent(folder.path()).unwrap();
    assert_eq!(
        query(&cluster.url("chimeway_dev"), "select answer from kept"),
        "42"
    );
}

#[test]
fn an_unfinished_data_directory_is_made_anew() {
    let folder = shared_folder();
    let unfinished = folder.path().join("data of dev").join("data.new");
    std::fs::create_dir_all(&unfinished).unwrap();
    std::fs::write(unfinished.join("PG_VERSION"), "15").unwrap();
    let cluster = start_persistent(folder.path()).unwrap();
    assert_eq!(query(&cluster.url("chimeway_dev"), "select 1"), "1");
}

#[test]
fn a_database_name_that_needs_quoting_is_refused() {
    let error = Cluster::builder()
        .database("x; drop database y")
        .start()
        .unwrap_err();
    assert!(matches!(error, ClusterError::DatabaseName(_)), "{error}");
}

#[test]
fn clusters_started_at_once_do_not_meet() {
    let clusters: Vec<Cluster> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..3).map(|_| scope.spawn(start_temporary)).collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    for (index, cluster) in clusters.iter().enumerate() {
        query(
            &cluster.url("chimeway_test"),
            &format!("create table t as select {index} as n"),
        );
    }
    for (index, cluster) in clusters.iter().enumerate() {
        let url = cluster.url("chimeway_test");
        assert_eq!(query(&url, "select n from t"), index.to_string());
    }
}

#[test]
fn a_replica_reads_what_its_primary_commits_and_writes_when_it_is_promoted() {
    let mut primary = start_temporary();
    let mut replica = Cluster::builder()
        .durability(Durability::OffForTests)
        .replica_of(primary.port())
        .start()
        .unwrap();
    let (there, here) = (primary.url("chimeway_test"), replica.url("chimeway_test"));
    query(&there, "create table kept (id int)");
    query(&there, "insert into kept values (1)");
    eventually("the replica has it", || {
        query(
            &here,
            "select to_regclass('kept') is not null and pg_is_in_recovery()",
        ) == "t"
            && query(&here, "select count(*) from kept") == "1"
    });
    primary.stop_server(Mode::Immediate).unwrap();
    replica.promote().unwrap();
    query(&here, "insert into kept values (2)");
    assert_eq!(query(&here, "select count(*) from kept"), "2");
    assert!(replica.promote().is_err(), "it is no replica any more");
}
