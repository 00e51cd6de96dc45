//! Evidence: two signed messages of one custodian that no honest one signs both (PROTOCOL 5). Anybody can check it.

use prost::Message as _;

use crate::context::Context;
use crate::message::{Evidence, Fault, Kind, authenticate};
use crate::wire;

/// Do two messages contradict each other in a way that no honest custodian's can (PROTOCOL 5)? Signatures are checked,
/// attachments don't count.
pub(crate) fn contradiction(
    context: &Context,
    first: &wire::Envelope,
    second: &wire::Envelope,
) -> Option<Evidence> {
    let (signer, kind, digest) = authenticate(context, first).ok()?;
    let (other, other_kind, other_digest) = authenticate(context, second).ok()?;
    if signer != other || kind != other_kind || digest == other_digest {
        return None;
    }
    let slot = |envelope: &wire::Envelope| -> Option<(u64, u64, Vec<u8>)> {
        let bytes = envelope.body.as_slice();
        Some(match kind {
            Kind::Wrapper => {
                let w = wire::Wrapper::decode(bytes).ok()?;
                (w.epoch, w.number, [w.previous, w.batch].concat())
            }
            Kind::Propose => {
                let p = wire::Propose::decode(bytes).ok()?;
                (p.epoch, p.height, [p.id, p.number.to_be_bytes().to_vec()].concat())
            }
            Kind::Prepare => {
                let p = wire::Prepare::decode(bytes).ok()?;
                (p.epoch, p.height, p.id)
            }
            Kind::EpochStart => {
                let s = wire::EpochStart::decode(bytes).ok()?;
                (s.epoch, 0, s.opening)
            }
            _ => return None,
        })
    };
    let (a, b) = (slot(first)?, slot(second)?);
    if (a.0, a.1) != (b.0, b.1) || a.2 == b.2 {
        return None;
    }
    let fault = match kind {
        Kind::Wrapper => Fault::Wrappers,
        Kind::Propose => Fault::Proposals,
        Kind::Prepare => Fault::Prepares,
        _ => Fault::Starts,
    };
    let bare = |envelope: &wire::Envelope| wire::Envelope { attachment: Vec::new(), ..envelope.clone() };
    Some(Evidence { signer, fault, envelopes: [bare(first), bare(second)] })
}

impl Evidence {
    /// The bytes to store or send.
    pub(crate) fn to_wire(&self) -> wire::Evidence {
        wire::Evidence { messages: self.envelopes.to_vec() }
    }

    /// Reads and checks stored bytes.
    pub(crate) fn from_wire(context: &Context, evidence: &wire::Evidence) -> Option<Self> {
        let [first, second] = evidence.messages.as_slice() else { return None };
        contradiction(context, first, second)
    }
}
