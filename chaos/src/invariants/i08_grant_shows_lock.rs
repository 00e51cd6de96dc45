//! I8: a grant's lock is at least every lock that its sender shared for that height: before the grant, and after it none of
//! an earlier epoch is shared any more. A disk that was rolled back knows nothing of its grants; what it shares then is bound by
//! its lock.

use std::collections::BTreeMap;

use concordat_finality::Context;
use concordat_finality::message::Body;

use super::{Invariant, Moment, Seen};

/// See the module's header.
#[derive(Clone, Default)]
pub struct GrantShowsLock {
    /// The epochs in which a custodian gave a share at a height.
    shared: BTreeMap<(u16, u64), Vec<u64>>,
    /// The highest epoch that a custodian has granted since its disk was last replaced.
    granted: BTreeMap<u16, u64>,
}

impl Invariant for GrantShowsLock {
    fn name(&self) -> &'static str {
        "I8"
    }

    fn see(&mut self, _context: &Context, moment: &Moment<'_>) -> Result<(), String> {
        if matches!(moment.seen, Seen::Restored) {
            self.granted.remove(&moment.number);
        }
        let Seen::Sent { message, .. } = &moment.seen else { return Ok(()) };
        if !moment.honest || message.sender != moment.number {
            return Ok(());
        }
        match &message.body {
            Body::Share(share) => {
                let epochs = self.shared.entry((moment.number, share.vote.height)).or_default();
                if !epochs.contains(&share.vote.epoch) {
                    epochs.push(share.vote.epoch);
                    let granted = self.granted.get(&moment.number).copied().unwrap_or_default();
                    if share.vote.epoch < granted {
                        return Err(format!(
                            "custodian {} gives a share in epoch {} after its grant of epoch {granted}",
                            moment.number, share.vote.epoch
                        ));
                    }
                }
            }
            Body::Grant(grant) => {
                let granted = self.granted.entry(moment.number).or_default();
                *granted = grant.epoch.max(*granted);
                let epochs = self.shared.get(&(moment.number, grant.next_height()));
                let given = epochs.into_iter().flatten().filter(|epoch| **epoch < grant.epoch);
                let highest = given.copied().max();
                let shown = grant.lock.as_ref().map(|lock| lock.vote.epoch);
                if shown < highest {
                    return Err(format!(
                        "custodian {} grants epoch {} for height {} with a lock of epoch {shown:?}; it gave a share in \
                         {highest:?}",
                        moment.number,
                        grant.epoch,
                        grant.next_height()
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
