//! Documents on disk: found, checked together, then stored.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use chimeway::{
    definition::{self, DefinitionError, Document, Known, Validated},
    flow::{ApplyStatus, FlowError, TemplateMistake, Templates, read_text},
    store::workflows,
};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::{
    commands::Context,
    error::{CliError, causes},
    output::{self, count},
};

/// What is read as a workflow inside a folder.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// One file, read and checked.
struct Checked {
    path: String,
    content: Result<(Document, Validated), Vec<Mistake>>,
    /// What lies beside it in `templates/`.
    templates: Rc<Templates>,
}

/// One mistake of a file, ready to print either way.
struct Mistake {
    /// `<pointer>: <problem>; <hint>`
    line: String,
    /// `{pointer, code, message, hint}`
    json: Value,
}

pub(super) fn validate(paths: &[PathBuf], context: &Context) -> Result<(), CliError> {
    let files = check(paths, &context.chimeway()?.build().known())?;
    if context.json {
        output::print_json(&files.iter().map(Checked::json).collect::<Value>())?;
        return refuse_mistakes(&files);
    }
    print_mistakes(&files)?;
    refuse_mistakes(&files)?;
    output::print(format!("{}: no mistakes", count(files.len(), "document")))
}

pub(super) async fn apply(paths: &[PathBuf], context: &Context) -> Result<(), CliError> {
    let chimeway = context.chimeway()?.build();
    let files = check(paths, &chimeway.known())?;
    if files.iter().any(|file| file.content.is_err()) {
        match context.json {
            true => output::print_json(&files.iter().map(Checked::json).collect::<Value>())?,
            false => print_mistakes(&files)?,
        }
        return refuse_mistakes(&files);
    }
    let database = context.database()?;
    let mut conn = context.open().await?;
    for file in &files {
        refuse_conflict(&mut conn, file).await?;
    }
    let pool = database.pool(1);
    let mut applied = vec![];
    for file in &files {
        let Ok((document, _)) = &file.content else {
            continue;
        };
        let done = chimeway
            .apply_with(&pool, document, &file.templates)
            .await
            .map_err(|error| file.refused(&error))?;
        if !context.json {
            let status = match done.status {
                ApplyStatus::Applied => "applied",
                ApplyStatus::Unchanged => "unchanged",
            };
            output::print(format!("{} v{} {status}", done.key, done.version))?;
            for key in &done.templates {
                output::print(format!("template {key} applied"))?;
            }
        }
        applied.push(json!({
            "path": file.path,
            "workflow": done.key,
            "version": done.version,
            "status": done.status,
            "templates": done.templates,
        }));
    }
    match context.json {
        true => output::print_json(&applied),
        false => Ok(()),
    }
}

/// A version that is stored with other content is found before anything is applied.
async fn refuse_conflict(conn: &mut PgConnection, file: &Checked) -> Result<(), CliError> {
    let Ok((_, checked)) = &file.content else {
        return Ok(());
    };
    let Some(version) = checked.version else {
        return Ok(());
    };
    let key = checked.plan.key.clone();
    let Some(id) = workflows::find(conn, key.as_str(), Some(version.0)).await? else {
        return Ok(());
    };
    let stored = workflows::load(conn, &[id]).await?;
    match stored
        .iter()
        .all(|stored| stored.hash == checked.hash.as_str())
    {
        true => Ok(()),
        false => Err(file.refused(&FlowError::VersionConflict { key, version })),
    }
}

fn check(paths: &[PathBuf], known: &Known) -> Result<Vec<Checked>, CliError> {
    let mut files = vec![];
    let mut folders: BTreeMap<PathBuf, Rc<Templates>> = BTreeMap::new();
    let mut broken = vec![];
    for path in find(paths)? {
        let text = read_text(&path).map_err(CliError::io(format!("read {}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("")).join("templates");
        let templates = folders.entry(folder.clone()).or_insert_with(|| {
            let (templates, mistakes) = templates_in(&folder);
            broken.extend(mistakes);
            Rc::new(templates)
        });
        let templates = Rc::clone(templates);
        let path = path.display().to_string();
        files.push(Checked::new(path, &text, known, templates));
    }
    refuse_twins(&mut files);
    files.extend(broken);
    Ok(files)
}

/// The templates of a folder, and the files in it that have a mistake.
fn templates_in(folder: &Path) -> (Templates, Vec<Checked>) {
    if !folder.is_dir() {
        return (Templates::new(), vec![]);
    }
    let (templates, mistakes) = Templates::read(folder);
    let mut files: BTreeMap<String, Vec<Mistake>> = BTreeMap::new();
    for mistake in &mistakes {
        let path = folder.join(&mistake.file).display().to_string();
        files.entry(path).or_default().push(mistake.into());
    }
    let broken = files.into_iter().map(|(path, mistakes)| Checked {
        path,
        content: Err(mistakes),
        templates: Rc::default(),
    });
    (templates, broken.collect())
}

/// The files behind the paths: each once, those of a folder in order of their names.
fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    let mut found = vec![];
    for path in paths {
        let meta = fs::metadata(path).map_err(CliError::io(format!("read {}", path.display())))?;
        if meta.is_dir() {
            let before = found.len();
            find_in(path, &mut found)?;
            if found.len() == before {
                return Err(CliError::Refused(format!(
                    "there is no .yaml, .yml or .json file in {}; name the folder of your workflows",
                    path.display()
                )));
            }
        } else {
            found.push(path.clone());
        }
    }
    let mut seen = HashSet::new();
    found.retain(|path| seen.insert(fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
    Ok(found)
}

fn find_in(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), CliError> {
    let doing = || CliError::io(format!("read {}", folder.display()));
    let mut entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(doing())?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Of the entry itself, not of what a link leads to: a link to a parent would never end.
        if entry.file_type().map_err(doing())?.is_dir() {
            find_in(&path, found)?;
        } else if is_document(&path) && path.is_file() {
            found.push(path);
        }
    }
    Ok(())
}

fn is_document(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str()))
}

/// Two files of one run that are the same version of the same workflow: which one is meant?
fn refuse_twins(files: &mut [Checked]) {
    let mut first: BTreeMap<_, String> = BTreeMap::new();
    for file in files {
        let Ok((_, checked)) = &file.content else {
            continue;
        };
        let workflow = (checked.plan.key.clone(), checked.version);
        match first.get(&workflow) {
            Some(other) => {
                let twin = Mistake::twin(workflow.0.as_str(), other);
                file.content = Err(vec![twin]);
            }
            None => {
                first.insert(workflow, file.path.clone());
            }
        }
    }
}

fn print_mistakes(files: &[Checked]) -> Result<(), CliError> {
    let lines: String = files.iter().flat_map(Checked::lines).collect();
    if lines.is_empty() {
        Ok(())
    } else {
        output::print(lines)
    }
}

fn refuse_mistakes(files: &[Checked]) -> Result<(), CliError> {
    let wrong: Vec<usize> = files
        .iter()
        .map(|file| file.mistakes().len())
        .filter(|&n| n > 0)
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let (mistakes, documents) = (
        count(wrong.iter().sum(), "mistake"),
        count(wrong.len(), "document"),
    );
    Err(CliError::Refused(format!(
        "{mistakes} in {documents}, so nothing can be stored; correct them and run it again"
    )))
}

impl Checked {
    fn new(path: String, text: &str, known: &Known, templates: Rc<Templates>) -> Self {
        let content = Document::parse(path.as_str(), text)
            .map_err(|mistake| vec![mistake])
            .and_then(|document| {
                definition::validate(&document, known).map(|checked| (document, checked))
            })
            .and_then(|(document, checked)| {
                let missing = templates.missing_for(&checked, known);
                match missing.is_empty() {
                    true => Ok((document, checked)),
                    false => Err(missing),
                }
            })
            .map_err(|mistakes| mistakes.iter().map(Mistake::from).collect());
        Self {
            path,
            content,
            templates,
        }
    }

    fn mistakes(&self) -> &[Mistake] {
        self.content.as_ref().err().map_or(&[], Vec::as_slice)
    }

    /// `path:pointer: problem; hint`, one line each.
    fn lines(&self) -> impl Iterator<Item = String> {
        self.mistakes()
            .iter()
            .map(|mistake| format!("{}:{}\n", self.path, mistake.line))
    }

    fn json(&self) -> Value {
        let checked = self.content.as_ref().ok().map(|(_, checked)| checked);
        json!({
            "path": self.path,
            "workflow": checked.map(|checked| &checked.plan.key),
            "valid": checked.is_some(),
            "mistakes": self.mistakes().iter().map(|mistake| &mistake.json).collect::<Vec<_>>(),
        })
    }

    fn refused(&self, error: &FlowError) -> CliError {
        CliError::Refused(format!("{}: {}", self.path, causes(error)))
    }
}

impl From<&DefinitionError> for Mistake {
    fn from(mistake: &DefinitionError) -> Self {
        // Without a pointer there is no colon after it: `path: problem`.
        let space = if mistake.pointer.is_empty() { " " } else { "" };
        Self {
            line: format!("{space}{mistake}"),
            json: json!(mistake),
        }
    }
}

impl From<&TemplateMistake> for Mistake {
    fn from(mistake: &TemplateMistake) -> Self {
        let line = mistake
            .line
            .map_or_else(String::new, |line| format!("line {line}: "));
        let message = format!("{line}{}", mistake.problem);
        Self {
            line: format!(" {message}"),
            json: json!({
                "pointer": "",
                "code": "template",
                "message": message,
                "hint": null,
            }),
        }
    }
}

impl Mistake {
    fn twin(key: &str, first: &str) -> Self {
        let message = format!("the workflow `{key}` is in {first} already");
        let hint = "remove one of them, or give each its own version";
        Self {
            line: format!("/key: {message}; {hint}"),
            json: json!({
                "pointer": "/key",
                "code": "duplicate_workflow",
                "message": message,
                "hint": hint,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = "key: a\nsteps:\n  - {id: s, action: {type: notify, channel: in_app}}\n";

    fn lines(files: &[(&str, &str)]) -> String {
        let mut files: Vec<Checked> = files
            .iter()
            .map(|(path, text)| {
                Checked::new((*path).to_owned(), text, &Known::default(), Rc::default())
            })
            .collect();
        refuse_twins(&mut files);
        files.iter().flat_map(Checked::lines).collect()
    }

    #[test]
    fn a_mistake_says_where_in_which_file() {
        let broken = SOUND.replace("in_app", "in_ap");
        let line = lines(&[("j/a.yaml", SOUND), ("j/b.yaml", &broken)]);
        assert!(
            line.starts_with("j/b.yaml:/steps/0/action/channel: unknown channel `in_ap`; "),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_read_as_yaml_has_line_and_column() {
        let line = lines(&[("a.yaml", "key: k\nkey: l\n")]);
        assert_eq!(
            line,
            "a.yaml: line 2, column 1: the key `key` is given twice\n"
        );
    }

    #[test]
    fn two_files_may_not_be_the_same_version() {
        let line = lines(&[("a.yaml", SOUND), ("b.yaml", SOUND)]);
        let expected = "b.yaml:/key: the workflow `a` is in a.yaml already; \
                        remove one of them, or give each its own version\n";
        assert_eq!(line, expected);
        let versions = [
            format!("version: 1\n{SOUND}"),
            format!("version: 2\n{SOUND}"),
        ];
        assert_eq!(
            lines(&[("a.yaml", &versions[0]), ("b.yaml", &versions[1])]),
            ""
        );
    }

    #[test]
    fn a_folder_is_read_whole_in_order_and_each_file_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("b/c")).unwrap();
        fs::create_dir(path(".hidden")).unwrap();
        for name in [
            "z.yaml",
            "a.json",
            "b/c/d.YML",
            "b/note.txt",
            ".hidden/e.yaml",
            ".f.yaml",
        ] {
            fs::write(path(name), SOUND).unwrap();
        }
        std::os::unix::fs::symlink("..", path("b/up")).unwrap();
        let found = find(&[folder.path().into(), path("z.yaml")]).ok().unwrap();
        assert_eq!(found, [path("a.json"), path("b/c/d.YML"), path("z.yaml")]);
        assert!(find(&[path(".hidden/none")]).is_err());
        fs::create_dir(path("empty")).unwrap();
        assert!(find(&[path("empty")]).is_err());
    }
}
