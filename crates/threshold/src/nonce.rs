//! Nonces and their commitments: FROST round 1 (RFC 9591 section 5.1).
//!
//! A nonce used for two different shares gives the signer's secret away, so a
//! [`Nonce`] has no `Clone`, `Debug` or `Serialize`, is consumed by the signing
//! that uses it, and is wiped when dropped. It lives in memory only: there is no
//! way to write it down.

use std::cmp::Ordering;
use std::fmt;

use frost_secp256k1_tr as frost;
use rand_core::{CryptoRng, RngCore};

use crate::curve::{self, POINT};
use crate::keys::KeyShare;
use crate::limits::MAX_MESSAGES;
use crate::memory::{Wiped, leaving_nothing};

/// One signer's secret nonces for one signature over one message.
///
/// Used up by [`sign`](crate::sign):
///
/// ```
/// use std::collections::BTreeMap;
/// use concordat_threshold::{KeyShare, Nonce, Session, sign};
/// fn once(share: &KeyShare, nonce: Nonce, one: &Session, two: &Session) {
///     let _ = sign(share, nonce, &[1; 32], one);
/// }
/// ```
/// A second use does not compile (this differs from the above by one line only):
/// ```compile_fail,E0382
/// use std::collections::BTreeMap;
/// use concordat_threshold::{KeyShare, Nonce, Session, sign};
/// fn once(share: &KeyShare, nonce: Nonce, one: &Session, two: &Session) {
///     let _ = sign(share, nonce, &[1; 32], one);
///     let _ = sign(share, nonce, &[2; 32], two);
/// }
/// ```
/// Nor does a copy, a print or a way to store it:
/// ```compile_fail,E0277
/// fn copy<T: Clone>() {}
/// copy::<concordat_threshold::Nonce>();
/// ```
/// ```compile_fail,E0277
/// fn print<T: std::fmt::Debug>() {}
/// print::<concordat_threshold::Nonce>();
/// ```
/// ```compile_fail,E0277
/// fn store<T: serde::Serialize>() {}
/// store::<concordat_threshold::Nonce>();
/// ```
pub struct Nonce {
    nonces: Wiped<frost::round1::SigningNonces>,
    commitment: Commitment,
}

impl Nonce {
    /// The public commitment to these nonces.
    pub fn commitment(&self) -> &Commitment {
        &self.commitment
    }

    pub(crate) fn secrets(&self) -> &frost::round1::SigningNonces {
        &self.nonces
    }
}

/// The public commitment to one [`Nonce`]: two points, always valid.
#[derive(Clone)]
pub struct Commitment {
    bytes: [u8; Commitment::LENGTH],
    points: frost::round1::SigningCommitments,
}

impl Commitment {
    /// Bytes of a commitment: the hiding and the binding point, compressed.
    pub const LENGTH: usize = 2 * POINT;

    /// Parses a commitment; refuses what is not two points in canonical form.
    /// The point at infinity has no encoding, so it can't be one of them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CommitmentError> {
        let length = CommitmentError::Length { got: bytes.len() };
        let bytes: [u8; Self::LENGTH] = bytes.try_into().map_err(|_| length.clone())?;
        let (hiding, binding) = bytes.split_first_chunk::<POINT>().ok_or(length)?;
        Ok(Self { points: frost::round1::SigningCommitments::new(point(hiding)?, point(binding)?), bytes })
    }

    /// The 66 bytes of the commitment.
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        self.bytes
    }

    pub(crate) fn points(&self) -> frost::round1::SigningCommitments {
        self.points
    }
}

fn point(bytes: &[u8]) -> Result<frost::round1::NonceCommitment, CommitmentError> {
    bytes
        .try_into()
        .ok()
        .and_then(curve::parse_point)
        .and_then(|_| frost::round1::NonceCommitment::deserialize(bytes).ok())
        .ok_or(CommitmentError::Point)
}

impl PartialEq for Commitment {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Commitment {}

impl PartialOrd for Commitment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Commitment {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Commitment(")?;
        self.bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str(")")
    }
}

/// Makes fresh nonces for one signature. `rng` must be a cryptographic generator
/// whose state is never repeated; the secret share is mixed in, so that a weak
/// one alone does not give it away (RFC 9591 section 4.1).
pub fn commit(share: &KeyShare, rng: &mut (impl RngCore + CryptoRng)) -> (Nonce, Commitment) {
    leaving_nothing(|| {
        loop {
            let (nonces, points) = frost::round1::commit(share.package().signing_share(), rng);
            let nonces = Wiped::new(nonces);
            // A nonce of zero has no commitment to send; it comes once in 2^255 draws.
            if let Some(bytes) = serialize(&points) {
                let commitment = Commitment { bytes, points };
                return (Nonce { nonces, commitment: commitment.clone() }, commitment);
            }
        }
    })
}

/// Makes fresh nonces for each message of a head, in its order. `None` for zero
/// or more than [`MAX_MESSAGES`] messages, which no head has.
pub fn commit_many(
    share: &KeyShare,
    messages: usize,
    rng: &mut (impl RngCore + CryptoRng),
) -> Option<(Vec<Nonce>, Vec<Commitment>)> {
    (1..=MAX_MESSAGES).contains(&messages).then(|| (0..messages).map(|_| commit(share, rng)).unzip())
}

fn serialize(points: &frost::round1::SigningCommitments) -> Option<[u8; Commitment::LENGTH]> {
    let hiding = points.hiding().serialize().ok()?;
    let binding = points.binding().serialize().ok()?;
    [hiding, binding].concat().try_into().ok()
}

/// Why bytes are no nonce commitment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitmentError {
    /// Not 66 bytes.
    #[error("a nonce commitment is {} bytes, got {got}", Commitment::LENGTH)]
    Length {
        /// The length found.
        got: usize,
    },
    /// One half is no canonical point of the curve.
    #[error("a nonce commitment holds bytes that are no canonical point of secp256k1")]
    Point,
}
