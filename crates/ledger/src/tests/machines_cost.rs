//! What a step costs among many machines, engine and state tree apart:
//! `cargo test --release -p concordat-ledger --lib -- --ignored --nocapture machines`.
//!
//! Prints figures and compares nothing: no other test depends on how fast a computer is. The machines lie in a store as the
//! ledger keeps them, as leaves of the tree; those that take a step are spread over all of it.

use std::sync::Arc;
use std::time::Instant;

use concordat_events::Hash;
use concordat_events::hash::tagged;
use concordat_machine::{Definition, Event};
use concordat_store::Store;
use concordat_store::memory::MemoryStore;
use serde_json::json;

use crate::keys;
use crate::layer::{Certified, Overlay};
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

#[test]
#[ignore = "prints figures, in minutes"]
fn machines_of_a_step() {
    let bet = Definition::parse(include_str!("../../../../docs/machines/bet.json")).unwrap();
    let event = Event::new("LOAD")
        .with_data(json!({"deposit": "a reference to a deposit"}))
        .by(format!("{:0>64}", 1));
    let idle = Record::new(START_MS, bet.start(START_MS, None).unwrap().state);
    let bytes = record::encode(b"machine", &idle).unwrap();
    let store = Arc::new(MemoryStore::default());
    let mut certified = Certified::open(store.clone()).unwrap();
    let (mut there, mut height) = (0, 0);
    for machines in [1_000, 10_000, 100_000, 1_000_000] {
        while there < machines {
            let upto = machines.min(there + CHUNK);
            let mut over = Overlay::new(&certified);
            let leaves: Vec<Vec<u8>> = (there..upto).map(|n| keys::machine_key(&id(n))).collect();
            let change = |key: &Vec<u8>| (tree::place(key), Some(tree::value_hash(&bytes)));
            tree::update(&mut over, leaves.iter().map(change).collect()).unwrap();
            leaves.iter().for_each(|key| over.put(keys::leaf(key), bytes.clone()));
            let writes = over.writes;
            store.apply(certified.install(height, writes)).unwrap();
            certified.forget(height);
            (there, height) = (upto, height + 1);
        }
        let (mut read, mut engine, mut written) = (Vec::new(), Vec::new(), Vec::new());
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
            let value = record::encode(&key, &record).unwrap();
            changes.push((tree::place(&key), Some(tree::value_hash(&value))));
            over.put(keys::leaf(&key), value);
            written.push(begun.elapsed().as_nanos());
        }
        changes.sort_unstable_by_key(|(place, _)| *place);
        changes.dedup_by_key(|(place, _)| *place);
        let count = changes.len() as u128;
        let one = changes.first().cloned().unwrap();
        let begun = Instant::now();
        tree::update(&mut over, changes).unwrap();
        let together = begun.elapsed().as_nanos() / count;
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
            "tree_ns_of_one_step": median(alone),
            "tree_ns_of_each_of_1000": together,
            "leaf_bytes": bytes.len(),
        });
        println!("{line}");
    }
}
