//! A mail server for the demo and for development: it takes every mail on a loopback port, hands it to
//! whoever shows it, and sends it nowhere.

use std::{io, net::Ipv4Addr};

use mail_parser::MessageParser;
use smtp_proto::{Error, Request};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

/// The longest line, and the longest mail, in bytes.
const LONGEST_LINE: u64 = 64 * 1024;
const LONGEST_MAIL: usize = 16 * 1024 * 1024;
/// Mails that nobody has looked at yet. Then senders wait.
const UNSEEN: usize = 64;

/// A mail as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mail {
    /// The sender of the envelope.
    pub(crate) from: String,
    /// The recipients of the envelope.
    pub(crate) to: Vec<String>,
    pub(crate) subject: String,
    /// The plain text; made of the HTML where there is nothing else.
    pub(crate) text: String,
}

/// A mail server that runs until this is dropped.
pub(crate) struct Sink {
    port: u16,
    mails: mpsc::Receiver<Mail>,
    serving: JoinHandle<()>,
}

impl Sink {
    /// Listens on a free port of 127.0.0.1, and on no other interface.
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (to_reader, mails) = mpsc::channel(UNSEEN);
        let serving = tokio::spawn(serve(listener, to_reader));
        Ok(Self {
            port,
            mails,
            serving,
        })
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the next mail. Nothing is lost if it is not waited for to the end.
    pub(crate) async fn next(&mut self) -> Option<Mail> {
        self.mails.recv().await
    }

    /// How many mails wait to be looked at.
    pub(crate) fn unseen(&self) -> usize {
        self.mails.len()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, mails: mpsc::Sender<Mail>) {
    // The conversations end with this task.
    let mut conversations = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let mails = mails.clone();
                // A sender that hangs up ends its own conversation and nothing else.
                conversations.spawn(async move { converse(stream, &mails).await });
            }
            Err(error) => {
                tracing::warn!(%error, "the mail sink cannot take a connection");
                tokio::task::yield_now().await;
            }
        }
        while conversations.try_join_next().is_some() {}
    }
}

/// What a mail's envelope says so far.
#[derive(Default)]
struct Envelope {
    from: Option<String>,
    to: Vec<String>,
}

async fn converse(stream: TcpStream, mails: &mpsc::Sender<Mail>) -> io::Result<()> {
    let mut stream = BufStream::new(stream);
    let mut envelope = Envelope::default();
    say(&mut stream, "220 localhost Chimeway mail sink").await?;
    while let Some(line) = line(&mut stream).await? {
        let reply = match Request::parse(&mut line.iter()) {
            Ok(Request::Ehlo { .. }) => "250-localhost\r\n250-8BITMIME\r\n250 SMTPUTF8",
            Ok(Request::Helo { .. } | Request::Noop { .. }) => "250 2.0.0 fine",
            Ok(Request::Mail { from }) => {
                envelope = Envelope {
                    from: Some(from.address.into_owned()),
                    to: Vec::new(),
                };
                "250 2.1.0 fine"
            }
            Ok(Request::Rcpt { to }) if envelope.from.is_some() => {
                envelope.to.push(to.address.into_owned());
                "250 2.1.5 fine"
            }
            Ok(Request::Data) if !envelope.to.is_empty() => {
                say(&mut stream, "354 go on").await?;
                let Some(content) = content(&mut stream).await? else {
                    return Ok(());
                };
                let mail = read(std::mem::take(&mut envelope), &content);
                match mails.send(mail).await {
                    Ok(()) => "250 2.0.0 taken",
                    Err(_) => "451 4.3.0 nobody looks any more",
                }
            }
            Ok(Request::Rcpt { .. } | Request::Data) => "503 5.5.1 not yet",
            Ok(Request::Rset) => {
                envelope = Envelope::default();
                "250 2.0.0 fine"
            }
            Ok(Request::Quit) => return say(&mut stream, "221 2.0.0 bye").await,
            Err(Error::InvalidSenderAddress | Error::InvalidRecipientAddress) => {
                "553 5.1.3 that is no address"
            }
            Ok(_) => "502 5.5.1 not here",
            Err(_) => "500 5.5.2 what is that?",
        };
        say(&mut stream, reply).await?;
    }
    Ok(())
}

async fn say(stream: &mut BufStream<TcpStream>, reply: &str) -> io::Result<()> {
    stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
    stream.flush().await
}

/// A line with its end; `None` when the sender has hung up.
async fn line(stream: &mut BufStream<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    stream
        .take(LONGEST_LINE)
        .read_until(b'\n', &mut line)
        .await?;
    if line.ends_with(b"\n") {
        Ok(Some(line))
    } else if line.is_empty() {
        Ok(None)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// A mail's lines until the one that is a dot; `None` when the sender has hung up before it.
async fn content(stream: &mut BufStream<TcpStream>) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    while let Some(line) = line(stream).await? {
        if line == b".\r\n" {
            return Ok(Some(content));
        }
        // A line that begins with a dot has been given one more.
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        if content.len() > LONGEST_MAIL {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(None)
}

fn read(envelope: Envelope, content: &[u8]) -> Mail {
    let message = MessageParser::default().parse(content).unwrap_or_default();
    Mail {
        from: envelope.from.unwrap_or_default(),
        to: envelope.to,
        subject: message.subject().unwrap_or_default().to_owned(),
        text: message
            .body_text(0)
            .unwrap_or_default()
            .replace("\r\n", "\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the sink answers to these lines, each a reply.
    async fn answers(sink: &Sink, lines: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sink.port()))
            .await
            .unwrap();
        stream.write_all(lines.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut replies = String::new();
        stream.read_to_string(&mut replies).await.unwrap();
        let codes: Vec<&str> = replies.lines().map(|line| &line[..3]).collect();
        codes.join(" ")
    }

    #[tokio::test]
    async fn a_mail_is_taken_and_decoded() {
        let mut sink = Sink::start().await.unwrap();
        let told = answers(
            &sink,
            "EHLO demo\r\nMAIL FROM:<ops@example.com>\r\nRCPT TO:<ada@example.com>\r\nDATA\r\n\
             Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\n\
             caf=C3=A9\r\n..hidden\r\n.\r\nQUIT\r\n",
        )
        .await;
        assert_eq!(told, "220 250 250 250 250 250 354 250 221");
        let mail = sink.next().await.unwrap();
        assert_eq!(
            mail,
            Mail {
                from: "ops@example.com".into(),
                to: vec!["ada@example.com".into()],
                subject: "Grüße".into(),
                text: "café\n.hidden\n".into(),
            }
        );
    }

    #[tokio::test]
    async fn what_is_out_of_turn_is_refused_and_the_next_mail_is_taken() {
        let mut sink = Sink::start().await.unwrap();
        let told = answers(
            &sink,
            "DATA\r\nRCPT TO:<ada@example.com>\r\nNONSENSE\r\nMAIL FROM:<ops@example.com>\r\n\
             DATA\r\nRSET\r\nRCPT TO:<ada@example.com>\r\n",
        )
        .await;
        assert_eq!(told, "220 503 503 500 250 503 250 503");
        let told = answers(
            &sink,
            "HELO demo\r\nMAIL FROM:<>\r\nRCPT TO:<ada@example.com>\r\nDATA\r\n\r\nhello\r\n.\r\n",
        )
        .await;
        assert_eq!(told, "220 250 250 250 354 250");
        assert_eq!(sink.next().await.unwrap().text, "hello\n");
    }

    #[tokio::test]
    async fn a_mail_that_breaks_off_is_not_shown() {
        let mut sink = Sink::start().await.unwrap();
        let begun = "MAIL FROM:<ops@example.com>\r\nRCPT TO:<ada@example.com>\r\nDATA\r\nhal";
        assert!(answers(&sink, begun).await.starts_with("220 250 250 354"));
        let whole =
            "MAIL FROM:<ops@example.com>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n\r\nx\r\n.\r\n";
        answers(&sink, whole).await;
        assert_eq!(sink.next().await.unwrap().to, ["bob@example.com"]);
    }
}
