//! Somebody moves to another key, as people of the key registry do: events of the draft, published as they are, decided once by the
//! log, looked up from custodians with proofs, and again from a file by whoever has the group's key.

use std::time::Instant;

use concordat_cli::user::outcome::settle;
use concordat_events::{Hash, ValidEvent};
use nostr::nips::nip19::ToBech32;
use nostr::{EventBuilder, Keys, Kind, Tag};
use serde_json::{Value, json};

use crate::services::{Person, machine_of, publish, stated};
use crate::town::{Town, WAIT};

/// Publishes an event that knows nothing of the registry; it, what became of it, and at which height.
async fn told(
    town: &Town,
    machine: &str,
    keys: &Keys,
    kind: u16,
    tags: &[[&str; 2]],
) -> (ValidEvent, String, u64) {
    let tags = tags.iter().map(|tag| Tag::parse(*tag).unwrap());
    let event = EventBuilder::new(Kind::from_u16(kind), "").tags(tags).sign_with_keys(keys).unwrap();
    let event = ValidEvent::check(event).unwrap();
    let settled = settle(&town.group, 400, &event, Hash::from_hex(machine).unwrap(), |_| {}).await.unwrap();
    (event, settled.reason.unwrap_or_else(|| "ok".to_owned()), settled.height)
}

/// What custodians say and prove of a key once they have this height.
async fn looked_up(town: &Town, keys: &Keys, height: u64, more: &[&str]) -> Value {
    let (npub, began) = (keys.public_key().to_bech32().unwrap(), Instant::now());
    loop {
        let arguments = [&["registry", "lookup", &npub], more].concat();
        let ran = town.run_with(&arguments, &town.custodians()).await;
        assert_eq!(ran.status, 0, "{ran}");
        let answer = ran.lines().remove(0);
        if answer["height"].as_u64().unwrap() >= height {
            return answer;
        }
        assert!(began.elapsed() < WAIT, "no custodian gets to height {height}: {ran}");
    }
}

/// A key is stolen, and its owner moves away from it first.
pub async fn rotation(town: &Town) {
    let input = json!({"delay_s": 0, "contest_s": 0, "age_s": 0});
    let filter = json!({"kinds": [260, 261, 360, 361, 1776, 1777]}).to_string();
    let machine =
        machine_of(&publish(town, "registry.json", "registry", &input, &["--source", &filter]).await);
    let [ada, key, new, thief] = [(); 4].map(|()| Keys::generate());
    let hex = |keys: &Keys| keys.public_key().to_hex();
    let (precommit, outcome, height) = told(town, &machine, &ada, 360, &[["p", &hex(&key)]]).await;
    assert_eq!(outcome, "ok");
    let known = looked_up(town, &ada, height, &[]).await;
    assert_eq!((&known["known"], &known["current"]), (&json!(true), &json!(hex(&ada))));
    let id = precommit.id().to_hex();
    let (_, stolen, _) = told(town, &machine, &ada, 361, &[["p", &hex(&thief)], ["e", &id]]).await;
    assert_eq!(stolen, "machine.not_precommitted");
    let (migration, outcome, height) =
        told(town, &machine, &key, 361, &[["p", &hex(&new)], ["e", &id]]).await;
    assert_eq!(outcome, "ok");
    let (_, late, _) = told(town, &machine, &key, 361, &[["p", &hex(&thief)], ["e", &id]]).await;
    assert_eq!(late, "machine.migrated");
    // Somebody shows the event with its signature, and the verdict has it.
    let friend = Person::new(town, "friend").await;
    let event: Value = serde_json::from_str(migration.json()).unwrap();
    assert_eq!(friend.says(town, &machine, "ADMIT", json!({"event": event})).await, "ok");
    let began = Instant::now();
    let verdict = loop {
        let verdicts = stated(town, &machine).await;
        if let Some(signed) = verdicts.iter().find(|verdict| !verdict["content"]["event"]["sig"].is_null()) {
            break signed["content"].clone();
        }
        assert!(began.elapsed() < WAIT, "no verdict with a signature: {verdicts:?}");
    };
    assert_eq!((&verdict["event"]["sig"], &verdict["height"]), (&event["sig"], &json!(height)));
    assert_eq!((&verdict["identity"], &verdict["successor"]), (&json!(hex(&ada)), &json!(hex(&new))));
    // Anybody who has the file and the group's key comes to the same, without asking anybody.
    let moved = looked_up(town, &ada, height, &["--out", "proof.json"]).await;
    assert_eq!((&moved["current"], &moved["chain"][0]["event"]), (&json!(hex(&new)), &json!(migration.id())));
    let offline = ["registry", "lookup", &hex(&ada), "--from", "proof.json"];
    let again = town.run(&offline).await;
    assert_eq!(again.lines(), [moved], "{again}");
    // Of another key it says nothing, and a bent one is no proof.
    let other = town.run(&["registry", "lookup", &hex(&thief), "--from", "proof.json"]).await;
    assert_eq!((other.status, other.error()["code"].as_str()), (1, Some("bad_proof")), "{other}");
    let path = town.home.path().join("proof.json");
    let bent = std::fs::read_to_string(&path).unwrap().replace(&hex(&new), &hex(&thief));
    std::fs::write(&path, bent).unwrap();
    let bent = town.run(&offline).await;
    assert_eq!((bent.status, bent.error()["code"].as_str()), (1, Some("bad_proof")), "{bent}");
    // Who was never here is proven to be unknown.
    let unknown = looked_up(town, &thief, height, &[]).await;
    assert_eq!((&unknown["known"], &unknown["current"]), (&json!(false), &json!(hex(&thief))));
}
