//! Recipients: who is notified, and how they are reached.

use std::{collections::BTreeMap, iter};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{Chimeway, FlowError, check::check_text};
use crate::{
    ids::{ActorId, ChannelName, TenantId},
    store::recipients,
};

/// The longest address in bytes: that of a webhook is a URL.
const LONGEST_ADDRESS: usize = 2048;
/// The longest language tag in bytes.
const LONGEST_LOCALE: usize = 64;

/// Who is notified, and how they are reached where that is known.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// Who, in your own words.
    pub identity: ActorId,
    /// What the recipient is: user, team.
    pub kind: Option<String>,
    /// Channel to address. Stored with the recipient, for later messages too.
    pub addresses: BTreeMap<String, String>,
    /// Language and region (BCP 47).
    pub locale: Option<String>,
    /// IANA name.
    pub time_zone: Option<String>,
}

impl Recipient {
    /// Someone of whom nothing else is known.
    #[must_use]
    pub fn new(identity: ActorId) -> Self {
        Self {
            identity,
            kind: None,
            addresses: BTreeMap::new(),
            locale: None,
            time_zone: None,
        }
    }

    /// Adds an address.
    #[must_use]
    pub fn address(mut self, channel: impl Into<String>, address: impl Into<String>) -> Self {
        self.addresses.insert(channel.into(), address.into());
        self
    }

    /// Refuses what `chimeway.check_recipients` refuses; the database is not asked.
    fn check(&self) -> Result<(), FlowError> {
        for (channel, address) in &self.addresses {
            ChannelName::new(channel.as_str())?;
            if let Some(problem) = unfit(address) {
                return Err(FlowError::BadJson {
                    what: "an address of a recipient",
                    problem,
                });
            }
        }
        check_text("the type of a recipient", self.kind.iter())?;
        if self.locale.as_deref().is_some_and(|text| !is_locale(text)) {
            return Err(FlowError::BadJson {
                what: "the locale of a recipient",
                problem: "is not a language tag; write one such as en-GB (BCP 47)",
            });
        }
        check_text("the time zone of a recipient", self.time_zone.iter())
    }

    fn is_reached(&self) -> bool {
        !self.addresses.is_empty() || self.locale.is_some() || self.time_zone.is_some()
    }

    /// What is said later counts; what it leaves out stays.
    fn learn(&mut self, later: &Self) {
        self.addresses.extend(later.addresses.clone());
        let of = |later: &Option<String>, known: &mut Option<String>| {
            if later.is_some() {
                known.clone_from(later);
            }
        };
        of(&later.kind, &mut self.kind);
        of(&later.locale, &mut self.locale);
        of(&later.time_zone, &mut self.time_zone);
    }

    fn row(&self) -> Value {
        json!({
            "identity": self.identity,
            "type": self.kind,
            "addresses": self.addresses,
            "locale": self.locale,
            "time_zone": self.time_zone,
        })
    }
}

/// A recipient as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredRecipient {
    /// Who, in your own words.
    pub identity: ActorId,
    /// What the recipient is.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Channel to address.
    pub addresses: BTreeMap<String, String>,
    /// Language and region (BCP 47).
    pub locale: Option<String>,
    /// IANA name.
    pub time_zone: Option<String>,
    /// When it was last written.
    pub updated_at: DateTime<Utc>,
}

/// Calls about recipients; every one takes the tenant, and touches nothing of another's.
#[derive(Debug, Clone, Copy)]
pub struct Recipients(());

impl Chimeway {
    /// The calls about recipients.
    #[must_use]
    pub fn recipients(&self) -> Recipients {
        Recipients(())
    }
}

impl Recipients {
    /// Stores how recipients are reached, in the caller's transaction. What is not given keeps what is
    /// stored. Counts for messages that are claimed from the commit on, the next try of a message that
    /// failed before among them.
    ///
    /// # Errors
    ///
    /// [`FlowError::BadJson`], [`FlowError::BadName`]: nothing was written, and the caller's
    /// transaction can go on. [`FlowError::Store`]: it cannot.
    pub async fn upsert(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        recipients: &[Recipient],
    ) -> Result<(), FlowError> {
        check(recipients)?;
        let named = || iter::once((tenant.as_str(), recipients));
        refuse_unknown_zones(conn, named()).await?;
        store(conn, named()).await
    }

    /// Forgets addresses of a recipient; of those that are not stored nothing is said.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn forget(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        identity: &ActorId,
        channels: &[ChannelName],
    ) -> Result<(), FlowError> {
        if self.get(conn, tenant, identity).await?.is_none() {
            return Ok(());
        }
        let none: BTreeMap<&str, Value> = channels
            .iter()
            .map(|channel| (channel.as_str(), Value::Null))
            .collect();
        let rows = json!([{ "identity": identity, "addresses": none }]);
        Ok(recipients::upsert(conn, &[tenant.as_str()], &[rows]).await?)
    }

    /// How a recipient is reached; `None` where nothing is stored of them in that tenant.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn get(
        &self,
        conn: &mut PgConnection,
        tenant: &TenantId,
        identity: &ActorId,
    ) -> Result<Option<StoredRecipient>, FlowError> {
        let rows = recipients::find(conn, tenant.as_str(), &[identity.as_str()]).await?;
        Ok(rows.into_iter().next().map(|row| StoredRecipient {
            identity: identity.clone(),
            kind: row.kind,
            addresses: texts(row.addresses),
            locale: row.locale,
            time_zone: row.time_zone,
            updated_at: row.updated_at,
        }))
    }
}

/// Refuses what would abort the caller's transaction, as far as that can be seen without the database.
pub(super) fn check(recipients: &[Recipient]) -> Result<(), FlowError> {
    recipients.iter().try_for_each(Recipient::check)
}

/// What is to be stored of recipients, by tenant.
fn rows<'a>(
    named: impl Iterator<Item = (&'a str, &'a [Recipient])>,
    wanted: fn(&Recipient) -> bool,
) -> (Vec<&'a str>, Vec<Value>) {
    let mut rows: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for (tenant, recipients) in named {
        for recipient in recipients.iter().filter(|one| wanted(one)) {
            rows.entry(tenant).or_default().push(recipient.row());
        }
    }
    let rows = rows.into_iter();
    rows.map(|(tenant, rows)| (tenant, Value::from(rows)))
        .unzip()
}

/// Refuses time zones that the server does not know; it is asked only where one is named.
pub(super) async fn refuse_unknown_zones<'a>(
    conn: &mut PgConnection,
    named: impl Iterator<Item = (&'a str, &'a [Recipient])>,
) -> Result<(), FlowError> {
    let (tenants, rows) = rows(named, |one| one.time_zone.is_some());
    if recipients::has_unknown_zone(conn, &tenants, &rows).await? {
        return Err(FlowError::BadJson {
            what: "the time zone of a recipient",
            problem: "is not known; write an IANA name such as Europe/London",
        });
    }
    Ok(())
}

/// Stores how recipients are reached, where that is given. Of somebody who is named more than once all is
/// stored, as if by one call after the other.
pub(super) async fn store<'a>(
    conn: &mut PgConnection,
    named: impl Iterator<Item = (&'a str, &'a [Recipient])>,
) -> Result<(), FlowError> {
    let mut known: BTreeMap<(&str, &str), Recipient> = BTreeMap::new();
    for (tenant, recipients) in named {
        for one in recipients.iter().filter(|one| one.is_reached()) {
            known
                .entry((tenant, one.identity.as_str()))
                .and_modify(|known| known.learn(one))
                .or_insert_with(|| one.clone());
        }
    }
    let named = known.iter();
    let named = named.map(|((tenant, _), one)| (*tenant, std::slice::from_ref(one)));
    let (tenants, rows) = rows(named, Recipient::is_reached);
    Ok(recipients::upsert(conn, &tenants, &rows).await?)
}

/// Why nothing may be sent to this address. A line break in one would become a header of a mail.
pub(super) fn unfit(address: &str) -> Option<&'static str> {
    if address.trim().is_empty() {
        Some("is blank")
    } else if address.len() > LONGEST_ADDRESS {
        Some("is longer than 2048 bytes")
    } else if address.chars().any(char::is_control) {
        Some("holds a line break or another control character; write it on one line")
    } else {
        None
    }
}

fn is_locale(text: &str) -> bool {
    let mut parts = text.split(['-', '_']);
    let language = parts.next().unwrap_or_default();
    text.len() <= LONGEST_LOCALE
        && (2..=8).contains(&language.len())
        && language.bytes().all(|byte| byte.is_ascii_alphabetic())
        && parts.all(|part| {
            (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
}

/// The addresses that are there: one that was forgotten may be stored as null.
fn texts(addresses: Value) -> BTreeMap<String, String> {
    let Value::Object(fields) = addresses else {
        return BTreeMap::new();
    };
    let texts = fields
        .into_iter()
        .filter_map(|(channel, address)| match address {
            Value::String(text) => Some((channel, text)),
            _ => None,
        });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_line() {
        for fine in [
            "ada@example.com",
            "+43 1 555 0100",
            "https://example.com/a?b=c",
        ] {
            assert_eq!(unfit(fine), None, "{fine}");
        }
        let long = "a".repeat(LONGEST_ADDRESS + 1);
        for bad in [
            "",
            " ",
            "a@b.example\r\nBcc: c@d.example",
            "a\0b",
            "a\tb",
            &long,
        ] {
            assert!(unfit(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_locale_is_a_language_tag() {
        for fine in ["de", "en-GB", "en_GB", "zh-Hant-TW", "es-419"] {
            assert!(is_locale(fine), "{fine}");
        }
        for bad in [
            "",
            "e",
            "-",
            "en-",
            "en GB",
            "en-GB\n",
            "deutschland",
            &"a-".repeat(40),
        ] {
            assert!(!is_locale(bad), "{bad}");
        }
    }
}
