//! The keys of a group: the x-only public key that readers know, the public
//! shares by which signers are checked, and one custodian's secret share.
//!
//! All three are parsed once and can't be wrong afterwards: points are valid and
//! canonical, numbers ascend, all public shares lie on one polynomial with the
//! group key, and a secret share belongs to its public one. A secret share has
//! no `Debug`, `Clone` or `Serialize` and is wiped when dropped; it leaves
//! memory only through [`KeyShare::to_sealed_bytes`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use frost_secp256k1_tr as frost;
use secp256k1::XOnlyPublicKey;
use zeroize::{Zeroize, Zeroizing};

use crate::curve::{self, POINT, SCALAR};
use crate::limits::{MAX_CUSTODIANS, MIN_CUSTODIANS, MIN_THRESHOLD};
use crate::memory::leaving_nothing;

/// Version byte of both encodings below.
const VERSION: u8 = 1;

/// Bytes before the list of public shares: version, threshold, count, group key.
const HEADER: usize = 1 + 2 + 2 + POINT;

/// Bytes of one entry of that list: number, point.
const ENTRY: usize = 2 + POINT;

/// The group's public key as readers know it: the x coordinate (BIP340), which
/// is the group's Nostr public key. Always a point on the curve.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey(XOnlyPublicKey);

impl GroupKey {
    /// Parses 32 bytes; refuses what is no x coordinate of a point.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        XOnlyPublicKey::from_slice(bytes).map(Self).map_err(|_| KeyError::Point { what: "group key" })
    }

    /// The 32 bytes of the x coordinate.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.serialize()
    }

    /// The key in libsecp256k1's form.
    pub(crate) fn x_only(&self) -> &XOnlyPublicKey {
        &self.0
    }
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupKey({self})")
    }
}

/// The public side of a group's key: who holds a share, how many must sign, and
/// the public share by which each signer is checked (FROST's public key package).
#[derive(Clone, PartialEq)]
pub struct GroupKeys {
    package: frost::keys::PublicKeyPackage,
    numbers: BTreeSet<u16>,
    threshold: u16,
    group: GroupKey,
    bytes: Vec<u8>,
}

impl Eq for GroupKeys {}

impl GroupKeys {
    /// Takes over what a ceremony made. `threshold` is read from the package.
    pub(crate) fn from_package(
        package: &frost::keys::PublicKeyPackage,
        numbers: &BTreeSet<u16>,
    ) -> Result<Self, KeyError> {
        let threshold = package.min_signers().unwrap_or(0);
        let mut bytes = vec![VERSION];
        bytes.extend(threshold.to_be_bytes());
        bytes.extend(u16::try_from(numbers.len()).unwrap_or(u16::MAX).to_be_bytes());
        let key = package.verifying_key().serialize();
        bytes.extend(key.map_err(|_| KeyError::Point { what: "group key" })?);
        for number in numbers {
            let point = curve::identifier(*number)
                .and_then(|id| package.verifying_shares().get(&id))
                .and_then(|share| share.serialize().ok())
                .ok_or(KeyError::NotMember { number: *number })?;
            bytes.extend(number.to_be_bytes());
            bytes.extend(point);
        }
        Self::from_bytes(&bytes)
    }

    /// The keys of other holders or another threshold for the same group key, as a
    /// reshare computes them. Refuses shares that are not shares of this key.
    pub(crate) fn with_shares(
        &self,
        threshold: u16,
        shares: &BTreeMap<u16, [u8; POINT]>,
    ) -> Result<Self, KeyError> {
        let mut bytes = vec![VERSION];
        bytes.extend(threshold.to_be_bytes());
        bytes.extend(u16::try_from(shares.len()).unwrap_or(u16::MAX).to_be_bytes());
        // Parity and all: a key with another prefix would be another polynomial.
        bytes.extend(self.bytes.get(HEADER - POINT..HEADER).ok_or(KeyError::Length)?);
        for (number, point) in shares {
            bytes.extend(number.to_be_bytes());
            bytes.extend(point);
        }
        Self::from_bytes(&bytes)
    }

    /// Parses what [`GroupKeys::to_bytes`] wrote. Each group has one encoding.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut rest = bytes;
        let [version] = take::<1>(&mut rest)?;
        if version != VERSION {
            return Err(KeyError::Version { got: version });
        }
        let threshold = u16::from_be_bytes(take::<2>(&mut rest)?);
        let count = usize::from(u16::from_be_bytes(take::<2>(&mut rest)?));
        if !(MIN_CUSTODIANS..=MAX_CUSTODIANS).contains(&count) {
            return Err(KeyError::Count { got: count });
        }
        if threshold < MIN_THRESHOLD || usize::from(threshold) > count {
            return Err(KeyError::Threshold { threshold, count });
        }
        if bytes.len() != HEADER + count * ENTRY {
            return Err(KeyError::Length);
        }
        let key_bytes = take::<POINT>(&mut rest)?;
        let bad_key = KeyError::Point { what: "group key" };
        let key = curve::parse_point(&key_bytes).ok_or(bad_key.clone())?;

        let mut points = BTreeMap::new();
        let mut shares = BTreeMap::new();
        while !rest.is_empty() {
            let number = u16::from_be_bytes(take::<2>(&mut rest)?);
            let point = take::<POINT>(&mut rest)?;
            if points.last_key_value().is_some_and(|(last, _)| *last >= number) {
                return Err(KeyError::Order { number });
            }
            let bad = KeyError::Point { what: "public share" };
            let id = curve::identifier(number).ok_or(KeyError::Order { number })?;
            points.insert(number, curve::parse_point(&point).ok_or(bad.clone())?);
            let share = frost::keys::VerifyingShare::deserialize(&point).map_err(|_| bad)?;
            shares.insert(id, share);
        }
        if !curve::on_one_polynomial(&points, threshold, &key) {
            return Err(KeyError::Polynomial);
        }
        let verifying_key = frost::VerifyingKey::deserialize(&key_bytes).map_err(|_| bad_key.clone())?;
        // The parity prefix is dropped: BIP340 keys are x coordinates.
        let (_, x) = key_bytes.split_first_chunk::<1>().ok_or(bad_key.clone())?;
        let x: &[u8; 32] = x.try_into().map_err(|_| bad_key)?;
        Ok(Self {
            package: frost::keys::PublicKeyPackage::new(shares, verifying_key, Some(threshold)),
            numbers: points.into_keys().collect(),
            threshold,
            group: GroupKey::from_bytes(x)?,
            bytes: bytes.to_vec(),
        })
    }

    /// The one encoding of these keys: version, threshold, count, group key, then
    /// number and public share of each custodian in ascending order.
    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The group's x-only public key.
    pub fn group_key(&self) -> GroupKey {
        self.group
    }

    /// How many custodians must sign: `t` of PROTOCOL section 1.
    pub fn threshold(&self) -> u16 {
        self.threshold
    }

    /// The numbers of all who hold a share.
    pub fn numbers(&self) -> &BTreeSet<u16> {
        &self.numbers
    }

    /// True if the point behind the x-only key has an odd y coordinate. Of use
    /// in tests and diagnostics only; signing does not depend on it.
    pub fn has_odd_y(&self) -> bool {
        self.bytes.get(HEADER - POINT) == Some(&0x03)
    }

    pub(crate) fn package(&self) -> &frost::keys::PublicKeyPackage {
        &self.package
    }

    pub(crate) fn verifying_share(&self, number: u16) -> Option<&frost::keys::VerifyingShare> {
        self.package.verifying_shares().get(&curve::identifier(number)?)
    }

    /// The public share of a holder as a point.
    pub(crate) fn point_of(&self, number: u16) -> Option<curve::Element> {
        let bytes: [u8; POINT] = self.verifying_share(number)?.serialize().ok()?.try_into().ok()?;
        curve::parse_point(&bytes)
    }
}

impl fmt::Debug for GroupKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupKeys")
            .field("group", &self.group)
            .field("threshold", &self.threshold)
            .field("numbers", &self.numbers)
            .finish()
    }
}

/// One custodian's share of the group key, with the group's public keys.
///
/// The secret is wiped when the value is dropped.
///
/// ```compile_fail,E0277
/// fn print<T: std::fmt::Debug>() {}
/// print::<concordat_threshold::KeyShare>();
/// ```
/// ```compile_fail,E0277
/// fn copy<T: Clone>() {}
/// copy::<concordat_threshold::KeyShare>();
/// ```
pub struct KeyShare {
    number: u16,
    // On the heap, so that moving the share leaves no copy of the secret.
    package: Box<frost::keys::KeyPackage>,
    keys: GroupKeys,
}

impl KeyShare {
    /// Joins a secret share with the group's public keys; refuses one that is not
    /// the custodian's own.
    pub(crate) fn new(
        number: u16,
        mut secret: frost::keys::SigningShare,
        keys: GroupKeys,
    ) -> Result<Self, KeyError> {
        let public = frost::keys::VerifyingShare::from(secret);
        let share = match (curve::identifier(number), keys.verifying_share(number)) {
            (Some(id), Some(listed)) if *listed == public => Ok(Self {
                number,
                package: Box::new(frost::keys::KeyPackage::new(
                    id,
                    secret,
                    public,
                    *keys.package().verifying_key(),
                    keys.threshold(),
                )),
                keys,
            }),
            (Some(_), Some(_)) => Err(KeyError::Mismatch { number }),
            _ => Err(KeyError::NotMember { number }),
        };
        secret.zeroize();
        share
    }

    /// Parses what [`KeyShare::to_sealed_bytes`] wrote, after it was unsealed.
    ///
    /// # Errors
    /// [`KeyError`] if the bytes are no share, or not the share of the custodian
    /// they name: a damaged or exchanged file is found here, not when signing.
    pub fn from_sealed_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        leaving_nothing(|| Self::parse(bytes))
    }

    fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut rest = bytes;
        let [version] = take::<1>(&mut rest)?;
        if version != VERSION {
            return Err(KeyError::Version { got: version });
        }
        let number = u16::from_be_bytes(take::<2>(&mut rest)?);
        let secret = Zeroizing::new(take::<SCALAR>(&mut rest)?);
        let keys = GroupKeys::from_bytes(rest)?;
        let secret =
            frost::keys::SigningShare::deserialize(&secret[..]).map_err(|_| KeyError::Secret { number })?;
        Self::new(number, secret, keys)
    }

    /// The share as bytes, **for sealed storage only**: whoever reads them can
    /// sign as this custodian. Version, number, secret scalar, group keys.
    pub fn to_sealed_bytes(&self) -> Zeroizing<Vec<u8>> {
        leaving_nothing(|| {
            // Reserved in full: a growing vector would leave copies behind.
            let length = 1 + 2 + SCALAR + self.keys.bytes.len();
            let mut bytes = Zeroizing::new(Vec::with_capacity(length));
            bytes.push(VERSION);
            bytes.extend(self.number.to_be_bytes());
            let secret = Zeroizing::new(self.package.signing_share().serialize());
            bytes.extend_from_slice(&secret);
            bytes.extend_from_slice(&self.keys.bytes);
            bytes
        })
    }

    /// The custodian's number, which is its FROST identifier.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// How many custodians must sign.
    pub fn threshold(&self) -> u16 {
        self.keys.threshold()
    }

    /// The group's x-only public key.
    pub fn group_key(&self) -> GroupKey {
        self.keys.group_key()
    }

    /// The group's public keys.
    pub fn keys(&self) -> &GroupKeys {
        &self.keys
    }

    pub(crate) fn package(&self) -> &frost::keys::KeyPackage {
        &self.package
    }

    /// The secret itself, for the sums of a reshare or a repair.
    pub(crate) fn secret(&self) -> Result<Box<Zeroizing<curve::Scalar>>, KeyError> {
        let bad = KeyError::Secret { number: self.number };
        let bytes = Zeroizing::new(self.package.signing_share().serialize());
        let bytes: Zeroizing<[u8; SCALAR]> =
            Zeroizing::new(bytes.as_slice().try_into().map_err(|_| bad.clone())?);
        curve::parse_scalar(&bytes).map(|scalar| Box::new(Zeroizing::new(scalar))).ok_or(bad)
    }

    /// A share from its secret scalar. Refuses one that is not this custodian's.
    pub(crate) fn from_secret(
        number: u16,
        secret: &curve::Scalar,
        keys: GroupKeys,
    ) -> Result<Self, KeyError> {
        let bytes = curve::scalar_bytes(secret);
        let secret =
            frost::keys::SigningShare::deserialize(&bytes[..]).map_err(|_| KeyError::Secret { number })?;
        Self::new(number, secret, keys)
    }
}

/// Takes the first `N` bytes off `rest`.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], KeyError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(KeyError::Length)?;
    *rest = tail;
    Ok(*head)
}

/// Why bytes are no key. Never holds key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Too short or too long for what it says it holds.
    #[error("key data has the wrong length: it was cut off or is another kind of file")]
    Length,
    /// Written by another version.
    #[error("key data has version {got}, this build reads version {VERSION}: use the build that wrote it")]
    Version {
        /// The version byte found.
        got: u8,
    },
    /// Fewer or more custodians than a group can have.
    #[error("a group has {MIN_CUSTODIANS} to {MAX_CUSTODIANS} custodians, this one says {got}")]
    Count {
        /// The count found.
        got: usize,
    },
    /// A threshold that no group of this size can have.
    #[error("threshold {threshold} is not between {MIN_THRESHOLD} and {count}, the number of custodians")]
    Threshold {
        /// The threshold found.
        threshold: u16,
        /// The number of custodians.
        count: usize,
    },
    /// Numbers are zero, repeated or not ascending.
    #[error("custodian number {number} is zero, repeated or out of order")]
    Order {
        /// The number that breaks the order.
        number: u16,
    },
    /// Bytes that are no point of the curve in canonical form.
    #[error("the {what} is not a canonical point of secp256k1")]
    Point {
        /// Which of the points.
        what: &'static str,
    },
    /// The public shares do not belong to this group key and threshold.
    #[error("the public shares and the group key do not lie on one polynomial: they were mixed or altered")]
    Polynomial,
    /// The secret is no scalar.
    #[error("the secret share of custodian {number} is not a valid scalar")]
    Secret {
        /// Whose share it claims to be.
        number: u16,
    },
    /// The secret does not belong to the public share of this number.
    #[error("the secret share is not that of custodian {number} in this group")]
    Mismatch {
        /// Whose share it claims to be.
        number: u16,
    },
    /// The number holds no share of this group.
    #[error("custodian {number} holds no share of this group")]
    NotMember {
        /// The number looked for.
        number: u16,
    },
}
