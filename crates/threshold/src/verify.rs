//! What every reader does: check a BIP340 signature with libsecp256k1.

use secp256k1::schnorr::Signature;
use secp256k1::{Message, SECP256K1};

use crate::keys::GroupKey;

/// True if `signature` is the group's BIP340 signature of `message`.
#[must_use]
pub fn verify(group: &GroupKey, message: &[u8; 32], signature: &[u8; 64]) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| {
        let message = Message::from_digest(*message);
        SECP256K1.verify_schnorr(&signature, &message, group.x_only()).is_ok()
    })
}
