//! JSON as it is stored: what this program cannot read does not take the rows beside it along.

use serde_json::Value;
use sqlx::{
    Decode, Postgres, Type,
    error::BoxDynError,
    postgres::{PgTypeInfo, PgValueRef},
};

/// A value of a row that is read among many. A number beyond any double, or a nesting without end,
/// fails to be read here and not in its batch: the row is dealt with alone.
#[derive(Debug, Clone, PartialEq)]
pub enum Kept {
    /// What is stored.
    Read(Value),
    /// There is something that this program cannot read.
    Unreadable,
}

impl Kept {
    /// What is stored, where it can be read.
    #[must_use]
    pub const fn read(&self) -> Option<&Value> {
        match self {
            Self::Read(value) => Some(value),
            Self::Unreadable => None,
        }
    }
}

impl Type<Postgres> for Kept {
    fn type_info() -> PgTypeInfo {
        Value::type_info()
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        Value::compatible(ty)
    }
}

impl<'r> Decode<'r, Postgres> for Kept {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Value::decode(value).map_or(Self::Unreadable, Self::Read))
    }
}
