//! Messages between custodians. Input: a byte (1: mend; 2: over another's connection), then a `wire::Envelope`.

use concordat_finality::limits::ENVELOPE_BYTES;
use concordat_finality::message::Kind;
use concordat_finality::{Message, wire};
use prost::Message as _;

use super::world::world;
use super::{bounded, flagged, mend};

pub fn run(data: &[u8]) -> bool {
    let Some((mended, bytes)) = flagged(data) else { return false };
    let mut bytes = bytes.to_vec();
    let mut sender = 1;
    if mended && let Ok(mut envelope) = wire::Envelope::decode(bytes.as_slice()) {
        mend::message(&mut envelope);
        bytes = envelope.encode_to_vec();
        sender = envelope.sender as u16;
    }
    let channel = if data.first().is_some_and(|flags| flags & 2 == 2) { sender % 4 + 1 } else { sender };
    receive(channel, &bytes).is_some()
}

/// Receives bytes and checks what became of them; the kind of an accepted message.
pub fn receive(channel: u16, bytes: &[u8]) -> Option<Kind> {
    let context = &world().context;
    let first = Message::receive(context, channel, bytes);
    let again = Message::receive(context, channel, bytes);
    assert_eq!(format!("{first:?}"), format!("{again:?}"), "the same bytes, another answer");
    let message = match first {
        Ok(message) => message,
        Err(error) => {
            bounded(&error);
            return None;
        }
    };
    assert!(bytes.len() <= ENVELOPE_BYTES);
    assert!(context.roster.get(message.sender).is_some(), "a stranger's message");
    let passed_on = matches!(message.kind(), Kind::Complaint | Kind::Grant | Kind::Evidence | Kind::Resume);
    assert!(message.sender == channel || passed_on, "custodian {channel} spoke for another");
    // What is stored and passed on is read back as the same message, and has one spelling.
    let stored = message.to_bytes();
    let read = Message::receive(context, message.sender, &stored).unwrap();
    assert_eq!(read.to_bytes(), stored);
    assert_eq!((read.sender, read.seq, read.digest), (message.sender, message.seq, message.digest));
    assert_eq!(format!("{:?}", read.body), format!("{:?}", message.body));
    // Nothing signed can be changed.
    let mut bent = message.envelope().clone();
    bent.seq ^= 1;
    assert!(Message::check(context, bent).is_err(), "the seq isn't signed");
    let mut bent = message.envelope().clone();
    match bent.body.first_mut() {
        Some(byte) => *byte ^= 1,
        None => bent.body.push(0),
    }
    assert!(Message::check(context, bent).is_err(), "the body isn't signed");
    Some(message.kind())
}
