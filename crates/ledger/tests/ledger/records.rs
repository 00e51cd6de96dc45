//! Records: leaves of the state, with their count and root in the snapshot.

use concordat_ledger::record_key;
use concordat_machine::records_root;
use nostr::Keys;
use serde_json::{Value, json};

use super::world::*;

/// One vote per key; `TAKE` takes it back, `CLOSE` needs two.
fn poll() -> Value {
    let mine = json!({"cel": "event.pubkey"});
    json!({
        "id": "poll", "initial": "open", "records": {"votes": {}},
        "states": {
            "open": {"on": {
                "VOTE": {
                    "guard": {"type": "cel", "params": {"expr": "!records.votes.has(event.pubkey)"}},
                    "actions": {"type": "records.put", "params": {"record": "votes", "key": mine, "value": {"n": {"cel": "event.data.n"}}}}
                },
                "TAKE": {"actions": {"type": "records.remove", "params": {"record": "votes", "key": mine}}},
                "CLOSE": {"target": "closed", "guard": {"type": "cel", "params": {"expr": "records.votes.count() >= 2"}}}
            }},
            "closed": {"type": "final"}
        }
    })
}

#[test]
fn records_are_leaves_and_the_snapshot_carries_count_and_root() {
    let mut world = World::new();
    let (ada, bob) = (Keys::generate(), Keys::generate());
    let machine = world.definition(&ada, "m", &poll());
    let votes = |world: &World| {
        world.ledger.machine(&machine.id()).unwrap().unwrap().snapshot()["records"]["votes"].clone()
    };
    world.head(0, &[&machine]);
    assert_eq!(votes(&world), json!({"count": 0, "root": "00"}));
    let vote = |keys: &Keys, n| input(keys, &machine, "VOTE", n);
    // Within one head the second vote of a key meets the first.
    let (outcomes, _) =
        world.head(1_000, &[&vote(&ada, 1), &vote(&ada, 2), &input(&ada, &machine, "CLOSE", 3)]);
    assert_eq!(outcomes, ["ok", "guard_false", "guard_false"]);
    let (a, b) = (ada.public_key().to_hex(), bob.public_key().to_hex());
    assert_eq!(world.ledger.kept(&machine.id(), "votes", &a).unwrap(), Some(json!({"n": 1})));
    assert_eq!(world.ledger.kept(&machine.id(), "votes", &b).unwrap(), None);
    // Later heads read it from the store.
    assert_eq!(world.one(2_000, &vote(&ada, 4)), "guard_false");
    assert_eq!(world.one(3_000, &vote(&bob, 5)), "ok");
    let pairs = [(a.clone(), json!({"n": 1})), (b.clone(), json!({"n": 5}))];
    let expected = records_root("votes", pairs.iter().map(|(k, v)| (k, v)));
    assert_eq!(votes(&world), json!({"count": 2, "root": expected}));
    // Presence and absence are proved by the tree.
    for (key, there) in [(&a, true), (&"nobody".to_owned(), false)] {
        let leaf = record_key(&machine.id(), "votes", key);
        let proof = world.ledger.prove_key(&leaf).unwrap();
        let root = world.ledger.tip().unwrap().head.state_root;
        let value = proof.check(&root, &leaf).unwrap();
        assert_eq!(value.is_some(), there);
    }
    assert_eq!(world.one(4_000, &input(&ada, &machine, "TAKE", 6)), "ok");
    assert_eq!(world.ledger.kept(&machine.id(), "votes", &a).unwrap(), None);
    assert_eq!(world.one(5_000, &input(&ada, &machine, "CLOSE", 7)), "guard_false");
    assert_eq!(votes(&world)["count"], 1);
}
