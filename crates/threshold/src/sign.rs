//! Signature shares: FROST round 2 (RFC 9591 section 5.2), the commit vote.
//!
//! A share is computed once per nonce. Sent again, it is the same bytes, kept by
//! the caller; it is never computed anew.

use std::fmt;

use frost_secp256k1_tr as frost;

use crate::curve::{self, SCALAR};
use crate::keys::{GroupKeys, KeyShare};
use crate::memory::leaving_nothing;
use crate::nonce::Nonce;
use crate::session::{self, Session, SessionError, Sessions, Signers};

/// One signer's share of one signature: a valid scalar. Public once sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share([u8; Share::LENGTH]);

impl Share {
    /// Bytes of a share.
    pub const LENGTH: usize = SCALAR;

    /// Parses a share; refuses what is not 32 bytes of a scalar below the order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ShareError> {
        let got = bytes.len();
        let array = bytes.try_into().map_err(|_| ShareError::Length { got })?;
        frost::round2::SignatureShare::deserialize(bytes).map_err(|_| ShareError::Scalar)?;
        Ok(Self(array))
    }

    /// The 32 bytes of the share.
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        self.0
    }

    /// The share in the library's form. None never comes: parsing excludes it.
    pub(crate) fn scalar(&self) -> Option<frost::round2::SignatureShare> {
        frost::round2::SignatureShare::deserialize(&self.0).ok()
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share(")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str(")")
    }
}

/// Checks what [`sign`] checks, without using the nonce up: so that a leader's
/// bad session costs no nonce.
///
/// # Errors
/// As [`sign`].
pub fn check_own(share: &KeyShare, nonce: &Nonce, session: &Session) -> Result<(), SignError> {
    check_with(share, nonce, session, Signers::Threshold)
}

fn check_with(share: &KeyShare, nonce: &Nonce, session: &Session, signers: Signers) -> Result<(), SignError> {
    session::check(share.keys(), session.keys().copied(), signers)?;
    match session.get(&share.number()) {
        None => Err(SignError::OwnMissing { number: share.number() }),
        Some(listed) if listed != nonce.commitment() => Err(SignError::OwnAltered { number: share.number() }),
        Some(_) => Ok(()),
    }
}

/// Computes the share of one signature and uses the nonce up, also on failure.
///
/// # Errors
/// [`SignError`] if the session has not exactly `t` signers, names a stranger,
/// or lacks or alters the own commitment.
pub fn sign(
    share: &KeyShare,
    nonce: Nonce,
    message: &[u8; 32],
    session: &Session,
) -> Result<Share, SignError> {
    sign_with(share, nonce, message, session, Signers::Threshold)
}

/// As [`sign`], for a session of as many signers as `signers` says.
pub(crate) fn sign_with(
    share: &KeyShare,
    nonce: Nonce,
    message: &[u8; 32],
    session: &Session,
    signers: Signers,
) -> Result<Share, SignError> {
    check_with(share, &nonce, session, signers)?;
    let package = session::package(session, message);
    let made = leaving_nothing(move || frost::round2::sign(&package, nonce.secrets(), share.package()))
        .map_err(|e| SignError::Library { reason: e.to_string() })?;
    Share::from_bytes(&made.serialize()).map_err(|e| SignError::Library { reason: e.to_string() })
}

/// Computes the shares of all messages of a head, all or none: everything is
/// checked before the first nonce is used. All nonces are used up, also on failure.
///
/// # Errors
/// As [`sign`], and [`SessionError`] if nonces, messages and commitments are not
/// equally many.
pub fn sign_many(
    share: &KeyShare,
    nonces: Vec<Nonce>,
    messages: &[[u8; 32]],
    sessions: &Sessions,
) -> Result<Vec<Share>, SignError> {
    session::check_many(share.keys(), messages.len(), sessions)?;
    if nonces.len() != messages.len() {
        return Err(SignError::NonceCount { expected: messages.len(), got: nonces.len() });
    }
    let single: Vec<Session> = (0..messages.len()).map(|index| session::pick(sessions, index)).collect();
    for (nonce, session) in nonces.iter().zip(&single) {
        check_own(share, nonce, session)?;
    }
    nonces
        .into_iter()
        .zip(messages)
        .zip(&single)
        .map(|((nonce, message), session)| sign(share, nonce, message, session))
        .collect()
}

/// Checks one share against its sender's public share, before there are enough
/// to aggregate.
///
/// # Errors
/// [`ShareError::Session`] if the session is none or lacks the signer,
/// [`ShareError::Wrong`] if the signer sent a bad share.
pub fn verify_share(
    keys: &GroupKeys,
    number: u16,
    message: &[u8; 32],
    session: &Session,
    share: &Share,
) -> Result<(), ShareError> {
    verify_share_with(keys, number, message, session, share, Signers::Threshold)
}

/// As [`verify_share`], for a session of as many signers as `signers` says.
pub(crate) fn verify_share_with(
    keys: &GroupKeys,
    number: u16,
    message: &[u8; 32],
    session: &Session,
    share: &Share,
    signers: Signers,
) -> Result<(), ShareError> {
    session::check(keys, session.keys().copied(), signers)?;
    if !session.contains_key(&number) {
        return Err(ShareError::NotInSession { number });
    }
    let wrong = ShareError::Wrong { number };
    let id = curve::identifier(number).ok_or(wrong.clone())?;
    let public = keys.verifying_share(number).ok_or(wrong.clone())?;
    let scalar = share.scalar().ok_or(wrong.clone())?;
    let package = session::package(session, message);
    let key = keys.package().verifying_key();
    frost_core::verify_signature_share(id, public, &scalar, &package, key).map_err(|_| wrong)
}

/// Checks all shares that one signer sent for the messages of a head.
///
/// # Errors
/// As [`verify_share`]; a wrong number of shares is [`ShareError::Wrong`].
pub fn verify_shares(
    keys: &GroupKeys,
    number: u16,
    messages: &[[u8; 32]],
    sessions: &Sessions,
    shares: &[Share],
) -> Result<(), ShareError> {
    session::check_many(keys, messages.len(), sessions)?;
    if shares.len() != messages.len() {
        return Err(ShareError::Wrong { number });
    }
    for (index, (message, share)) in messages.iter().zip(shares).enumerate() {
        verify_share(keys, number, message, &session::pick(sessions, index), share)?;
    }
    Ok(())
}

/// Why a custodian does not sign. The maker of the session is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The session is none.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The own commitment is not in it.
    #[error("the session lacks the commitment of custodian {number}, which is to sign it")]
    OwnMissing {
        /// The own number.
        number: u16,
    },
    /// Another commitment stands in the own place.
    #[error("the session holds another commitment than custodian {number} made for it")]
    OwnAltered {
        /// The own number.
        number: u16,
    },
    /// Not one nonce per message.
    #[error("{expected} messages need as many nonces, got {got}")]
    NonceCount {
        /// The number of messages.
        expected: usize,
        /// The number of nonces.
        got: usize,
    },
    /// The FROST library refused what passed all checks here.
    #[error("the FROST library refused to sign: {reason}")]
    Library {
        /// What it said.
        reason: String,
    },
}

/// Why a share does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Not 32 bytes.
    #[error("a signature share is {} bytes, got {got}", Share::LENGTH)]
    Length {
        /// The length found.
        got: usize,
    },
    /// Not below the order of the curve.
    #[error("a signature share is not a valid scalar")]
    Scalar,
    /// The session is none.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The session does not have this signer.
    #[error("custodian {number} is no signer of this session")]
    NotInSession {
        /// The sender.
        number: u16,
    },
    /// The share is not that of its sender for this message and session.
    #[error("custodian {number} sent a share that does not fit its key, this message and this session")]
    Wrong {
        /// The culprit.
        number: u16,
    },
}
