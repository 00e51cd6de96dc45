//! BIP340 verification of a signature over a message of any length.
//!
//! libsecp256k1's safe interface takes messages of 32 bytes; for others the equation of BIP340, `s*G == R + e*P`, is put
//! together from its curve arithmetic. Promises: the same answer as libsecp256k1 where both answer (a test compares them), and
//! as the BIP's vectors, which have messages of other lengths too. Everything here is public, so nothing need be constant
//! in time.

use secp256k1::constants::CURVE_ORDER;
use secp256k1::{Message, Parity, PublicKey, SECP256K1, Scalar, SecretKey, XOnlyPublicKey, schnorr};
use sha2::{Digest, Sha256};

/// Does the signature hold? A key or signature that isn't one verifies nothing.
pub(super) fn verify(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = XOnlyPublicKey::from_slice(key) else { return false };
    match Message::from_digest_slice(message) {
        Ok(message) => schnorr::Signature::from_slice(signature)
            .is_ok_and(|signature| SECP256K1.verify_schnorr(&signature, &message, &key).is_ok()),
        Err(_) => verify_any(&key, message, signature).unwrap_or(false),
    }
}

/// The equation itself; `None` where a part of it isn't what it should be.
fn verify_any(key: &XOnlyPublicKey, message: &[u8], signature: &[u8]) -> Option<bool> {
    let (r, s) = signature.split_at_checked(32).filter(|(_, s)| s.len() == 32)?;
    let tag = Sha256::digest(b"BIP0340/challenge");
    let challenge = Sha256::new()
        .chain_update(tag)
        .chain_update(tag)
        .chain_update(r)
        .chain_update(key.serialize())
        .chain_update(message)
        .finalize();
    let e = Scalar::from_be_bytes(modulo_order(challenge.into())).ok()?;
    // R = s*G - e*P. No e is 0, unless somebody finds its preimage.
    let minus_ep = key.public_key(Parity::Even).mul_tweak(SECP256K1, &e).ok()?.negate(SECP256K1);
    let sum = if s.iter().all(|byte| *byte == 0) {
        minus_ep
    } else {
        // Fails from the order on, as BIP340 says.
        let sg = PublicKey::from_secret_key(SECP256K1, &SecretKey::from_slice(s).ok()?);
        sg.combine(&minus_ep).ok()?
    };
    let (x, parity) = sum.x_only_public_key();
    Some(parity == Parity::Even && x.serialize() == *r)
}

/// A hash as a number below the curve's order: it is below twice the order always.
fn modulo_order(hash: [u8; 32]) -> [u8; 32] {
    if hash < CURVE_ORDER {
        return hash;
    }
    let mut reduced = [0; 32];
    let mut borrow = 0;
    for (out, (a, b)) in reduced.iter_mut().zip(hash.iter().zip(&CURVE_ORDER)).rev() {
        let difference = i16::from(*a) - i16::from(*b) - borrow;
        borrow = i16::from(difference < 0);
        *out = difference.rem_euclid(256).to_le_bytes()[0];
    }
    reduced
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secp256k1::Keypair;

    #[test]
    fn the_vectors_of_the_bip() {
        let csv = include_str!("../../../threshold/tests/vectors/bip340.csv");
        let (mut seen, mut lengths) = (0, std::collections::BTreeSet::new());
        for line in csv.lines().skip(1).filter(|line| !line.trim().is_empty()) {
            let part: Vec<&str> = line.split(',').collect();
            let bytes = |n: usize| hex::decode(part[n]).unwrap();
            let (key, message, signature) = (bytes(2), bytes(4), bytes(5));
            let expected = part[6] == "TRUE";
            assert_eq!(verify(&key, &message, &signature), expected, "vector {}", part[0]);
            // The equation by itself says the same, also for 32 bytes.
            let Ok(key) = XOnlyPublicKey::from_slice(&key) else { continue };
            let own = verify_any(&key, &message, &signature).unwrap_or(false);
            assert_eq!(own, expected, "vector {}", part[0]);
            seen += 1;
            lengths.insert(message.len());
        }
        assert!(seen >= 17 && [0, 1, 17, 32, 100].iter().all(|length| lengths.contains(length)));
    }

    #[test]
    fn numbers_from_the_order_on_are_reduced() {
        assert_eq!(modulo_order(CURVE_ORDER), [0; 32]);
        let below = SecretKey::from_slice(&[7; 32]).unwrap().secret_bytes();
        assert_eq!(modulo_order(below), below);
        let mut above = CURVE_ORDER;
        above[31] += 9;
        let mut nine = [0; 32];
        nine[31] = 9;
        assert_eq!(modulo_order(above), nine);
        // 2^256 - 1 - n, as the BIP's curve has it.
        let most = "000000000000000000000000000000014551231950b75fc4402da1732fc9bebe";
        assert_eq!(hex::encode(modulo_order([255; 32])), most);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// libsecp256k1 and the equation agree on every signature, true or tampered with.
        #[test]
        fn same_as_libsecp256k1(secret: [u8; 32], message: [u8; 32], at in 0..64_usize, flip in 0..8_u32, tamper: bool) {
            let Ok(secret) = SecretKey::from_slice(&secret) else { return Ok(()) };
            let pair = Keypair::from_secret_key(SECP256K1, &secret);
            let mut signature =
                SECP256K1.sign_schnorr_no_aux_rand(&Message::from_digest(message), &pair).serialize();
            if tamper {
                signature[at] ^= 1 << flip;
            }
            let key = pair.x_only_public_key().0;
            prop_assert_eq!(verify(&key.serialize(), &message, &signature), !tamper);
            prop_assert_eq!(verify_any(&key, &message, &signature).unwrap_or(false), !tamper);
        }
    }
}
