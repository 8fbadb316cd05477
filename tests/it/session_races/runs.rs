//! Everything that can move one run, at the same moment.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use chimeway::{
    FlowError,
    flow::workflows::{Progressed, Stamp},
    ids::RunId,
};
use chimeway_testkit::Story;

use super::{Act, Handicap, assert_quiet, at_once, end_of, random, sent_to, settlers, settles};
use crate::{
    replay::check,
    tools::{MENTION, MORNING, actor, signal_of},
    workflow_api::org,
};

/// What came of asking for a run's end: the messages that could not be called back, or that it had
/// ended before.
pub(super) type Asked = Arc<Mutex<Option<Result<usize, String>>>>;

pub(super) fn cancels(story: &Story, run: RunId, asked: &Asked) -> Act {
    let (workflows, pool) = (story.chimeway().workflows(), story.pool().clone());
    let asked = Arc::clone(asked);
    Box::pin(async move {
        let mut tx = pool.begin().await.unwrap();
        let carol = Stamp::by("carol");
        let done = match workflows.cancel(&mut tx, org(), run, &carol).await {
            Ok(done) => {
                assert!(done.requested);
                tx.commit().await.unwrap();
                Ok(done.in_flight.len())
            }
            Err(FlowError::RunEnded(_)) => Err("it had ended".to_owned()),
            Err(error) => panic!("{error}"),
        };
        *asked.lock().unwrap() = Some(done);
    })
}

pub(super) fn reads(story: &Story, who: &str) -> Act {
    let (chimeway, pool) = (story.chimeway().clone(), story.pool().clone());
    let signal = signal_of(actor(who).as_str(), "notification_read");
    Box::pin(async move {
        let mut tx = pool.begin().await.unwrap();
        chimeway.track(&mut tx, signal).await.unwrap();
        tx.commit().await.unwrap();
    })
}

fn progresses(story: &Story, run: RunId) -> Act {
    let (workflows, pool) = (story.chimeway().workflows(), story.pool().clone());
    Box::pin(async move {
        let mut tx = pool.begin().await.unwrap();
        let done = workflows.progress(&mut tx, org(), run).await.unwrap();
        assert_ne!(done, Progressed::DoesNotDecode);
        tx.commit().await.unwrap();
    })
}

/// Ten workers, somebody who asks it to go on, somebody who cancels, and the signal, at the instant at
/// which its wait is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_run_that_everything_happens_to_at_once_ends_one_way() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    let (mut cancelling, mut reading) = (Handicap::default(), Handicap::default());
    for seed in 0..50 {
        let who = format!("user_{seed}");
        let run = story.trigger("mention_escalation", &who).await;
        story.drain().await;
        story.pass("PT2H").await;
        let asked = Asked::default();
        let mut acts: Vec<Act> = settlers(&story, 10)
            .into_iter()
            .map(|settler| settles(&story, settler))
            .collect();
        acts.push(progresses(&story, run));
        acts.push(cancelling.on(cancels(&story, run, &asked)));
        acts.push(reading.on(reads(&story, &who)));
        at_once(&mut random(seed), acts).await;
        story.drain().await;

        let end = end_of(&story, run).await;
        let sent = sent_to(&story, run);
        let asked = asked.lock().unwrap().take().unwrap();
        match (end.as_str(), asked) {
            // Ended by the one who asked, before its mail or while that was out.
            ("cancelled", Ok(out)) => assert!(sent.len() <= 2 && out <= 1, "{seed}: {sent:?}"),
            ("stop_condition:notification_read", Err(_)) => assert_eq!(sent, ["in_app"], "{seed}"),
            ("completed", Err(_)) => assert_eq!(sent, ["in_app", "email"], "{seed}"),
            other => panic!("seed {seed}: {other:?}"),
        }
        cancelling.take(end == "cancelled");
        reading.take(end == "stop_condition:notification_read");
        *ends.entry(end).or_default() += 1;
    }
    assert!(ends.len() > 1, "nothing raced: {ends:?}");
    check(&story).await;
    assert_quiet(story).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_cancelled_or_stopped_by_its_signal_and_never_both() {
    let story = Story::begin(MORNING).await;
    story.apply(MENTION).await;
    let (mut handicap, mut cancelled) = (Handicap::default(), 0);
    for seed in 0..100 {
        let who = format!("user_{seed}");
        let run = story.trigger("mention_escalation", &who).await;
        story.drain().await;
        reads(&story, &who).await;
        let asked = Asked::default();
        let mut acts: Vec<Act> = settlers(&story, 2)
            .into_iter()
            .map(|settler| settles(&story, settler))
            .collect();
        acts.push(handicap.on(cancels(&story, run, &asked)));
        at_once(&mut random(seed), acts).await;
        story.drain().await;
        let asked = asked.lock().unwrap().take().unwrap();
        let expected = match asked {
            Ok(_) => "cancelled",
            Err(_) => "stop_condition:notification_read",
        };
        assert_eq!(end_of(&story, run).await, expected, "seed {seed}");
        assert_eq!(sent_to(&story, run), ["in_app"], "seed {seed}");
        handicap.take(asked.is_ok());
        cancelled += usize::from(asked.is_ok());
    }
    assert!((1..100).contains(&cancelled), "nothing raced: {cancelled}");
    check(&story).await;
    assert_quiet(story).await;
}
