//! `create_record`: inserts a record of a host's. The context has its key from then on, as
//! `<entity>_id`.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{ActionError, ActionExecutor, Allowed, Performing, value};
use crate::{definition::Action, store::host_rows};

pub(super) struct CreateRecord(pub(super) Arc<Allowed>);

#[async_trait]
impl ActionExecutor for CreateRecord {
    async fn execute(
        &self,
        conn: &mut PgConnection,
        performing: &Performing<'_>,
    ) -> Result<Map<String, Value>, ActionError> {
        let Action::CreateRecord { entity, values } = performing.action else {
            return Err(ActionError::failed("wrong_action"));
        };
        let fields = || values.keys().map(|field| field.as_str());
        let Some(rule) = self.0.record(entity.as_str(), fields()) else {
            return Err(ActionError::failed("not_allowed"));
        };
        if fields().any(|field| field == rule.tenant) {
            return Err(ActionError::failed("tenant_is_given"));
        }
        let values = value::object(values, performing)?;
        let own = [rule.key.as_str(), rule.tenant.as_str()];
        let columns: Vec<&str> = own.into_iter().chain(fields()).collect();
        let Some(table) = host_rows::look(conn, rule.table(), &columns).await? else {
            return Err(ActionError::failed("no_such_table"));
        };
        let values: Vec<(&str, &Value)> = values
            .iter()
            .map(|(name, value)| (name.as_str(), value))
            .collect();
        let of_tenant = (rule.tenant.as_str(), performing.tenant.as_str());
        let inserted = host_rows::insert(conn, &table, &rule.key, of_tenant, &values).await?;
        let Some(key) = inserted else {
            return Err(ActionError::failed("no_such_column"));
        };
        let name = format!("{}_id", entity.as_str());
        let added = key.map(|key| (name, Value::from(key)));
        Ok(added.into_iter().collect())
    }
}
