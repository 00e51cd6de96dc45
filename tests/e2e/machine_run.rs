//! `machine check` and `machine run`: exactly the lines that CLI.md promises.

use std::fs;

use serde_json::{Value, json};

use crate::support::run;

const MACHINE: &str = r#"{"initial":"idle","context":{"n":0},"states":{
  "idle":{"on":{"ADD":{"target":"busy","guard":{"type":"cel","params":{"expr":"event.data.by > 0 && event.pubkey == 'aa'"}},
    "actions":{"type":"cel.assign","params":{"n":"context.n + event.data.by"}}}}},
  "busy":{"after":{"1500":"over"}},
  "over":{"id":"the-end","type":"final"}}}"#;

fn lines(events: &str, more: &[&str]) -> (i32, Vec<Value>, String) {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("m.json"), MACHINE).unwrap();
    fs::write(home.path().join("e.jsonl"), events).unwrap();
    let arguments = [&["machine", "run", "m.json", "--events", "e.jsonl", "--json"], more].concat();
    let ran = run(home.path(), &arguments);
    (ran.status, ran.lines(), ran.to_string())
}

#[test]
fn a_line_per_step_first_the_start_and_timers_before_the_event() {
    let events = concat!(
        r#"{"type":"ADD","data":{"by":2},"now":1000}"#,
        "\n",
        r#"{"type":"ADD","data":{"by":2},"pubkey":"aa","now":1000.25}"#,
        "\n\n",
        r#"{"type":"STOP","now":1002}"#,
        "\n",
    );
    let (status, rows, ran) = lines(events, &["--now", "999"]);
    assert_eq!(status, 0, "{ran}");
    let shape: Vec<_> = rows
        .iter()
        .map(|row| {
            (row["event"].clone(), row["accepted"].clone(), row["reason"].clone(), row["active"].clone())
        })
        .collect();
    assert_eq!(
        shape,
        [
            (Value::Null, json!(true), Value::Null, json!(["(machine).idle"])),
            (json!("ADD"), json!(false), json!("guard_false"), json!(["(machine).idle"])),
            (json!("ADD"), json!(true), Value::Null, json!(["(machine).busy"])),
            (json!("xstate.after.1500.(machine).busy"), json!(true), Value::Null, json!(["the-end"])),
            (json!("STOP"), json!(false), json!("done"), json!(["the-end"])),
        ],
        "{ran}"
    );
    assert_eq!(rows[3]["snapshot"]["status"], "done");
    assert_eq!(rows[3]["snapshot"]["context"], json!({"n": 2}));
    for row in &rows {
        let mut fields: Vec<&String> = row.as_object().unwrap().keys().collect();
        fields.sort();
        assert_eq!(fields, ["accepted", "active", "event", "reason", "snapshot"]);
    }
}

#[test]
fn a_signer_for_all_lines() {
    let (_, rows, ran) = lines(r#"{"type":"ADD","data":{"by":2}}"#, &["--pubkey", "aa", "--now", "5"]);
    assert_eq!(rows[1]["accepted"], true, "{ran}");
}

#[test]
fn bad_lines_are_named_and_nothing_runs() {
    for (events, place) in [
        ("{\"type\":\"ADD\"}\n{\"type\":}\n", "line 2"),
        ("{\"type\":\"ADD\",\"colour\":1}\n", "line 1"),
        ("{\"data\":1}\n", "line 1"),
    ] {
        let (status, rows, ran) = lines(events, &["--now", "5"]);
        assert_eq!((status, rows.len()), (2, 0), "{ran}");
        assert!(ran.contains("event_line") && ran.contains(place), "{ran}");
    }
    let (status, _, ran) = lines("", &["--now", "yesterday"]);
    assert!(status == 2 && ran.contains("--now"), "{ran}");
}

#[test]
fn check_names_every_fault_with_its_place() {
    let home = tempfile::tempdir().unwrap();
    let bad = r#"{"initial":"a","states":{"a":{"on":{"GO":{"target":"x"},"NO":{"guard":"unheardOf"}}}}}"#;
    fs::write(home.path().join("bad.json"), bad).unwrap();
    fs::write(home.path().join("good.json"), MACHINE).unwrap();
    let ran = run(home.path(), &["machine", "check", "bad.json", "--json"]);
    assert_eq!((ran.status, ran.error()["code"].as_str()), (1, Some("definition")), "{ran}");
    let line = &ran.lines()[0];
    assert_eq!(line["ok"], false);
    let places: Vec<&str> =
        line["errors"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert!(places.iter().any(|p| p.contains("/GO")) && places.iter().any(|p| p.contains("/NO")), "{ran}");
    let good = run(home.path(), &["machine", "check", "good.json", "--json"]);
    assert_eq!((good.status, good.lines()), (0, vec![json!({"ok": true, "errors": []})]), "{good}");
}
