//! What workflows may write in a host's tables: nothing that the settings do not name.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// A table of a host's that `set_field` and `create_record` may write.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writable {
    /// What documents call it.
    pub entity: String,
    /// The table, with its schema or found in the search path of the worker's role; by default the one of
    /// the entity's name.
    #[serde(default)]
    pub table: Option<String>,
    /// The column that a record is found by: `id` by default. At most one row may have a value of it.
    #[serde(default = "key")]
    pub key: String,
    /// The column that says whose a row is: `tenant_id` by default. Where the table has it, only rows of
    /// the run's tenant are written, and new ones are the tenant's; where not, no tenant is checked.
    #[serde(default = "tenant")]
    pub tenant: String,
    /// The columns that may be written; none by default.
    #[serde(default)]
    pub columns: BTreeSet<String>,
    /// Whether rows may be inserted; false by default.
    #[serde(default)]
    pub insert: bool,
}

fn key() -> String {
    "id".to_owned()
}

fn tenant() -> String {
    "tenant_id".to_owned()
}

/// What is wrong with the short form of a [`Writable`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not TABLE.COLUMN, such as orders.status or shop.orders.status")]
pub struct BadWritable(String);

impl Writable {
    /// A table of that name with no column to write yet.
    pub fn new(entity: impl Into<String>) -> Self {
        Self {
            entity: entity.into(),
            table: None,
            key: key(),
            tenant: tenant(),
            columns: BTreeSet::new(),
            insert: false,
        }
    }

    /// One more column that may be written.
    #[must_use]
    pub fn column(mut self, name: impl Into<String>) -> Self {
        self.columns.insert(name.into());
        self
    }

    /// Rows may be inserted.
    #[must_use]
    pub fn insertable(mut self) -> Self {
        self.insert = true;
        self
    }

    /// Reads `orders.status`, or `shop.orders.status` with a schema: one column of one table.
    ///
    /// # Errors
    ///
    /// [`BadWritable`].
    pub fn parse(text: &str) -> Result<Self, BadWritable> {
        let bad = || BadWritable(text.to_owned());
        let parts: Vec<&str> = text.split('.').map(str::trim).collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(bad());
        }
        match parts.as_slice() {
            [entity, column] => Ok(Self::new(*entity).column(*column)),
            [schema, entity, column] => Ok(Self {
                table: Some(format!("{schema}.{entity}")),
                ..Self::new(*entity).column(*column)
            }),
            _ => Err(bad()),
        }
    }

    /// The table's name.
    #[must_use]
    pub fn table(&self) -> &str {
        self.table.as_deref().unwrap_or(&self.entity)
    }
}

/// Everything that may be written, by entity.
#[derive(Debug, Clone, Default)]
pub(super) struct Allowed(BTreeMap<String, Writable>);

impl Allowed {
    /// Adds to it. Of one entity and table named twice, the columns of both may be written; a table named
    /// otherwise takes the place of the one before.
    pub(super) fn add(&mut self, one: Writable) {
        match self.0.get_mut(&one.entity) {
            Some(known) if known.table() == one.table() => {
                known.columns.extend(one.columns);
                known.insert |= one.insert;
            }
            _ => {
                self.0.insert(one.entity.clone(), one);
            }
        }
    }

    /// Where a field is written, if it may be.
    pub(super) fn field(&self, entity: &str, field: &str) -> Option<&Writable> {
        let found = self.0.get(entity)?;
        found.columns.contains(field).then_some(found)
    }

    /// Where a record with these fields is inserted, if it may be.
    pub(super) fn record<'a>(
        &self,
        entity: &str,
        mut fields: impl Iterator<Item = &'a str>,
    ) -> Option<&Writable> {
        let found = self.0.get(entity).filter(|found| found.insert)?;
        fields
            .all(|field| found.columns.contains(field))
            .then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_may_be_written_that_is_not_named() {
        let mut allowed = Allowed::default();
        assert!(allowed.field("orders", "status").is_none());
        allowed.add(Writable::parse("orders.status").unwrap());
        allowed.add(Writable::parse("orders.approved_by").unwrap());
        assert!(allowed.field("orders", "status").is_some());
        assert!(allowed.field("orders", "approved_by").is_some());
        assert!(allowed.field("orders", "total").is_none());
        assert!(allowed.field("users", "status").is_none());
        assert!(allowed.record("orders", ["status"].into_iter()).is_none());
        allowed.add(Writable::new("orders").insertable());
        assert!(allowed.record("orders", ["status"].into_iter()).is_some());
        assert!(
            allowed
                .record("orders", ["status", "total"].into_iter())
                .is_none()
        );
    }

    #[test]
    fn a_column_is_named_with_its_table() {
        let table = |text| Writable::parse(text).map(|one| (one.table().to_owned(), one.entity));
        let named = |table: &str, entity: &str| Ok((table.to_owned(), entity.to_owned()));
        assert_eq!(table("orders.status"), named("orders", "orders"));
        assert_eq!(table("shop.orders.status"), named("shop.orders", "orders"));
        for text in ["orders", "", "orders.", ".status", "a.b.c.d"] {
            assert!(table(text).is_err(), "{text}");
        }
    }
}
