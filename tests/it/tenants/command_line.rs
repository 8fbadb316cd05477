//! Every command that takes a tenant.

use super::world::Things;
use crate::programs::chimeway;

/// A command as it is written: words that begin with `@` stand for a thing, and `@tenant` for who asks.
pub(super) const COMMANDS: &[&str] = &[
    "runs --tenant @tenant --recipient @person",
    "runs --tenant @tenant --event @event",
    "runs --tenant @tenant --workflow @workflow --json",
    "explain @waiting --tenant @tenant",
    "explain @waiting --tenant @tenant --json",
    "traces @waiting --tenant @tenant",
    "traces @waiting --tenant @tenant --json",
    "inbox list --tenant @tenant --recipient @person",
    "inbox list --tenant @tenant --recipient @person --archived --before @item --json",
    "inbox unread --tenant @tenant --recipient @person",
    "recipients show @person --tenant @tenant",
    "preferences show @person --tenant @tenant",
    "retry @failed --tenant @tenant",
    "retry @lost_run --tenant @tenant",
    "retry @lost_event --tenant @tenant",
    "retry @lost_signal --tenant @tenant",
    "inbox seen --tenant @tenant --recipient ada @item",
    "inbox read --tenant @tenant --recipient ada @item",
    "inbox archive --tenant @tenant --recipient ada @item",
    "pending --tenant @tenant --assignee approver",
    "approve @asked --tenant @tenant --by approver",
    "reject @asked_too --tenant @tenant --by approver --note curiosity",
    "roles list --tenant @tenant --role manager",
    "roles add manager @person --tenant @tenant",
    "roles remove manager @person --tenant @tenant",
    "cancel @waiting --tenant @tenant --by mallory",
    "cancel @lost_run --tenant @tenant --json",
    "cancel --workflow @workflow --tenant @tenant",
    "recipients set @person --tenant @tenant --forget email",
    "recipients set @person --tenant @tenant --address email=eve@e.example",
    "preferences set @person --tenant @tenant --category marketing=on",
    "track document_opened --tenant @tenant --actor @person",
    "trigger mention_escalation --tenant @tenant --recipient @person --idempotency-key @key",
];

fn words(line: &str, tenant: &str, its: &Things) -> Vec<String> {
    let thing = |word: &str| match word {
        "@tenant" => tenant.to_owned(),
        "@waiting" => its.waiting.to_string(),
        "@asked" => its.asked.to_string(),
        "@asked_too" => its.asked_too.to_string(),
        "@item" => its.item.to_string(),
        "@event" => its.event.to_string(),
        "@key" => its.key.clone(),
        "@failed" => its.failed.to_string(),
        "@lost_run" => its.lost_run.to_string(),
        "@lost_event" => its.lost_event.to_string(),
        "@lost_signal" => its.lost_signal.to_string(),
        "@person" => its.person.to_string(),
        "@workflow" => its.workflow.to_string(),
        word => {
            assert!(!word.starts_with('@'), "there is no {word}");
            word.to_owned()
        }
    };
    line.split(' ').map(thing).collect()
}

/// Runs one of the commands to its end: its exit code, and all it printed.
pub(super) fn run(url: &str, line: &str, tenant: &str, its: &Things) -> (i32, String) {
    let words = words(line, tenant, its);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ran = chimeway(url, &words);
    (ran.code, its.told(&format!("{}{}", ran.out, ran.err)))
}

/// The answers to all of the commands, one after the other.
pub(super) fn run_all(url: &str, tenant: &str, its: &Things) -> Vec<(i32, String)> {
    let lines = COMMANDS.iter();
    lines.map(|line| run(url, line, tenant, its)).collect()
}

/// What both tenants would be told of somebody whom both know.
pub(super) const ABOUT_ADA: &[&str] = &[
    "runs --tenant @tenant --recipient ada --json",
    "inbox list --tenant @tenant --recipient ada --json",
    "recipients show ada --tenant @tenant",
    "preferences show ada --tenant @tenant",
];

/// The commands below this one that have `--tenant`, as the program's own help says.
pub(super) fn taking_a_tenant(command: &str) -> Vec<String> {
    let asked: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
    let help = chimeway("", &asked).expect(0).out;
    let Some((_, listed)) = help.split_once("\nCommands:\n") else {
        let takes = help.contains("--tenant <");
        return takes.then(|| command.to_owned()).into_iter().collect();
    };
    // A name is set in by two blanks, and the rest of what is said of it by more.
    let listed = listed.lines().take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let below = names.filter(|name| !["", "help"].contains(name));
    below
        .flat_map(|name| taking_a_tenant(format!("{command} {name}").trim_start()))
        .collect()
}
