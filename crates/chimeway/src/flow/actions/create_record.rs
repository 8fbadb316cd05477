//! `create_record`: inserts a record of a host's. The context has its key from then on, as
//! `<entity>_id`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{ActionError, perform::Doing, value, writable::Allowed};
use crate::{
    definition::Operand,
    ids::{EntityName, FieldName},
    store::host_rows,
};

pub(super) async fn perform(
    conn: &mut PgConnection,
    allowed: &Allowed,
    (entity, values): (&EntityName, &BTreeMap<FieldName, Operand>),
    doing: &Doing<'_>,
) -> Result<Map<String, Value>, ActionError> {
    let refused = |code: &str| Err(ActionError::Refused(code.to_owned()));
    let fields = || values.keys().map(FieldName::as_str);
    let Some(rule) = allowed.record(entity.as_str(), fields()) else {
        return refused("not_allowed");
    };
    // It is the run's, whatever a document says.
    if fields().any(|field| field == rule.tenant) {
        return refused("tenant_is_given");
    }
    let values = value::object(values, doing)?;
    let own = [rule.key.as_str(), rule.tenant.as_str()];
    let columns: Vec<&str> = own.into_iter().chain(fields()).collect();
    let Some(table) = host_rows::look(conn, rule.table(), &columns).await? else {
        return refused("no_such_table");
    };
    let values: Vec<(&str, &Value)> = values
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let of_tenant = (rule.tenant.as_str(), doing.tenant.as_str());
    match host_rows::insert(conn, &table, &rule.key, of_tenant, &values).await? {
        None => refused("no_such_column"),
        Some(key) => {
            let name = format!("{}_id", entity.as_str());
            let added = key.map(|key| (name, Value::from(key)));
            Ok(added.into_iter().collect())
        }
    }
}
