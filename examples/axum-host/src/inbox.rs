//! A person's inbox. What they open ends the wait of its journey: no email is sent then.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use chimeway::{
    flow::inbox::{Mark, Page},
    ids::{ActorId, NotificationId, TenantId},
};
use serde::Serialize;
use serde_json::Value;

use crate::{App, TENANT, refused::Refused};

#[derive(Serialize)]
pub(crate) struct Item {
    id: NotificationId,
    content: Option<String>,
    params: Value,
    read: bool,
}

/// `GET /inbox/ada`
pub(crate) async fn list(
    State(app): State<App>,
    Path(person): Path<ActorId>,
) -> Result<Json<Vec<Item>>, Refused> {
    let mut conn = app.pool.acquire().await?;
    let tenant = TenantId::new(TENANT)?;
    let inbox = app.chimeway.inbox();
    let items = inbox
        .list(&mut conn, &tenant, &person, Page::default())
        .await?;
    let items = items.into_iter().map(|item| Item {
        id: item.id,
        content: item.render_key,
        params: item.params,
        read: item.read_at.is_some(),
    });
    Ok(Json(items.collect()))
}

/// `POST /inbox/ada/0198f2c4-6a51-7d0e-9f1b-2f6f6c1f6f10/read`
pub(crate) async fn read(
    State(app): State<App>,
    Path((person, item)): Path<(ActorId, NotificationId)>,
) -> Result<StatusCode, Refused> {
    let mut tx = app.pool.begin().await?;
    let tenant = TenantId::new(TENANT)?;
    let inbox = app.chimeway.inbox();
    let marked = inbox
        .mark(&mut tx, &tenant, &person, &[item], Mark::Read)
        .await?;
    tx.commit().await?;
    if marked.is_empty() {
        return Err(Refused::NotFound);
    }
    Ok(StatusCode::NO_CONTENT)
}
