//! Connections: how many there are at a time, and how long each may take to say what it wants.

use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a connection may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// How many there are at a time; the next one waits until another one ends.
    pub(super) connections: usize,
    /// From the first moment to the end of a request's headers, and from one request to the next.
    pub(super) head: Duration,
    /// How old a connection becomes: a reader that takes for ever is not waited for.
    pub(super) age: Duration,
    /// How long after that, or after the worker's end, the request in progress may take.
    pub(super) last: Duration,
}

/// More than our callers need, and less than what files a process may open.
pub(super) const LIMITS: Limits = Limits {
    connections: 512,
    head: Duration::from_secs(10),
    age: Duration::from_secs(600),
    last: Duration::from_secs(40),
};
/// The line and the headers of a request, in bytes. The answer to more is 431.
const HEAD_BYTES: usize = 32 * 1024;
/// How many headers a request has at most. The answer to more is 431.
const HEADERS: usize = 64;
/// Between two looks whether a file may be opened again.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers until `ended`, and then what has been asked before.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Router,
    limits: Limits,
    ended: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let accepting = async {
        // A semaphore that nobody closes always gives.
        while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
            let stream = accept(&listener).await;
            let (routes, ended) = (routes.clone(), ended.clone());
            connections.spawn(async move {
                answer(stream, routes, limits, ended).await;
                drop(slot);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = ended.cancelled() => {}
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Whoever called went away.
            Err(error) if is_of_one(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    [ConnectionAborted, ConnectionRefused, ConnectionReset].contains(&error.kind())
}

async fn answer(stream: TcpStream, routes: Router, limits: Limits, ended: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut connection = pin!(connection);
    tokio::select! {
        // How a connection ends is its caller's matter.
        _ = connection.as_mut() => return,
        () = ended.cancelled() => {}
        () = sleep(limits.age) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(limits.last, connection).await;
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::get};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::Instant,
    };

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);
    /// Far beyond every limit here.
    const LONG: Duration = Duration::from_secs(10);

    async fn server(limits: Limits) -> (std::net::SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ended = CancellationToken::new();
        let endless = || async { Body::from_stream(futures_of_bytes()) };
        let routes = Router::new()
            .route("/", get(async || "here"))
            .route("/endless", get(endless));
        tokio::spawn(serve(listener, routes, limits, ended.clone()));
        (address, ended)
    }

    fn futures_of_bytes() -> impl futures::Stream<Item = io::Result<Vec<u8>>> {
        futures::stream::repeat_with(|| Ok(vec![b'x'; 64 * 1024]))
    }

    /// What is answered, to the end of the connection.
    async fn told(mut stream: TcpStream) -> String {
        let mut bytes = vec![];
        let _ = timeout(LONG, stream.read_to_end(&mut bytes))
            .await
            .expect("the connection ends");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn asking(address: std::net::SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A server that has refused already may have closed.
        let _ = stream.write_all(request.as_bytes()).await;
        stream
    }

    const ASK: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn who_does_not_say_what_they_want_is_let_go() {
        let (address, _) = server(Limits {
            head: SHORT,
            ..LIMITS
        })
        .await;
        for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: a\r\nx-a: "] {
            let began = Instant::now();
            told(asking(address, begun).await).await;
            assert!(began.elapsed() >= SHORT, "{begun}");
        }
        // Between two requests too.
        let kept = asking(address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(told(kept).await.ends_with("here"));
        // A header a moment is no way to stay.
        let mut drip = asking(address, "GET / HTTP/1.1\r\n").await;
        let began = Instant::now();
        while drip.write_all(b"x-a: b\r\n").await.is_ok() {
            assert!(began.elapsed() < LONG, "it stays");
            sleep(SHORT / 6).await;
        }
    }

    #[tokio::test]
    async fn heads_are_bounded() {
        let (address, _) = server(LIMITS).await;
        assert!(told(asking(address, ASK).await).await.ends_with("here"));
        let many = "x-a: b\r\n".repeat(HEADERS + 1);
        for request in [
            format!("GET / HTTP/1.1\r\n{many}\r\n"),
            format!(
                "GET / HTTP/1.1\r\nx-a: {}\r\n\r\n",
                "b".repeat(2 * HEAD_BYTES)
            ),
            format!("GET /{} HTTP/1.1\r\n\r\n", "b".repeat(2 * HEAD_BYTES)),
        ] {
            let answer = told(asking(address, &request).await).await;
            let status = answer.split(' ').nth(1).unwrap_or("none");
            assert!(
                ["431", "414"].contains(&status),
                "{status} {}",
                &request[..40]
            );
        }
    }

    #[tokio::test]
    async fn there_are_so_many_connections_and_the_next_one_waits() {
        let limits = Limits {
            connections: 2,
            head: SHORT,
            ..LIMITS
        };
        let (address, _) = server(limits).await;
        let (one, other) = (asking(address, "").await, asking(address, "").await);
        let began = Instant::now();
        assert!(told(asking(address, ASK).await).await.ends_with("here"));
        assert!(began.elapsed() >= SHORT / 2, "it did not wait");
        drop((one, other));
    }

    #[tokio::test]
    async fn who_takes_for_ever_to_read_is_let_go() {
        let limits = Limits {
            connections: 1,
            age: SHORT,
            last: SHORT,
            ..LIMITS
        };
        let (address, _) = server(limits).await;
        let reader = asking(address, "GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(told(asking(address, ASK).await).await.ends_with("here"));
        drop(reader);
    }

    #[tokio::test]
    async fn at_the_end_what_was_asked_is_answered() {
        let (address, ended) = server(LIMITS).await;
        let kept = asking(address, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        ended.cancel();
        let answer = told(kept).await;
        assert!(answer.is_empty() || answer.ends_with("here"), "{answer}");
        assert!(TcpStream::connect(address).await.is_err());
    }
}
