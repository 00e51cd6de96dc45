//! What the group signed beside its heads, against what the heads made due.
//!
//! Relays keep only the newest event of a (kind, `d`), so older ones may be gone; the newest must be there, and so must
//! every event of a kind that relays keep. Nothing else may carry the group's signature.

use std::collections::{BTreeMap, HashMap};

use concordat_events::kinds::SNAPSHOT;
use concordat_events::{Hash, Template, ValidEvent};

use crate::failure::{Code, Failure};
use crate::history::Pile;

/// Where an event came due.
#[derive(Clone, Copy)]
struct Place {
    height: u64,
    machine: Option<Hash>,
    kind: u16,
}

/// Everything that the heads made due.
#[derive(Default)]
pub(crate) struct Due {
    all: HashMap<Hash, Place>,
    /// The newest per (kind, `d`).
    newest: BTreeMap<(u16, String), Hash>,
    /// Those that relays keep for ever.
    kept: Vec<Hash>,
}

impl Due {
    /// Notes the events that a head makes due beside its log event.
    pub(crate) fn add(&mut self, height: u64, messages: &[Template]) {
        for message in messages {
            let id = message.id();
            let machine = tag(message, "e").and_then(Hash::from_hex).filter(|_| message.kind == SNAPSHOT);
            self.all.insert(id, Place { height, machine, kind: message.kind });
            match message.kind {
                // Ephemeral (NIP-01): relays don't keep them.
                20_000..30_000 => {}
                10_000..20_000 => {
                    self.newest.insert((message.kind, String::new()), id);
                }
                30_000..40_000 => {
                    let d = tag(message, "d").unwrap_or_default().to_owned();
                    self.newest.insert((message.kind, d), id);
                }
                _ => self.kept.push(id),
            }
        }
    }

    /// Compares with what is there.
    pub(crate) fn check(&self, pile: &Pile, log_kind: u16) -> Result<(), Failure> {
        let mut strays: Vec<&ValidEvent> = pile
            .of_group()
            .filter(|event| event.kind() != log_kind && !self.all.contains_key(&event.id()))
            .collect();
        strays.sort_by_key(|event| (named_height(event), event.id()));
        if let Some(stray) = strays.first() {
            let text = format!("no head makes event {} of kind {} due", stray.id(), stray.kind());
            let machine = stray.tag("e").and_then(Hash::from_hex).filter(|_| stray.kind() == SNAPSHOT);
            let failure = Failure::new(Code::UnexpectedEvent, text).of(machine);
            return Err(Failure { height: named_height(stray), ..failure });
        }
        let missing = |id: &&Hash| !pile.events.contains_key(id);
        let Some((id, place)) =
            self.newest.values().chain(&self.kept).find(missing).and_then(|id| Some((id, self.all.get(id)?)))
        else {
            return Ok(());
        };
        let code = if place.kind == SNAPSHOT { Code::MissingSnapshot } else { Code::MissingEvent };
        let text = format!(
            "event {id} of kind {}, due at height {}, isn't among the events",
            place.kind, place.height
        );
        Err(Failure::new(code, text).at(place.height).of(place.machine))
    }
}

/// The height that an event names.
pub(crate) fn named_height(event: &ValidEvent) -> Option<u64> {
    event.tag("height").and_then(|text| text.parse().ok())
}

/// The first value of a template's tag.
pub(crate) fn tag<'t>(template: &'t Template, name: &str) -> Option<&'t str> {
    let tag = template.tags.iter().find(|tag| tag.first().is_some_and(|first| first == name))?;
    tag.get(1).map(String::as_str)
}
