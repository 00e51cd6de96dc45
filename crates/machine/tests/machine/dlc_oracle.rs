//! An oracle of discreet log contracts for tests: its own writer of announcements and attestations, and BIP340 signatures
//! with a nonce that was announced before.
#![allow(dead_code, reason = "shared by the tests of several crates; each uses its part")]

use secp256k1::{Keypair, Parity, SECP256K1, Scalar, SecretKey};
use sha2::{Digest, Sha256};

/// An oracle with its key, and the hash that it signs.
pub struct Oracle {
    pub secret: SecretKey,
    pub tagged: bool,
}

/// An event that it has announced.
pub struct Event {
    pub id: String,
    pub maturity: u32,
    pub descriptor: Vec<u8>,
    pub nonces: Vec<SecretKey>,
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

fn tagged(tag: &str, parts: &[&[u8]]) -> [u8; 32] {
    let tag = sha256(&[tag.as_bytes()]);
    sha256(&[&[&tag[..], &tag], parts].concat())
}

/// A secret that belongs to a name.
pub fn secret(name: &str) -> SecretKey {
    SecretKey::from_slice(&sha256(&[name.as_bytes()])).unwrap()
}

/// The x coordinate of its point.
pub fn x(secret: &SecretKey) -> [u8; 32] {
    secret.x_only_public_key(SECP256K1).0.serialize()
}

fn even(secret: &SecretKey) -> SecretKey {
    match Keypair::from_secret_key(SECP256K1, secret).x_only_public_key().1 {
        Parity::Even => *secret,
        Parity::Odd => secret.negate(),
    }
}

/// A BIP340 signature with this nonce.
pub fn sign(secret: &SecretKey, nonce: &SecretKey, message: &[u8; 32]) -> [u8; 64] {
    let challenge = tagged("BIP0340/challenge", &[&x(nonce), &x(secret), message]);
    let product = even(secret).mul_tweak(&Scalar::from_be_bytes(challenge).unwrap()).unwrap();
    let s = product.add_tweak(&Scalar::from(even(nonce))).unwrap();
    [x(nonce), s.secret_bytes()].concat().try_into().unwrap()
}

/// A number as BigSize.
pub fn bigsize(n: usize) -> Vec<u8> {
    match n {
        0..0xfd => vec![u8::try_from(n).unwrap()],
        0xfd..=0xffff => [&[0xfd][..], &u16::try_from(n).unwrap().to_be_bytes()].concat(),
        _ => [&[0xfe][..], &u32::try_from(n).unwrap().to_be_bytes()].concat(),
    }
}

pub fn string(text: &str) -> Vec<u8> {
    [bigsize(text.len()), text.as_bytes().to_vec()].concat()
}

pub fn tlv(kind: usize, inner: &[u8]) -> Vec<u8> {
    [bigsize(kind), bigsize(inner.len()), inner.to_vec()].concat()
}

fn count(n: usize) -> [u8; 2] {
    u16::try_from(n).unwrap().to_be_bytes()
}

/// One of these strings.
pub fn one_of(outcomes: &[&str]) -> Vec<u8> {
    let strings: Vec<u8> = outcomes.iter().flat_map(|outcome| string(outcome)).collect();
    tlv(55302, &[&count(outcomes.len()), &strings[..]].concat())
}

/// A number of so many digits. `wide`: the base in two bytes, as the most used library writes it.
pub fn number(base: u16, wide: bool, signed: bool, digits: u16) -> Vec<u8> {
    let base = if wide { base.to_be_bytes().to_vec() } else { bigsize(usize::from(base)) };
    let unit = string("USD");
    tlv(55306, &[&base[..], &[u8::from(signed)], &unit, &0_i32.to_be_bytes(), &digits.to_be_bytes()].concat())
}

impl Event {
    /// With as many nonces as signatures.
    pub fn new(id: &str, descriptor: Vec<u8>, signatures: usize) -> Self {
        let nonces = (0..signatures).map(|n| secret(&format!("{id}/{n}"))).collect();
        Event { id: id.to_owned(), maturity: 1_800_000_000, descriptor, nonces }
    }

    fn fields(&self) -> Vec<u8> {
        let nonces: Vec<u8> = self.nonces.iter().flat_map(x).collect();
        let maturity = self.maturity.to_be_bytes();
        let parts = [&count(self.nonces.len())[..], &nonces, &maturity, &self.descriptor, &string(&self.id)];
        parts.concat()
    }
}

impl Oracle {
    pub fn new(name: &str, tagged: bool) -> Self {
        Oracle { secret: secret(name), tagged }
    }

    /// Its key, in hex.
    pub fn key(&self) -> String {
        hex::encode(x(&self.secret))
    }

    /// The name of its hash in definitions.
    pub fn hash(&self) -> &'static str {
        if self.tagged { "tagged" } else { "legacy_untagged" }
    }

    fn message(&self, tag: &str, message: &[u8]) -> [u8; 32] {
        if self.tagged { tagged(tag, &[message]) } else { sha256(&[message]) }
    }

    pub fn announces(&self, event: &Event) -> Vec<u8> {
        let fields = event.fields();
        let message = self.message("DLC/oracle/announcement/v0", &fields);
        let signature = sign(&self.secret, &secret(&format!("announcing {}", event.id)), &message);
        tlv(55332, &[&signature[..], &x(&self.secret), &tlv(55330, &fields)].concat())
    }

    /// A signature for each outcome, with these nonces.
    pub fn attests_with(&self, id: &str, nonces: &[SecretKey], outcomes: &[&str]) -> Vec<u8> {
        let signed = nonces.iter().zip(outcomes).flat_map(|(nonce, outcome)| {
            let message = self.message("DLC/oracle/attestation/v0", outcome.as_bytes());
            sign(&self.secret, nonce, &message)
        });
        let signed: Vec<u8> = signed.collect();
        let outcomes: Vec<u8> = outcomes.iter().flat_map(|outcome| string(outcome)).collect();
        tlv(55400, &[&string(id)[..], &x(&self.secret), &count(nonces.len()), &signed, &outcomes].concat())
    }

    pub fn attests(&self, event: &Event, outcomes: &[&str]) -> Vec<u8> {
        self.attests_with(&event.id, &event.nonces, outcomes)
    }
}
