//! PROTOCOL 7: what a message promises stands on its sender's disk when it leaves.

use concordat_finality::Context;
use concordat_finality::message::Body;
use concordat_finality::record::{Glance, RECORD, glance, height_key};

use super::{Invariant, Moment, Seen};

/// See the module's header.
#[derive(Clone, Default)]
pub struct WrittenBeforeSent;

impl Invariant for WrittenBeforeSent {
    fn name(&self) -> &'static str {
        "PROTOCOL 7"
    }

    fn see(&mut self, _context: &Context, moment: &Moment<'_>) -> Result<(), String> {
        if !moment.honest {
            return Ok(());
        }
        let record = || glance(moment.disk.durable(RECORD).as_deref()).unwrap_or_default();
        let early = |what: &str, record: &Glance| {
            Err(format!(
                "custodian {}: {what} left before it was durable; its disk says {record:?}",
                moment.number
            ))
        };
        match &moment.seen {
            Seen::Sent { message, .. } if message.sender == moment.number => {
                let record = record();
                if record.seq < message.seq {
                    return early(&format!("seq {} in a {:?}", message.seq, message.kind()), &record);
                }
                match &message.body {
                    Body::Prepare(prepare) => {
                        let vote = prepare.vote;
                        let kept = record.prepared.is_some_and(|kept| {
                            kept == vote || (kept.epoch, kept.height) > (vote.epoch, vote.height)
                        });
                        if !kept {
                            return early("a prepare", &record);
                        }
                    }
                    Body::Grant(grant) if record.epoch < grant.epoch => return early("a grant", &record),
                    Body::Propose(_) if moment.disk.durable(b"f/proposal").is_none() => {
                        return early("a proposal", &record);
                    }
                    _ => {}
                }
            }
            Seen::Appended { entry, .. } => {
                let record = record();
                if record.seq < entry.seq || moment.disk.durable(b"f/entry").is_none() {
                    return early("a batch", &record);
                }
            }
            Seen::Certified(head) if moment.disk.durable(&height_key(head.head.height)).is_none() => {
                return early("a certified head", &record());
            }
            _ => {}
        }
        Ok(())
    }
}
