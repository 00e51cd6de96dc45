//! Histories that verify.

use concordat_events::kinds::SNAPSHOT;
use concordat_events::{Hash, ValidEvent};
use concordat_verify::{Code, Failure, Reader, Report, verify};
use nostr::Keys;
use serde_json::json;

use super::world::*;

/// A world with two machines, rejections, a timer, effects, and a snapshot that was replaced.
pub struct Story {
    pub world: World,
    pub counter: ValidEvent,
    pub speaker: ValidEvent,
}

pub fn story() -> Story {
    let mut world = World::new();
    let user = Keys::generate();
    let counter_machine = world.definition(&user, "counter", &counter());
    let speaker_machine = world.definition(&user, "speaker", &speaker(39000, json!([["d", "group"]])));
    world.head(0, &[&counter_machine, &speaker_machine]);
    let (add, never) = (input(&user, &counter_machine, "ADD", 1), input(&user, &counter_machine, "NEVER", 2));
    world.heads(&[
        (2_000, &[&add, &never]),
        (2_500, &[]),
        (3_000, &[&input(&user, &speaker_machine, "SAY", 3)]),
    ]);
    world.head(3_500, &[&input(&user, &speaker_machine, "SAY", 4)]);
    world.head(4_000, &[]);
    Story { world, counter: counter_machine, speaker: speaker_machine }
}

impl Story {
    /// What relays would show: the newest of each (kind, `d`).
    pub fn relayed(&self) -> Vec<ValidEvent> {
        let address = |event: &ValidEvent| match event.kind() {
            10_000..20_000 | 30_000..40_000 => Some((event.kind(), event.tag("d").map(str::to_owned))),
            _ => None,
        };
        let newest = |event: &&ValidEvent| {
            let mut same = self.world.public.iter().filter(|other| address(other) == address(event));
            address(event).is_none() || same.all(|other| other.created_at() <= event.created_at())
        };
        self.world.public.iter().filter(newest).cloned().collect()
    }

    pub fn check(&self, events: impl IntoIterator<Item = ValidEvent>) -> Result<Report, Failure> {
        let mut reader = Reader::new(self.world.group.public_key());
        events.into_iter().for_each(|event| reader.event(event));
        reader.check()
    }

    pub fn code(&self, events: impl IntoIterator<Item = ValidEvent>) -> Code {
        self.check(events).unwrap_err().code
    }
}

#[test]
fn a_whole_history_verifies_with_and_without_replaced_events() {
    let story = story();
    let expected = Report {
        heads: 5,
        requests: 6,
        machines: 2,
        state_root: story.world.ledger.tip().unwrap().head.state_root,
        head: story.world.ledger.tip().unwrap().id,
        rubbish: 0,
        genesis: story.world.ledger.genesis().clone(),
        charters: vec![story.world.ledger.charter().clone()],
    };
    assert_eq!(story.check(story.world.public.clone()), Ok(expected.clone()));
    let relayed = story.relayed();
    assert!(relayed.len() < story.world.public.len(), "something was replaced");
    assert_eq!(story.check(relayed.into_iter().rev()), Ok(expected));
}

#[test]
fn lines_with_rubbish_and_strangers() {
    let story = story();
    let mut lines: Vec<String> = story.relayed().iter().map(|event| event.json().to_owned()).collect();
    let stranger = event(&Keys::generate(), SNAPSHOT, vec![vec!["d".into(), "x".into()]], "{}", START);
    lines.insert(0, "not json".into());
    lines.insert(3, String::new());
    lines.insert(5, "{\"id\":1}".into());
    lines.push(stranger.json().to_owned());
    lines.push(stranger.json().replace("{}", "{ }"));
    lines.push("[".repeat(70_000));
    let report = verify(&story.world.group.public_key(), &lines).unwrap();
    assert_eq!(report.rubbish, 4);
}

#[test]
fn another_groups_events_are_no_history_of_this_one() {
    let (story, other) = (story(), story());
    assert_eq!(story.code(other.world.public.clone()), Code::NoGenesis);
    let both = story.world.public.iter().chain(&other.world.public).cloned();
    assert_eq!(story.check(both).unwrap().heads, 5);
    assert_eq!(story.code([]), Code::NoGenesis);
    assert_ne!(story.world.ledger.cluster(), Hash::ZERO);
}

/// Machines started by machines are replayed from the same public events: their definitions are the group's, due and known.
#[test]
fn machines_that_machines_started_are_replayed() {
    let mut world = World::new();
    let user = Keys::generate();
    let model = world.definition(&user, "model", &counter());
    let start =
        json!({"type": "start", "params": {"definition": model.id(), "input": {"n": {"cel": "context.n"}}}});
    let parent = json!({"id": "parent", "initial": "on", "context": {"n": 0}, "states": {"on": {
        "on": {"GO": {"actions": [{"type": "cel.assign", "params": {"n": "context.n + 1"}}, start, start]}},
        "after": {"500": {"actions": start}}
    }}});
    let parent = world.definition(&user, "parent", &parent);
    world.head(0, &[&model, &parent]);
    world.head(1_000, &[&input(&user, &parent, "GO", 1), &input(&user, &parent, "GO", 2)]);
    let children = world.ledger.machines(None, usize::MAX).unwrap();
    let child = children.iter().find(|machine| machine.parent == Some(parent.id())).unwrap().id;
    let add = event(&user, 7501, concordat_events::request::input_tags(child, "ADD", None), "", START);
    assert_eq!(world.one(2_000, &add), "ok");
    let check = |events: &[ValidEvent]| {
        let mut reader = Reader::new(world.group.public_key());
        events.iter().for_each(|event| reader.event(event.clone()));
        reader.check()
    };
    let report = check(&world.public).unwrap();
    assert_eq!(report.machines, 2 + 5);
    assert_eq!(report.state_root, world.ledger.tip().unwrap().head.state_root);
    // Their definitions are due like any event that relays keep.
    let without: Vec<_> = world.public.iter().filter(|event| event.id() != child).cloned().collect();
    let failure = check(&without).unwrap_err();
    assert_eq!((failure.code, failure.height), (Code::MissingEvent, Some(2)));
}
