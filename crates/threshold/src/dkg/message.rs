//! The messages of a ceremony and their one encoding.
//!
//! Parsing is strict: a message has one encoding only, is bounded, and what it
//! holds is valid (points are points, scalars are scalars). A message that can
//! hold a secret prints its kind and nothing else.

use std::collections::BTreeSet;
use std::fmt;

use concordat_events::hash::{Hash, tagged};
use frost_secp256k1_tr as frost;
use prost::Message as _;
use zeroize::Zeroizing;

use crate::curve::{self, POINT, SCALAR};
use crate::limits::{MAX_CEREMONY_MESSAGE, MAX_CUSTODIANS, MIN_THRESHOLD};
use crate::nonce::Commitment;
use crate::reshare::Deal;
use crate::sign::Share;

use super::alarm::Reason;
use super::wire;

/// Version of the encoding; another one is refused.
const VERSION: u32 = 1;

/// Bytes of a BIP340 signature, also of a proof of knowledge.
const SIGNATURE: usize = 64;

/// A message of one ceremony.
pub struct Message {
    pub(crate) ceremony: Hash,
    pub(crate) body: Body,
}

/// What a message says.
pub enum Body {
    /// The commitment to the sender's polynomial.
    Round1(Round1Package),
    /// The same in a reshare, where the constant is known and needs no proof.
    Deal(Deal),
    /// What the sender received in round 1.
    Echo(View),
    /// The receiver's share of the sender's polynomial. **Secret.**
    Round2 {
        /// The receiver's number.
        to: u16,
        /// Its share.
        share: SecretShare,
    },
    /// The hash of all that was agreed.
    Confirm(Hash),
    /// The nonce commitment for the test signature.
    TestCommit(Commitment),
    /// The share of the test signature.
    TestShare {
        /// The nonce commitments it was made for.
        session: View,
        /// The share.
        share: Share,
    },
    /// The verified test signature.
    Done([u8; SIGNATURE]),
    /// The sender ended the ceremony.
    Abort {
        /// Why.
        reason: Reason,
        /// Whom it suspects.
        suspects: BTreeSet<u16>,
    },
}

/// The kinds of message, in the order of the ceremony.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Body::Round1`] and [`Body::Deal`].
    Round1,
    /// [`Body::Echo`].
    Echo,
    /// [`Body::Round2`].
    Round2,
    /// [`Body::Confirm`].
    Confirm,
    /// [`Body::TestCommit`].
    TestCommit,
    /// [`Body::TestShare`].
    TestShare,
    /// [`Body::Done`].
    Done,
    /// [`Body::Abort`].
    Abort,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Round1 => "round 1",
            Self::Echo => "echo",
            Self::Round2 => "round 2",
            Self::Confirm => "confirmation",
            Self::TestCommit => "test commitment",
            Self::TestShare => "test share",
            Self::Done => "done",
            Self::Abort => "abort",
        })
    }
}

impl Message {
    /// A message of this ceremony.
    pub fn new(ceremony: Hash, body: Body) -> Self {
        Self { ceremony, body }
    }

    /// The ceremony it belongs to.
    pub fn ceremony(&self) -> Hash {
        self.ceremony
    }

    /// What it says.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match &self.body {
            Body::Round1(_) | Body::Deal(_) => Kind::Round1,
            Body::Echo(_) => Kind::Echo,
            Body::Round2 { .. } => Kind::Round2,
            Body::Confirm(_) => Kind::Confirm,
            Body::TestCommit(_) => Kind::TestCommit,
            Body::TestShare { .. } => Kind::TestShare,
            Body::Done(_) => Kind::Done,
            Body::Abort { .. } => Kind::Abort,
        }
    }

    /// The message as bytes. Those of a `Round2` are secret, so all are wiped.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let body = match &self.body {
            Body::Round1(package) => wire::Body::Round1(package.bytes.clone()),
            Body::Deal(deal) => wire::Body::Deal(deal.to_bytes().to_vec()),
            Body::Echo(view) => wire::Body::Echo(view.to_wire()),
            Body::Round2 { to, share } => wire::Body::Round2(wire::Round2 {
                to: u32::from(*to),
                share: share.0.signing_share().serialize(),
            }),
            Body::Confirm(hash) => wire::Body::Confirm(hash.as_bytes().to_vec()),
            Body::TestCommit(commitment) => wire::Body::TestCommit(commitment.to_bytes().to_vec()),
            Body::TestShare { session, share } => wire::Body::TestShare(wire::TestShare {
                session: Some(session.to_wire()),
                share: share.to_bytes().to_vec(),
            }),
            Body::Done(signature) => wire::Body::Done(signature.to_vec()),
            Body::Abort { reason, suspects } => wire::Body::Abort(wire::Abort {
                reason: reason.code(),
                suspects: suspects.iter().copied().map(u32::from).collect(),
            }),
        };
        let envelope = wire::Envelope {
            version: VERSION,
            ceremony: self.ceremony.as_bytes().to_vec(),
            body: Some(body),
        };
        Zeroizing::new(envelope.encode_to_vec())
    }

    /// Parses a message.
    ///
    /// # Errors
    /// [`DecodeError`]; the channel's other end is faulty, it names nobody else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_CEREMONY_MESSAGE {
            return Err(DecodeError::TooLong { got: bytes.len() });
        }
        let envelope = wire::Envelope::decode(bytes).map_err(|_| DecodeError::Protobuf)?;
        if envelope.version != VERSION {
            return Err(DecodeError::Version { got: envelope.version });
        }
        let ceremony = hash(&envelope.ceremony, "ceremony id")?;
        let body = match envelope.body.ok_or(DecodeError::Field { what: "body" })? {
            wire::Body::Round1(bytes) => Body::Round1(Round1Package::from_bytes(&bytes)?),
            wire::Body::Deal(bytes) => Body::Deal(Deal::from_bytes(&bytes)?),
            wire::Body::Echo(view) => Body::Echo(View::from_wire(&view)?),
            wire::Body::Round2(wire) => {
                Body::Round2 { to: number(wire.to)?, share: SecretShare::from_bytes(&wire.share)? }
            }
            wire::Body::Confirm(bytes) => Body::Confirm(hash(&bytes, "transcript")?),
            wire::Body::TestCommit(bytes) => Body::TestCommit(
                Commitment::from_bytes(&bytes)
                    .map_err(|_| DecodeError::Field { what: "nonce commitment" })?,
            ),
            wire::Body::TestShare(wire) => Body::TestShare {
                session: View::from_wire(&wire.session.unwrap_or_default())?,
                share: Share::from_bytes(&wire.share)
                    .map_err(|_| DecodeError::Field { what: "signature share" })?,
            },
            wire::Body::Done(bytes) => {
                Body::Done(bytes.try_into().map_err(|_| DecodeError::Field { what: "test signature" })?)
            }
            wire::Body::Abort(wire) => Body::Abort {
                reason: Reason::from_code(wire.reason).ok_or(DecodeError::Field { what: "reason" })?,
                suspects: wire.suspects.into_iter().map(number).collect::<Result<_, _>>()?,
            },
        };
        let message = Self { ceremony, body };
        // Protobuf has many encodings of one value; only the shortest is valid.
        if message.encode().as_slice() == bytes { Ok(message) } else { Err(DecodeError::NotCanonical) }
    }

    /// Tells this message from every other one, without holding what it says.
    pub(crate) fn digest(&self) -> Hash {
        tagged("concordat/dkg/message", &[&self.encode()])
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} of ceremony {})", self.kind(), self.ceremony.short())
    }
}

fn hash(bytes: &[u8], what: &'static str) -> Result<Hash, DecodeError> {
    Hash::from_slice(bytes).ok_or(DecodeError::Field { what })
}

fn number(value: u32) -> Result<u16, DecodeError> {
    match u16::try_from(value) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(DecodeError::Field { what: "custodian number" }),
    }
}

/// A custodian's round-1 package: the commitment to its polynomial, one point per
/// coefficient, and the proof that it knows the constant one.
#[derive(Clone)]
pub struct Round1Package {
    bytes: Vec<u8>,
    pub(super) package: frost::keys::dkg::round1::Package,
}

impl Round1Package {
    /// Takes over what the library made.
    pub(super) fn from_package(package: &frost::keys::dkg::round1::Package) -> Result<Self, frost::Error> {
        let mut bytes = package.commitment().serialize_whole()?;
        bytes.extend(package.proof_of_knowledge().serialize()?);
        Ok(Self { bytes, package: package.clone() })
    }

    /// Parses a package: the points, then the 64 bytes of the proof. The proof
    /// itself is checked by the ceremony, which knows the sender.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bad = DecodeError::Field { what: "round-1 package" };
        let (points, proof) = bytes.split_last_chunk::<SIGNATURE>().ok_or(bad.clone())?;
        let (points, rest) = points.as_chunks::<POINT>();
        let size = usize::from(MIN_THRESHOLD)..=MAX_CUSTODIANS;
        if !rest.is_empty()
            || !size.contains(&points.len())
            || points.iter().any(|point| curve::parse_point(point).is_none())
        {
            return Err(bad);
        }
        let commitment = frost::keys::VerifiableSecretSharingCommitment::deserialize(points.iter())
            .map_err(|_| bad.clone())?;
        let proof = frost::Signature::deserialize(proof).map_err(|_| bad)?;
        Ok(Self { bytes: bytes.to_vec(), package: frost::keys::dkg::round1::Package::new(commitment, proof) })
    }

    /// The package as bytes.
    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of coefficients, which is the threshold it was made for.
    pub fn threshold(&self) -> usize {
        self.bytes.len().saturating_sub(SIGNATURE) / POINT
    }
}

/// A share of one custodian's polynomial for another one. **Secret**: no `Debug`,
/// no `Clone`, wiped when dropped.
pub struct SecretShare(pub(super) frost::keys::dkg::round2::Package);

impl SecretShare {
    /// Parses a share: 32 bytes of a scalar below the order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bad = DecodeError::Field { what: "secret share" };
        if bytes.len() != SCALAR {
            return Err(bad);
        }
        let share = frost::keys::SigningShare::deserialize(bytes).map_err(|_| bad)?;
        Ok(Self(frost::keys::dkg::round2::Package::new(share)))
    }

    /// The share in its scalar form.
    pub(crate) fn scalar(&self) -> Option<Zeroizing<curve::Scalar>> {
        let bytes = Zeroizing::new(self.0.signing_share().serialize());
        let bytes: Zeroizing<[u8; SCALAR]> = Zeroizing::new(bytes.as_slice().try_into().ok()?);
        curve::parse_scalar(&bytes).map(Zeroizing::new)
    }
}

/// One hash per custodian, in roster order: what the sender holds of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View(Vec<Hash>);

impl View {
    /// A view of at most [`MAX_CUSTODIANS`] hashes; more are cut off.
    pub(crate) fn of(mut hashes: Vec<Hash>) -> Self {
        hashes.truncate(MAX_CUSTODIANS);
        Self(hashes)
    }

    /// The hashes.
    pub fn hashes(&self) -> &[Hash] {
        &self.0
    }

    fn to_wire(&self) -> wire::Hashes {
        let hashes = self.0.iter().map(|hash| hash.as_bytes().to_vec()).collect();
        wire::Hashes { hashes }
    }

    fn from_wire(wire: &wire::Hashes) -> Result<Self, DecodeError> {
        if wire.hashes.len() > MAX_CUSTODIANS {
            return Err(DecodeError::Field { what: "view" });
        }
        wire.hashes.iter().map(|bytes| hash(bytes, "view")).collect::<Result<_, _>>().map(Self)
    }
}

/// Why bytes are no message of a ceremony.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than any message has.
    #[error("a message of a ceremony has at most {MAX_CEREMONY_MESSAGE} bytes, got {got}")]
    TooLong {
        /// How many came.
        got: usize,
    },
    /// No protobuf of this shape.
    #[error("the bytes are no message of a ceremony")]
    Protobuf,
    /// Another version of the encoding.
    #[error("the message has version {got}, this build speaks {VERSION}: all members need the same build")]
    Version {
        /// The version found.
        got: u32,
    },
    /// A field is missing or holds what it can't hold.
    #[error("the message's {what} is missing or not valid")]
    Field {
        /// Which field.
        what: &'static str,
    },
    /// A valid message in another encoding than its own.
    #[error("the message is not in its canonical encoding")]
    NotCanonical,
}
