//! Signed Nostr events in expressions: `nostr.event`.
//!
//! An event that is carried inside another one's content hasn't been checked by anybody. Promises: what comes back has the id
//! that NIP-01 gives it and its author's BIP340 signature of that id. Refuses anything else with a reason of its own, also
//! members that NIP-01 doesn't have: what isn't signed mustn't come along.

use super::bip340::verify;
use super::eval::{Failure, Run, bytes};
use super::value::{Object, Val};
use crate::json;
use crate::limits;
use crate::step::Code;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Not the seven members of an event, each of its type.
const MALFORMED: Code = Code::own("event_malformed");
/// The id isn't the hash of the event.
const ID: Code = Code::own("event_id");
/// The signature doesn't verify under the author's key.
const SIGNATURE: Code = Code::own("event_signature");

impl<'a> Run<'a, '_> {
    /// The same event, checked. The signature is paid for already.
    pub(super) fn signed_event(&mut self, event: &Object<'a>) -> Result<Val<'a>, Failure> {
        let value = Val::Map(event.clone());
        let read = value.to_json();
        self.meter.charge(limits::COST_SHA256 + bytes(json::size(&read)) * 4)?;
        let Parts { id, key, signature, signed } = parts(&read).ok_or(Failure::Refused(MALFORMED))?;
        if Sha256::digest(signed.to_string()).as_slice() != id {
            return Err(Failure::Refused(ID));
        }
        if !verify(&key, &id, &signature) {
            return Err(Failure::Refused(SIGNATURE));
        }
        Ok(value)
    }
}

/// What is checked of an event.
struct Parts {
    id: Vec<u8>,
    key: Vec<u8>,
    signature: Vec<u8>,
    /// What the id is the hash of (NIP-01).
    signed: Value,
}

fn parts(event: &Value) -> Option<Parts> {
    let members = event.as_object().filter(|members| members.len() == 7)?;
    let (key, content) = (members.get("pubkey")?, members.get("content")?);
    let (at, kind, tags) = (members.get("created_at")?, members.get("kind")?, members.get("tags")?);
    at.as_u64()?;
    kind.as_u64().filter(|kind| *kind <= u64::from(u16::MAX))?;
    content.as_str()?;
    let text = |tag: &Value| tag.as_array().is_some_and(|tag| tag.iter().all(Value::is_string));
    tags.as_array().filter(|tags| tags.iter().all(text))?;
    let signed = serde_json::json!([0, key, at, kind, tags, content]);
    Some(Parts {
        id: hex_of(members.get("id")?, 32)?,
        key: hex_of(key, 32)?,
        signature: hex_of(members.get("sig")?, 64)?,
        signed,
    })
}

/// Bytes in lower-case hex, as NIP-01 writes them.
fn hex_of(value: &Value, len: usize) -> Option<Vec<u8>> {
    let text = value.as_str().filter(|text| text.len() == len * 2)?;
    let lower = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    lower.then(|| hex::decode(text).ok())?
}
