//! Stories over a real PostgreSQL with time that moves only when told.
//!
//! For Chimeway's own tests and for hosts that test a journey of theirs. A [`Story`] has a database of
//! its own, the Inline dispatcher, a [`RecordingChannel`] in place of every channel that reaches the
//! outside, and a clock that stands still:
//!
//! ```no_run
//! # async fn story() {
//! use chimeway_testkit::Story;
//!
//! let story = Story::begin("2026-03-02T09:00:00Z").await;
//! story.apply(include_str!("../../../journeys/mention_escalation.yaml")).await;
//! let run = story.trigger("mention_escalation", "user_123").await;
//! story.drain().await;
//!
//! story.advance("PT1H59M").await;
//! story.signal("user_123", "notification_read").await;
//! story.advance("PT2H").await;
//!
//! assert_eq!(story.sent(), ["in_app mention_notification to user_123"]);
//! assert_eq!(story.explain(run).await.terminal_reason.as_deref(), Some("stop_condition:notification_read"));
//! # }
//! ```
//!
//! The server is named by `TEST_DATABASE_URL`, and by nothing else: a test never touches a database
//! that `DATABASE_URL` names. Each test gets a database of its own, cloned from a template that is
//! migrated once.

mod channel;
mod db;
mod story;

pub use channel::{Answer, RecordingChannel, Sent};
pub use db::TestDb;
pub use story::{Story, StoryBuilder, TENANT};
