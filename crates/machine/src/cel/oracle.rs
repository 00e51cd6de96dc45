//! Oracles of discreet log contracts in expressions: `dlc.announcement` and `dlc.attestation`.
//!
//! An oracle is a map `{key, hash, event_id, announcement}`: its x-only key in hex; `tagged` (also where it is left out) or
//! `legacy_untagged`; the event's id, if it is known; the announcement in base64, as kind 88 has it. Promises: what comes
//! back has passed every check of EVENTS 4. Refuses anything else with the reason of [`crate::dlc`].

use super::eval::{Failure, Run, bytes, error};
use super::value::{List, Object, Val};
use crate::dlc::{Announcement, Attestation, Descriptor, Fault, Hashing};
use crate::limits;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::rc::Rc;

impl<'a> Run<'a, '_> {
    /// The announcement of one of the oracles that are expected, as a map from which attestations are checked.
    pub(super) fn announcement(&mut self, expected: &List<'a>, text: &str) -> Result<Val<'a>, Failure> {
        let read = Announcement::parse(&self.decoded(text)?).map_err(Failure::Oracle)?;
        let mut fault = Fault::Key;
        for oracle in self.by(expected, read.key())? {
            if self.text(&oracle, "event_id")?.is_none_or(|id| id == read.event_id()) {
                let hashing = self.hashing(&oracle)?;
                self.pay_for(1, text.len())?;
                read.check(hashing).map_err(Failure::Oracle)?;
                return Ok(announced(&read, hashing, text));
            }
            fault = Fault::Event;
        }
        Err(Failure::Oracle(fault))
    }

    /// The outcome that an attestation gives, by the announcement of the same oracle and event.
    pub(super) fn attestation(&mut self, announcements: &List<'a>, text: &str) -> Result<Val<'a>, Failure> {
        let attestation = Attestation::parse(&self.decoded(text)?).map_err(Failure::Oracle)?;
        let mut fault = Fault::Key;
        for oracle in self.by(announcements, attestation.key())? {
            let Some(announcement) = self.text(&oracle, "announcement")? else { continue };
            let announcement = Announcement::parse(&self.decoded(&announcement)?).map_err(Failure::Oracle)?;
            if announcement.event_id() != attestation.event_id() {
                fault = Fault::Event;
                continue;
            }
            let hashing = self.hashing(&oracle)?;
            self.pay_for(announcement.signatures() + 1, text.len())?;
            // Where the announcement stood so far is the author's affair: it may come from a participant.
            announcement.check(hashing).map_err(Failure::Oracle)?;
            let outcome = announcement.attested(&attestation, hashing).map_err(Failure::Oracle)?;
            return Ok(map([
                ("key", Val::text(&hex::encode(attestation.key()))),
                ("event_id", Val::text(attestation.event_id())),
                ("outcome", Val::text(&outcome.text)),
                ("value", outcome.value.map_or(Val::Null, Val::Int)),
            ]));
        }
        Err(Failure::Oracle(fault))
    }

    fn decoded(&mut self, text: &str) -> Result<Vec<u8>, Failure> {
        self.fits(text.len())?;
        STANDARD.decode(text).map_err(|_| Failure::Oracle(Fault::Malformed("not base64")))
    }

    fn pay_for(&mut self, signatures: usize, signed: usize) -> Result<(), Failure> {
        self.meter.charge(signatures as u64 * limits::COST_DLC_SIGNATURE + bytes(signed) * 4)
    }

    /// Those of a list that have this key.
    fn by(&mut self, oracles: &List<'a>, key: &[u8; 32]) -> Result<Vec<Object<'a>>, Failure> {
        let (key, mut found) = (hex::encode(key), Vec::new());
        for i in 0..oracles.len() {
            self.meter.charge(1)?;
            let Some(Val::Map(oracle)) = oracles.get(i) else { return error("an oracle is a map") };
            if self.text(&oracle, "key")?.is_some_and(|k| k == key) {
                found.push(oracle);
            }
        }
        Ok(found)
    }

    fn text(&mut self, oracle: &Object<'a>, field: &str) -> Result<Option<String>, Failure> {
        match oracle.get(field) {
            None | Some(Val::Null) => Ok(None),
            Some(Val::Str(text)) => {
                self.fits(text.as_str().len())?;
                Ok(Some(text.as_str().to_owned()))
            }
            Some(other) => error(format!("an oracle's `{field}` is a string, got {}", other.kind())),
        }
    }

    fn hashing(&mut self, oracle: &Object<'a>) -> Result<Hashing, Failure> {
        let name = self.text(oracle, "hash")?;
        let hashing = name.map_or(Some(Hashing::Tagged), |name| Hashing::named(&name));
        hashing.map_or_else(|| error("an oracle's `hash` is tagged or legacy_untagged"), Ok)
    }
}

fn announced<'a>(read: &Announcement, hashing: Hashing, text: &str) -> Val<'a> {
    let (outcomes, unit, precision) = match read.descriptor() {
        Descriptor::Enum(outcomes) => {
            (Val::list(outcomes.iter().map(|text| Val::text(text)).collect()), Val::Null, Val::Null)
        }
        Descriptor::Digits { unit, precision, .. } => {
            (Val::Null, Val::text(unit), Val::Int(i64::from(*precision)))
        }
    };
    map([
        ("key", Val::text(&hex::encode(read.key()))),
        ("hash", Val::text(hashing.name())),
        ("event_id", Val::text(read.event_id())),
        ("announcement", Val::text(text)),
        ("maturity", Val::Int(i64::from(read.maturity()))),
        ("outcomes", outcomes),
        ("unit", unit),
        ("precision", precision),
    ])
}

fn map<'a, const N: usize>(members: [(&str, Val<'a>); N]) -> Val<'a> {
    let members: BTreeMap<_, _> = members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Val::Map(Object::Made(Rc::new(members)))
}
