//! What was meant by a name that is not there.

use chimeway::{ids::WorkflowKey, store::workflows};
use sqlx::PgConnection;

use crate::error::CliError;

/// Less alike than this is another word.
const ALIKE: f64 = 0.8;

/// The refusal of a workflow that is not there: with the stored key that is most like it, or `otherwise`.
pub(super) async fn no_workflow(
    conn: &mut PgConnection,
    key: &WorkflowKey,
    otherwise: CliError,
) -> CliError {
    let stored = match workflows::list(conn).await {
        Ok(stored) => stored,
        Err(error) => return error.into(),
    };
    let stored = stored.iter().map(|workflow| workflow.key.as_str());
    match closest(key.as_str(), stored) {
        Some(meant) => CliError::NotFound(format!(
            "there is no workflow `{key}`; did you mean `{meant}`?"
        )),
        None => otherwise,
    }
}

fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_alike_is_meant_and_a_stranger_is_not() {
        let known = ["mention_escalation", "mention_digest", "welcome"];
        for (name, meant) in [
            ("mention_escaltion", Some("mention_escalation")),
            ("mention-digest", Some("mention_digest")),
            ("Welcome", Some("welcome")),
            ("welcom", Some("welcome")),
            ("invoice_overdue", None),
        ] {
            assert_eq!(closest(name, known.into_iter()), meant, "{name}");
        }
    }
}
