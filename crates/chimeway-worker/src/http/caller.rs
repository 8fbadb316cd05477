//! Who calls, how far their token goes, and in whose name they may act.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
};
use chimeway::{
    flow::Bearer,
    ids::{ActorId, TenantId},
};
use serde::Deserialize;

use super::{api::Api, refusal::Refusal};

/// Who calls; a handler that takes one answers nobody else.
pub(super) struct Caller(Bearer);

/// The query of a route that has no other parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfTenant {
    pub(super) tenant_id: Option<TenantId>,
}

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let token = token(&parts.headers).ok_or_else(Refusal::unauthorized)?;
        let mut conn = api.connection().await?;
        let bearer = api.chimeway.tokens().bearer(&mut conn, token).await?;
        bearer.map(Self).ok_or_else(Refusal::unauthorized)
    }
}

fn token(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

impl Caller {
    /// Whose data the request is about: the token's tenant, or the one that an operator names.
    pub(super) fn tenant(&self, named: Option<TenantId>) -> Result<TenantId, Refusal> {
        self.any_tenant(named)?.ok_or_else(|| {
            Refusal::invalid(
                "tenant_id",
                "required",
                "an operator's token reaches every tenant's data: say whose, with `?tenant_id=`",
            )
        })
    }

    /// As [`Caller::tenant`]; `None` where an operator names none and means everybody's.
    pub(super) fn any_tenant(&self, named: Option<TenantId>) -> Result<Option<TenantId>, Refusal> {
        match (&self.0.tenant, named) {
            (None, named) => Ok(named),
            (Some(own), Some(named)) if *own != named => Err(Refusal::forbidden(
                "this token is another tenant's; leave `tenant_id` out, or take a token of that tenant",
            )),
            (Some(own), _) => Ok(Some(own.clone())),
        }
    }

    /// Refuses all but operators.
    pub(super) fn operator(&self) -> Result<(), Refusal> {
        match self.0.tenant {
            None => Ok(()),
            Some(_) => Err(Refusal::forbidden(
                "workflows belong to no tenant; this takes an operator's token: `chimeway tokens create --operator`",
            )),
        }
    }

    /// Who acts: the token's subject, or who is named, where the token may act for others.
    pub(super) fn acting(&self, named: Option<ActorId>) -> Result<ActorId, Refusal> {
        match named {
            Some(named) => self.may_act_for(&named).map(|()| named),
            None => Ok(self.0.subject.clone()),
        }
    }

    /// Refuses what is done in somebody else's name, or to somebody else, where the token may not.
    pub(super) fn may_act_for(&self, who: &ActorId) -> Result<(), Refusal> {
        if self.0.acts_for_others || *who == self.0.subject {
            return Ok(());
        }
        Err(Refusal::forbidden(format!(
            "this token acts for `{}` only; a token for a service that acts for others is made with \
             `chimeway tokens create --acts-for-others`",
            self.0.subject
        )))
    }
}

#[cfg(test)]
mod tests {
    use chimeway::ids::TokenId;

    use super::*;

    fn caller(tenant: Option<&str>, acts_for_others: bool) -> Caller {
        Caller(Bearer {
            id: TokenId::fresh(),
            subject: "ada".parse().unwrap(),
            tenant: tenant.map(|tenant| tenant.parse().unwrap()),
            acts_for_others,
        })
    }

    #[test]
    fn a_token_reaches_its_tenant_and_an_operators_reaches_the_one_it_names() {
        let of = |own, named: Option<&str>| {
            let named = named.map(|tenant| tenant.parse().unwrap());
            let tenant = caller(own, false).tenant(named).ok();
            tenant.map(String::from)
        };
        assert_eq!(of(Some("a"), None).as_deref(), Some("a"));
        assert_eq!(of(Some("a"), Some("a")).as_deref(), Some("a"));
        assert_eq!(of(Some("a"), Some("b")), None);
        assert_eq!(of(None, Some("b")).as_deref(), Some("b"));
        assert_eq!(of(None, None), None);
        assert!(
            caller(None, false).operator().is_ok() && caller(Some("a"), true).operator().is_err()
        );
    }

    #[test]
    fn who_acts_is_the_subject_unless_the_token_may_act_for_others() {
        let acting = |for_others, named: Option<&str>| {
            let named = named.map(|who| who.parse().unwrap());
            let who = caller(Some("a"), for_others).acting(named).ok();
            who.map(String::from)
        };
        assert_eq!(acting(false, None).as_deref(), Some("ada"));
        assert_eq!(acting(false, Some("ada")).as_deref(), Some("ada"));
        assert_eq!(acting(false, Some("bob")), None);
        assert_eq!(acting(true, Some("bob")).as_deref(), Some("bob"));
        assert_eq!(acting(true, None).as_deref(), Some("ada"));
    }

    #[test]
    fn a_token_is_what_follows_bearer() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, text.parse().unwrap());
            token(&headers).map(ToOwned::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc").as_deref(), Some("abc"));
        assert_eq!(of("Basic abc"), None);
        assert_eq!(of("abc"), None);
        assert_eq!(token(&HeaderMap::new()), None);
    }
}
