//! Who may call over HTTP: tokens that are shown once and kept as a hash.

use std::fmt::Write as _;

use rand::RngExt;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::{Chimeway, FlowError};
pub use crate::store::tokens::StoredToken;
use crate::{
    ids::{ActorId, TenantId, TokenId},
    store::{StoreError, tokens},
};

/// What a token begins with, so that one that lies about is known for what it is.
const PREFIX: &str = "chimeway_";

/// The calls about tokens. **Trusted**: they are for whoever has the database, not for callers over HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Tokens(());

impl Chimeway {
    /// The calls about tokens of the HTTP API.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        Tokens(())
    }
}

/// A token to make.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Who calls: what is done with the token is done by this one.
    pub subject: ActorId,
    /// Whose data it reaches; `None`: an operator's token, which reaches every tenant's, and the workflows.
    pub tenant: Option<TenantId>,
    /// Whether a call may name somebody else as the one who acts: for a service that has checked who that is.
    pub acts_for_others: bool,
}

/// A token that was made.
#[derive(serde::Serialize)]
pub struct Issued {
    /// Which token, for listing and revoking.
    pub id: TokenId,
    /// The token: 256 random bits in hexadecimal digits after a prefix. Shown this once.
    pub token: String,
}

/// Who calls with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Which token.
    pub id: TokenId,
    /// Who.
    pub subject: ActorId,
    /// Whose data it reaches; `None`: every tenant's.
    pub tenant: Option<TenantId>,
    /// Whether it may name somebody else as the one who acts.
    pub acts_for_others: bool,
}

impl Tokens {
    /// Makes a token; what is stored does not tell what it is.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn create(
        &self,
        conn: &mut PgConnection,
        new: NewToken,
    ) -> Result<Issued, FlowError> {
        let random: [u8; 32] = rand::rng().random();
        let issued = Issued {
            id: TokenId::fresh(),
            token: written(random),
        };
        let row = tokens::NewToken {
            id: issued.id,
            hash: hash(&issued.token),
            subject: new.subject.into(),
            tenant: new.tenant.map(Into::into),
            acts_for_others: new.acts_for_others,
        };
        tokens::insert(conn, &[row]).await?;
        Ok(issued)
    }

    /// Whose token it is; `None` where there is none such, or it was revoked.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn bearer(
        &self,
        conn: &mut PgConnection,
        token: &str,
    ) -> Result<Option<Bearer>, FlowError> {
        if !token.starts_with(PREFIX) {
            return Ok(None);
        }
        let found = tokens::live(conn, &[hash(token)]).await?;
        let bearer = found.into_iter().next().map(Bearer::try_from);
        Ok(bearer.transpose()?)
    }

    /// All tokens, or one tenant's, the newest first; revoked ones too.
    ///
    /// # Errors
    ///
    /// [`FlowError::Store`].
    pub async fn list(
        &self,
        conn: &mut PgConnection,
        tenant: Option<&TenantId>,
    ) -> Result<Vec<StoredToken>, FlowError> {
        Ok(tokens::list(conn, tenant.map(TenantId::as_str)).await?)
    }

    /// Takes a token back: from the commit on it opens nothing. A second time changes nothing.
    ///
    /// # Errors
    ///
    /// [`FlowError::NotFound`].
    pub async fn revoke(
        &self,
        conn: &mut PgConnection,
        token: TokenId,
    ) -> Result<StoredToken, FlowError> {
        let revoked = tokens::revoke(conn, &[token]).await?;
        revoked.into_iter().next().ok_or(FlowError::NotFound {
            what: "token",
            id: token.to_string(),
            tenant: None,
        })
    }
}

impl TryFrom<StoredToken> for Bearer {
    type Error = StoreError;

    fn try_from(stored: StoredToken) -> Result<Self, StoreError> {
        let unfit = |column| StoreError::Inconsistent {
            table: "api_tokens",
            column,
            row: stored.id.0,
        };
        let tenant = stored.tenant_id.map(TenantId::new).transpose();
        Ok(Self {
            id: stored.id,
            subject: ActorId::new(stored.subject).map_err(|_| unfit("subject"))?,
            tenant: tenant.map_err(|_| unfit("tenant_id"))?,
            acts_for_others: stored.acts_for_others,
        })
    }
}

fn written(random: [u8; 32]) -> String {
    random.iter().fold(PREFIX.to_owned(), |mut text, byte| {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_256_bits_after_its_prefix() {
        let token = written([0xa5; 32]);
        assert_eq!(token, format!("chimeway_{}", "a5".repeat(32)));
        assert_ne!(hash(&token), hash(&written([0; 32])));
    }
}
