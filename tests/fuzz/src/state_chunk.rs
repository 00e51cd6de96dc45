//! State from any custodian, taken in by a ledger that goes on with it. Input: a byte (1: the leaves as they came, else in
//! the order that a chunk has), a byte for how deep the chunk lies in the tree, then lines of `key<TAB>value`.

use std::sync::Arc;

use concordat_events::hash::tagged;
use concordat_events::{Batch, Hash, Head};
use concordat_ledger::limits::{CHUNK_BYTES, CHUNK_LEAVES};
use concordat_ledger::{Chunk, ChunkError, Ledger};
use concordat_store::memory::MemoryStore;
use concordat_store::{Entry, Store};
use nostr::hashes::{Hash as _, sha256};

use super::bounded;
use super::world::{START, world};

/// Leaves of one input.
const LEAVES: usize = 64;

pub fn run(data: &[u8]) -> bool {
    let [flags, depth, rest @ ..] = data else { return false };
    let mut leaves: Vec<Entry> = Vec::new();
    for line in rest.split(|byte| *byte == b'\n').take(LEAVES).filter(|line| !line.is_empty()) {
        let at = line.iter().position(|byte| *byte == b'\t').unwrap_or(line.len());
        leaves.push((line[..at].to_vec(), line.get(at + 1..).unwrap_or_default().to_vec()));
    }
    let place = |leaf: &Entry| sha256::Hash::hash(&leaf.0).to_byte_array();
    if flags & 1 == 0 {
        leaves.sort_by_key(place);
        leaves.dedup_by_key(|leaf| place(leaf));
        // Those at the tree's left end, where the first chunk lies.
        let shared = u32::from(*depth % 16);
        leaves.retain(|leaf| {
            let place = place(leaf);
            shared <= u32::from(u16::from_be_bytes([place[0], place[1]])).leading_zeros() - 16
        });
    }
    let beside = (0..usize::from(*depth % 16)).map(|at| tagged("concordat/fuzz", &[&at.to_be_bytes()]));
    landed(Chunk { beside: beside.collect(), leaves })
}

fn landed(chunk: Chunk) -> bool {
    // A chunk of another head is refused; which root it leads to is said.
    let root = match chunk.check(&Hash::ZERO, &Hash::ZERO) {
        Err(ChunkError::Root { got, .. }) => got,
        Ok(_) => {
            assert_eq!(chunk, Chunk::default(), "leaves under the root of an empty tree");
            Hash::ZERO
        }
        Err(error) => {
            bounded(&error);
            return false;
        }
    };
    assert!(chunk.leaves.len() <= CHUNK_LEAVES);
    assert!(
        chunk.leaves.len() < 2
            || chunk.leaves.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() <= CHUNK_BYTES
    );
    let next = chunk.check(&root, &Hash::ZERO).unwrap();
    assert_eq!(next.is_none(), chunk.beside.is_empty(), "what isn't the whole tree has a next chunk");
    // Nothing may be left out, changed or added.
    let mut bent = chunk.clone();
    if let Some((_, value)) = bent.leaves.last_mut() {
        value.push(0);
        assert!(bent.check(&root, &Hash::ZERO).is_err(), "a leaf's value isn't covered");
        bent.leaves.pop();
        assert!(bent.check(&root, &Hash::ZERO).is_err(), "a leaf isn't needed");
    }
    let mut bent = chunk.clone();
    if let Some(hash) = bent.beside.first_mut() {
        *hash = Hash::ZERO;
        assert!(bent.check(&root, &Hash::ZERO).is_err(), "the path isn't covered");
    }
    adopted(root, chunk);
    true
}

/// The chunk as a whole state: what it says about machines and queues is as wild as the input.
fn adopted(state_root: Hash, chunk: Chunk) {
    let context = &world().context;
    let head = Head {
        cluster: context.cluster,
        height: 7,
        parent: Hash::ZERO,
        batches_root: concordat_events::batch::batches_root(&[]),
        state_root,
        time_ms: START,
        roster: context.roster_hash,
        batches: Vec::new(),
        outcomes: Vec::new(),
        genesis: None,
    };
    let store = Arc::new(MemoryStore::default());
    let mut ledger = Ledger::open(store.clone(), context.genesis.clone()).unwrap();
    let (mut landing, clear) = ledger.begin_landing(state_root);
    store.apply(clear).unwrap();
    store.apply(ledger.land(&mut landing, chunk.clone()).unwrap()).unwrap();
    assert!(ledger.tip().is_none(), "a state in force before it is whole");
    match ledger.adopt(&landing, &head) {
        Ok(writes) => store.apply(writes).unwrap(),
        Err(error) => {
            bounded(&error);
            assert!(ledger.tip().is_none(), "a refused state is in force");
            return;
        }
    }
    assert!(chunk.beside.is_empty(), "a part of a state is in force");
    let mut ledger = Ledger::open(store, context.genesis.clone()).unwrap();
    assert_eq!(ledger.tip().map(|tip| &tip.head), Some(&head));
    ledger.freeze();
    assert_eq!(ledger.chunk(&Hash::ZERO).unwrap(), Some(chunk), "leaves that aren't those that came in");
    for ms in [0, 1_000, 100_000] {
        match ledger.execute(&[Batch { time_ms: START + ms, requests: Vec::new() }]) {
            Ok(draft) => assert_eq!(draft.head.height, 8),
            Err(error) => bounded(&error),
        }
    }
}
