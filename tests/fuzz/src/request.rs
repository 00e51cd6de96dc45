//! What users address to machines, and what claims to be a head. Input: a byte (1: sign it; 2: as
//! the group's log event), then an event's JSON.

use concordat_events::limits::{NAME_BYTES, SOURCES};
use concordat_events::{Head, Route, ValidEvent, json};
use concordat_ledger::check_definition;
use serde_json::Value;

use super::{bounded, flagged, mend};

pub fn run(data: &[u8]) -> bool {
    let Some((mended, bytes)) = flagged(data) else { return false };
    let log = data.first().is_some_and(|flags| flags & 2 == 2);
    let event = match mended {
        true if log => mend::logged(bytes),
        true => mend::signed(bytes),
        false => ValidEvent::parse(bytes).ok(),
    };
    let Some(event) = event else { return false };
    let group = mend::group();
    let route = Route::of(&event, &group);
    assert_eq!(format!("{route:?}"), format!("{:?}", Route::of(&event, &group)));
    let routed = match route {
        Err(error) => {
            bounded(&error);
            false
        }
        Ok(Route::Other) => false,
        Ok(Route::Input(input)) => {
            assert!((1..=NAME_BYTES).contains(&input.kind.len()));
            // The payload has one spelling, and that one is read back as the same value.
            let text = json::canonical(&input.data).unwrap();
            assert_eq!(json::parse(&text).unwrap(), input.data);
            true
        }
        Ok(Route::Change(change)) => {
            // What it changes has one spelling too.
            let text = serde_json::to_string(&change).unwrap();
            assert_eq!(json::typed::<concordat_events::Change>(&text).unwrap(), change);
            true
        }
        Ok(Route::Definition(definition)) => {
            assert!((1..=NAME_BYTES).contains(&definition.d.len()) && definition.sources.len() <= SOURCES);
            if let Err(faults) = check_definition(event.content()) {
                assert!(!faults.is_empty());
            }
            true
        }
    };
    match Head::from_log_event(&event) {
        Ok(head) => {
            let template = head.log_event(event.author(), event.kind()).unwrap();
            assert_eq!(template.id(), event.id(), "a head that isn't the event it was read from");
            true
        }
        Err(error) => {
            bounded(&error);
            if let Ok(value) = serde_json::from_str::<Value>(event.content()) {
                let _ = json::check_numbers(&value);
            }
            routed
        }
    }
}
