//! Every value that a host gives the library.

use chimeway::{
    FlowError, Recipient, Signal, Trigger,
    flow::{
        Preference,
        workflows::{HistoryLine, RunUpdate, Stamp},
    },
    ids::RunId,
};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::{
    Ground, Verdict, for_all, runtime, shown,
    values::{TEXTS, json, nested, text},
};
use crate::{
    tools::{actor, tenant},
    workflow_api::org,
};

macro_rules! places {
    ($($place:ident $word:literal)*) => {
        /// Where the value goes, and what a refusal calls that place.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum Place { $($place),* }

        const PLACES: &[Place] = &[$(Place::$place),*];

        impl Place {
            const fn word(self) -> &'static str {
                match self { $(Self::$place => $word),* }
            }
        }
    };
}

places! {
    TriggerWorkflow "workflow"
    TriggerTenant "the tenant"
    TriggerRecipient "the actor"
    TriggerAddress "an address of a recipient"
    TriggerChannel "the channel"
    TriggerType "the type of a recipient"
    TriggerLocale "the locale of a recipient"
    TriggerZone "the time zone of a recipient"
    TriggerKey "the idempotency key"
    TriggerCorrelation "the correlation id"
    TriggerParams "params"
    TriggerActorId ""
    TrackTenant "the tenant"
    TrackActor "the actor"
    TrackName "the signal name"
    TrackPayload "payload"
    UpsertIdentity "the actor"
    UpsertAddress "an address of a recipient"
    UpsertChannel "the channel"
    UpsertType "the type of a recipient"
    UpsertLocale "the locale of a recipient"
    UpsertZone "the time zone of a recipient"
    PreferenceRecipient "the actor"
    PreferenceChannel "the channel"
    PreferenceCategory "the category"
    CancelBy "who did it"
    CancelReason "the reason"
    RetryBy "who did it"
    RetryReason "the reason"
    UpdateReason "the reason"
    UpdateStatusContext "the status context"
    UpdateContext "the context"
    UpdateStep "step"
    LineReason "the reason"
    LineContext "the context of a line of history"
}

/// A value: its text where the place takes a text, else its JSON.
#[derive(Debug, Clone)]
struct Hostile {
    text: String,
    json: Value,
}

impl Place {
    fn holds_its_run(self) -> bool {
        matches!(
            self,
            Self::UpdateReason
                | Self::UpdateStatusContext
                | Self::UpdateContext
                | Self::UpdateStep
                | Self::LineReason
                | Self::LineContext
        )
    }

    fn needs_run(self) -> bool {
        let by_hand = matches!(
            self,
            Self::CancelBy | Self::CancelReason | Self::RetryBy | Self::RetryReason
        );
        by_hand || self.holds_its_run()
    }
}

impl Ground {
    /// A run in its wait, where the place is about one.
    async fn run_for(&self, place: Place) -> RunId {
        match place.needs_run() {
            true => self.waiting().await,
            false => RunId::fresh(),
        }
    }
}

/// Gives the value to the library at that place, everything else being right.
async fn give(
    ground: &Ground,
    conn: &mut PgConnection,
    place: Place,
    value: Hostile,
    run: RunId,
) -> Result<(), FlowError> {
    let chimeway = ground.story.chimeway();
    let workflows = chimeway.workflows();
    let Hostile { text, json: value } = value;
    let trigger = || Trigger::new("hostile".parse().unwrap(), tenant());
    let eve = || Recipient::new(actor("eve"));
    let reached = |place: Place| -> Recipient {
        let (text, mut eve) = (text.clone(), eve());
        match place {
            Place::TriggerAddress | Place::UpsertAddress => eve.address("in_app", text),
            Place::TriggerChannel | Place::UpsertChannel => eve.address(text, "there"),
            Place::TriggerType | Place::UpsertType => {
                eve.kind = Some(text);
                eve.address("in_app", "there")
            }
            Place::TriggerLocale | Place::UpsertLocale => {
                eve.locale = Some(text);
                eve
            }
            _ => {
                eve.time_zone = Some(text);
                eve
            }
        }
    };
    let start = match place {
        Place::TriggerWorkflow => Trigger::new(text.parse()?, tenant()).recipient(eve()),
        Place::TriggerTenant => Trigger::new("hostile".parse()?, text.parse()?).recipient(eve()),
        Place::TriggerRecipient => trigger().recipient(Recipient::new(text.parse()?)),
        Place::TriggerKey => trigger().recipient(eve()).idempotency_key(text),
        Place::TriggerCorrelation => trigger().recipient(eve()).correlation_id(text),
        Place::TriggerParams => trigger().recipient(eve()).params(value),
        Place::TriggerActorId => trigger().params(json!({ "actor_id": value })),
        Place::TriggerAddress
        | Place::TriggerChannel
        | Place::TriggerType
        | Place::TriggerLocale
        | Place::TriggerZone => trigger().recipient(reached(place)),
        Place::TrackTenant | Place::TrackActor | Place::TrackName | Place::TrackPayload => {
            let mut signal = Signal::new(tenant(), actor("ada"), "go_on".parse()?);
            match place {
                Place::TrackTenant => signal.tenant = text.parse()?,
                Place::TrackActor => signal.actor = text.parse()?,
                Place::TrackName => signal.name = text.parse()?,
                _ => signal.payload = value,
            }
            return chimeway.track(conn, signal).await.map(drop);
        }
        Place::UpsertIdentity => {
            let given = [Recipient::new(text.parse()?).address("in_app", "there")];
            return chimeway.recipients().upsert(conn, org(), &given).await;
        }
        Place::UpsertAddress
        | Place::UpsertChannel
        | Place::UpsertType
        | Place::UpsertLocale
        | Place::UpsertZone => {
            let given = [reached(place)];
            return chimeway.recipients().upsert(conn, org(), &given).await;
        }
        Place::PreferenceRecipient | Place::PreferenceChannel | Place::PreferenceCategory => {
            let (who, about) = match place {
                Place::PreferenceRecipient => {
                    (text.parse()?, Preference::Channel("email".parse()?))
                }
                Place::PreferenceChannel => (actor("eve"), Preference::Channel(text.parse()?)),
                _ => (actor("eve"), Preference::Category(text.parse()?)),
            };
            let preferences = chimeway.preferences();
            return preferences.set(conn, org(), &who, &[(about, false)]).await;
        }
        Place::CancelBy | Place::RetryBy | Place::CancelReason | Place::RetryReason => {
            let stamp = match place {
                Place::CancelBy | Place::RetryBy => Stamp::by(text),
                _ => Stamp::by("eve").because(text),
            };
            return match place {
                Place::CancelBy | Place::CancelReason => {
                    let done = workflows.cancel(conn, org(), run, &stamp);
                    done.await.map(drop)
                }
                _ => {
                    let done = workflows.retry(conn, org(), run.0, &stamp);
                    done.await.map(drop)
                }
            };
        }
        Place::UpdateReason
        | Place::UpdateStatusContext
        | Place::UpdateContext
        | Place::UpdateStep => {
            let mut update = RunUpdate::default();
            match place {
                Place::UpdateReason => update.status_reason = Some(text),
                Place::UpdateStatusContext => update.status_context = Some(value),
                Place::UpdateContext => update.context = Some(value),
                _ => update.current_step = Some(text.parse()?),
            }
            let locked = workflows.lock_run(conn, run).await?;
            return workflows.update_run(conn, locked, update).await.map(drop);
        }
        Place::LineReason | Place::LineContext => {
            let mut line = HistoryLine::new("noted");
            match place {
                Place::LineReason => line.reason = text,
                _ => line.context = value,
            }
            let locked = workflows.lock_run(conn, run).await?;
            return workflows
                .append_transition(conn, locked, line)
                .await
                .map(drop);
        }
    };
    chimeway.trigger(conn, start).await.map(drop)
}

/// Refused by us, with the place in one line, before PostgreSQL could: nothing is written and the
/// caller's transaction goes on. Or taken.
async fn is_answered(ground: &Ground, place: Place, value: Hostile, run: RunId) -> Verdict {
    let mut conn = ground.story.pool().acquire().await.unwrap();
    if matches!(place, Place::RetryBy | Place::RetryReason) {
        sqlx::query(
            "update chimeway.workflow_runs set quarantine_reason = 'P0001', wake_at = null where id = $1",
        )
        .bind(run)
        .execute(&mut *conn)
        .await
        .unwrap();
    }
    let before = match place.holds_its_run() {
        true => Some(ground.everything(&mut conn).await),
        false => None,
    };
    let mut tx = conn.begin().await.unwrap();
    let answer = give(ground, &mut tx, place, value, run).await;
    let refused = answer.is_err();
    if let Err(error) = answer {
        prop_assert!(error.code() != "store", "{error:?}");
        let line = error.to_string();
        prop_assert!(line.contains(place.word()), "{line}");
        prop_assert!(!line.contains('\n'), "{line}");
        prop_assert!(line.len() < 1_000, "{line}");
    }
    // A transaction has an id from its first write on.
    let wrote = sqlx::query_scalar("select pg_current_xact_id_if_assigned() is not null");
    let wrote: Result<bool, sqlx::Error> = wrote.fetch_one(&mut *tx).await;
    let wrote = wrote.map_err(|error| TestCaseError::fail(error.to_string()))?;
    // Whoever says something of a run holds it.
    prop_assert!(!wrote || !refused || place.holds_its_run());
    tx.commit().await.unwrap();
    if let Some(before) = before.filter(|_| refused) {
        prop_assert_eq!(ground.everything(&mut conn).await, before);
    }
    if refused && matches!(place, Place::RetryBy | Place::RetryReason) {
        let workflows = ground.story.chimeway().workflows();
        let stamp = Stamp::default();
        let freed = workflows.retry(&mut conn, org(), run.0, &stamp).await;
        prop_assert!(freed.is_ok());
    }
    Ok(())
}

fn hostile() -> impl Strategy<Value = Hostile> {
    (text(), json()).prop_map(|(text, json)| Hostile { text, json })
}

#[test]
fn any_value_is_taken_or_refused_before_the_database_sees_it() {
    let values = (select(PLACES), hostile());
    for_all(80, &values, &async |ground, (place, value)| {
        let run = ground.run_for(place).await;
        is_answered(ground, place, value, run).await?;
        ground.goes_on().await;
        Ok(())
    });
}

#[test]
fn every_place_with_every_bad_text() {
    let runtime = runtime();
    runtime.block_on(async {
        let ground = Ground::new().await;
        for &place in PLACES {
            let mut run = ground.run_for(place).await;
            for text in TEXTS {
                if matches!(place, Place::CancelBy | Place::CancelReason) {
                    run = ground.run_for(place).await;
                }
                let json = json!({ *text: text, "document_id": [text] });
                let text = (*text).to_owned();
                let value = Hostile { text, json };
                let answered = is_answered(&ground, place, value.clone(), run).await;
                answered.unwrap_or_else(|error| {
                    panic!("{place:?} with {}: {error}", shown(&value.text))
                });
            }
            ground.goes_on().await;
        }
    });
}

/// Exactly as deep as is allowed can be read by whoever reads it; one more is refused.
#[test]
fn what_is_nested_as_deep_as_allowed_is_sent_and_shown() {
    let runtime = runtime();
    runtime.block_on(async {
        let ground = Ground::new().await;
        for (place, run) in [
            (Place::TriggerParams, RunId::fresh()),
            (Place::TrackPayload, RunId::fresh()),
            (Place::UpdateContext, ground.waiting().await),
            (Place::UpdateStatusContext, ground.waiting().await),
            (Place::LineContext, ground.waiting().await),
        ] {
            let mut conn = ground.story.pool().acquire().await.unwrap();
            let value = |levels| Hostile {
                text: String::new(),
                json: json!({ "deep": nested(levels) }),
            };
            let taken = give(&ground, &mut conn, place, value(99), run).await;
            taken.unwrap_or_else(|error| panic!("{place:?}: {error}"));
            let refused = give(&ground, &mut conn, place, value(100), run).await;
            let refused = refused.unwrap_err().to_string();
            let expected = format!("{} is nested deeper than 100 levels", place.word());
            assert!(refused.starts_with(&expected), "{refused}");
            ground.goes_on().await;
            if place.needs_run() {
                let workflows = ground.story.chimeway().workflows();
                let shown = workflows.get_run(&mut conn, org(), run).await;
                assert!(shown.unwrap().is_some());
                let traces = workflows.list_traces(&mut conn, org(), run, None);
                assert!(traces.await.unwrap().is_some());
            }
        }
        let mut conn = ground.story.pool().acquire().await.unwrap();
        let inbox = ground.story.chimeway().inbox();
        let eve = actor("eve");
        let items = inbox.list(&mut conn, org(), &eve, Default::default());
        assert_eq!(items.await.unwrap()[0].params["deep"], nested(99));
    });
}
