//! I5: no nonce in two shares. A nonce is known by its commitment: no two sessions that an honest custodian gave a share in
//! hold the same commitments of it.

use std::collections::BTreeMap;

use concordat_events::Hash;
use concordat_finality::Context;
use concordat_finality::message::Body;

use super::{Invariant, Moment, Seen};

/// See the module's header.
#[derive(Clone, Default)]
pub struct NonceOnce {
    /// The hash of each signer's commitments in a session.
    sessions: BTreeMap<Hash, BTreeMap<u16, Hash>>,
    /// In which session a signer used its commitments.
    used: BTreeMap<(u16, Hash), Hash>,
}

impl Invariant for NonceOnce {
    fn name(&self) -> &'static str {
        "I5"
    }

    fn see(&mut self, _context: &Context, moment: &Moment<'_>) -> Result<(), String> {
        let Seen::Sent { message, .. } = &moment.seen else { return Ok(()) };
        match &message.body {
            Body::Certify(certify) => {
                let signers = certify.signers.iter().filter_map(|prepare| match &prepare.body {
                    Body::Prepare(body) => Some((prepare.sender, body.hash)),
                    _ => None,
                });
                self.sessions.entry(certify.session).or_insert_with(|| signers.collect());
            }
            Body::Share(share) if moment.honest && message.sender == moment.number => {
                let used = self.sessions.get(&share.session).and_then(|signers| signers.get(&moment.number));
                let Some(commitments) = used else {
                    return Err(format!(
                        "custodian {} gave a share in session {} that it isn't part of",
                        moment.number, share.session
                    ));
                };
                let session = *self.used.entry((moment.number, *commitments)).or_insert(share.session);
                if session != share.session {
                    return Err(format!(
                        "custodian {} used commitments {commitments} in sessions {session} and {}",
                        moment.number, share.session
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
