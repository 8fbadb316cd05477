//! What messages say: templates stored with a workflow, previewed, rendered at the send.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chimeway::{
    Chimeway, Dispatcher, Document, FlowError,
    channels::{Channel, Content, Message, Receipt, SendError},
    flow::{Applied, TemplateSource, Templates},
};
use chimeway_testkit::{Story, TestDb};
use serde_json::json;

use crate::{
    invariants::audit,
    programs::{chimeway, chimeway_at, root},
    tools::{MORNING, deliveries, lines, place},
};

const LETTER: &str = "
key: letter
steps:
  - id: write
    action: {type: notify, channel: email, render_key: greeting}
    on_outcome: {permanent_failure: {goto: note}, delivered: complete}
  - id: note
    action: {type: notify, channel: in_app}
";

/// Keeps what it is given; its messages are made from templates.
#[derive(Clone, Default)]
struct Post {
    sent: Arc<Mutex<Vec<Content>>>,
}

impl Post {
    fn sent(&self) -> Vec<Content> {
        self.sent.lock().unwrap().clone()
    }

    fn subjects(&self) -> Vec<String> {
        let sent = self.sent().into_iter();
        sent.map(|content| content.subject.unwrap()).collect()
    }
}

#[async_trait]
impl Channel for Post {
    fn adapter(&self) -> &'static str {
        "post"
    }

    fn renders(&self) -> bool {
        true
    }

    async fn send(&self, message: &Message) -> Result<Receipt, SendError> {
        let content = message.content.clone().unwrap();
        self.sent.lock().unwrap().push(content);
        Ok(Receipt::default())
    }
}

fn greeting(subject: &str, text: &str) -> Templates {
    let mut templates = Templates::new();
    let source = TemplateSource {
        subject: Some(subject.to_owned()),
        text: Some(text.to_owned()),
        html: None,
    };
    templates.add("greeting", source).unwrap();
    templates
}

async fn story() -> (Story, Post) {
    let post = Post::default();
    let story = Story::builder()
        .channel("email", post.clone())
        .begin(MORNING)
        .await;
    (story, post)
}

async fn apply(story: &Story, yaml: &str, templates: &Templates) -> Result<Applied, FlowError> {
    let document = Document::from_yaml("test", yaml).unwrap();
    let chimeway = story.chimeway();
    chimeway
        .apply_with(story.pool(), &document, templates)
        .await
}

const HASHES: &str = "select a.outcome || ' ' || coalesce((
        select t.apply_no::text from chimeway.templates t where t.template_hash = a.template_hash
    ), 'none')
    from chimeway.delivery_attempts a order by a.delivery_id, a.attempt_number";

/// Scenario 34.
#[tokio::test]
async fn a_message_is_made_of_what_was_applied_last_and_its_try_keeps_the_hash() {
    let (story, post) = story().await;
    let applied = apply(&story, LETTER, &greeting("One", "Hello {{ params.name }}"))
        .await
        .unwrap();
    assert_eq!(applied.templates, ["greeting"]);
    for text in ["Hello {{ params.name }}", "Good day, {{ params.name }}"] {
        let subject = if text.starts_with("Hello") {
            "One"
        } else {
            "Two"
        };
        let again = apply(&story, LETTER, &greeting(subject, text))
            .await
            .unwrap();
        // The same content is not stored again; the workflow's version is the same either way.
        assert_eq!(
            (again.version.0, again.templates.len()),
            (1, usize::from(subject == "Two"))
        );
        let run = story
            .trigger_with("letter", "ada", json!({ "name": "Ada" }))
            .await;
        story.drain().await;
        assert_eq!(place(&story, run).await, "completed in write: completed");
    }
    let texts: Vec<_> = post
        .sent()
        .into_iter()
        .map(|content| content.text.unwrap())
        .collect();
    assert_eq!(texts, ["Hello Ada", "Good day, Ada"]);
    assert_eq!(post.subjects(), ["One", "Two"]);
    assert_eq!(
        lines(story.pool(), HASHES).await,
        "succeeded 1\nsucceeded 2"
    );
    // Going back to the first one is a new row: what was applied last is used.
    apply(&story, LETTER, &greeting("One", "Hello {{ params.name }}"))
        .await
        .unwrap();
    story
        .trigger_with("letter", "ada", json!({ "name": "Ada" }))
        .await;
    story.drain().await;
    assert_eq!(post.subjects(), ["One", "Two", "One"]);
    let changed = sqlx::query("update chimeway.templates set subject = 'x'")
        .execute(story.pool())
        .await;
    assert!(changed.unwrap_err().to_string().contains("never changed"));
    audit(story.pool()).await;
}

#[tokio::test]
async fn another_process_uses_it_within_a_second() {
    let (story, post) = story().await;
    apply(&story, LETTER, &greeting("One", "Hello"))
        .await
        .unwrap();
    story.trigger("letter", "ada").await;
    story.drain().await;
    let other = Chimeway::builder()
        .dispatcher(Dispatcher::Inline)
        .channel("email", Post::default())
        .unwrap()
        .build();
    let document = Document::from_yaml("test", LETTER).unwrap();
    let two = greeting("Two", "Hello");
    other
        .apply_with(story.pool(), &document, &two)
        .await
        .unwrap();
    let begun = Instant::now();
    while post.subjects().last().unwrap() != "Two" {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            post.subjects()
        );
        story.trigger("letter", "ada").await;
        story.drain().await;
    }
}

#[tokio::test]
async fn a_missing_variable_is_a_permanent_failure_that_names_it_and_no_value() {
    let (story, post) = story().await;
    let templates = greeting(
        "Hi",
        "Hello {{ params.name }},\n\n{{ params.secret_titel }}",
    );
    apply(&story, LETTER, &templates).await.unwrap();
    let params = json!({ "name": "Ada Lovelace", "secret_title": "hunter2" });
    let run = story.trigger_with("letter", "ada", params).await;
    story.drain().await;
    assert_eq!(post.sent(), []);
    // The journey branched.
    assert_eq!(place(&story, run).await, "completed in note: completed");
    insta::assert_snapshot!(deliveries(story.pool()).await, @"
    email cancelled permanent_failure attempts=1
    in_app succeeded attempts=1
    ");
    let kept = lines(
        story.pool(),
        "select concat_ws(' ', outcome, error_class, adapter, response::text, template_hash is not null)
         from chimeway.delivery_attempts where adapter = 'post'",
    )
    .await;
    insta::assert_snapshot!(kept, @r#"failed permanent post {"file": "greeting.txt", "line": 3, "error": "the template does not fit: greeting.txt, line 3: `params.secret_titel` is missing", "variable": "params.secret_titel"} t"#);
    assert!(!kept.contains("hunter2") && !kept.contains("Lovelace"));
    audit(story.pool()).await;
}

#[tokio::test]
async fn a_step_over_a_channel_that_renders_needs_a_template_when_it_is_applied() {
    let (story, _) = story().await;
    let refused = apply(&story, LETTER, &Templates::new()).await.unwrap_err();
    let FlowError::InvalidDefinition(mistakes) = &refused else {
        panic!("{refused}")
    };
    insta::assert_snapshot!(mistakes[0], @"/steps/0/action/render_key: the channel `email` needs a template, and there is no `greeting`; write templates/greeting.txt beside the document, and templates/greeting.subject.txt");
    assert_eq!(mistakes.len(), 1);
    let mut bare = Templates::new();
    let source = TemplateSource {
        text: Some("Hello".to_owned()),
        ..TemplateSource::default()
    };
    bare.add("greeting", source).unwrap();
    let refused = apply(&story, LETTER, &bare).await.unwrap_err();
    insta::assert_snapshot!(refused, @"the definition has a mistake: /steps/0/action/render_key: the channel `email` needs a subject, and the template `greeting` has none; write templates/greeting.subject.txt beside the document");
    // Nothing half-valid is stored.
    let stored = "select ((select count(*) from chimeway.workflows)
        + (select count(*) from chimeway.templates))::text";
    assert_eq!(lines(story.pool(), stored).await, "0");

    apply(&story, LETTER, &greeting("Hi", "Hello"))
        .await
        .unwrap();
    // What is stored counts: a document alone may be changed.
    let changed = LETTER.replace("delivered: complete", "delivered: next");
    assert_eq!(
        apply(&story, &changed, &Templates::new())
            .await
            .unwrap()
            .version
            .0,
        2
    );
    // Where nothing renders, nothing is needed.
    let plain = Story::begin(MORNING).await;
    plain.apply(LETTER).await;
}

#[tokio::test]
async fn a_workflow_that_was_applied_without_templates_fails_each_message_and_says_how_to_mend_it()
{
    let (story, post) = story().await;
    let elsewhere = Chimeway::builder().build();
    let document = Document::from_yaml("test", LETTER).unwrap();
    elsewhere.apply(story.pool(), &document).await.unwrap();
    story.trigger("letter", "ada").await;
    story.drain().await;
    assert_eq!(post.sent(), []);
    let kept = "select response ->> 'error' from chimeway.delivery_attempts where adapter = 'post'";
    insta::assert_snapshot!(lines(story.pool(), kept).await, @"there is no template `greeting`; apply the workflow again with its templates");
}

/// A settings file with mail by SMTP, and a folder of workflows with templates.
fn project(folder: &Path, templates: &[(&str, &str)]) -> (String, String) {
    let settings = folder.join("chimeway.toml");
    let smtp =
        "[channels.email]\nadapter = \"smtp\"\nhost = \"127.0.0.1\"\nfrom = \"a@example.com\"\n";
    fs::write(&settings, smtp).unwrap();
    let journeys = folder.join("journeys");
    fs::create_dir_all(journeys.join("templates")).unwrap();
    fs::write(journeys.join("letter.yaml"), LETTER).unwrap();
    for (name, text) in templates {
        fs::write(journeys.join("templates").join(name), text).unwrap();
    }
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    (text(&settings), text(&journeys))
}

#[tokio::test]
async fn validate_reports_every_mistake_of_every_template() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, journeys) = project(
        folder.path(),
        &[
            ("greeting.txt", "Hello\n{{ params.name | uper }}"),
            ("other.html", "<p>{% if %}</p>"),
            ("notes.md", "{{ not a template"),
        ],
    );
    let ran = chimeway(
        "",
        &["--config", &settings, "workflows", "validate", &journeys],
    )
    .expect(1);
    let out = ran.out.replace(&journeys, "journeys");
    insta::assert_snapshot!(out, @"
    journeys/templates/greeting.txt: line 2: there is no filter `uper`
    journeys/templates/other.html: line 1: syntax error: unexpected end of block
    ");
    let none = tempfile::tempdir().unwrap();
    let (settings, journeys) = project(none.path(), &[]);
    let ran = chimeway(
        "",
        &[
            "--config",
            &settings,
            "workflows",
            "validate",
            &journeys,
            "--json",
        ],
    );
    let found = ran.expect(1).json();
    assert_eq!(found[0]["mistakes"][0]["code"], "missing_template");
    assert_eq!(
        found[0]["mistakes"][0]["pointer"],
        "/steps/0/action/render_key"
    );
    // Mail that only goes to the log says nothing, and needs nothing.
    chimeway("", &["workflows", "validate", &journeys]).expect(0);
}

#[tokio::test]
async fn templates_are_applied_listed_and_previewed() {
    let db = TestDb::create().await;
    let url = db.url();
    let folder = tempfile::tempdir().unwrap();
    let parts = [
        ("greeting.subject.txt", "Hello {{ params.name }}\n"),
        ("greeting.txt", "At {{ params.at | time }}.\n"),
        ("greeting.html", "<p>{{ params.name }}</p>\n"),
        ("unused.txt", "Nobody names it.\n"),
    ];
    let (settings, journeys) = project(folder.path(), &parts);
    let run = |arguments: &[&str]| chimeway(&url, arguments);
    let apply = ["--config", &settings, "workflows", "apply", &journeys];
    assert_eq!(
        run(&apply).expect(0).out,
        "letter v1 applied\ntemplate greeting applied\n"
    );
    assert_eq!(run(&apply).expect(0).out, "letter v1 unchanged\n");
    let listed = run(&["templates", "list", "--json"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(
        (&listed[0]["render_key"], &listed[0]["revisions"]),
        (&json!("greeting"), &json!(1))
    );
    assert!(
        run(&["templates", "list"])
            .expect(0)
            .out
            .contains("subject text html")
    );

    let html = folder.path().join("mail.html");
    let params = r#"{"name": "<Ada>", "at": "2026-03-02T09:00:00Z"}"#;
    let preview = [
        "templates",
        "preview",
        "greeting",
        "--params",
        params,
        "--time-zone",
        "Europe/Vienna",
    ];
    let file = ["--html", html.to_str().unwrap()];
    let shown = run(&[&preview[..], &file].concat()).expect(0).out;
    assert!(
        shown.starts_with("Subject: Hello <Ada>\n\nAt 10:00.\n\nHTML: 18 bytes, in "),
        "{shown}"
    );
    assert_eq!(fs::read_to_string(html).unwrap(), "<p>&lt;Ada&gt;</p>");
    // Another text in the file than what is stored; and no database.
    let files = format!("{journeys}/templates");
    fs::write(
        Path::new(&files).join("greeting.txt"),
        "Draft.\n\n{{ params.nam }}",
    )
    .unwrap();
    let from_files = ["--templates", &files];
    let refused = chimeway("", &[&preview[..], &from_files].concat())
        .expect(1)
        .err;
    let expected = format!(
        "error: {files}/greeting.txt, line 3: `params.nam` is missing; correct the template or give it in --params\n"
    );
    assert_eq!(refused, expected);
    let there = chimeway(
        "",
        &["templates", "preview", "greting", "--templates", &files],
    )
    .expect(3);
    assert!(
        there.err.contains("there are: greeting, unused"),
        "{}",
        there.err
    );
    run(&["templates", "preview", "unused"]).expect(3);
}

#[test]
fn the_first_journeys_templates_make_a_message() {
    let templates = root().join("journeys/templates");
    let params = r#"{"document_id": "doc_789", "by": "Grace", "at": "2026-03-02T09:00:00Z", "link": "https://example.com/?a=1&b=2"}"#;
    let arguments = [
        "templates",
        "preview",
        "mention_email",
        "--recipient",
        "ada",
        "--locale",
        "en-US",
    ];
    let mut command = chimeway_at("", &arguments);
    command.args([
        "--time-zone",
        "America/New_York",
        "--params",
        params,
        "--templates",
    ]);
    let ran = crate::programs::Ran::from(command.arg(&templates).output().unwrap()).expect(0);
    insta::assert_snapshot!(ran.out, @"
    Subject: You were mentioned in doc_789

    Hello ada,

    Grace mentioned you in doc_789 on March 2, 2026, 4:00 AM.

      https://example.com/?a=1&b=2

    You get this by email because you have not looked at it in the app yet.

    HTML: 451 bytes; see it with --html FILE
    ");
    let least = [
        "templates",
        "preview",
        "mention_email",
        "--json",
        "--params",
        r#"{"document_id": "doc_789"}"#,
    ];
    let mut command = chimeway_at("", &least);
    let ran = command.arg("--templates").arg(&templates).output().unwrap();
    let made = crate::programs::Ran::from(ran).expect(0).json();
    assert_eq!(made["subject"], "You were mentioned in doc_789");
    assert!(
        made["html"]
            .as_str()
            .unwrap()
            .contains("<strong>doc_789</strong>")
    );
}
