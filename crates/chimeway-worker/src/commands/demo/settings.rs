//! The settings of the demo's worker.

use std::io::{self, Write as _};

use tempfile::NamedTempFile;

/// As in production, but for the server that mail goes to.
pub(super) fn write(mail_port: u16) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    write!(
        file,
        r#"[channels.email]
adapter = "smtp"
host = "127.0.0.1"
port = {mail_port}
security = "none"
from = "Chimeway <demo@example.com>"
"#
    )?;
    Ok(file)
}
