//! Connections to the server, and what is said over them.
//!
//! A connection is owned by the send that uses it and goes back only when its last answer was read: one
//! whose send is given up, for lack of time or with the worker, is closed. Were it kept, the answer to
//! one mail would be taken for that to the next.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lettre::transport::smtp::{
    authentication::{Credentials, Mechanism},
    client::{AsyncSmtpConnection, TlsParameters},
    commands::{Data, Mail as MailFrom, Rcpt, Rset},
    extension::{ClientId, Extension, MailBodyParameter, MailParameter},
};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    compose::Mail,
    fault::{Fault, Phase, codes},
    settings::Security,
};

/// How long a connection waits for the next mail.
const IDLE: Duration = Duration::from_secs(30);
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

/// An SMTP server, and the connections to it.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: Security,
    /// None where there is no TLS.
    pub(super) tls: Option<TlsParameters>,
    pub(super) credentials: Option<Credentials>,
    pub(super) hello: ClientId,
    pub(super) timeout: Duration,
    /// How many connections there may be.
    pub(super) connections: Semaphore,
    pub(super) idle: Mutex<Vec<Idle>>,
}

/// A connection that waits for the next mail.
pub(super) struct Idle {
    connection: AsyncSmtpConnection,
    since: Instant,
}

/// The server took the mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) code: u16,
    pub(super) enhanced: Option<String>,
}

impl Server {
    /// Hands a mail over. It has no time-out of its own once it is connected.
    pub(super) async fn send(&self, mail: &Mail) -> Result<Accepted, Fault> {
        // It is never closed.
        let _slot = self.connections.acquire().await;
        let mut connection = match self.take_idle().await {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let result = tell(&mut connection, mail).await;
        let is_open = match &result {
            Ok(_) => true,
            Err(fault) => fault.leaves_the_line_open(),
        };
        if is_open {
            self.idle_ones().push(Idle {
                connection,
                since: Instant::now(),
            });
        }
        result
    }

    /// An open connection that still answers.
    async fn take_idle(&self) -> Option<AsyncSmtpConnection> {
        loop {
            let mut idle = self.pop_idle()?;
            // It also ends what a refused mail has begun.
            if idle.command(Rset).await.is_ok() {
                return Some(idle);
            }
        }
    }

    fn pop_idle(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle_ones();
        idle.retain(|idle| idle.since.elapsed() < IDLE);
        Some(idle.pop()?.connection)
    }

    fn idle_ones(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Fault> {
        let at_once = match self.security {
            Security::Tls => self.tls.clone(),
            Security::Starttls | Security::None => None,
        };
        let address = (self.host.as_str(), self.port);
        let failed = |error| Fault::new(Phase::Connect, &error);
        let mut connection = AsyncSmtpConnection::connect_tokio1(
            address,
            Some(self.timeout),
            &self.hello,
            at_once,
            None,
        )
        .await
        .map_err(failed)?;
        if let (Security::Starttls, Some(tls)) = (self.security, &self.tls) {
            connection
                .starttls(tls.clone(), &self.hello)
                .await
                .map_err(failed)?;
        }
        if let Some(credentials) = &self.credentials {
            connection
                .auth(&MECHANISMS, credentials)
                .await
                .map_err(|error| Fault::new(Phase::Authenticate, &error))?;
        }
        Ok(connection)
    }
}

async fn tell(connection: &mut AsyncSmtpConnection, mail: &Mail) -> Result<Accepted, Fault> {
    let options = options(connection, mail)?;
    let sender = MailFrom::new(Some(mail.from.clone()), options);
    let recipient = Rcpt::new(mail.to.clone(), Vec::new());
    let failed = |phase| move |error| Fault::new(phase, &error);
    connection
        .command(sender)
        .await
        .map_err(failed(Phase::Sender))?;
    connection
        .command(recipient)
        .await
        .map_err(failed(Phase::Recipient))?;
    let go_ahead = connection
        .command(Data)
        .await
        .map_err(failed(Phase::Data))?;
    if !go_ahead.has_code(354) {
        return Err(Fault::of_server("not_smtp"));
    }
    let answer = connection
        .message(&mail.bytes)
        .await
        .map_err(failed(Phase::Message))?;
    let (code, enhanced) = codes(&answer);
    Ok(Accepted { code, enhanced })
}

/// What the server must be able to do for this mail. Only addresses can be other than ASCII: all else is
/// encoded.
fn options(connection: &AsyncSmtpConnection, mail: &Mail) -> Result<Vec<MailParameter>, Fault> {
    if mail.is_ascii() {
        return Ok(Vec::new());
    }
    let server = connection.server_info();
    if !server.supports_feature(Extension::SmtpUtfEight)
        || !server.supports_feature(Extension::EightBitMime)
    {
        return Err(Fault::of_mail("address_not_ascii"));
    }
    Ok(vec![
        MailParameter::SmtpUtfEight,
        MailParameter::Body(MailBodyParameter::EightBitMime),
    ])
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Server {
    /// Without the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("security", &self.security)
            .finish_non_exhaustive()
    }
}
