//! `/api/_admin/workflows`: workflows, for operators. They belong to no tenant.

use std::sync::Arc;

use axum::extract::State;
use chimeway::flow::workflows::{StoredWorkflow, WorkflowName};
use serde::{Deserialize, Serialize};

use super::{
    answer::{Created, Data},
    api::{Api, Route},
    caller::Caller,
    document::Written,
    extract::{Id, Query},
    refusal::Refusal,
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/_admin/workflows", list),
        Route::post("/api/_admin/workflows", create),
        Route::get("/api/_admin/workflows/{id}", show),
        Route::put("/api/_admin/workflows/{id}", replace),
        Route::delete("/api/_admin/workflows/{id}", retire),
    ]
}

/// No parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// As Rocket answers it.
#[derive(Serialize)]
struct Deleted {
    deleted: bool,
}

async fn list(
    caller: Caller,
    State(api): State<Arc<Api>>,
    _: Query<Nothing>,
) -> Result<Data<Vec<StoredWorkflow>>, Refusal> {
    caller.operator()?;
    let mut tx = api.begin().await?;
    let data = api.chimeway.workflows().list_workflows(&mut tx).await?;
    Ok(Data { data })
}

async fn create(
    caller: Caller,
    State(api): State<Arc<Api>>,
    _: Query<Nothing>,
    written: Written,
) -> Result<Created<StoredWorkflow>, Refusal> {
    caller.operator()?;
    let mut tx = api.begin().await?;
    let workflows = api.chimeway.workflows();
    let active = written.active.unwrap_or(true);
    let data = workflows
        .create_workflow(&mut tx, &written.document, active)
        .await?;
    tx.commit().await?;
    let place = Some(format!("/api/_admin/workflows/{}", data.id));
    Ok(Created { data, place })
}

async fn show(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Id(name): Id<WorkflowName>,
    _: Query<Nothing>,
) -> Result<Data<StoredWorkflow>, Refusal> {
    caller.operator()?;
    let mut tx = api.begin().await?;
    let data = api
        .chimeway
        .workflows()
        .get_workflow(&mut tx, &name)
        .await?;
    Ok(Data { data })
}

async fn replace(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Id(name): Id<WorkflowName>,
    _: Query<Nothing>,
    written: Written,
) -> Result<Data<StoredWorkflow>, Refusal> {
    caller.operator()?;
    let mut tx = api.begin().await?;
    let workflows = api.chimeway.workflows();
    let data = workflows
        .replace_workflow(&mut tx, &name, &written.document, written.active)
        .await?;
    tx.commit().await?;
    Ok(Data { data })
}

async fn retire(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Id(name): Id<WorkflowName>,
    _: Query<Nothing>,
) -> Result<Data<Deleted>, Refusal> {
    caller.operator()?;
    let mut tx = api.begin().await?;
    let workflows = api.chimeway.workflows();
    workflows.retire_workflow(&mut tx, &name).await?;
    tx.commit().await?;
    Ok(Data {
        data: Deleted { deleted: true },
    })
}
