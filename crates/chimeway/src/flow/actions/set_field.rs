//! `set_field`: writes one field of a host's record.

use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{ActionError, perform::Doing, value, writable::Allowed};
use crate::{
    definition::Operand,
    ids::{EntityName, FieldName},
    store::host_rows,
};

/// What is written, and where.
pub(super) struct SetField<'a> {
    pub(super) entity: &'a EntityName,
    pub(super) record: &'a Operand,
    pub(super) field: &'a FieldName,
    pub(super) value: &'a Operand,
}

impl SetField<'_> {
    pub(super) async fn perform(
        &self,
        conn: &mut PgConnection,
        allowed: &Allowed,
        doing: &Doing<'_>,
    ) -> Result<Map<String, Value>, ActionError> {
        let refused = |code: &str| Err(ActionError::Refused(code.to_owned()));
        let field = self.field.as_str();
        let Some(rule) = allowed.field(self.entity.as_str(), field) else {
            return refused("not_allowed");
        };
        let record = value::name(self.record, doing, "no_record_id")?;
        let value = value::resolved(self.value, doing)?;
        let columns = [rule.key.as_str(), rule.tenant.as_str(), field];
        let Some(table) = host_rows::look(conn, rule.table(), &columns).await? else {
            return refused("no_such_table");
        };
        let written = host_rows::set_field(
            conn,
            &table,
            (&rule.key, &record),
            (&rule.tenant, doing.tenant.as_str()),
            (field, &value),
        )
        .await?;
        match written {
            Some(1) => Ok(Map::new()),
            Some(0) => refused("no_such_record"),
            Some(_) => refused("several_records"),
            None => refused("no_such_column"),
        }
    }
}
