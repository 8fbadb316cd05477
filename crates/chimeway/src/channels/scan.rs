//! Finds the filters, tests and other templates that a template names: the engine itself looks for
//! them only when it comes to them.

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// `| name`
    Filter,
    /// `is name`, `is not name`
    Test,
    /// A statement that needs another template.
    Other,
}

/// What needs another template.
const OTHERS: [&str; 4] = ["include", "import", "from", "extends"];

/// A name in a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named<'a> {
    pub(super) what: Use,
    pub(super) name: &'a str,
    /// From 1.
    pub(super) line: usize,
}

/// Every filter, test and other template that a template names.
pub(super) fn uses(source: &str) -> Vec<Named<'_>> {
    let mut found = vec![];
    for (start, inside) in tags(source) {
        let line = |place: usize| 1 + source[..start + place].matches('\n').count();
        let words = words(inside);
        let statement = words.iter().find(|(_, word)| !["-", "+"].contains(word));
        let is_filter_block = matches!(statement, Some((_, "filter")));
        if let Some((place, name)) = statement
            && OTHERS.contains(name)
            && source[..start].ends_with("{%")
        {
            found.push(Named {
                what: Use::Other,
                name,
                line: line(*place),
            });
        }
        for (index, (place, word)) in words.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|at| words.get(at));
            let what = match before.map(|(_, text)| *text) {
                Some("|") => Use::Filter,
                Some("filter") if index <= 2 && is_filter_block => Use::Filter,
                Some("is") if *word != "not" => Use::Test,
                Some("not") if index >= 2 && words[index - 2].1 == "is" => Use::Test,
                _ => continue,
            };
            if word.starts_with(is_letter) {
                found.push(Named {
                    what,
                    name: word,
                    line: line(*place),
                });
            }
        }
    }
    found
}

/// The line of the first place in a tag where a name stands as a word of its own.
pub(super) fn line_of(source: &str, name: &str) -> Option<usize> {
    tags(source).into_iter().find_map(|(start, inside)| {
        let words = words(inside);
        let place = words.iter().enumerate().find(|(index, (_, word))| {
            let member = index.checked_sub(1).is_some_and(|at| words[at].1 == ".");
            *word == name && !member
        });
        place.map(|(_, (place, _))| 1 + source[..start + place].matches('\n').count())
    })
}

/// Where the expression begins that ends in a member or a filter at this place: the engine points to the
/// last part only.
pub(super) fn expression_start(source: &str, place: usize) -> usize {
    let is_part = |letter: char| is_letter(letter) || letter.is_ascii_digit() || letter == '.';
    let mut start = place;
    loop {
        let (Some(before), Some(after)) = (source.get(..start), source.get(start..)) else {
            return place;
        };
        let end = match before.trim_end().strip_suffix('|') {
            Some(piped) => piped.trim_end(),
            None if after.starts_with('.') => before,
            None => return start,
        };
        let begin = end.trim_end_matches(is_part).len();
        if begin == end.len() {
            return start;
        }
        start = begin;
    }
}

/// The insides of `{{ }}` and `{% %}`, with where they begin; comments and raw text are left out.
fn tags(source: &str) -> Vec<(usize, &str)> {
    let mut found = vec![];
    let (mut at, mut raw) = (0, false);
    while let Some(open) = source[at..].find('{').map(|place| at + place) {
        let rest = &source[open..];
        let close = match rest.as_bytes().get(1) {
            Some(b'#') if !raw => {
                at = rest.find("#}").map_or(source.len(), |end| open + end + 2);
                continue;
            }
            Some(b'{') if !raw => "}}",
            Some(b'%') => "%}",
            _ => {
                at = open + 1;
                continue;
            }
        };
        let Some(length) = end_of(&rest[2..], close) else {
            break;
        };
        let inside = &rest[2..2 + length];
        match inside.trim_matches(['-', '+']).trim() {
            "raw" => raw = true,
            "endraw" => raw = false,
            _ if !raw => found.push((open + 2, inside)),
            _ => {}
        }
        at = open + 2 + length + 2;
    }
    found
}

/// Where the closing marks stand, outside of quotes.
fn end_of(text: &str, close: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (place, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), letter) if letter == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, _) if text[place..].starts_with(close) => return Some(place),
            (None, _) => {}
        }
    }
    None
}

/// Names and single marks, in order; a quoted text is one mark, its quote.
fn words(text: &str) -> Vec<(usize, &str)> {
    let mut found = vec![];
    let mut letters = text.char_indices().peekable();
    while let Some((place, letter)) = letters.next() {
        if letter.is_whitespace() {
            continue;
        }
        let mut end = place + letter.len_utf8();
        if letter == '"' || letter == '\'' {
            found.push((place, &text[place..end]));
            let mut escaped = false;
            for (_, inner) in letters.by_ref() {
                if inner == letter && !escaped {
                    break;
                }
                escaped = inner == '\\' && !escaped;
            }
            continue;
        }
        if is_letter(letter) || letter.is_ascii_digit() {
            while let Some((next, _)) =
                letters.next_if(|(_, next)| is_letter(*next) || next.is_ascii_digit())
            {
                end = next + 1;
            }
        }
        found.push((place, &text[place..end]));
    }
    found
}

fn is_letter(letter: char) -> bool {
    letter.is_ascii_alphabetic() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<String> {
        uses(source)
            .iter()
            .map(|found| format!("{:?} {} {}", found.what, found.name, found.line))
            .collect()
    }

    #[test]
    fn filters_and_tests_are_found_where_they_are_used() {
        let source = "{{ params.a|upper }} | no\n{% if params.b is not defined -%}\n{{ x\n | trim | date('short') }}{% endif %}\
                      {%- filter lower %}A{% endfilter %}{{ 1 is odd or 2 is\nnot even }}{% include 'a' %}";
        assert_eq!(
            found(source),
            [
                "Filter upper 1",
                "Test defined 2",
                "Filter trim 4",
                "Filter date 4",
                "Filter lower 4",
                "Test odd 4",
                "Test even 5",
                "Other include 5"
            ]
        );
    }

    #[test]
    fn texts_comments_and_raw_parts_name_nothing() {
        for source in [
            "{{ 'a | b' }}{{ \"x}} | y\" }}{{ 'it\\'s | c' }}",
            "{# {{ a | b }} #}",
            "{% raw %}{{ a | b }}{% endraw %}",
            "{ a | b }",
            "{{ open | never",
            "{%",
            "ä | ö {",
        ] {
            assert_eq!(found(source), [""; 0], "{source}");
        }
    }

    #[test]
    fn an_expression_begins_before_its_last_part() {
        for (source, last, whole) in [
            ("{{ params.a.b }}", ".b", "params.a.b"),
            ("{{ params.a.b }}", ".a.b", "params.a.b"),
            ("{% if params.a | upper %}", "upper", "params.a | upper"),
            (
                "{{ f(params.a|trim|upper) }}",
                "upper",
                "params.a|trim|upper",
            ),
            ("{{ params.a }}", "params.a", "params.a"),
            ("{{ 'ä'|upper }}", "upper", "upper"),
            ("{{ f(1).b }}", ".b", ".b"),
            ("{{ a }}", "a", "a"),
        ] {
            let place = source.rfind(last).unwrap();
            let start = expression_start(source, place);
            assert_eq!(&source[start..place + last.len()], whole, "{source}");
        }
    }

    #[test]
    fn the_line_of_a_name() {
        let source = "title\n{{ params.title }}\n{{ 'title' }}\n{{ title }}";
        assert_eq!(line_of(source, "title"), Some(4));
        assert_eq!(line_of(source, "params"), Some(2));
        assert_eq!(line_of(source, "other"), None);
    }
}
