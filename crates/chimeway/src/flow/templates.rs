//! What messages say: templates that are given with a document, stored with it, and kept in memory by
//! the processes that send.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::{sync::Mutex, time::Instant};

use super::{Core, definitions, deliver::Claimed, session::Sessions};
pub use crate::channels::render::{RenderFailure, Template, TemplateMistake, TemplateSource};
use crate::{
    channels::{
        Message,
        render::{HTML, SUBJECT, TEXT},
    },
    definition::{Definition, DefinitionError, Known, Notify, Problem, StepKind, Validated},
    ids::RenderKey,
    store::{
        StoreResult,
        claims::ClaimedRow,
        templates::{self, NewTemplate, TemplateRow},
    },
};

/// Templates by render key, to be applied with a document.
#[derive(Debug, Clone, Default)]
pub struct Templates {
    by_key: BTreeMap<String, Template>,
    /// There, and with a mistake that was told: not missing.
    broken: BTreeSet<String>,
}

impl Templates {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what is written under a render key; what was there before is replaced.
    ///
    /// # Errors
    ///
    /// Every mistake in it.
    pub fn add(&mut self, key: &str, source: TemplateSource) -> Result<(), Vec<TemplateMistake>> {
        let key = RenderKey::new(key).map_err(|bad| {
            vec![TemplateMistake {
                file: key.escape_debug().to_string(),
                line: None,
                problem: bad.to_string(),
            }]
        })?;
        let template = Template::compile(&key, source)?;
        self.by_key.insert(key.as_str().to_owned(), template);
        Ok(())
    }

    /// Reads every `<key>.subject.txt`, `<key>.txt` and `<key>.html` of a folder; other files and
    /// folders are left alone. With those that have no mistake come all mistakes of the others; their
    /// files are named without the folder.
    #[must_use]
    pub fn read(folder: &Path) -> (Self, Vec<TemplateMistake>) {
        let mut mistakes = vec![];
        let mut unreadable = |file: String, error: &std::io::Error| {
            mistakes.push(TemplateMistake {
                file,
                line: None,
                problem: format!("cannot be read: {error}"),
            });
        };
        let mut sources: BTreeMap<String, TemplateSource> = BTreeMap::new();
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for entry in entries.unwrap_or_else(|error| {
            unreadable(folder.display().to_string(), &error);
            vec![]
        }) {
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let part = [SUBJECT, TEXT, HTML]
                .into_iter()
                .find_map(|end| Some((name.strip_suffix(end)?, end)));
            let Some((key, end)) = part else {
                continue;
            };
            if key.is_empty() || key.starts_with('.') || !path.is_file() {
                continue;
            }
            match super::files::read_text(&path) {
                Ok(text) => {
                    let source = sources.entry(key.to_owned()).or_default();
                    let place = match end {
                        SUBJECT => &mut source.subject,
                        TEXT => &mut source.text,
                        _ => &mut source.html,
                    };
                    *place = Some(text);
                }
                Err(error) => unreadable(name.clone(), &error),
            }
        }
        let mut all = Self::new();
        for (key, source) in sources {
            if let Err(wrong) = all.add(&key, source) {
                all.broken.insert(key);
                mistakes.extend(wrong);
            }
        }
        (all, mistakes)
    }

    /// What is written under a render key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Template> {
        self.by_key.get(key)
    }

    /// The render keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.by_key.keys().map(String::as_str)
    }

    /// What a document's steps would miss if there were no other templates than these: one mistake for
    /// each step over a channel that [renders](Known::renders).
    #[must_use]
    pub fn missing_for(&self, checked: &Validated, known: &Known) -> Vec<DefinitionError> {
        missing(checked, known, |key| {
            if self.broken.contains(key) {
                return Some(true);
            }
            Some(self.get(key)?.source().subject.is_some())
        })
    }

    /// The template of the latest content stored under a render key.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`](super::FlowError::Store) if the database is away, or holds what is no
    /// template.
    pub async fn stored(
        conn: &mut PgConnection,
        key: &RenderKey,
    ) -> Result<Option<Template>, super::FlowError> {
        let asked = [(key.as_str().to_owned(), None)];
        let row = templates::latest(conn, &asked).await?.pop();
        row.map(|row| compiled(row).map_err(|_| super::FlowError::BrokenTemplate(key.clone())))
            .transpose()
    }

    /// Stores those that the document names; returns the render keys whose content is new.
    pub(super) async fn store(
        &self,
        conn: &mut PgConnection,
        checked: &Validated,
    ) -> StoreResult<Vec<String>> {
        let mut named: BTreeMap<&str, &Template> = BTreeMap::new();
        for (_, notify) in notify_steps(checked) {
            let key = notify.render_key.as_str();
            if let Some(template) = self.get(key) {
                named.insert(key, template);
            }
        }
        let new: Vec<NewTemplate> = named
            .into_iter()
            .map(|(key, template)| {
                let source = template.source().clone();
                NewTemplate {
                    render_key: key.to_owned(),
                    hash: template.hash().to_owned(),
                    subject: source.subject,
                    text: source.text,
                    html: source.html,
                }
            })
            .collect();
        templates::insert(conn, &new).await
    }
}

fn notify_steps(checked: &Validated) -> impl Iterator<Item = (usize, &Notify)> {
    let steps = checked.plan.steps.iter().enumerate();
    steps.filter_map(|(place, step)| match &step.kind {
        StepKind::Notify(notify) => Some((place, notify)),
        _ => None,
    })
}

/// What is missing, where `has_subject` says whether the template of a render key has a subject.
pub(super) fn missing(
    checked: &Validated,
    known: &Known,
    has_subject: impl Fn(&str) -> Option<bool>,
) -> Vec<DefinitionError> {
    let mut mistakes = vec![];
    for (place, notify) in notify_steps(checked) {
        if !known.renders(&notify.channel) {
            continue;
        }
        let (channel, key) = (notify.channel.to_string(), notify.render_key.to_string());
        let (problem, hint) = match has_subject(&key) {
            None => {
                let hint = format!(
                    "write templates/{key}{TEXT} beside the document, and templates/{key}{SUBJECT}"
                );
                (Problem::MissingTemplate { channel, key }, hint)
            }
            // Only mail has subjects.
            Some(false) if channel == "email" => {
                let hint = format!("write templates/{key}{SUBJECT} beside the document");
                (Problem::MissingSubject { channel, key }, hint)
            }
            Some(_) => continue,
        };
        mistakes.push(DefinitionError {
            pointer: checked.content_pointer(place),
            problem,
            hint: Some(hint),
        });
    }
    mistakes
}

/// What the steps of a document would miss now, with what is stored and with what this transaction
/// stored.
pub(super) async fn missing_in_store(
    conn: &mut PgConnection,
    checked: &Validated,
    known: &Known,
) -> StoreResult<Vec<DefinitionError>> {
    let stored = stored_subjects(conn, std::iter::once(checked), known).await?;
    Ok(missing(checked, known, |key| stored.get(key).copied()))
}

/// Of the templates that these documents need, those that are stored: whether each has a subject.
pub(super) async fn stored_subjects<'a>(
    conn: &mut PgConnection,
    checked: impl Iterator<Item = &'a Validated>,
    known: &Known,
) -> StoreResult<BTreeMap<String, bool>> {
    let mut keys: Vec<(String, Option<String>)> = checked
        .flat_map(notify_steps)
        .filter(|(_, notify)| known.renders(&notify.channel))
        .map(|(_, notify)| (notify.render_key.to_string(), None))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let stored = templates::latest(conn, &keys).await?.into_iter();
    Ok(stored
        .map(|row| (row.render_key, row.subject.is_some()))
        .collect())
}

fn compiled(row: TemplateRow) -> Result<Template, Vec<TemplateMistake>> {
    let bad = |problem: String| {
        vec![TemplateMistake {
            file: row.render_key.clone(),
            line: None,
            problem,
        }]
    };
    let key = RenderKey::new(row.render_key.as_str()).map_err(|error| bad(error.to_string()))?;
    let source = TemplateSource {
        subject: row.subject,
        text: row.text,
        html: row.html,
    };
    Template::compile(&key, source)
}

/// How long what is in memory is taken for the latest.
const FRESH: Duration = Duration::from_secs(1);

/// What is in memory under a render key.
#[derive(Debug, Clone)]
enum Kept {
    Template(Arc<Template>),
    /// Stored, and no template: by hand, or by a newer version of ours.
    Broken,
    Missing,
}

/// The latest templates, as of a second ago at most.
#[derive(Default)]
pub(crate) struct Cache {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    kept: HashMap<String, Kept>,
}

/// The templates that a batch of claims needs.
#[derive(Default)]
pub(crate) struct Loaded(HashMap<String, Kept>);

impl Cache {
    /// The templates of claims over channels that render: from memory, or by one statement for all
    /// that this process uses.
    pub(super) async fn of(
        &self,
        core: &Core,
        sessions: &Sessions,
        claims: &[Claimed],
        definitions: &definitions::Loaded,
    ) -> StoreResult<Loaded> {
        let mut keys: Vec<&RenderKey> = claims
            .iter()
            .filter_map(|claimed| render_key(core, &claimed.row, definitions))
            .collect();
        if keys.is_empty() {
            return Ok(Loaded::default());
        }
        keys.sort_unstable_by_key(|key| key.as_str());
        keys.dedup();
        // Whoever looks is waited for: one statement is enough for all.
        let mut state = self.state.lock().await;
        let fresh = state.looked.is_some_and(|looked| looked.elapsed() < FRESH);
        if !fresh
            || keys
                .iter()
                .any(|key| !state.kept.contains_key(key.as_str()))
        {
            state.look(sessions, &keys).await?;
        }
        let found = keys.iter().filter_map(|key| {
            let kept = state.kept.get(key.as_str())?;
            Some((key.to_string(), kept.clone()))
        });
        Ok(Loaded(found.collect()))
    }

    /// Something was applied here: look before messages are claimed next.
    pub(super) async fn forget(&self) {
        self.state.lock().await.looked = None;
    }
}

impl State {
    async fn look(&mut self, sessions: &Sessions, keys: &[&RenderKey]) -> StoreResult<()> {
        let looked = Instant::now();
        let known = self.kept.iter().map(|(key, kept)| {
            let hash = match kept {
                Kept::Template(template) => Some(template.hash().to_owned()),
                Kept::Broken | Kept::Missing => None,
            };
            (key.clone(), hash)
        });
        let mut asked: BTreeMap<String, Option<String>> = known.collect();
        for key in keys {
            asked.entry(key.to_string()).or_default();
        }
        let asked: Vec<(String, Option<String>)> = asked.into_iter().collect();
        let work = sessions.bounded();
        let read = async {
            let mut session = work.session().await?;
            templates::latest(&mut *session.read().await?, &asked).await
        };
        let rows = work.run(read).await?;
        for (key, _) in asked {
            if rows.iter().all(|row| row.render_key != key) {
                self.kept.insert(key, Kept::Missing);
            }
        }
        for row in rows.into_iter().filter(|row| row.changed) {
            let key = row.render_key.clone();
            let kept = match compiled(row) {
                Ok(template) => Kept::Template(Arc::new(template)),
                Err(_) => Kept::Broken,
            };
            self.kept.insert(key, kept);
        }
        self.looked = Some(looked);
        Ok(())
    }
}

/// Which content a claim needs, if its channel renders.
fn render_key<'a>(
    core: &Core,
    row: &ClaimedRow,
    definitions: &'a definitions::Loaded,
) -> Option<&'a RenderKey> {
    if !core.channels.get(&row.channel)?.renders() {
        return None;
    }
    let definition: &Definition = definitions.get(&row.definition?)?;
    match &definition.step(definition.index_of(row.step)?).kind {
        StepKind::Notify(notify) => Some(&notify.render_key),
        _ => None,
    }
}

impl Loaded {
    /// Gives the message its content; the template's hash. An error is what is kept of a try that could
    /// not be made, and holds no value.
    pub(super) fn render(&self, message: &mut Message) -> Result<String, Unrendered> {
        let key = message.render_key.as_str();
        let template = match self.0.get(key) {
            Some(Kept::Template(template)) => template,
            Some(Kept::Broken) => {
                let error = format!("what is stored as the template `{key}` is none");
                return Err(Unrendered::without_template(&error));
            }
            Some(Kept::Missing) | None => {
                let error = format!(
                    "there is no template `{key}`; apply the workflow again with its templates"
                );
                return Err(Unrendered::without_template(&error));
            }
        };
        let hash = template.hash().to_owned();
        let rendered = catch_unwind(AssertUnwindSafe(|| template.render(message)));
        match rendered {
            Ok(Ok(content)) => {
                message.content = Some(content);
                Ok(hash)
            }
            Ok(Err(failure)) => Err(Unrendered {
                response: json!({
                    "error": format!("the template does not fit: {failure}"),
                    "file": failure.file,
                    "line": failure.line,
                    "variable": failure.variable,
                }),
                hash: Some(hash),
            }),
            Err(_) => Err(Unrendered {
                response: json!({ "error": format!("the template `{key}` panicked") }),
                hash: Some(hash),
            }),
        }
    }
}

/// Why a message has no content.
#[derive(Debug)]
pub(super) struct Unrendered {
    /// What is kept of the try.
    pub(super) response: Value,
    /// Which template it was.
    pub(super) hash: Option<String>,
}

impl Unrendered {
    fn without_template(error: &str) -> Self {
        Self {
            response: json!({ "error": error }),
            hash: None,
        }
    }
}
