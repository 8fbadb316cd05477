//! What happens at the named points of the handlers, told by flags.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chimeway::flow::{Hook, Point};
use futures::FutureExt as _;

use crate::{Fallible, append};

/// What happens at a point of the handlers.
pub(crate) struct Failpoint {
    point: Point,
    action: Action,
    once: bool,
    /// From this arrival on.
    nth: usize,
    reached: AtomicUsize,
}

#[derive(Clone)]
enum Action {
    Abort,
    Panic,
    Pause(PathBuf),
}

impl Failpoint {
    pub(crate) fn parse(text: &str) -> Fallible<Self> {
        let (point, action) = text.split_once('=').ok_or("--failpoint POINT=ACTION")?;
        let known = Point::ALL.into_iter().find(|known| known.as_str() == point);
        let (once, action) = match action.strip_prefix("once:") {
            Some(action) => (true, action),
            None => (false, action),
        };
        let (nth, action) = match action.strip_prefix("nth:") {
            Some(rest) => {
                let (nth, action) = rest.split_once(':').ok_or("nth:N:ACTION")?;
                (nth.parse()?, action)
            }
            None => (1, action),
        };
        let action = match (action, action.strip_prefix("pause:")) {
            ("abort", _) => Action::Abort,
            ("panic", _) => Action::Panic,
            (_, Some(file)) => Action::Pause(file.into()),
            _ => return Err(format!("what is {action}?").into()),
        };
        Ok(Self {
            point: known.ok_or("no such point")?,
            action,
            once,
            nth,
            reached: AtomicUsize::new(0),
        })
    }

    /// What is to be done at this arrival.
    fn arrive(&self, point: Point) -> Option<Action> {
        if self.point != point {
            return None;
        }
        let arrival = self.reached.fetch_add(1, Ordering::SeqCst) + 1;
        let acts = arrival == self.nth || (arrival > self.nth && !self.once);
        acts.then(|| self.action.clone())
    }
}

impl Action {
    async fn perform(self) {
        match self {
            // Like kill -9: nothing is unwound, nothing is told.
            Self::Abort => std::process::abort(),
            Self::Panic => panic!("the test said so"),
            Self::Pause(file) => {
                let reached = file.with_added_extension("reached");
                if let Err(error) = append(&reached, "reached\n") {
                    eprintln!("cannot write {}: {error}", reached.display());
                }
                while !file.exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    }
}

/// Does what the failpoints say.
pub(crate) fn hook(failpoints: Vec<Failpoint>) -> Hook {
    let failpoints = Arc::new(failpoints);
    Arc::new(move |point| {
        let actions: Vec<Action> = failpoints
            .iter()
            .filter_map(|it| it.arrive(point))
            .collect();
        async move {
            for action in actions {
                if matches!(action, Action::Abort) {
                    eprintln!("dies at {}", point.as_str());
                }
                action.perform().await;
            }
        }
        .boxed()
    })
}
