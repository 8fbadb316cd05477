//! Instants as a recipient reads them: in the recipient's time zone and language.

use chrono::{DateTime, FixedOffset, Locale, NaiveDate, TimeZone as _, format::StrftimeItems};
use chrono_tz::Tz;
use minijinja::{
    Environment, Error, ErrorKind, State,
    value::{Object, Value, ValueKind},
};

/// Says what is wrong with a value without showing it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Told(pub(super) &'static str);

const NO_INSTANT: &str =
    "is no instant; give one like \"2026-03-02T09:00:00Z\" or seconds since 1970";
const NO_TIME: &str = "is a day without a time; use `date`, or give an instant";
const NO_FORMAT: &str =
    "has a format that is not known; use \"long\", \"short\" or a pattern such as \"%d.%m.%Y\"";

/// The name of the [`Reader`] in the context of a template: with a space in it, so no template can say or set it.
pub(super) const READER: &str = "the reader";

/// Where and in which language someone reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader {
    zone: Option<Tz>,
    locale: Locale,
}

impl Reader {
    /// A zone that is not known is UTC, and says so; a language that is not known writes like ISO 8601.
    pub(super) fn of(locale: Option<&str>, zone: Option<&str>) -> Self {
        Self {
            zone: zone.and_then(|zone| zone.parse().ok()),
            locale: locale.and_then(locale_of).unwrap_or(Locale::POSIX),
        }
    }
}

impl Object for Reader {}

/// Adds `date`, `time` and `datetime`, which write for the [`READER`] of the context.
pub(super) fn add(environment: &mut Environment<'static>) {
    for (name, what) in [
        ("date", What::Date),
        ("time", What::Time),
        ("datetime", What::Both),
    ] {
        let write = move |state: &State<'_, '_>, value: Value, format: Option<String>| {
            if value.is_undefined() {
                return Err(ErrorKind::UndefinedError.into());
            }
            let reader = state.lookup(READER);
            let reader = reader.and_then(|it| it.downcast_object_ref::<Reader>().copied());
            let reader = reader.unwrap_or_else(|| Reader::of(None, None));
            reader
                .write(what, &value, format.as_deref())
                .map_err(|told| Error::from(ErrorKind::InvalidOperation).with_source(told))
        };
        environment.add_filter(name, write);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Date,
    Time,
    Both,
}

impl Reader {
    fn write(self, what: What, value: &Value, format: Option<&str>) -> Result<String, Told> {
        let pattern = self.pattern(what, format)?;
        let items: Vec<_> = StrftimeItems::new_with_locale(&pattern, self.locale)
            .parse()
            .map_err(|_| Told(NO_FORMAT))?;
        if let Some(day) = day(value) {
            if what != What::Date {
                return Err(Told(NO_TIME));
            }
            let start = day.and_hms_opt(0, 0, 0).ok_or(Told(NO_INSTANT))?;
            let shown = chrono::Utc.from_utc_datetime(&start);
            return Ok(shown
                .format_localized_with_items(items.iter(), self.locale)
                .to_string());
        }
        let zone = self.zone.unwrap_or(Tz::UTC);
        let shown = instant(value).ok_or(Told(NO_INSTANT))?.with_timezone(&zone);
        let mut text = shown
            .format_localized_with_items(items.iter(), self.locale)
            .to_string();
        if self.zone.is_none() && what != What::Date && format.is_none_or(|it| !it.contains('%')) {
            text.push_str(" UTC");
        }
        Ok(text)
    }

    fn pattern(self, what: What, format: Option<&str>) -> Result<String, Told> {
        let date = match format {
            None | Some("long") => self.long_date(),
            Some("short") if self.locale == Locale::POSIX => "%Y-%m-%d",
            Some("short") => "%x",
            Some(pattern) if pattern.contains('%') => return Ok(pattern.to_owned()),
            Some(_) => return Err(Told(NO_FORMAT)),
        };
        let time = match self.locale {
            Locale::en_US | Locale::en_CA | Locale::en_AU | Locale::en_NZ | Locale::en_IN => {
                "%-I:%M %p"
            }
            _ => "%H:%M",
        };
        Ok(match what {
            What::Date => date.to_owned(),
            What::Time => time.to_owned(),
            What::Both => format!("{date}, {time}"),
        })
    }

    /// The usual order of day, month and year, by language.
    fn long_date(self) -> &'static str {
        if self.locale == Locale::POSIX {
            return "%Y-%m-%d";
        }
        let name = format!("{:?}", self.locale);
        match name.get(..2) {
            Some("en") if self.locale == Locale::en_US => "%B %-d, %Y",
            Some("de" | "da" | "nb" | "nn" | "fi" | "cs" | "is") => "%-d. %B %Y",
            Some("es" | "pt") => "%-d de %B de %Y",
            Some("en" | "fr" | "it" | "nl" | "sv" | "pl" | "ru" | "uk" | "ro" | "tr" | "el") => {
                "%-d %B %Y"
            }
            Some("ja" | "zh") => "%Y年%-m月%-d日",
            Some("ko") => "%Y년 %-m월 %-d일",
            _ => "%x",
        }
    }
}

/// The locale that a BCP 47 name means: of its region, or of the region where most speak it.
fn locale_of(name: &str) -> Option<Locale> {
    let mut parts = name.split(['-', '_', '.', '@']);
    let language = parts.next()?.to_ascii_lowercase();
    let region = parts
        .find(|part| part.len() == 2)
        .map(str::to_ascii_uppercase);
    let usual = match language.as_str() {
        "en" => "US",
        "sv" => "SE",
        "da" => "DK",
        "cs" => "CZ",
        "el" => "GR",
        "he" => "IL",
        "hi" => "IN",
        "ja" => "JP",
        "ko" => "KR",
        "nb" | "nn" => "NO",
        "pt" => "BR",
        "uk" => "UA",
        "zh" => "CN",
        "ar" => "EG",
        "fa" => "IR",
        "vi" => "VN",
        _ => "",
    };
    let own = language.to_ascii_uppercase();
    [region.as_deref(), Some(usual), Some(own.as_str())]
        .into_iter()
        .flatten()
        .find_map(|region| format!("{language}_{region}").as_str().try_into().ok())
}

/// A day without a time: it is the same day everywhere.
fn day(value: &Value) -> Option<NaiveDate> {
    value.as_str()?.trim().parse().ok()
}

fn instant(value: &Value) -> Option<DateTime<FixedOffset>> {
    if value.kind() == ValueKind::Number {
        let seconds = i64::try_from(value.clone()).ok()?;
        return Some(DateTime::from_timestamp(seconds, 0)?.fixed_offset());
    }
    let text = value.as_str()?.trim();
    // PostgreSQL prints a whole offset as `+00`.
    text.parse().or_else(|_| format!("{text}:00").parse()).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn shown(locale: Option<&str>, zone: Option<&str>, expression: &str) -> String {
        let mut environment = Environment::new();
        add(&mut environment);
        let reader = Value::from_object(Reader::of(locale, zone));
        let context = Value::from(BTreeMap::from([(READER, reader)]));
        environment
            .render_str(&format!("{{{{ {expression} }}}}"), context)
            .unwrap_or_else(|error| {
                std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string)
            })
    }

    #[test]
    fn an_instant_is_told_in_the_zone_and_language_of_its_reader() {
        let all = r#""2026-03-01T23:30:00Z" | datetime"#;
        let told = [
            (Some("en-US"), Some("America/New_York")),
            (Some("en-GB"), Some("Europe/London")),
            (Some("de-AT"), Some("Europe/Vienna")),
            (Some("fr"), Some("Europe/Paris")),
            (Some("pt-BR"), Some("America/Sao_Paulo")),
            (Some("ja-JP"), Some("Asia/Tokyo")),
            (Some("zh-Hans-CN"), Some("Asia/Shanghai")),
            (Some("xx"), Some("Asia/Kolkata")),
            (None, None),
            (None, Some("Nowhere/At_All")),
        ]
        .map(|(locale, zone)| shown(locale, zone, all));
        insta::assert_snapshot!(told.join("\n"), @"
        March 1, 2026, 6:30 PM
        1 March 2026, 23:30
        2. März 2026, 00:30
        2 mars 2026, 00:30
        1 de março de 2026, 20:30
        2026年3月2日, 08:30
        2026年3月2日, 07:30
        2026-03-02, 05:00
        2026-03-01, 23:30 UTC
        2026-03-01, 23:30 UTC
        ");
    }

    /// As docs/templates.md has it.
    #[test]
    fn the_formats_of_the_documents() {
        let told = [
            (Some("de-DE"), Some("Europe/Berlin")),
            (Some("en-US"), Some("America/New_York")),
            (None, None),
        ]
        .map(|(locale, zone)| {
            ["datetime", "date('short')", "date('%A %H:%M')"]
                .map(|filter| shown(locale, zone, &format!("'2026-03-02T09:00:00Z' | {filter}")))
                .join(" | ")
        });
        assert_eq!(
            told,
            [
                "2. März 2026, 10:00 | 02.03.2026 | Montag 10:00",
                "March 2, 2026, 4:00 AM | 03/02/2026 | Monday 04:00",
                "2026-03-02, 09:00 UTC | 2026-03-02 | Monday 09:00",
            ]
        );
    }

    #[test]
    fn summer_time_is_the_zones() {
        let noon = |day: &str| {
            shown(
                None,
                Some("Europe/Vienna"),
                &format!("'{day}T12:00:00Z' | time"),
            )
        };
        assert_eq!(
            (noon("2026-03-28").as_str(), noon("2026-03-29").as_str()),
            ("13:00", "14:00")
        );
    }

    #[test]
    fn a_day_is_the_same_day_everywhere() {
        for zone in ["Pacific/Auckland", "America/Los_Angeles"] {
            assert_eq!(
                shown(Some("de"), Some(zone), "'2026-03-02' | date"),
                "2. März 2026"
            );
        }
        assert_eq!(shown(None, None, "'2026-03-02' | time"), NO_TIME);
    }

    #[test]
    fn formats_and_what_is_none() {
        let at = |filter: &str| {
            shown(
                Some("de-DE"),
                Some("Europe/Berlin"),
                &format!("1772442000 | {filter}"),
            )
        };
        assert_eq!(at("date"), "2. März 2026");
        assert_eq!(at("date('short')"), "02.03.2026");
        assert_eq!(
            at("datetime('%A, %d. %b, %H Uhr')"),
            "Montag, 02. Mär, 10 Uhr"
        );
        for bad in ["date('iso')", "date('%Q')", "date('%')"] {
            assert_eq!(at(bad), NO_FORMAT, "{bad}");
        }
        for bad in ["'soon'", "''", "none", "[1]", "1e300", "'2026-13-01'"] {
            assert_eq!(
                shown(None, None, &format!("{bad} | datetime")),
                NO_INSTANT,
                "{bad}"
            );
        }
        // What PostgreSQL prints is an instant too.
        assert_eq!(
            shown(None, None, "'2026-03-02 09:00:00+00' | time"),
            "09:00 UTC"
        );
    }
}
