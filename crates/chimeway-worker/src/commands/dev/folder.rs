//! The private PostgreSQL of `dev`: its data and its port stay from one time to the next.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use chimeway_cluster::{Cluster, ClusterError, Data, Durability};

use crate::{commands::blocking, error::CliError};

/// Beside the journeys, out of the way.
pub(super) const DEFAULT: &str = ".chimeway/dev";
/// The parent of the default, which is ours alone.
const OURS: &str = ".chimeway";
pub(super) const DATABASE: &str = "chimeway_dev";

/// Starts the server with the data in the folder, which is made when it is missing.
pub(super) async fn start(data: PathBuf) -> Result<Cluster, CliError> {
    prepare(&data).map_err(CliError::io(format!("write {}", data.display())))?;
    let port_file = data.join("port");
    let mut builder = Cluster::builder()
        .data(Data::Persistent(data))
        .durability(Durability::Full)
        .database(DATABASE);
    // The same URL as last time, where nobody else has the port by now.
    if let Some(port) = last_port(&port_file) {
        builder = builder.port(port);
    }
    let started = blocking(move || Ok(builder.start())).await?;
    let cluster = started.map_err(|error| {
        let hint = match &error {
            ClusterError::InUse { .. } => "; end that one, or choose another folder with --data",
            ClusterError::Unreachable { .. } => " with --data",
            _ => "",
        };
        CliError::Refused(format!("{error}{hint}"))
    })?;
    fs::write(&port_file, cluster.port().to_string())
        .map_err(CliError::io(format!("write {}", port_file.display())))?;
    Ok(cluster)
}

/// Makes the folder, of which git shall know nothing.
fn prepare(data: &Path) -> std::io::Result<()> {
    fs::create_dir_all(data)?;
    let parent = data.parent().filter(|parent| parent.ends_with(OURS));
    let ignore = parent.unwrap_or(data).join(".gitignore");
    match ignore.exists() {
        true => Ok(()),
        false => fs::write(ignore, "*\n"),
    }
}

fn last_port(file: &Path) -> Option<u16> {
    let port = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_knows_nothing_of_the_folder_and_what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let ours = folder.path().join(OURS);
        prepare(&ours.join("dev")).unwrap();
        assert_eq!(fs::read_to_string(ours.join(".gitignore")).unwrap(), "*\n");
        let named = folder.path().join("data");
        fs::create_dir(&named).unwrap();
        fs::write(named.join(".gitignore"), "mine\n").unwrap();
        prepare(&named).unwrap();
        assert_eq!(
            fs::read_to_string(named.join(".gitignore")).unwrap(),
            "mine\n"
        );
        assert!(!folder.path().join(".gitignore").exists());
    }

    #[test]
    fn a_port_is_used_again_only_while_it_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("port");
        assert_eq!(last_port(&file), None);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        fs::write(&file, port.to_string()).unwrap();
        assert_eq!(last_port(&file), None);
        fs::write(&file, "no port").unwrap();
        assert_eq!(last_port(&file), None);
    }
}
