//! Aggregation (RFC 9591 section 5.3): shares in, certificate out.
//!
//! A result is returned only if libsecp256k1 accepts it, beside the check that
//! the FROST library makes itself. If shares are bad, *all* who sent one are
//! named, so that the next session can leave them out at once. Bad shares whose
//! errors cancel each other out do no harm and are not looked for: the signature
//! is valid. Where each share matters by itself, use
//! [`verify_share`](crate::verify_share).

use std::collections::{BTreeMap, BTreeSet};

use frost_core::CheaterDetection;
use frost_secp256k1_tr as frost;

use crate::curve;
use crate::keys::GroupKeys;
use crate::session::{self, Session, SessionError, Sessions, Signers};
use crate::sign::Share;
use crate::verify::verify;

/// Joins the shares of a session to the group's BIP340 signature of `message`.
///
/// # Errors
/// [`AggregateError`]; [`AggregateError::culprits`] names all who sent a bad share.
pub fn aggregate(
    keys: &GroupKeys,
    message: &[u8; 32],
    session: &Session,
    shares: &BTreeMap<u16, Share>,
) -> Result<[u8; 64], AggregateError> {
    aggregate_with(keys, message, session, shares, Signers::Threshold)
}

/// As [`aggregate`], for a session of as many signers as `signers` says.
pub(crate) fn aggregate_with(
    keys: &GroupKeys,
    message: &[u8; 32],
    session: &Session,
    shares: &BTreeMap<u16, Share>,
    signers: Signers,
) -> Result<[u8; 64], AggregateError> {
    session::check(keys, session.keys().copied(), signers)?;
    check_senders(session.keys(), shares.keys())?;
    let package = session::package(session, message);
    let scalars = shares
        .iter()
        .filter_map(|(number, share)| Some((curve::identifier(*number)?, share.scalar()?)))
        .collect();
    let detection = CheaterDetection::AllCheaters;
    let signature = match frost_core::aggregate_custom(&package, &scalars, keys.package(), detection) {
        Ok(signature) => signature,
        Err(frost::Error::InvalidSignatureShare { culprits }) => {
            let named = |number: &u16| curve::identifier(*number).is_some_and(|id| culprits.contains(&id));
            let numbers = session.keys().copied().filter(named).collect();
            return Err(AggregateError::Culprits { numbers });
        }
        Err(e) => return Err(AggregateError::Library { reason: e.to_string() }),
    };
    let signature: [u8; 64] = signature
        .serialize()
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(AggregateError::Unverified)?;
    if !verify(&keys.group_key(), message, &signature) {
        return Err(AggregateError::Unverified);
    }
    Ok(signature)
}

/// Joins the shares of all messages of a head, all or none. A signer that sent a
/// wrong number of shares is a culprit like one whose share is bad.
///
/// # Errors
/// As [`aggregate`]; the culprits of all messages together are named.
pub fn aggregate_many(
    keys: &GroupKeys,
    messages: &[[u8; 32]],
    sessions: &Sessions,
    shares: &BTreeMap<u16, Vec<Share>>,
) -> Result<Vec<[u8; 64]>, AggregateError> {
    session::check_many(keys, messages.len(), sessions)?;
    check_senders(sessions.keys(), shares.keys())?;
    let mut culprits: BTreeSet<u16> =
        shares.iter().filter(|(_, list)| list.len() != messages.len()).map(|(number, _)| *number).collect();
    if !culprits.is_empty() {
        return Err(AggregateError::Culprits { numbers: culprits.into_iter().collect() });
    }
    let mut signatures = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let session = session::pick(sessions, index);
        let one = shares.iter().filter_map(|(number, list)| Some((*number, *list.get(index)?))).collect();
        match aggregate(keys, message, &session, &one) {
            Ok(signature) => signatures.push(signature),
            Err(AggregateError::Culprits { numbers }) => culprits.extend(numbers),
            Err(other) => return Err(other),
        }
    }
    if culprits.is_empty() {
        Ok(signatures)
    } else {
        Err(AggregateError::Culprits { numbers: culprits.into_iter().collect() })
    }
}

/// Refuses shares that are not exactly those of the session's signers.
fn check_senders<'a>(
    signers: impl Iterator<Item = &'a u16>,
    senders: impl Iterator<Item = &'a u16>,
) -> Result<(), AggregateError> {
    let signers: BTreeSet<u16> = signers.copied().collect();
    let senders: BTreeSet<u16> = senders.copied().collect();
    if let Some(number) = senders.difference(&signers).next() {
        return Err(AggregateError::Stranger { number: *number });
    }
    let missing: Vec<u16> = signers.difference(&senders).copied().collect();
    if missing.is_empty() { Ok(()) } else { Err(AggregateError::Missing { numbers: missing }) }
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AggregateError {
    /// The session is none.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Some signers have sent no share yet.
    #[error("the shares of custodians {numbers:?} are missing")]
    Missing {
        /// Whose.
        numbers: Vec<u16>,
    },
    /// A share of one that is no signer of this session.
    #[error("there is a share of custodian {number}, which is no signer of this session")]
    Stranger {
        /// Whose.
        number: u16,
    },
    /// Bad shares.
    #[error("custodians {numbers:?} sent bad shares: make a new session without them")]
    Culprits {
        /// All who sent one, ascending.
        numbers: Vec<u16>,
    },
    /// The FROST library refused what passed all checks here.
    #[error("the FROST library refused to aggregate: {reason}")]
    Library {
        /// What it said.
        reason: String,
    },
    /// libsecp256k1 refused what the FROST library accepted. Never publish it.
    #[error("libsecp256k1 refuses the aggregated signature: report this as a defect")]
    Unverified,
}

impl AggregateError {
    /// All custodians that are to blame: none unless shares were bad.
    pub fn culprits(&self) -> &[u16] {
        match self {
            Self::Culprits { numbers } => numbers,
            Self::Session(_)
            | Self::Missing { .. }
            | Self::Stranger { .. }
            | Self::Library { .. }
            | Self::Unverified => &[],
        }
    }
}
