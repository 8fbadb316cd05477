//! What several modules of tests need.

use std::time::{Duration, Instant};

/// How long something may take that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks again and again until there is an answer; fails with `what` when none comes.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_or(ask, async || what.to_owned()).await
}

/// The same; what is said when no answer comes is found out then.
pub(crate) async fn eventually_or<T>(
    mut ask: impl AsyncFnMut() -> Option<T>,
    why: impl AsyncFnOnce() -> String,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        if began.elapsed() >= PATIENCE {
            panic!("it did not happen: {}", why().await);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
