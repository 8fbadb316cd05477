//! Files that people write, read up to a size: what is named by mistake may have no end.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// The most that a document, a template or a file of settings may have, in bytes: 1 MiB.
pub const LARGEST_FILE: u64 = 1024 * 1024;

/// A text file of [`LARGEST_FILE`] at most; of a larger one no more than that is read.
///
/// # Errors
///
/// [`io::ErrorKind::FileTooLarge`], and whatever a file cannot be read for.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = vec![];
    File::open(path)?
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE {
        let problem = "it is larger than 1 MiB, which is the most that is read";
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not valid UTF-8");
    String::from_utf8(bytes).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_refused() {
        let refused = read_text(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::FileTooLarge);
    }
}
