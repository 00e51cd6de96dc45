//! A state moved leaf by leaf goes on like the one it came from.

use std::sync::Arc;

use concordat_events::Mode;
use concordat_ledger::{Ledger, RestoreError};
use concordat_store::memory::MemoryStore;
use concordat_store::{Entry, Store};
use nostr::Keys;
use serde_json::json;

use super::world::*;

fn leaves(world: &World) -> Vec<Entry> {
    let mut leaves: Vec<Entry> = Vec::new();
    loop {
        let page = world.ledger.leaves(leaves.last().map(|(key, _)| key.as_slice()), 7).unwrap();
        if page.is_empty() {
            return leaves;
        }
        leaves.extend(page);
    }
}

/// A state with everything in it that an index or a due time is derived from.
fn busy() -> (World, Vec<concordat_events::ValidEvent>) {
    let mut world = World::new();
    let user = Keys::generate();
    let slow = json!({"id": "t", "initial": "a", "states": {"a": {"after": {"5000": "b"}}, "b": {}}});
    let timer = world.definition(&user, "timer", &slow);
    let speaker = world.definition(&user, "speaker", &speaker(39000, json!([["d", "x"]])));
    let source = ["source", r#"{"kinds":[1]}"#];
    let listener = world.definition_with(&user, "l", &counter(), Mode::Sequenced, &[source]);
    world.head(0, &[&timer, &speaker, &listener]);
    world.head(1_000, &[&input(&user, &speaker, "SAY", 1)]);
    world.head(1_200, &[&input(&user, &speaker, "SAY", 2)]);
    let next = vec![event(&user, 1, vec![], "x", START), input(&user, &speaker, "SAY", 3)];
    (world, next)
}

#[test]
fn a_restored_ledger_goes_on_alike() {
    let (mut world, next) = busy();
    let (genesis, head) = (world.ledger.genesis().clone(), world.ledger.tip().unwrap().head.clone());
    let store = Arc::new(MemoryStore::default());
    let mut moved = leaves(&world);
    moved.reverse();
    let batch = Ledger::restore(store.clone(), &genesis, &head, moved).unwrap();
    store.apply(batch).unwrap();
    let mut restored = Ledger::open(store.clone(), genesis).unwrap();
    assert_eq!(restored.tip(), world.ledger.tip());
    assert_eq!(restored.next_due_ms(), Some(START + 2_000));
    assert_eq!(restored.next_due_ms(), world.ledger.next_due_ms());
    for (ms, requests) in [(2_000, vec![]), (3_000, next.iter().collect()), (5_000, vec![]), (6_000, vec![])]
    {
        let batches = [super::world::batch(ms, &requests)];
        let draft = restored.execute(&batches).unwrap();
        let (outcomes, signed) = world.head(ms, &requests);
        assert!(outcomes.iter().all(|word| word == "ok"), "{outcomes:?}");
        assert_eq!(draft.id, signed[0].id());
        assert_eq!(draft.messages.len(), signed.len());
        assert_eq!(draft.next_due_ms(), world.ledger.next_due_ms());
        store.apply(restored.install(draft).unwrap()).unwrap();
    }
}

#[test]
fn other_leaves_are_refused() {
    let (world, _) = busy();
    let (genesis, head) = (world.ledger.genesis().clone(), world.ledger.tip().unwrap().head.clone());
    let restore =
        |leaves: Vec<Entry>| Ledger::restore(Arc::new(MemoryStore::default()), &genesis, &head, leaves);
    let all = leaves(&world);
    for n in 0..all.len() {
        let (mut missing, mut changed) = (all.clone(), all.clone());
        missing.remove(n);
        changed[n].1.push(b' ');
        for bad in [missing, changed] {
            assert!(matches!(restore(bad), Err(RestoreError::Root { .. })));
        }
    }
    let mut more = all.clone();
    more.push((b"machine/x".to_vec(), b"{}".to_vec()));
    assert!(matches!(restore(more), Err(RestoreError::Root { .. })));
    let mut large = all.clone();
    large.push((b"x".to_vec(), vec![0; 1 << 20]));
    assert!(matches!(restore(large), Err(RestoreError::TooLarge { .. })));
    let full = Ledger::restore(world.store.clone(), &genesis, &head, all);
    assert!(matches!(full, Err(RestoreError::NotEmpty)));
}
