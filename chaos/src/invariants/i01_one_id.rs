//! I1: at most one certified id per height.

use std::collections::BTreeMap;

use concordat_events::Hash;
use concordat_finality::Context;

use super::{Invariant, Moment, Seen};

/// See the module's header.
#[derive(Default)]
pub struct OneId {
    ids: BTreeMap<u64, (Hash, u16)>,
}

impl Invariant for OneId {
    fn name(&self) -> &'static str {
        "I1"
    }

    fn see(&mut self, _context: &Context, moment: &Moment<'_>) -> Result<(), String> {
        let (height, id) = match &moment.seen {
            Seen::Certified(head) => (head.head.height, head.log().map(|log| log.id()).unwrap_or_default()),
            Seen::Started { tip: Some(tip) } => *tip,
            _ => return Ok(()),
        };
        let (known, by) = *self.ids.entry(height).or_insert((id, moment.number));
        if known == id {
            return Ok(());
        }
        Err(format!(
            "custodian {} has certificate {id} of height {height}, custodian {by} has {known}",
            moment.number
        ))
    }
}
