//! I2: an honest custodian's certified height never falls, unless its disk is replaced by an older one.

use std::collections::BTreeMap;

use concordat_finality::Context;

use super::{Invariant, Moment, Seen};

/// See the module's header.
#[derive(Clone, Default)]
pub struct NeverFalls {
    heights: BTreeMap<u16, u64>,
}

impl Invariant for NeverFalls {
    fn name(&self) -> &'static str {
        "I2"
    }

    fn see(&mut self, _context: &Context, moment: &Moment<'_>) -> Result<(), String> {
        if !moment.honest {
            return Ok(());
        }
        let number = moment.number;
        let known = self.heights.get(&number).copied();
        match &moment.seen {
            Seen::Restored => {
                self.heights.remove(&number);
            }
            Seen::Started { tip } => {
                let found = tip.map(|(height, _)| height);
                if found < known {
                    return Err(format!(
                        "custodian {number} started with certified height {found:?}; it had {known:?}"
                    ));
                }
                self.heights.extend(found.map(|height| (number, height)));
            }
            Seen::Certified(head) => {
                let height = head.head.height;
                if known.is_some_and(|known| height <= known) {
                    return Err(format!("custodian {number} certified height {height} after {known:?}"));
                }
                self.heights.insert(number, height);
            }
            _ => {}
        }
        Ok(())
    }
}
