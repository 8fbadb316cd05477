//! Letters on paper: the channel puts them into a table, from which a print shop takes them.

use async_trait::async_trait;
use chimeway::channels::{Channel, Message, Receipt, SendError};
use serde_json::json;
use sqlx::PgPool;

/// Why a letter cannot be written. Neither names the address: errors are logged.
#[derive(Debug, thiserror::Error)]
enum Unprintable {
    #[error("there is no postal address")]
    NoAddress,
    #[error("a postal address has at least two parts: the person, the town")]
    ShortAddress,
}

/// Hands letters to the print shop.
pub(crate) struct Letters {
    pool: PgPool,
}

impl Letters {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

#[async_trait]
impl Channel for Letters {
    fn adapter(&self) -> &'static str {
        "print_shop"
    }

    fn needs_address(&self) -> bool {
        true
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        let address = message.address.as_deref();
        let address = address.ok_or_else(|| SendError::permanent(Unprintable::NoAddress))?;
        // Addresses are one line each; on an envelope every part has its own.
        let lines: Vec<&str> = address.split(',').map(str::trim).collect();
        if lines.len() < 2 {
            return Err(SendError::permanent(Unprintable::ShortAddress));
        }
        // The same message may come twice, after a crash for instance. Its token is the same then:
        // the print shop gets one letter.
        let token = message.token();
        let written = sqlx::query(
            "insert into letters (token, address, content, params) values ($1, $2, $3, $4)
             on conflict (token) do nothing",
        )
        .bind(&token)
        .bind(lines.join("\n"))
        .bind(message.render_key.as_str())
        .bind(&message.params)
        .execute(&self.pool)
        .await
        .map_err(SendError::temporary)?;
        Ok(Receipt {
            provider_message_id: Some(token),
            response: Some(json!({ "new": written.rows_affected() == 1 })),
        })
    }
}
