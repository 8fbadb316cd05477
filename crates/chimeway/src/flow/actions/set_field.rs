//! `set_field`: writes one field of a host's record.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{ActionError, ActionExecutor, Allowed, Performing, value};
use crate::{definition::Action, store::host_rows};

pub(super) struct SetField(pub(super) Arc<Allowed>);

#[async_trait]
impl ActionExecutor for SetField {
    async fn execute(
        &self,
        conn: &mut PgConnection,
        performing: &Performing<'_>,
    ) -> Result<Map<String, Value>, ActionError> {
        let Action::SetField {
            entity,
            record,
            field,
            value,
        } = performing.action
        else {
            return Err(ActionError::failed("wrong_action"));
        };
        let field = field.as_str();
        let Some(rule) = self.0.field(entity.as_str(), field) else {
            return Err(ActionError::failed("not_allowed"));
        };
        let record = value::name(record, performing, "no_record_id")?;
        let value = value::resolved(value, performing)?;
        let columns = [rule.key.as_str(), rule.tenant.as_str(), field];
        let Some(table) = host_rows::look(conn, rule.table(), &columns).await? else {
            return Err(ActionError::failed("no_such_table"));
        };
        let written = host_rows::set_field(
            conn,
            &table,
            (&rule.key, &record),
            (&rule.tenant, performing.tenant.as_str()),
            (field, &value),
        )
        .await?;
        match written {
            Some(1) => Ok(Map::new()),
            Some(0) => Err(ActionError::failed("no_such_record")),
            Some(_) => Err(ActionError::failed("several_records")),
            None => Err(ActionError::failed("no_such_column")),
        }
    }
}
