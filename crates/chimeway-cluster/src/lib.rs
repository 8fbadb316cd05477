//! Starts a private PostgreSQL cluster, and always stops it.
//!
//! Tests, `chimeway demo` and `chimeway dev` use this one implementation:
//!
//! ```no_run
//! use chimeway_cluster::{Cluster, Durability};
//!
//! # fn main() -> Result<(), chimeway_cluster::ClusterError> {
//! let cluster = Cluster::builder()
//!     .durability(Durability::OffForTests)
//!     .database("chimeway_test")
//!     .setting("max_connections", "200")
//!     .start()?;
//! println!("{}", cluster.url("chimeway_test"));
//! # Ok(())
//! # }
//! ```
//!
//! The server listens on a free port of 127.0.0.1 only and trusts whoever can reach it: the
//! superuser is `postgres`, without a password. It is meant for a machine whose users trust
//! each other.
//!
//! It stops when the [`Cluster`] is dropped, also by a panic. When this process ends in a way that
//! drops nothing (`exit`, a signal, `kill -9`), a small guard process notices, stops the server and
//! removes a temporary data directory. See `guard.rs`.
//!
//! PostgreSQL refuses to run as root: a process of root runs it as the user `postgres`, or `nobody`.

mod builder;
mod cluster;
mod environment;
mod error;
mod folder;
mod guard;
mod owner;
mod port;
mod programs;
mod server;

pub use builder::{Builder, Data, Durability};
pub use cluster::Cluster;
pub use environment::without_postgres_variables;
pub use error::ClusterError;
pub use server::Mode;
