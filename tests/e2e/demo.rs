//! The demonstration, as anybody runs it, and what it leaves to others: an export that other programs can check.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use nostr::{Event, JsonUtil};
use serde_json::Value;

use crate::architecture::root;
use crate::support::{Ran, concordat, ran, run, skipped};
use crate::town::TURN;

/// What the demonstration promises to print, no more and no less.
const KEYS: [&str; 7] = ["group", "custodians", "killed", "heads", "machine", "state", "verified"];

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("{name}: {value}"))
}

/// The first value of a tag.
fn tag<'v>(event: &'v Value, name: &str) -> Option<&'v str> {
    let tags = event["tags"].as_array()?;
    tags.iter().find(|tag| tag[0] == name)?[1].as_str()
}

#[test]
fn to_the_end_and_verified_by_others() {
    let _turn = TURN.blocking_lock();
    let home = tempfile::tempdir().unwrap();
    let told = ran(concordat(home.path())
        .args(["demo", "--json", "--no-client-port", "--export", "events.jsonl"])
        .env("TMPDIR", home.path()));
    assert_eq!(told.status, 0, "{told}");
    let line = told.lines().pop().unwrap();
    let keys: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, KEYS.into_iter().collect(), "{told}");
    assert_eq!(
        (line["state"].as_str(), line["verified"].as_bool()),
        (Some("finished"), Some(true)),
        "{told}"
    );
    assert_eq!(line["custodians"], 4);
    assert!((1..=4).contains(&line["killed"].as_u64().unwrap()), "{told}");
    // Nothing is left behind: the temporary directory was the custodians'.
    let left: Vec<PathBuf> =
        std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [home.path().join("events.jsonl")]);

    let group = text(&line, "group");
    let verified = run(home.path(), &["verify", "events.jsonl", "--group", group, "--json"]);
    assert_eq!(verified.status, 0, "{verified}");
    assert_eq!(verified.lines()[0]["heads"], line["heads"]);

    let export = std::fs::read_to_string(home.path().join("events.jsonl")).unwrap();
    let events: Vec<Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in export.lines() {
        Event::from_json(line).unwrap().verify().unwrap();
    }
    newest_snapshot(&events, group, text(&line, "machine"));
    nostr_tools(&home.path().join("events.jsonl"), events.len());
}

/// The relay shows one snapshot of the machine, the last one, and the head that it names has the same root.
fn newest_snapshot(events: &[Value], group: &str, machine: &str) {
    let of_machine = |event: &&Value| {
        event["kind"] == 30078 && event["pubkey"] == group && tag(event, "e") == Some(machine)
    };
    let shown: Vec<&Value> = events.iter().filter(of_machine).collect();
    let [snapshot] = shown.as_slice() else { panic!("one snapshot of the machine: {shown:?}") };
    let content: Value = serde_json::from_str(text(snapshot, "content")).unwrap();
    assert_eq!((content["status"].as_str(), content["value"].as_str()), (Some("done"), Some("finished")));
    assert_eq!(content["output"]["payouts"].as_array().unwrap().len(), 2, "{content}");
    let head = events.iter().find(|event| event["id"].as_str() == tag(snapshot, "log")).unwrap();
    assert_eq!(tag(head, "state_root"), tag(snapshot, "root"));
    assert_eq!(tag(head, "height"), tag(snapshot, "height"));
}

/// Every event of the export under nostr-tools, which shares no code with this program.
fn nostr_tools(export: &Path, expected: usize) {
    let Some(modules) = std::env::var_os("CONCORDAT_NOSTR_TOOLS").filter(|dir| !dir.is_empty()) else {
        return skipped("nostr_tools", "CONCORDAT_NOSTR_TOOLS names no directory with nostr-tools");
    };
    let script = root().join("tests/e2e/nostr_tools.mjs");
    let ran: Ran = ran(Command::new("node").arg(script).arg(modules).arg(export));
    assert_eq!(ran.status, 0, "{ran}");
    assert_eq!(ran.stdout.trim(), format!("{expected} events verified"), "{ran}");
}
