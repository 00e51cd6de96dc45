//! Power loss in memory: whatever the chance, what is found is a prefix of whole batches with all that was flushed.

use crate::model::{self, Model};
use concordat_store::Store;
use concordat_store::conformance::everything;
use concordat_store::memory::MemoryStore;
use proptest::collection::vec;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::BTreeSet;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Several lives in a row, each ended by a crash.
    #[test]
    fn leaves_a_prefix(
        lives in vec(vec((model::batch(), prop::bool::weighted(0.3)), 0..12), 1..4),
        seed in any::<u64>(),
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut store = MemoryStore::new();
        let mut found = Model::new();
        for life in lives {
            // All states a crash may leave, the flushed one first.
            let mut possible = vec![found];
            for (batch, flush) in life {
                let mut next = possible.last().unwrap().clone();
                model::write(&mut next, &batch);
                possible.push(next);
                store.apply(batch).unwrap();
                if flush {
                    store.flush().unwrap();
                    possible.drain(..possible.len() - 1);
                }
            }
            prop_assert_eq!(store.unflushed() + 1, possible.len());
            store = store.crash(&mut rng);
            found = everything(&store).into_iter().collect();
            prop_assert!(possible.contains(&found));
        }
    }
}

#[test]
fn every_outcome_happens() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let kept: BTreeSet<usize> = (0..200)
        .map(|_| {
            let store = MemoryStore::new();
            for key in 0..3_u8 {
                let mut batch = concordat_store::WriteBatch::new();
                batch.put([key], [key]);
                store.apply(batch).unwrap();
            }
            everything(&store.crash(&mut rng)).len()
        })
        .collect();
    assert_eq!(kept, BTreeSet::from([0, 1, 2, 3]));
}
