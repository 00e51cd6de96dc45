//! Which events from relays are requests for this group. Relays don't index the `state` tag of a definition, so
//! definitions are asked for by kind and sorted out here.

use std::collections::{BTreeMap, VecDeque};

use concordat_events::kinds::{CHANGE, DEFINITION, INPUT};
use concordat_events::{Hash, PublicKey, Route, ValidEvent};
use nostr::filter::MatchEventOptions;
use nostr::{Filter, Kind};

use super::seen::Seen;

/// Inputs that wait for their machine to be certified. More than a few at a time are a stranger's machines.
const PARKED: usize = 4_096;

/// Inputs that wait for one machine, so that one can't push all others out.
const PARKED_PER_MACHINE: usize = 64;

/// Ids that are told apart from new ones: a day of a busy group.
const SEEN: usize = 200_000;

/// Filters in one subscription; relays commonly take ten. The oldest machines' sources come first.
const FILTERS: usize = 10;

/// What this group listens for, and what of it is for this group.
pub struct Intake {
    group: PublicKey,
    machines: BTreeMap<Hash, Vec<Filter>>,
    /// Machines with sources in the order in which they started.
    with_sources: Vec<Hash>,
    parked: VecDeque<(Hash, ValidEvent)>,
    seen: Seen,
}

impl Intake {
    /// For the group with this key.
    pub fn new(group: PublicKey) -> Self {
        Intake {
            group,
            machines: BTreeMap::new(),
            with_sources: Vec::new(),
            parked: VecDeque::new(),
            seen: Seen::new(SEEN),
        }
    }

    /// Notes a machine of this group, certified, with its `source` filters; returns the inputs that came before it.
    pub fn started(&mut self, machine: Hash, sources: Vec<Filter>) -> Vec<ValidEvent> {
        if !sources.is_empty() && !self.with_sources.contains(&machine) {
            self.with_sources.push(machine);
        }
        self.machines.insert(machine, sources);
        let (ready, parked) = self.parked.drain(..).partition(|(wanted, _)| *wanted == machine);
        self.parked = parked;
        let ready: VecDeque<(Hash, ValidEvent)> = ready;
        ready.into_iter().map(|(_, event)| event).collect()
    }

    /// Forgets a machine that is done and pruned.
    pub fn ended(&mut self, machine: &Hash) {
        self.machines.remove(machine);
        self.with_sources.retain(|known| known != machine);
    }

    /// What to ask relays for.
    pub fn filters(&self) -> Vec<Filter> {
        let ours = Filter::new().kinds([DEFINITION, INPUT, CHANGE].map(Kind::from_u16));
        let sources = self.with_sources.iter().filter_map(|machine| self.machines.get(machine)).flatten();
        let mut filters = vec![ours];
        for source in sources {
            // A filter's own limit is for stored events only; what has none would be cut off at a relay's default.
            if !filters.contains(source) {
                filters.push(source.clone());
            }
        }
        filters.truncate(FILTERS);
        filters
    }

    /// The request in an event, if it is one for this group and wasn't taken before.
    pub fn take(&mut self, event: ValidEvent) -> Option<ValidEvent> {
        if self.seen.contains(&event.id()) {
            return None;
        }
        let is_source = || self.machines.values().flatten().any(|source| matches(source, &event));
        match Route::of(&event, &self.group) {
            Ok(Route::Definition(_) | Route::Change(_)) => {}
            Ok(Route::Input(input)) if !self.machines.contains_key(&input.machine) && !is_source() => {
                self.seen.insert(event.id());
                self.park(input.machine, event);
                return None;
            }
            Ok(Route::Input(_)) => {}
            Ok(Route::Other) | Err(_) if is_source() => {}
            Ok(Route::Other) | Err(_) => return None,
        }
        self.seen.insert(event.id());
        Some(event)
    }

    fn park(&mut self, machine: Hash, event: ValidEvent) {
        let waiting = self.parked.iter().filter(|(wanted, _)| *wanted == machine).count();
        if waiting >= PARKED_PER_MACHINE {
            return;
        }
        self.parked.push_back((machine, event));
        if self.parked.len() > PARKED {
            self.parked.pop_front();
        }
    }
}

/// Does a `source` filter match? Full-text search is no relay's duty and nobody's idea of a rule, so it is ignored.
fn matches(source: &Filter, event: &ValidEvent) -> bool {
    source.match_event(event.event(), MatchEventOptions::new().nip50(false))
}

#[cfg(test)]
mod tests {
    use concordat_events::Mode;
    use concordat_events::request::{definition_tags, input_tags};
    use nostr::{EventBuilder, Keys, Tag};

    use super::*;

    fn event(kind: u16, tags: Vec<Vec<String>>) -> ValidEvent {
        let tags: Vec<Tag> = tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect();
        let signed =
            EventBuilder::new(Kind::from_u16(kind), "{}").tags(tags).sign_with_keys(&Keys::generate());
        ValidEvent::check(signed.unwrap()).unwrap()
    }

    #[test]
    fn only_definitions_of_this_group_come_in_and_once() {
        let (ours, theirs) = (Keys::generate().public_key(), Keys::generate().public_key());
        let mut intake = Intake::new(ours);
        let mine = event(DEFINITION, definition_tags(&ours, "a", None, Mode::Sequenced));
        let other = event(DEFINITION, definition_tags(&theirs, "a", None, Mode::Sequenced));
        assert_eq!(intake.take(mine.clone()), Some(mine.clone()));
        assert_eq!(intake.take(mine), None);
        assert_eq!(intake.take(other), None);
        assert_eq!(intake.take(event(1, vec![])), None);
    }

    #[test]
    fn inputs_wait_for_their_machine() {
        let group = Keys::generate().public_key();
        let mut intake = Intake::new(group);
        let machine = Hash::from_bytes([1; 32]);
        let early = event(INPUT, input_tags(machine, "GO", None));
        assert_eq!(intake.take(early.clone()), None);
        assert_eq!(intake.started(Hash::from_bytes([2; 32]), vec![]), vec![]);
        assert_eq!(intake.started(machine, vec![]), vec![early.clone()]);
        assert_eq!(intake.take(early), None, "it went out already");
        let late = event(INPUT, input_tags(machine, "GO", None));
        assert_eq!(intake.take(late.clone()), Some(late));
        intake.ended(&machine);
        assert_eq!(intake.take(event(INPUT, input_tags(machine, "GO", None))), None);
    }

    #[test]
    fn strangers_inputs_are_bounded() {
        let group = Keys::generate().public_key();
        let mut intake = Intake::new(group);
        let machine = Hash::from_bytes([1; 32]);
        for _ in 0..PARKED_PER_MACHINE + 5 {
            intake.take(event(INPUT, input_tags(machine, "GO", None)));
        }
        assert_eq!(intake.started(machine, vec![]).len(), PARKED_PER_MACHINE);
        let one = event(INPUT, input_tags(Hash::from_bytes([9; 32]), "GO", None));
        for n in 0..PARKED as u32 + 10 {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            intake.park(Hash::from_bytes(bytes), one.clone());
        }
        assert_eq!(intake.parked.len(), PARKED);
    }

    #[test]
    fn sources_of_known_machines_come_in() {
        let group = Keys::generate().public_key();
        let mut intake = Intake::new(group);
        let oracle = event(88, vec![]);
        assert_eq!(intake.take(oracle.clone()), None);
        let machine = Hash::from_bytes([1; 32]);
        let source = Filter::new().kind(Kind::from_u16(88)).author(oracle.author());
        intake.started(machine, vec![source.clone()]);
        assert_eq!(intake.filters().len(), 2);
        assert_eq!(intake.take(oracle.clone()), Some(oracle));
        assert_eq!(intake.take(event(88, vec![])), None, "another author");
        intake.ended(&machine);
        assert_eq!(intake.filters().len(), 1);
    }
}
