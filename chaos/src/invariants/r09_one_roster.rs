//! PROTOCOL 9: every height has one roster, and what isn't signed under it counts for nothing. The group's key stays the same.
//!
//! Which roster it is says the certified head below. What an honest custodian takes in from another, and that one has signed under
//! another roster, was accepted though it must not be; what carries heads and state binds no roster.

use std::collections::BTreeMap;

use concordat_events::Hash;
use concordat_finality::Context;
use concordat_finality::message::Body;

use super::{Invariant, Moment, Seen};

/// See the module's header.
#[derive(Default)]
pub struct OneRoster {
    /// The roster that each certified head puts in force.
    rosters: BTreeMap<u64, Hash>,
    /// The roster that votes for a height were given under, and by whom first.
    voted: BTreeMap<u64, (Hash, u16)>,
}

impl Invariant for OneRoster {
    fn name(&self) -> &'static str {
        "PROTOCOL 9"
    }

    fn see(&mut self, context: &Context, moment: &Moment<'_>) -> Result<(), String> {
        let (number, under) = (moment.number, context.roster_hash);
        match &moment.seen {
            Seen::Certified(head) => {
                let stranger = head.events.iter().find(|event| event.author() != context.group());
                if let Some(event) = stranger {
                    return Err(format!(
                        "custodian {number} lets out event {} of {}",
                        event.id(),
                        event.author()
                    ));
                }
                let (height, roster) = (head.head.height, head.head.roster);
                let known = *self.rosters.entry(height).or_insert(roster);
                if known != roster {
                    return Err(format!("head {height} puts {known} in force, and {roster}"));
                }
            }
            Seen::Taken { message, under: other } => {
                let heads = matches!(
                    message.body,
                    Body::Certificate(_)
                        | Body::FetchHeads(_)
                        | Body::Heads(_)
                        | Body::FetchState(_)
                        | Body::State(_)
                );
                if moment.honest && !heads && *other != under {
                    return Err(format!(
                        "custodian {number} under roster {under} takes a {:?} of custodian {} that was signed under {other}",
                        message.kind(),
                        message.sender
                    ));
                }
            }
            Seen::Sent { message, .. } if moment.honest && message.sender == number => {
                let vote = match &message.body {
                    Body::Propose(propose) => propose.vote,
                    Body::Prepare(prepare) => prepare.vote,
                    Body::Certify(certify) => certify.cert.vote,
                    Body::Share(share) => share.vote,
                    _ => return Ok(()),
                };
                if !context.votes(number) {
                    return Err(format!(
                        "custodian {number} votes at height {}, it has no vote",
                        vote.height
                    ));
                }
                let (known, by) = *self.voted.entry(vote.height).or_insert((under, number));
                if known != under {
                    return Err(format!(
                        "at height {} custodian {by} voted under roster {known}, custodian {number} under {under}",
                        vote.height
                    ));
                }
                let below = vote.height.checked_sub(1).and_then(|below| self.rosters.get(&below));
                if below.is_some_and(|roster| *roster != under) {
                    return Err(format!(
                        "custodian {number} votes at height {} under roster {under}; {below:?} is in force there",
                        vote.height
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
