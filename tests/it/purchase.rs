//! The purchase approval of docs/state-changes.md, with real processes: an `UPDATE` in psql, a worker, a manager's
//! approval, and the order approved.

use chimeway_testkit::TestDb;

use crate::{
    audit::audit,
    programs::{chimeway, psql, root},
    running::Running,
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
    let worker = Running::worker(&url, flags);

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
    let others = "select string_agg(id || ' ' || status, ', ' order by id) from orders";
    assert_eq!(lines(pool, others).await, "7 approved, 42 approved");
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
