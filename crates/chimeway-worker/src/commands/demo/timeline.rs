//! What happened, in plain words.

use chimeway::engine::Reason;

use super::{host::Moment, screen::Tone};

/// How a moment is told; `None` where another one says the same.
pub(super) fn words(moment: &Moment) -> Option<(String, Tone)> {
    let channel = moment.channel.as_deref().unwrap_or("a");
    if moment.is_try {
        return Some(attempt(moment, channel));
    }
    let told = match Reason::parse(&moment.word) {
        Some(Reason::WorkflowStarted) => ("the journey begins".to_owned(), Tone::Plain),
        Some(Reason::StepActivated) => (format!("next: {channel} message"), Tone::Quiet),
        // The step it leads to is told next.
        Some(Reason::ProgressedOnDeliveryOutcome) => return None,
        Some(Reason::WaitingForStepProgression) => (waiting(moment), Tone::Sleeping),
        Some(Reason::ReactivatedFromWait) => (
            "the time is over and nobody looked".to_owned(),
            Tone::Sleeping,
        ),
        Some(Reason::SignalReceived) => {
            let signal = moment
                .facts
                .get("event_name")
                .and_then(|name| name.as_str());
            (
                format!("the run hears {}", signal.unwrap_or("a signal")),
                Tone::Heard,
            )
        }
        Some(Reason::WorkflowStopped) => (
            "the journey stops: no email is needed".to_owned(),
            Tone::Good,
        ),
        Some(Reason::WorkflowCompleted) => ("the journey is complete".to_owned(), Tone::Good),
        Some(Reason::WorkflowCancelled) => {
            ("somebody ended the journey by hand".to_owned(), Tone::Plain)
        }
        Some(Reason::MovedByHost) => (
            "somebody moved the journey on by hand".to_owned(),
            Tone::Plain,
        ),
        Some(Reason::DeliveryPlannedAgain) => (
            format!("the {channel} message had gone missing, and is made again"),
            Tone::Plain,
        ),
        // The demo's journey has none of these steps; somebody's own journey beside it may.
        Some(Reason::ConditionEvaluated) => ("a condition leads on".to_owned(), Tone::Quiet),
        Some(Reason::WaitingForApproval) => ("somebody is asked".to_owned(), Tone::Sleeping),
        Some(Reason::ApprovalDecided) => ("it is decided".to_owned(), Tone::Heard),
        Some(Reason::ActionsPerformed) => ("actions are done".to_owned(), Tone::Good),
        Some(Reason::ActionSent) => (format!("the {channel} action is sent"), Tone::Good),
        Some(Reason::ActionFailed) => ("an action is refused".to_owned(), Tone::Plain),
        Some(Reason::WorkflowFailed) => ("the journey cannot go on".to_owned(), Tone::Plain),
        None => (moment.word.replace('_', " "), Tone::Plain),
    };
    Some(told)
}

fn attempt(moment: &Moment, channel: &str) -> (String, Tone) {
    let number = moment.place;
    match (moment.word.as_str(), channel) {
        ("succeeded", "in_app") => ("the mention is in the in-app inbox".to_owned(), Tone::Good),
        ("succeeded", _) => {
            let adapter = moment.adapter.as_deref().unwrap_or("unknown");
            (
                format!("{channel} message taken by the {adapter} adapter, try {number}"),
                Tone::Good,
            )
        }
        (outcome, _) => (
            format!("{channel} message {outcome}, try {number}"),
            Tone::Plain,
        ),
    }
}

fn waiting(moment: &Moment) -> String {
    let signals = moment
        .facts
        .get("pending_signals")
        .and_then(|signals| signals.as_array());
    let signals: Vec<&str> = signals
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str())
        .collect();
    match moment
        .facts
        .get("suspended_until")
        .and_then(|until| until.as_str())
    {
        // The instant without its date: `12:00:04`.
        Some(until) => {
            let time = until.get(11..19).unwrap_or(until);
            format!("sleeps until {time}, or until {}", signals.join(" or "))
        }
        None => "sleeps".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn moment(is_try: bool, word: &str, channel: Option<&str>) -> Moment {
        Moment {
            source: Uuid::nil(),
            place: 1,
            is_try,
            person: "ada".into(),
            at: DateTime::UNIX_EPOCH,
            word: word.into(),
            channel: channel.map(Into::into),
            adapter: Some("smtp".into()),
            facts: json!({
                "suspended_until": "2026-03-02T12:00:04.000000Z",
                "pending_signals": ["notification_read"],
                "event_name": "notification_read",
            }),
        }
    }

    #[test]
    fn what_happens_is_told_in_plain_words() {
        for (is_try, word, channel, expected) in [
            (false, "workflow_started", None, Some("the journey begins")),
            (
                false,
                "step_activated",
                Some("email"),
                Some("next: email message"),
            ),
            (
                true,
                "succeeded",
                Some("in_app"),
                Some("the mention is in the in-app inbox"),
            ),
            (
                true,
                "succeeded",
                Some("email"),
                Some("email message taken by the smtp adapter, try 1"),
            ),
            (
                true,
                "failed",
                Some("email"),
                Some("email message failed, try 1"),
            ),
            (
                false,
                "waiting_for_step_progression",
                None,
                Some("sleeps until 12:00:04, or until notification_read"),
            ),
            (
                false,
                "signal_received",
                None,
                Some("the run hears notification_read"),
            ),
            (
                false,
                "progressed_on_delivery_outcome",
                Some("in_app"),
                None,
            ),
            (false, "cancelled_by_hand", None, Some("cancelled by hand")),
        ] {
            let told = words(&moment(is_try, word, channel)).map(|(text, _)| text);
            assert_eq!(told.as_deref(), expected, "{word}");
        }
    }

    #[test]
    fn every_reason_of_the_engine_has_words_of_its_own() {
        for reason in Reason::ALL {
            let told = words(&moment(false, reason.as_str(), None)).map(|(text, _)| text);
            let bare = reason.as_str().replace('_', " ");
            assert_ne!(told, Some(bare), "{reason}");
        }
    }
}
