//! I12: no prepare certificate of another id in or after the epoch in which an id of that height could be certified. It finds
//! errors long before I1 does.

use std::collections::{BTreeMap, BTreeSet};

use concordat_finality::Context;
use concordat_finality::message::{Body, Vote};

use super::{Invariant, Moment, Seen};

/// See the module's header.
#[derive(Default)]
pub struct NoLateCertificate {
    /// Who gave a share for what, by height.
    shares: BTreeMap<u64, BTreeMap<Vote, BTreeSet<u16>>>,
    /// Prepare certificates seen, by height.
    certificates: BTreeMap<u64, BTreeSet<Vote>>,
    /// The quorum of the roster in force at each height.
    quorums: BTreeMap<u64, usize>,
}

impl NoLateCertificate {
    fn check(&self, context: &Context, height: u64) -> Result<(), String> {
        let q = self.quorums.get(&height).copied().unwrap_or(context.q());
        let (Some(shares), Some(certificates)) = (self.shares.get(&height), self.certificates.get(&height))
        else {
            return Ok(());
        };
        let signed = shares.iter().filter(|(_, by)| by.len() >= q).map(|(vote, _)| vote);
        for signed in signed {
            let late = certificates.iter().find(|cert| cert.id != signed.id && cert.epoch >= signed.epoch);
            if let Some(late) = late {
                return Err(format!("{signed:?} has q shares, {late:?} has a prepare certificate"));
            }
        }
        Ok(())
    }
}

impl Invariant for NoLateCertificate {
    fn name(&self) -> &'static str {
        "I12"
    }

    fn see(&mut self, context: &Context, moment: &Moment<'_>) -> Result<(), String> {
        let Seen::Sent { message, .. } = &moment.seen else { return Ok(()) };
        let mut heights = BTreeSet::new();
        let mut certificate = |vote: Vote, heights: &mut BTreeSet<u64>| {
            if self.certificates.entry(vote.height).or_default().insert(vote) {
                heights.insert(vote.height);
            }
        };
        match &message.body {
            Body::Certify(certify) => certificate(certify.cert.vote, &mut heights),
            Body::Lock(cert) => certificate(cert.vote, &mut heights),
            Body::Grant(grant) => {
                if let Some(lock) = &grant.lock {
                    certificate(lock.vote, &mut heights);
                }
            }
            Body::Share(share) => {
                if moment.honest && message.sender == moment.number {
                    self.quorums.insert(share.vote.height, context.q());
                }
                let by = self.shares.entry(share.vote.height).or_default().entry(share.vote).or_default();
                if by.insert(message.sender) {
                    heights.insert(share.vote.height);
                }
            }
            _ => {}
        }
        heights.into_iter().try_for_each(|height| self.check(context, height))
    }
}
