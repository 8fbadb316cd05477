//! `/api/inbox/{recipient}`: one recipient's items. Whose inbox it is, or a service that acts for others, may
//! look into it.

use std::sync::Arc;

use axum::extract::State;
use chimeway::{
    flow::inbox::{self, InboxItem, Mark},
    ids::{ActorId, NotificationId, TenantId},
};
use serde::{Deserialize, Serialize};

use super::{
    answer::{Data, Page},
    api::{Api, Route},
    caller::{Caller, OfTenant},
    extract::{Json, Limit, Query, Recipient},
    refusal::Refusal,
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/api/inbox/{recipient}", list),
        Route::get("/api/inbox/{recipient}/unread", unread),
        Route::post("/api/inbox/{recipient}/seen", seen),
        Route::post("/api/inbox/{recipient}/read", read),
        Route::post("/api/inbox/{recipient}/archive", archive),
    ]
}

/// Which items.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    tenant_id: Option<TenantId>,
    before: Option<NotificationId>,
    #[serde(default)]
    limit: Limit,
    /// Also those put away.
    #[serde(default)]
    archived: bool,
}

async fn list(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Recipient(recipient): Recipient,
    Query(which): Query<Which>,
) -> Result<Page<InboxItem>, Refusal> {
    let tenant = caller.tenant(which.tenant_id)?;
    caller.may_act_for(&recipient)?;
    let Limit(limit) = which.limit;
    let page = inbox::Page {
        limit,
        before: which.before,
        archived: which.archived,
    };
    let mut tx = api.begin().await?;
    let inbox = api.chimeway.inbox();
    let items = inbox.list(&mut tx, &tenant, &recipient, page).await?;
    Ok(Page::of(items, limit, |item| item.id))
}

/// Which items are counted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Counted {
    tenant_id: Option<TenantId>,
    /// Also those put away.
    #[serde(default)]
    archived: bool,
}

#[derive(Serialize)]
struct Unread {
    unread: i64,
}

async fn unread(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Recipient(recipient): Recipient,
    Query(counted): Query<Counted>,
) -> Result<Data<Unread>, Refusal> {
    let tenant = caller.tenant(counted.tenant_id)?;
    caller.may_act_for(&recipient)?;
    let mut tx = api.begin().await?;
    let inbox = api.chimeway.inbox();
    let unread = inbox
        .unread_count(&mut tx, &tenant, &recipient, counted.archived)
        .await?;
    Ok(Data {
        data: Unread { unread },
    })
}

/// The items to mark, and those that are marked now.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Items {
    items: Vec<NotificationId>,
}

async fn seen(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Recipient(recipient): Recipient,
    Query(of): Query<OfTenant>,
    Json(items): Json<Items>,
) -> Result<Data<Items>, Refusal> {
    let tenant = caller.tenant(of.tenant_id)?;
    mark(&api, &caller, (tenant, recipient), items, Mark::Seen).await
}

async fn read(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Recipient(recipient): Recipient,
    Query(of): Query<OfTenant>,
    Json(items): Json<Items>,
) -> Result<Data<Items>, Refusal> {
    let tenant = caller.tenant(of.tenant_id)?;
    mark(&api, &caller, (tenant, recipient), items, Mark::Read).await
}

async fn archive(
    caller: Caller,
    State(api): State<Arc<Api>>,
    Recipient(recipient): Recipient,
    Query(of): Query<OfTenant>,
    Json(items): Json<Items>,
) -> Result<Data<Items>, Refusal> {
    let tenant = caller.tenant(of.tenant_id)?;
    mark(&api, &caller, (tenant, recipient), items, Mark::Archived).await
}

/// Marks all of them or none.
async fn mark(
    api: &Api,
    caller: &Caller,
    (tenant, recipient): (TenantId, ActorId),
    Items { items }: Items,
    mark: Mark,
) -> Result<Data<Items>, Refusal> {
    caller.may_act_for(&recipient)?;
    let mut tx = api.begin().await?;
    let inbox = api.chimeway.inbox();
    let marked = inbox
        .mark(&mut tx, &tenant, &recipient, &items, mark)
        .await?;
    // Dropping the transaction takes back what was marked.
    if let Some(missing) = items.iter().find(|item| !marked.contains(item)) {
        return Err(Refusal::not_found(format!(
            "`{recipient}` has no item {missing}; nothing was changed"
        )));
    }
    tx.commit().await?;
    Ok(Data {
        data: Items { items: marked },
    })
}
