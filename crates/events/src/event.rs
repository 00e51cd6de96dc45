//! Nostr events: [`ValidEvent`], which has been checked whole, and [`Template`], which determines an id and waits for a signature.

use nostr::event::Tags;
use nostr::{Event, EventId, JsonUtil, Kind, PublicKey, Tag, Timestamp};
use secp256k1::schnorr::Signature;

use crate::checked::Checked;
use crate::hash::Hash;
use crate::limits::{EVENT_BYTES, EVENT_TAGS};
use crate::quote::quoted;

/// A Nostr event whose size, id and BIP340 signature have been checked (NIP-01). There is no other way to make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidEvent {
    event: Event,
    json: String,
}

/// Why an event is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Larger than [`EVENT_BYTES`].
    #[error("event of {got} bytes; at most {EVENT_BYTES} are taken")]
    TooLarge {
        /// Its size.
        got: usize,
    },
    /// More tags than [`EVENT_TAGS`].
    #[error("event with {got} tags; at most {EVENT_TAGS} are taken")]
    TooManyTags {
        /// How many.
        got: usize,
    },
    /// Not the JSON of a Nostr event.
    #[error("not a Nostr event: {0}")]
    Malformed(String),
    /// The id isn't the hash of the event.
    #[error("event {id}: the id isn't the hash of its contents")]
    WrongId {
        /// The id it claims.
        id: Hash,
    },
    /// The signature doesn't verify under the author's key.
    #[error("event {id}: the signature doesn't verify under key {author}")]
    WrongSignature {
        /// The event.
        id: Hash,
        /// Whose signature it should be, in hex.
        author: String,
    },
}

fn read(json: &[u8]) -> Result<Event, EventError> {
    if json.len() > EVENT_BYTES {
        return Err(EventError::TooLarge { got: json.len() });
    }
    Event::from_json(json).map_err(|error| EventError::Malformed(quoted(error)))
}

impl ValidEvent {
    /// Reads and checks an event's JSON.
    pub fn parse(json: &[u8]) -> Result<Self, EventError> {
        Self::check(read(json)?)
    }

    /// As [`ValidEvent::parse`]; a signature that was found good before isn't checked again.
    pub fn parse_with(json: &[u8], checked: &Checked) -> Result<Self, EventError> {
        Self::check_by(read(json)?, |event| checked.event(event))
    }

    /// Checks an event that a library has read.
    pub fn check(event: Event) -> Result<Self, EventError> {
        Self::check_by(event, Event::verify_signature)
    }

    fn check_by(event: Event, signed: impl FnOnce(&Event) -> bool) -> Result<Self, EventError> {
        if event.tags.len() > EVENT_TAGS {
            return Err(EventError::TooManyTags { got: event.tags.len() });
        }
        let json = event.try_as_json().map_err(|error| EventError::Malformed(quoted(error)))?;
        if json.len() > EVENT_BYTES {
            return Err(EventError::TooLarge { got: json.len() });
        }
        let id = Hash::from(event.id);
        if !event.verify_id() {
            return Err(EventError::WrongId { id });
        }
        if !signed(&event) {
            return Err(EventError::WrongSignature { id, author: event.pubkey.to_hex() });
        }
        Ok(ValidEvent { event, json })
    }

    /// The event id.
    pub fn id(&self) -> Hash {
        self.event.id.into()
    }

    /// The author's key, 64 hex digits.
    pub fn author(&self) -> PublicKey {
        self.event.pubkey
    }

    /// The kind.
    pub fn kind(&self) -> u16 {
        self.event.kind.as_u16()
    }

    /// Seconds since 1970.
    pub fn created_at(&self) -> u64 {
        self.event.created_at.as_secs()
    }

    /// The content.
    pub fn content(&self) -> &str {
        &self.event.content
    }

    /// The first value of the first tag called `name`.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.event
            .tags
            .iter()
            .map(Tag::as_slice)
            .find(|tag| tag.first().is_some_and(|first| first == name))
            .and_then(|tag| tag.get(1))
            .map(String::as_str)
    }

    /// All tags called `name`, whole.
    pub fn tags<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [String]> + 'a {
        self.event
            .tags
            .iter()
            .map(Tag::as_slice)
            .filter(move |tag| tag.first().is_some_and(|first| first == name))
    }

    /// The event in the library's type.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The event as one line of JSON.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The BIP340 signature.
    pub fn signature(&self) -> [u8; 64] {
        self.event.sig.serialize()
    }
}

/// An event without its signature: everything that its id covers (NIP-01).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The author: for everything that custodians sign together, the group key.
    pub author: PublicKey,
    /// Seconds since 1970.
    pub created_at: u64,
    /// The kind.
    pub kind: u16,
    /// The tags in order.
    pub tags: Vec<Vec<String>>,
    /// The content.
    pub content: String,
}

impl Template {
    /// The id that this template determines.
    pub fn id(&self) -> Hash {
        EventId::new(
            &self.author,
            &Timestamp::from_secs(self.created_at),
            &Kind::from_u16(self.kind),
            &self.nostr_tags(),
            &self.content,
        )
        .into()
    }

    /// Bytes of the event's JSON once signed, counted with a signature of zeros.
    pub fn signed_size(&self) -> usize {
        // An event without id and signature still prints both with fixed lengths, so the size is that of the real one.
        self.assemble(&[0; 64])
            .and_then(|event| event.try_as_json().ok())
            .map_or(usize::MAX, |json| json.len())
    }

    /// Puts the signature on and checks the whole.
    pub fn signed(&self, signature: &[u8; 64]) -> Result<ValidEvent, EventError> {
        let event = self
            .assemble(signature)
            .ok_or_else(|| EventError::Malformed("a signature has 64 bytes".into()))?;
        ValidEvent::check(event)
    }

    fn assemble(&self, signature: &[u8; 64]) -> Option<Event> {
        Some(Event::new(
            self.id().into(),
            self.author,
            Timestamp::from_secs(self.created_at),
            Kind::from_u16(self.kind),
            self.nostr_tags(),
            self.content.clone(),
            Signature::from_slice(signature).ok()?,
        ))
    }

    fn nostr_tags(&self) -> Tags {
        // A tag needs a name; the ones made here all have one, an empty one is left out rather than guessed.
        Tags::from_list(self.tags.iter().filter_map(|tag| Tag::parse(tag).ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use nostr::{EventBuilder, Keys};

    use super::*;

    fn event() -> Event {
        EventBuilder::new(Kind::from_u16(7501), "{}").sign_with_keys(&Keys::generate()).unwrap()
    }

    #[test]
    fn a_real_event_passes_and_keeps_its_id() {
        let event = event();
        let valid = ValidEvent::parse(event.as_json().as_bytes()).unwrap();
        assert_eq!(valid.id(), Hash::from(event.id));
        assert_eq!(ValidEvent::parse(valid.json().as_bytes()).unwrap(), valid);
    }

    #[test]
    fn changed_content_and_changed_signature_are_told_apart() {
        let mut changed = event();
        changed.content = "{ }".into();
        assert!(matches!(ValidEvent::check(changed), Err(EventError::WrongId { .. })));
        let mut forged = event();
        forged.sig = event().sig;
        assert!(matches!(ValidEvent::check(forged), Err(EventError::WrongSignature { .. })));
    }

    #[test]
    fn oversize_and_rubbish_are_refused() {
        assert!(matches!(ValidEvent::parse(&[b'x'; EVENT_BYTES + 1]), Err(EventError::TooLarge { .. })));
        assert!(matches!(ValidEvent::parse(b"{\"id\":1}"), Err(EventError::Malformed(_))));
    }

    #[test]
    fn a_template_gives_the_id_the_library_gives() {
        let keys = Keys::generate();
        let real = EventBuilder::new(Kind::from_u16(400), "text \u{1}\n\"")
            .tags([Tag::parse(["height", "1"]).unwrap()])
            .sign_with_keys(&keys)
            .unwrap();
        let template = Template {
            author: keys.public_key(),
            created_at: real.created_at.as_secs(),
            kind: 400,
            tags: vec![vec!["height".into(), "1".into()]],
            content: real.content.clone(),
        };
        let signed = template.signed(&real.sig.serialize()).unwrap();
        assert_eq!(signed.event(), &real);
        assert_eq!(template.signed_size(), signed.json().len());
    }
}
