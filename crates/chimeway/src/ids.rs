//! A name for every id and every number that travels: no bare `Uuid`, `String` or `i32` in a
//! public signature.
//!
//! Ids are UUIDv7: they sort by the time they were made, so that new rows land at the end of an
//! index. They are made by [`fresh`] alone.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! define_id {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, later than every id this process made before.
            #[must_use]
            pub fn fresh() -> Self {
                Self(fresh())
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::from_str(text).map(Self)
            }
        }
    )*};
}

define_id! {
    /// A workflow over all its versions.
    WorkflowId
    /// A workflow definition: the steps stored under one (key, version).
    DefinitionId
    /// A step row of a definition.
    StepId
    /// A stored trigger.
    EventId
    /// One recipient's copy of an event; also that recipient's inbox item.
    NotificationId
    /// One execution of a definition.
    RunId
    /// One message to the outside, made by a visit of a step.
    DeliveryId
    /// Something an actor did, told to us from outside.
    SignalId
    /// A decision that a person is asked for, by a visit of an approval step.
    ApprovalId
    /// A token of the HTTP API: names it, and does not open anything.
    TokenId
}

/// A name that was empty, only blanks, too long, or held a control character.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {problem}")]
pub struct BadName {
    what: &'static str,
    problem: &'static str,
}

/// The longest name in bytes of UTF-8: three of them fit into one index entry.
pub const MAX_NAME: usize = 255;

fn check_name(what: &'static str, text: &str) -> Result<(), BadName> {
    let problem = if text.trim().is_empty() {
        "is blank"
    } else if text.len() > MAX_NAME {
        "is longer than 255 bytes"
    } else if text.chars().any(char::is_control) {
        "holds a control character"
    } else {
        return Ok(());
    };
    Err(BadName { what, problem })
}

macro_rules! define_name {
    ($($(#[$doc:meta])* $name:ident: $what:literal)*) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
        )]
        #[serde(try_from = "String", into = "String")]
        #[sqlx(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes the text as it is.
            ///
            /// # Errors
            ///
            /// [`BadName`] if it is blank, longer than 255 bytes or holds a control character.
            pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
                let text = text.into();
                check_name($what, &text)?;
                Ok(Self(text))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

define_name! {
    /// What a workflow is called, over all its versions.
    WorkflowKey: "the workflow key"
    /// What a step is called inside its workflow.
    StepKey: "the step id"
    /// Which channel carries a message: `in_app`, `email`, a host's own.
    ChannelName: "the channel"
    /// What kind of message it is, for what recipients want: `marketing`.
    CategoryName: "the category"
    /// Which content a message has; names a template where the channel renders one.
    RenderKey: "the render key"
    /// What an actor did: `notification_read`.
    SignalName: "the signal name"
    /// What members of a tenant may be asked for decisions as: `manager`.
    RoleName: "the role"
    /// Which kind of record a change is of: `order`, or the name of a table.
    EntityName: "the entity"
    /// Which field of a record: `status`.
    FieldName: "the field"
    /// What kind of action a step performs: `set_field`, or a host's own.
    ActionName: "the action"
    /// What kind of step a host has registered.
    KindName: "the step kind"
    /// Whose data this is. Nothing crosses from one tenant to another.
    TenantId: "the tenant"
    /// Who does something and who receives something, in the host's own words: `user_123`.
    ActorId: "the actor"
}

macro_rules! define_number {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub i32);

        impl $name {
            /// The next one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

define_number! {
    /// Which revision of a workflow: 1, 2, 3 ...
    Version
    /// How many times a run has entered a step: 1 at its first step. A timer or a delivery carries
    /// the visit it belongs to, so that one that comes late is recognised and ignored.
    Visit
    /// The fence of a delivery: raised by every claim, never lowered.
    ClaimNo
    /// Which try of a delivery: 1, 2, 3 ... without gaps.
    AttemptNumber
    /// The place of a line in a run's history: 1, 2, 3 ... without gaps.
    Sequence
}

/// A new time-ordered id; the only place that makes one.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one home of new ids")]
pub fn fresh() -> Uuid {
    Uuid::now_v7()
}
