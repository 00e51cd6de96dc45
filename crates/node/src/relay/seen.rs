//! Ids that came before: a set that forgets its oldest members, so that no relay can make it grow.

use std::collections::{BTreeSet, VecDeque};

use concordat_events::Hash;

/// A bounded set of event ids.
#[derive(Debug)]
pub struct Seen {
    known: BTreeSet<Hash>,
    order: VecDeque<Hash>,
    capacity: usize,
}

impl Seen {
    /// A set of at most `capacity` ids (at least one).
    pub fn new(capacity: usize) -> Self {
        Seen { known: BTreeSet::new(), order: VecDeque::new(), capacity: capacity.max(1) }
    }

    /// Adds an id; false if it is known.
    pub fn insert(&mut self, id: Hash) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// Is the id known?
    pub fn contains(&self, id: &Hash) -> bool {
        self.known.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_knows_exactly_the_newest(ids in proptest::collection::vec(0u8..20, 0..100), capacity in 1usize..10) {
            let mut seen = Seen::new(capacity);
            let mut newest: Vec<u8> = Vec::new();
            for id in ids {
                let hash = Hash::from_bytes([id; 32]);
                prop_assert_eq!(seen.insert(hash), !newest.contains(&id));
                if !newest.contains(&id) {
                    newest.push(id);
                }
                if newest.len() > capacity {
                    newest.remove(0);
                }
                for other in 0..20 {
                    prop_assert_eq!(seen.contains(&Hash::from_bytes([other; 32])), newest.contains(&other));
                }
            }
        }
    }
}
