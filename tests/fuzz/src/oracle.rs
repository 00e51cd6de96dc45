//! Announcements and attestations of oracles of discreet log contracts. Input: the announcement's length in two bytes, the
//! announcement, the attestation.

use concordat_machine::dlc::{Announcement, Attestation, Fault, Hashing};
use concordat_machine::limits::{DLC_SIGNATURES, DLC_STRING_BYTES};

use super::bounded;

const MODES: [Hashing; 2] = [Hashing::Tagged, Hashing::LegacyUntagged];

pub fn run(data: &[u8]) -> bool {
    let Some((length, rest)) = data.split_at_checked(2) else { return false };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let Some((announcement, attestation)) = rest.split_at_checked(length) else { return false };
    let announcement = same(Announcement::parse(announcement), Announcement::parse(announcement));
    let attestation = same(Attestation::parse(attestation), Attestation::parse(attestation));
    let (Some(announcement), Some(attestation)) = (announcement, attestation) else { return false };
    assert!(announcement.signatures() <= DLC_SIGNATURES && announcement.event_id().len() <= DLC_STRING_BYTES);
    // Nothing passes in both modes: a hash that is tagged is no plain one.
    assert!(MODES.iter().filter(|mode| announcement.check(**mode).is_ok()).count() <= 1);
    let mut outcomes = MODES.iter().filter_map(|mode| match announcement.attested(&attestation, *mode) {
        Ok(outcome) => Some(outcome),
        Err(fault) => {
            bounded(&fault);
            assert!(!matches!(fault, Fault::Malformed(_)), "it was read");
            None
        }
    });
    if let Some(outcome) = outcomes.next() {
        assert_eq!(
            (announcement.key(), announcement.event_id()),
            (attestation.key(), attestation.event_id())
        );
        assert!(outcome.value.is_none_or(|value| value.to_string() == outcome.text));
        assert!(outcomes.next().is_none());
    }
    true
}

fn same<T: PartialEq + std::fmt::Debug>(read: Result<T, Fault>, again: Result<T, Fault>) -> Option<T> {
    assert_eq!(read, again);
    if let Err(fault) = &read {
        bounded(fault);
        assert!(matches!(fault, Fault::Malformed(_)), "nothing is verified yet");
    }
    read.ok()
}
