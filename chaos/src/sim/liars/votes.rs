//! Liars in the two rounds: withheld certificates and shares, bad shares, double votes.

use bytes::Bytes;
use concordat_events::hash::tagged;
use concordat_finality::message::{Body, Kind};
use concordat_finality::{Msg, wire};
use prost::Message as _;

use super::{Behaviour, Saying, Tools};

fn honest(to: u16, message: &Msg) -> Vec<Saying> {
    vec![(to, Bytes::from(message.to_bytes()), 0)]
}

/// Tells nobody that a head is certified.
pub struct WithholdsCertificates;

impl Behaviour for WithholdsCertificates {
    fn name(&self) -> &'static str {
        "withholds-certificates"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        if matches!(message.kind(), Kind::Certificate | Kind::Heads) {
            tools.did("liar: withholds a certificate");
            return Vec::new();
        }
        honest(to, message)
    }
}

/// Prepares and gives no share, or gives it to the leader of the next epoch only.
pub struct WithholdsShares;

impl Behaviour for WithholdsShares {
    fn name(&self) -> &'static str {
        "withholds-shares"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        if message.kind() == Kind::Share && to != tools.status.leader % 2 {
            tools.did("liar: withholds a share");
            return Vec::new();
        }
        honest(to, message)
    }
}

/// Gives shares that don't verify.
pub struct BadShares;

impl Behaviour for BadShares {
    fn name(&self) -> &'static str {
        "bad-shares"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let Ok(mut body) = wire::Share::decode(message.envelope().body.as_slice()) else {
            return honest(to, message);
        };
        if message.kind() != Kind::Share {
            return honest(to, message);
        }
        for share in &mut body.shares {
            if let Some(last) = share.last_mut() {
                *last ^= 1;
            }
        }
        tools.did("liar: bad share");
        vec![(to, tools.instead(message, &body, Vec::new()), 0)]
    }
}

/// Votes for two heads of one height.
pub struct DoublePrepare;

impl Behaviour for DoublePrepare {
    fn name(&self) -> &'static str {
        "double-prepare"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let Body::Prepare(prepare) = &message.body else { return honest(to, message) };
        let body = wire::Prepare {
            epoch: prepare.vote.epoch,
            height: prepare.vote.height,
            id: tagged("another", &[prepare.vote.id.as_bytes()]).as_bytes().to_vec(),
            commitments: prepare.hash.as_bytes().to_vec(),
        };
        tools.did("liar: two prepares");
        let other = tools.instead(message, &body, message.envelope().attachment.clone());
        let first = tools.below(2) == 0;
        let mut both = honest(to, message);
        both.insert(usize::from(!first), (to, other, 0));
        both
    }
}

/// Prepares nothing, whatever is proposed.
pub struct RefusesAll;

impl Behaviour for RefusesAll {
    fn name(&self) -> &'static str {
        "refuses-all"
    }

    fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let Body::Prepare(prepare) = &message.body else { return honest(to, message) };
        let body = wire::Refuse {
            epoch: prepare.vote.epoch,
            height: prepare.vote.height,
            id: prepare.vote.id.as_bytes().to_vec(),
            reason: u32::try_from(1 + tools.below(4)).unwrap_or(1),
            lock: None,
        };
        tools.did("liar: refuses");
        vec![(to, tools.seal(message.seq, Kind::Refuse, &body, Vec::new()), 0)]
    }
}
