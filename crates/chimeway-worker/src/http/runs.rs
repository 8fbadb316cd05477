//! `/api/runs`: runs are listed, explained, traced and cancelled. `/api/_workflows/{id}` is one of them.

use std::sync::Arc;

use axum::extract::State;
use chimeway::{
    engine::StateName,
    flow::{
        Explanation,
        workflows::{Cancellation, Stamp},
    },
    ids::{ActorId, EventId, RunId, TenantId, WorkflowKey},
    store::{
        run_views::{self, RunFilter, RunSummary},
        transitions::StoredTransition,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use super::{
    answer::{Data, Page},
    api::{Api, Route},
    caller::{Caller, OfTenant},
    extract::{Id, Limit, OptionalJson, Query},
    refusal::Refusal,
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/_workflows/{id}", show),
        Route::get("/api/runs", list),
        Route::get("/api/runs/{id}/explain", explain),
        Route::get("/api/runs/{id}/traces", traces),
        Route::post("/api/runs/{id}/cancel", cancel),
    ]
}

/// A state by its name.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct InState(StateName);

impl TryFrom<String> for InState {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let known = StateName::ALL
            .into_iter()
            .find(|state| state.as_str() == name);
        known
            .map(Self)
            .ok_or("a state is active, waiting, completed, stopped or failed")
    }
}

/// Which runs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    tenant_id: Option<TenantId>,
    state: Option<InState>,
    workflow: Option<WorkflowKey>,
    recipient: Option<ActorId>,
    event_id: Option<EventId>,
    before: Option<RunId>,
    #[serde(default)]
    limit: Limit,
}

async fn list(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Query(which): Query<Which>,
) -> Result<Page<RunSummary>, Refusal> {
    let filter = RunFilter {
        tenant: caller.any_tenant(which.tenant_id)?.map(Into::into),
        state: which.state.map(|InState(state)| state.as_str().to_owned()),
        workflow: which.workflow.map(Into::into),
        recipient: which.recipient.map(Into::into),
        event: which.event_id,
        before: which.before,
    };
    let Limit(limit) = which.limit;
    let mut tx = api.begin().await?;
    let found = run_views::list(&mut tx, &filter, limit).await?;
    Ok(Page::of(found, limit, |run| run.id))
}

/// A run: where it is and why, and the values that it goes by.
#[derive(Serialize)]
pub(super) struct Run {
    #[serde(flatten)]
    explanation: Explanation,
    context: Value,
}

impl Run {
    /// One tenant's run.
    pub(super) async fn find(
        api: &Api,
        conn: &mut PgConnection,
        tenant: &TenantId,
        run: RunId,
    ) -> Result<Self, Refusal> {
        let workflows = api.chimeway.workflows();
        let stored = workflows.get_run(conn, tenant, run).await?;
        let explanation = workflows.explain(conn, tenant, run).await?;
        match (stored, explanation) {
            (Some(stored), Some(explanation)) => Ok(Self {
                explanation,
                context: stored.context,
            }),
            _ => Err(no_run(tenant, run)),
        }
    }
}

/// The same for another tenant's run as for none.
pub(super) fn no_run(tenant: &TenantId, run: RunId) -> Refusal {
    Refusal::not_found(format!("the tenant `{tenant}` has no run {run}"))
}

async fn show(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Id(run): Id<RunId>,
    Query(of): Query<OfTenant>,
) -> Result<Data<Run>, Refusal> {
    let tenant = caller.tenant(of.tenant_id)?;
    let mut tx = api.begin().await?;
    let data = Run::find(&api, &mut tx, &tenant, run).await?;
    Ok(Data { data })
}

async fn explain(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Id(run): Id<RunId>,
    Query(of): Query<OfTenant>,
) -> Result<Data<Explanation>, Refusal> {
    let tenant = caller.tenant(of.tenant_id)?;
    let mut tx = api.begin().await?;
    let workflows = api.chimeway.workflows();
    let explained = workflows.explain(&mut tx, &tenant, run).await?;
    let data = explained.ok_or_else(|| no_run(&tenant, run))?;
    Ok(Data { data })
}

/// How much of the history.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lines {
    tenant_id: Option<TenantId>,
    limit: Option<Limit>,
}

async fn traces(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Id(run): Id<RunId>,
    Query(lines): Query<Lines>,
) -> Result<Data<Vec<StoredTransition>>, Refusal> {
    let tenant = caller.tenant(lines.tenant_id)?;
    let limit = lines.limit.map(|Limit(limit)| limit);
    let mut tx = api.begin().await?;
    let workflows = api.chimeway.workflows();
    let traces = workflows.list_traces(&mut tx, &tenant, run, limit).await?;
    let data = traces.ok_or_else(|| no_run(&tenant, run))?;
    Ok(Data { data })
}

/// Who ends a run, and why.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    by: Option<ActorId>,
    reason: Option<String>,
}

async fn cancel(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Id(run): Id<RunId>,
    Query(of): Query<OfTenant>,
    OptionalJson(why): OptionalJson<Why>,
) -> Result<Data<Cancellation>, Refusal> {
    let tenant = caller.tenant(of.tenant_id)?;
    let stamp = Stamp {
        by: Some(caller.acting(why.by)?.into()),
        reason: why.reason,
    };
    let mut tx = api.begin().await?;
    let workflows = api.chimeway.workflows();
    let data = workflows.cancel(&mut tx, &tenant, run, &stamp).await?;
    tx.commit().await?;
    Ok(Data { data })
}
