//! Storing definitions: a version is written once and never changed.

use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use super::{Chimeway, Core, FlowError, Templates, templates};
use crate::{
    definition::{Action, DefinitionError, Document, StepKind, Validated, validate},
    ids::{DefinitionId, StepId, Version, WorkflowKey},
    store::{
        state_changes::{self, Listener},
        workflows::{self, NewDefinition, NewStep},
    },
};

/// What applying a document did.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Applied {
    /// Which workflow.
    pub key: WorkflowKey,
    /// The version its content is stored under.
    pub version: Version,
    /// Whether it was stored now.
    pub status: ApplyStatus,
    /// The render keys whose templates were stored now.
    pub templates: Vec<String>,
}

/// Whether a definition was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyStatus {
    /// A new version.
    Applied,
    /// Same content is the same version: nothing was written.
    Unchanged,
}

impl Chimeway {
    /// Stores a document as a version of its workflow, in a short transaction of its own. Starts
    /// nothing and stops nothing: triggers start the highest version, running runs keep theirs.
    ///
    /// No version given: the same content as the latest version is that version, anything else the
    /// next one. Two processes that apply at once come to the same result.
    ///
    /// # Errors
    ///
    /// [`FlowError::InvalidDefinition`] with every mistake; [`FlowError::VersionConflict`] if a version
    /// is given that is stored with other content.
    pub async fn apply(&self, pool: &PgPool, document: &Document) -> Result<Applied, FlowError> {
        self.apply_with(pool, document, &Templates::new()).await
    }

    /// As [`apply`](Chimeway::apply), and stores the templates that the document's steps name, in the
    /// same transaction. Messages use what was applied last, those of running runs too.
    ///
    /// A step over a channel that [renders](crate::channels::Channel::renders) needs a template: one of
    /// these, or one that is stored already.
    ///
    /// # Errors
    ///
    /// As [`apply`](Chimeway::apply); a template that is missing is a mistake of the definition.
    pub async fn apply_with(
        &self,
        pool: &PgPool,
        document: &Document,
        templates: &Templates,
    ) -> Result<Applied, FlowError> {
        let checked = checked(&self.core, document)?;
        let sessions = self.core.sessions(pool);
        let work = sessions.bounded();
        let store = async {
            let mut session = work.session().await?;
            let mut tx = session.begin_plain().await?;
            let stored = templates.store(&mut tx, &checked).await?;
            refuse_missing(&self.core, &mut tx, &checked).await?;
            let (_, applied) = ensure(&mut tx, &checked).await?;
            tx.commit().await?;
            Ok::<_, FlowError>((stored, applied))
        };
        let (stored, applied) = work.run(store).await?;
        self.core.templates.forget().await;
        Ok(Applied {
            templates: stored,
            ..applied
        })
    }
}

/// Checks a document, and asks the host's own kinds of steps and actions about what they are given.
pub(super) fn checked(core: &Core, document: &Document) -> Result<Validated, FlowError> {
    let checked = validate(document, &core.known).map_err(FlowError::InvalidDefinition)?;
    let mut mistakes = vec![];
    let mut refuse = |pointer: String, said: Result<(), String>| {
        if let Err(reason) = said {
            mistakes.push(DefinitionError::bad_settings(pointer, &reason));
        }
    };
    for (place, step) in checked.plan.steps.iter().enumerate() {
        match &step.kind {
            StepKind::Custom(custom) => {
                if let Some(kind) = core.steps.get(&custom.kind) {
                    refuse(checked.pointer(place, None), kind.check(&custom.settings));
                }
            }
            StepKind::Action(actions) => {
                for (index, action) in actions.iter().enumerate() {
                    if let Action::Custom { kind, settings } = action
                        && let Some(own) = core.actions.get(kind)
                    {
                        refuse(checked.pointer(place, Some(index)), own.check(settings));
                    }
                }
            }
            _ => {}
        }
    }
    match mistakes.is_empty() {
        true => Ok(checked),
        false => Err(FlowError::InvalidDefinition(mistakes)),
    }
}

/// Checks a document and makes sure it is stored, in the caller's transaction. Nothing more is read
/// where the latest version is the one.
pub(super) async fn ensure_document(
    core: &Core,
    conn: &mut PgConnection,
    document: &Document,
    latest: Option<workflows::Latest>,
) -> Result<DefinitionId, FlowError> {
    let checked = checked(core, document)?;
    match latest {
        Some(latest)
            if latest.hash == checked.hash.as_str()
                && checked
                    .version
                    .is_none_or(|wanted| wanted.0 == latest.version) =>
        {
            Ok(latest.definition)
        }
        _ => {
            refuse_missing(core, conn, &checked).await?;
            Ok(ensure(conn, &checked).await?.0)
        }
    }
}

/// Stores a checked document as a version of its workflow, in the caller's transaction: what
/// [`Chimeway::apply`] does, without templates of its own.
pub(super) async fn store_version(
    core: &Core,
    conn: &mut PgConnection,
    checked: &Validated,
) -> Result<(), FlowError> {
    refuse_missing(core, conn, checked).await?;
    ensure(conn, checked).await?;
    Ok(())
}

async fn refuse_missing(
    core: &Core,
    conn: &mut PgConnection,
    checked: &Validated,
) -> Result<(), FlowError> {
    let missing = templates::missing_in_store(conn, checked, &core.known).await?;
    if missing.is_empty() {
        Ok(())
    } else {
        Err(FlowError::InvalidDefinition(missing))
    }
}

/// Makes sure that the content is stored. Looks first and inserts only what is missing, so that the
/// usual trigger locks nothing; a row that another session inserts meanwhile is waited for and then
/// compared.
async fn ensure(
    conn: &mut PgConnection,
    checked: &Validated,
) -> Result<(DefinitionId, Applied), FlowError> {
    let key = &checked.plan.key;
    loop {
        let wanted = match checked.version {
            Some(version) => version,
            None => match workflows::latest(conn, &[key.as_str()])
                .await?
                .into_iter()
                .next()
            {
                Some(latest) if latest.hash == checked.hash.as_str() => Version(latest.version),
                Some(latest) => Version(latest.version).next(),
                None => Version(1),
            },
        };
        let applied = |status| Applied {
            key: key.clone(),
            version: wanted,
            status,
            templates: vec![],
        };
        if let Some(stored) = stored(conn, key, wanted).await? {
            if stored.hash == checked.hash.as_str() {
                return Ok((stored.id, applied(ApplyStatus::Unchanged)));
            }
            if checked.version.is_some() {
                return Err(FlowError::VersionConflict {
                    key: key.clone(),
                    version: wanted,
                });
            }
            // Another session stored other content under the version we wanted: look again.
            continue;
        }
        let new = new_definition(checked, wanted);
        if workflows::insert(conn, &new).await? {
            state_changes::listen(conn, &[listener(checked, &new)]).await?;
            return Ok((new.id, applied(ApplyStatus::Applied)));
        }
    }
}

async fn stored(
    conn: &mut PgConnection,
    key: &WorkflowKey,
    version: Version,
) -> Result<Option<workflows::DefinitionRow>, FlowError> {
    let Some(id) = workflows::find(conn, key.as_str(), Some(version.0)).await? else {
        return Ok(None);
    };
    Ok(workflows::load(conn, &[id]).await?.into_iter().next())
}

/// What the version listens to; a row that says nothing, where that is nothing.
fn listener(checked: &Validated, new: &NewDefinition) -> Listener {
    let trigger = checked.plan.trigger.as_ref();
    Listener {
        workflow: new.key.clone(),
        version: new.version,
        definition: new.id,
        entity: trigger.map(|change| change.entity.as_str().to_owned()),
        field: trigger.map(|change| change.field.as_str().to_owned()),
        from: trigger.and_then(|change| change.from.clone()),
        to: trigger.map(|change| change.to.clone()),
    }
}

fn new_definition(checked: &Validated, version: Version) -> NewDefinition {
    let documents = checked.document.get("steps").and_then(Value::as_array);
    let steps = checked
        .plan
        .steps
        .iter()
        .enumerate()
        .map(|(place, step)| NewStep {
            id: StepId::fresh(),
            key: step.key.as_str().to_owned(),
            kind: step.kind.name().to_owned(),
            channel: match &step.kind {
                StepKind::Notify(notify) => Some(notify.channel.as_str().to_owned()),
                _ => None,
            },
            config: documents
                .and_then(|steps| steps.get(place))
                .cloned()
                .unwrap_or(Value::Null),
        });
    NewDefinition {
        id: DefinitionId::fresh(),
        workflow: crate::ids::fresh(),
        key: checked.plan.key.as_str().to_owned(),
        version: version.0,
        document: checked.document.clone(),
        hash: checked.hash.as_str().to_owned(),
        steps: steps.collect(),
    }
}
