//! What founders of a group exchange before it has a key: cards, a proposal, and bundles of the key ceremony. Input: a byte
//! (which; the upper bits mend), then JSON or a bundle's bytes.

use std::sync::OnceLock;

use concordat_events::Hash;
use concordat_events::limits::NAME_BYTES;
use concordat_node::ceremony::{Bundle, Card, Proposal};
use concordat_node::keys::CustodianKeys;
use prost::Message as _;
use serde_json::Value;

use super::bounded;

/// Keys of one founder and the certificate that goes with them: made at run time, so that none stands in a repository.
pub fn founder() -> &'static (CustodianKeys, Vec<u8>) {
    static FOUNDER: OnceLock<(CustodianKeys, Vec<u8>)> = OnceLock::new();
    FOUNDER.get_or_init(|| {
        let (keys, certificate) = CustodianKeys::generate().unwrap();
        (keys, certificate.der().to_vec())
    })
}

pub fn run(data: &[u8]) -> bool {
    let Some((flags, bytes)) = data.split_first() else { return false };
    let mended = flags & 4 == 4;
    match flags & 3 {
        0 => card(bytes, mended),
        1 => proposal(bytes),
        _ => bundle(bytes, mended),
    }
}

/// A card by the founder whose keys are here, with the name and address of the one that came.
fn signed(text: &str) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    let field = |name: &str| value.pointer(&format!("/card/{name}")).and_then(Value::as_str);
    let (keys, certificate) = founder();
    match Card::make(keys, field("name")?, certificate, field("address")?) {
        Ok(card) => card.to_json().ok(),
        Err(error) => {
            bounded(&error);
            None
        }
    }
}

fn card(bytes: &[u8], mended: bool) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let text = if mended { signed(text) } else { Some(text.to_owned()) };
    let Some(text) = text else { return false };
    match Card::parse(&text) {
        Ok(card) => {
            assert!((1..=NAME_BYTES).contains(&card.name().len()));
            assert!(!card.certificate().is_empty());
            let written = card.to_json().unwrap();
            assert_eq!(Card::parse(&written).as_ref(), Ok(&card), "written and read as another");
            // Two of one founder make no group.
            let twice = [card.clone(), card];
            let made = Proposal::from_cards("fuzz", "", 1, &twice, Vec::new(), Default::default());
            bounded(&made.unwrap_err());
            true
        }
        Err(error) => {
            bounded(&error);
            false
        }
    }
}

fn proposal(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match Proposal::parse(text) {
        Ok(proposal) => {
            let written = proposal.to_json().unwrap();
            assert_eq!(Proposal::parse(&written).as_ref(), Ok(&proposal), "written and read as another");
            assert_eq!(proposal.id(), Proposal::parse(&written).unwrap().id());
            assert!(proposal.roster.n() >= 2 && usize::from(proposal.threshold()) <= proposal.roster.n());
            true
        }
        Err(error) => {
            bounded(&error);
            false
        }
    }
}

fn bundle(bytes: &[u8], mended: bool) -> bool {
    let (keys, _) = founder();
    let mut bytes = bytes.to_vec();
    if mended && let Ok(bundle) = Bundle::decode(bytes.as_slice()) {
        bytes = bundle.seal(keys, Hash::ZERO, 1, 2);
    }
    match Bundle::open(&bytes, &keys.public_key(), Hash::ZERO, 1, 2) {
        Ok(bundle) => {
            let again = bundle.seal(keys, Hash::ZERO, 1, 2);
            let read = Bundle::open(&again, &keys.public_key(), Hash::ZERO, 1, 2);
            assert!(read.is_ok_and(|read| read == bundle), "written and read as another");
            assert!(
                Bundle::open(&again, &keys.public_key(), Hash::ZERO, 1, 3).is_err(),
                "for another receiver"
            );
            true
        }
        Err(error) => {
            bounded(&error);
            false
        }
    }
}
