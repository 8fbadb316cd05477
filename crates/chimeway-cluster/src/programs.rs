//! Finds the server programs, which Debian keeps off the `PATH`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ClusterError;

/// Where Debian and Ubuntu install each major version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A folder that holds `initdb` and `postgres`.
#[derive(Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Looks on the `PATH`, then asks `pg_config`, then takes the newest that Debian installed.
    pub(crate) fn find() -> Result<Self, ClusterError> {
        on_path()
            .or_else(|| by_pg_config().filter(|folder| is_complete(folder)))
            .or_else(|| newest_below(Path::new(DEBIAN)))
            .map(|folder| Self { folder })
            .ok_or(ClusterError::NotInstalled)
    }

    pub(crate) fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    pub(crate) fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    pub(crate) fn pg_basebackup(&self) -> PathBuf {
        self.beside_postgres("pg_basebackup")
    }

    pub(crate) fn pg_ctl(&self) -> PathBuf {
        self.beside_postgres("pg_ctl")
    }

    /// A program that few need: where only links to the usual ones are on the `PATH`, it is where those lead.
    fn beside_postgres(&self, name: &str) -> PathBuf {
        let postgres = self.postgres().canonicalize();
        let folder = postgres.ok().and_then(|it| Some(it.parent()?.to_owned()));
        match folder.map(|folder| folder.join(name)) {
            Some(program) if program.is_file() => program,
            _ => self.folder.join(name),
        }
    }
}

fn is_complete(folder: &Path) -> bool {
    folder.is_absolute() && folder.join("initdb").is_file() && folder.join("postgres").is_file()
}

fn on_path() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| is_complete(folder))
}

fn by_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let printed = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| PathBuf::from(printed.trim()))
}

/// The newest complete version below `root`, by number: 9.6 < 15 < 18.
fn newest_below(root: &Path) -> Option<PathBuf> {
    let mut found: Vec<(Vec<u32>, PathBuf)> = std::fs::read_dir(root)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name
                .to_str()?
                .split('.')
                .map(str::parse)
                .collect::<Result<_, _>>();
            Some((version.ok()?, entry.path().join("bin")))
        })
        .filter(|(_, folder)| is_complete(folder))
        .collect();
    found.sort();
    found.pop().map(|(_, folder)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_newest_complete_version_by_number() {
        let root = tempfile::tempdir().unwrap();
        for (version, programs) in [
            ("9.6", &["initdb", "postgres"][..]),
            ("15", &["initdb", "postgres"]),
            ("18", &["initdb"]),
            ("beta", &["initdb", "postgres"]),
        ] {
            let folder = root.path().join(version).join("bin");
            std::fs::create_dir_all(&folder).unwrap();
            for program in programs {
                std::fs::write(folder.join(program), "").unwrap();
            }
        }
        assert_eq!(newest_below(root.path()), Some(root.path().join("15/bin")));
        assert_eq!(newest_below(&root.path().join("none")), None);
    }
}
