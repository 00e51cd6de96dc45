//! Snapshots: at most one per machine and second, the oldest first, none lost.

use concordat_events::limits::MESSAGES_PER_HEAD;
use nostr::Keys;

use super::world::*;

#[test]
fn a_second_change_in_one_second_waits_for_the_next() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &counter());
    let (_, first) = world.head(1_000, &[&machine]);
    assert_eq!(snapshots(&first).len(), 1);
    assert_eq!(world.ledger.next_due_ms(), None);
    let (_, same) = world.head(1_999, &[&input(&user, &machine, "ADD", 1)]);
    assert!(snapshots(&same).is_empty(), "relays would keep the lower id of the two");
    assert_eq!(world.ledger.next_due_ms(), Some(START + 2_000));
    let (_, next) = world.head(2_000, &[]);
    let (first, next) = (snapshots(&first)[0], snapshots(&next)[0]);
    assert!(next.created_at() > first.created_at());
    let tip = world.ledger.tip().unwrap();
    assert_eq!(next.tag("log"), Some(tip.id.to_hex().as_str()));
    assert_eq!(next.tag("root"), Some(tip.head.state_root.to_hex().as_str()));
    assert_eq!(next.tag("height"), Some("3"));
    assert_eq!(world.ledger.next_due_ms(), None);
}

#[test]
fn what_has_no_room_keeps_its_place() {
    let mut world = World::new();
    let user = Keys::generate();
    let machines: Vec<_> = (0..100).map(|n| world.definition(&user, &format!("m{n}"), &counter())).collect();
    let (_, signed) = world.head(1_000, &machines.iter().collect::<Vec<_>>());
    assert_eq!(signed.len(), MESSAGES_PER_HEAD);
    let ids = |signed: &[concordat_events::ValidEvent]| -> Vec<String> {
        snapshots(signed).iter().map(|event| event.tag("e").unwrap().to_owned()).collect()
    };
    let expected: Vec<_> = machines.iter().map(|machine| machine.id().to_hex()).collect();
    assert_eq!(ids(&signed), expected[..63]);
    assert_eq!(world.ledger.next_due_ms(), Some(START + 1_000), "due at once");
    // One that changes while it is queued keeps its place; the first one, signed already, goes behind.
    let (again, queued) = (input(&user, &machines[0], "ADD", 1), input(&user, &machines[80], "ADD", 2));
    let (_, signed) = world.head(2_000, &[&again, &queued]);
    let mut rest = expected[63..].to_vec();
    rest.push(expected[0].clone());
    assert_eq!(ids(&signed), rest);
    let changed = snapshots(&signed)[80 - 63].content().to_owned();
    assert!(changed.contains("\"n\":1"), "{changed}");
    assert_eq!(world.ledger.next_due_ms(), None);
}
