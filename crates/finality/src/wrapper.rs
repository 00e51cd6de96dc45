//! What the guard in front of the ordered log asks of an entry (PROTOCOL 6): that the epoch's leader signed it, that its
//! number fits its place, and that it continues the entry before.

use std::collections::BTreeSet;

use concordat_events::hash::Hash;

use crate::context::Context;
use crate::message::{Body, Message, MessageError, Msg};

/// Why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrapperError {
    /// It isn't a message of a custodian.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Not signed by the epoch's leader.
    #[error("entry {number} of epoch {epoch} is signed by custodian {signer}, its leader is {leader}")]
    Signer {
        /// The epoch.
        epoch: u64,
        /// The place.
        number: u64,
        /// Who signed it.
        signer: u16,
        /// Who should have.
        leader: u16,
    },
    /// Another epoch, another number, or neither EpochStart nor wrapper.
    #[error("what stands at place {number} of epoch {epoch} belongs elsewhere")]
    Place {
        /// The epoch.
        epoch: u64,
        /// The place.
        number: u64,
    },
    /// It doesn't continue the entry before.
    #[error("entry {number} of epoch {epoch} doesn't continue the entry before it")]
    Chain {
        /// The epoch.
        epoch: u64,
        /// The place.
        number: u64,
    },
}

/// Checks the entry at place `number` of epoch `epoch`'s log. `previous` is the digest of the entry before.
pub fn check_entry(
    context: &Context,
    named: &BTreeSet<u16>,
    epoch: u64,
    number: u64,
    previous: Option<&Hash>,
    bytes: &[u8],
) -> Result<Msg, WrapperError> {
    let envelope = crate::wire::decode(bytes).map_err(crate::message::malformed)?;
    let message = Message::check(context, envelope)?;
    let mut named = named.clone();
    let place = WrapperError::Place { epoch, number };
    match &message.body {
        Body::EpochStart(start) if number == 0 && start.epoch == epoch => {
            named.extend(start.evidence.iter().map(|evidence| evidence.finding.culprit));
        }
        Body::Wrapper(wrapper) if number > 0 && wrapper.epoch == epoch && wrapper.number == number => {
            if previous != Some(&wrapper.previous) {
                return Err(WrapperError::Chain { epoch, number });
            }
        }
        _ => return Err(place),
    }
    let leader = context.leader(epoch, &named);
    if message.sender != leader {
        return Err(WrapperError::Signer { epoch, number, signer: message.sender, leader });
    }
    Ok(message)
}
