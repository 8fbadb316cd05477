//! Whatever stands in a host's row, and however the trigger is attached: the host's statement goes on.

use chimeway_testkit::Story;
use sqlx::Executor as _;

use crate::{
    state_changes::{events, listening, run, story},
    tools::{MORNING, lines},
};

macro_rules! odd {
    ($row:literal) => {
        concat!("insert into odd values ", $row)
    };
}

/// What may stand in a host's table, and whether the change of it is recorded.
const ODD: &[(&str, &str, bool)] = &[
    (
        "a tenant that is null",
        odd!("(1, null, 'submitted')"),
        false,
    ),
    (
        "a tenant that is blank",
        odd!("(1, ' ', 'submitted')"),
        false,
    ),
    (
        "a tenant with a line break",
        odd!("(1, E'org\\n456', 'submitted')"),
        false,
    ),
    (
        "a tenant that is too long",
        odd!("(1, repeat('o', 300), 'submitted')"),
        false,
    ),
    (
        "a tenant beyond ASCII",
        odd!("(1, 'Ünï', 'submitted')"),
        true,
    ),
    (
        "a key that is null",
        odd!("(null, 'org_456', 'submitted')"),
        false,
    ),
    (
        "a key that is negative",
        odd!("(-7, 'org_456', 'submitted')"),
        true,
    ),
    (
        "a note without end",
        odd!("(1, 'org_456', 'submitted', repeat('x', 3000000))"),
        true,
    ),
    (
        "a document without end",
        odd!("(1, 'org_456', 'submitted', null, (repeat('[', 4000) || repeat(']', 4000))::jsonb)"),
        true,
    ),
    (
        "a number beyond any double",
        odd!("(1, 'org_456', 'submitted', null, '{\"n\": 1e400}')"),
        true,
    ),
    (
        "no number",
        odd!("(1, 'org_456', 'submitted', null, null, 'NaN')"),
        true,
    ),
    (
        "a number of 400 digits",
        odd!("(1, 'org_456', 'submitted', null, null, repeat('9', 400)::numeric)"),
        true,
    ),
    (
        "bytes",
        odd!("(1, 'org_456', 'submitted', null, null, null, '\\x00ff')"),
        true,
    ),
    (
        "an instant beyond the calendar",
        odd!("(1, 'org_456', 'submitted', null, null, null, null, 'infinity')"),
        true,
    ),
];

#[tokio::test]
async fn what_is_in_a_row_never_makes_the_hosts_statement_fail() {
    let story = Story::begin(MORNING).await;
    story
        .pool()
        .execute(
            "create table odd (
                id bigint, tenant_id text, status text, note text, document jsonb, amount numeric,
                bytes bytea, at timestamptz
            );
            create trigger odd_state after insert or update on odd
                for each row execute function chimeway.on_state_change('orders', 'status', 'tenant_id');",
        )
        .await
        .unwrap();
    story
        .apply(&listening("approval").replace(", total: trigger.record.total", ""))
        .await;
    for (what, row, recorded) in ODD {
        let written = story.pool().execute(*row).await;
        assert!(written.is_ok(), "{what}: {written:?}");
        assert_eq!(events(story.pool()).await, i64::from(*recorded), "{what}");
        story.drain().await;
        let runs = lines(story.pool(), "select state from chimeway.workflow_runs").await;
        assert_eq!(runs, if *recorded { "waiting" } else { "" }, "{what}");
        let rows =
            "truncate odd, chimeway.events, chimeway.workflow_runs, chimeway.workflow_transitions";
        run(story.pool(), rows).await;
    }
}

macro_rules! attached {
    ($trigger:literal) => {
        concat!(
            "drop trigger if exists orders_state on orders;
            create trigger orders_state ",
            $trigger,
            ";
            truncate orders;
            insert into orders (id, tenant_id, status) values (1, 'org_456', 'draft');
            update orders set status = 'submitted', total = 9;"
        )
    };
}

#[tokio::test]
async fn a_trigger_that_is_attached_wrongly_warns_and_does_no_harm() {
    let story = story().await;
    story.apply(&listening("approval")).await;
    let attached = [
        attached!(
            "after update on orders for each row execute function chimeway.on_state_change()"
        ),
        attached!(
            "after update on orders for each row execute function chimeway.on_state_change('orders', 'status')"
        ),
        attached!(
            "after update on orders for each row execute function chimeway.on_state_change('orders', 'no', 'tenant_id')"
        ),
        attached!(
            "after update on orders for each row execute function chimeway.on_state_change('orders', 'status', 'no')"
        ),
        attached!(
            "after update on orders for each row execute function chimeway.on_state_change('orders', 'status', 'tenant_id', 'no')"
        ),
        attached!(
            "after update on orders for each statement execute function chimeway.on_state_change('orders', 'status', 'tenant_id')"
        ),
        attached!(
            "before update or delete on orders for each row execute function chimeway.on_state_change('', 'status', 'tenant_id')"
        ),
        attached!(
            "after truncate on orders for each statement execute function chimeway.on_state_change('orders', 'status', 'tenant_id')"
        ),
    ];
    for trigger in attached {
        let done = story.pool().execute(trigger).await;
        assert!(done.is_ok(), "{trigger}: {done:?}");
        let total = lines(story.pool(), "select status || ' ' || total from orders").await;
        assert_eq!(total, "submitted 9", "{trigger}");
        run(story.pool(), "delete from orders").await;
        assert_eq!(
            lines(story.pool(), "select 'left' from orders").await,
            "",
            "{trigger}"
        );
        assert_eq!(events(story.pool()).await, 0, "{trigger}");
    }
}
