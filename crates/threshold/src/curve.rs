//! The few curve operations that the FROST library does not offer: strict
//! parsing of points, identifiers from numbers, and the test that the public
//! shares of a group lie on one polynomial.

use std::collections::BTreeMap;

use frost_core::{Field, Group};
use frost_secp256k1_tr as frost;

pub(crate) type Suite = frost::Secp256K1Sha256TR;
pub(crate) type Element = frost_core::Element<Suite>;
type Scalar = frost_core::Scalar<Suite>;

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
    let at = Scalar::from(u64::from(at));
    let mut sum = frost::Secp256K1Group::identity();
    for (i, point) in base {
        let x_i = Scalar::from(u64::from(*i));
        let mut numerator = frost::Secp256K1ScalarField::one();
        let mut denominator = frost::Secp256K1ScalarField::one();
        for (j, _) in base.iter().filter(|(j, _)| j != i) {
            let x_j = Scalar::from(u64::from(*j));
            numerator *= at - x_j;
            denominator *= x_i - x_j;
        }
        let inverse = frost::Secp256K1ScalarField::invert(&denominator).ok()?;
        sum += *point * (numerator * inverse);
    }
    Some(sum)
}
