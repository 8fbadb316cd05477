//! `chimeway init`: a first journey with its templates, and a settings file with every key explained.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{config, error::CliError, output};

/// Write a first journey with its templates, and a settings file with every key explained
///
/// What exists already is left as it is.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  chimeway init
  chimeway init my-app        then: cd my-app && chimeway dev")]
pub(crate) struct Args {
    /// Where to write, instead of here; made when it is missing
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

/// The journey and its templates, below the folder.
const FILES: [(&str, &str); 4] = [
    ("journeys/welcome.yaml", include_str!("welcome.yaml")),
    (
        "journeys/templates/welcome_email.subject.txt",
        include_str!("welcome_email.subject.txt"),
    ),
    (
        "journeys/templates/welcome_email.txt",
        include_str!("welcome_email.txt"),
    ),
    (
        "journeys/templates/welcome_email.html",
        include_str!("welcome_email.html"),
    ),
];
const SETTINGS: &str = "chimeway.toml";
/// Where `chimeway dev` keeps its database.
const IGNORED: &str = ".chimeway/";

pub(crate) fn run(args: &Args, as_json: bool) -> Result<(), CliError> {
    let folder = &args.folder;
    let settings = config::example_file();
    let files = FILES.into_iter().chain([(SETTINGS, settings.as_str())]);
    let (mut written, mut kept) = (vec![], vec![]);
    for (name, text) in files {
        match write(&folder.join(name), text)? {
            true => written.push(name),
            false => kept.push(name),
        }
    }
    match ignore(&folder.join(".gitignore"))? {
        true => written.push(".gitignore"),
        false => kept.push(".gitignore"),
    }
    if as_json {
        return output::print_json(&json!({ "folder": folder, "written": written, "kept": kept }));
    }
    let is_here = folder == Path::new(".");
    let shown = |name: &str| match is_here {
        true => name.to_owned(),
        false => folder.join(name).display().to_string(),
    };
    let mut text = String::new();
    for name in &written {
        text.push_str(&format!("wrote  {}\n", shown(name)));
    }
    for name in &kept {
        text.push_str(&format!("kept   {}, as it was\n", shown(name)));
    }
    text.push_str("\nNext:\n");
    if !is_here {
        text.push_str(&format!("  cd {}\n", folder.display()));
    }
    text.push_str(
        "  chimeway dev                  a database, a worker and your mail on the screen
  chimeway workflows validate journeys/
  chimeway config --config chimeway.toml\n",
    );
    output::print(text)
}

/// Writes a file, and the folders that it is in; false where it exists.
fn write(path: &Path, text: &str) -> Result<bool, CliError> {
    let doing = || CliError::io(format!("write {}", path.display()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(doing())?;
    }
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(doing()(error)),
    };
    file.write_all(text.as_bytes()).map_err(doing())?;
    Ok(true)
}

/// Adds our line to a file of ignored paths; false where it is there.
fn ignore(path: &Path) -> Result<bool, CliError> {
    let before = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(CliError::io(format!("read {}", path.display()))(error)),
    };
    let is_there = |line: &str| line.trim().trim_matches('/') == IGNORED.trim_matches('/');
    if before.lines().any(is_there) {
        return Ok(false);
    }
    let line_end = match before.is_empty() || before.ends_with('\n') {
        true => "",
        false => "\n",
    };
    append(path, &format!("{line_end}{IGNORED}\n"))
        .map_err(CliError::io(format!("write {}", path.display())))?;
    Ok(true)
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(text.as_bytes())
}
