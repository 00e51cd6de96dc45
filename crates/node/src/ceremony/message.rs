//! What custodians tell each other in a ceremony: one bundle, signed by the identity key on top of mutual TLS, that
//! holds all a sender has for one receiver. Sending it again is harmless, so a lost one needs no care.

use concordat_events::hash::tagged;
use concordat_events::protobuf::Shape;
use concordat_events::{Hash, PublicKey};
use prost::Message as _;

use crate::keys::{self, CustodianKeys};

/// Bytes of one bundle: eight messages of a ceremony of 64 (4.2 kB at most each), and a signed genesis.
pub const BUNDLE_BYTES: usize = 256 * 1024;

/// Messages of the threshold ceremony in one bundle; it has eight kinds, one each.
const MESSAGES: usize = 16;

/// Fields of one bundle, counted before it is decoded: its messages, five others, and room for a later build's.
const FIELDS: usize = 4 * MESSAGES;

/// All that one custodian has for another at one moment.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Bundle {
    /// Chosen at random when the sender's process began the ceremony; zero bytes stand for none.
    #[prost(bytes = "vec", tag = "1")]
    pub run: Vec<u8>,
    /// The attempt that `messages` and `signature` belong to; empty while the sender doesn't know all runs.
    #[prost(bytes = "vec", tag = "2")]
    pub attempt: Vec<u8>,
    /// Messages of the threshold ceremony for this receiver.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub messages: Vec<Vec<u8>>,
    /// The sender's signature over the genesis: its share is stored. Empty before that.
    #[prost(bytes = "vec", tag = "4")]
    pub signature: Vec<u8>,
    /// The group key under which it signed.
    #[prost(bytes = "vec", tag = "5")]
    pub group_key: Vec<u8>,
    /// The genesis with all signatures, from one who has finished.
    #[prost(string, tag = "6")]
    pub genesis: String,
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // The shares of round 2 are in here.
        self.messages.iter_mut().for_each(zeroize::Zeroize::zeroize);
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Frame {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    proposal: Vec<u8>,
    #[prost(uint32, tag = "3")]
    sender: u32,
    #[prost(uint32, tag = "4")]
    receiver: u32,
    #[prost(bytes = "vec", tag = "5")]
    body: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    signature: Vec<u8>,
}

/// Version of this encoding.
const VERSION: u32 = 1;

/// Why bytes are no bundle of this ceremony.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Too long, or no protobuf of this shape.
    #[error("custodian {from} sent {got} bytes that are no message of a ceremony")]
    Malformed {
        /// Who the channel says sent it.
        from: u16,
        /// How many bytes.
        got: usize,
    },
    /// Another build.
    #[error(
        "custodian {from} speaks version {got} of the ceremony, this build version {VERSION}; all need the same"
    )]
    Version {
        /// Who the channel says sent it.
        from: u16,
        /// Its version.
        got: u32,
    },
    /// Another proposal.
    #[error("custodian {from} has another proposal ({got}, ours is {ours}); compare the proposals")]
    Proposal {
        /// Who the channel says sent it.
        from: u16,
        /// Its proposal, the first digits.
        got: String,
        /// Ours, the first digits.
        ours: String,
    },
    /// Not from whom the channel says, or not for us.
    #[error("custodian {from} sent a message of custodian {sender} for custodian {receiver}")]
    Misrouted {
        /// Who the channel says sent it.
        from: u16,
        /// Whom it names as sender.
        sender: u32,
        /// Whom it names as receiver.
        receiver: u32,
    },
    /// The signature doesn't verify.
    #[error(
        "a message from custodian {from} isn't signed with its identity key; it was altered, or its keys aren't those of its card"
    )]
    Signature {
        /// Who the channel says sent it.
        from: u16,
    },
}

impl Bundle {
    /// Signs and encodes a bundle.
    pub fn seal(&self, keys: &CustodianKeys, proposal: Hash, sender: u16, receiver: u16) -> Vec<u8> {
        seal(self.encode_to_vec(), keys, proposal, sender, receiver)
    }

    /// Checks and decodes what `from`, as the channel says, sent to `own`. `identity` is `from`'s.
    pub fn open(
        bytes: &[u8],
        identity: &PublicKey,
        proposal: Hash,
        from: u16,
        own: u16,
    ) -> Result<Self, BundleError> {
        let malformed = || BundleError::Malformed { from, got: bytes.len() };
        let body = open(bytes, identity, proposal, from, own)?;
        Shape(&[]).check(&body, FIELDS).map_err(|_| malformed())?;
        let bundle = Bundle::decode(body.as_slice()).map_err(|_| malformed())?;
        match bundle.messages.len() <= MESSAGES {
            true => Ok(bundle),
            false => Err(malformed()),
        }
    }
}

/// Signs what a custodian tells another in a ceremony.
pub(crate) fn seal(
    body: Vec<u8>,
    keys: &CustodianKeys,
    proposal: Hash,
    sender: u16,
    receiver: u16,
) -> Vec<u8> {
    let signature = keys.sign(&digest(proposal, sender, receiver, &body)).to_vec();
    let (sender, receiver) = (sender.into(), receiver.into());
    let proposal = proposal.as_bytes().to_vec();
    Frame { version: VERSION, proposal, sender, receiver, body, signature }.encode_to_vec()
}

/// Which ceremony a message says it belongs to. Nothing of it is checked.
pub(crate) fn proposal_of(bytes: &[u8]) -> Option<Hash> {
    let short = Some(bytes).filter(|bytes| bytes.len() <= BUNDLE_BYTES)?;
    Hash::from_slice(&Frame::decode(short).ok()?.proposal)
}

/// Checks what [`seal`] made; gives the body, which isn't decoded yet.
pub(crate) fn open(
    bytes: &[u8],
    identity: &PublicKey,
    proposal: Hash,
    from: u16,
    own: u16,
) -> Result<Vec<u8>, BundleError> {
    let malformed = || BundleError::Malformed { from, got: bytes.len() };
    if bytes.len() > BUNDLE_BYTES {
        return Err(malformed());
    }
    let frame = Frame::decode(bytes).map_err(|_| malformed())?;
    if frame.version != VERSION {
        return Err(BundleError::Version { from, got: frame.version });
    }
    if frame.proposal != proposal.as_bytes() {
        let got = Hash::from_slice(&frame.proposal).ok_or_else(malformed)?.short();
        return Err(BundleError::Proposal { from, got, ours: proposal.short() });
    }
    if frame.sender != u32::from(from) || frame.receiver != u32::from(own) {
        return Err(BundleError::Misrouted { from, sender: frame.sender, receiver: frame.receiver });
    }
    if !keys::verify(identity, &digest(proposal, from, own, &frame.body), &frame.signature) {
        return Err(BundleError::Signature { from });
    }
    Ok(frame.body)
}

fn digest(proposal: Hash, sender: u16, receiver: u16, body: &[u8]) -> Hash {
    tagged(
        "concordat/ceremony/bundle",
        &[&VERSION.to_be_bytes(), proposal.as_bytes(), &sender.to_be_bytes(), &receiver.to_be_bytes(), body],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> Bundle {
        let mut bundle = Bundle::default();
        bundle.run = vec![7; 32];
        bundle.messages = vec![vec![1, 2, 3]];
        bundle
    }

    #[test]
    fn a_bundle_counts_for_its_sender_receiver_and_proposal_only() {
        let (keys, _) = CustodianKeys::generate().unwrap();
        let (ours, theirs) = (tagged("test", &[b"1"]), tagged("test", &[b"2"]));
        let bytes = bundle().seal(&keys, ours, 1, 2);
        let identity = keys.public_key();
        assert!(Bundle::open(&bytes, &identity, ours, 1, 2).unwrap() == bundle());
        let refused = |result: Result<Bundle, BundleError>| result.err().unwrap();
        assert!(matches!(
            refused(Bundle::open(&bytes, &identity, theirs, 1, 2)),
            BundleError::Proposal { from: 1, .. }
        ));
        assert!(matches!(
            refused(Bundle::open(&bytes, &identity, ours, 3, 2)),
            BundleError::Misrouted { from: 3, sender: 1, .. }
        ));
        assert!(matches!(
            refused(Bundle::open(&bytes, &identity, ours, 1, 3)),
            BundleError::Misrouted { from: 1, receiver: 2, .. }
        ));
        let (other, _) = CustodianKeys::generate().unwrap();
        assert!(matches!(
            refused(Bundle::open(&bytes, &other.public_key(), ours, 1, 2)),
            BundleError::Signature { from: 1 }
        ));
    }

    #[test]
    fn no_changed_byte_gets_through() {
        let (keys, _) = CustodianKeys::generate().unwrap();
        let proposal = tagged("test", &[]);
        let bytes = bundle().seal(&keys, proposal, 1, 2);
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            let read = Bundle::open(&changed, &keys.public_key(), proposal, 1, 2);
            assert!(read.is_err(), "byte {place} was changed and nobody noticed");
        }
        assert!(Bundle::open(&vec![0; BUNDLE_BYTES + 1], &keys.public_key(), proposal, 1, 2).is_err());
        assert!(Bundle::open(b"", &keys.public_key(), proposal, 1, 2).is_err());
    }
}
