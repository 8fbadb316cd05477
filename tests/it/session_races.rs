//! Sessions and processes against each other, each on a connection of its own: one key, one run, one
//! message, one recipient. Who goes first is shuffled by a seed; where one side would always win, what it
//! won before decides how much later it begins.

mod cancelling;
mod keys;
mod messages;
mod runs;
mod upserts;
mod writes;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use chimeway::{Chimeway, Dispatcher, ids::RunId};
use chimeway_testkit::Story;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::{sync::Barrier, task::yield_now, time::sleep};

use crate::{audit::assert_no_deadlocks, fleet::recording, tools::lines};

/// What one session does.
type Act = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Has sessions act at once: all begin when the last one has, each after some turns of others.
async fn at_once(random: &mut StdRng, mut acts: Vec<Act>) {
    acts.shuffle(random);
    let begin = Arc::new(Barrier::new(acts.len()));
    let acting = acts.into_iter().map(|act| {
        let (begin, turns) = (Arc::clone(&begin), random.random_range(0..6));
        tokio::spawn(async move {
            begin.wait().await;
            for _ in 0..turns {
                yield_now().await;
            }
            act.await;
        })
    });
    for done in futures::future::join_all(acting).await {
        done.unwrap();
    }
}

/// How much later one side begins than the others, so that it neither always wins nor never does, however
/// fast the machine is: each win puts its next beginning off, each loss draws it nearer, in steps that
/// double until the other side wins.
#[derive(Default)]
struct Handicap {
    lag: Duration,
    step: Duration,
    won: bool,
}

impl Handicap {
    fn on(&self, act: Act) -> Act {
        let lag = self.lag;
        Box::pin(async move {
            sleep(lag).await;
            act.await;
        })
    }

    fn take(&mut self, won: bool) {
        self.step = match won == self.won {
            true => self.step * 2,
            false => Duration::from_millis(1),
        };
        self.won = won;
        self.lag = match won {
            true => self.lag + self.step,
            false => self.lag.saturating_sub(self.step),
        };
    }
}

fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// So many handles, as processes of their own would have, over the story's channels.
fn settlers(story: &Story, count: usize) -> Vec<Chimeway> {
    let settler = |n| {
        let builder = recording(story.channel()).dispatcher(Dispatcher::Inline);
        builder.worker_name(format!("settler_{n}")).build()
    };
    (0..count).map(settler).collect()
}

/// Does everything that is due.
fn settles(story: &Story, settler: Chimeway) -> Act {
    let pool = story.pool().clone();
    Box::pin(async move {
        settler.settle(&pool).await.unwrap();
    })
}

/// How a run ended; fails where it has not, or more than once.
async fn end_of(story: &Story, run: RunId) -> String {
    let end: (Option<String>, i64) = sqlx::query_as(
        "select r.terminal_reason, (
            select count(*) from chimeway.workflow_transitions t
            where t.workflow_run_id = r.id and t.to_state in ('completed', 'stopped', 'failed')
         )
         from chimeway.workflow_runs r where r.id = $1",
    )
    .bind(run)
    .fetch_one(story.pool())
    .await
    .unwrap();
    assert_eq!(end.1, 1, "{run}");
    end.0.unwrap()
}

/// What was handed to the channels about a run, in order.
fn sent_to(story: &Story, run: RunId) -> Vec<String> {
    let sent = story.channel().sent().into_iter();
    let sent = sent.filter(|message| message.run == run);
    sent.map(|message| message.channel.to_string()).collect()
}

/// Nothing is left to do, and no session has been the victim of a deadlock.
async fn assert_quiet(story: Story) {
    let left = "select count(*)::text from chimeway.workflow_runs where wake_at <= chimeway.now()";
    assert_eq!(lines(story.pool(), left).await, "0");
    assert_no_deadlocks(story.db()).await;
}
