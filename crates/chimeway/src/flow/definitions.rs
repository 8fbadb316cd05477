//! Definitions by id. They never change, so they are read once per process.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use sqlx::PgConnection;

use crate::{
    definition::{Definition, read_stored},
    ids::{DefinitionId, StepId, Version},
    store::{StoreError, StoreResult, workflows},
};

/// Definitions that committed reads have brought.
#[derive(Default)]
pub(crate) struct Cache {
    known: RwLock<HashMap<DefinitionId, Arc<Definition>>>,
}

/// Definitions of a batch, by id; one that does not decode is an error of its own.
pub(crate) type Loaded = HashMap<DefinitionId, Arc<Definition>>;

impl Cache {
    /// These definitions, if all of them are in memory.
    pub(crate) fn known(&self, ids: &[DefinitionId]) -> Option<Loaded> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        ids.iter()
            .map(|id| Some((*id, Arc::clone(known.get(id)?))))
            .collect()
    }

    /// These definitions: from memory, or by one statement for all that are missing. One that is not
    /// there or does not decode is left out, and its runs are set aside one by one.
    pub(crate) async fn get(
        &self,
        conn: &mut PgConnection,
        ids: impl IntoIterator<Item = DefinitionId>,
    ) -> StoreResult<Loaded> {
        let mut loaded = Loaded::new();
        let mut missing = vec![];
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            for id in ids {
                match known.get(&id) {
                    Some(definition) => {
                        loaded.insert(id, Arc::clone(definition));
                    }
                    None if !missing.contains(&id) => missing.push(id),
                    None => {}
                }
            }
        }
        for row in workflows::plans(conn, &missing).await? {
            let committed = row.committed;
            let Ok(definition) = decode(&row) else {
                tracing::error!(definition.id = %row.id, "a stored definition does not decode");
                continue;
            };
            let definition = Arc::new(definition);
            if committed {
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                known.insert(row.id, Arc::clone(&definition));
            }
            loaded.insert(row.id, definition);
        }
        Ok(loaded)
    }
}

/// The error of a definition that is not there or does not decode.
pub(crate) const fn undecodable(id: DefinitionId) -> StoreError {
    StoreError::Inconsistent {
        table: "workflow_definitions",
        column: "document",
        row: id.0,
    }
}

fn decode(row: &workflows::PlanRow) -> StoreResult<Definition> {
    let document = row.document.read().ok_or(undecodable(row.id))?;
    let plan = read_stored(document).map_err(|_| undecodable(row.id))?;
    let step_ids = row.step_ids.iter().copied().map(StepId).collect();
    Definition::new(row.id, Version(row.version), plan, step_ids).map_err(|_| undecodable(row.id))
}
