//! The user's verbs against a relay: publish, send, get, list, history, watch; and a group that misbehaves.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::lone_group::{LoneGroup, Manner};
use crate::support::{Ran, concordat, ran};

/// The id of nothing.
const NOWHERE: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

const COUNTER: &str = r#"{"id":"counter","initial":"idle","context":{"n":0},"states":{
  "idle":{"on":{"ADD":{"target":"busy","guard":{"type":"cel","params":{"expr":"event.data.by > 0"}},
    "actions":{"type":"cel.assign","params":{"n":"context.n + event.data.by"}}}}},
  "busy":{"on":{"STOP":{"target":"over"}}},
  "over":{"type":"final"}}}"#;

/// Runs the binary against this group, off the async threads.
async fn run(group: &LoneGroup, home: &Path, arguments: &[&str]) -> Ran {
    let mut command = concordat(home);
    command
        .args(arguments)
        .arg("--json")
        .env("CONCORDAT_GROUP", group.keys.public_key().to_hex())
        .env("CONCORDAT_RELAYS", group.relay.url());
    tokio::task::spawn_blocking(move || ran(&mut command)).await.unwrap()
}

/// A home with a key and a definition.
async fn home(group: &LoneGroup) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("counter.json"), COUNTER).unwrap();
    let made = run(group, home.path(), &["key", "new"]).await;
    assert_eq!(made.status, 0, "{made}");
    home
}

async fn published(group: &LoneGroup, home: &Path, more: &[&str]) -> String {
    let arguments = [&["publish", "counter.json"], more].concat();
    let ran = run(group, home, &arguments).await;
    assert_eq!(ran.status, 0, "{ran}");
    ran.lines()[0]["machine"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_publish_to_history() {
    let group = LoneGroup::start(Manner::Honest).await;
    let home = home(&group).await;
    let ran =
        run(&group, home.path(), &["publish", "counter.json", "--d", "c1", "--title", "A counter"]).await;
    assert_eq!(ran.status, 0, "{ran}");
    let line = &ran.lines()[0];
    assert_eq!(
        (line["outcome"].as_str(), line["state"].as_str(), line["d"].as_str()),
        (Some("ok"), Some("idle"), Some("c1"))
    );
    let machine = line["machine"].as_str().unwrap().to_owned();

    let refused = run(&group, home.path(), &["send", &machine, "ADD", "--data", r#"{"by":0}"#]).await;
    assert_eq!((refused.status, refused.error()["code"].as_str()), (4, Some("rejected")), "{refused}");
    let outcome = &refused.lines()[0];
    assert_eq!(
        (outcome["outcome"].as_str(), outcome["reason"].as_str()),
        (Some("rejected"), Some("guard_false"))
    );
    assert_eq!(outcome["state"], "idle");

    let sent = run(&group, home.path(), &["send", &machine, "ADD", "--data", r#"{"by":5}"#]).await;
    assert_eq!(sent.status, 0, "{sent}");
    let outcome = &sent.lines()[0];
    let fields: Vec<&str> = ["request", "outcome", "reason", "height", "log", "state"].to_vec();
    assert!(fields.iter().all(|field| outcome.get(field).is_some()), "{sent}");
    assert_eq!(
        (outcome["outcome"].as_str(), outcome["state"].as_str(), &outcome["reason"]),
        (Some("ok"), Some("busy"), &Value::Null)
    );

    let got = run(&group, home.path(), &["get", &machine]).await;
    assert_eq!(got.status, 0, "{got}");
    let line = &got.lines()[0];
    assert_eq!((line["state"].as_str(), line["context"]["n"].as_i64()), (Some("busy"), Some(5)));
    assert_eq!((&line["height"], &line["log"]), (&outcome["height"], &outcome["log"]));

    let listed = run(&group, home.path(), &["list"]).await;
    assert_eq!(listed.lines().len(), 1, "{listed}");
    assert_eq!(listed.lines()[0]["title"], "A counter");

    let history = run(&group, home.path(), &["history", &machine]).await;
    let rows: Vec<(String, String)> = history
        .lines()
        .iter()
        .map(|row| (row["event"].as_str().unwrap().to_owned(), row["outcome"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [("(definition)", "ok"), ("ADD", "rejected"), ("ADD", "ok")];
    assert_eq!(rows, expected.map(|(event, outcome)| (event.to_owned(), outcome.to_owned())), "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_machine_is_sent_the_head_it_expects() {
    let group = LoneGroup::start(Manner::Honest).await;
    let home = home(&group).await;
    let machine = published(&group, home.path(), &["--mode", "strict"]).await;
    let add = ["send", machine.as_str(), "ADD", "--data", r#"{"by":1}"#];
    assert_eq!(run(&group, home.path(), &add).await.status, 0);
    let stop = run(&group, home.path(), &["send", &machine, "STOP"]).await;
    assert_eq!((stop.status, stop.lines()[0]["state"].as_str()), (0, Some("over")), "{stop}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_transition_is_a_rejection() {
    let group = LoneGroup::start(Manner::Honest).await;
    let home = home(&group).await;
    let machine = published(&group, home.path(), &[]).await;
    let sent = run(
        &group,
        home.path(),
        &["send", &machine, "ADD", "--data", r#"{"by":1}"#, "--transition", NOWHERE],
    )
    .await;
    assert_eq!((sent.status, sent.lines()[0]["reason"].as_str()), (4, Some("stale")), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_outcome_is_no_success() {
    for manner in [Manner::Silent, Manner::Forged] {
        let group = LoneGroup::start(manner).await;
        let home = home(&group).await;
        let ran = run(&group, home.path(), &["publish", "counter.json", "--timeout", "1"]).await;
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{ran}");
        let error = ran.error();
        assert_eq!(error["code"], "no_outcome", "{ran}");
        assert!(error["message"].as_str().unwrap().contains(group.relay.url()), "the relay is named: {ran}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_contradicts_its_head_fails_the_check() {
    let group = LoneGroup::start(Manner::Contradictory).await;
    let home = home(&group).await;
    let machine = published(&group, home.path(), &[]).await;
    let got = run(&group, home.path(), &["get", &machine]).await;
    assert_eq!((got.status, got.stdout.as_str()), (1, ""), "{got}");
    assert_eq!(got.error()["code"], "snapshot_mismatch", "{got}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coalesced_snapshot_leaves_the_state_open() {
    let group = LoneGroup::start(Manner::Coalesced).await;
    let home = home(&group).await;
    let machine = published(&group, home.path(), &[]).await;
    let sent = run(&group, home.path(), &["send", &machine, "ADD", "--data", r#"{"by":1}"#]).await;
    assert_eq!((sent.status, &sent.lines()[0]["state"]), (0, &Value::Null), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_shows_each_newer_state() {
    let group = LoneGroup::start(Manner::Honest).await;
    let home = home(&group).await;
    let machine = published(&group, home.path(), &[]).await;
    let mut command = concordat(home.path());
    command
        .args([
            "watch",
            &machine,
            "--json",
            "--relay",
            group.relay.url(),
            "--group",
            &group.keys.public_key().to_hex(),
        ])
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(tokio::task::block_in_place(&mut next)["state"], "idle");
    assert_eq!(run(&group, home.path(), &["send", &machine, "ADD", "--data", r#"{"by":2}"#]).await.status, 0);
    let state = tokio::task::block_in_place(&mut next);
    assert_eq!((state["state"].as_str(), state["context"]["n"].as_i64()), (Some("busy"), Some(2)));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_isnt_there_is_named() {
    let group = LoneGroup::start(Manner::Honest).await;
    let home = home(&group).await;
    for (arguments, code) in [
        (vec!["get", NOWHERE], "no_snapshot"),
        (vec!["send", NOWHERE, "GO"], "no_machine"),
        (vec!["history", NOWHERE], "no_machine"),
    ] {
        let ran = run(&group, home.path(), &arguments).await;
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{ran}");
        let error = ran.error();
        assert_eq!(error["code"], code, "{ran}");
        assert!(error["message"].as_str().unwrap().contains(NOWHERE), "{ran}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_replays_what_relays_and_files_hold() {
    let group = LoneGroup::start(Manner::Honest).await;
    let home = home(&group).await;
    let machine = published(&group, home.path(), &[]).await;
    for (by, status) in [("1", 0), ("-1", 4)] {
        let data = format!("{{\"by\":{by}}}");
        let ran = run(&group, home.path(), &["send", &machine, "ADD", "--data", &data]).await;
        assert_eq!(ran.status, status, "{ran}");
    }
    let ran = run(&group, home.path(), &["verify"]).await;
    assert_eq!(ran.status, 0, "{ran}");
    let line = &ran.lines()[0];
    let counts = ["heads", "requests", "machines"].map(|field| line[field].as_u64().unwrap());
    assert_eq!((line["ok"].as_bool(), counts), (Some(true), [4, 3, 1]), "{ran}");

    let export = group.export().await;
    let file = home.path().join("events.jsonl");
    std::fs::write(&file, &export).unwrap();
    let from_file = run(&group, home.path(), &["verify", "events.jsonl"]).await;
    assert_eq!(from_file.lines(), ran.lines(), "{from_file}");

    // One request left out; one rejection turned into an acceptance, which breaks the group's signature.
    let without = |needle: &str| -> String {
        export.lines().filter(|line| !line.contains(needle)).map(|line| format!("{line}\n")).collect()
    };
    for (text, code) in [
        (without("\"kind\":7500"), "missing_request"),
        (without("\"kind\":400"), "no_genesis"),
        (export.replace("\"rejected\",\"unknown_event\"", "\"ok\""), "bad_signature"),
    ] {
        assert!(text != export, "{code}: nothing was changed");
        std::fs::write(&file, text).unwrap();
        let ran = run(&group, home.path(), &["verify", "events.jsonl"]).await;
        let line = &ran.lines()[0];
        assert_eq!(
            (ran.status, line["ok"].as_bool(), line["error"].as_str()),
            (1, Some(false), Some(code)),
            "{ran}"
        );
        assert_eq!(ran.error()["code"], code, "{ran}");
    }
}
