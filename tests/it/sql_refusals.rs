//! What the SQL functions refuse: a stable SQLSTATE, what is wrong, how to mend it, and not a row.

use std::fmt::Write as _;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection, postgres::PgDatabaseError};

use crate::host::{Host, comment};

/// `trigger`, with params and recipients as JSON texts: a mistake and the arguments that make it.
const TRIGGERS: &[(&str, [Option<&str>; 5])] = &[
    (
        "unknown workflow",
        [Some("no_such"), OBJECT, TENANT, ADA, None],
    ),
    ("no workflow", [None, OBJECT, TENANT, ADA, None]),
    (
        "paused workflow",
        [Some("paused"), OBJECT, TENANT, ADA, None],
    ),
    ("blank tenant", [JOURNEY, OBJECT, Some(" "), ADA, None]),
    ("no tenant", [JOURNEY, OBJECT, None, ADA, None]),
    (
        "tenant of two lines",
        [JOURNEY, OBJECT, Some("org\n456"), ADA, None],
    ),
    (
        "params are a list",
        [JOURNEY, Some("[]"), TENANT, ADA, None],
    ),
    (
        "params are null",
        [JOURNEY, Some("null"), TENANT, ADA, None],
    ),
    ("no params", [JOURNEY, None, TENANT, ADA, None]),
    ("nobody", [JOURNEY, OBJECT, TENANT, None, None]),
    (
        "a blank actor",
        [JOURNEY, Some(r#"{"actor_id": " "}"#), TENANT, None, None],
    ),
    (
        "an actor that is a number",
        [JOURNEY, Some(r#"{"actor_id": 7}"#), TENANT, None, None],
    ),
    (
        "no recipients in the list",
        [JOURNEY, OBJECT, TENANT, Some("[]"), None],
    ),
    (
        "recipients are no list",
        [JOURNEY, OBJECT, TENANT, Some(r#"{"identity": "a"}"#), None],
    ),
    (
        "recipients are null",
        [JOURNEY, OBJECT, TENANT, Some("null"), None],
    ),
    (
        "a recipient that is a text",
        [JOURNEY, OBJECT, TENANT, Some(r#"["user_123"]"#), None],
    ),
    (
        "a recipient without a name",
        [JOURNEY, OBJECT, TENANT, Some(r#"[{"type": "user"}]"#), None],
    ),
    (
        "a blank recipient",
        [JOURNEY, OBJECT, TENANT, Some(r#"[{"identity": ""}]"#), None],
    ),
    (
        "the second recipient is bad",
        [
            JOURNEY,
            OBJECT,
            TENANT,
            Some(r#"[{"identity": "a"}, {"identity": "b\u0007"}]"#),
            None,
        ],
    ),
    (
        "addresses that are a text",
        [
            JOURNEY,
            OBJECT,
            TENANT,
            Some(r#"[{"identity": "a", "addresses": "a@b.example"}]"#),
            None,
        ],
    ),
    (
        "a time zone that is a number",
        [
            JOURNEY,
            OBJECT,
            TENANT,
            Some(r#"[{"identity": "a", "time_zone": 2}]"#),
            None,
        ],
    ),
    ("a blank key", [JOURNEY, OBJECT, TENANT, ADA, Some("  ")]),
    (
        "the key of another workflow",
        [Some("other"), OBJECT, TENANT, ADA, Some("taken")],
    ),
];

const JOURNEY: Option<&str> = Some("mention_escalation");
const OBJECT: Option<&str> = Some("{}");
const TENANT: Option<&str> = Some("org_456");
const ADA: Option<&str> =
    Some(r#"[{"identity": "user_123", "addresses": {"email": "ada@example.com"}}]"#);

/// `track`, with the payload as a JSON text.
const SIGNALS: &[(&str, [Option<&str>; 4])] = &[
    (
        "blank tenant",
        [Some(""), Some("user_123"), Some("read"), OBJECT],
    ),
    ("no tenant", [None, Some("user_123"), Some("read"), OBJECT]),
    ("blank actor", [TENANT, Some("\t"), Some("read"), OBJECT]),
    ("no actor", [TENANT, None, Some("read"), OBJECT]),
    ("blank event", [TENANT, Some("user_123"), Some(" "), OBJECT]),
    ("no event", [TENANT, Some("user_123"), None, OBJECT]),
    (
        "payload is a text",
        [TENANT, Some("user_123"), Some("read"), Some("\"read\"")],
    ),
    ("no payload", [TENANT, Some("user_123"), Some("read"), None]),
];

#[tokio::test]
async fn every_refusal_says_what_and_how_to_mend_it_and_writes_nothing() {
    let host = host().await;
    let mut conn = host.db.connect().await;
    let before = host.rows().await;
    let mut told = String::new();
    // All in one transaction: a host goes on after a refusal by its savepoint.
    let mut tx = conn.begin().await.unwrap();
    for (mistake, arguments) in TRIGGERS {
        let refusal = trigger(&mut tx, *arguments).await.unwrap_err();
        writeln!(told, "{mistake}: {}", line(refusal)).unwrap();
    }
    for (mistake, arguments) in SIGNALS {
        let refusal = track(&mut tx, *arguments).await.unwrap_err();
        writeln!(told, "{mistake}: {}", line(refusal)).unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(host.rows().await, before);
    insta::assert_snapshot!(told, @r#"
    unknown workflow: CW001 there is no workflow 'no_such'; apply its document with `chimeway workflows apply`; `chimeway workflows list` shows what there is
    no workflow: CW001 there is no workflow NULL; apply its document with `chimeway workflows apply`; `chimeway workflows list` shows what there is
    paused workflow: CW002 the workflow 'paused' is paused; resume it with `chimeway workflows resume paused`
    blank tenant: CW003 the tenant is blank, longer than 255 bytes or holds a control character; pass tenant_id, for example tenant_id => 'org_456'
    no tenant: CW003 the tenant is blank, longer than 255 bytes or holds a control character; pass tenant_id, for example tenant_id => 'org_456'
    tenant of two lines: CW003 the tenant is blank, longer than 255 bytes or holds a control character; pass tenant_id, for example tenant_id => 'org_456'
    params are a list: CW004 params is not a JSON object; write {"actor_id": "user_123", ..}
    params are null: CW004 params is not a JSON object; write {"actor_id": "user_123", ..}
    no params: CW004 params is not a JSON object; write {"actor_id": "user_123", ..}
    nobody: CW005 there is no recipient: neither recipients nor params.actor_id is given; pass recipients => '[{"identity": "user_123"}]'
    a blank actor: CW005 there is no recipient: neither recipients nor params.actor_id is given; pass recipients => '[{"identity": "user_123"}]'
    an actor that is a number: CW005 there is no recipient: neither recipients nor params.actor_id is given; pass recipients => '[{"identity": "user_123"}]'
    no recipients in the list: CW005 recipients is not a list of at least one recipient; write [{"identity": "user_123"}]
    recipients are no list: CW005 recipients is not a list of at least one recipient; write [{"identity": "user_123"}]
    recipients are null: CW005 recipients is not a list of at least one recipient; write [{"identity": "user_123"}]
    a recipient that is a text: CW005 a recipient has no identity, or a field of the wrong type; write [{"identity": "user_123", "type": "user", "addresses": {"email": ".."}}]
    a recipient without a name: CW005 a recipient has no identity, or a field of the wrong type; write [{"identity": "user_123", "type": "user", "addresses": {"email": ".."}}]
    a blank recipient: CW005 a recipient has no identity, or a field of the wrong type; write [{"identity": "user_123", "type": "user", "addresses": {"email": ".."}}]
    the second recipient is bad: CW005 a recipient has no identity, or a field of the wrong type; write [{"identity": "user_123", "type": "user", "addresses": {"email": ".."}}]
    addresses that are a text: CW005 a recipient has no identity, or a field of the wrong type; write [{"identity": "user_123", "type": "user", "addresses": {"email": ".."}}]
    a time zone that is a number: CW005 a recipient has no identity, or a field of the wrong type; write [{"identity": "user_123", "type": "user", "addresses": {"email": ".."}}]
    a blank key: CW006 the idempotency key is blank or longer than 255 bytes; leave it out, or pass what makes this trigger unique
    the key of another workflow: CW007 the idempotency key was used for the workflow 'mention_escalation'; use another key for another workflow
    blank tenant: CW003 the tenant is blank, longer than 255 bytes or holds a control character; pass tenant_id, for example tenant_id => 'org_456'
    no tenant: CW003 the tenant is blank, longer than 255 bytes or holds a control character; pass tenant_id, for example tenant_id => 'org_456'
    blank actor: CW008 the actor is blank, longer than 255 bytes or holds a control character; pass actor_id, for example actor_id => 'user_123'
    no actor: CW008 the actor is blank, longer than 255 bytes or holds a control character; pass actor_id, for example actor_id => 'user_123'
    blank event: CW009 the event name is blank, longer than 255 bytes or holds a control character; pass event_name, for example event_name => 'notification_read'
    no event: CW009 the event name is blank, longer than 255 bytes or holds a control character; pass event_name, for example event_name => 'notification_read'
    payload is a text: CW004 payload is not a JSON object; write {} where there is nothing to say
    no payload: CW004 payload is not a JSON object; write {} where there is nothing to say
    "#);
}

#[tokio::test]
async fn names_are_255_bytes_long_at_most() {
    let host = host().await;
    let mut conn = host.db.connect().await;
    let mut tx = conn.begin().await.unwrap();
    // Bytes, not characters: three names must fit into one index entry.
    let (longest, too_long) = (format!("{}a", "ß".repeat(127)), "ß".repeat(128));
    let person = |name: &str| format!(r#"[{{"identity": "{name}"}}]"#);
    let call = |tenant, recipients, key| [JOURNEY, OBJECT, Some(tenant), Some(recipients), key];
    let (fits, does_not) = (person(&longest), person(&too_long));
    trigger(&mut tx, call(&longest, &fits, Some(&longest)))
        .await
        .unwrap();
    for (arguments, code) in [
        (call(&too_long, &fits, None), "CW003"),
        (call(&longest, &does_not, None), "CW005"),
        (call(&longest, &fits, Some(&too_long)), "CW006"),
    ] {
        let refusal = trigger(&mut tx, arguments).await.unwrap_err();
        assert_eq!(code_of(&refusal), code);
    }
    let call = |tenant, actor, event| [Some(tenant), Some(actor), Some(event), OBJECT];
    track(&mut tx, call(&longest, &longest, &longest))
        .await
        .unwrap();
    for (arguments, code) in [
        (call(&too_long, &longest, &longest), "CW003"),
        (call(&longest, &too_long, &longest), "CW008"),
        (call(&longest, &longest, &too_long), "CW009"),
    ] {
        let refusal = track(&mut tx, arguments).await.unwrap_err();
        assert_eq!(code_of(&refusal), code);
    }
}

/// Without a savepoint a refusal takes the host's own row with it, as any error does.
#[tokio::test]
async fn a_refusal_fails_the_transaction_it_is_in() {
    let host = host().await;
    let before = host.rows().await;
    let mut conn = host.db.connect().await;
    let mut tx = conn.begin().await.unwrap();
    comment(&mut tx).await;
    let call = sqlx::query("select chimeway.trigger('no_such', '{}', 'org_456')");
    call.execute(&mut *tx).await.unwrap_err();
    tx.commit().await.unwrap();
    assert_eq!(host.rows().await, before);
}

/// A host with an active workflow, a paused one, another one, and a key that is taken.
async fn host() -> Host {
    let host = Host::begin().await;
    for key in ["paused", "other"] {
        let document =
            crate::host::JOURNEY.replace("key: mention_escalation", &format!("key: {key}"));
        let document = chimeway::Document::from_yaml("a.yaml", &document).unwrap();
        host.chimeway.apply(host.pool(), &document).await.unwrap();
    }
    let mut conn = host.pool().acquire().await.unwrap();
    let pause = chimeway::store::workflows::set_active(&mut conn, "paused", false);
    assert!(pause.await.unwrap());
    trigger(&mut conn, [JOURNEY, OBJECT, TENANT, ADA, Some("taken")])
        .await
        .unwrap();
    host
}

/// Calls inside a savepoint, which is left behind as it was where the call is refused.
async fn trigger(
    conn: &mut PgConnection,
    [workflow, params, tenant, recipients, key]: [Option<&str>; 5],
) -> Result<(), sqlx::Error> {
    let mut savepoint = conn.begin().await?;
    sqlx::query("select chimeway.trigger($1, $2, $3, $4, $5)")
        .bind(workflow)
        .bind(json(params))
        .bind(tenant)
        .bind(json(recipients))
        .bind(key)
        .execute(&mut *savepoint)
        .await?;
    savepoint.commit().await
}

async fn track(
    conn: &mut PgConnection,
    [tenant, actor, event, payload]: [Option<&str>; 4],
) -> Result<(), sqlx::Error> {
    let mut savepoint = conn.begin().await?;
    sqlx::query("select chimeway.track($1, $2, $3, $4)")
        .bind(tenant)
        .bind(actor)
        .bind(event)
        .bind(json(payload))
        .execute(&mut *savepoint)
        .await?;
    savepoint.commit().await
}

fn json(text: Option<&str>) -> Option<Value> {
    text.map(|text| serde_json::from_str(text).unwrap())
}

fn code_of(error: &sqlx::Error) -> String {
    let error = error.as_database_error().unwrap();
    error.code().unwrap().into_owned()
}

/// `CW001 what; how to mend it`
fn line(error: sqlx::Error) -> String {
    let error = error.into_database_error().unwrap();
    let error = error.downcast::<PgDatabaseError>();
    let hint = error.hint().unwrap_or("NO HINT");
    format!("{} {}; {hint}", error.code(), error.message())
}
