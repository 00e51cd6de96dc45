//! What a dealer of a reshare makes: a secret polynomial whose constant is its
//! weighted share of the group key, and the public commitment to it (Feldman's
//! verifiable secret sharing).

use std::collections::BTreeMap;

use frost_core::{Field, Group};
use frost_secp256k1_tr::{Secp256K1Group, Secp256K1ScalarField};
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use crate::curve::{self, Element, POINT, Scalar};
use crate::dkg::DecodeError;
use crate::limits::{MAX_CUSTODIANS, MIN_THRESHOLD};

/// A dealer's polynomial. **Secret**: no `Debug`, no `Clone`, wiped when dropped.
pub(crate) struct Polynomial(Zeroizing<Vec<Scalar>>);

impl Polynomial {
    /// A polynomial with this constant and `coefficients` coefficients in all.
    pub(crate) fn new(constant: &Scalar, coefficients: u16, rng: &mut (impl RngCore + CryptoRng)) -> Self {
        // Reserved in full: a growing vector would leave copies behind.
        let mut all = Zeroizing::new(Vec::with_capacity(usize::from(coefficients)));
        all.push(*constant);
        for _ in 1..coefficients {
            all.push(Secp256K1ScalarField::random(rng));
        }
        Self(all)
    }

    /// Its value for a new holder.
    pub(crate) fn at(&self, number: u16) -> Zeroizing<Scalar> {
        let x = curve::scalar_of(number);
        let mut sum = Zeroizing::new(Secp256K1ScalarField::zero());
        for coefficient in self.0.iter().rev() {
            *sum = *sum * x + coefficient;
        }
        sum
    }

    /// The commitment. None if a coefficient is zero, which comes once in 2^256.
    pub(crate) fn commitment(&self) -> Option<Deal> {
        let points: Vec<Element> = self.0.iter().map(curve::base_times).collect();
        let mut bytes = Vec::with_capacity(points.len() * POINT);
        for point in &points {
            bytes.extend(curve::point_bytes(point)?);
        }
        Some(Deal { bytes, points })
    }
}

/// A dealer's commitment: one point per coefficient, the constant first.
#[derive(Clone)]
pub struct Deal {
    bytes: Vec<u8>,
    points: Vec<Element>,
}

impl Deal {
    /// Parses a commitment; refuses what is not a list of canonical points.
    ///
    /// # Errors
    /// [`DecodeError::Field`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let bad = DecodeError::Field { what: "commitment of a dealer" };
        let (points, rest) = bytes.as_chunks::<POINT>();
        let size = usize::from(MIN_THRESHOLD)..=MAX_CUSTODIANS;
        if !rest.is_empty() || !size.contains(&points.len()) {
            return Err(bad);
        }
        let points = points.iter().map(curve::parse_point).collect::<Option<Vec<_>>>().ok_or(bad)?;
        Ok(Self { bytes: bytes.to_vec(), points })
    }

    /// A commitment to single values. None if one is zero.
    pub(crate) fn of_values<'a>(values: impl IntoIterator<Item = &'a Scalar>) -> Option<Self> {
        let points: Vec<Element> = values.into_iter().map(curve::base_times).collect();
        let bytes = points.iter().map(curve::point_bytes).collect::<Option<Vec<_>>>()?.concat();
        Some(Self { bytes, points })
    }

    /// The points.
    pub(crate) fn points(&self) -> &[Element] {
        &self.points
    }

    /// The commitment as bytes.
    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of coefficients, which is the threshold it was made for.
    pub fn threshold(&self) -> usize {
        self.points.len()
    }

    /// The point behind the dealt secret.
    pub(crate) fn constant(&self) -> Option<&Element> {
        self.points.first()
    }

    /// The point behind a new holder's value.
    pub(crate) fn at(&self, number: u16) -> Element {
        let x = curve::scalar_of(number);
        let zero = Secp256K1Group::identity();
        self.points.iter().rev().fold(zero, |sum, point| sum * x + *point)
    }
}

/// The public share of each new holder: the sum of what all dealers committed to.
/// None if one is the point at infinity.
pub(crate) fn public_shares<'a>(
    deals: &BTreeMap<u16, Deal>,
    holders: impl IntoIterator<Item = &'a u16>,
) -> Option<BTreeMap<u16, [u8; POINT]>> {
    let sum = |number: u16| {
        let zero = Secp256K1Group::identity();
        deals.values().fold(zero, |sum, deal| sum + deal.at(number))
    };
    holders.into_iter().map(|number| Some((*number, curve::point_bytes(&sum(*number))?))).collect()
}
