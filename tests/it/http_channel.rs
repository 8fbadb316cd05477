//! The channel for any provider over HTTP, and the recipes of docs/channels.md.

use std::collections::BTreeMap;

use chimeway::channels::{
    Channel as _, Message,
    http::{HttpChannel, HttpSettings},
};
use serde_json::{Value, json};

use crate::{
    programs::{chimeway_path, command, root, run_with_input},
    receiver::{Receiver, Reply, Request},
    webhook::{message, told},
};

/// The settings under a heading of the page, with the variables replaced as the program does.
fn recipe(heading: &str, variables: &[(&str, &str)]) -> String {
    let page = std::fs::read_to_string(root().join("docs/channels.md")).unwrap();
    let (_, part) = page.split_once(&format!("### {heading}\n")).unwrap();
    let (_, block) = part.split_once("```toml\n").unwrap();
    let mut text = block.split_once("```").unwrap().0.to_owned();
    for (name, value) in variables {
        let name = format!("env:{name}");
        assert!(text.contains(&name), "{heading} does not name {name}");
        text = text.replace(&name, value);
    }
    text
}

fn channel(text: &str) -> HttpChannel {
    let mut file: BTreeMap<String, BTreeMap<String, toml::Table>> = toml::from_str(text).unwrap();
    let (_, mut table) = file.remove("channels").unwrap().pop_first().unwrap();
    assert_eq!(table.remove("adapter").unwrap().as_str(), Some("http"));
    table.try_into::<HttpSettings>().unwrap().build().unwrap()
}

/// A channel whose URL is the receiver's, with these settings beside it.
fn with(receiver: &Receiver, settings: &str) -> HttpChannel {
    let url = receiver.url();
    channel(&format!(
        "[channels.x]\nadapter = \"http\"\nurl = \"{url}\"\n{settings}"
    ))
}

fn message_to(address: &str) -> Message {
    message(Some(address))
}

/// What came, without what every request has.
fn seen(receiver: &Receiver) -> Request {
    let requests = receiver.requests();
    let [request] = requests.as_slice() else {
        panic!("{requests:?}")
    };
    request.clone()
}

fn json_of(request: &Request) -> Value {
    assert_eq!(request.header("content-type"), Some("application/json"));
    serde_json::from_str(&request.body).unwrap()
}

#[tokio::test]
async fn slack_takes_the_recipe() {
    let receiver = Receiver::start([
        Reply::with(200, "content-type: text/html\r\n", "ok"),
        Reply::with(410, "", "channel_is_archived"),
        Reply::with(403, "", "action_prohibited"),
        Reply::with(429, "retry-after: 30\r\n", ""),
    ])
    .await;
    let channel = channel(&recipe("Slack", &[("SLACK_WEBHOOK_URL", &receiver.url())]));
    assert!(!channel.needs_address());
    assert!(channel.renders());
    let mut message = message(None);
    if let Some(content) = &mut message.content {
        content.text = Some("<!channel> a & \"b\"".to_owned());
    }
    assert_eq!(
        told(channel.send(&message).await),
        r#"taken {"status":200}"#
    );
    assert_eq!(
        json_of(&seen(&receiver)),
        json!({ "text": "&lt;!channel&gt; a &amp; \"b\"" })
    );
    for expected in [
        r#"bounced {"status":410}"#,
        r#"permanent {"status":403}"#,
        r#"temporary {"status":429} in 30s"#,
    ] {
        assert_eq!(told(channel.send(&message).await), expected);
    }
}

#[tokio::test]
async fn discord_takes_the_recipe() {
    let receiver = Receiver::start([
        Reply::with(
            200,
            "",
            r#"{"id": "1234567890", "type": 0, "content": "hello"}"#,
        ),
        Reply::with(404, "", r#"{"message": "Unknown Webhook", "code": 10015}"#),
    ])
    .await;
    let here = format!("http://127.0.0.1:{}", receiver.port);
    let channel = channel(&recipe("Discord", &[]).replace("https://discord.com", &here));
    assert!(channel.needs_address());
    let message = message_to("42/to-ken_1");
    let receipt = channel.send(&message).await.unwrap();
    assert_eq!(receipt.provider_message_id.as_deref(), Some("1234567890"));
    let request = seen(&receiver);
    assert_eq!(
        request.line,
        "POST /api/webhooks/42/to-ken_1?wait=true HTTP/1.1"
    );
    assert_eq!(
        json_of(&request),
        json!({
            "content": "Ada, you were mentioned: \"a & b\"\n+1",
            "allowed_mentions": { "parse": [] },
        })
    );
    assert_eq!(
        told(channel.send(&message).await),
        r#"bounced {"status":404,"code":10015}"#
    );
}

#[tokio::test]
async fn twilio_takes_the_recipe() {
    let receiver = Receiver::start([
        Reply::with(201, "", r#"{"sid": "SM0123", "status": "queued", "to": "+43155500100"}"#),
        Reply::with(
            400,
            "",
            r#"{"code": 21211, "message": "Invalid 'To' Phone Number: +43155500100", "status": 400}"#,
        ),
    ])
    .await;
    let here = format!("http://127.0.0.1:{}", receiver.port);
    let variables = [("TWILIO_API_KEY", "SK1"), ("TWILIO_API_SECRET", "secret")];
    let channel = channel(&recipe("Twilio", &variables).replace("https://api.twilio.com", &here));
    let message = message_to("+43155500100");
    let receipt = channel.send(&message).await.unwrap();
    assert_eq!(receipt.provider_message_id.as_deref(), Some("SM0123"));
    assert_eq!(receipt.response, Some(json!({ "status": 201 })));
    let request = seen(&receiver);
    assert_eq!(
        request.line,
        "POST /2010-04-01/Accounts/AC00000000000000000000000000000000/Messages.json HTTP/1.1"
    );
    // SK1:secret
    assert_eq!(
        request.header("authorization"),
        Some("Basic U0sxOnNlY3JldA==")
    );
    assert_eq!(
        request.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    assert_eq!(
        request.body,
        "Body=Ada%2C%20you%20were%20mentioned%3A%20%22a%20%26%20b%22%0A%2B1\
         &From=%2B15005550006&To=%2B43155500100"
    );
    // Of the refusal its code, and not the number.
    assert_eq!(
        told(channel.send(&message).await),
        r#"permanent {"status":400,"code":21211}"#
    );
}

#[tokio::test]
async fn vonage_takes_the_recipe() {
    let receiver = Receiver::start([
        Reply::with(
            202,
            "",
            r#"{"message_uuid": "aaaaaaaa-bbbb-cccc-dddd-0123456789ab"}"#,
        ),
        Reply::with(402, "", r#"{"title": "Low Balance"}"#),
        Reply::with(422, "", r#"{"title": "Invalid params"}"#),
    ])
    .await;
    let here = format!("http://127.0.0.1:{}", receiver.port);
    let variables = [("VONAGE_API_KEY", "k"), ("VONAGE_API_SECRET", "s")];
    let channel = channel(&recipe("Vonage", &variables).replace("https://api.nexmo.com", &here));
    let message = message_to("+43155500100");
    let receipt = channel.send(&message).await.unwrap();
    let id = "aaaaaaaa-bbbb-cccc-dddd-0123456789ab";
    assert_eq!(receipt.provider_message_id.as_deref(), Some(id));
    let request = seen(&receiver);
    assert_eq!(request.line, "POST /v1/messages HTTP/1.1");
    assert_eq!(request.header("authorization"), Some("Basic azpz"));
    assert_eq!(
        json_of(&request),
        json!({
            "message_type": "text",
            "channel": "sms",
            "to": "43155500100",
            "from": "Example",
            "text": "Ada, you were mentioned: \"a & b\"\n+1",
            "client_ref": message.delivery,
        })
    );
    assert_eq!(
        told(channel.send(&message).await),
        r#"temporary {"status":402}"#
    );
    assert_eq!(
        told(channel.send(&message).await),
        r#"permanent {"status":422}"#
    );
}

#[tokio::test]
async fn what_is_inserted_cannot_leave_its_place() {
    let receiver = Receiver::start([Reply::status(200)]).await;
    let channel = channel(&format!(
        "[channels.x]\nadapter = \"http\"\nurl = \"{}/{{{{ address }}}}?t={{{{ params.title|urlencode }}}}\"
         method = \"PUT\"
         bearer = \"abc\"
         idempotency_header = \"x-once\"
         headers = {{ x-tenant = \"{{{{ tenant }}}}\" }}
         body = '{{\"title\": {{{{ params.title|tojson }}}}, \"all\": {{{{ params|tojson }}}}}}'",
        receiver.url()
    ));
    let message = message_to("../a b?c=d#e&ä");
    assert_eq!(
        told(channel.send(&message).await),
        r#"taken {"status":200}"#
    );
    let request = seen(&receiver);
    assert_eq!(
        request.line,
        "PUT /hook/..%2Fa%20b%3Fc%3Dd%23e%26%C3%A4?t=Q3%20%22plan%22%20%26%20%3Cnotes%3E HTTP/1.1"
    );
    assert_eq!(request.header("authorization"), Some("Bearer abc"));
    assert_eq!(request.header("x-once"), Some(message.token().as_str()));
    assert_eq!(request.header("idempotency-key"), None);
    assert_eq!(request.header("x-tenant"), Some("org_456"));
    assert_eq!(
        json_of(&request),
        json!({ "title": "Q3 \"plan\" & <notes>", "all": message.params })
    );
}

#[tokio::test]
async fn a_message_that_does_not_fit_is_refused_and_not_quoted() {
    let receiver = Receiver::start([Reply::status(200)]).await;
    for (settings, expected) in [
        (
            "json.text = \"a\\n{{ params.nothing }}\"",
            json!({
                "class": "template", "setting": "json.text", "line": 2,
                "problem": "undefined value", "expression": "params.nothing",
            }),
        ),
        (
            "headers.x-zone = \"{{ time_zone }}\"",
            json!({
                "class": "template", "setting": "headers.x-zone", "line": 1,
                "problem": "undefined value", "expression": "time_zone",
            }),
        ),
        (
            "form.a = \"{% for a in range(9000) %}{% for b in range(9000) %}.{% endfor %}{% endfor %}\"",
            json!({ "class": "template", "setting": "form.a", "line": 1, "problem": "engine ran out of fuel" }),
        ),
        (
            "body = '{\"title\": \"{{ params.title }}\"}'",
            json!({ "class": "body_is_not_json" }),
        ),
        (
            "headers.x-a = \"{{ content.text }}\"",
            json!({ "class": "header" }),
        ),
    ] {
        let sent = with(&receiver, settings).send(&message_to("x")).await;
        let told = told(sent);
        let kept = told
            .strip_prefix("permanent ")
            .expect("it is not permanent");
        let mut kept: Value = serde_json::from_str(kept).unwrap();
        if kept["problem"] == "engine ran out of fuel" {
            kept.as_object_mut().unwrap().remove("expression");
        }
        assert_eq!(kept, expected, "{settings}");
    }
    let nowhere = channel("[channels.x]\nadapter = \"http\"\nurl = \"{{ address | safe }}\"");
    let sent = nowhere.send(&message_to("file:///etc/passwd")).await;
    assert_eq!(told(sent), r#"permanent {"class":"url"}"#);
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn statuses_mean_what_the_settings_say() {
    let settings =
        "success = [200, 409]\ntemporary = [\"4xx\"]\nbounced = [404]\nerror_code = \"/e\"";
    for (reply, expected) in [
        (Reply::status(409), r#"taken {"status":409}"#),
        (Reply::status(201), r#"permanent {"status":201}"#),
        (Reply::status(404), r#"bounced {"status":404}"#),
        (Reply::status(500), r#"permanent {"status":500}"#),
        (
            Reply::with(400, "", r#"{"e": "quota"}"#),
            r#"temporary {"status":400,"code":"quota"}"#,
        ),
        (
            Reply::with(400, "", r#"{"e": "no such user ada"}"#),
            r#"temporary {"status":400}"#,
        ),
        (
            Reply::with(400, "", "not json"),
            r#"temporary {"status":400}"#,
        ),
    ] {
        let receiver = Receiver::start([reply]).await;
        let sent = with(&receiver, settings).send(&message_to("x")).await;
        assert_eq!(told(sent), expected);
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let problem = |settings: &str| {
        let settings: HttpSettings = toml::from_str(settings).unwrap();
        settings
            .build()
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let url = "url = \"https://a.example\"\n";
    for (settings, expected) in [
        ("", ""),
        (
            "form.a = \"1\"\nbody = \"2\"",
            "`body` is not usable: only one of",
        ),
        (
            "bearer = \"a\"\nbasic = { username = \"a\", password = \"b\" }",
            "`basic` is not usable",
        ),
        (
            "bearer = \"a\\nb\"",
            "`bearer` is not usable: a header cannot have it",
        ),
        ("method = \"P OST\"", "`method` is not usable"),
        (
            "message_id = \"id\"",
            "`message_id` is not usable: it is a JSON pointer",
        ),
        ("headers.\"a b\" = \"c\"", "`headers.a b` is not usable"),
        (
            "json.a = [\"{{ b }\"]",
            "`json.a.0` is not usable: the template does not compile: line 1",
        ),
        (
            "content_type = \"text/plain\"",
            "`content_type` is not usable",
        ),
    ] {
        let found = problem(&format!("{url}{settings}"));
        assert!(found.starts_with(expected), "{settings}: {found}");
        assert_eq!(found.is_empty(), expected.is_empty(), "{settings}: {found}");
    }
}

/// Every section of the page is one that the program takes, without the secrets that it names.
#[test]
fn the_program_takes_the_settings_of_the_page() {
    let page = std::fs::read_to_string(root().join("docs/channels.md")).unwrap();
    let blocks: Vec<&str> = page
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("```")?.0))
        .collect();
    assert_eq!(blocks.len(), 6);
    for block in blocks {
        let (_, rest) = block.split_once("[channels.").unwrap();
        let name = rest.split_once(']').unwrap().0;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("chimeway.toml"), block).unwrap();
        let journey = format!(
            "key: k\nsteps:\n  - {{ id: a, action: {{ type: notify, channel: {name}, render_key: r }} }}\n"
        );
        std::fs::write(path("k.yaml"), journey).unwrap();
        std::fs::create_dir(path("templates")).unwrap();
        std::fs::write(path("templates/r.txt"), "words").unwrap();
        std::fs::write(path("templates/r.subject.txt"), "a subject").unwrap();
        let mut command = command(chimeway_path());
        command.arg("--config").arg(path("chimeway.toml"));
        command.args(["workflows", "validate"]).arg(path("k.yaml"));
        let ran = run_with_input(command, "");
        assert_eq!(ran.code, 0, "{block}\n{}", ran.err);
    }
}

/// Where a template makes the host, it is as with a recipient's own URL.
#[tokio::test]
async fn a_host_that_is_inserted_is_not_a_private_one() {
    let receiver = Receiver::start([Reply::status(200)]).await;
    let port = receiver.port;
    let with = |settings: &str| {
        channel(&format!(
            "[channels.x]\nadapter = \"http\"\nurl = \"http://{{{{ address | safe }}}}:{port}/hook\"\n{settings}"
        ))
    };
    let refused = r#"permanent {"class":"private_target"}"#;
    for host in ["127.0.0.1", "localhost", "user@127.0.0.1", "0x7f000001"] {
        let sent = with("").send(&message_to(host)).await;
        assert_eq!(told(sent), refused, "{host}");
    }
    assert!(receiver.requests().is_empty());
    let allowing = with("allow_private = [\"127.0.0.1\"]");
    let sent = allowing.send(&message_to("127.0.0.1")).await;
    assert_eq!(told(sent), r#"taken {"status":200}"#);
}

/// What a message inserts makes no header of its own, nor does it speak of the connection.
#[tokio::test]
async fn no_header_is_injected() {
    let receiver = Receiver::start([Reply::status(200)]).await;
    let channel = with(
        &receiver,
        "headers = { x-title = \"{{ params.title | safe }}\" }",
    );
    for title in [
        "a\r\nx-evil: 1",
        "a\nx-evil: 1",
        "a\rb",
        "a\u{0}b",
        "a\r\n\r\nGET / HTTP/1.1",
    ] {
        let mut message = message_to("a");
        message.params = json!({ "title": title });
        assert_eq!(
            told(channel.send(&message).await),
            r#"permanent {"class":"header"}"#
        );
    }
    assert!(receiver.requests().is_empty());
    for name in ["Host", "content-length", "Transfer-Encoding", "connection"] {
        let mut settings = HttpSettings::new(receiver.url());
        settings.headers.insert(name.to_owned(), "x".to_owned());
        let refusal = settings.build().err().unwrap().to_string();
        assert!(refusal.contains("only the client says that"), "{refusal}");
    }
}
