//! An HTTP server that replies as it is told, however badly.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// What to do with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// These bytes, then the end.
    Bytes(String),
    /// Nothing, and the connection stays.
    Nothing,
    /// The connection is reset.
    Reset,
    /// A status and headers, then a body that comes a letter at a time and never ends.
    Drip(&'static str),
    /// A status and headers, then a body of this many bytes as fast as they are taken.
    Huge(&'static str, usize),
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::with(status, "", "")
    }

    /// Headers each end with `\r\n`.
    pub(crate) fn with(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::Bytes(format!(
            "HTTP/1.1 {status} Whatever\r\n{headers}content-length: {length}\r\n\r\n{body}"
        ))
    }
}

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    /// What does not come as text is garbled here.
    pub(crate) body: String,
    pub(crate) bytes: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(it, _)| it.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    /// Of the body of [`Reply::Huge`].
    written: usize,
}

pub(crate) struct Receiver {
    pub(crate) port: u16,
    /// The certificate that vouches for the receiver's.
    root: Option<tempfile::NamedTempFile>,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// Replies in this order, and with the last one for ever.
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::new(replies, None).await
    }

    /// With TLS, and a certificate for this name.
    pub(crate) async fn with_tls(name: &str, reply: Reply) -> Self {
        let mut params = CertificateParams::new(vec!["Test root".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let own = own.signed_by(&key, &root).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone()], key)
            .unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), root.pem()).unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let mut receiver = Self::new([reply], Some(tls)).await;
        receiver.root = Some(file);
        receiver
    }

    async fn new(replies: impl IntoIterator<Item = Reply>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let replies: Arc<Mutex<VecDeque<Reply>>> =
            Arc::new(Mutex::new(replies.into_iter().collect()));
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (replies, seen) = (Arc::clone(&replies), Arc::clone(&shared));
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &replies, &seen).await,
                        // A client that does not trust us is the test's matter.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &replies, &seen).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            port,
            root: None,
            seen,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.root.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}/hook", self.port)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.root.as_ref().unwrap().path().into()
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.seen).requests.clone()
    }

    /// How much of a huge body was taken.
    pub(crate) fn written(&self) -> usize {
        lock(&self.seen).written
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// What can be a connection here.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Ends without a goodbye.
    fn reset(&self) {}
}

impl Stream for TcpStream {
    fn reset(&self) {
        self.set_zero_linger().unwrap();
    }
}

impl Stream for tokio_rustls::server::TlsStream<TcpStream> {}

/// One request of a connection.
async fn serve(mut stream: impl Stream, replies: &Mutex<VecDeque<Reply>>, seen: &Mutex<Seen>) {
    let Some(request) = read(&mut stream).await else {
        return;
    };
    lock(seen).requests.push(request);
    let reply = {
        let mut replies = lock(replies);
        let next = replies.front().cloned().unwrap();
        if replies.len() > 1 {
            replies.pop_front();
        }
        next
    };
    match reply {
        Reply::Bytes(bytes) => {
            let _ = stream.write_all(bytes.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        Reply::Nothing => std::future::pending().await,
        Reply::Reset => stream.reset(),
        Reply::Drip(head) => {
            let head = format!("HTTP/1.1 {head}content-length: 1000000\r\n\r\n");
            let mut going = stream.write_all(head.as_bytes()).await;
            while going.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                going = stream.write_all(b".").await;
            }
        }
        Reply::Huge(head, size) => {
            let head = format!("HTTP/1.1 {head}content-length: {size}\r\n\r\n");
            let mut going = stream.write_all(head.as_bytes()).await;
            let piece = [b'x'; 8 * 1024];
            while going.is_ok() && lock(seen).written < size {
                going = stream.write_all(&piece).await;
                if going.is_ok() {
                    lock(seen).written += piece.len();
                }
            }
        }
    }
}

/// A request with its body; `None` where the connection ends before.
async fn read(stream: &mut impl Stream) -> Option<Request> {
    let mut bytes = vec![];
    let head = loop {
        let found = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = found {
            break String::from_utf8(bytes.drain(..end + 4).collect()).unwrap();
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let mut request = Request {
        line,
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        ..Request::default()
    };
    let length: usize = request
        .header("content-length")
        .unwrap_or("0")
        .parse()
        .unwrap();
    while bytes.len() < length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    request.body = String::from_utf8_lossy(&bytes).into_owned();
    request.bytes = bytes;
    Some(request)
}
