//! Keeps the databases of the machine out of reach.

use std::process::Command;

/// Removes from the environment of `command` each variable that names a PostgreSQL server
/// (`DATABASE_URL`, `PGHOST`, `PGPORT`, `PGDATA`, ...), so that nothing it runs can connect to one
/// by mistake.
pub fn without_postgres_variables(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name == "DATABASE_URL" || name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    command
}
