//! Every call of the library that takes a tenant.

use chimeway::{
    Chimeway, FlowError, Recipient, Signal, Trigger,
    flow::{
        Preference,
        inbox::{Mark, Page},
        workflows::Stamp,
    },
    ids::TenantId,
};
use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use super::world::Things;

macro_rules! calls {
    ($($call:ident: $function:literal,)*) => {
        /// A call, and the function that it calls.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Call { $($call),* }

        impl Call {
            pub(super) const ALL: &[Self] = &[$(Self::$call),*];

            pub(super) const fn function(self) -> &'static str {
                match self { $(Self::$call => $function),* }
            }
        }
    };
}

calls! {
    GetRun: "workflows.get_run",
    Explain: "workflows.explain",
    ListTraces: "workflows.list_traces",
    ListNoTraces: "workflows.list_traces",
    Progress: "workflows.progress",
    ProgressLost: "workflows.progress",
    Cancel: "workflows.cancel",
    CancelLost: "workflows.cancel",
    CancelWorkflow: "workflows.cancel_workflow",
    RetryDelivery: "workflows.retry",
    RetryRun: "workflows.retry",
    RetryEvent: "workflows.retry",
    RetrySignal: "workflows.retry",
    RouteSignal: "workflows.route_signal",
    RouteLostSignal: "workflows.route_signal",
    PersistedWorkflow: "workflows.persisted_workflow",
    ActiveStepLinkage: "workflows.active_step_linkage",
    CreateInitialRun: "workflows.create_initial_run",
    Approve: "approvals.approve",
    Reject: "approvals.reject",
    AddRole: "roles.add",
    RemoveRole: "roles.remove",
    ListRoles: "roles.list",
    ListInbox: "inbox.list",
    ListInboxBefore: "inbox.list",
    CountUnread: "inbox.unread_count",
    MarkSeen: "inbox.mark",
    MarkRead: "inbox.mark",
    MarkArchived: "inbox.mark",
    GetRecipient: "recipients.get",
    UpsertRecipient: "recipients.upsert",
    ForgetAddress: "recipients.forget",
    SetPreference: "preferences.set",
    ListPreferences: "preferences.list",
    IsEnabled: "preferences.is_enabled",
    Track: "track",
    TrackAbout: "track",
    TriggerWithKey: "trigger",
}

/// What is needed to call.
pub(super) struct Caller<'a> {
    pub(super) chimeway: &'a Chimeway,
    pub(super) tenant: TenantId,
    pub(super) now: DateTime<Utc>,
}

impl Caller<'_> {
    /// The whole answer, as text.
    pub(super) async fn call(&self, call: Call, conn: &mut PgConnection, its: &Things) -> String {
        match self.try_call(call, conn, its).await {
            Ok(answer) => answer,
            Err(error) => format!("{}: {error}", error.code()),
        }
    }

    async fn try_call(
        &self,
        call: Call,
        conn: &mut PgConnection,
        its: &Things,
    ) -> Result<String, FlowError> {
        let tenant = &self.tenant;
        let person = &its.person;
        let workflows = self.chimeway.workflows();
        let (inbox, recipients) = (self.chimeway.inbox(), self.chimeway.recipients());
        let preferences = self.chimeway.preferences();
        let (approvals, roles) = (self.chimeway.approvals(), self.chimeway.roles());
        let stamp = Stamp::by("mallory").because("curiosity");
        let marketing = Preference::Category("marketing".parse()?);
        Ok(match call {
            Call::GetRun => shown(workflows.get_run(conn, tenant, its.waiting).await?),
            Call::Explain => shown(workflows.explain(conn, tenant, its.waiting).await?),
            Call::ListTraces => shown(
                workflows
                    .list_traces(conn, tenant, its.waiting, None)
                    .await?,
            ),
            Call::ListNoTraces => shown(
                workflows
                    .list_traces(conn, tenant, its.waiting, Some(0))
                    .await?,
            ),
            Call::Progress => shown(workflows.progress(conn, tenant, its.waiting).await?),
            Call::ProgressLost => shown(workflows.progress(conn, tenant, its.lost_run).await?),
            Call::Cancel => shown(workflows.cancel(conn, tenant, its.waiting, &stamp).await?),
            Call::CancelLost => shown(workflows.cancel(conn, tenant, its.lost_run, &stamp).await?),
            Call::CancelWorkflow => shown(
                workflows
                    .cancel_workflow(conn, tenant, &its.workflow, &stamp)
                    .await?,
            ),
            Call::RetryDelivery => {
                shown(workflows.retry(conn, tenant, its.failed.0, &stamp).await?)
            }
            Call::RetryRun => shown(
                workflows
                    .retry(conn, tenant, its.lost_run.0, &stamp)
                    .await?,
            ),
            Call::RetryEvent => shown(
                workflows
                    .retry(conn, tenant, its.lost_event.0, &stamp)
                    .await?,
            ),
            Call::RetrySignal => shown(
                workflows
                    .retry(conn, tenant, its.lost_signal.0, &stamp)
                    .await?,
            ),
            Call::RouteSignal => shown(workflows.route_signal(conn, tenant, its.signal).await?),
            Call::RouteLostSignal => shown(
                workflows
                    .route_signal(conn, tenant, its.lost_signal)
                    .await?,
            ),
            Call::PersistedWorkflow => {
                shown(workflows.persisted_workflow(conn, tenant, its.item).await?)
            }
            Call::ActiveStepLinkage => shown(
                workflows
                    .active_step_linkage(conn, tenant, its.item)
                    .await?,
            ),
            Call::CreateInitialRun => shown(
                workflows
                    .create_initial_run(conn, tenant, its.item, its.definition, self.now)
                    .await?,
            ),
            Call::Approve => shown(
                approvals
                    .approve(conn, tenant, its.asked, &"approver".parse()?, None)
                    .await?,
            ),
            Call::Reject => shown(
                approvals
                    .reject(conn, tenant, its.asked, &"approver".parse()?, None)
                    .await?,
            ),
            Call::AddRole => shown(
                roles
                    .add(
                        conn,
                        tenant,
                        &"clerk".parse()?,
                        std::slice::from_ref(person),
                    )
                    .await?,
            ),
            Call::RemoveRole => shown(
                roles
                    .remove(
                        conn,
                        tenant,
                        &"manager".parse()?,
                        std::slice::from_ref(person),
                    )
                    .await?,
            ),
            Call::ListRoles => shown(roles.list(conn, tenant, None).await?),
            Call::ListInbox => shown(inbox.list(conn, tenant, person, Page::default()).await?),
            Call::ListInboxBefore => {
                let before = Page {
                    before: Some(its.item),
                    archived: true,
                    ..Page::default()
                };
                shown(inbox.list(conn, tenant, person, before).await?)
            }
            Call::CountUnread => shown(inbox.unread_count(conn, tenant, person, true).await?),
            Call::MarkSeen => self.mark(conn, its, Mark::Seen).await?,
            Call::MarkRead => self.mark(conn, its, Mark::Read).await?,
            Call::MarkArchived => self.mark(conn, its, Mark::Archived).await?,
            Call::GetRecipient => shown(recipients.get(conn, tenant, person).await?),
            Call::UpsertRecipient => {
                let elsewhere = Recipient::new(person.clone()).address("email", "eve@e.example");
                shown(recipients.upsert(conn, tenant, &[elsewhere]).await?)
            }
            Call::ForgetAddress => {
                let email = "email".parse()?;
                shown(recipients.forget(conn, tenant, person, &[email]).await?)
            }
            Call::SetPreference => shown(
                preferences
                    .set(conn, tenant, person, &[(marketing, true)])
                    .await?,
            ),
            Call::ListPreferences => shown(preferences.list(conn, tenant, person).await?),
            Call::IsEnabled => {
                let enabled = preferences.is_enabled(conn, tenant, person, &marketing);
                shown(enabled.await?)
            }
            Call::Track => {
                let read =
                    Signal::new(tenant.clone(), person.clone(), "notification_read".parse()?);
                shown(self.chimeway.track(conn, read).await?)
            }
            Call::TrackAbout => {
                let about = json!({ "notification_id": its.item, "delivery_id": its.delivered });
                let read =
                    Signal::new(tenant.clone(), "ada".parse()?, "notification_read".parse()?);
                shown(self.chimeway.track(conn, read.payload(about)).await?)
            }
            Call::TriggerWithKey => {
                let trigger = Trigger::new("mention_escalation".parse()?, tenant.clone())
                    .recipient(Recipient::new(person.clone()))
                    .idempotency_key(&its.key);
                shown(self.chimeway.trigger(conn, trigger).await?)
            }
        })
    }

    /// Ada's item: both tenants know somebody of that name.
    async fn mark(
        &self,
        conn: &mut PgConnection,
        its: &Things,
        mark: Mark,
    ) -> Result<String, FlowError> {
        let (inbox, ada) = (self.chimeway.inbox(), "ada".parse()?);
        let items = [its.item];
        let marked = inbox.mark(conn, &self.tenant, &ada, &items, mark);
        Ok(shown(marked.await?))
    }
}

fn shown(answer: impl std::fmt::Debug) -> String {
    format!("{answer:?}")
}
