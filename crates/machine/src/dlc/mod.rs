//! Oracles of discreet log contracts: announcements and attestations (dlcspecs, Oracle.md), as they stand in kinds 88 and 89.
//!
//! An announcement says which outcomes an event can have and commits to a nonce for each signature that will attest one. An
//! attestation signs the outcome alone: what binds it to the event is the announced nonce, so that is checked always
//! (EVENTS 4). Oracles disagree about the hash that is signed: [`Hashing`] is chosen for each oracle, and never "either".
//!
//! Promises: a pure function of its bytes; bounded by [`limits`]. Refuses with a [`Fault`], whose code stands in the log.
//! Strings are compared and hashed as they stand, byte for byte: the specification wants NFC, but tables of Unicode differ
//! between versions, and custodians must not.

mod wire;

#[cfg(test)]
mod tests;

use crate::limits;
use secp256k1::{Message, SECP256K1, XOnlyPublicKey, schnorr};
use sha2::{Digest, Sha256};
use wire::{Reader, body};

const ANNOUNCEMENT: u64 = 55332;
const EVENT: u64 = 55330;
const ENUM: u64 = 55302;
const DIGITS: u64 = 55306;
const ATTESTATION: u64 = 55400;

/// Why an oracle's word isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// It isn't an announcement, or not an attestation, that everybody reads alike.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// It isn't an oracle's that was asked for.
    #[error("not the key of an oracle that was asked for")]
    Key,
    /// It is about another event.
    #[error("the event's id is another one")]
    Event,
    /// A signature has another nonce than the announced one, or there are more or fewer than announced.
    #[error("the signatures don't have the nonces that were announced")]
    Nonce,
    /// The outcome isn't one that the announcement allows.
    #[error("the outcome isn't one of the announced ones")]
    Outcome,
    /// A signature doesn't verify under the oracle's key, with the hash that this oracle is said to use.
    #[error("a signature doesn't verify")]
    Signature,
}

impl Fault {
    /// The code that stands in the log. It never changes.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed(_) => "oracle_malformed",
            Self::Key => "oracle_key",
            Self::Event => "oracle_event",
            Self::Nonce => "oracle_nonce",
            Self::Outcome => "oracle_outcome",
            Self::Signature => "oracle_signature",
        }
    }
}

/// What an oracle's signatures are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// The tagged hash of dlcspecs (since 2021): `DLC/oracle/announcement/v0`, `DLC/oracle/attestation/v0`.
    Tagged,
    /// Plain SHA-256 of the same bytes, which older oracles still sign.
    LegacyUntagged,
}

impl Hashing {
    /// By its name in definitions.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "tagged" => Some(Self::Tagged),
            "legacy_untagged" => Some(Self::LegacyUntagged),
            _ => None,
        }
    }

    /// Its name in definitions.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tagged => "tagged",
            Self::LegacyUntagged => "legacy_untagged",
        }
    }

    fn announced(self, event: &[u8]) -> [u8; 32] {
        self.hash(b"DLC/oracle/announcement/v0", event)
    }

    fn attested(self, outcome: &str) -> [u8; 32] {
        self.hash(b"DLC/oracle/attestation/v0", outcome.as_bytes())
    }

    fn hash(self, tag: &[u8], message: &[u8]) -> [u8; 32] {
        let hash = match self {
            Self::Tagged => {
                let tag = Sha256::digest(tag);
                Sha256::new().chain_update(tag).chain_update(tag)
            }
            Self::LegacyUntagged => Sha256::new(),
        };
        hash.chain_update(message).finalize().into()
    }
}

/// Which outcomes an event can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// One of these.
    Enum(Vec<String>),
    /// A number, each digit of which is signed.
    Digits {
        /// The base, 2 to 65,536.
        base: u32,
        /// Is its sign signed too, before the digits?
        signed: bool,
        /// What is counted.
        unit: String,
        /// The number counts in steps of base^precision units.
        precision: i32,
        /// How many digits.
        count: u16,
    },
}

/// What an oracle announced. Read, but nothing is verified before [`Announcement::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    key: [u8; 32],
    signature: [u8; 64],
    /// The event as it is signed.
    event: Vec<u8>,
    nonces: Vec<[u8; 32]>,
    maturity: u32,
    descriptor: Descriptor,
    event_id: String,
}

/// What an oracle attested. Read, but nothing is verified before [`Announcement::attested`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    event_id: String,
    key: [u8; 32],
    signatures: Vec<[u8; 64]>,
    outcomes: Vec<String>,
}

/// An outcome that an oracle has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// One of the announced strings; the number in decimal digits.
    pub text: String,
    /// The number, if it is one; within +-(2^53-1).
    pub value: Option<i64>,
}

impl Announcement {
    /// Reads an `oracle_announcement`, with or without its TLV head.
    ///
    /// # Errors
    /// [`Fault::Malformed`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut read = body(bytes, ANNOUNCEMENT);
        let (signature, key) = (read.array()?, read.array()?);
        let (kind, mut event) = read.tlv()?;
        if kind != EVENT {
            return Err(Fault::Malformed("it announces no event"));
        }
        read.end()?;
        let signed = event.rest().to_vec();
        let count = usize::from(event.u16()?);
        if count > limits::DLC_SIGNATURES {
            return Err(Fault::Malformed("too many nonces"));
        }
        let mut nonces = Vec::new();
        for _ in 0..count {
            let nonce: [u8; 32] = event.array()?;
            // Two outcomes under one nonce give the oracle's key away: it would be no oracle once it has spoken.
            if nonces.contains(&nonce) {
                return Err(Fault::Malformed("a nonce stands twice"));
            }
            nonces.push(nonce);
        }
        let maturity = event.u32()?;
        let (kind, descriptor) = event.tlv()?;
        let descriptor = Descriptor::read(kind, &descriptor)?;
        let event_id = event.string()?.to_owned();
        event.end()?;
        if descriptor.nonces() != count {
            return Err(Fault::Malformed("another number of nonces than its outcomes need"));
        }
        Ok(Self { key, signature, event: signed, nonces, maturity, descriptor, event_id })
    }

    /// Whose it says it is: the oracle's x-only key.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The event's id.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// When the oracle means to attest, in seconds since 1970.
    pub fn maturity(&self) -> u32 {
        self.maturity
    }

    /// The outcomes.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// How many signatures attest its outcome.
    pub fn signatures(&self) -> usize {
        self.nonces.len()
    }

    /// Is it signed by its oracle?
    ///
    /// # Errors
    /// [`Fault::Signature`].
    pub fn check(&self, hashing: Hashing) -> Result<(), Fault> {
        verify(&self.key, hashing.announced(&self.event), &self.signature)
    }

    /// The outcome that an attestation gives of this announcement's event. The announcement must be one that
    /// [`Announcement::check`] has passed.
    ///
    /// # Errors
    /// The first check that fails, in the order of [`Fault`].
    pub fn attested(&self, attestation: &Attestation, hashing: Hashing) -> Result<Outcome, Fault> {
        if attestation.key != self.key {
            return Err(Fault::Key);
        }
        if attestation.event_id != self.event_id {
            return Err(Fault::Event);
        }
        let signatures = &attestation.signatures;
        let announced = |(signature, nonce): (&[u8; 64], &[u8; 32])| signature.starts_with(nonce);
        if signatures.len() != self.nonces.len() || !signatures.iter().zip(&self.nonces).all(announced) {
            return Err(Fault::Nonce);
        }
        let outcome = self.descriptor.outcome(&attestation.outcomes).ok_or(Fault::Outcome)?;
        for (signature, signed) in signatures.iter().zip(&attestation.outcomes) {
            verify(&self.key, hashing.attested(signed), signature)?;
        }
        Ok(outcome)
    }
}

impl Attestation {
    /// Reads an `oracle_attestation`, with or without its TLV head.
    ///
    /// # Errors
    /// [`Fault::Malformed`], also for those of old libraries that don't name the event.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut read = body(bytes, ATTESTATION);
        let event_id = read.string()?.to_owned();
        let key = read.array()?;
        let count = read.u16()?;
        if usize::from(count) > limits::DLC_SIGNATURES {
            return Err(Fault::Malformed("too many signatures"));
        }
        let mut signatures = Vec::new();
        for _ in 0..count {
            signatures.push(read.array()?);
        }
        // As many outcomes as signatures; some libraries repeat the number before them.
        let rest = read.rest();
        let outcomes = Reader::new(rest).strings(usize::from(count)).or_else(|fault| {
            let mut counted = Reader::new(rest);
            if counted.u16()? == count { counted.strings(usize::from(count)) } else { Err(fault) }
        })?;
        Ok(Self { event_id, key, signatures, outcomes })
    }

    /// Whose it says it is.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The id of the event.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }
}

impl Descriptor {
    fn read(kind: u64, inner: &Reader<'_>) -> Result<Self, Fault> {
        let mut read = Reader::new(inner.rest());
        match kind {
            ENUM => {
                let count = usize::from(read.u16()?);
                if count > limits::DLC_OUTCOMES {
                    return Err(Fault::Malformed("too many outcomes"));
                }
                Ok(Self::Enum(read.strings(count)?))
            }
            // The specification has the base as BigSize, the most used library as u16. Read as BigSize, any u16 below 256 is
            // base 0, and a larger one leaves a byte over.
            DIGITS => Self::digits(Reader::new(inner.rest()), Reader::bigsize)
                .or_else(|_| Self::digits(read, |read| read.u16().map(u64::from))),
            _ => Err(Fault::Malformed("outcomes of an unknown form")),
        }
    }

    fn digits<'a>(
        mut read: Reader<'a>,
        base: impl Fn(&mut Reader<'a>) -> Result<u64, Fault>,
    ) -> Result<Self, Fault> {
        let base = u32::try_from(base(&mut read)?).ok().filter(|base| (2..=0x1_0000).contains(base));
        let base = base.ok_or(Fault::Malformed("a base is 2 to 65,536"))?;
        let (signed, unit, precision) = (read.flag()?, read.string()?.to_owned(), read.i32()?);
        let count = read.u16()?;
        read.end()?;
        let most = u64::from(base).checked_pow(u32::from(count)).map(|beyond| beyond - 1);
        if count == 0 || most.is_none_or(|most| most > limits::INTEGER.unsigned_abs()) {
            return Err(Fault::Malformed("its numbers are beyond 2^53-1"));
        }
        Ok(Self::Digits { base, signed, unit, precision, count })
    }

    /// How many signatures attest an outcome.
    fn nonces(&self) -> usize {
        match self {
            Self::Enum(_) => 1,
            Self::Digits { signed, count, .. } => usize::from(*count) + usize::from(*signed),
        }
    }

    /// What these signed strings say; `None` if that isn't an outcome.
    fn outcome(&self, signed: &[String]) -> Option<Outcome> {
        match self {
            Self::Enum(outcomes) => match signed {
                [one] if outcomes.contains(one) => Some(Outcome { text: one.clone(), value: None }),
                _ => None,
            },
            Self::Digits { base, signed: sign, count, .. } => {
                let (negative, digits) = match (sign, signed) {
                    (false, digits) => (false, digits),
                    (true, [sign, digits @ ..]) if sign == "+" => (false, digits),
                    (true, [sign, digits @ ..]) if sign == "-" => (true, digits),
                    (true, _) => return None,
                };
                if digits.len() != usize::from(*count) {
                    return None;
                }
                let mut value: i64 = 0;
                for text in digits {
                    // One spelling of each digit: "01" and "+1" are other messages than "1".
                    let digit = text.parse::<u32>().ok().filter(|d| d < base && d.to_string() == *text)?;
                    value = value.checked_mul(i64::from(*base))?.checked_add(i64::from(digit))?;
                }
                // Nought is positive; else the oracle could sign it in two ways.
                if negative && value == 0 {
                    return None;
                }
                let value = if negative { -value } else { value };
                Some(Outcome { text: value.to_string(), value: Some(value) })
            }
        }
    }
}

/// BIP340 over 32 bytes.
fn verify(key: &[u8; 32], message: [u8; 32], signature: &[u8; 64]) -> Result<(), Fault> {
    let holds = XOnlyPublicKey::from_slice(key).is_ok_and(|key| {
        schnorr::Signature::from_slice(signature).is_ok_and(|signature| {
            SECP256K1.verify_schnorr(&signature, &Message::from_digest(message), &key).is_ok()
        })
    });
    if holds { Ok(()) } else { Err(Fault::Signature) }
}
