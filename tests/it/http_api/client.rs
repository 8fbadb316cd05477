//! A worker that serves, and what it is asked.

use chimeway_testkit::TestDb;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    programs::{chimeway, words},
    running::Running,
};

/// A worker that serves.
pub(crate) struct Server {
    pub(crate) worker: Running,
    pub(crate) address: String,
}

impl Server {
    pub(crate) async fn at(url: &str, options: &str) -> Self {
        let line = format!("--channel email=log --http 0 --log debug,sqlx=info {options}");
        let worker = Running::worker(url, line.trim_end());
        let line = worker.prints(" serves /livez").await;
        let (_, rest) = line.split_once("http://").unwrap();
        Self {
            address: rest.split(' ').next().unwrap().to_owned(),
            worker,
        }
    }
}

/// A database with a worker that serves it.
pub(crate) struct Served {
    pub(crate) db: TestDb,
    pub(crate) worker: Running,
    pub(crate) address: String,
}

impl Served {
    pub(crate) async fn begin() -> Self {
        let db = TestDb::create().await;
        let Server { worker, address } = Server::at(&db.url(), "").await;
        Self {
            db,
            worker,
            address,
        }
    }

    /// A token: `ada --tenant org_456`.
    pub(crate) fn token(&self, of: &str) -> String {
        token(&self.db.url(), of)
    }

    /// Who asks with a token.
    pub(crate) fn by(&self, of: &str) -> Asker<'_> {
        Asker {
            address: &self.address,
            token: self.token(of),
        }
    }
}

/// Makes a token, as a person does.
pub(crate) fn token(url: &str, of: &str) -> String {
    let line = format!("tokens create {of}");
    let made = chimeway(url, &words(&line)).expect(0);
    made.out.trim_end().to_owned()
}

/// Who asks with a token.
pub(crate) struct Asker<'a> {
    pub(crate) address: &'a str,
    pub(crate) token: String,
}

impl Asker<'_> {
    /// `GET /api/runs`
    pub(crate) async fn ask(&self, line: &str) -> Answer {
        request(self.address, line, &[&self.bearer()], "").await
    }

    /// The same with a body in JSON.
    pub(crate) async fn send(&self, line: &str, body: Value) -> Answer {
        let headers = [&*self.bearer(), "content-type: application/json"];
        request(self.address, line, &headers, &body.to_string()).await
    }

    /// The same with a body in YAML.
    pub(crate) async fn send_yaml(&self, line: &str, body: &str) -> Answer {
        let headers = [&*self.bearer(), "content-type: application/yaml"];
        request(self.address, line, &headers, body).await
    }

    pub(crate) fn bearer(&self) -> String {
        format!("authorization: Bearer {}", self.token)
    }
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
}

impl Answer {
    /// Fails unless the status is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// The body; what is not JSON fails.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert!(self.has("content-type: application/json"), "{self:?}");
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What a request that was done has brought.
    #[track_caller]
    pub(crate) fn data(self) -> Value {
        assert!(matches!(self.status, 200 | 201), "{self:?}");
        self.json()["data"].take()
    }

    /// What it was refused with, in short: `409 CONFLICT workflow workflow_exists`.
    #[track_caller]
    pub(crate) fn refused(&self) -> String {
        let error = &self.json()["error"];
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty()),
            "{self:?}"
        );
        let mut short = format!("{} {}", self.status, error["code"].as_str().unwrap());
        for detail in error["details"].as_array().unwrap_or(&vec![]) {
            let word = |name: &str| detail[name].as_str().unwrap();
            short.push_str(&format!(" {} {}", word("field"), word("rule")));
        }
        short
    }

    /// Whether a header is there, in lower case: `allow: GET`.
    pub(crate) fn has(&self, header: &str) -> bool {
        let lines = self.head.lines();
        lines
            .skip(1)
            .any(|line| line.to_lowercase().starts_with(header))
    }
}

/// Asks once, with these headers beside the usual ones.
pub(crate) async fn request(address: &str, line: &str, headers: &[&str], body: &str) -> Answer {
    let mut text = format!("{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !body.is_empty() {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    raw(address, text.as_bytes()).await
}

/// Sends bytes as they are.
pub(crate) async fn raw(address: &str, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Whoever refuses a body need not read it to its end.
    let _ = stream.write_all(bytes).await;
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        text: body.to_owned(),
    }
}

/// A workflow that only waits.
pub(crate) fn waiting(key: &str, duration: &str) -> Value {
    json!({
        "key": key,
        "steps": [{ "id": "rest", "action": { "type": "wait", "duration": duration } }],
    })
}
