//! What happens at the named points of the handlers, told by flags.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
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
    reached: AtomicBool,
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
            reached: AtomicBool::new(false),
        })
    }

    /// What is to be done at this arrival.
    fn arrive(&self, point: Point) -> Option<Action> {
        let here = self.point == point;
        (here && !(self.reached.swap(true, Ordering::SeqCst) && self.once))
            .then(|| self.action.clone())
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
                action.perform().await;
            }
        }
        .boxed()
    })
}
