//! Two tenants with people of the same name, and one of everything that a call can be about.

use chimeway::{
    Recipient, Signal, Trigger,
    flow::Preference,
    ids::{
        ActorId, DefinitionId, DeliveryId, EventId, NotificationId, RunId, SignalId, TenantId,
        WorkflowKey,
    },
};
use chimeway_testkit::{Answer, Story};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, types::Uuid};

use crate::{
    programs::masked,
    tools::{MENTION, MORNING},
};

const MAIL: &str = "{ key: mail, steps: [{ id: mail, action: { type: notify, channel: email, render_key: mail } }] }";

const ASKING: &str = "{ key: asking, steps: [{ id: ask, action: { type: approval, assignee: { user: approver } } }] }";

pub(super) const A: &str = "org_456";
pub(super) const B: &str = "org_999";
/// Whom both tenants know.
pub(super) const ADA: &str = "ada";

pub(super) struct World {
    pub(super) story: Story,
    pub(super) a: Things,
    pub(super) b: Things,
}

/// What one tenant has, or nobody.
#[derive(Debug, Clone)]
pub(super) struct Things {
    /// A run in its wait; ada's.
    pub(super) waiting: RunId,
    /// Two that wait for approval by `approver`.
    pub(super) asked: RunId,
    pub(super) asked_too: RunId,
    /// Its notification.
    pub(super) item: NotificationId,
    /// The event that began it, under an idempotency key.
    pub(super) event: EventId,
    pub(super) key: String,
    pub(super) delivered: DeliveryId,
    /// A message that failed and waits for its next try.
    pub(super) failed: DeliveryId,
    /// What was set aside.
    pub(super) lost_run: RunId,
    pub(super) lost_event: EventId,
    pub(super) lost_signal: SignalId,
    /// Not routed yet.
    pub(super) signal: SignalId,
    /// Somebody whom only this tenant knows, with addresses, preferences and an inbox.
    pub(super) person: ActorId,
    /// A workflow of which only this tenant has a run.
    pub(super) workflow: WorkflowKey,
    /// Definitions belong to no tenant.
    pub(super) definition: DefinitionId,
}

impl Things {
    /// Ids and names that nobody has.
    pub(super) fn of_nobody(&self) -> Self {
        Self {
            waiting: RunId::fresh(),
            asked: RunId::fresh(),
            asked_too: RunId::fresh(),
            item: NotificationId::fresh(),
            event: EventId::fresh(),
            key: "key_of_nobody".to_owned(),
            delivered: DeliveryId::fresh(),
            failed: DeliveryId::fresh(),
            lost_run: RunId::fresh(),
            lost_event: EventId::fresh(),
            lost_signal: SignalId::fresh(),
            signal: SignalId::fresh(),
            person: "nobody".parse().unwrap(),
            workflow: "unused".parse().unwrap(),
            definition: self.definition,
        }
    }

    fn names(&self) -> [(String, &'static str); 14] {
        [
            (self.asked.to_string(), "<asked>"),
            (self.asked_too.to_string(), "<asked_too>"),
            (self.waiting.to_string(), "<waiting>"),
            (self.item.to_string(), "<item>"),
            (self.event.to_string(), "<event>"),
            (self.key.clone(), "<key>"),
            (self.delivered.to_string(), "<delivered>"),
            (self.failed.to_string(), "<failed>"),
            (self.lost_run.to_string(), "<lost_run>"),
            (self.lost_event.to_string(), "<lost_event>"),
            (self.lost_signal.to_string(), "<lost_signal>"),
            (self.signal.to_string(), "<signal>"),
            (self.person.to_string(), "<person>"),
            (self.workflow.to_string(), "<workflow>"),
        ]
    }

    /// An answer with these ids and names replaced by what they are, and all other ids and instants
    /// hidden: what it says, whoever's ids they were.
    pub(super) fn told(&self, answer: &str) -> String {
        let told = self
            .names()
            .iter()
            .fold(answer.to_owned(), |text, (id, name)| text.replace(id, name));
        masked(&told)
    }

    /// Whether a text names something of this.
    pub(super) fn is_in(&self, text: &str) -> bool {
        self.names().iter().any(|(id, _)| text.contains(id))
    }
}

/// Every row that is not one tenant's: those of other tenants, and those of none.
const ALL_BUT: &str = "
create function public.all_but(tenant text) returns setof text language plpgsql as $$
declare
    name text;
begin
    for name in
        select c.relname from pg_class c
        where c.relnamespace = 'chimeway'::regnamespace and c.relkind = 'r' order by 1
    loop
        return query execute format(
            'select %L || '' '' || j::text from (select to_jsonb(t) as j from chimeway.%I t) r
             where j ->> ''tenant_id'' is distinct from $1
                and not exists (
                    select from chimeway.workflow_runs r
                    where r.tenant_id = $1 and r.id::text = j ->> ''workflow_run_id''
                )
                and not exists (
                    select from chimeway.deliveries d
                    where d.tenant_id = $1 and d.id::text = j ->> ''delivery_id''
                )
             order by 1', name, name)
        using tenant;
    end loop;
end $$";

/// Every row that is not `tenant`'s, a line each.
pub(super) async fn all_but(conn: &mut PgConnection, tenant: &str) -> Vec<String> {
    let rows = sqlx::query_scalar("select * from public.all_but($1)").bind(tenant);
    rows.fetch_all(conn).await.unwrap()
}

/// Takes hold of every row of a tenant that a session can take hold of, for as long as the
/// transaction is open.
pub(super) async fn hold_all_of(conn: &mut PgConnection, tenant: &str) {
    for statement in [
        "select from chimeway.events where tenant_id = $1 for update",
        "select from chimeway.signals where tenant_id = $1 for update",
        "select from chimeway.workflow_runs where tenant_id = $1 for update",
        "select from chimeway.deliveries where tenant_id = $1 for update",
        "select from chimeway.notifications where tenant_id = $1 for update",
        "select from chimeway.recipients where tenant_id = $1 for update",
        "select from chimeway.preferences where tenant_id = $1 for update",
        "select from chimeway.approvals where tenant_id = $1 for update",
        "select from chimeway.role_members where tenant_id = $1 for update",
    ] {
        let held = sqlx::query(statement).bind(tenant).fetch_all(&mut *conn);
        assert!(!held.await.unwrap().is_empty(), "{statement}");
    }
}

pub(super) async fn world() -> World {
    let story = Story::begin(MORNING).await;
    sqlx::raw_sql(ALL_BUT).execute(story.pool()).await.unwrap();
    story.apply(MENTION).await;
    story.apply(MAIL).await;
    story.apply(ASKING).await;
    for key in ["only_a", "only_b", "unused"] {
        story
            .apply(&format!(
                "{{ key: {key}, steps: [{{ id: rest, action: {{ type: wait, duration: P1D }} }}] }}"
            ))
            .await;
    }
    let mut a = furnish(&story, A, "alan", "only_a").await;
    let mut b = furnish(&story, B, "boris", "only_b").await;
    // Nobody drains after this: they stay unrouted.
    for (org, things) in [(A, &mut a), (B, &mut b)] {
        things.signal = tell(&story, org, ADA, "document_opened", json!({})).await;
    }
    World { story, a, b }
}

/// Tells what somebody of a tenant did.
pub(super) async fn tell(
    story: &Story,
    org: &str,
    who: &str,
    name: &str,
    payload: Value,
) -> SignalId {
    let tenant = org.parse().unwrap();
    let signal = Signal::new(tenant, who.parse().unwrap(), name.parse().unwrap());
    let mut conn = story.pool().acquire().await.unwrap();
    let told = story.chimeway().track(&mut conn, signal.payload(payload));
    told.await.unwrap()
}

/// Gives a tenant one of everything.
async fn furnish(story: &Story, org: &str, person: &str, workflow: &str) -> Things {
    let (pool, chimeway) = (story.pool(), story.chimeway());
    let tenant: TenantId = org.parse().unwrap();
    let key = format!("key_of_{org}");
    let mut conn = pool.acquire().await.unwrap();
    for who in [ADA, person] {
        let who: ActorId = who.parse().unwrap();
        let reached = Recipient::new(who.clone()).address("email", format!("{who}@{org}.example"));
        let recipients = chimeway.recipients();
        recipients
            .upsert(&mut conn, &tenant, &[reached])
            .await
            .unwrap();
        let marketing = Preference::Category("marketing".parse().unwrap());
        let preferences = chimeway.preferences();
        preferences
            .set(&mut conn, &tenant, &who, &[(marketing, false)])
            .await
            .unwrap();
    }
    let start = async |workflow: &str, who: &str, key: Option<&str>| {
        let mut trigger = Trigger::new(workflow.parse().unwrap(), tenant.clone())
            .recipient(Recipient::new(who.parse().unwrap()))
            .params(json!({ "document_id": format!("doc_of_{org}") }));
        trigger.idempotency_key = key.map(ToOwned::to_owned);
        let mut tx = pool.begin().await.unwrap();
        let event = chimeway.trigger(&mut tx, trigger).await.unwrap().event();
        tx.commit().await.unwrap();
        event
    };
    // The older item is the other's: a list of what came before one item has something in it.
    start("mention_escalation", person, None).await;
    let event = start("mention_escalation", ADA, Some(&key)).await;
    start(workflow, person, None).await;
    let asked = start("asking", person, None).await;
    let asked_too = start("asking", person, None).await;
    let manager = "manager".parse().unwrap();
    let members = [person.parse().unwrap()];
    let roles = chimeway.roles();
    roles
        .add(&mut conn, &tenant, &manager, &members)
        .await
        .unwrap();
    let lost = start("mention_escalation", person, None).await;
    story.drain().await;
    let mail = start("mail", ADA, None).await;
    story.channel().answer([Answer::Temporary(None)]);
    story.drain().await;
    let (waiting, lost_run) = (story.runs_of(event).await[0], story.runs_of(lost).await[0]);
    let failed = story.runs_of(mail).await[0];

    let lost_signal = tell(story, org, person, "document_opened", json!({})).await;
    let lost_event: Uuid = sqlx::query_scalar(
        "select chimeway.trigger('mention_escalation', jsonb_build_object('actor_id', $1::text), $2)",
    )
    .bind(person)
    .bind(org)
    .fetch_one(pool)
    .await
    .unwrap();
    set_aside(pool, lost_run, lost_event, lost_signal).await;

    let id_of = async |statement: &'static str, run: RunId| -> Uuid {
        let found = sqlx::query_scalar(statement).bind(run).fetch_one(pool);
        found.await.unwrap()
    };
    Things {
        waiting,
        asked: story.runs_of(asked).await[0],
        asked_too: story.runs_of(asked_too).await[0],
        item: id_of(
            "select notification_id from chimeway.workflow_runs where id = $1",
            waiting,
        )
        .await
        .into(),
        event,
        key,
        delivered: id_of(DELIVERY, waiting).await.into(),
        failed: id_of(DELIVERY, failed).await.into(),
        lost_run,
        lost_event: lost_event.into(),
        lost_signal,
        signal: lost_signal,
        person: person.parse().unwrap(),
        workflow: workflow.parse().unwrap(),
        definition: id_of(
            "select workflow_definition_id from chimeway.workflow_runs where id = $1",
            waiting,
        )
        .await
        .into(),
    }
}

const DELIVERY: &str = "select id from chimeway.deliveries where workflow_run_id = $1";

/// As three failed tries leave them.
async fn set_aside(pool: &PgPool, run: RunId, event: Uuid, signal: SignalId) {
    for (statement, id) in [
        (
            "update chimeway.workflow_runs set quarantine_reason = 'P0001', tries = 3, wake_at = null
             where id = $1",
            run.0,
        ),
        (
            "update chimeway.events set quarantine_reason = 'P0001', tries = 3, expand_at = null
             where id = $1",
            event,
        ),
        (
            "update chimeway.signals set quarantine_reason = 'P0001', tries = 3, route_at = null
             where id = $1",
            signal.0,
        ),
    ] {
        let set = sqlx::query(statement).bind(id).execute(pool).await.unwrap();
        assert_eq!(set.rows_affected(), 1, "{statement}");
    }
}
