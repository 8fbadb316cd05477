//! Hostile values at every way in: no panic, no half-written row, and an error that names the place.

mod command_line;
mod documents;
mod library;
mod sql;
mod values;

use std::cell::{Cell, RefCell};

use async_trait::async_trait;
use chimeway::{
    Document,
    channels::{Channel, Message, Receipt, SendError},
    flow::{TemplateSource, Templates},
    ids::RunId,
};
use chimeway_testkit::Story;
use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngSeed, TestCaseError, TestRunner},
};
use rand::RngExt as _;
use sqlx::{Executor as _, PgConnection};
use tokio::runtime::Runtime;

use crate::{
    invariants::audit,
    tools::{MORNING, lines},
};

/// What a property says of one case.
type Verdict = Result<(), TestCaseError>;

/// A journey that shows params to everything that reads them: the inbox, the log, a template, a
/// comparison.
const JOURNEY: &str = r#"
key: hostile
steps:
  - { id: item, action: { type: notify, channel: in_app } }
  - { id: note, action: { type: notify, channel: log } }
  - { id: letter, action: { type: notify, channel: letter, render_key: letter } }
  - id: rest
    action:
      type: wait
      duration: PT1H
      stop_conditions:
        - { type: signal_received, signal_type: go_on, match: { document_id: params.document_id } }
        - { type: signal_received, signal_type: "\u202Estop" }
"#;

/// Its messages are made from templates.
struct Letter;

#[async_trait]
impl Channel for Letter {
    fn adapter(&self) -> &'static str {
        "letter"
    }

    fn renders(&self) -> bool {
        true
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        assert!(message.content.is_some());
        Ok(Receipt::default())
    }
}

/// Everything that is stored, as one hash.
const EVERYTHING: &str = "
create function public.everything() returns text language plpgsql as $$
declare
    name text;
    hash text;
    all_hashes text := '';
begin
    for name in
        select c.relname from pg_class c
        where c.relnamespace = 'chimeway'::regnamespace and c.relkind = 'r' order by 1
    loop
        execute format(
            'select count(*) || md5(coalesce(string_agg(t::text, chr(10) order by t::text), ''''))
             from chimeway.%I t', name)
        into hash;
        all_hashes := all_hashes || name || ' ' || hash || chr(10);
    end loop;
    return all_hashes;
end $$";

/// Where the hostile values go.
struct Ground {
    story: Story,
}

impl Ground {
    async fn new() -> Self {
        let story = Story::builder()
            .channel("letter", Letter)
            .begin(MORNING)
            .await;
        story.pool().execute(EVERYTHING).await.unwrap();
        let mut templates = Templates::new();
        let text = "{{ params }} {{ params.document_id }} {{ params.deep }}".to_owned();
        let source = TemplateSource {
            text: Some(text),
            ..TemplateSource::default()
        };
        templates.add("letter", source).unwrap();
        let journey = Document::from_yaml("hostile", JOURNEY).unwrap();
        let applied = story
            .chimeway()
            .apply_with(story.pool(), &journey, &templates);
        applied.await.unwrap();
        Self { story }
    }

    /// Everything that is stored.
    async fn everything(&self, conn: &mut PgConnection) -> String {
        let hashes = sqlx::query_scalar("select public.everything()");
        hashes.fetch_one(conn).await.unwrap()
    }

    /// A run in its wait.
    async fn waiting(&self) -> RunId {
        let run = self.story.trigger("hostile", "ada").await;
        self.story.drain().await;
        run
    }

    /// Everything that is due is done, nothing has panicked on the way, and all rules hold.
    async fn goes_on(&self) {
        self.story.drain().await;
        let bad =
            "select string_agg(distinct response ->> 'error', ', ') from chimeway.delivery_attempts
                   where response ->> 'error' ~ 'panicked|does not decode'";
        assert_eq!(lines(self.story.pool(), bad).await, "null");
        let aside = "select (select count(*) from chimeway.events where quarantine_reason is not null or tries > 0)
            || ' ' || (select count(*) from chimeway.signals where quarantine_reason is not null or tries > 0)
            || ' ' || (select count(*) from chimeway.workflow_runs where quarantine_reason is not null or tries > 0)";
        assert_eq!(lines(self.story.pool(), aside).await, "0 0 0");
        audit(self.story.pool()).await;
    }
}

/// Says something of many values, on one ground. Prints the seed when it does not hold.
fn for_all<S: Strategy>(cases: u32, values: &S, says: &impl AsyncFn(&Ground, S::Value) -> Verdict)
where
    S::Value: Clone + std::fmt::Debug,
{
    let runtime = runtime();
    // What has failed once would fail for every simpler value too: it gets new ground.
    let clean = RefCell::new(None);
    let cases_so_far = Cell::new(0);
    // `PROPTEST_RNG_SEED` repeats a run, `PROPTEST_CASES` makes it thorough.
    let usual = Config::default();
    let seed = match usual.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => rand::rng().random(),
    };
    let config = Config {
        cases: if usual.cases == 256 {
            cases
        } else {
            usual.cases
        },
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..usual
    };
    let held = TestRunner::new(config).run(values, |value| {
        // So does the next hundred: every look at all rows takes longer, the more there are.
        let count = cases_so_far.replace(cases_so_far.get() + 1);
        let ground = clean.take().filter(|_| count % 100 != 0);
        runtime.block_on(async {
            let ground = match ground {
                Some(ground) => ground,
                None => Ground::new().await,
            };
            says(&ground, value).await?;
            clean.replace(Some(ground));
            Ok(())
        })
    });
    if let Err(error) = held {
        panic!("{error}\nagain: PROPTEST_RNG_SEED={seed}");
    }
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// A text that a person can read in a failure.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(60).collect();
    format!("{} bytes: {}", text.len(), start.escape_debug())
}
