//! What the demo looks like. Colors only on a terminal, and not where NO_COLOR is set.

use std::{fmt::Display, io::Write as _, time::Duration};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};

use super::host::ADA;
use crate::{error::CliError, sink::Mail};

/// Standard output, line by line.
pub(super) struct Screen {
    out: AutoStream<std::io::Stdout>,
}

/// How a line is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Not the story itself.
    Quiet,
    Plain,
    Sleeping,
    Heard,
    Good,
}

impl Tone {
    const fn style(self) -> Style {
        match self {
            Self::Quiet => Style::new().dimmed(),
            Self::Plain => Style::new(),
            Self::Sleeping => AnsiColor::Yellow.on_default(),
            Self::Heard => AnsiColor::Cyan.on_default(),
            Self::Good => AnsiColor::Green.on_default(),
        }
    }
}

const BOLD: Style = Style::new().bold();

/// People are told apart at a glance.
fn style_of(person: &str) -> Style {
    let color = if person == ADA.name {
        AnsiColor::Magenta
    } else {
        AnsiColor::Blue
    };
    color.on_default().bold()
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            out: anstream::stdout(),
        }
    }

    fn line(&mut self, text: impl Display) -> Result<(), CliError> {
        writeln!(self.out, "{text}")
            .and_then(|()| self.out.flush())
            .map_err(CliError::Output)
    }

    pub(super) fn title(&mut self, text: &str) -> Result<(), CliError> {
        self.line(format_args!("\n{BOLD}{text}{BOLD:#}\n"))
    }

    pub(super) fn heading(&mut self, text: &str) -> Result<(), CliError> {
        self.line(format_args!("\n{BOLD}{text}{BOLD:#}"))
    }

    /// Something that was prepared or proven.
    pub(super) fn done(&mut self, text: &str) -> Result<(), CliError> {
        let style = Tone::Good.style();
        self.line(format_args!("  {style}ok{style:#}  {text}"))
    }

    pub(super) fn note(&mut self, text: &str) -> Result<(), CliError> {
        let style = Tone::Quiet.style();
        self.line(format_args!("      {style}{text}{style:#}"))
    }

    /// Lines as they are, indented.
    pub(super) fn block(&mut self, text: &str, tone: Tone) -> Result<(), CliError> {
        let style = tone.style();
        for line in text.lines() {
            self.line(format_args!("  {style}{line}{style:#}"))?;
        }
        Ok(())
    }

    /// A line of the timeline.
    pub(super) fn moment(
        &mut self,
        since_start: Duration,
        person: &str,
        text: &str,
        tone: Tone,
    ) -> Result<(), CliError> {
        let (quiet, style, who) = (Tone::Quiet.style(), tone.style(), style_of(person));
        let seconds = since_start.as_secs_f64();
        self.line(format_args!(
            "  {quiet}{seconds:>6.2} s{quiet:#}  {who}{person:<7}{who:#}{style}{text}{style:#}"
        ))
    }

    /// What arrived at the mail server, within the timeline.
    pub(super) fn mail(&mut self, mail: &Mail) -> Result<(), CliError> {
        let (to, subject) = (mail.to.join(", "), &mail.subject);
        let head = format!("From: {}\nTo: {to}\nSubject: {subject}\n\n", mail.from);
        let (quiet, style) = (Tone::Quiet.style(), Tone::Good.style());
        for line in head.lines().chain(mail.text.trim_end().lines()) {
            let bar = format_args!("{:19}{quiet}|{quiet:#}", "");
            self.line(format_args!("{bar} {style}{line}{style:#}"))?;
        }
        Ok(())
    }

    /// Whose the next block is.
    pub(super) fn person(&mut self, name: &str) -> Result<(), CliError> {
        let who = style_of(name);
        self.line(format_args!("  {who}{name}{who:#}"))
    }

    pub(super) fn journey(&mut self) -> Result<(), CliError> {
        self.note("1  in_app  the mention is in the person's inbox")?;
        self.note("2  wait    4 seconds (2 hours in real life); reading it stops the journey")?;
        self.note("3  email   the mention again, by email")
    }

    pub(super) fn what_next(&mut self) -> Result<(), CliError> {
        self.heading("What to try next, with a database of your own")?;
        self.block(
            "export DATABASE_URL=postgres://localhost/app
chimeway migrate
chimeway workflows apply journeys/mention_escalation.yaml
chimeway worker --channel email=log &
chimeway trigger mention_escalation --tenant org_456 --recipient user_123 \\
    --address email=ada@example.com
chimeway runs --tenant org_456
chimeway explain RUN --tenant org_456
chimeway inbox list --tenant org_456 --recipient user_123",
            Tone::Plain,
        )?;
        self.line("")
    }
}
