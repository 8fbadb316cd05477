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

/// For root, whose home the unprivileged user that runs the server cannot reach.
const FOR_ROOT: &str = "/var/lib/chimeway-dev";

/// Starts the server with the data in the folder, which is made when it is missing; where that is.
///
/// Without a folder it is [`DEFAULT`], or where the server's user cannot reach that, one for the current
/// folder under [`FOR_ROOT`].
pub(super) async fn start(data: Option<&Path>) -> Result<(Cluster, PathBuf), CliError> {
    let wanted = data.map_or_else(|| PathBuf::from(DEFAULT), Path::to_path_buf);
    let started = match start_in(wanted.clone()).await? {
        Err(ClusterError::Unreachable { .. }) if data.is_none() => {
            let here = std::env::current_dir().map_err(CliError::io("see this folder"))?;
            let other = Path::new(FOR_ROOT).join(name_of(&here));
            start_in(other.clone())
                .await?
                .map(|cluster| (cluster, other))
        }
        started => started.map(|cluster| (cluster, wanted)),
    };
    started.map_err(|error| {
        let hint = match &error {
            ClusterError::InUse { .. } => "; end that one, or choose another folder with --data",
            ClusterError::Unreachable { .. } => " with --data",
            _ => "",
        };
        CliError::Refused(format!("{error}{hint}"))
    })
}

/// `/root/my journeys` as the name of one folder.
fn name_of(folder: &Path) -> String {
    let names = folder.components().filter_map(|part| match part {
        std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    names.collect::<Vec<_>>().join("-")
}

async fn start_in(data: PathBuf) -> Result<Result<Cluster, ClusterError>, CliError> {
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
    if let Ok(cluster) = &started {
        fs::write(&port_file, cluster.port().to_string())
            .map_err(CliError::io(format!("write {}", port_file.display())))?;
    }
    Ok(started)
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
    fn a_folder_has_a_name_for_its_data() {
        assert_eq!(name_of(Path::new("/root/my journeys")), "root-my journeys");
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
