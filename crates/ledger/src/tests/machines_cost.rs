//! A thousand steps among a thousand machines and more: the root that changes made together give is that of a tree made anew, whose
//! hash another function computes. What a step costs there, engine and state tree apart, is printed beside it:
//! `CONCORDAT_MACHINES=1000000 cargo test --release -p concordat-ledger --lib -- --nocapture machines_of_a_step`.
//!
//! Figures decide nothing: no test depends on how fast a computer is. The machines lie in a store as the
//! ledger keeps them, as leaves of the tree; those that take a step are spread over all of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use concordat_events::Hash;
use concordat_events::hash::tagged;
use concordat_machine::{Definition, Event};
use concordat_store::Store;
use concordat_store::memory::MemoryStore;
use serde_json::json;

use crate::keys;
use crate::layer::{Certified, Overlay, Read};
use crate::record::{self, Record};
use crate::tree;

const START_MS: u64 = 1_799_990_000_000;
/// Steps measured in each state.
const STEPS: usize = 1_000;
/// Machines written at a time.
const CHUNK: usize = 10_000;

fn id(n: usize) -> Hash {
    tagged("machine", &[&n.to_be_bytes()])
}

fn median(mut all: Vec<u128>) -> u128 {
    all.sort_unstable();
    all[all.len() / 2]
}

/// How many machines at most: what the environment says, and a thousand on every run of the tests.
fn most() -> usize {
    std::env::var("CONCORDAT_MACHINES").map_or(1_000, |text| text.parse().unwrap())
}

/// The root of a tree with these leaves, made anew.
fn anew(leaves: &BTreeMap<Hash, Hash>) -> Hash {
    let leaves: Vec<(Hash, Hash)> = leaves.iter().map(|(place, value)| (*place, *value)).collect();
    tree::subtree_hash(&leaves, 0)
}

#[test]
fn machines_of_a_step() {
    let bet = Definition::parse(include_str!("../../../../docs/machines/bet.json")).unwrap();
    let event = Event::new("LOAD")
        .with_data(json!({"deposit": "a reference to a deposit"}))
        .by(format!("{:0>64}", 1));
    let idle = Record::new(START_MS, bet.start(START_MS, None).unwrap().state);
    let bytes = idle.canonical_bytes();
    let store = Arc::new(MemoryStore::default());
    let mut certified = Certified::open(store.clone()).unwrap();
    let (mut there, mut height) = (0, 0);
    let mut known = BTreeMap::new();
    for machines in [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|machines| *machines <= most()) {
        while there < machines {
            let upto = machines.min(there + CHUNK);
            let mut over = Overlay::new(&certified);
            let leaves: Vec<Vec<u8>> = (there..upto).map(|n| keys::machine_key(&id(n))).collect();
            let change = |key: &Vec<u8>| (tree::place(key), Some(tree::value_hash(&bytes)));
            tree::update(&mut over, leaves.iter().map(change).collect()).unwrap();
            known.extend(leaves.iter().map(|key| (tree::place(key), tree::value_hash(&bytes))));
            leaves.iter().for_each(|key| over.put(keys::leaf(key), bytes.clone()));
            let writes = over.writes;
            store.apply(certified.install(height, writes)).unwrap();
            certified.forget(height);
            (there, height) = (upto, height + 1);
        }
        assert_eq!(tree::root(&certified).unwrap(), anew(&known));
        let (mut read, mut engine, mut written, mut generally) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut over = Overlay::new(&certified);
        let mut changes = Vec::new();
        for n in (0..STEPS).map(|n| n * 7_919 % machines) {
            let key = keys::machine_key(&id(n));
            let begun = Instant::now();
            let mut record: Record = record::leaf(&over, &key).unwrap().unwrap();
            read.push(begun.elapsed().as_nanos());
            let begun = Instant::now();
            let step = bet.send(&record.state, &event, START_MS + 1).unwrap();
            engine.push(begun.elapsed().as_nanos());
            let begun = Instant::now();
            record.state = step.state;
            let value = record.canonical_bytes();
            changes.push((tree::place(&key), Some(tree::value_hash(&value))));
            over.put(keys::leaf(&key), value);
            written.push(begun.elapsed().as_nanos());
            let value = over.get(&keys::leaf(&key)).unwrap().unwrap();
            assert_ne!(value, bytes, "the machine has taken its step");
            let begun = Instant::now();
            let general = record::encode(&key, &record).unwrap();
            generally.push(begun.elapsed().as_nanos());
            assert_eq!(value, general);
        }
        changes.sort_unstable_by_key(|(place, _)| *place);
        changes.dedup_by_key(|(place, _)| *place);
        let count = changes.len() as u128;
        let one = changes.first().cloned().unwrap();
        let mut after = known.clone();
        after.extend(changes.iter().filter_map(|(place, value)| Some((*place, (*value)?))));
        let begun = Instant::now();
        let root = tree::update(&mut over, changes).unwrap();
        let together = begun.elapsed().as_nanos() / count;
        assert_eq!(root, anew(&after));
        assert_ne!(root, anew(&known));
        let mut alone = Vec::new();
        for n in 0..200 {
            let key = keys::machine_key(&id(n * 104_729 % machines));
            let mut over = Overlay::new(&certified);
            let begun = Instant::now();
            tree::update(&mut over, vec![(tree::place(&key), one.1)]).unwrap();
            alone.push(begun.elapsed().as_nanos());
        }
        let line = json!({
            "machines": machines,
            "engine_ns": median(engine),
            "read_ns": median(read),
            "write_ns": median(written),
            "write_ns_by_a_general_writer": median(generally),
            "tree_ns_of_one_step": median(alone),
            "tree_ns_of_each_of_1000": together,
            "leaf_bytes": bytes.len(),
        });
        println!("{line}");
    }
}
