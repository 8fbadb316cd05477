//! A network between a worker and its database that can die: a TCP proxy that stops forwarding, and says nothing.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// What is forwarded.
#[derive(Debug, Clone, Copy, Default)]
struct Forwards {
    /// Nothing, in neither direction; who connects is taken, and hears nothing.
    silent: bool,
    /// What the server says is kept back; what it is told arrives.
    mute: bool,
    /// Of connections with a lower number nothing any more, as when a firewall has forgotten them.
    forgotten: u64,
}

/// Between a test and a database; gone when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    forwards: watch::Sender<Forwards>,
    /// The number of the newest connection.
    newest: watch::Receiver<u64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// In front of the server that a URL names.
    pub(crate) async fn before(url: &str) -> Self {
        let server = server_of(url);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (forwards, told) = watch::channel(Forwards::default());
        let (number, newest) = watch::channel(0);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = server.clone();
                let told = told.clone();
                let mine = *number.borrow() + 1;
                number.send_replace(mine);
                connections.spawn(forward(client, server, told, mine));
            }
        });
        Self {
            address,
            forwards,
            newest,
            accepting,
        }
    }

    /// The URL, through here.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(&server_of(url), &self.address.to_string())
    }

    /// Forwards nothing from now on.
    pub(crate) fn fall_silent(&self) {
        self.forwards.send_modify(|it| it.silent = true);
    }

    /// Keeps back what the server says from now on.
    pub(crate) fn mute(&self) {
        self.forwards.send_modify(|it| it.mute = true);
    }

    /// Forwards everything again, of new connections and of old ones.
    pub(crate) fn resume(&self) {
        self.forwards
            .send_modify(|it| (it.silent, it.mute) = (false, false));
    }

    /// Forwards nothing more of the connections that there are, and tells nobody; everything of new ones.
    pub(crate) fn forget(&self) {
        let newest = *self.newest.borrow();
        self.forwards.send_modify(|it| {
            *it = Forwards {
                forgotten: newest + 1,
                ..Forwards::default()
            };
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn server_of(url: &str) -> String {
    let (_, rest) = url.split_once('@').unwrap();
    rest.split('/').next().unwrap().to_owned()
}

async fn forward(client: TcpStream, server: String, told: watch::Receiver<Forwards>, mine: u64) {
    until(&told, |it| !it.silent && it.forgotten <= mine).await;
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let asked = copy(from_client, to_server, &told, move |it| {
        !it.silent && it.forgotten <= mine
    });
    let answered = copy(from_server, to_client, &told, move |it| {
        !it.silent && !it.mute && it.forgotten <= mine
    });
    // Whoever of the two hangs up: so does the other, once that may be told.
    tokio::select! {
        () = asked => {}
        () = answered => {}
    }
}

async fn copy(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    told: &watch::Receiver<Forwards>,
    passes: impl Fn(&Forwards) -> bool,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        until(told, &passes).await;
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

async fn until(told: &watch::Receiver<Forwards>, passes: impl Fn(&Forwards) -> bool) {
    let mut told = told.clone();
    if told.wait_for(|it| passes(it)).await.is_err() {
        // The proxy is gone, and with it this task.
        std::future::pending::<()>().await;
    }
}
