//! One cluster of four, and what it lives through: users at both doors, rubbish at both doors, each custodian killed in turn,
//! half of them dead, a liar among them, wrong starts; at the end its whole history is verified.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use concordat_events::{Hash, ValidEvent};
use nostr::JsonUtil;
use serde_json::{Value, json};

use crate::liar;
use crate::raw_client;
use crate::support::{Ran, run};
use crate::town::{TURN, Town, WAIT, event};

/// The id of nothing.
const NOWHERE: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_lives_through() {
    let _turn = TURN.lock().await;
    let mut town = Town::found(4).await;
    both_doors(&town).await;
    crate::secrets::stay_where_they_are_used(&town).await;
    rubbish(&town).await;
    liar::is_named(&town).await;
    renewed_certificate(&town).await;
    each_killed(&mut town).await;
    half_dead(&mut town).await;
    second_process(&town).await;
    let verified = town.run(&["verify"]).await;
    assert_eq!(verified.status, 0, "{verified}");
    let Town { home, layout, cluster, .. } = town;
    cluster.stop().await.unwrap();
    let first = layout.dirs().swap_remove(0);
    tokio::task::spawn_blocking(move || wrong_starts(home.path(), &first)).await.unwrap();
}

/// `send`, `get --proof` and `status` with custodians to ask.
async fn both_doors(town: &Town) {
    let custodians = town.custodians();
    let sent = town.run_with(&["send", &town.machine, "ADD", "--data", r#"{"by":5}"#], &custodians).await;
    assert_eq!(sent.status, 0, "{sent}");
    let proven = town.run_with(&["get", &town.machine, "--proof"], &custodians).await;
    assert_eq!(proven.status, 0, "{proven}");
    let line = &proven.lines()[0];
    assert_eq!((line["proven"].as_bool(), line["context"]["n"].as_i64()), (Some(true), Some(5)), "{proven}");
    assert!(line["height"].as_u64() >= sent.lines()[0]["height"].as_u64(), "{proven}");

    let absent = town.run_with(&["get", NOWHERE, "--proof"], &custodians).await;
    assert_eq!((absent.status, absent.error()["code"].as_str()), (4, Some("no_such_machine")), "{absent}");
    // Another group's key doesn't fit what these custodians show.
    let other = nostr::Keys::generate().public_key().to_hex();
    let foreign = town.run_with(&["get", &town.machine, "--proof", "--group", &other], &custodians).await;
    assert_eq!((foreign.status, foreign.stdout.as_str()), (1, ""), "{foreign}");
    assert_eq!(foreign.error()["code"], "bad_proof", "{foreign}");
    // Nor does another pin.
    let stranger = format!("{}#{NOWHERE}", town.cluster.clients()[0].address);
    let pinned = town.run_with(&["status"], &stranger).await;
    assert_eq!(
        (pinned.status, pinned.error()["code"].as_str()),
        (3, Some("custodian_unreachable")),
        "{pinned}"
    );

    // Nobody holds anything against anybody, and what only claims to be evidence names nobody.
    let held = town.run_with(&["evidence", "export"], &custodians).await;
    assert_eq!((held.status, held.stdout.as_str()), (0, ""), "{held}");
    let claimed = town.home.path().join("claimed");
    let line =
        json!({"custodian": 3, "fault": "two log entries", "epoch": 1, "place": 2, "signed": "0a020801"});
    std::fs::write(&claimed, format!("{line}\nrubbish\n")).unwrap();
    let checked = town.run(&["evidence", "check", claimed.to_str().unwrap()]).await;
    assert_eq!((checked.status, checked.error()["code"].as_str()), (1, Some("no_proof")), "{checked}");
    assert!(
        checked.lines().iter().all(|line| line["ok"] == false) && checked.lines().len() == 2,
        "{checked}"
    );

    let status = town.run_with(&["status"], &custodians).await;
    assert_eq!(status.status, 0, "{status}");
    let mut numbers: Vec<u64> = status.lines().iter().map(|line| line["number"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4], "{status}");
    assert!(status.lines().iter().all(|line| line["group"] == town.group.key.to_hex()), "{status}");
}

/// What can't be a request is refused where it comes in; what can be one and is wrong is rejected, signed.
async fn rubbish(town: &Town) {
    let state = format!("30078:{}:x", town.group.key.to_hex());
    let definition = |d: &str, content: &str| {
        let state = format!("{state}{d}");
        event(7500, &[&["state", &state], &["mode", "sequenced"]], content)
    };
    let nested = format!("{}1{}", "[".repeat(60), "]".repeat(60));
    let expression = "[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, a + b + c + d > 0))))";
    let guard = json!({"type": "cel", "params": {"expr": expression}});
    let looping = json!({"id": "l", "initial": "a", "states": {"a": {"on": {"GO": {"target": "b", "guard": guard}}}, "b": {}}});
    let circle = json!({"id": "c", "initial": "a", "states": {"a": {"always": "b"}, "b": {"always": "a"}}});
    let cases = [
        (event(7501, &[&["e", &town.machine], &["t", "FLY"]], ""), "unknown_event"),
        (
            definition(
                "1",
                &format!(r#"{{"id":"n","context":{{"x":{nested}}},"initial":"a","states":{{"a":{{}}}}}}"#),
            ),
            "bad_definition",
        ),
        (definition("2", &looping.to_string()), "bad_definition"),
        (definition("3", &circle.to_string()), "step_limit"),
    ];
    let raw = raw_client::connect(&town.cluster.clients()[1]).await;
    for (at, (event, reason)) in cases.into_iter().enumerate() {
        let request = ValidEvent::check(event).unwrap();
        // By turns through the two doors.
        let got = if at % 2 == 0 {
            town.settle(&request, request.id()).await.reason
        } else {
            raw_client::send(&raw, request.json().to_owned()).await.unwrap()
        };
        assert_eq!(got.as_deref(), Some(reason), "{}", request.json());
    }

    // An input for a machine that isn't this group's is nobody's business here on a relay; asked directly, it is answered.
    let elsewhere = event(7501, &[&["e", NOWHERE], &["t", "GO"]], "");
    town.group.relays.publish(&elsewhere).await.unwrap();
    let answer = raw_client::send(&raw, elsewhere.as_json()).await;
    assert!(answer.unwrap_err().contains("unknown_machine"));

    // These are no events at all, or not ones that anybody signed.
    let good = event(7501, &[&["e", &town.machine], &["t", "ADD"]], r#"{"by":1}"#);
    let mut forged: Value = serde_json::from_str(&good.as_json()).unwrap();
    forged["content"] = r#"{"by":9}"#.into();
    let mut unsigned = forged.clone();
    unsigned["content"] = good.content.clone().into();
    unsigned["sig"] = "0".repeat(128).into();
    let huge = event(7501, &[&["e", &town.machine], &["t", "ADD"]], &format!("\"{}\"", "x".repeat(70_000)));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let texts = [
        "".to_owned(),
        "{".to_owned(),
        "null".to_owned(),
        deep,
        forged.to_string(),
        unsigned.to_string(),
        huge.as_json(),
    ];
    for text in texts {
        let refused = raw_client::send(&raw, text.clone()).await.unwrap_err();
        assert!(!refused.is_empty(), "{}", &text[..text.len().min(200)]);
    }
    // The relay takes the large one, whose signature is good: the custodians don't.
    let _ = town.group.relays.publish(&huge).await;
    let forged = nostr::Event::from_json(unsigned.to_string()).unwrap();
    let failure = town.group.relays.publish(&forged).await.unwrap_err();
    assert_eq!(failure.code, "not_published", "{failure}");
    town.goes_on().await;
}

/// A custodian's TLS certificate becomes another one while it runs, by its own operator's command alone. What follows needs its
/// connections to all others, made anew.
async fn renewed_certificate(town: &Town) {
    let config = town.layout.dirs()[3].join("custodian.toml");
    let made = town.run(&["key", "certificate", "--config", config.to_str().unwrap()]).await;
    assert_eq!(made.status, 0, "{made}");
    let pin = made.lines()[0]["pin"].clone();
    let before = town.cluster.clients()[3].clone();
    let after = format!("{}#{}", before.address, pin.as_str().unwrap());
    let shown = async {
        loop {
            let asked = town.run_with(&["status"], &after).await;
            if asked.status == 0 {
                return asked;
            }
        }
    };
    let shown = tokio::time::timeout(WAIT, shown).await.unwrap_or_else(|_| panic!("{after} isn't served"));
    let said = &shown.lines()[0]["details"]["certificate"];
    assert_eq!((&said["pin"], said["state"].as_str()), (&pin, Some("valid")), "{shown}");
    let earlier = town.run_with(&["status"], &before.to_string()).await;
    assert_eq!(
        (earlier.status, earlier.error()["code"].as_str()),
        (3, Some("custodian_unreachable")),
        "{earlier}"
    );
}

/// Whoever is dead, the other three go on; who comes back catches up.
async fn each_killed(town: &mut Town) {
    for number in 1..=4 {
        town.cluster.kill(number).await.unwrap();
        let height = town.goes_on().await;
        town.cluster.restart(number).unwrap();
        town.cluster.ready(number, height, WAIT).await.unwrap();
    }
}

/// Two of four certify nothing, and say so; with a third, everything that waited is settled.
async fn half_dead(town: &mut Town) {
    town.cluster.kill(1).await.unwrap();
    town.cluster.kill(2).await.unwrap();
    for (_, mut heard) in town.cluster.follow() {
        let stands = heard.wait_for(|heard| heard.certifying == Some(false));
        tokio::time::timeout(WAIT, stands).await.unwrap().unwrap();
    }
    let waiting =
        town.run(&["send", &town.machine, "ADD", "--data", r#"{"by":100}"#, "--timeout", "2"]).await;
    assert_eq!((waiting.status, waiting.stdout.as_str()), (3, ""), "{waiting}");
    assert_eq!(waiting.error()["code"], "no_outcome", "{waiting}");
    town.cluster.restart(1).unwrap();
    let height = town.goes_on().await;
    for (number, mut heard) in town.cluster.follow() {
        let back = heard.wait_for(|heard| heard.certifying == Some(true) && heard.height >= Some(height));
        tokio::time::timeout(WAIT, back).await.unwrap_or_else(|_| panic!("custodian {number}")).unwrap();
    }
    town.cluster.restart(2).unwrap();
    town.cluster.ready(2, height, WAIT).await.unwrap();
    // Nothing is lost: the request that nobody could certify then is certified now.
    let history = town.run(&["history", &town.machine]).await;
    let added = |row: &&Value| row["event"] == "ADD";
    assert!(history.lines().iter().filter(added).all(|row| row["outcome"] == "ok"), "{history}");
}

fn serve(home: &Path, dir: &Path) -> Ran {
    run(home, &["serve", "--json", "--config", dir.join("custodian.toml").to_str().unwrap()])
}

fn refused(ran: &Ran, code: &str, part: &str) {
    assert_eq!(ran.status, if code == "config" { 2 } else { 3 }, "{ran}");
    let error = ran.error();
    assert_eq!(error["code"], code, "{ran}");
    assert!(error["message"].as_str().unwrap().contains(part), "{part}: {ran}");
    assert!(!error["hint"].as_str().unwrap().is_empty(), "{ran}");
}

async fn second_process(town: &Town) {
    let (home, dir) = (town.home.path().to_owned(), town.layout.dirs().swap_remove(0));
    let shown = dir.display().to_string();
    let second = tokio::task::spawn_blocking(move || serve(&home, &dir)).await.unwrap();
    refused(&second, "directory_in_use", &shown);
    town.goes_on().await;
}

/// Starts that must fail, each with a reason that names what is wrong.
fn wrong_starts(home: &Path, dir: &Path) {
    let file = |name: &str| dir.join(name);
    let put = |name: &str, text: &str| {
        std::fs::write(file(name), text).unwrap();
        std::fs::set_permissions(file(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let kept = |name: &str| std::fs::read_to_string(file(name)).unwrap();

    let passphrase = kept("passphrase");
    put("passphrase", &"0".repeat(64));
    let wrong = serve(home, dir);
    refused(&wrong, "directory", "keys.age");
    assert!(!wrong.stderr.contains(&passphrase), "a secret in an error");
    put("passphrase", &passphrase);

    let cluster = kept("cluster");
    put("cluster", &format!("{}\n", Hash::ZERO));
    refused(&serve(home, dir), "directory", &Hash::ZERO.to_hex());
    put("cluster", &cluster);

    let config: concordat_node::config::Config =
        concordat_node::config::Config::read(&file("custodian.toml")).unwrap();
    let taken = std::net::TcpListener::bind(config.listen).unwrap();
    refused(&serve(home, dir), "listen", &config.listen.to_string());
    drop(taken);

    let text = kept("custodian.toml");
    put("custodian.toml", &format!("colour = \"red\"\n{text}"));
    refused(&serve(home, dir), "config", "colour");
    put("custodian.toml", &text);
}
