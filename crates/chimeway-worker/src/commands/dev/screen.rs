//! What `dev` looks like. Colors only on a terminal, and not where NO_COLOR is set.

use std::{fmt::Display, io::Write as _};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use chimeway::store::run_views::RunSummary;

use crate::{error::CliError, output::visible, sink::Mail};

/// Standard output, line by line.
pub(super) struct Screen {
    out: AutoStream<std::io::Stdout>,
}

const BOLD: Style = Style::new().bold();
const QUIET: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const MAIL: Style = AnsiColor::Cyan.on_default();

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            out: anstream::stdout(),
        }
    }

    pub(super) fn line(&mut self, text: impl Display) -> Result<(), CliError> {
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

    pub(super) fn done(&mut self, text: &str) -> Result<(), CliError> {
        self.line(format_args!("  {GOOD}ok{GOOD:#}  {text}"))
    }

    pub(super) fn bad(&mut self, text: &str) -> Result<(), CliError> {
        self.line(format_args!("  {BAD}not applied{BAD:#}: {text}"))
    }

    pub(super) fn note(&mut self, text: &str) -> Result<(), CliError> {
        self.line(format_args!("      {QUIET}{text}{QUIET:#}"))
    }

    /// Lines to paste, indented.
    pub(super) fn block(&mut self, text: &str) -> Result<(), CliError> {
        for line in text.lines() {
            self.line(format_args!("  {line}"))?;
        }
        Ok(())
    }

    /// A mail as it would be read.
    pub(super) fn mail(&mut self, mail: &Mail) -> Result<(), CliError> {
        let to = visible(&mail.to.join(", "));
        let subject = visible(&mail.subject);
        self.line(format_args!(
            "\n  {MAIL}mail{MAIL:#} to {to}: {BOLD}{subject}{BOLD:#}"
        ))?;
        for line in mail.text.lines() {
            self.line(format_args!("  {MAIL}|{MAIL:#} {}", visible(line)))?;
        }
        Ok(())
    }

    /// A run that began, and how to ask about it.
    pub(super) fn run(&mut self, run: &RunSummary) -> Result<(), CliError> {
        let who = visible(&run.recipient);
        self.line(format_args!(
            "  {GOOD}run{GOOD:#} of {} v{} for {who}: chimeway explain {} --tenant {}",
            run.workflow,
            run.version,
            run.id,
            visible(&run.tenant_id),
        ))
    }
}
