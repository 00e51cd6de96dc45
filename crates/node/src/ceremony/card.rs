//! A card: who a custodian is, for those who found a group with it. Public, and signed by the identity it names, so that
//! a mistyped or exchanged one is found before the ceremony and not in it.

use concordat_events::hash::tagged;
use concordat_events::json::{self, JsonError};
use concordat_events::limits::NAME_BYTES;
use concordat_events::{Hash, PublicKey};
use serde::{Deserialize, Serialize};

use crate::config::check_address;
use crate::keys::{self, CustodianKeys, pin_of};

/// The version of cards and proposals that this build reads.
pub const VERSION: u32 = 1;

/// Bytes of a certificate; those made here have below 400.
const CERTIFICATE_BYTES: usize = 4_096;

/// What a custodian tells the others about itself. Always whole and with a good signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    contents: Contents,
    signature: String,
}

/// What the signature covers, as RFC 8785 JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    name: String,
    identity: PublicKey,
    certificate: String,
    address: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    card: Contents,
    signature: String,
}

/// Why a card is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// Not JSON of this shape.
    #[error("not a card: {0}")]
    Json(#[from] JsonError),
    /// Another version.
    #[error("the card has version {0}, this build reads version {VERSION}")]
    Version(u32),
    /// A field can't be.
    #[error("the card's {field} isn't {expected}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The signature doesn't fit.
    #[error("the signature on the card of {name} isn't by the identity it names; ask for the card again")]
    Signature {
        /// Whose card it says it is.
        name: String,
    },
}

impl Card {
    /// Makes and signs a custodian's card.
    pub fn make(
        keys: &CustodianKeys,
        name: &str,
        certificate: &[u8],
        address: &str,
    ) -> Result<Self, CardError> {
        let contents = Contents {
            version: VERSION,
            name: name.to_owned(),
            identity: keys.public_key(),
            certificate: hex::encode(certificate),
            address: address.to_owned(),
        };
        let signature = hex::encode(keys.sign(&contents.hash()?));
        let card = Card { contents, signature };
        card.check()?;
        Ok(card)
    }

    /// Reads and checks a card.
    pub fn parse(text: &str) -> Result<Self, CardError> {
        let signed: Signed = json::typed(text)?;
        let card = Card { contents: signed.card, signature: signed.signature };
        card.check()?;
        Ok(card)
    }

    /// The card as one line of JSON.
    pub fn to_json(&self) -> Result<String, CardError> {
        let signed = Signed { card: self.contents.clone(), signature: self.signature.clone() };
        Ok(json::canonical(&signed)?)
    }

    /// The custodian's name.
    pub fn name(&self) -> &str {
        &self.contents.name
    }

    /// Its identity key.
    pub fn identity(&self) -> PublicKey {
        self.contents.identity
    }

    /// Its TLS certificate, DER.
    pub fn certificate(&self) -> Vec<u8> {
        // Checked when the card was made.
        hex::decode(&self.contents.certificate).unwrap_or_default()
    }

    /// The pin of its certificate.
    pub fn pin(&self) -> Hash {
        pin_of(&self.certificate())
    }

    /// Where other custodians reach it, `host:port`.
    pub fn address(&self) -> &str {
        &self.contents.address
    }

    fn check(&self) -> Result<(), CardError> {
        let Contents { version, name, identity, certificate, address } = &self.contents;
        if *version != VERSION {
            return Err(CardError::Version(*version));
        }
        if name.is_empty() || name.len() > NAME_BYTES {
            return Err(CardError::Field { field: "name", expected: "1 to 256 bytes long" });
        }
        check_address(address).map_err(|expected| CardError::Field { field: "address", expected })?;
        let der = hex::decode(certificate).unwrap_or_default();
        let good = der.len() <= CERTIFICATE_BYTES
            && x509_parser::parse_x509_certificate(&der).is_ok_and(|(rest, _)| rest.is_empty());
        if !good {
            return Err(CardError::Field { field: "certificate", expected: "an X.509 certificate in hex" });
        }
        let signature = hex::decode(&self.signature).unwrap_or_default();
        match keys::verify(identity, &self.contents.hash()?, &signature) {
            true => Ok(()),
            false => Err(CardError::Signature { name: name.clone() }),
        }
    }
}

impl Contents {
    fn hash(&self) -> Result<Hash, JsonError> {
        Ok(tagged("concordat/card", &[json::canonical(self)?.as_bytes()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_whole_or_refused() {
        let (keys, made) = CustodianKeys::generate().unwrap();
        let card = Card::make(&keys, "alice", made.der(), "alice.example.org:7400").unwrap();
        let text = card.to_json().unwrap();
        assert_eq!(Card::parse(&text).unwrap(), card);
        assert_eq!(card.pin(), pin_of(made.der()));

        let changed = text.replace("alice.example.org", "mallory.example.org");
        assert!(matches!(Card::parse(&changed), Err(CardError::Signature { .. })));
        let extra = text.replacen("{\"card\":{", "{\"card\":{\"x\":1,", 1);
        assert!(matches!(Card::parse(&extra), Err(CardError::Json(_))));
        for (name, address, certificate) in [
            ("", "a:1", made.der()),
            ("a", "nowhere", made.der()),
            ("a", "a:1", b"no certificate".as_slice()),
        ] {
            assert!(matches!(Card::make(&keys, name, certificate, address), Err(CardError::Field { .. })));
        }
    }
}
