//! Everything that can be tampered with, and the code that names it. The test holds the group's key, so it can sign lies.

use concordat_events::kinds::SNAPSHOT;
use concordat_events::{Hash, Head, Outcome, Reason, Template, ValidEvent};
use concordat_verify::{Code, Failure, verify};
use nostr::Keys;

use super::whole::{Story, story};
use super::world::*;

/// The log event at a height.
fn log(story: &Story, height: u64) -> ValidEvent {
    let named = height.to_string();
    let log = |event: &&ValidEvent| event.kind() == 400 && event.tag("height") == Some(named.as_str());
    story.world.public.iter().find(log).unwrap().clone()
}

/// The history with one event replaced by another, or dropped.
fn with(story: &Story, old: &ValidEvent, new: Option<ValidEvent>) -> Result<(), Failure> {
    let mut events: Vec<_> = story.relayed();
    events.retain(|event| event.id() != old.id());
    events.extend(new);
    story.check(events).map(|_| ())
}

/// The history up to `height` whose last head is changed and signed anew.
fn changed_head(story: &Story, height: u64, change: impl FnOnce(&mut Head)) -> Failure {
    let events: Vec<_> = story
        .world
        .public
        .iter()
        .filter(|event| {
            let of = event.tag("height").and_then(|text| text.parse::<u64>().ok());
            of.is_none_or(|of| of < height || (of == height && event.kind() == SNAPSHOT))
        })
        .cloned()
        .collect();
    let mut head = Head::from_log_event(&log(story, height)).unwrap();
    change(&mut head);
    let lie = sign(&story.world.group, &head.log_event(story.world.group.public_key(), 400).unwrap());
    story.check(events.into_iter().chain([lie])).unwrap_err()
}

fn template(event: &ValidEvent) -> Template {
    Template {
        author: event.author(),
        created_at: event.created_at(),
        kind: event.kind(),
        tags: event.event().tags.iter().map(|tag| tag.as_slice().to_vec()).collect(),
        content: event.content().to_owned(),
    }
}

#[test]
fn a_wrong_root_names_height_and_machine() {
    let story = story();
    let failure = changed_head(&story, 2, |head| head.state_root = Hash::from_bytes([7; 32]));
    assert_eq!((failure.code, failure.height), (Code::WrongRoot, Some(2)));
    let touched = [story.counter.id(), story.speaker.id()];
    assert!(touched.contains(&failure.machine.unwrap()));
}

/// Two machines are touched at height 2; the one whose signed snapshot lies is named.
#[test]
fn a_wrong_root_names_the_machine_whose_snapshot_lies() {
    for lying in 0..2 {
        let story = story();
        let machine = [&story.counter, &story.speaker][lying].id();
        let mut head = Head::from_log_event(&log(&story, 2)).unwrap();
        head.state_root = Hash::from_bytes([7; 32]);
        let lie = sign(&story.world.group, &head.log_event(story.world.group.public_key(), 400).unwrap());
        let mut events: Vec<_> = story
            .world
            .public
            .iter()
            .filter(|event| {
                event.tag("height").and_then(|text| text.parse::<u64>().ok()).is_none_or(|of| of < 2)
            })
            .cloned()
            .collect();
        for event in snapshots(&story.world.public) {
            if event.tag("height") == Some("2") {
                let mut template = template(event);
                if event.tag("e") == Some(machine.to_hex().as_str()) {
                    template.content = template.content.replace("\"n\":1", "\"n\":1000");
                }
                events.push(sign(&story.world.group, &template));
            }
        }
        events.push(lie);
        let failure = story.check(events).unwrap_err();
        assert_eq!(
            (failure.code, failure.height, failure.machine),
            (Code::WrongRoot, Some(2), Some(machine))
        );
    }
}

#[test]
fn a_wrong_outcome_names_the_request_and_its_machine() {
    let story = story();
    for change in [Outcome::Ok, Outcome::Rejected(Reason::new("unknown_event").unwrap())] {
        let failure = changed_head(&story, 2, |head| head.outcomes[1].1 = change);
        assert_eq!((failure.code, failure.height), (Code::WrongOutcome, Some(2)));
        assert_eq!(failure.machine, Some(story.counter.id()));
        assert!(failure.message.contains("guard_false"), "{failure}");
    }
}

#[test]
fn heads_that_are_none_or_no_chain() {
    let story = story();
    let failure = changed_head(&story, 3, |head| head.parent = Hash::ZERO);
    assert_eq!((failure.code, failure.height), (Code::BrokenChain, Some(3)));
    let failure = changed_head(&story, 3, |head| head.cluster = Hash::ZERO);
    assert_eq!((failure.code, failure.height), (Code::BrokenChain, Some(3)));
    let failure = changed_head(&story, 3, |head| head.roster = Hash::ZERO);
    assert_eq!((failure.code, failure.height), (Code::WrongHead, Some(3)));
    let failure = changed_head(&story, 3, |head| head.time_ms += 1);
    assert_eq!((failure.code, failure.height), (Code::WrongHead, Some(3)));
    let failure = changed_head(&story, 3, |head| head.batches_root = Hash::ZERO);
    assert_eq!((failure.code, failure.height), (Code::BadHead, Some(3)));
    let failure = changed_head(&story, 3, |head| {
        head.batches[0].0 = START;
        head.batches_root = head.computed_batches_root().unwrap();
    });
    assert_eq!((failure.code, failure.height), (Code::InvalidBatch, Some(3)));
}

#[test]
fn a_missing_head_is_a_gap_and_a_second_one_a_fork() {
    let story = story();
    let failure = with(&story, &log(&story, 2), None).unwrap_err();
    assert_eq!((failure.code, failure.height), (Code::Gap, Some(2)));
    assert_eq!(with(&story, &log(&story, 0), None).unwrap_err().code, Code::NoGenesis);
    let mut head = Head::from_log_event(&log(&story, 4)).unwrap();
    head.state_root = Hash::ZERO;
    let second = sign(&story.world.group, &head.log_event(story.world.group.public_key(), 400).unwrap());
    let failure = story.check(story.relayed().into_iter().chain([second.clone()])).unwrap_err();
    assert_eq!((failure.code, failure.height), (Code::Fork, Some(4)));
    for id in [second.id(), log(&story, 4).id()] {
        assert!(failure.message.contains(&id.to_hex()), "{failure}");
    }
}

#[test]
fn a_missing_request_is_named() {
    let story = story();
    let request = story.world.public.iter().find(|event| event.tag("t") == Some("NEVER")).unwrap().clone();
    let failure = with(&story, &request, None).unwrap_err();
    assert_eq!((failure.code, failure.height), (Code::MissingRequest, Some(2)));
    assert!(failure.message.contains(&request.id().to_hex()));
}

#[test]
fn missing_events() {
    let story = story();
    let relayed = story.relayed();
    let last = |kind: u16| relayed.iter().find(|event| event.kind() == kind).unwrap().clone();
    let failure = with(&story, &last(SNAPSHOT), None).unwrap_err();
    assert_eq!(failure.code, Code::MissingSnapshot);
    assert_eq!(failure.machine.map(|id| id.to_hex()).as_deref(), last(SNAPSHOT).tag("e"));
    for kind in [10002, 10400, 39000] {
        assert_eq!(with(&story, &last(kind), None).unwrap_err().code, Code::MissingEvent, "{kind}");
    }
}

#[test]
fn what_no_head_makes_due() {
    let story = story();
    let snapshot = snapshots(&story.world.public)[0].clone();
    let mut changed = template(&snapshot);
    changed.content = changed.content.replace("\"n\":0", "\"n\":5");
    let mut extra = template(&snapshot);
    extra.kind = 1;
    for lie in [changed, extra] {
        let lie = sign(&story.world.group, &lie);
        let failure = story.check(story.relayed().into_iter().chain([lie.clone()])).unwrap_err();
        assert_eq!((failure.code, failure.height), (Code::UnexpectedEvent, Some(1)));
        assert!(failure.message.contains(&lie.id().to_hex()));
        assert_eq!(failure.machine.is_some(), lie.kind() == SNAPSHOT);
    }
}

#[test]
fn a_changed_byte_in_what_the_group_signed_is_no_rubbish() {
    let story = story();
    let lines: Vec<String> = story.relayed().iter().map(|event| event.json().to_owned()).collect();
    for (n, event) in story.relayed().iter().enumerate() {
        if event.author() != story.world.group.public_key() {
            continue;
        }
        let mut lines = lines.clone();
        lines[n] =
            lines[n].replace(&event.signature().map(|b| format!("{b:02x}")).concat(), &"5".repeat(128));
        let failure = verify(&story.world.group.public_key(), &lines).unwrap_err();
        assert_eq!(failure.code, Code::BadSignature);
        assert_eq!(failure.height, event.tag("height").map(|text| text.parse().unwrap()));
    }
    // The same in a user's event is a request that isn't there.
    let n = story.relayed().iter().position(|event| event.kind() == 7501).unwrap();
    let mut lines = lines;
    lines[n] = lines[n].replace("{\\\"n\\\":", "{\\\"m\\\":");
    let failure = verify(&story.world.group.public_key(), &lines).unwrap_err();
    assert_eq!(failure.code, Code::MissingRequest);
    assert_ne!(Keys::generate().public_key(), story.world.group.public_key());
}
