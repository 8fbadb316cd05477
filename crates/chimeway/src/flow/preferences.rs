//! What recipients want to be sent: channels and categories of messages.
//!
//! Looked at when a message is planned and again when it is claimed, so that what is said meanwhile
//! counts too. What is not wanted is suppressed, and its journey goes on.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;

use super::{Chimeway, FlowError};
use crate::{
    ids::{ActorId, CategoryName, ChannelName, TenantId},
    store::preferences,
};

/// What a preference is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preference {
    /// Messages of a category, over any channel.
    Category(CategoryName),
    /// Messages over a channel, of any category.
    Channel(ChannelName),
}

impl Preference {
    fn row(&self) -> (&'static str, &str) {
        match self {
            Self::Category(name) => ("category", name.as_str()),
            Self::Channel(name) => ("channel", name.as_str()),
        }
    }
}

/// A preference as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredPreference {
    /// channel or category.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// Whether it is wanted.
    pub enabled: bool,
    /// When it was last said.
    pub updated_at: DateTime<Utc>,
}

/// Calls about preferences; every one takes the tenant, and touches nothing of another's.
#[derive(Debug, Clone, Copy)]
pub struct Preferences(());

impl Chimeway {
    /// The calls about preferences.
    #[must_use]
    pub fn preferences(&self) -> Preferences {
        Preferences(())
    }
}

impl Preferences {
    /// Says whether a recipient wants messages, in the caller's transaction. What is not said stays as
    /// it is; without a word everything is wanted. Of two sessions that say something at once, the one
    /// that commits last counts.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn set(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        recipient: &ActorId,
        wanted: &[(Preference, bool)],
    ) -> Result<(), FlowError> {
        // One said twice is said once: the last word counts.
        let said: BTreeMap<&Preference, bool> =
            wanted.iter().map(|(about, on)| (about, *on)).collect();
        let rows: Vec<preferences::NewPreference> = said
            .into_iter()
            .map(|(about, enabled)| {
                let (kind, name) = about.row();
                preferences::NewPreference {
                    recipient: recipient.as_str().to_owned(),
                    kind,
                    name: name.to_owned(),
                    enabled,
                }
            })
            .collect();
        Ok(preferences::set(conn, tenant.as_str(), &rows).await?)
    }

    /// What a recipient has said, categories first, by name.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn list(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        recipient: &ActorId,
    ) -> Result<Vec<StoredPreference>, FlowError> {
        let rows = preferences::list(conn, tenant.as_str(), recipient.as_str()).await?;
        let stored = rows.into_iter().map(|row| StoredPreference {
            kind: row.kind,
            name: row.name,
            enabled: row.enabled,
            updated_at: row.updated_at,
        });
        Ok(stored.collect())
    }

    /// Whether a recipient wants messages over that channel, or of that category: yes, unless they
    /// said no.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn is_enabled(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        recipient: &ActorId,
        about: &Preference,
    ) -> Result<bool, FlowError> {
        let said = preferences::list(conn, tenant.as_str(), recipient.as_str()).await?;
        let (kind, name) = about.row();
        let found = said.iter().find(|row| row.kind == kind && row.name == name);
        Ok(found.is_none_or(|row| row.enabled))
    }
}
