//! Wrong input, command by command: the exit status, the error's shape, nothing on stdout, no secret anywhere.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use nostr::Keys;

use crate::support::{concordat, run};

const ID: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

/// A custodian that isn't there.
const NOBODY: &str = "127.0.0.1:1#00000000000000000000000000000000000000000000000000000000000000aa";

/// `(arguments, exit status, code)`. `GROUP` stands for a group's key.
fn wrong() -> Vec<(Vec<&'static str>, i32, &'static str)> {
    vec![
        (vec![], 2, "usage"),
        (vec!["nonsense"], 2, "usage"),
        (vec!["key"], 2, "usage"),
        (vec!["send", ID], 2, "usage"),
        (vec!["get", "--unknown-flag", ID], 2, "usage"),
        (vec!["machine", "check", "absent.json"], 2, "unreadable_file"),
        (vec!["machine", "check", "."], 2, "unreadable_file"),
        (vec!["machine", "check", "broken.json"], 1, "definition"),
        (vec!["publish", "absent.json"], 2, "unreadable_file"),
        (vec!["publish", "broken.json"], 1, "definition"),
        (vec!["publish", "good.json"], 2, "no_key"),
        (vec!["publish", "good.json", "--mode", "sideways"], 2, "usage"),
        (vec!["publish", "good.json", "--key", "absent.key"], 2, "unreadable_file"),
        (vec!["publish", "good.json", "--key", "bad.key"], 2, "key_file"),
        (vec!["publish", "good.json", "--key", "open.key"], 4, "key_file_open"),
        (vec!["publish", "good.json", "--key", "good.key"], 2, "no_group"),
        (vec!["send", "xyz", "GO"], 2, "machine_id"),
        (vec!["send", ID, ""], 2, "event_type"),
        (vec!["send", ID, "GO", "--data", "{"], 2, "data"),
        (vec!["send", ID, "GO", "--data", "1.5"], 2, "data"),
        (vec!["send", ID, "GO", "--data", "@absent.json"], 2, "unreadable_file"),
        (vec!["send", ID, "GO", "--key", "good.key"], 2, "no_group"),
        (vec!["send", ID, "GO", "--key", "good.key", "--group", "xyz"], 2, "public_key"),
        (vec!["get", "xyz"], 2, "machine_id"),
        (vec!["get", ID], 2, "no_group"),
        (vec!["get", ID, "--group", "GROUP"], 2, "no_relay"),
        (vec!["get", ID, "--group", "GROUP", "--relay", "http://127.0.0.1:1"], 2, "relay_url"),
        (vec!["get", ID, "--group", "GROUP", "--relay", "ws://127.0.0.1:1"], 3, "relays_unreachable"),
        (vec!["get", ID, "--group", "GROUP", "--relay", "ws://127.0.0.1:1", "--timeout", "0"], 2, "timeout"),
        (vec!["watch", ID, "--group", "GROUP", "--relay", "ws://127.0.0.1:1"], 3, "relays_unreachable"),
        (vec!["list", "--group", "GROUP", "--relay", "ws://127.0.0.1:1"], 3, "relays_unreachable"),
        (vec!["history", ID, "--group", "GROUP", "--relay", "ws://127.0.0.1:1"], 3, "relays_unreachable"),
        (vec!["key", "new", "--out", "good.key"], 4, "file_exists"),
        (vec!["get", ID, "--proof", "--group", "GROUP"], 2, "no_custodian"),
        (
            vec!["get", ID, "--proof", "--group", "GROUP", "--custodian", "127.0.0.1:1"],
            2,
            "custodian_address",
        ),
        (vec!["get", ID, "--proof", "--group", "GROUP", "--custodian", NOBODY], 3, "custodian_unreachable"),
        (vec!["status"], 2, "no_custodian"),
        (vec!["serve"], 2, "usage"),
        (vec!["serve", "--config", "absent.toml"], 2, "config"),
        (vec!["dev", "up"], 2, "usage"),
        (vec!["dev", "up", "--dir", "cluster", "--custodians", "1"], 2, "custodians"),
        (vec!["demo", "--custodians", "1"], 2, "custodians"),
        (vec!["demo", "--custodians", "many"], 2, "usage"),
        (vec!["bench", "--clients", "0"], 2, "bench"),
    ]
}

#[test]
fn wrong_input_has_its_status_and_its_code() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode| {
        let path = home.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let secret = Keys::generate().secret_key().to_secret_hex();
    file("broken.json", r#"{"id":"m","initial":"nowhere","states":{"a":{}}}"#, 0o644);
    file(
        "good.json",
        r#"{"id":"m","initial":"a","states":{"a":{"on":{"GO":{"target":"b"}}},"b":{"type":"final"}}}"#,
        0o644,
    );
    file("good.key", &secret, 0o600);
    file("open.key", &secret, 0o644);
    file("bad.key", &format!("{secret}00"), 0o600);
    let group = Keys::generate().public_key().to_hex();
    for (arguments, status, code) in wrong() {
        let arguments: Vec<&str> = arguments
            .iter()
            .map(|argument| if *argument == "GROUP" { group.as_str() } else { argument })
            .collect();
        let plain = run(home.path(), &arguments);
        assert_eq!(plain.status, status, "{arguments:?}: {plain}");
        let mut with_json = arguments.clone();
        with_json.push("--json");
        let json = run(home.path(), &with_json);
        assert_eq!(json.status, status, "{arguments:?}: {json}");
        assert_eq!(json.error()["code"], code, "{arguments:?}: {json}");
        for ran in [&plain, &json] {
            // `machine check` says what it found on stdout: that is its data.
            let data = arguments.starts_with(&["machine", "check"]) && status == 1;
            assert_eq!(ran.stdout.is_empty(), !data, "{arguments:?}: {ran}");
            assert!(!ran.stderr.contains(&secret) && !ran.stderr.contains('\u{1b}'), "{arguments:?}: {ran}");
        }
    }
}

#[test]
fn help_and_version_are_data() {
    let home = tempfile::tempdir().unwrap();
    for argument in ["--help", "--version"] {
        let ran = run(home.path(), &[argument]);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran}");
        assert!(ran.stdout.contains("concordat"), "{ran}");
    }
}

#[test]
fn a_new_key_is_private_and_is_read_back() {
    let home = tempfile::tempdir().unwrap();
    let made = run(home.path(), &["key", "new", "--json"]);
    assert_eq!(made.status, 0, "{made}");
    let line = &made.lines()[0];
    let path = line["file"].as_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let keys = Keys::parse(text.trim()).unwrap();
    assert_eq!(line["pubkey"], keys.public_key().to_hex());
    assert!(!made.stdout.contains(text.trim()) && !made.stderr.contains(text.trim()), "{made}");
    // The same file is never overwritten.
    let again = run(home.path(), &["key", "new", "--json"]);
    assert_eq!((again.status, again.error()["code"].as_str()), (4, Some("file_exists")), "{again}");
    assert_eq!(fs::read_to_string(path).unwrap(), text);
}

#[test]
fn a_key_comes_from_stdin_too() {
    let home = tempfile::tempdir().unwrap();
    let mut child = concordat(home.path())
        .args(["send", ID, "GO", "--key", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(Keys::generate().secret_key().to_secret_hex().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("no_group"), "the key was taken, the group is what is missing: {stderr}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let mut command = concordat(home.path());
    command.args(["--help"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), [].as_slice()));
}
