//! What messages say: the templates under each render key, the latest applied and those before.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreResult;

/// A template to store.
#[derive(Debug, Clone)]
pub struct NewTemplate {
    /// Which content.
    pub render_key: String,
    /// Of its three parts.
    pub hash: String,
    /// The subject line.
    pub subject: Option<String>,
    /// The plain text.
    pub text: Option<String>,
    /// The HTML.
    pub html: Option<String>,
}

/// Stores templates, those that are not the latest already; returns the render keys of the new ones.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn insert(
    conn: &mut PgConnection,
    templates: &[NewTemplate],
) -> StoreResult<Vec<String>> {
    if templates.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_scalar!(
        r#"-- templates::insert
insert into chimeway.templates (render_key, template_hash, subject, text_body, html_body, applied_at)
select u.*, (select chimeway.now())
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    as u (render_key, hash, subject, text_body, html_body)
where u.hash is distinct from (
    select t.template_hash from chimeway.templates t
    where t.render_key = u.render_key
    order by t.apply_no desc
    limit 1
)
returning render_key"#,
        &templates.iter().map(|one| one.render_key.clone()).collect::<Vec<_>>(),
        &templates.iter().map(|one| one.hash.clone()).collect::<Vec<_>>(),
        &templates.iter().map(|one| one.subject.clone()).collect::<Vec<_>>() as _,
        &templates.iter().map(|one| one.text.clone()).collect::<Vec<_>>() as _,
        &templates.iter().map(|one| one.html.clone()).collect::<Vec<_>>() as _,
    )
    .fetch_all(conn)
    .await?)
}

/// The latest template under a render key.
#[derive(Debug, Clone)]
pub struct TemplateRow {
    /// Which content.
    pub render_key: String,
    /// Of its three parts.
    pub hash: String,
    /// Whether it is another one than the caller knows; else its parts are left out.
    pub changed: bool,
    /// The subject line.
    pub subject: Option<String>,
    /// The plain text.
    pub text: Option<String>,
    /// The HTML.
    pub html: Option<String>,
}

/// The latest templates under these render keys, each with the hash that the caller has in memory;
/// those that have none are left out.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn latest(
    conn: &mut PgConnection,
    keys: &[(String, Option<String>)],
) -> StoreResult<Vec<TemplateRow>> {
    if keys.is_empty() {
        return Ok(vec![]);
    }
    Ok(sqlx::query_as!(
        TemplateRow,
        r#"-- templates::latest
select t.render_key, t.template_hash as hash, c.changed as "changed!",
    case when c.changed then t.subject end as subject,
    case when c.changed then t.text_body end as text,
    case when c.changed then t.html_body end as html
from unnest($1::text[], $2::text[]) as u (render_key, known)
cross join lateral (
    select * from chimeway.templates t
    where t.render_key = u.render_key
    order by t.apply_no desc
    limit 1
) t
cross join lateral (select t.template_hash is distinct from u.known) as c (changed)
order by t.render_key"#,
        &keys.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(),
        &keys
            .iter()
            .map(|(_, known)| known.clone())
            .collect::<Vec<_>>() as _,
    )
    .fetch_all(conn)
    .await?)
}

/// A template in a list.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TemplateLine {
    /// Which content.
    pub render_key: String,
    /// Of its three parts.
    pub hash: String,
    /// Whether it has a subject.
    pub subject: bool,
    /// Whether it has a plain text.
    pub text: bool,
    /// Whether it has HTML.
    pub html: bool,
    /// How many were applied under this render key.
    pub revisions: i64,
    /// When the latest was applied.
    pub applied_at: DateTime<Utc>,
}

/// The latest template under every render key.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database).
pub async fn list(conn: &mut PgConnection) -> StoreResult<Vec<TemplateLine>> {
    Ok(sqlx::query_as!(
        TemplateLine,
        r#"-- templates::list
select distinct on (render_key)
    render_key, template_hash as hash, subject is not null as "subject!",
    text_body is not null as "text!", html_body is not null as "html!",
    count(*) over (partition by render_key) as "revisions!", applied_at
from chimeway.templates
order by render_key, apply_no desc"#
    )
    .fetch_all(conn)
    .await?)
}
