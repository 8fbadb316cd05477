use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::*;
use crate::ids::{AttemptNumber, DeliveryId, RunId};

fn message(params: Json) -> Message {
    Message {
        delivery: DeliveryId::fresh(),
        attempt: AttemptNumber(1),
        tenant: "org_456".parse().unwrap(),
        recipient: "ada".parse().ok(),
        run: RunId::fresh(),
        notification: None,
        workflow: "mention_escalation".parse().unwrap(),
        step: "step_email".parse().unwrap(),
        channel: "email".parse().unwrap(),
        render_key: "letter".parse().unwrap(),
        params,
        address: Some("ada@example.com".to_owned()),
        locale: Some("de-AT".to_owned()),
        time_zone: Some("Europe/Vienna".to_owned()),
        content: None,
        call: None,
        context: serde_json::json!({}),
    }
}

fn source(subject: &str, text: &str, html: &str) -> TemplateSource {
    let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    TemplateSource {
        subject: part(subject),
        text: part(text),
        html: part(html),
    }
}

fn compile(subject: &str, text: &str, html: &str) -> Result<Template, Vec<TemplateMistake>> {
    Template::compile(&"letter".parse().unwrap(), source(subject, text, html))
}

fn text_of(template: &str, params: Json) -> Result<String, RenderFailure> {
    let rendered = compile("", template, "").unwrap().render(&message(params));
    rendered.map(|content| content.text.unwrap())
}

fn mistakes(subject: &str, text: &str, html: &str) -> String {
    let mistakes = compile(subject, text, html).unwrap_err();
    mistakes.iter().fold(String::new(), |mut all, mistake| {
        writeln!(all, "{mistake}").unwrap();
        all
    })
}

#[test]
fn a_template_sees_what_the_message_has() {
    let template = compile(
        "{{ params.who }} mentioned you",
        "{{ recipient.identity }} {{ recipient.locale }} {{ recipient.time_zone }} {{ tenant }} {{ workflow }} {{ step }} {{ channel }}\n\
         {{ params.at | datetime }}{% if params.link is defined %} {{ params.link }}{% endif %}\n",
        "<p>{{ params.who }}</p>{{ params.who | safe }}",
    )
    .unwrap();
    let params = json!({ "who": "<b>Grace</b> & co", "at": "2026-03-02T09:00:00Z" });
    let content = template.render(&message(params)).unwrap();
    assert_eq!(
        content,
        Content {
            subject: Some("<b>Grace</b> & co mentioned you".to_owned()),
            text: Some(
                "ada de-AT Europe/Vienna org_456 mention_escalation step_email email\n\
                 2. März 2026, 10:00"
                    .to_owned()
            ),
            html: Some("<p>&lt;b&gt;Grace&lt;&#x2f;b&gt; &amp; co</p><b>Grace</b> & co".to_owned()),
        }
    );
}

/// In an attribute too: what is inserted stays a value.
#[test]
fn what_is_inserted_into_html_stays_a_value() {
    let html = r#"<a href="{{ params.url }}" title='{{ params.title }}'>{{ context.note }}</a>"#;
    let template = compile("", "x", html).unwrap();
    let evil = r#""'><script>alert(1)</script>"#;
    let mut message = message(json!({ "url": evil, "title": evil }));
    message.context = json!({ "note": evil });
    let html = template.render(&message).unwrap().html.unwrap();
    assert_eq!(html.matches(['<', '>']).count(), 4, "{html}");
    assert_eq!(html.matches(['"', '\'']).count(), 4, "{html}");
}

#[test]
fn a_subject_is_one_line_whatever_params_hold() {
    let template = compile("  {{ params.title }}\n", "x", "").unwrap();
    let params = json!({ "title": "Hi\r\nBcc: all@example.com\u{2028}\0 there" });
    let content = template.render(&message(params)).unwrap();
    assert_eq!(content.subject.unwrap(), "Hi Bcc: all@example.com there");
}

#[test]
fn what_is_missing_is_named_with_its_line_and_no_value() {
    let params = || json!({ "title": "secret", "none": null, "n": "secret", "list": ["secret"] });
    let failures = [
        "a\n{{ params.titel }}",
        "a\n\n{{ params.document.title }}",
        "{{ params.titel | upper }}",
        "{% for item in params.items_ %}{{ item }}{% endfor %}",
        "{% if params.flag %}x{% endif %}",
        "{{ params.none }}",
        "{{ params.n + 1 }}",
        "{{ params.n | date }}",
        "{{ params.titel | date }}",
        "{{ params.n.shout() }}",
        "{{ params.list | join(1, 2, 3) }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(9999) %}................................................................................................................................{% endfor %}",
    ]
    .map(|template| text_of(template, params()).unwrap_err().to_string());
    let all = failures.join("\n");
    assert!(!all.contains("secret"), "{all}");
    insta::assert_snapshot!(all, @r#"
    letter.txt, line 2: `params.titel` is missing
    letter.txt, line 3: `params.document.title` is missing
    letter.txt, line 1: `params.titel` is missing
    letter.txt, line 1: `params.items_` is missing
    letter.txt, line 1: `params.flag` is missing
    letter.txt, line 1: `params.none` is missing
    letter.txt, line 1: `params.n + 1` cannot be worked out with these params
    letter.txt, line 1: `params.n | date` is no instant; give one like "2026-03-02T09:00:00Z" or seconds since 1970
    letter.txt, line 1: `params.titel` is missing
    letter.txt, line 1: `params.n.shout()` has no such method
    letter.txt, line 1: `params.list | join(1, 2, 3)` cannot be worked out with these params
    letter.txt, line 1: `range(100000)` takes too long: it repeats too much
    letter.txt: it makes more than 1 MiB
    "#);
}

#[test]
fn what_may_be_missing_says_so() {
    let template = "{{ params.name | default('you') }}{% if params.more is defined %}!{% endif %}";
    assert_eq!(text_of(template, json!({})).unwrap(), "you");
    let named = json!({ "name": "Ada", "more": 1 });
    assert_eq!(text_of(template, named).unwrap(), "Ada!");
}

#[test]
fn every_mistake_of_every_part_is_told_before_anything_is_sent() {
    let all = [
        mistakes(
            "{{ title }}",
            "a\n{{ params.a | uper }}\n{% if params.b is defind %}{% endif %}",
            "<p>\n{% if %}",
        ),
        mistakes("only a subject", "", ""),
        mistakes("", "{% include 'other.txt' %}{% extends 'base' %}", ""),
        mistakes("", "{{ params.a", "{% for x in params.list %}"),
        mistakes("", "{{ now() }}{{ env.SECRET }}", ""),
        mistakes("", &"x".repeat(MAX_SOURCE + 1), ""),
    ];
    insta::assert_snapshot!(all.concat(), @"
    letter.subject.txt, line 1: there is no `title`; known: params, context, recipient, tenant, workflow, step, channel; what a trigger gives is in `params.title`
    letter.txt, line 2: there is no filter `uper`
    letter.txt, line 3: there is no test `defind`
    letter.html, line 2: syntax error: unexpected end of block
    letter.txt: is missing: a subject alone is no message; write it, or letter.html
    letter.txt, line 1: `include` is not possible: every template stands by itself; write it here
    letter.txt, line 1: `extends` is not possible: every template stands by itself; write it here
    letter.txt, line 1: syntax error: unexpected end of input, expected end of variable block
    letter.html, line 1: syntax error: unexpected end of input, expected end of block
    letter.txt, line 1: there is no `env`; known: params, context, recipient, tenant, workflow, step, channel; what a trigger gives is in `params.env`
    letter.txt, line 1: there is no `now`; known: params, context, recipient, tenant, workflow, step, channel; what a trigger gives is in `params.now`
    letter.txt: 262145 bytes are too many, at most 262144 are allowed
    ");
}

#[test]
fn what_the_language_has_is_no_mistake() {
    for template in [
        "{% set x = 1 %}{{ x }}",
        "{% macro hi(name) %}{{ name }} {{ params.at | date }}{% endmacro %}{{ hi('a') }}",
        "{% for item in params.list %}{{ loop.index }}{{ item }}{% else %}-{% endfor %}",
        "{% filter upper %}a{% endfilter %}{{ range(3) | join(', ') }}{{ dict(a=1).a }}",
        "{{ 'a | b is c' }}{# {{ nothing | here }} #}{% raw %}{{ a | b }}{% endraw %}",
        "{{ params.list | map('upper') | join }}{{ 1 is odd }}{{ 2 is not none }}",
        "{{ params.list | tojson }}{{ 'a b' | urlencode }}",
    ] {
        let params = json!({ "list": ["a"], "at": "2026-03-02" });
        let text = text_of(template, params);
        assert!(text.is_ok(), "{template}: {text:?}");
    }
}

/// In its own zone, whatever names the template gives its values, and within a macro too.
#[test]
fn a_date_is_written_for_its_reader_everywhere() {
    let at = "{{ params.at | datetime }}";
    let template = format!(
        "{at}; {{% macro hi(params) %}}{at}{{% endmacro %}}{{{{ hi(params) }}}}; \
         {{% set recipient = {{'time_zone': 'UTC'}} %}}{{% for _ in range(1) %}}{at}{{% endfor %}}"
    );
    let params = json!({ "at": "2026-03-02T09:00:00Z" });
    let vienna = "2. März 2026, 10:00";
    assert_eq!(text_of(&template, params), Ok([vienna; 3].join("; ")));
}

#[test]
fn the_hash_is_of_what_is_written() {
    let hash = |source: [&str; 3]| {
        compile(source[0], source[1], source[2])
            .unwrap()
            .hash()
            .to_owned()
    };
    assert_eq!(hash(["a", "b", ""]), hash(["a", "b", ""]));
    assert_ne!(hash(["a", "b", ""]), hash(["a", "b ", ""]));
    assert_ne!(hash(["", "b", "a"]), hash(["a", "b", ""]));
}
