//! Nostr events from relays and clients. Input: a byte (1: sign it), then an event's JSON.

use concordat_events::limits::{EVENT_BYTES, EVENT_TAGS};
use concordat_events::{Template, ValidEvent};

use super::{bounded, flagged, mend};

pub fn run(data: &[u8]) -> bool {
    let Some((mended, bytes)) = flagged(data) else { return false };
    match mend::template(bytes) {
        Some(template) if mended => match super::world::sign(&template).unwrap() {
            Ok(event) => check(event, Some(template)),
            Err(error) => {
                bounded(&error);
                false
            }
        },
        _ => match ValidEvent::parse(bytes) {
            Ok(event) => check(event, None),
            Err(error) => {
                bounded(&error);
                assert_eq!(ValidEvent::parse(bytes), Err(error));
                false
            }
        },
    }
}

fn check(event: ValidEvent, from: Option<Template>) -> bool {
    assert!(event.json().len() <= EVENT_BYTES && event.event().tags.len() <= EVENT_TAGS);
    // What custodians pass to each other is the JSON.
    let read = ValidEvent::parse(event.json().as_bytes()).unwrap();
    assert_eq!(read, event);
    // Fields are those that the id covers, however often they are read back.
    let template = Template {
        author: event.author(),
        created_at: event.created_at(),
        kind: event.kind(),
        tags: event.event().tags.iter().map(|tag| tag.as_slice().to_vec()).collect(),
        content: event.content().to_owned(),
    };
    assert_eq!(template.id(), event.id());
    assert_eq!(template.signed_size(), event.json().len());
    assert_eq!(template.signed(&event.signature()).unwrap(), event);
    if let Some(from) = from {
        assert_eq!(from, template, "signing changed the event");
    }
    true
}
