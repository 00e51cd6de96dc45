//! Batches: what the leader orders, and the hashes by which a head names them.

use crate::event::ValidEvent;
use crate::hash::{Hash, Tagged, tagged};

/// A time and the requests ordered at it. An empty one moves time on, so that timers fire (PROTOCOL 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// ms since 1970, at least that of the batch before.
    pub time_ms: u64,
    /// The requests in order.
    pub requests: Vec<ValidEvent>,
}

impl Batch {
    /// The batch's hash: its time and the ids of its requests. Signatures aren't in it: two valid signatures on one id are
    /// one request.
    pub fn hash(&self) -> Hash {
        batch_hash(self.time_ms, self.requests.iter().map(ValidEvent::id))
    }

    /// Bytes of all requests as JSON.
    pub fn bytes(&self) -> usize {
        self.requests.iter().map(|request| request.json().len()).sum()
    }
}

/// The hash of a batch of which only time and ids are at hand.
pub fn batch_hash(time_ms: u64, ids: impl Iterator<Item = Hash>) -> Hash {
    let mut hasher = Tagged::new("concordat/batch");
    hasher.part(&time_ms.to_be_bytes());
    for id in ids {
        hasher.part(id.as_bytes());
    }
    hasher.finish()
}

/// The root under which a head names its batches, in order.
pub fn batches_root(hashes: &[Hash]) -> Hash {
    let parts: Vec<&[u8]> = hashes.iter().map(|hash| hash.as_bytes().as_slice()).collect();
    tagged("concordat/batches", &parts)
}
