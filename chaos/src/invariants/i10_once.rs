//! I10: no request is executed twice, and its outcome never changes.

use std::collections::BTreeMap;

use concordat_events::Hash;
use concordat_finality::Context;

use super::{Invariant, Moment, Seen};

/// See the module's header.
#[derive(Default)]
pub struct Once {
    outcomes: BTreeMap<Hash, (u64, bool)>,
}

impl Invariant for Once {
    fn name(&self) -> &'static str {
        "I10"
    }

    fn see(&mut self, _context: &Context, moment: &Moment<'_>) -> Result<(), String> {
        let Seen::Certified(head) = &moment.seen else { return Ok(()) };
        for (request, outcome) in &head.head.outcomes {
            let here = (head.head.height, outcome.reason().is_none());
            let known = *self.outcomes.entry(*request).or_insert(here);
            // A batch ordered before an older certificate turned up may hold a request again: it has no effect then.
            let again = known.0 != here.0 && outcome.reason() == Some("duplicate");
            if known != here && !again {
                return Err(format!("request {request} has outcomes {known:?} and {here:?} (height, taken)"));
            }
        }
        Ok(())
    }
}
