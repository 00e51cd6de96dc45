//! I3: an honest custodian prepares one id per (epoch, height), restarts and restores included.

use std::collections::BTreeMap;

use concordat_events::Hash;
use concordat_finality::Context;
use concordat_finality::message::Body;

use super::{Invariant, Moment, Seen};

/// See the module's header.
#[derive(Clone, Default)]
pub struct OneVote {
    votes: BTreeMap<(u16, u64, u64), Hash>,
}

impl Invariant for OneVote {
    fn name(&self) -> &'static str {
        "I3"
    }

    fn see(&mut self, _context: &Context, moment: &Moment<'_>) -> Result<(), String> {
        let Seen::Sent { message, .. } = &moment.seen else { return Ok(()) };
        let Body::Prepare(prepare) = &message.body else { return Ok(()) };
        if !moment.honest || message.sender != moment.number {
            return Ok(());
        }
        let vote = prepare.vote;
        let known = *self.votes.entry((moment.number, vote.epoch, vote.height)).or_insert(vote.id);
        if known == vote.id {
            return Ok(());
        }
        Err(format!(
            "custodian {} prepared {known} and {} at height {} in epoch {}",
            moment.number, vote.id, vote.height, vote.epoch
        ))
    }
}
