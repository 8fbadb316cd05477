//! The rows of a journey, as the engine leaves them behind: events, notifications, runs with their whole
//! history, deliveries, attempts, in the same tables with the same indexes and checks.

use std::{ops::Range, sync::Arc};

use chimeway::{
    Document, WorkflowBuilder,
    channels::{
        Message,
        render::{Template, TemplateSource},
    },
    ids::{self, AttemptNumber, RenderKey, StepKey, TenantId, WorkflowKey},
};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::{
    Fallible,
    jobs::{self, Job},
};

const WORKFLOW: &str = "bench_elapses";
const MAIL_KEY: &str = "mention_email";
/// The wait, in whole seconds, as the storage keeps them.
pub(crate) const WAIT_SECONDS: u64 = 1;
/// What the email says: subject, text, HTML.
const MAIL: [&str; 3] = [
    include_str!("../../../journeys/templates/mention_email.subject.txt"),
    include_str!("../../../journeys/templates/mention_email.txt"),
    include_str!("../../../journeys/templates/mention_email.html"),
];

/// The journey, as `chimeway bench` has it.
pub(crate) fn document() -> Document {
    WorkflowBuilder::new(WORKFLOW)
        .notify("step_in_app", "in_app", "mention_notification")
        .wait("step_wait_for_read", "PT1S", |wait| {
            wait.stop_on("notification_read")
        })
        .notify("step_email_escalation", "email", MAIL_KEY)
        .document()
}

/// The template of the email, compiled once.
#[derive(Clone)]
pub(crate) struct Mail(Arc<Template>);

impl Mail {
    pub(crate) fn compile() -> Fallible<Self> {
        let [subject, text, html] = MAIL.map(|part| Some(part.to_owned()));
        let source = TemplateSource {
            subject,
            text,
            html,
        };
        let template = Template::compile(&RenderKey::new(MAIL_KEY)?, source);
        let template = template.map_err(|mistakes| format!("{} mistakes", mistakes.len()))?;
        Ok(Self(Arc::new(template)))
    }

    /// Renders the message, which goes nowhere; the hash of its template.
    pub(crate) fn render(&self, run: Uuid, delivery: Uuid, params: Value) -> Fallible<String> {
        let message = Message {
            delivery: delivery.into(),
            attempt: AttemptNumber(1),
            tenant: TenantId::new("bench")?,
            recipient: None,
            run: run.into(),
            notification: None,
            workflow: WorkflowKey::new(WORKFLOW)?,
            step: StepKey::new("step_email_escalation")?,
            channel: "email".parse()?,
            render_key: RenderKey::new(MAIL_KEY)?,
            params,
            context: Value::Object(Map::new()),
            call: None,
            address: None,
            locale: None,
            time_zone: None,
            content: None,
        };
        let content = self.0.render(&message);
        content.map_err(|failure| failure.problem.to_owned())?;
        Ok(self.0.hash().to_owned())
    }
}

/// What the rows of all journeys have in common.
#[derive(Clone)]
pub(crate) struct Journeys {
    tenant: String,
    definition: Uuid,
    /// In the order of the document: in-app, wait, email.
    steps: [Uuid; 3],
}

/// A line of a history: step, sequence, visit, from, to, reason, facts.
type Line = (
    usize,
    i32,
    i32,
    Option<&'static str>,
    &'static str,
    &'static str,
    Value,
);

impl Journeys {
    pub(crate) async fn read(conn: &mut PgConnection, tenant: &str) -> Fallible<Self> {
        let (definition, steps): (Uuid, Vec<Uuid>) = sqlx::query_as(
            "-- bench::definition
             select d.id, array_agg(s.id order by s.step_order)
             from chimeway.workflow_definitions d
             join chimeway.workflow_steps s on s.workflow_definition_id = d.id
             where d.workflow_key = $1 group by d.id",
        )
        .bind(WORKFLOW)
        .fetch_one(conn)
        .await?;
        Ok(Self {
            tenant: tenant.to_owned(),
            definition,
            steps: steps.try_into().map_err(|_| "not three steps")?,
        })
    }

    /// Starts journeys in one transaction, with as many statements as one takes.
    pub(crate) async fn trigger(
        &self,
        conn: &mut PgConnection,
        places: Range<usize>,
    ) -> Fallible<()> {
        let fresh = || -> Vec<Uuid> { places.clone().map(|_| ids::fresh()).collect() };
        let (events, notifications, runs) = (fresh(), fresh(), fresh());
        let deliveries = fresh();
        let actors: Vec<String> = places
            .clone()
            .map(|place| format!("user_{place}"))
            .collect();
        let params = places.clone().zip(&actors).map(|(place, actor)| {
            json!({
                "actor_id": actor, "name": "Ada", "by": "Grace",
                "document": "The plan for the next quarter", "document_id": format!("doc_{place}"),
            })
        });
        let params: Vec<Value> = params.collect();
        let mut tx = conn.begin().await?;
        let at: DateTime<Utc> = sqlx::query_scalar(
            "insert into chimeway.events (id, tenant_id, workflow_key, workflow_definition_id, params,
                occurred_at, inserted_at)
             select u.id, $3, $4, $5, u.params, now(), now() from unnest($1::uuid[], $2::jsonb[]) u (id, params)
             returning occurred_at",
        )
        .bind(&events)
        .bind(&params)
        .bind(&self.tenant)
        .bind(WORKFLOW)
        .bind(self.definition)
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query(
            "insert into chimeway.notifications (id, event_id, tenant_id, recipient, inserted_at)
             select u.id, u.event, $4, u.actor, $5 from unnest($1::uuid[], $2::uuid[], $3::text[]) u (id, event, actor)",
        )
        .bind(&notifications)
        .bind(&events)
        .bind(&actors)
        .bind(&self.tenant)
        .bind(at)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "insert into chimeway.workflow_runs (id, notification_id, workflow_definition_id, current_step_id,
                started_at, last_transition_at, visit, transition_count, tenant_id, actor_id, state, status_reason)
             select u.id, u.notification, $4, $5, $6, $6, 1, 2, $7, u.actor, 'active', 'workflow_started'
             from unnest($1::uuid[], $2::uuid[], $3::text[]) u (id, notification, actor)",
        )
        .bind(&runs)
        .bind(&notifications)
        .bind(&actors)
        .bind(self.definition)
        .bind(self.steps[0])
        .bind(at)
        .bind(&self.tenant)
        .execute(&mut *tx)
        .await?;
        let lines = [
            (
                0,
                1,
                0,
                None,
                "active",
                "workflow_started",
                json!({ "workflow": WORKFLOW }),
            ),
            (
                0,
                2,
                1,
                Some("active"),
                "active",
                "step_activated",
                json!({ "step_key": "step_in_app" }),
            ),
        ];
        self.append(&mut tx, &runs, None, &lines).await?;
        sqlx::query(
            "insert into chimeway.deliveries (id, workflow_run_id, notification_id, workflow_step_id, visit,
                tenant_id, channel, next_attempt_at, inserted_at, updated_at)
             select u.id, u.run, u.notification, $4, 1, $5, 'in_app', now(), now(), now()
             from unnest($1::uuid[], $2::uuid[], $3::uuid[]) u (id, run, notification)",
        )
        .bind(&deliveries)
        .bind(&runs)
        .bind(&notifications)
        .bind(self.steps[0])
        .bind(&self.tenant)
        .execute(&mut *tx)
        .await?;
        let job = |(&run, &delivery)| Job::InApp { run, delivery };
        let jobs: Vec<Job> = runs.iter().zip(&deliveries).map(job).collect();
        jobs::enqueue(&mut tx, &jobs, 0).await?;
        Ok(tx.commit().await?)
    }

    /// What a message is made of.
    pub(crate) async fn message(&self, conn: &mut PgConnection, delivery: Uuid) -> Fallible<Value> {
        Ok(sqlx::query_scalar(
            "select e.params
             from chimeway.deliveries d
             join chimeway.notifications n on n.id = d.notification_id
             join chimeway.events e on e.id = n.event_id
             left join chimeway.recipients p on p.tenant_id = d.tenant_id and p.identity = n.recipient
             where d.id = $1",
        )
        .bind(delivery)
        .fetch_one(conn)
        .await?)
    }

    /// The in-app message was sent: the run waits.
    pub(crate) async fn sent_in_app(
        &self,
        conn: &mut PgConnection,
        run: Uuid,
        delivery: Uuid,
    ) -> Fallible<()> {
        let facts = json!({
            "from_step": "step_in_app", "delivery_status": "succeeded",
            "pending_signals": ["notification_read"], "suspended_until": "2026-03-02T09:00:00.000000Z",
            "workflow_outcome": "delivered",
        });
        self.result(conn, delivery, "in_app", None).await?;
        sqlx::query(
            "update chimeway.workflow_runs set current_step_id = $2, visit = 2, state = 'waiting',
                status_reason = 'waiting_for_step_progression', suspended_until = now() + interval '1 second', wake_at = now() + interval '1 second',
                pending_signals = array['notification_read'], transition_count = 3, last_transition_at = now(),
                status_context = $3
             where id = $1",
        )
        .bind(run)
        .bind(self.steps[1])
        .bind(&facts)
        .execute(&mut *conn)
        .await?;
        let line = (
            1,
            3,
            2,
            Some("active"),
            "waiting",
            "waiting_for_step_progression",
            facts,
        );
        self.append(conn, &[run], Some(delivery), &[line]).await
    }

    /// The wait is over: the email is planned.
    pub(crate) async fn elapsed(&self, conn: &mut PgConnection, run: Uuid) -> Fallible<Uuid> {
        let delivery = ids::fresh();
        let (notification, tenant): (Uuid, String) = sqlx::query_as(
            "update chimeway.workflow_runs set current_step_id = $2, visit = 3, state = 'active',
                status_reason = 'reactivated_from_wait', suspended_until = null, wake_at = null, pending_signals = '{}',
                transition_count = 5, last_transition_at = now()
             where id = $1 returning notification_id, tenant_id",
        )
        .bind(run)
        .bind(self.steps[2])
        .fetch_one(&mut *conn)
        .await?;
        let lines = [
            (
                1,
                4,
                2,
                Some("waiting"),
                "active",
                "reactivated_from_wait",
                json!({ "step_key": "step_wait_for_read" }),
            ),
            (
                2,
                5,
                3,
                Some("active"),
                "active",
                "step_activated",
                json!({ "step_key": "step_email_escalation" }),
            ),
        ];
        self.append(conn, &[run], None, &lines).await?;
        sqlx::query(
            "insert into chimeway.deliveries (id, workflow_run_id, notification_id, workflow_step_id, visit,
                tenant_id, channel, next_attempt_at, inserted_at, updated_at)
             values ($1, $2, $3, $4, 3, $5, 'email', now(), now(), now())",
        )
        .bind(delivery)
        .bind(run)
        .bind(notification)
        .bind(self.steps[2])
        .bind(tenant)
        .execute(conn)
        .await?;
        Ok(delivery)
    }

    /// The email was sent: the run is completed.
    pub(crate) async fn sent_email(
        &self,
        conn: &mut PgConnection,
        run: Uuid,
        delivery: Uuid,
        template_hash: &str,
    ) -> Fallible<()> {
        let facts = json!({
            "from_step": "step_email_escalation", "delivery_status": "succeeded", "workflow_outcome": "delivered",
        });
        self.result(conn, delivery, "bench", Some(template_hash))
            .await?;
        sqlx::query(
            "update chimeway.workflow_runs set state = 'completed', status_reason = 'workflow_completed',
                status_context = $2, terminal_reason = 'completed', ended_at = now(), transition_count = 6,
                last_transition_at = now()
             where id = $1",
        )
        .bind(run)
        .bind(&facts)
        .execute(&mut *conn)
        .await?;
        let line = (
            2,
            6,
            3,
            Some("active"),
            "completed",
            "workflow_completed",
            facts,
        );
        self.append(conn, &[run], Some(delivery), &[line]).await
    }

    /// A message's end, and the try that made it.
    async fn result(
        &self,
        conn: &mut PgConnection,
        delivery: Uuid,
        adapter: &str,
        template_hash: Option<&str>,
    ) -> Fallible<()> {
        sqlx::query(
            "update chimeway.deliveries set status = 'succeeded', next_attempt_at = null, claim_no = 1,
                attempts = 1, updated_at = now()
             where id = $1",
        )
        .bind(delivery)
        .execute(&mut *conn)
        .await?;
        sqlx::query(
            "insert into chimeway.delivery_attempts (delivery_id, attempt_number, claim_no, started_at, finished_at,
                outcome, adapter, worker, template_hash)
             values ($1, 1, 1, now(), now(), 'succeeded', $2, 'jobs-0-000000000000', $3)",
        )
        .bind(delivery)
        .bind(adapter)
        .bind(template_hash)
        .execute(conn)
        .await?;
        Ok(())
    }

    /// Lines of history, of each of the runs; a delivery for those that its result wrote.
    async fn append(
        &self,
        conn: &mut PgConnection,
        runs: &[Uuid],
        delivery: Option<Uuid>,
        lines: &[Line],
    ) -> Fallible<()> {
        let lines = || lines.iter();
        sqlx::query(
            "insert into chimeway.workflow_transitions (workflow_run_id, workflow_step_id, sequence, visit,
                from_state, to_state, reason, context, inserted_at, delivery_id)
             select r.id, l.step, l.sequence, l.visit, l.from_state, l.to_state, l.reason, l.context, now(), $9
             from unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::text[], $6::text[], $7::jsonb[])
                    l (step, sequence, visit, from_state, to_state, reason, context),
                unnest($8::uuid[]) r (id)",
        )
        .bind(lines().map(|line| self.steps[line.0]).collect::<Vec<_>>())
        .bind(lines().map(|line| line.1).collect::<Vec<_>>())
        .bind(lines().map(|line| line.2).collect::<Vec<_>>())
        .bind(lines().map(|line| line.3).collect::<Vec<_>>())
        .bind(lines().map(|line| line.4).collect::<Vec<_>>())
        .bind(lines().map(|line| line.5).collect::<Vec<_>>())
        .bind(lines().map(|line| line.6.clone()).collect::<Vec<_>>())
        .bind(runs)
        .bind(delivery)
        .execute(conn)
        .await?;
        Ok(())
    }
}

/// How many journeys have not ended.
pub(crate) async fn live(conn: &mut PgConnection, tenant: &str) -> Fallible<i64> {
    Ok(sqlx::query_scalar(
        "-- bench::live
         select count(*) from chimeway.workflow_runs where tenant_id = $1 and ended_at is null",
    )
    .bind(tenant)
    .fetch_one(conn)
    .await?)
}

/// From the first trigger to the last end, in seconds; and how many are completed.
pub(crate) async fn told(conn: &mut PgConnection, tenant: &str) -> Fallible<(f64, i64)> {
    Ok(sqlx::query_as(
        "-- bench::told
         select coalesce(extract(epoch from max(ended_at) - min(started_at)), 0)::float8,
            count(*) filter (where state = 'completed')
         from chimeway.workflow_runs where tenant_id = $1",
    )
    .bind(tenant)
    .fetch_one(conn)
    .await?)
}
