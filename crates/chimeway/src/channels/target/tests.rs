use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use reqwest::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::channels::{
    SendError,
    web::{ChosenBy, Web},
};

const PRIVATE: [&str; 42] = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
];

const PUBLIC: [&str; 9] = [
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2606:4700::1111",
    "2a00:1450:4001::1",
];

fn targets(allowed: &[&str], lookup: Lookup) -> Targets {
    let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
    Targets::new(allowed, lookup)
}

/// Answers in this order, and with the last one for ever.
fn answering(answers: &[&[&str]]) -> Lookup {
    let parse = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), 0);
    let answers = answers.iter().map(|ips| ips.iter().map(parse).collect());
    let answers: Arc<Mutex<VecDeque<Vec<SocketAddr>>>> = Arc::new(Mutex::new(answers.collect()));
    Arc::new(move |_| {
        let mut answers = answers.lock().unwrap();
        let next = answers.front().cloned().unwrap();
        if answers.len() > 1 {
            answers.pop_front();
        }
        Box::pin(std::future::ready(Ok(next)))
    })
}

#[test]
fn what_is_private_is_not_public() {
    for text in PRIVATE {
        assert!(!is_public(text.parse().unwrap()), "{text}");
    }
    for text in PUBLIC {
        assert!(is_public(text.parse().unwrap()), "{text}");
    }
}

#[test]
fn an_address_is_refused_however_it_is_spelled() {
    let targets = targets(&[], by_system());
    for url in [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://127.0.0.1./",
        "http://user:word@127.0.0.1:8080/",
        "http://%31%32%37.0.0.1/",
        "http://１２７.0.0.1/",
        "http://127。0。0。1/",
        "http://0/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://[2002:a9fe:a9fe::]/",
        "http://169.254.169.254/latest/meta-data/",
        "http:\\\\169.254.169.254/",
    ] {
        let parsed = Url::parse(url).unwrap();
        assert!(targets.check(&parsed).is_err(), "{url}: {parsed}");
    }
    for url in [
        "https://example.com/",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]/",
    ] {
        assert!(targets.check(&Url::parse(url).unwrap()).is_ok(), "{url}");
    }
}

#[test]
fn what_is_allowed_is_a_network_an_address_or_a_host() {
    let targets = targets(
        &["10.1.0.0/16", "127.0.0.1", "fd00::/8", "Hooks.Internal."],
        by_system(),
    );
    for (address, may) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("10.2.0.1", false),
        ("127.0.0.1", true),
        ("127.0.0.2", false),
        ("fd12::1", true),
        ("fc00::1", false),
    ] {
        assert_eq!(targets.may_call(address.parse().unwrap()), may, "{address}");
    }
    assert!(targets.allows_host("hooks.internal") && targets.allows_host("HOOKS.internal."));
    assert!(!targets.allows_host("internal") && !targets.allows_host("x.hooks.internal"));
    for text in [
        "",
        "10.0.0.0/33",
        "10.0.0.300",
        "10.1",
        "http://a",
        "a:80",
        "a/b",
        "a b",
        "*.internal",
    ] {
        let parsed = text.parse::<AllowedTarget>();
        let is_harmless = text == "*.internal" && parsed.is_ok();
        assert!(parsed.is_err() || is_harmless, "{text}");
    }
}

async fn resolved(targets: &Targets) -> Result<Vec<String>, bool> {
    let found = targets.resolve("name.example".parse().unwrap()).await;
    match found {
        Ok(found) => Ok(found.map(|address| address.ip().to_string()).collect()),
        Err(error) => Err(Refused::is_cause_of(&*error)),
    }
}

#[tokio::test]
async fn of_a_name_only_what_may_be_called_is_told() {
    let lookup = answering(&[&["8.8.8.8", "10.0.0.1", "fd00::1"], &["10.0.0.1"], &[]]);
    let some = targets(&[], Arc::clone(&lookup));
    assert_eq!(resolved(&some).await, Ok(vec!["8.8.8.8".to_owned()]));
    // Another one the next moment: it is looked at again.
    assert_eq!(resolved(&some).await, Err(true));
    assert_eq!(resolved(&some).await, Ok(vec![]));
    let lookup = answering(&[&["10.0.0.1"]]);
    let host = targets(&["name.example"], Arc::clone(&lookup));
    assert_eq!(resolved(&host).await, Ok(vec!["10.0.0.1".to_owned()]));
    let network = targets(&["10.0.0.0/8"], lookup);
    assert_eq!(resolved(&network).await, Ok(vec!["10.0.0.1".to_owned()]));
}

/// Counts who connects, and answers everybody the same.
async fn listener(address: &str, reply: String) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let calls = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    });
    (port, calls)
}

const DONE: &str = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";

async fn call(web: &Web, url: &str) -> String {
    let url = Url::parse(url).unwrap();
    let reply = match web.request(Method::POST, url, ChosenBy::Others) {
        Ok(request) => web.call(request).await,
        Err(refused) => Err(refused),
    };
    match reply {
        Ok(reply) => reply.status.as_u16().to_string(),
        Err(error @ SendError::Permanent { .. }) => {
            format!("permanent {}", error.answer().unwrap())
        }
        Err(error) => format!("again {}", error.answer().unwrap()),
    }
}

const REFUSED: &str = r#"permanent {"class":"private_target"}"#;

#[tokio::test]
async fn a_name_that_leads_elsewhere_a_moment_later_gains_nothing() {
    // The first one stands for an address of the internet, which no test calls.
    let (port, first) = listener("127.0.0.1:0", DONE.to_owned()).await;
    let (_, second) = listener(&format!("127.0.0.2:{port}"), DONE.to_owned()).await;
    let lookups = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&lookups);
    let inner = answering(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let lookup: Lookup = Arc::new(move |name| {
        counted.fetch_add(1, Ordering::SeqCst);
        inner(name)
    });
    let targets = targets(&["127.0.0.1"], lookup);
    let web = Web::with_targets(5, None, targets).unwrap();
    let url = format!("http://rebound.example:{port}/");
    assert_eq!(call(&web, &url).await, "204");
    // What was checked is what was connected to: there was one look.
    assert_eq!(lookups.load(Ordering::SeqCst), 1);
    assert_eq!(call(&web, &url).await, REFUSED);
    assert_eq!(first.load(Ordering::SeqCst), 1);
    assert_eq!(second.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn localhost_is_looked_up_and_refused_and_an_address_is_refused_at_once() {
    let (port, calls) = listener("127.0.0.1:0", DONE.to_owned()).await;
    let web = Web::new(5, None, vec![]).unwrap();
    for host in ["localhost", "LOCALHOST", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{port}/");
        assert_eq!(call(&web, &url).await, REFUSED, "{host}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    let web = Web::new(5, None, vec!["localhost".parse().unwrap()]).unwrap();
    assert_eq!(
        call(&web, &format!("http://localhost:{port}/")).await,
        "204"
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (inside, calls) = listener("127.0.0.2:0", DONE.to_owned()).await;
    let location = format!("location: http://127.0.0.2:{inside}/\r\n");
    let reply = format!("HTTP/1.1 307 Temporary Redirect\r\n{location}content-length: 0\r\n\r\n");
    let (port, _) = listener("127.0.0.1:0", reply).await;
    let allowed = vec!["127.0.0.1".parse().unwrap()];
    let web = Web::new(5, None, allowed).unwrap();
    assert_eq!(
        call(&web, &format!("http://127.0.0.1:{port}/")).await,
        "307"
    );
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

/// A connection that the settings' own URL keeps open is none for others.
#[tokio::test]
async fn the_settings_own_connections_are_not_used_for_others() {
    let reply = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (port, _) = listener("127.0.0.1:0", reply.to_owned()).await;
    let web = Web::new(5, None, vec![]).unwrap();
    let url = format!("http://localhost:{port}/");
    let request = web
        .request(Method::POST, Url::parse(&url).unwrap(), ChosenBy::Settings)
        .unwrap();
    assert_eq!(web.call(request).await.unwrap().status, 200);
    assert_eq!(call(&web, &url).await, REFUSED);
}
