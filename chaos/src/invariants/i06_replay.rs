//! I6: every certified head equals a replay of its requests. Whoever has the relays' events and the group's key finds the same
//! history, head by head; custodians aren't asked.

use concordat_events::{PublicKey, ValidEvent};
use concordat_verify::Reader;

/// Its name in PROTOCOL 11.
pub const NAME: &str = "I6";

/// Reads the relays' events as a stranger does. `told` is how many heads custodians said were certified.
///
/// # Errors
/// How what the relays show differs from a replay, or from what was told.
pub fn see(group: PublicKey, events: Vec<ValidEvent>, told: u64) -> Result<(), String> {
    let mut reader = Reader::new(group);
    events.into_iter().for_each(|event| reader.event(event));
    match reader.check() {
        Ok(report) if report.heads == told => Ok(()),
        Ok(report) => Err(format!("the relays show {} heads, custodians told of {told}", report.heads)),
        Err(failure) => Err(failure.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use nostr::Keys;

    use super::*;

    #[test]
    fn heads_that_were_told_and_that_no_relay_shows_are_missed() {
        let group = Keys::generate().public_key();
        assert!(see(group, Vec::new(), 3).is_err());
    }
}
