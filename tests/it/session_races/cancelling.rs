//! A cancellation against the messages of its run.

use std::sync::{Arc, Mutex, OnceLock};

use async_trait::async_trait;
use chimeway::{
    Chimeway, Dispatcher,
    channels::{Channel, Message, Receipt, SendError},
    ids::RunId,
};
use chimeway_testkit::Story;
use sqlx::PgPool;

use super::{
    Handicap, assert_quiet, at_once, end_of, random,
    runs::{Asked, cancels},
    settles,
};
use crate::{
    replay::check,
    tools::{MENTION, MORNING},
};

const NOTE: &str = "{ key: note, steps: [{ id: note, action: { type: notify, channel: email, render_key: note } }] }";

/// What happened to a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// A cancellation has committed.
    Cancelled,
    /// A message begins to be sent.
    Sends {
        /// Whether a worker had ended its run by then.
        ended: bool,
    },
}

type Diary = Arc<Mutex<Vec<Entry>>>;

/// Notes each call.
#[derive(Clone, Default)]
struct Noting {
    pool: Arc<OnceLock<PgPool>>,
    diary: Diary,
}

#[async_trait]
impl Channel for Noting {
    fn adapter(&self) -> &'static str {
        "noting"
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        let place = {
            let mut diary = self.diary.lock().unwrap();
            diary.push(Entry::Sends { ended: false });
            diary.len() - 1
        };
        let ended = "select ended_at is not null from chimeway.workflow_runs where id = $1";
        let ended = sqlx::query_scalar(ended).bind(message.run);
        let ended: bool = ended.fetch_one(self.pool.get().unwrap()).await.unwrap();
        self.diary.lock().unwrap()[place] = Entry::Sends { ended };
        Ok(Receipt::default())
    }
}

struct Contest {
    story: Story,
    noting: Noting,
}

/// What came of it.
struct Came {
    /// How many messages the cancellation named as being sent; `None` where the run had ended before.
    named: Option<usize>,
    end: String,
    diary: Vec<Entry>,
}

impl Contest {
    async fn begin() -> Self {
        let noting = Noting::default();
        let builder = Story::builder().channel("email", noting.clone());
        let story = builder.begin(MORNING).await;
        noting.pool.set(story.pool().clone()).unwrap();
        story.apply(NOTE).await;
        story.apply(MENTION).await;
        Self { story, noting }
    }

    /// Three workers, and somebody who cancels, who begins so much later.
    async fn hold(&self, run: RunId, seed: u64, handicap: &Handicap) -> Came {
        let story = &self.story;
        self.noting.diary.lock().unwrap().clear();
        let asked = Asked::default();
        let cancelling = cancels(story, run, &asked);
        let diary = Arc::clone(&self.noting.diary);
        let mut acts = vec![handicap.on(Box::pin(async move {
            cancelling.await;
            diary.lock().unwrap().push(Entry::Cancelled);
        }))];
        for n in 0..3 {
            let settler = Chimeway::builder()
                .channel("email", self.noting.clone())
                .unwrap()
                .channel("in_app", story.channel().clone())
                .unwrap()
                .dispatcher(Dispatcher::Inline)
                .worker_name(format!("settler_{n}"));
            acts.push(settles(story, settler.build()));
        }
        at_once(&mut random(seed), acts).await;
        story.drain().await;
        let named = asked.lock().unwrap().take().unwrap().ok();
        Came {
            named,
            end: end_of(story, run).await,
            diary: self.noting.diary.lock().unwrap().clone(),
        }
    }
}

impl Came {
    /// A message is sent once at most. One that begins to be sent after the cancellation has committed
    /// had been claimed before, and was named.
    fn check(&self, seed: u64) {
        let Self { named, end, diary } = self;
        let told = format!("seed {seed}: {end}, named {named:?}, {diary:?}");
        assert!(self.sends() <= 1, "{told}");
        assert_eq!(end == "cancelled", named.is_some(), "{told}");
        let mut later = diary.iter().skip_while(|entry| **entry != Entry::Cancelled);
        if later.any(|entry| *entry != Entry::Cancelled) || diary.contains(&ENDED) {
            assert_eq!(*named, Some(1), "{told}");
        }
        if named.is_none_or(|count| count > 0) {
            assert_eq!(self.sends(), 1, "{told}");
        }
    }

    fn sends(&self) -> usize {
        let sends = self.diary.iter();
        sends.filter(|entry| **entry != Entry::Cancelled).count()
    }
}

const ENDED: Entry = Entry::Sends { ended: true };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_cancelled_run_is_not_sent_unless_it_was_out_and_named() {
    let contest = Contest::begin().await;
    let (mut handicap, mut sent, mut unsent) = (Handicap::default(), 0, 0);
    for seed in 0..100 {
        let run = contest.story.trigger("note", "ada").await;
        let came = contest.hold(run, seed, &handicap).await;
        came.check(seed);
        handicap.take(came.sends() == 0);
        match came.sends() {
            0 => unsent += 1,
            _ => sent += 1,
        }
    }
    assert!(sent > 0 && unsent > 0, "nothing raced: {sent} {unsent}");
    check(&contest.story).await;
    assert_quiet(contest.story).await;
}

/// The same for the mail that is planned at this moment, as the wait before it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_wait_is_over_is_cancelled_or_goes_on() {
    let contest = Contest::begin().await;
    let (mut handicap, mut cancelled, mut completed) = (Handicap::default(), 0, 0);
    for seed in 0..100 {
        let run = contest.story.trigger("mention_escalation", "ada").await;
        contest.story.drain().await;
        contest.story.pass("PT2H").await;
        let came = contest.hold(run, seed, &handicap).await;
        came.check(seed);
        handicap.take(came.end == "cancelled");
        match came.end.as_str() {
            "cancelled" => cancelled += 1,
            _ => completed += 1,
        }
    }
    assert!(
        cancelled > 0 && completed > 0,
        "nothing raced: {cancelled} {completed}"
    );
    check(&contest.story).await;
    assert_quiet(contest.story).await;
}
