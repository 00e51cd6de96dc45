//! Liars when the epoch changes: grants without their lock, with an old one, with one that isn't valid, for every epoch; locks
//! that are shown when they do most harm; complaints about everything.

use bytes::Bytes;
use concordat_finality::message::{Body, Kind};
use concordat_finality::{Msg, wire};
use prost::Message as _;

use super::{Behaviour, Kept, Saying, Tools, to_all};

fn honest(to: u16, message: &Msg) -> Vec<Saying> {
    vec![(to, Bytes::from(message.to_bytes()), 0)]
}

fn body(message: &Msg) -> Option<wire::Grant> {
    (message.kind() == Kind::Grant)
        .then(|| wire::Grant::decode(message.envelope().body.as_slice()).ok())
        .flatten()
}

/// Grants the next epochs, asked or not.
pub struct GrantsEverything;

impl Behaviour for GrantsEverything {
    fn name(&self) -> &'static str {
        "grants-everything"
    }

    fn idle(&mut self, tools: &mut Tools<'_>) -> Vec<Saying> {
        if tools.below(4) != 0 {
            return Vec::new();
        }
        let epoch = tools.status.epoch + 1 + tools.below(4);
        let body = wire::Grant { epoch, certified: Vec::new(), lock: None, evidence: Vec::new() };
        tools.did("liar: grant for a later epoch");
        let bytes = tools.seal(tools.status.seq, Kind::Grant, &body, Vec::new());
        to_all(tools, &bytes)
    }
}

/// Grants without the lock that it has.
pub struct HidesLocks;

impl Behaviour for HidesLocks {
    fn name(&self) -> &'static str {
        "hides-locks"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        if message.kind() == Kind::Lock {
            tools.did("liar: hides a lock");
            return Vec::new();
        }
        let Some(mut body) = body(message).filter(|body| body.lock.is_some()) else {
            return honest(to, message);
        };
        body.lock = None;
        tools.did("liar: hides a lock");
        vec![(to, tools.instead(message, &body, message.envelope().attachment.clone()), 0)]
    }
}

/// Grants with the oldest lock that it ever had.
#[derive(Default)]
pub struct StaleLocks {
    oldest: Option<wire::PrepareCert>,
}

impl Behaviour for StaleLocks {
    fn name(&self) -> &'static str {
        "stale-locks"
    }

    fn hear(&mut self, _tools: &mut Tools<'_>, message: &Msg) -> bool {
        if let Body::Certify(certify) = &message.body
            && self.oldest.is_none()
        {
            self.oldest = Some(certify.cert.to_wire());
        }
        true
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let (Some(mut body), Some(oldest)) = (body(message), &self.oldest) else {
            return honest(to, message);
        };
        body.lock = Some(oldest.clone());
        tools.did("liar: stale lock");
        vec![(to, tools.instead(message, &body, message.envelope().attachment.clone()), 0)]
    }
}

/// Keeps certificates to itself and shows their locks to one custodian between its grant and its vote.
#[derive(Default)]
pub struct ShowsLocksLate {
    kept: Vec<Kept>,
}

impl Behaviour for ShowsLocksLate {
    fn name(&self) -> &'static str {
        "shows-locks-late"
    }

    fn hear(&mut self, _tools: &mut Tools<'_>, message: &Msg) -> bool {
        if matches!(message.body, Body::Certify(_)) {
            self.kept.push(message.clone());
            if self.kept.len() > 16 {
                self.kept.remove(0);
            }
        }
        true
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        if let Body::Certify(_) = &message.body {
            if !self.kept.iter().any(|kept| kept.digest == message.digest) {
                self.kept.push(message.clone());
            }
            if tools.below(2) == 0 {
                return Vec::new();
            }
        }
        honest(to, message)
    }

    fn idle(&mut self, tools: &mut Tools<'_>) -> Vec<Saying> {
        if self.kept.is_empty() || tools.status.started || tools.others.is_empty() {
            return Vec::new();
        }
        let which = usize::try_from(tools.below(self.kept.len() as u64)).unwrap_or_default();
        let whom = usize::try_from(tools.below(tools.others.len() as u64)).unwrap_or_default();
        let (Some(kept), Some(to)) = (self.kept.get(which), tools.others.get(whom).copied()) else {
            return Vec::new();
        };
        let Body::Certify(certify) = &kept.body else { return Vec::new() };
        tools.did("liar: shows a lock late");
        let body = wire::Lock { cert: Some(certify.cert.to_wire()) };
        vec![(to, tools.seal(tools.status.seq, Kind::Lock, &body, Vec::new()), 0)]
    }
}

/// Sends grants that don't verify in the place of those that would.
pub struct InvalidGrants;

impl Behaviour for InvalidGrants {
    fn name(&self) -> &'static str {
        "invalid-grants"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let Some(mut body) = body(message) else { return honest(to, message) };
        match tools.below(3) {
            0 => body.certified.truncate(body.certified.len() / 2),
            1 => {
                if let Some(prepare) = body.lock.as_mut().and_then(|lock| lock.prepares.first_mut()) {
                    prepare.signature.reverse();
                }
            }
            _ => body.epoch = body.epoch.wrapping_add(tools.below(3)),
        }
        tools.did("liar: invalid grant");
        let bytes = tools.instead(message, &body, message.envelope().attachment.clone());
        let mut both = vec![(to, bytes, 0)];
        if tools.below(2) == 0 {
            both.push((to, Bytes::from(message.to_bytes()), 5));
        }
        both
    }
}

/// Complains about every epoch, for every reason.
pub struct ComplainsAlways;

impl Behaviour for ComplainsAlways {
    fn name(&self) -> &'static str {
        "complains-always"
    }

    fn idle(&mut self, tools: &mut Tools<'_>) -> Vec<Saying> {
        let body = wire::Complaint {
            epoch: tools.status.epoch + tools.below(2),
            cause: u32::try_from(1 + tools.below(8)).unwrap_or(1),
            next_height: tools.status.certified.map_or(0, |(height, _)| height + 1),
        };
        tools.did("liar: complains");
        let bytes = tools.seal(tools.status.seq, Kind::Complaint, &body, Vec::new());
        to_all(tools, &bytes)
    }
}
