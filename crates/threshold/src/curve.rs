//! The few curve operations that the FROST library does not offer: strict
//! parsing of points, identifiers from numbers, Lagrange weights, and the test
//! that the public shares of a group lie on one polynomial.

use std::collections::{BTreeMap, BTreeSet};

use frost_core::{Field, Group};
use frost_secp256k1_tr as frost;
use zeroize::Zeroizing;

pub(crate) type Suite = frost::Secp256K1Sha256TR;
pub(crate) type Element = frost_core::Element<Suite>;
pub(crate) type Scalar = frost_core::Scalar<Suite>;

/// Bytes of a compressed point.
pub(crate) const POINT: usize = 33;

/// Bytes of a scalar.
pub(crate) const SCALAR: usize = 32;

/// A custodian's number as the FROST identifier. None for zero.
pub(crate) fn identifier(number: u16) -> Option<frost::Identifier> {
    frost::Identifier::try_from(number).ok()
}

/// Parses a compressed point, in its one canonical form.
///
/// The library also takes the prefix 0x05 ("compact") for an even point, so that
/// one point would have two encodings; here only 0x02 and 0x03 are valid.
pub(crate) fn parse_point(bytes: &[u8; POINT]) -> Option<Element> {
    match bytes.first() {
        Some(0x02 | 0x03) => frost::Secp256K1Group::deserialize(bytes).ok(),
        _ => None,
    }
}

/// True if all `points` (by number) and `key` (at zero) lie on one polynomial of
/// degree `threshold - 1`, no higher and no lower, in the exponent: that is if
/// any `threshold` shares sign for this key and fewer do not. Public keys that fail this would let honest signers be
/// accused of bad shares.
pub(crate) fn on_one_polynomial(points: &BTreeMap<u16, Element>, threshold: u16, key: &Element) -> bool {
    let base: Vec<(u16, Element)> =
        points.iter().take(usize::from(threshold)).map(|(number, point)| (*number, *point)).collect();
    if base.len() < usize::from(threshold) {
        return false;
    }
    let fewer = base.split_last().map_or(&[][..], |(_, fewer)| fewer);
    if interpolate(fewer, 0).as_ref() == Some(key) {
        return false;
    }
    std::iter::once((0, *key))
        .chain(points.iter().skip(base.len()).map(|(n, p)| (*n, *p)))
        .all(|(at, expected)| interpolate(&base, at) == Some(expected))
}

/// The point at `at` of the lowest polynomial through `base`. None if two
/// numbers are equal.
fn interpolate(base: &[(u16, Element)], at: u16) -> Option<Element> {
    let numbers: BTreeSet<u16> = base.iter().map(|(number, _)| *number).collect();
    if numbers.len() != base.len() {
        return None;
    }
    base.iter().try_fold(frost::Secp256K1Group::identity(), |sum, (number, point)| {
        Some(sum + *point * weight(&numbers, *number, at)?)
    })
}

/// The Lagrange weight of `own` among `numbers`: what its value is multiplied
/// with when the polynomial through all of them is taken at `at`.
pub(crate) fn weight(numbers: &BTreeSet<u16>, own: u16, at: u16) -> Option<Scalar> {
    let (x, x_own) = (scalar_of(at), scalar_of(own));
    let mut numerator = frost::Secp256K1ScalarField::one();
    let mut denominator = frost::Secp256K1ScalarField::one();
    for other in numbers.iter().filter(|other| **other != own) {
        let x_other = scalar_of(*other);
        numerator *= x - x_other;
        denominator *= x_own - x_other;
    }
    let inverse = frost::Secp256K1ScalarField::invert(&denominator).ok()?;
    Some(numerator * inverse)
}

/// A custodian's number as a scalar: where its share lies on the polynomial.
pub(crate) fn scalar_of(number: u16) -> Scalar {
    Scalar::from(u64::from(number))
}

/// A point times the secret behind it.
pub(crate) fn base_times(scalar: &Scalar) -> Element {
    frost::Secp256K1Group::generator() * *scalar
}

/// The compressed form. None for the point at infinity, which has none.
pub(crate) fn point_bytes(point: &Element) -> Option<[u8; POINT]> {
    frost::Secp256K1Group::serialize(point).ok()?.as_ref().try_into().ok()
}

/// Parses a scalar below the order of the curve.
pub(crate) fn parse_scalar(bytes: &[u8; SCALAR]) -> Option<Scalar> {
    frost::Secp256K1ScalarField::deserialize(bytes).ok()
}

/// The 32 bytes of a scalar, which may be secret.
pub(crate) fn scalar_bytes(scalar: &Scalar) -> Zeroizing<[u8; SCALAR]> {
    Zeroizing::new(frost::Secp256K1ScalarField::serialize(scalar))
}
