//! One tenant's flood is its own, and so is one channel's trouble.

use std::{collections::BTreeMap, time::Duration};

use chimeway::{
    Chimeway, Recipient, Trigger,
    definition::Document,
    engine::turns::{Pair, Slots, Turns},
    flow::{Timing, workers::Workers},
    queue::QueueName,
    store::{
        claims::{self, Claim, ClaimedRow},
        due::Floor,
        turns as due_turns,
    },
};
use chimeway_testkit::{Answer, RecordingChannel, Story, TestDb};
use sqlx::PgConnection;

use crate::{
    fleet::{Fleet, Host, execute, number, texts},
    invariants::audit,
    process::Desk,
    support::eventually,
    tools::{MORNING, actor},
};

/// Triggers for so many people of a tenant: their messages are due, and nothing is sent.
async fn trigger(story: &Story, workflow: &str, tenant: &str, people: usize) {
    let trigger = Trigger::new(workflow.parse().unwrap(), tenant.parse().unwrap());
    let trigger = (0..people).fold(trigger, |trigger, n| {
        trigger.recipient(Recipient::new(actor(&format!("user_{n}"))))
    });
    let mut tx = story.pool().begin().await.unwrap();
    story.chimeway().trigger(&mut tx, trigger).await.unwrap();
    tx.commit().await.unwrap();
}

/// Of tenant a very many mails, due first; of b and c a few messages over both channels, due later.
async fn flood() -> Story {
    let story = Story::begin(MORNING).await;
    for channel in ["email", "in_app"] {
        let step = format!("{{ id: tell, action: {{ type: notify, channel: {channel} }} }}");
        story
            .apply(&format!("{{ key: {channel}, steps: [{step}] }}"))
            .await;
    }
    trigger(&story, "email", "a", 300).await;
    for (tenant, people) in [("b", 3), ("c", 1)] {
        story.pass("PT1S").await;
        trigger(&story, "email", tenant, people).await;
        trigger(&story, "in_app", tenant, people).await;
    }
    story
}

/// What one claim takes: `<tenant> <channel>` and how many of it.
async fn claimed(
    story: &Story,
    limit: i64,
    except: &[&str],
    turns_after: Option<(&str, &str)>,
) -> String {
    let left: Vec<(&str, i64)> = except.iter().map(|channel| (*channel, 0)).collect();
    let mut turns = turns_after.map(turns);
    claimed_of(story, &slots(limit, &left), turns.as_mut()).await
}

/// The earliest ones, or those whose turn it is.
async fn claimed_of(story: &Story, slots: &Slots, turns: Option<&mut Turns>) -> String {
    let mut conn = story.pool().acquire().await.unwrap();
    let rows = match turns {
        Some(turns) => claim_in_turn(&mut conn, slots, turns, None).await,
        None => claims::claim(&mut conn, &claim(slots)).await.unwrap(),
    };
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        *shares
            .entry(format!("{} {}", row.tenant, row.channel))
            .or_default() += 1;
    }
    let shares: Vec<String> = shares.iter().map(|(who, n)| format!("{n} {who}")).collect();
    shares.join(", ")
}

/// A claim of those whose turn it is, found out just now.
pub(crate) async fn claim_in_turn(
    conn: &mut PgConnection,
    slots: &Slots,
    turns: &mut Turns,
    floor: Floor,
) -> Vec<ClaimedRow> {
    let found = due_turns::due(conn, (turns.last(), turns.far()), slots, floor)
        .await
        .unwrap();
    turns.found(found, slots, Duration::ZERO, Duration::ZERO);
    let shares = turns.shares(slots);
    let claim = Claim {
        shares: Some(&shares),
        floor,
        ..claim(slots)
    };
    let rows = claims::claim(conn, &claim).await.unwrap();
    let taken = rows
        .iter()
        .map(|row| ((row.tenant.as_str(), row.channel.as_str()), row.due_at));
    turns.took(&shares, taken, slots);
    rows
}

/// A claim of the earliest ones.
pub(crate) fn claim(slots: &Slots) -> Claim<'_> {
    Claim {
        owner: "test",
        lease: Duration::from_secs(30),
        slots,
        isolated: false,
        shares: None,
        floor: None,
    }
}

/// So many slots, and of some channels fewer.
pub(crate) fn slots(free: i64, left: &[(&str, i64)]) -> Slots {
    let left = left
        .iter()
        .map(|(channel, left)| ((*channel).into(), *left));
    Slots {
        free,
        per_channel: free,
        left: left.collect(),
    }
}

/// That pair had the last turn.
pub(crate) fn turns((tenant, channel): (&str, &str)) -> Turns {
    Turns::after(Pair {
        tenant: tenant.to_owned(),
        channel: channel.to_owned(),
    })
}

pub(crate) const BEGINNING: Option<(&str, &str)> = Some(("", ""));

#[tokio::test]
async fn the_earliest_come_first_while_nothing_is_late() {
    let story = flood().await;
    assert_eq!(claimed(&story, 10, &[], None).await, "10 a email");
}

#[tokio::test]
async fn tenants_and_channels_take_turns_with_equal_shares() {
    let story = flood().await;
    assert_eq!(
        claimed(&story, 10, &[], BEGINNING).await,
        "2 a email, 2 b email, 2 b in_app, 1 c email, 1 c in_app"
    );
    // Who has nothing left has no share.
    assert_eq!(
        claimed(&story, 10, &[], BEGINNING).await,
        "4 a email, 1 b email, 1 b in_app"
    );
    assert_eq!(claimed(&story, 10, &[], BEGINNING).await, "10 a email");
    audit(story.pool()).await;
}

#[tokio::test]
async fn turns_go_on_after_the_last_one() {
    let story = flood().await;
    assert_eq!(
        claimed(&story, 2, &[], BEGINNING).await,
        "1 a email, 1 b email"
    );
    assert_eq!(
        claimed(&story, 2, &[], Some(("b", "email"))).await,
        "1 b in_app, 1 c email"
    );
    // After the last one comes the first one again.
    assert_eq!(
        claimed(&story, 2, &[], Some(("c", "email"))).await,
        "1 a email, 1 c in_app"
    );
    // Once round, to who had the last turn.
    assert_eq!(
        claimed(&story, 9, &[], Some(("b", "in_app"))).await,
        "3 a email, 2 b email, 2 b in_app"
    );
    assert_eq!(claimed(&story, 2, &[], Some(("z", "z"))).await, "2 a email");
    audit(story.pool()).await;
}

/// One claim fills every channel as far as its slots go.
#[tokio::test]
async fn one_claim_takes_for_each_channel_what_it_has_slots_for() {
    let story = flood().await;
    let slots = slots(10, &[("email", 3), ("in_app", 1)]);
    assert_eq!(
        claimed_of(&story, &slots, Some(&mut Turns::default())).await,
        "1 a email, 1 b email, 1 b in_app, 1 c email"
    );
    // The earliest ones as well; the others stay as they were.
    assert_eq!(claimed_of(&story, &slots, None).await, "3 a email");
    assert_eq!(
        claimed(&story, 400, &[], None).await,
        "296 a email, 2 b email, 2 b in_app, 1 c in_app"
    );
    audit(story.pool()).await;
}

/// Nobody's turn is over before something was taken of theirs, where there was something.
#[tokio::test]
async fn who_is_passed_over_for_want_of_slots_is_next() {
    let story = flood().await;
    let one = slots(5, &[("email", 1)]);
    let mut turns = Turns::default();
    assert_eq!(
        claimed_of(&story, &one, Some(&mut turns)).await,
        "1 a email, 1 b in_app, 1 c in_app"
    );
    assert_eq!(turns.last().tenant, "a", "b's email was passed over");
    assert_eq!(
        claimed_of(&story, &one, Some(&mut turns)).await,
        "1 b email, 2 b in_app"
    );
}

/// Whose turn it is is not found out for each claim; who turns out to have nothing left has no turn more.
#[tokio::test]
async fn turns_that_are_known_are_taken_without_asking_again() {
    let story = flood().await;
    let slots = slots(4, &[]);
    let mut known = Turns::default();
    claimed_of(&story, &slots, Some(&mut known)).await;
    let mut conn = story.pool().acquire().await.unwrap();
    let mut took = vec![];
    for _ in 0..3 {
        assert!(!known.is_stale(&slots, Duration::ZERO));
        let shares = known.shares(&slots);
        let claim = Claim {
            shares: Some(&shares),
            ..claim(&slots)
        };
        let rows = claims::claim(&mut conn, &claim).await.unwrap();
        let pairs = rows
            .iter()
            .map(|it| ((it.tenant.as_str(), it.channel.as_str()), it.due_at));
        known.took(&shares, pairs, &slots);
        took.push(rows.len());
    }
    // Then c has nothing left, nor has b of mails.
    assert_eq!(took, [4, 2, 3]);
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_channel_whose_slots_are_taken_has_no_turn() {
    let story = flood().await;
    assert_eq!(
        claimed(&story, 10, &["email"], BEGINNING).await,
        "3 b in_app, 1 c in_app"
    );
    assert_eq!(claimed(&story, 10, &["email"], BEGINNING).await, "");
}

/// Who only has something to do later has no share, and is passed over.
#[tokio::test]
async fn what_is_not_due_yet_takes_no_turn() {
    let story = flood().await;
    sqlx::query(
        "update chimeway.deliveries set next_attempt_at = next_attempt_at + interval '1 hour'
         where tenant_id in ('a', 'b')",
    )
    .execute(story.pool())
    .await
    .unwrap();
    assert_eq!(
        claimed(&story, 10, &[], BEGINNING).await,
        "1 c email, 1 c in_app"
    );
}

/// The runs of a trigger in SQL are made in chunks; between two of them it is the others' turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_with_very_many_recipients_holds_up_no_other() {
    let db = TestDb::create().await;
    let pool = db.pool();
    let _host = Host::with_journey(pool, "P1D").await;
    let trigger = "select chimeway.trigger('mention_escalation', '{}', tenant_id => $1, recipients => (
            select jsonb_agg(jsonb_build_object('identity', 'user_' || n)) from generate_series(1, $2) n))";
    for (tenant, people) in [("large", 5_500), ("small", 1)] {
        let trigger = sqlx::query(trigger).bind(tenant).bind(people);
        trigger.execute(pool).await.unwrap();
    }
    let workers = Workers::new(Chimeway::builder().build(), pool.clone());
    let fleet = Fleet::start(workers.limit(QueueName::Delivery, 0));
    let runs = "select count(*) from chimeway.workflow_runs";
    eventually("all runs are made", async || {
        (number(pool, runs).await == 5_501).then_some(())
    })
    .await;
    fleet.stop().await;
    let before = "select count(*) from chimeway.workflow_runs r
                  where r.id < (select id from chimeway.workflow_runs where tenant_id = 'small')";
    let before = number(pool, before).await;
    assert!(before <= 2_000, "{before} runs were made before");
    let people =
        "select count(distinct actor_id) from chimeway.workflow_runs where tenant_id = 'large'";
    assert_eq!(number(pool, people).await, 5_500);
}

/// Of 2,500 tenants each has a mail to send later, as after a provider's outage. Between them somebody's flood goes on
/// without pause, and who has one message has a turn soon.
#[tokio::test]
async fn many_that_have_something_later_hold_up_nobody() {
    let story = flood().await;
    sqlx::query(
        "update chimeway.deliveries set tenant_id = case tenant_id when 'a' then 'm' else 'o' end
         where tenant_id in ('a', 'b')",
    )
    .execute(story.pool())
    .await
    .unwrap();
    sqlx::query(
        "insert into chimeway.deliveries (id, workflow_run_id, workflow_step_id, inserted_at, updated_at,
             next_attempt_at, visit, tenant_id, channel)
         select gen_random_uuid(), workflow_run_id, workflow_step_id, inserted_at, updated_at,
             next_attempt_at + interval '1 hour', 1000 + n, 'n' || lpad(n::text, 4, '0'), channel
         from generate_series(1, 2500) n, chimeway.deliveries
         where tenant_id = 'c' and channel = 'email'",
    )
    .execute(story.pool())
    .await
    .unwrap();
    let (mut turns, slots) = (Turns::default(), slots(4, &[]));
    let mut taken = vec![];
    for _ in 0..6 {
        taken.push(claimed_of(&story, &slots, Some(&mut turns)).await);
    }
    insta::assert_snapshot!(taken.join("\n"), @"
    1 c email, 1 c in_app
    4 m email
    4 m email
    2 o email, 2 o in_app
    2 m email, 1 o email
    2 m email, 1 o in_app
    ");
}

/// A claim writes into no index: the new version of a row is on the page of the old one, though all rows of the page are
/// claimed at once.
#[tokio::test]
async fn a_claim_leaves_the_indexes_alone() {
    let story = flood().await;
    let mut conn = story.pool().acquire().await.unwrap();
    let slots = slots(200, &[]);
    let rows = claims::claim(&mut conn, &claim(&slots)).await.unwrap();
    assert_eq!(rows.len(), 200);
    sqlx::query("select pg_stat_force_next_flush()")
        .execute(&mut *conn)
        .await
        .unwrap();
    let updates =
        "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'deliveries'";
    let updates: (i64, i64) = sqlx::query_as(updates).fetch_one(&mut *conn).await.unwrap();
    assert_eq!(
        updates,
        (200, 200),
        "updates, and those that touch no index"
    );
}

/// A tenant with 100,000 messages that are due, more than the worker can send in three minutes; another
/// one's messages reach their channel within a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_flood_of_one_tenant_holds_up_no_other() {
    const FLOOD: usize = 100_000;
    const OTHERS: usize = 20;
    let db = TestDb::create().await;
    let (pool, desk) = (db.pool(), Desk::new());
    let host = Host::with_journey(pool, "P1D").await;
    for part in 0..FLOOD / 1000 {
        host.trigger_range(part * 1000..(part + 1) * 1000).await;
    }
    let worker = desk.worker(&db.url()).with("--send-delay-ms", "20");
    let worker = worker.start().await;
    let sent = "select count(*) from chimeway.delivery_attempts";
    eventually("the flood is being sent", async || {
        (number(pool, sent).await > 200).then_some(())
    })
    .await;
    for n in 0..OTHERS {
        let trigger = "select chimeway.trigger('mention_escalation', jsonb_build_object('actor_id', $1), 'small')";
        sqlx::query(trigger)
            .bind(format!("user_{n}"))
            .execute(pool)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let small = "select count(*) from chimeway.delivery_attempts a
                 join chimeway.deliveries d on d.id = a.delivery_id where d.tenant_id = 'small'";
    eventually("the others' messages are sent", async || {
        (number(pool, small).await == i64::try_from(OTHERS).unwrap()).then_some(())
    })
    .await;
    let left = "select count(*) from chimeway.deliveries where status = 'pending'";
    assert!(
        number(pool, left).await > 1_000,
        "the flood is over, and shows nothing"
    );
    let slow = "select round(extract(epoch from a.started_at - e.occurred_at) * 1000) || ' ms'
                from chimeway.delivery_attempts a
                join chimeway.deliveries d on d.id = a.delivery_id and d.tenant_id = 'small'
                join chimeway.notifications n on n.id = d.notification_id
                join chimeway.events e on e.id = n.event_id
                where a.started_at - e.occurred_at > interval '1 second'";
    assert_eq!(texts(pool, slow).await, Vec::<String>::new());
    worker.stop().await;
}

/// The waits of 30,000 runs of a tenant are over at one instant, which takes a worker some seconds; those of another
/// one that are over meanwhile are seen within a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_flood_of_waits_that_are_over_holds_up_no_other() {
    const FLOOD: usize = 30_000;
    let db = TestDb::create().await;
    let pool = db.pool();
    let chimeway = Chimeway::builder().build();
    let document = "{ key: later, steps: [{ id: pause, action: { type: wait, duration: PT1H } }] }";
    let document = Document::from_yaml("journey", document).unwrap();
    chimeway.apply(pool, &document).await.unwrap();
    let tell = async |tenant: &str, people: std::ops::Range<usize>| {
        let trigger = Trigger::new("later".parse().unwrap(), tenant.parse().unwrap());
        let people = people.map(|n| Recipient::new(actor(&format!("user_{n}"))));
        let mut tx = pool.begin().await.unwrap();
        let trigger = people.fold(trigger, Trigger::recipient);
        chimeway.trigger(&mut tx, trigger).await.unwrap();
        tx.commit().await.unwrap();
    };
    for part in 0..FLOOD / 1_000 {
        tell("large", part * 1_000..(part + 1) * 1_000).await;
    }
    tell("small", 0..20).await;
    let workers = || Workers::new(chimeway.clone(), pool.clone());
    let fleet = Fleet::start(workers());
    let waiting = "select count(*) from chimeway.workflow_runs where state = 'waiting'";
    eventually("all wait", async || {
        (number(pool, waiting).await == i64::try_from(FLOOD + 20).unwrap()).then_some(())
    })
    .await;
    fleet.stop().await;
    let due = "update chimeway.workflow_runs r set wake_at = due, suspended_until = due
               from (select id, now() + case tenant_id when 'large' then interval '0'
                        else interval '1200 ms' + row_number() over (partition by tenant_id) * interval '20 ms' end as due
                     from chimeway.workflow_runs) n
               where n.id = r.id";
    execute(pool, due).await;
    let fleet = Fleet::start(workers());
    let over = "select count(*) from chimeway.workflow_runs where tenant_id = 'small' and ended_at is not null";
    eventually("the others' waits are over", async || {
        (number(pool, over).await == 20).then_some(())
    })
    .await;
    let late = "select round(extract(epoch from ended_at - suspended_until) * 1000) || ' ms'
                from chimeway.workflow_runs
                where tenant_id = 'small' and ended_at - suspended_until > interval '1 second'";
    let left = "select count(*) from chimeway.workflow_runs where ended_at is null";
    assert!(
        number(pool, left).await > 1_000,
        "the flood is over, and shows nothing"
    );
    assert_eq!(texts(pool, late).await, Vec::<String>::new());
    fleet.stop().await;
}

/// A provider never answers: all slots of its channel are taken, and more of its messages are due. What comes over
/// another channel is sent at once, however closely it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_provider_that_hangs_delays_no_other_channel() {
    const OTHERS: usize = 400;
    let db = TestDb::create().await;
    let pool = db.pool();
    let (hanging, quick) = (RecordingChannel::default(), RecordingChannel::default());
    hanging.always(Answer::Hangs);
    let chimeway = Chimeway::builder()
        .channel("email", hanging.clone())
        .unwrap()
        .channel("in_app", quick)
        .unwrap()
        .timing(Timing {
            send: Duration::from_secs(4),
            ..Timing::default()
        })
        .build();
    for channel in ["email", "in_app"] {
        let step = format!("{{ id: tell, action: {{ type: notify, channel: {channel} }} }}");
        let document = format!("{{ key: {channel}, steps: [{step}] }}");
        let document = Document::from_yaml("journey", &document).unwrap();
        chimeway.apply(pool, &document).await.unwrap();
    }
    let fleet = Fleet::start(Workers::new(chimeway.clone(), pool.clone()));
    let tell = async |workflow: &str, n: usize| {
        let trigger = Trigger::new(workflow.parse().unwrap(), "a".parse().unwrap());
        let trigger = trigger.recipient(Recipient::new(actor(&format!("user_{n}"))));
        let mut tx = pool.begin().await.unwrap();
        chimeway.trigger(&mut tx, trigger).await.unwrap();
        tx.commit().await.unwrap();
    };
    for n in 0..30 {
        tell("email", n).await;
    }
    eventually("all slots are taken", async || {
        (hanging.sent().len() == 10).then_some(())
    })
    .await;
    for n in 0..OTHERS / 4 {
        let n = n * 4;
        futures::join!(
            tell("in_app", n),
            tell("in_app", n + 1),
            tell("in_app", n + 2),
            tell("in_app", n + 3)
        );
    }
    let sent = "select count(*) from chimeway.delivery_attempts a
                join chimeway.deliveries d on d.id = a.delivery_id and d.channel = 'in_app'";
    eventually("the others are sent", async || {
        (number(pool, sent).await == i64::try_from(OTHERS).unwrap()).then_some(())
    })
    .await;
    assert_eq!(hanging.sent().len(), 10, "it has no more than its slots");
    let slow = "select round(extract(epoch from a.started_at - e.occurred_at) * 1000) || ' ms'
                from chimeway.delivery_attempts a
                join chimeway.deliveries d on d.id = a.delivery_id and d.channel = 'in_app'
                join chimeway.notifications n on n.id = d.notification_id
                join chimeway.events e on e.id = n.event_id
                where a.started_at - e.occurred_at > interval '500 milliseconds'
                order by a.started_at - e.occurred_at desc";
    assert_eq!(texts(pool, slow).await, Vec::<String>::new());
    fleet.stop().await;
}
