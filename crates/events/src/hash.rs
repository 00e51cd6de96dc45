//! Tagged hashes: the one form in which this project hashes anything.
//!
//! `tagged(tag, parts) = SHA256(SHA256(tag) || SHA256(tag) || for each part: length (u64, little endian) || part)`, the
//! construction of BIP340 with every part length-prefixed, so that no two lists of parts share an encoding.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// 32 bytes that name something: a SHA-256 output or a Nostr event id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash([u8; 32]);

impl Hash {
    /// All zero: the parent of Head(0), the root of an empty tree.
    pub const ZERO: Hash = Hash([0; 32]);

    /// Wraps bytes that already are a hash.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Hash(bytes)
    }

    /// Reads 32 bytes; `None` for any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Hash)
    }

    /// Reads 64 lower-case hex digits; `None` for anything else (upper case would give one hash two spellings).
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Hash(bytes))
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hex digits.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// The first eight hex digits, for people.
    pub fn short(self) -> String {
        let mut text = self.to_hex();
        text.truncate(8);
        text
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl From<nostr::EventId> for Hash {
    fn from(id: nostr::EventId) -> Self {
        Hash(id.to_bytes())
    }
}

impl From<Hash> for nostr::EventId {
    fn from(hash: Hash) -> Self {
        nostr::EventId::from_byte_array(hash.0)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Hash::from_hex(&text).ok_or_else(|| serde::de::Error::custom("expected 64 lower-case hex digits"))
    }
}

/// The tagged hash of `parts` (see the module's header). Tags read `concordat/<what>`.
pub fn tagged(tag: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = Tagged::new(tag);
    for part in parts {
        hasher.part(part);
    }
    hasher.finish()
}

/// A tagged hash in the making, for lists whose parts come one by one.
pub struct Tagged(Sha256);

impl Tagged {
    /// Starts a hash under `tag`.
    pub fn new(tag: &str) -> Self {
        let tag = Sha256::digest(tag.as_bytes());
        Tagged(Sha256::new().chain_update(tag).chain_update(tag))
    }

    /// Adds one part, length first.
    pub fn part(&mut self, part: &[u8]) -> &mut Self {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// The hash.
    pub fn finish(self) -> Hash {
        Hash(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_length_prefixed() {
        assert_ne!(tagged("t", &[b"ab", b"c"]), tagged("t", &[b"a", b"bc"]));
        assert_ne!(tagged("t", &[b"abc"]), tagged("u", &[b"abc"]));
        assert_ne!(tagged("t", &[]), tagged("t", &[b""]));
    }

    #[test]
    fn the_form_is_pinned() {
        assert_eq!(
            tagged("concordat/test", &[b"one", b""]).to_hex(),
            "db18a592b9849da21851e1607ffae5b8a3279787b622322d80703b5d523606a6"
        );
    }

    #[test]
    fn one_hash_has_one_spelling() {
        let hash = tagged("t", &[]);
        assert_eq!(Hash::from_hex(&hash.to_hex()), Some(hash));
        assert_eq!(Hash::from_hex(&hash.to_hex().to_uppercase()), None);
        assert_eq!(Hash::from_hex("00"), None);
    }
}
