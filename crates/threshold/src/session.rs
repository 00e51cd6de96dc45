//! Sessions: who signs with which commitments (PROTOCOL section 4, steps 5 and 6).
//!
//! A session of a head is checked here, before any secret is touched: signers are
//! known and exactly `t`, and each brings one commitment per message.

use std::collections::BTreeMap;

use frost_secp256k1_tr as frost;

use crate::curve;
use crate::keys::GroupKeys;
use crate::limits::MAX_MESSAGES;
use crate::nonce::Commitment;

/// The signers of one message, each with its commitment.
pub type Session = BTreeMap<u16, Commitment>;

/// The signers of all messages of a head, each with one commitment per message,
/// in the order of the messages.
pub type Sessions = BTreeMap<u16, Vec<Commitment>>;

/// How many signers a session must have.
#[derive(Clone, Copy)]
pub(crate) enum Signers {
    /// Exactly the threshold: every certificate.
    Threshold,
    /// All who hold a share: the test at the end of a ceremony.
    Everyone,
}

/// Refuses a session with the wrong number of signers or with unknown ones.
pub(crate) fn check(
    keys: &GroupKeys,
    numbers: impl ExactSizeIterator<Item = u16>,
    signers: Signers,
) -> Result<(), SessionError> {
    let expected = match signers {
        Signers::Threshold => usize::from(keys.threshold()),
        Signers::Everyone => keys.numbers().len(),
    };
    let got = numbers.len();
    if got != expected {
        return Err(SessionError::SignerCount { expected, got });
    }
    for number in numbers {
        if !keys.numbers().contains(&number) {
            return Err(SessionError::UnknownSigner { number });
        }
    }
    Ok(())
}

/// Refuses a session over too few or too many messages, and one in which a
/// signer has not one commitment for each.
pub(crate) fn check_many(keys: &GroupKeys, messages: usize, sessions: &Sessions) -> Result<(), SessionError> {
    if !(1..=MAX_MESSAGES).contains(&messages) {
        return Err(SessionError::MessageCount { got: messages });
    }
    check(keys, sessions.keys().copied(), Signers::Threshold)?;
    for (signer, commitments) in sessions {
        if commitments.len() != messages {
            return Err(SessionError::CommitmentCount {
                signer: *signer,
                expected: messages,
                got: commitments.len(),
            });
        }
    }
    Ok(())
}

/// The session of message `index`. A signer without a commitment for it is left
/// out, which the checks above exclude.
pub(crate) fn pick(sessions: &Sessions, index: usize) -> Session {
    sessions.iter().filter_map(|(number, all)| Some((*number, all.get(index)?.clone()))).collect()
}

/// The session in the library's form.
pub(crate) fn package(session: &Session, message: &[u8; 32]) -> frost::SigningPackage {
    let commitments =
        session.iter().filter_map(|(number, c)| Some((curve::identifier(*number)?, c.points()))).collect();
    frost::SigningPackage::new(commitments, message)
}

/// Why a session is none. Its maker is at fault: the leader that sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Not exactly the threshold.
    #[error("a session has exactly {expected} signers, this one has {got}")]
    SignerCount {
        /// How many there must be.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// A signer that holds no share.
    #[error("custodian {number} is in the session but holds no share of this group")]
    UnknownSigner {
        /// The number in question.
        number: u16,
    },
    /// No message, or too many.
    #[error("a session signs 1 to {MAX_MESSAGES} messages, this one {got}")]
    MessageCount {
        /// How many there are.
        got: usize,
    },
    /// A signer with too few or too many commitments.
    #[error("custodian {signer} has {got} commitments in the session, there are {expected} messages")]
    CommitmentCount {
        /// The signer.
        signer: u16,
        /// The number of messages.
        expected: usize,
        /// The number of its commitments.
        got: usize,
    },
}
