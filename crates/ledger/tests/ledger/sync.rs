//! A state moved chunk by chunk goes on like the one it came from; what isn't part of it is refused.

use std::sync::Arc;

use concordat_events::{Hash, Mode};
use concordat_ledger::{Chunk, ChunkError, Ledger, RestoreError};
use concordat_store::Store;
use concordat_store::memory::MemoryStore;
use nostr::Keys;
use serde_json::json;

use super::world::*;

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

/// A new custodian of the same cluster.
fn newcomer(world: &World) -> (Arc<MemoryStore>, Ledger<Arc<MemoryStore>>) {
    let store = Arc::new(MemoryStore::default());
    let ledger = Ledger::open(store.clone(), world.ledger.genesis().clone()).unwrap();
    (store, ledger)
}

/// All chunks of the frozen state, with the places at which they begin.
fn chunks(world: &World, root: &Hash) -> Vec<(Hash, Chunk)> {
    let (mut chunks, mut next) = (Vec::new(), Some(Hash::ZERO));
    while let Some(from) = next {
        let chunk = world.ledger.chunk(&from).unwrap().unwrap();
        next = chunk.check(root, &from).unwrap();
        chunks.push((from, chunk));
    }
    chunks
}

/// So many machines that their state doesn't fit into one chunk.
fn large(world: &mut World) {
    let user = Keys::generate();
    let mut machine = counter();
    machine["context"]["ballast"] = json!("x".repeat(12_000));
    for round in 0..2u64 {
        let all: Vec<_> =
            (0..15).map(|n| world.definition(&user, &format!("large{round}-{n}"), &machine)).collect();
        let (outcomes, _) = world.head(2_000 + round * 1_000, &all.iter().collect::<Vec<_>>());
        assert!(outcomes.iter().all(|word| word == "ok"), "{outcomes:?}");
    }
}

#[test]
fn a_state_moved_in_chunks_goes_on_alike() {
    let (mut world, next) = busy();
    large(&mut world);
    world.ledger.freeze();
    let head = world.ledger.tip().unwrap().head.clone();
    let at = head.time_ms - START;
    let (store, mut moved) = newcomer(&world);
    let (mut landing, clear) = moved.begin_landing(head.state_root);
    store.apply(clear).unwrap();
    let mut count = 0;
    while let Some(from) = landing.next() {
        let chunk = world.ledger.chunk(&from).unwrap().unwrap();
        assert!(matches!(moved.adopt(&landing, &head), Err(RestoreError::Incomplete { .. })));
        store.apply(moved.land(&mut landing, chunk).unwrap()).unwrap();
        assert!(moved.tip().is_none(), "the own state stays until the other is whole");
        count += 1;
        // The state changes meanwhile; what was frozen doesn't.
        if count == 1 {
            let user = Keys::generate();
            let other = world.definition(&user, "other", &counter());
            world.head(at + 10, &[&other]);
        }
    }
    assert!(count > 1, "{count} chunks");
    store.apply(moved.adopt(&landing, &head).unwrap()).unwrap();
    store.flush().unwrap();
    // The room that it came from is empty, and a restart finds the new one.
    let reopened = Ledger::open(store.clone(), world.ledger.genesis().clone()).unwrap();
    assert_eq!(reopened.tip(), moved.tip());
    assert_eq!(reopened.next_due_ms(), moved.next_due_ms());
    assert_eq!(moved.tip().unwrap().head, head);
    // It goes on like the one it came from, and can itself be asked for its state.
    let mut twin = newcomer(&world);
    moved.freeze();
    let (mut landing, _) = twin.1.begin_landing(head.state_root);
    while let Some(from) = landing.next() {
        let chunk = moved.chunk(&from).unwrap().unwrap();
        twin.0.apply(twin.1.land(&mut landing, chunk).unwrap()).unwrap();
    }
    twin.0.apply(twin.1.adopt(&landing, &head).unwrap()).unwrap();
    for (ms, requests) in [(at + 1_000, vec![]), (at + 2_000, next.iter().collect()), (at + 9_000, vec![])] {
        let batches = [batch(ms, &requests)];
        let (one, other) = (moved.execute(&batches).unwrap(), twin.1.execute(&batches).unwrap());
        assert_eq!((one.id, one.messages.len()), (other.id, other.messages.len()));
        assert_eq!(one.next_due_ms(), other.next_due_ms());
        store.apply(moved.install(one).unwrap()).unwrap();
        twin.0.apply(twin.1.install(other).unwrap()).unwrap();
    }
}

#[test]
fn a_moved_state_computes_the_heads_of_the_one_it_came_from() {
    let (mut world, next) = busy();
    world.ledger.freeze();
    let head = world.ledger.tip().unwrap().head.clone();
    let (store, mut moved) = newcomer(&world);
    let (mut landing, _) = moved.begin_landing(head.state_root);
    for (_, chunk) in chunks(&world, &head.state_root) {
        store.apply(moved.land(&mut landing, chunk).unwrap()).unwrap();
    }
    store.apply(moved.adopt(&landing, &head).unwrap()).unwrap();
    assert_eq!(moved.next_due_ms(), world.ledger.next_due_ms());
    for (ms, requests) in [(2_000, vec![]), (3_000, next.iter().collect()), (5_000, vec![]), (6_000, vec![])]
    {
        let draft = moved.execute(&[batch(ms, &requests)]).unwrap();
        let (outcomes, signed) = world.head(ms, &requests);
        assert!(outcomes.iter().all(|word| word == "ok"), "{outcomes:?}");
        assert_eq!(draft.id, signed[0].id());
        assert_eq!(draft.messages.len(), signed.len());
        assert_eq!(draft.next_due_ms(), world.ledger.next_due_ms());
        store.apply(moved.install(draft).unwrap()).unwrap();
    }
    let older = moved.adopt(&landing, &head);
    assert!(matches!(older, Err(RestoreError::Stale { .. })), "a certified height never falls");
}

#[test]
fn chunks_that_are_forged_truncated_or_repeated_are_refused() {
    let (mut world, _) = busy();
    large(&mut world);
    world.ledger.freeze();
    let root = world.ledger.tip().unwrap().head.state_root;
    let all = chunks(&world, &root);
    let (_, ledger) = newcomer(&world);
    for (n, (from, chunk)) in all.iter().enumerate() {
        let refused = |bad: &Chunk| bad.check(&root, from).is_err();
        for leaf in 0..chunk.leaves.len().min(3) {
            let (mut missing, mut changed, mut renamed) = (chunk.clone(), chunk.clone(), chunk.clone());
            missing.leaves.remove(leaf);
            changed.leaves[leaf].1.push(b' ');
            renamed.leaves[leaf].0.push(b'x');
            let mut twice = chunk.clone();
            twice.leaves.insert(leaf, chunk.leaves[leaf].clone());
            assert!([missing, changed, renamed, twice].iter().all(refused));
        }
        let mut none = chunk.clone();
        none.leaves.clear();
        assert!(chunk.leaves.is_empty() || refused(&none));
        for step in 0..chunk.beside.len() {
            let mut bent = chunk.clone();
            bent.beside[step] = Hash::from_bytes([9; 32]);
            assert!(refused(&bent));
        }
        let mut deeper = chunk.clone();
        deeper.beside.push(Hash::ZERO);
        assert!(refused(&deeper));
        // Another one in its place, or the same one again.
        for (other, (_, instead)) in all.iter().enumerate() {
            assert!(other == n || refused(instead));
        }
        // Of another head.
        assert!(matches!(chunk.check(&Hash::from_bytes([1; 32]), from), Err(ChunkError::Root { .. })));
        let (mut landing, _) = ledger.begin_landing(Hash::from_bytes([1; 32]));
        assert!(ledger.land(&mut landing, chunk.clone()).is_err());
        assert_eq!(landing.next(), Some(Hash::ZERO), "what is refused leaves no trace");
    }
    let huge = Chunk { beside: Vec::new(), leaves: vec![(b"k".to_vec(), vec![0; 1 << 20])] };
    assert!(matches!(huge.check(&root, &Hash::ZERO), Err(ChunkError::TooLarge { .. })));
    let endless = Chunk { beside: vec![Hash::ZERO; 300], leaves: Vec::new() };
    assert_eq!(endless.check(&root, &Hash::ZERO), Err(ChunkError::Place));
}

/// A state that changes more than is kept is let go, not held for ever.
#[test]
fn a_frozen_state_is_bounded() {
    let (mut world, _) = busy();
    assert!(world.ledger.chunk(&Hash::ZERO).unwrap().is_none());
    world.ledger.freeze();
    let height = world.ledger.tip().map(|tip| tip.height);
    assert_eq!(world.ledger.frozen(), height);
    let root = world.ledger.tip().unwrap().head.state_root;
    large(&mut world);
    assert_eq!(world.ledger.frozen(), height);
    assert!(!chunks(&world, &root).is_empty());
    world.ledger.thaw();
    assert_eq!(world.ledger.frozen(), None);
}
