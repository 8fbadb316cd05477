//! `/api/_workflows/pending` and the decisions: what waits for somebody, approved or rejected.

use std::sync::Arc;

use axum::extract::State;
use chimeway::{
    flow::approvals::{Decided, Pending, PendingApproval},
    ids::{ActorId, ApprovalId, RunId, TenantId},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    answer::{Data, Page},
    api::{Api, Route},
    caller::{Caller, OfTenant},
    extract::{Id, Limit, OptionalJson, Query},
    refusal::Refusal,
    runs::{Run, no_run},
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/_workflows/pending", pending),
        Route::post("/api/_workflows/{id}/approve", approve),
        Route::post("/api/_workflows/{id}/reject", reject),
    ]
}

/// Which decisions.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    tenant_id: Option<TenantId>,
    /// What this one may decide, as a user or through a role.
    assignee: Option<ActorId>,
    after: Option<ApprovalId>,
    #[serde(default)]
    limit: Limit,
}

async fn pending(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Query(which): Query<Which>,
) -> Result<Page<PendingApproval>, Refusal> {
    let Limit(limit) = which.limit;
    let pending = Pending {
        tenant: caller.any_tenant(which.tenant_id)?,
        assignee: which.assignee,
        after: which.after,
        limit,
    };
    let mut tx = api.begin().await?;
    let found = api.chimeway.approvals().pending(&mut tx, &pending).await?;
    Ok(Page::of(found, limit, |approval| approval.id))
}

/// Who decides, and why.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    by: Option<ActorId>,
    note: Option<String>,
}

/// A decision that counts, and the run that a worker is about to move on.
#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    run: Run,
    decision: &'static str,
    decided_by: ActorId,
    approval_id: ApprovalId,
}

async fn approve(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Id(run): Id<RunId>,
    Query(of): Query<OfTenant>,
    OptionalJson(decision): OptionalJson<Decision>,
) -> Result<Data<Made>, Refusal> {
    let tenant = caller.tenant(of.tenant_id)?;
    decide(&api, &caller, &tenant, run, decision, Verdict::Approve).await
}

async fn reject(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Id(run): Id<RunId>,
    Query(of): Query<OfTenant>,
    OptionalJson(decision): OptionalJson<Decision>,
) -> Result<Data<Made>, Refusal> {
    let tenant = caller.tenant(of.tenant_id)?;
    decide(&api, &caller, &tenant, run, decision, Verdict::Reject).await
}

enum Verdict {
    Approve,
    Reject,
}

async fn decide(
    api: &Api,
    caller: &Caller,
    tenant: &TenantId,
    run: RunId,
    Decision { by, note }: Decision,
    verdict: Verdict,
) -> Result<Data<Made>, Refusal> {
    let decided_by = caller.acting(by)?;
    let note = note.as_deref();
    let approvals = api.chimeway.approvals();
    let mut tx = api.begin().await?;
    let decided = match verdict {
        Verdict::Approve => {
            approvals
                .approve(&mut tx, tenant, run, &decided_by, note)
                .await?
        }
        Verdict::Reject => {
            approvals
                .reject(&mut tx, tenant, run, &decided_by, note)
                .await?
        }
    };
    let (decision, approval_id) = counts(decided, tenant, run)?;
    let run = Run::find(api, &mut tx, tenant, run).await?;
    tx.commit().await?;
    Ok(Data {
        data: Made {
            run,
            decision,
            decided_by,
            approval_id,
        },
    })
}

/// The decision that counts; of one that does not, why.
fn counts(
    decided: Decided,
    tenant: &TenantId,
    run: RunId,
) -> Result<(&'static str, ApprovalId), Refusal> {
    let word = decided.as_str();
    match decided {
        Decided::Approved { approval } | Decided::Rejected { approval } => Ok((word, approval)),
        Decided::AlreadyDecided {
            decision,
            decided_by,
            decided_at,
            ..
        } => {
            let message = match &decided_by {
                Some(who) => format!("it was {decision} by `{who}` before"),
                None => "its time was over before".to_owned(),
            };
            let facts = [
                ("decision", json!(decision)),
                ("decided_by", json!(decided_by)),
                ("decided_at", json!(decided_at)),
            ];
            Err(Refusal::conflict("id", word, message).knowing(facts))
        }
        Decided::NotAllowed { .. } => Err(Refusal::forbidden(
            "somebody else is asked for this decision; `GET /api/_workflows/pending?assignee=` lists whose it is",
        )),
        Decided::NotPending => Err(Refusal::conflict(
            "id",
            word,
            "the run asks nobody for a decision at the moment",
        )),
        Decided::NotFound => Err(no_run(tenant, run)),
    }
}
