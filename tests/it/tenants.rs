//! Nothing of one tenant's can be read, changed, signalled, ended or explained by another: tables of
//! every call there is, through the library, SQL, the command line and HTTP.

mod command_line;
mod http;
mod library;
mod signals;
mod sql;
mod world;

use std::collections::BTreeSet;

use chimeway::ids::TenantId;
use sqlx::{Connection as _, Executor as _};

use crate::source::files;
use library::{Call, Caller};
use world::{A, ADA, B, Things, World, all_but, hold_all_of, world};

fn caller<'a>(world: &'a World, tenant: &str) -> Caller<'a> {
    Caller {
        chimeway: world.story.chimeway(),
        tenant: tenant.parse::<TenantId>().unwrap(),
        now: world.story.now(),
    }
}

/// Another tenant's rows may be locked all the while: who may not see them does not wait for them.
#[tokio::test]
async fn a_call_about_another_tenants_things_is_answered_as_one_about_nobodys() {
    let world = world().await;
    let nobodys = world.a.of_nobody();
    let mut owner = world.story.db().connect().await;
    let mut held = owner.begin().await.unwrap();
    hold_all_of(&mut held, A).await;
    let mut conn = world.story.db().connect().await;
    conn.execute("set lock_timeout = '2s'").await.unwrap();
    let stranger = caller(&world, B);
    for &call in Call::ALL {
        let mut tx = conn.begin().await.unwrap();
        let before = all_but(&mut tx, B).await;
        let answer = stranger.call(call, &mut tx, &world.a).await;
        let after = all_but(&mut tx, B).await;
        tx.rollback().await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        let nothing = stranger.call(call, &mut tx, &nobodys).await;
        tx.rollback().await.unwrap();

        assert_eq!(after, before, "{call:?} changed what is not the caller's");
        let (answer, nothing) = (world.a.told(&answer), nobodys.told(&nothing));
        if call == Call::CreateInitialRun {
            // As in the original, that one is told apart.
            assert_eq!(
                answer,
                format!(
                    "tenant_mismatch: tenant_mismatch: the notification <item> is not of the tenant `{B}`"
                )
            );
        } else {
            assert_eq!(answer, nothing, "{call:?}");
        }
    }
    for call in sql::CALLS {
        let mut tx = conn.begin().await.unwrap();
        let before = all_but(&mut tx, B).await;
        let answer = sql::call(&mut tx, call, B, &world.a).await;
        let after = all_but(&mut tx, B).await;
        tx.rollback().await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        let nothing = sql::call(&mut tx, call, B, &nobodys).await;
        tx.rollback().await.unwrap();
        assert_eq!(after, before, "{} changed what is not the caller's", call.0);
        assert_eq!(world.a.told(&answer), nobodys.told(&nothing), "{}", call.0);
    }
    held.rollback().await.unwrap();
}

/// The same calls by the owner: each of them does something, or shows something.
#[tokio::test]
async fn the_owner_is_answered_otherwise() {
    let world = world().await;
    let (nobodys, owner) = (world.a.of_nobody(), caller(&world, A));
    let mut conn = world.story.db().connect().await;
    for &call in Call::ALL {
        let mut tx = conn.begin().await.unwrap();
        let before = all_but(&mut tx, B).await;
        let answer = owner.call(call, &mut tx, &world.a).await;
        let changed = all_but(&mut tx, B).await != before;
        tx.rollback().await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        let nothing = caller(&world, B).call(call, &mut tx, &nobodys).await;
        tx.rollback().await.unwrap();
        let is_told = world.a.told(&answer) != nobodys.told(&nothing);
        assert!(changed || is_told, "{call:?}: {answer}");
    }
    for call in sql::CALLS {
        let mut tx = conn.begin().await.unwrap();
        let before = all_but(&mut tx, B).await;
        let answer = sql::call(&mut tx, call, A, &world.a).await;
        let changed = all_but(&mut tx, B).await != before;
        tx.rollback().await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        let nothing = sql::call(&mut tx, call, B, &nobodys).await;
        tx.rollback().await.unwrap();
        let is_told = world.a.told(&answer) != nobodys.told(&nothing);
        assert!(changed || is_told, "{}: {answer}", call.0);
    }
}

#[tokio::test]
async fn a_command_about_another_tenants_things_ends_as_one_about_nobodys() {
    let world = world().await;
    let (nobodys, url) = (world.a.of_nobody(), world.story.db().url());
    let mut conn = world.story.db().connect().await;
    // First what nobody has: what these write is written by the others once more.
    let nothing = command_line::run_all(&url, B, &nobodys);
    let before = all_but(&mut conn, B).await;
    let answers = command_line::run_all(&url, B, &world.a);
    assert_eq!(all_but(&mut conn, B).await, before);
    for ((line, answer), nothing) in command_line::COMMANDS.iter().zip(&answers).zip(&nothing) {
        assert_eq!(answer, nothing, "{line}");
        let expected = match *line {
            line if line.ends_with("--forget email") => 3,
            line if writes_its_own(line) || lists(line) => 0,
            _ => 3,
        };
        assert_eq!(answer.0, expected, "{line}: {answer:?}");
        assert!(!answer.1.contains(A), "{line}: {answer:?}");
    }
    for line in command_line::ABOUT_ADA {
        let (code, answer) = command_line::run(&url, line, B, &world.b);
        assert_eq!(code, 0, "{line}: {answer}");
        assert!(
            !world.a.is_in(&answer) && !answer.contains(A),
            "{line}: {answer}"
        );
    }

    // The owner is answered otherwise, in the same order.
    for (line, (_, nothing)) in command_line::COMMANDS.iter().zip(&nothing) {
        let before = all_but(&mut conn, B).await;
        let (code, answer) = command_line::run(&url, line, A, &world.a);
        assert_eq!(code, 0, "{line}: {answer}");
        let changed = all_but(&mut conn, B).await != before;
        assert!(changed || answer != *nothing, "{line}: {answer}");
    }
}

/// Commands that write down what is said of somebody nobody knows yet.
fn writes_its_own(line: &str) -> bool {
    let writes = [
        "recipients set",
        "preferences set",
        "roles add",
        "roles remove",
        "track",
        "trigger",
    ];
    writes.iter().any(|start| line.starts_with(start))
}

fn lists(line: &str) -> bool {
    let lists = [
        "runs",
        "pending",
        "roles list",
        "inbox list",
        "inbox unread",
        "preferences show",
        "cancel --workflow",
    ];
    lists.iter().any(|start| line.starts_with(start))
}

#[tokio::test]
async fn of_somebody_whom_both_know_each_is_told_its_own() {
    let world = world().await;
    let mut conn = world.story.db().connect().await;
    // Ada herself in place of somebody whom only one tenant knows.
    let ada = |things: &Things| Things {
        person: ADA.parse().unwrap(),
        ..things.clone()
    };
    for (org, its, others) in [(B, &world.b, (A, &world.a)), (A, &world.a, (B, &world.b))] {
        let (other_org, other) = others;
        let strange: Vec<String> = [
            other.waiting.to_string(),
            other.item.to_string(),
            other.event.to_string(),
        ]
        .into();
        for &call in Call::ALL {
            let mut tx = conn.begin().await.unwrap();
            let before = all_but(&mut tx, org).await;
            let answer = caller(&world, org).call(call, &mut tx, &ada(its)).await;
            assert_eq!(all_but(&mut tx, org).await, before, "{call:?}");
            tx.rollback().await.unwrap();
            assert!(!answer.contains(other_org), "{call:?}: {answer}");
            assert!(
                !strange.iter().any(|id| answer.contains(id)),
                "{call:?}: {answer}"
            );
        }
    }
}

#[test]
fn the_table_has_every_function_that_takes_a_tenant() {
    let mut found = BTreeSet::new();
    for file in files(&["rs"]) {
        let Some(path) = file.path.strip_prefix("crates/chimeway/src/flow/") else {
            continue;
        };
        let object = path.split(['/', '.']).next().unwrap();
        let object = if object == "explain" {
            "workflows"
        } else {
            object
        };
        for part in file.text.split("    pub async fn ").skip(1) {
            let (name, rest) = part.split_once('(').unwrap();
            let arguments = rest.split_once('{').unwrap().0;
            if arguments.contains("tenant: &TenantId") {
                found.insert(format!("{object}.{name}"));
            }
        }
    }
    let named = Call::ALL.iter().map(|call| call.function().to_owned());
    let (methods, whole): (BTreeSet<String>, BTreeSet<String>) =
        named.partition(|name| name.contains('.'));
    assert_eq!(methods, found);
    // Their tenant is inside what they are given.
    assert_eq!(
        whole,
        BTreeSet::from(["track".to_owned(), "trigger".to_owned()])
    );
}

#[tokio::test]
async fn the_table_has_every_sql_function_that_takes_a_tenant() {
    let world = world().await;
    let callable: Vec<String> = sqlx::query_scalar(
        "select p.proname::text from pg_proc p
         where p.pronamespace = 'chimeway'::regnamespace and p.prosecdef
            and 'tenant_id' = any(p.proargnames)
         order by 1",
    )
    .fetch_all(world.story.pool())
    .await
    .unwrap();
    let named: BTreeSet<&str> = sql::CALLS.iter().map(|call| call.0).collect();
    assert_eq!(
        BTreeSet::from_iter(callable.iter().map(String::as_str)),
        named
    );
}

#[test]
fn the_table_has_every_command_that_takes_a_tenant() {
    let taking = command_line::taking_a_tenant("");
    assert!(taking.contains(&"inbox list".to_owned()), "{taking:?}");
    // Whoever has the database makes tokens, of any tenant.
    let tenants = |command: &String| !command.starts_with("tokens ");
    for command in taking.into_iter().filter(tenants) {
        let named = |line: &&str| line.starts_with(&format!("{command} "));
        assert!(command_line::COMMANDS.iter().any(named), "{command}");
    }
}
