//! Templates: how params become what a message says.
//!
//! A [`Template`] is what is written under one render key: `<key>.subject.txt`, `<key>.txt`,
//! `<key>.html`, each in the language of minijinja (Jinja2). It sees `params`, `context`, `recipient` (`identity`,
//! and `locale` and `time_zone` where known), `tenant`, `workflow`, `step`, `channel` and nothing else. What is missing is a mistake,
//! never an empty place; HTML is escaped; `date`, `time` and `datetime` show an instant in the
//! recipient's zone and language.

use std::{collections::BTreeMap, fmt, io};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, value::Serde,
};
use serde_json::json;

use super::{
    Content, Message,
    dates::{self, READER, Reader},
    scan::{self, Use},
};
use crate::{definition::ContentHash, ids::RenderKey};

/// The longest source of a part, in bytes.
pub const MAX_SOURCE: usize = 256 * 1024;
/// The longest result of a part, in bytes.
pub const MAX_RESULT: usize = 1024 * 1024;
/// How many instructions a part may take: more than any letter needs.
const FUEL: u64 = 1_000_000;
/// How much of an expression a message quotes, in characters.
const QUOTED: usize = 80;

/// What a template may name.
const VARIABLES: [&str; 7] = [
    "params",
    "context",
    "recipient",
    "tenant",
    "workflow",
    "step",
    "channel",
];

/// The texts of a template, as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TemplateSource {
    /// The subject line: `<key>.subject.txt`.
    pub subject: Option<String>,
    /// The plain text: `<key>.txt`.
    pub text: Option<String>,
    /// The HTML: `<key>.html`.
    pub html: Option<String>,
}

impl TemplateSource {
    /// The parts that are there: the end of the file's name, and the text.
    fn parts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            (SUBJECT, &self.subject),
            (TEXT, &self.text),
            (HTML, &self.html),
        ]
        .into_iter()
        .filter_map(|(end, text)| Some((end, text.as_deref()?)))
    }
}

/// How the name of a subject's file ends.
pub const SUBJECT: &str = ".subject.txt";
/// How the name of a plain text's file ends.
pub const TEXT: &str = ".txt";
/// How the name of an HTML file ends.
pub const HTML: &str = ".html";

/// What is wrong with the source of a template.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TemplateMistake {
    /// In which file.
    pub file: String,
    /// In which line, where it has one.
    pub line: Option<usize>,
    /// What is wrong and how to mend it.
    pub problem: String,
}

impl fmt::Display for TemplateMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}, line {line}: {}", self.file, self.problem),
            None => write!(f, "{}: {}", self.file, self.problem),
        }
    }
}

impl std::error::Error for TemplateMistake {}

/// Why a template made no message: file, line and expression, never a value.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RenderFailure {
    /// In which file.
    pub file: String,
    /// In which line.
    pub line: Option<usize>,
    /// Where one is missing: the variable, as it is written there. Else the expression.
    pub variable: Option<String>,
    /// What is wrong.
    pub problem: &'static str,
}

impl fmt::Display for RenderFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        match &self.variable {
            Some(variable) => write!(f, ": `{variable}` {}", self.problem),
            None => write!(f, ": it {}", self.problem),
        }
    }
}

impl std::error::Error for RenderFailure {}

/// The templates of one render key, compiled.
#[derive(Clone)]
pub struct Template {
    key: RenderKey,
    source: TemplateSource,
    hash: ContentHash,
    environment: Environment<'static>,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template")
            .field("key", &self.key)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

impl Template {
    /// Compiles what is written under a render key.
    ///
    /// # Errors
    ///
    /// Every mistake: what is not a template, a filter, a test or a variable that does not exist.
    pub fn compile(key: &RenderKey, source: TemplateSource) -> Result<Self, Vec<TemplateMistake>> {
        let mut environment = environment();
        let mut mistakes = vec![];
        for (end, text) in source.parts() {
            let file = format!("{key}{end}");
            if text.len() > MAX_SOURCE {
                mistakes.push(TemplateMistake {
                    file,
                    line: None,
                    problem: format!(
                        "{} bytes are too many, at most {MAX_SOURCE} are allowed",
                        text.len()
                    ),
                });
                continue;
            }
            if let Some(line) = text.lines().position(|line| line.contains('\0')) {
                mistakes.push(TemplateMistake {
                    file,
                    line: Some(line + 1),
                    problem: "a NUL character, which PostgreSQL cannot keep; take it out"
                        .to_owned(),
                });
                continue;
            }
            match environment.add_template_owned(file.clone(), text.to_owned()) {
                Ok(()) => mistakes.extend(names(&environment, &file, text)),
                Err(error) => mistakes.push(TemplateMistake {
                    line: error.line(),
                    problem: does_not_compile(&error),
                    file,
                }),
            }
        }
        if source.text.is_none() && source.html.is_none() {
            mistakes.push(TemplateMistake {
                file: format!("{key}{TEXT}"),
                line: None,
                problem: format!(
                    "is missing: a subject alone is no message; write it, or {key}{HTML}"
                ),
            });
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let hash = ContentHash::of(&json!([source.subject, source.text, source.html]));
        Ok(Self {
            key: key.clone(),
            source,
            hash,
            environment,
        })
    }

    /// Whose content it is.
    #[must_use]
    pub const fn key(&self) -> &RenderKey {
        &self.key
    }

    /// As it is written.
    #[must_use]
    pub const fn source(&self) -> &TemplateSource {
        &self.source
    }

    /// SHA-256 of what is written, in hex.
    #[must_use]
    pub fn hash(&self) -> &str {
        self.hash.as_str()
    }

    /// Makes what a message says.
    ///
    /// # Errors
    ///
    /// The first [`RenderFailure`]; the parts are made in the order subject, text, HTML.
    pub fn render(&self, message: &Message) -> Result<Content, RenderFailure> {
        let context = context(message);
        let part = |end: &str, text: &Option<String>| {
            let Some(text) = text else {
                return Ok(None);
            };
            let file = format!("{}{end}", self.key);
            render(&self.environment, &file, &context)
                .map(Some)
                .map_err(|error| failure(file, text, &error))
        };
        Ok(Content {
            subject: part(SUBJECT, &self.source.subject)?.map(|subject| one_line(&subject)),
            text: part(TEXT, &self.source.text)?,
            html: part(HTML, &self.source.html)?,
        })
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|name| {
        if name.ends_with(HTML) {
            AutoEscape::Html
        } else {
            AutoEscape::None
        }
    });
    // A null would read as the word "none" in somebody's mail.
    environment.set_formatter(|out, state, value| {
        if value.is_none() {
            return Err(ErrorKind::UndefinedError.into());
        }
        minijinja::escape_formatter(out, state, value)
    });
    environment.set_fuel(Some(FUEL));
    environment.set_debug(true);
    dates::add(&mut environment);
    environment
}

fn context(message: &Message) -> Value {
    let (locale, zone) = (message.locale.as_deref(), message.time_zone.as_deref());
    let known = [
        ("identity", message.recipient.as_ref().map(AsRef::as_ref)),
        ("locale", locale),
        ("time_zone", zone),
    ];
    let recipient = known
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?.to_owned())));
    Value::from(BTreeMap::from([
        ("params", Value::from(Serde(&message.params))),
        ("context", Value::from(Serde(&message.context))),
        (
            "recipient",
            Value::from(recipient.collect::<BTreeMap<_, _>>()),
        ),
        ("tenant", Value::from(message.tenant.as_ref())),
        ("workflow", Value::from(message.workflow.as_ref())),
        ("step", Value::from(message.step.as_ref())),
        ("channel", Value::from(message.channel.as_ref())),
        (READER, Value::from_object(Reader::of(locale, zone))),
    ]))
}

fn render(environment: &Environment<'_>, file: &str, context: &Value) -> Result<String, Error> {
    limited(&environment.get_template(file)?, context)
}

/// What a template makes, if that is no more than 1 MiB.
pub(super) fn limited(
    template: &minijinja::Template<'_, '_>,
    context: &Value,
) -> Result<String, Error> {
    let mut result = Limited(vec![]);
    template.render_captured_to(context, &mut result)?;
    String::from_utf8(result.0).map_err(|_| ErrorKind::WriteFailure.into())
}

/// What does not fit is refused.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_RESULT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The error's own text may quote a value: only its kind is told.
fn failure(file: String, source: &str, error: &Error) -> RenderFailure {
    let told = std::error::Error::source(error).and_then(|it| it.downcast_ref::<dates::Told>());
    let problem = match (told, error.kind()) {
        (Some(told), _) => told.0,
        (None, ErrorKind::UndefinedError) => "is missing",
        (None, ErrorKind::OutOfFuel) => "takes too long: it repeats too much",
        (None, ErrorKind::WriteFailure) => "makes more than 1 MiB",
        (None, ErrorKind::MissingArgument | ErrorKind::TooManyArguments) => {
            "is given the wrong number of arguments"
        }
        (None, ErrorKind::UnknownMethod) => "has no such method",
        (None, _) => "cannot be worked out with these params",
    };
    let quoted = error.range().and_then(|range| {
        let text = one_line(source.get(scan::expression_start(source, range.start)..range.end)?);
        // A filter that is given nothing: what it should be given is missing.
        let named = match (told, error.kind()) {
            (None, ErrorKind::UndefinedError) => text.split(" |").next()?,
            _ => &text,
        };
        let quoted: String = named.chars().take(QUOTED).collect();
        (!quoted.is_empty()).then_some(quoted)
    });
    RenderFailure {
        file,
        line: error.line(),
        variable: quoted,
        problem,
    }
}

/// The source has no values in it: all may be told.
fn does_not_compile(error: &Error) -> String {
    let detail = error.detail().unwrap_or_default();
    format!("{}: {detail}", error.kind())
}

/// Names in a template that mean nothing: they would fail when it is used.
fn names(environment: &Environment<'static>, file: &str, text: &str) -> Vec<TemplateMistake> {
    let mut mistakes = vec![];
    let mut add = |line, problem| {
        mistakes.push(TemplateMistake {
            file: file.to_owned(),
            line,
            problem,
        });
    };
    for found in scan::uses(text) {
        let line = Some(found.line);
        match found.what {
            Use::Filter if !is_filter(environment, found.name) => {
                add(line, format!("there is no filter `{}`", found.name));
            }
            Use::Test if !is_test(environment, found.name) => {
                add(line, format!("there is no test `{}`", found.name));
            }
            Use::Other => {
                let own = "every template stands by itself; write it here";
                add(line, format!("`{}` is not possible: {own}", found.name));
            }
            Use::Filter | Use::Test => {}
        }
    }
    let undeclared = environment
        .get_template(file)
        .map(|template| template.undeclared_variables(false))
        .unwrap_or_default();
    let mut unknown: Vec<_> = undeclared
        .iter()
        .filter(|name| {
            !VARIABLES.contains(&name.as_str())
                && environment.globals().all(|(global, _)| global != *name)
        })
        .collect();
    unknown.sort_unstable();
    for name in unknown {
        let hint = format!(
            "known: {}; what a trigger gives is in `params.{name}`",
            VARIABLES.join(", ")
        );
        add(
            scan::line_of(text, name),
            format!("there is no `{name}`; {hint}"),
        );
    }
    mistakes
}

fn is_filter(environment: &Environment<'_>, name: &str) -> bool {
    let tried = environment.empty_state().apply_filter(name, &[]);
    !tried.is_err_and(|error| error.kind() == ErrorKind::UnknownFilter)
}

fn is_test(environment: &Environment<'_>, name: &str) -> bool {
    let tried = environment.empty_state().perform_test(name, &[]);
    !tried.is_err_and(|error| error.kind() == ErrorKind::UnknownTest)
}

/// A subject is one line: what is given in params cannot begin another header.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text
        .split(|letter: char| letter.is_whitespace() || letter.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests;
