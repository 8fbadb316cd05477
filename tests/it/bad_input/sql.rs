//! Every argument of every function of the SQL API.

use chimeway::ids::RunId;
use proptest::{prelude::*, sample::select};
use sqlx::Connection as _;

use super::{
    Ground, Verdict, for_all, runtime, shown,
    values::{JSON_TEXTS, TEXTS, json_text, text},
};

/// An argument.
#[derive(Debug, Clone, Copy)]
struct Argument {
    /// Its name, for failures.
    name: &'static str,
    /// The call: `$1` is the hostile value, `$2` a run that waits.
    call: &'static str,
    /// What a refusal of ours names.
    word: &'static str,
    /// Whether it is to be JSON.
    is_json: bool,
}

macro_rules! arguments {
    ($($kind:ident $name:literal $call:literal $word:literal)*) => {
        const ARGUMENTS: &[Argument] = &[$(Argument {
            name: $name, call: $call, word: $word, is_json: arguments!($kind),
        }),*];
    };
    (text) => { false };
    (json) => { true };
}

arguments! {
    text "trigger.workflow"
        "select chimeway.trigger($1, '{}', 'org_456', '[{\"identity\": \"eve\"}]')::text" "workflow"
    json "trigger.params"
        "select chimeway.trigger('hostile', $1::text::jsonb, 'org_456', '[{\"identity\": \"eve\"}]')::text" "params"
    text "trigger.params.actor_id"
        "select chimeway.trigger('hostile', jsonb_build_object('actor_id', $1::text), 'org_456')::text" "recipient"
    json "trigger.params.actor_id as any JSON"
        "select chimeway.trigger('hostile', jsonb_build_object('actor_id', $1::text::jsonb), 'org_456')::text" ""
    text "trigger.params.category"
        "select chimeway.trigger('hostile', jsonb_build_object('category', $1::text, 'document_id', $1::text, 'actor_id', 'eve'), 'org_456')::text" "params"
    text "trigger.tenant_id"
        "select chimeway.trigger('hostile', '{}', $1, '[{\"identity\": \"eve\"}]')::text" "tenant"
    json "trigger.recipients"
        "select chimeway.trigger('hostile', '{}', 'org_456', $1::text::jsonb)::text" "recipient"
    json "trigger.recipients[0]"
        "select chimeway.trigger('hostile', '{}', 'org_456', jsonb_build_array($1::text::jsonb))::text" "recipient"
    text "trigger.recipients.identity"
        "select chimeway.trigger('hostile', '{}', 'org_456', jsonb_build_array(jsonb_build_object('identity', $1::text)))::text" "recipient"
    text "trigger.recipients.type"
        "select chimeway.trigger('hostile', '{}', 'org_456', jsonb_build_array(jsonb_build_object('identity', 'eve', 'type', $1::text)))::text" "recipient"
    text "trigger.recipients.address"
        "select chimeway.trigger('hostile', '{}', 'org_456', jsonb_build_array(jsonb_build_object('identity', 'eve', 'addresses', jsonb_build_object('in_app', $1::text))))::text" "address of a recipient"
    text "trigger.recipients.channel"
        "select chimeway.trigger('hostile', '{}', 'org_456', jsonb_build_array(jsonb_build_object('identity', 'eve', 'addresses', jsonb_build_object($1::text, 'there'))))::text" "address of a recipient"
    json "trigger.recipients.addresses"
        "select chimeway.trigger('hostile', '{}', 'org_456', jsonb_build_array(jsonb_build_object('identity', 'eve', 'addresses', $1::text::jsonb)))::text" "recipient"
    text "trigger.recipients.locale"
        "select chimeway.trigger('hostile', '{}', 'org_456', jsonb_build_array(jsonb_build_object('identity', 'eve', 'locale', $1::text)))::text" "locale"
    text "trigger.recipients.time_zone"
        "select chimeway.trigger('hostile', '{}', 'org_456', jsonb_build_array(jsonb_build_object('identity', 'eve', 'time_zone', $1::text)))::text" "time zone"
    text "trigger.idempotency_key"
        "select chimeway.trigger('hostile', '{}', 'org_456', '[{\"identity\": \"eve\"}]', $1)::text" "idempotency key"
    text "trigger.correlation_id"
        "select chimeway.trigger('hostile', '{}', 'org_456', '[{\"identity\": \"eve\"}]', null, $1)::text" "correlation"
    text "track.tenant_id"
        "select chimeway.track($1, 'ada', 'go_on')::text" "tenant"
    text "track.actor_id"
        "select chimeway.track('org_456', $1, 'go_on')::text" "actor"
    text "track.event_name"
        "select chimeway.track('org_456', 'ada', $1)::text" "event name"
    json "track.payload"
        "select chimeway.track('org_456', 'ada', 'go_on', $1::text::jsonb)::text" "payload"
    text "track.payload.notification_id"
        "select chimeway.track('org_456', 'ada', 'go_on', jsonb_build_object('notification_id', $1::text, 'delivery_id', $1::text))::text" "payload"
    text "upsert_recipient.tenant_id"
        "select chimeway.upsert_recipient($1, 'eve', '{\"email\": \"eve@e.example\"}')::text" "tenant"
    text "upsert_recipient.identity"
        "select chimeway.upsert_recipient('org_456', $1, '{\"email\": \"eve@e.example\"}')::text" "recipient"
    json "upsert_recipient.addresses"
        "select chimeway.upsert_recipient('org_456', 'eve', $1::text::jsonb)::text" "recipient"
    text "upsert_recipient.locale"
        "select chimeway.upsert_recipient('org_456', 'eve', '{}', $1)::text" "locale"
    text "upsert_recipient.time_zone"
        "select chimeway.upsert_recipient('org_456', 'eve', '{}', null, $1)::text" "time zone"
    text "set_preference.tenant_id"
        "select chimeway.set_preference($1, 'eve', 'channel', 'email', false)::text" "tenant"
    text "set_preference.identity"
        "select chimeway.set_preference('org_456', $1, 'channel', 'email', false)::text" "recipient"
    text "set_preference.kind"
        "select chimeway.set_preference('org_456', 'eve', $1, 'email', false)::text" "preference"
    text "set_preference.name"
        "select chimeway.set_preference('org_456', 'eve', 'category', $1, false)::text" "preference"
    text "set_preference.enabled"
        "select chimeway.set_preference('org_456', 'eve', 'category', 'news', $1::text::boolean)::text" "preference"
    text "cancel.tenant_id"
        "select chimeway.cancel($1, $2, 'why not')::text" "tenant"
    text "cancel.run_id"
        "select chimeway.cancel('org_456', $1::text::uuid, 'why not')::text" "run"
    text "cancel.reason"
        "select chimeway.cancel('org_456', $2, $1)::text" "reason"
    text "explain.tenant_id"
        "select chimeway.explain($1, $2)::text" "tenant"
    text "explain.run_id"
        "select chimeway.explain('org_456', $1::text::uuid)::text" "run"
}

/// Calls with it, in a savepoint of the caller's transaction, which goes on. A refusal is one of ours,
/// which names the place, or of class 22; being one statement, it leaves nothing behind.
async fn is_answered(ground: &Ground, argument: Argument, value: &str) -> Verdict {
    // A statement with fewer arguments does not take more.
    let takes_run = argument.call.contains("$2");
    let run = match takes_run {
        true => ground.waiting().await,
        false => RunId::fresh(),
    };
    let mut conn = ground.story.pool().acquire().await.unwrap();
    let mut tx = conn.begin().await.unwrap();
    let mut inner = tx.begin().await.unwrap();
    let call = match takes_run {
        true => sqlx::query_scalar::<_, Option<String>>(argument.call)
            .bind(value)
            .bind(run),
        false => sqlx::query_scalar(argument.call).bind(value),
    };
    let answer = call.persistent(false).fetch_one(&mut *inner).await;
    match answer {
        Ok(_) => inner.commit().await.unwrap(),
        Err(error) => {
            inner.rollback().await.unwrap();
            let told = error.as_database_error();
            let code = told.and_then(sqlx::error::DatabaseError::code);
            let code = code.unwrap_or_default().into_owned();
            prop_assert!(
                code.starts_with("CW0") || code.starts_with("22"),
                "{error:?}"
            );
            if code.starts_with("CW0") {
                let message = told.map_or("", |told| told.message());
                prop_assert!(message.contains(argument.word), "{message}");
            }
        }
    }
    tx.commit().await.unwrap();
    Ok(())
}

fn hostile() -> impl Strategy<Value = (Argument, String)> {
    select(ARGUMENTS).prop_flat_map(|argument| {
        let value = match argument.is_json {
            true => json_text().boxed(),
            false => text().boxed(),
        };
        (Just(argument), value)
    })
}

#[test]
fn any_argument_of_an_sql_function_is_taken_or_refused() {
    for_all(80, &hostile(), &async |ground, (argument, value)| {
        is_answered(ground, argument, &value).await?;
        ground.goes_on().await;
        Ok(())
    });
}

/// Each of them with each of the texts that have broken something somewhere.
#[test]
fn every_argument_of_an_sql_function_with_every_bad_text() {
    let runtime = runtime();
    runtime.block_on(async {
        let ground = Ground::new().await;
        for argument in ARGUMENTS {
            let values = if argument.is_json { JSON_TEXTS } else { TEXTS };
            for value in values {
                let answered = is_answered(&ground, *argument, value).await;
                answered.unwrap_or_else(|error| {
                    panic!("{} with {}: {error}", argument.name, shown(value))
                });
            }
            ground.goes_on().await;
        }
    });
}
