//! The purchase approval of docs/state-changes.md, with real processes: an `UPDATE` in psql, a worker, a manager's
//! approval, by SQL and over HTTP, and the order approved.

use chimeway_testkit::TestDb;
use serde_json::json;

use crate::{
    audit::audit,
    http_api::client::{Asker, Server, token},
    programs::{chimeway, psql, root},
    support::eventually,
    tools::lines,
};

/// The blocks of SQL in the page, in order.
fn page() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/state-changes.md")).unwrap();
    let blocks = page.split("```sql\n").skip(1);
    blocks
        .map(|block| block.split_once("```").unwrap().0.to_owned())
        .collect()
}

/// Everything that the run of an order has gone through.
const HISTORY: &str = "
    select string_agg(t.reason || ' ' || s.step_key, E'\\n' order by t.sequence)
    from chimeway.workflow_transitions t
    join chimeway.workflow_runs r on r.id = t.workflow_run_id
    join chimeway.workflow_steps s on s.id = t.workflow_step_id
    where r.record_id = '42'";

/// The same from a page of the manager's: who may not is refused, who may decides once.
async fn by_http(pool: &sqlx::PgPool, url: &str, address: &str) {
    let submit = "insert into orders values (44, 'org_456', 'draft', 2000);
                  update orders set status = 'submitted' where id = 44";
    psql(url, &[], submit).expect(0);
    let by = |who: &str| Asker {
        address,
        token: token(url, &format!("{who} --tenant org_456")),
    };
    let (grace, mallory) = (by("grace"), by("mallory"));
    let run = eventually("the manager is asked again", async || {
        let pending = grace.ask("GET /api/_workflows/pending").await.data();
        let first = pending.as_array()?.first()?;
        Some(first["run_id"].as_str()?.to_owned())
    })
    .await;
    let approve = format!("POST /api/_workflows/{run}/approve");
    let refused = mallory.send(&approve, json!({})).await.refused();
    assert!(refused.starts_with("403 "), "{refused}");
    let note = json!({ "note": "fits the budget" });
    grace.send(&approve, note.clone()).await.expect(200);
    let late = grace.send(&approve, note).await.refused();
    assert!(late.starts_with("409 "), "{late}");
    eventually("the second order is approved", async || {
        let order = "select status || ' ' || (decided_at is not null) from orders where id = 44";
        (lines(pool, order).await == "approved true").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_an_update_in_psql_comes_to_a_managers_approval_and_to_the_order() {
    let db = TestDb::create().await;
    let (pool, url) = (db.pool(), db.url());
    let sql = page();
    let [table, submit, approve] = sql.as_slice() else {
        panic!("the page has {} blocks of SQL", sql.len());
    };
    psql(&url, &[], table).expect(0);
    let journey = root().join("journeys/purchase_approval.yaml");
    chimeway(&url, &["workflows", "apply", journey.to_str().unwrap()]).expect(0);
    let roles = ["roles", "add", "manager", "grace", "--tenant", "org_456"];
    chimeway(&url, &roles).expect(0);
    let flags = "--allow-write orders.status --allow-write orders.decided_at";
    let Server { worker, address } = Server::at(&url, flags).await;

    psql(&url, &[], submit).expect(0);
    // Small enough to need nobody.
    let small = "insert into orders values (7, 'org_456', 'submitted', 12)";
    psql(&url, &[], small).expect(0);
    eventually(
        "the manager is asked, and the small order is approved",
        async || {
            let states =
                "select string_agg(r.record_id || ' ' || r.state, ', ' order by r.record_id)
                      from chimeway.workflow_runs r";
            (lines(pool, states).await == "42 waiting, 7 completed").then_some(())
        },
    )
    .await;
    let answer = psql(&url, &[], &approve.replace("'grace'", "'mallory'")).expect(0);
    assert!(answer.out.contains("not_allowed"), "{}", answer.out);
    let answer = psql(&url, &[], approve).expect(0);
    assert!(answer.out.contains("approved"), "{}", answer.out);
    eventually("the order is approved", async || {
        let order = "select status || ' ' || (decided_at is not null) from orders where id = 42";
        (lines(pool, order).await == "approved true").then_some(())
    })
    .await;
    by_http(pool, &url, &address).await;
    let others = "select string_agg(id || ' ' || status, ', ' order by id) from orders";
    assert_eq!(
        lines(pool, others).await,
        "7 approved, 42 approved, 44 approved"
    );
    insta::assert_snapshot!(lines(pool, HISTORY).await, @r"
    workflow_started is_large
    step_activated is_large
    condition_evaluated is_large
    waiting_for_approval ask_a_manager
    approval_decided ask_a_manager
    step_activated approve
    actions_performed approve
    workflow_completed approve
    ");
    audit(pool).await;
    let (status, printed) = worker.told(nix::sys::signal::Signal::SIGTERM).await;
    assert!(status.success(), "{printed:?}");
    assert!(!printed.join("\n").contains("grace"), "{printed:?}");
}
