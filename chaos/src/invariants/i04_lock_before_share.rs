//! I4: no share without a stored valid prepare certificate and `shared`.

use concordat_finality::Context;
use concordat_finality::message::Body;
use concordat_finality::record::{RECORD, glance, height_key};

use super::{Invariant, Moment, Seen};

/// See the module's header.
#[derive(Clone, Default)]
pub struct LockBeforeShare;

impl Invariant for LockBeforeShare {
    fn name(&self) -> &'static str {
        "I4"
    }

    fn see(&mut self, _context: &Context, moment: &Moment<'_>) -> Result<(), String> {
        let Seen::Sent { message, .. } = &moment.seen else { return Ok(()) };
        let Body::Share(share) = &message.body else { return Ok(()) };
        if !moment.honest || message.sender != moment.number {
            return Ok(());
        }
        let vote = share.vote;
        // A share is sent again after its height is certified; the lock is gone then, the certificate took its place.
        if moment.disk.durable(&height_key(vote.height)).is_some() {
            return Ok(());
        }
        let record = glance(moment.disk.durable(RECORD).as_deref()).unwrap_or_default();
        let locked = record.lock.is_some_and(|lock| lock.height == vote.height && lock.epoch >= vote.epoch);
        let shared = record.shared.is_some_and(|shared| {
            shared == vote || (shared.height, shared.epoch) > (vote.height, vote.epoch)
        });
        if locked && shared {
            return Ok(());
        }
        Err(format!("custodian {} gave a share for {vote:?}; its disk says {record:?}", moment.number))
    }
}
