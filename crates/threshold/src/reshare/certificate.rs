//! The certificate of a reshare: the new public keys, the test signature, and the
//! confirmations of new holders, signed with their identity keys. It is what a roster
//! is activated with (PROTOCOL section 9).

use std::collections::BTreeMap;

use concordat_events::hash::{Hash, Tagged};
use secp256k1::schnorr::Signature;
use secp256k1::{Message, SECP256K1, XOnlyPublicKey};

use crate::dkg::test_message;
use crate::keys::{GroupKey, GroupKeys, KeyError};
use crate::limits::MAX_CUSTODIANS;
use crate::verify::verify;

/// Version byte of the encoding.
const VERSION: u8 = 1;

/// Bytes of a hash, of a signature, and of one confirmation.
const HASH: usize = 32;
const SIGNATURE: usize = 64;
const ENTRY: usize = 2 + SIGNATURE;

/// One new holder's signed word: its share is stored, was read back, and the test
/// signature verified. A BIP340 signature of its identity key over
/// [`Certificate::confirmation_hash`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// The holder.
    pub number: u16,
    /// Its signature.
    pub signature: [u8; SIGNATURE],
}

/// See the module's header. Its fields are only as good as [`Certificate::check`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The id of plan and ceremony.
    pub context: Hash,
    /// The hash of the whole reshare.
    pub transcript: Hash,
    /// The new public keys.
    pub keys: GroupKeys,
    /// The signature of all new holders.
    pub test_signature: [u8; SIGNATURE],
    /// Who confirmed, with its signature.
    pub confirmations: BTreeMap<u16, [u8; SIGNATURE]>,
}

impl Certificate {
    /// What the holder with this number signs.
    pub fn confirmation_hash(&self, number: u16) -> Hash {
        let mut hash = Tagged::new("concordat/reshare/confirmation");
        hash.part(self.context.as_bytes()).part(self.transcript.as_bytes());
        hash.part(self.keys.to_bytes()).part(&self.test_signature);
        hash.part(&number.to_be_bytes());
        hash.finish()
    }

    /// Adds a confirmation, if it is a new holder's and signed by this identity.
    ///
    /// # Errors
    /// [`CertificateError::NotHolder`], [`CertificateError::Confirmation`].
    pub fn add(&mut self, confirmation: &Confirmation, identity: &[u8; 32]) -> Result<(), CertificateError> {
        self.check_one(confirmation.number, &confirmation.signature, identity)?;
        self.confirmations.insert(confirmation.number, confirmation.signature);
        Ok(())
    }

    /// Checks everything: that the keys are shares of this group key, that the test
    /// signature was made by the group for this very reshare, and that at least
    /// `needed` new holders confirmed it. `identities` are those of the new roster.
    ///
    /// # Errors
    /// [`CertificateError`] says what is missing, or who signed something else.
    pub fn check(
        &self,
        group: &GroupKey,
        identities: &BTreeMap<u16, [u8; 32]>,
        needed: usize,
    ) -> Result<(), CertificateError> {
        if self.keys.group_key() != *group {
            return Err(CertificateError::OtherGroup);
        }
        if !verify(group, &test_message(self.context, self.transcript), &self.test_signature) {
            return Err(CertificateError::TestSignature);
        }
        for (number, signature) in &self.confirmations {
            let identity = identities.get(number).ok_or(CertificateError::NotHolder { number: *number })?;
            self.check_one(*number, signature, identity)?;
        }
        let got = self.confirmations.len();
        if got < needed { Err(CertificateError::TooFew { needed, got }) } else { Ok(()) }
    }

    fn check_one(
        &self,
        number: u16,
        signature: &[u8; SIGNATURE],
        identity: &[u8; 32],
    ) -> Result<(), CertificateError> {
        if !self.keys.numbers().contains(&number) {
            return Err(CertificateError::NotHolder { number });
        }
        let message = Message::from_digest(*self.confirmation_hash(number).as_bytes());
        Signature::from_slice(signature)
            .ok()
            .zip(XOnlyPublicKey::from_slice(identity).ok())
            .filter(|(signature, key)| SECP256K1.verify_schnorr(signature, &message, key).is_ok())
            .map(|_| ())
            .ok_or(CertificateError::Confirmation { culprit: number })
    }

    /// The one encoding: version, context, transcript, test signature, count and
    /// confirmations in ascending order, then the keys.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.context.as_bytes());
        bytes.extend(self.transcript.as_bytes());
        bytes.extend(self.test_signature);
        bytes.extend(u16::try_from(self.confirmations.len()).unwrap_or(u16::MAX).to_be_bytes());
        for (number, signature) in &self.confirmations {
            bytes.extend(number.to_be_bytes());
            bytes.extend(signature);
        }
        bytes.extend(self.keys.to_bytes());
        bytes
    }

    /// Parses what [`Certificate::to_bytes`] wrote. Nothing is checked yet.
    ///
    /// # Errors
    /// [`CertificateError::Encoding`], [`CertificateError::Keys`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CertificateError> {
        let bad = CertificateError::Encoding;
        let (version, rest) = bytes.split_first().ok_or(bad.clone())?;
        if *version != VERSION {
            return Err(bad);
        }
        let (context, rest) = rest.split_first_chunk::<HASH>().ok_or(bad.clone())?;
        let (transcript, rest) = rest.split_first_chunk::<HASH>().ok_or(bad.clone())?;
        let (test_signature, rest) = rest.split_first_chunk::<SIGNATURE>().ok_or(bad.clone())?;
        let (count, mut rest) = rest.split_first_chunk::<2>().ok_or(bad.clone())?;
        let count = usize::from(u16::from_be_bytes(*count));
        if count > MAX_CUSTODIANS {
            return Err(bad);
        }
        let mut confirmations = BTreeMap::new();
        for _ in 0..count {
            let (entry, tail) = rest.split_first_chunk::<ENTRY>().ok_or(bad.clone())?;
            let (number, signature) = entry.split_first_chunk::<2>().ok_or(bad.clone())?;
            let number = u16::from_be_bytes(*number);
            if confirmations.last_key_value().is_some_and(|(last, _)| *last >= number) {
                return Err(bad);
            }
            confirmations.insert(number, signature.try_into().map_err(|_| bad.clone())?);
            rest = tail;
        }
        Ok(Self {
            context: Hash::from_bytes(*context),
            transcript: Hash::from_bytes(*transcript),
            keys: GroupKeys::from_bytes(rest)?,
            test_signature: *test_signature,
            confirmations,
        })
    }
}

/// Why a certificate of a reshare doesn't count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not this encoding.
    #[error("the bytes are no certificate of a reshare")]
    Encoding,
    /// The keys in it are none.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Shares of another key.
    #[error("the certificate is about another group key")]
    OtherGroup,
    /// The test signature isn't the group's for this reshare.
    #[error("the test signature in the certificate isn't the group's for this reshare")]
    TestSignature,
    /// Confirmed by one that will hold nothing.
    #[error("custodian {number} is no holder of the new shares")]
    NotHolder {
        /// Who.
        number: u16,
    },
    /// A signature over something else.
    #[error("custodian {culprit} did not sign this confirmation")]
    Confirmation {
        /// Who it says it is from.
        culprit: u16,
    },
    /// Not enough.
    #[error("{got} new holders confirmed, {needed} are needed")]
    TooFew {
        /// How many are needed.
        needed: usize,
        /// How many there are.
        got: usize,
    },
}
