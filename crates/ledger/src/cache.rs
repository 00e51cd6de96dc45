//! Definitions kept parsed. A definition's id is the hash of its text and tags, so an entry is right under every head
//! and on every overlay; the cache decides nothing but speed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use concordat_events::Hash;

use crate::limits::PARSED_DEFINITIONS;
use crate::record::Fixed;

/// The definitions used last.
#[derive(Default)]
pub(crate) struct Definitions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The definition and when it was last used, in uses.
    entries: HashMap<Hash, (Arc<Fixed>, u64)>,
    uses: u64,
}

impl Definitions {
    pub(crate) fn get(&self, id: &Hash) -> Option<Arc<Fixed>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.uses += 1;
        let uses = inner.uses;
        let (fixed, used) = inner.entries.get_mut(id)?;
        *used = uses;
        Some(fixed.clone())
    }

    pub(crate) fn put(&self, id: Hash, fixed: Arc<Fixed>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.uses += 1;
        let uses = inner.uses;
        inner.entries.insert(id, (fixed, uses));
        if inner.entries.len() > PARSED_DEFINITIONS {
            // Rare beside the parse that led here, so a walk over all is cheap enough.
            let oldest = inner.entries.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                inner.entries.remove(&oldest);
            }
        }
    }
}
