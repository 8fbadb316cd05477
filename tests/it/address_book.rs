//! Addresses that the host keeps itself: looked up when a message is claimed and none is stored.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chimeway::{
    Recipient, Trigger,
    channels::BoxError,
    flow::{AddressBook, Contact, Timing},
    ids::{ActorId, RunId, TenantId},
};
use chimeway_testkit::Story;
use serde_json::json;

use crate::{
    invariants::audit,
    recipients::{Letter, MAIL, store},
    tools::{MORNING, actor, attempts, deliveries, lines, place, trigger, trigger_of},
};

/// A host's own book: what it knows, what it was asked, and how it answers.
#[derive(Clone, Default)]
struct Book {
    known: Arc<Mutex<HashMap<String, Contact>>>,
    asked: Arc<Mutex<Vec<String>>>,
    mood: Arc<Mutex<Mood>>,
}

#[derive(Clone, Copy, Default)]
enum Mood {
    #[default]
    Answers,
    Refuses,
    Panics,
    Hangs,
}

impl Book {
    fn knowing(entries: &[(&str, &str)]) -> Self {
        let book = Self::default();
        for (who, address) in entries {
            let addresses = [("letter".to_owned(), (*address).to_owned())].into();
            let contact = Contact {
                addresses,
                locale: Some("fr-FR".to_owned()),
                time_zone: Some("Europe/Paris".to_owned()),
            };
            book.known
                .lock()
                .unwrap()
                .insert((*who).to_owned(), contact);
        }
        book
    }

    fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl AddressBook for Book {
    async fn look_up(
        &self,
        tenant: &TenantId,
        recipients: &[ActorId],
    ) -> Result<HashMap<ActorId, Contact>, BoxError> {
        let mut names: Vec<&str> = recipients.iter().map(ActorId::as_str).collect();
        names.sort_unstable();
        self.asked
            .lock()
            .unwrap()
            .push(format!("{tenant}: {}", names.join(" ")));
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Answers => {}
            Mood::Refuses => return Err("the directory is down".into()),
            Mood::Panics => panic!("the test said so"),
            Mood::Hangs => std::future::pending().await,
        }
        let known = self.known.lock().unwrap();
        let found = recipients.iter().filter_map(|who| {
            let contact = known.get(&format!("{tenant}/{who}"))?;
            Some((who.clone(), contact.clone()))
        });
        Ok(found.collect())
    }
}

async fn with_book(letter: &Letter, book: &Book, timing: Timing) -> Story {
    let story = Story::builder()
        .channel("letter", letter.clone())
        .with(|builder| builder.address_book(book.clone()).timing(timing))
        .begin(MORNING)
        .await;
    story.apply(MAIL).await;
    story
}

#[tokio::test]
async fn the_hosts_book_is_asked_once_for_those_of_whom_no_address_is_stored() {
    let letter = Letter::default();
    let book = Book::knowing(&[
        ("org_456/ada", "Book Street 1"),
        ("org_456/bob", "Book Street 2"),
        ("org_456/eve", "never asked"),
        ("other/ada", "Other Street 3"),
    ]);
    let story = with_book(&letter, &book, Timing::default()).await;
    store(&story, "eve", json!({ "letter": "Stored Street 4" })).await;
    // A language that is stored wins over the book's.
    let mut ada = trigger_of("mail", "-");
    ada.recipients = vec![Recipient {
        locale: Some("de-AT".to_owned()),
        ..Recipient::new(actor("ada"))
    }];
    for who in ["bob", "eve", "zed"] {
        ada = ada.recipient(Recipient::new(actor(who)));
    }
    let event = trigger(story.chimeway(), story.pool(), ada)
        .await
        .unwrap()
        .event();
    let elsewhere = Trigger::new("mail".parse().unwrap(), "other".parse().unwrap())
        .recipient(Recipient::new(actor("ada")));
    trigger(story.chimeway(), story.pool(), elsewhere)
        .await
        .unwrap();
    story.drain().await;

    let mut asked = book.asked();
    asked.sort();
    assert_eq!(asked, ["org_456: ada bob zed", "other: ada"]);
    insta::assert_snapshot!(letter.sent(), @r"
    ada of org_456 at Book Street 1, de-AT, Europe/Paris
    ada of other at Other Street 3, fr-FR, Europe/Paris
    bob of org_456 at Book Street 2, fr-FR, Europe/Paris
    eve of org_456 at Stored Street 4, -, -
    ");
    let suppressed = lines(
        story.pool(),
        "select n.recipient from chimeway.deliveries d
         join chimeway.notifications n on n.id = d.notification_id
         where d.status_reason = 'no_address'",
    );
    assert_eq!(suppressed.await, "zed");
    // What the book says is not stored.
    assert_eq!(
        lines(
            story.pool(),
            "select addresses::text from chimeway.recipients order by identity"
        )
        .await,
        "{}\n{\"letter\": \"Stored Street 4\"}"
    );
    for run in story.runs_of(event).await {
        assert_eq!(place(&story, run).await, "completed in mail: completed");
    }
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_book_that_fails_is_asked_again_and_nothing_is_suppressed() {
    // A look-up has half of what a lease has to spare beside a send.
    let timing = Timing {
        send: Duration::from_secs(28),
        lease: Duration::from_millis(29_500),
        ..Timing::default()
    };
    let letter = Letter::default();
    let book = Book::knowing(&[("org_456/ada", "Book Street 1")]);
    let story = with_book(&letter, &book, timing).await;
    let run: RunId = story.trigger("mail", "ada").await;
    for mood in [Mood::Refuses, Mood::Panics, Mood::Hangs] {
        book.be(mood);
        story.pass("PT1H").await;
        story.drain().await;
        assert_eq!(place(&story, run).await, "active in mail");
    }
    assert_eq!(letter.sent(), "");
    book.be(Mood::Answers);
    story.advance("PT1H").await;
    assert_eq!(
        letter.sent(),
        "ada of org_456 at Book Street 1, fr-FR, Europe/Paris"
    );
    assert_eq!(place(&story, run).await, "completed in mail: completed");
    let error = r#"failed temporary {"error": "the address book did not answer"}"#;
    assert_eq!(
        attempts(story.pool()).await,
        format!("letter 1 {error}\nletter 2 {error}\nletter 3 {error}\nletter 4 succeeded")
    );
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_book_may_not_say_two_lines() {
    let letter = Letter::default();
    let book = Book::knowing(&[("org_456/ada", "Book Street 1\r\nBcc: everybody")]);
    let story = with_book(&letter, &book, Timing::default()).await;
    story.trigger("mail", "ada").await;
    story.drain().await;
    assert_eq!(letter.sent(), "");
    assert_eq!(
        deliveries(story.pool()).await,
        "letter cancelled permanent_failure attempts=1"
    );
}
