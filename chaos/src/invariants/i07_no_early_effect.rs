//! I7: nothing is published, acknowledged or allowed an effect before its certificate. What users are told is checked by them
//! (`sim::users`); this looks at every event that a custodian gives to its relays.

use std::collections::BTreeSet;

use concordat_events::{Hash, PublicKey, ValidEvent};
use concordat_finality::Published;

/// Its name in PROTOCOL 11.
pub const NAME: &str = "I7";

/// The events that certificates cover.
#[derive(Default)]
pub struct NoEarlyEffect {
    certified: BTreeSet<Hash>,
}

impl NoEarlyEffect {
    /// A custodian has a head's certificate.
    pub fn certified(&mut self, head: &Published) {
        self.certified.extend(head.events.iter().map(ValidEvent::id));
    }

    /// A custodian publishes an event. Others' events are none of the group's.
    ///
    /// # Errors
    /// The event, if it is the group's and no certificate covers it.
    pub fn published(&self, group: PublicKey, event: &ValidEvent) -> Result<(), String> {
        if event.author() == group && !self.certified.contains(&event.id()) {
            return Err(format!("event {} was published before its certificate", event.id()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nostr::{EventBuilder, Keys};

    use super::*;

    #[test]
    fn an_event_of_the_group_that_no_certificate_covers_is_named() {
        let keys = Keys::generate();
        let event = EventBuilder::text_note("head").sign_with_keys(&keys).unwrap();
        let event = ValidEvent::check(event).unwrap();
        let seen = NoEarlyEffect::default();
        let told = seen.published(event.author(), &event).unwrap_err();
        assert!(told.contains(&event.id().to_string()));
        // A user's own request, passed on, is nobody's effect.
        let other = Keys::generate().public_key();
        assert_eq!(seen.published(other, &event), Ok(()));
    }
}
