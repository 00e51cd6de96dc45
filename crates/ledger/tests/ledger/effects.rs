//! Effects: events of allowed kinds, each once, before snapshots, strictly later per (kind, `d`).

use concordat_events::ValidEvent;
use concordat_events::kinds::STATEMENT;
use concordat_ledger::limits::QUEUED_EFFECTS;
use nostr::Keys;
use serde_json::json;

use super::world::*;

fn of_kind(signed: &[ValidEvent], kind: u16) -> Vec<&ValidEvent> {
    signed.iter().filter(|event| event.kind() == kind).collect()
}

#[test]
fn effects_come_in_order_before_snapshots() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &speaker(1, json!([["t", "x"]])));
    let says: Vec<_> = (0..3).map(|n| input(&user, &machine, "SAY", n)).collect();
    world.head(0, &[&machine]);
    let (outcomes, signed) = world.head(1_000, &says.iter().collect::<Vec<_>>());
    assert_eq!(outcomes, ["ok", "ok", "ok"]);
    let kinds: Vec<u16> = signed.iter().map(ValidEvent::kind).collect();
    assert_eq!(kinds, [400, 1, 1, 1, 30078]);
    let contents: Vec<&str> = signed[1..4].iter().map(ValidEvent::content).collect();
    assert_eq!(contents, ["1", "2", "3"]);
    assert!(signed[1..].iter().all(|event| event.created_at() == START / 1000 + 1));
}

#[test]
fn the_group_never_signs_some_kinds() {
    let mut world = World::with(|genesis| genesis.kinds.log = 4_000);
    let user = Keys::generate();
    for (n, kind) in [0u16, 3, 5, 400, 1059, 4_000, 7500, 7501, 10002, 10400, 22242, 30078].iter().enumerate()
    {
        let machine = world.definition(&user, &format!("m{n}"), &speaker(*kind, json!([])));
        let now = n as u64 * 2_000;
        world.head(now, &[&machine]);
        assert_eq!(world.one(now + 1_000, &input(&user, &machine, "SAY", 1)), "forbidden_kind", "{kind}");
        assert_eq!(world.context(&machine, "n"), 0, "the whole step is refused");
    }
}

#[test]
fn addressable_effects_wait_for_their_second_and_only_the_newest_counts() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &speaker(39000, json!([["d", "group"]])));
    world.head(0, &[&machine]);
    let say = |n| input(&user, &machine, "SAY", n);
    let (_, first) = world.head(1_000, &[&say(1), &say(2)]);
    assert_eq!(of_kind(&first, 39000).len(), 1);
    assert_eq!(of_kind(&first, 39000)[0].content(), "2");
    let (_, same) = world.head(1_500, &[&say(3)]);
    assert!(of_kind(&same, 39000).is_empty());
    assert_eq!(world.ledger.next_due_ms(), Some(START + 2_000));
    let (_, still) = world.head(1_600, &[&say(4)]);
    assert!(of_kind(&still, 39000).is_empty());
    let (_, next) = world.head(2_000, &[]);
    assert_eq!(of_kind(&next, 39000)[0].content(), "4");
    assert!(of_kind(&next, 39000)[0].created_at() > of_kind(&first, 39000)[0].created_at());
    assert_eq!(world.ledger.machine(&machine.id()).unwrap().unwrap().record.effects, 0);
    assert_eq!(world.ledger.next_due_ms(), None);
}

#[test]
fn an_address_belongs_to_the_machine_that_used_it_first() {
    let mut world = World::new();
    let user = Keys::generate();
    let first = world.definition(&user, "a", &speaker(39000, json!([["d", "group"]])));
    let second = world.definition(&user, "b", &speaker(39000, json!([["d", "group"]])));
    let third = world.definition(&user, "c", &speaker(39000, json!([["d", "other"]])));
    world.head(0, &[&first, &second, &third]);
    let says: Vec<_> =
        [&first, &second, &third].iter().map(|machine| input(&user, machine, "SAY", 1)).collect();
    assert_eq!(world.head(1_000, &says.iter().collect::<Vec<_>>()).0, ["ok", "d_taken", "ok"]);
}

#[test]
fn a_machine_that_asks_for_more_than_is_served_is_refused() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &speaker(1, json!([])));
    world.head(0, &[&machine]);
    let limit = u64::from(QUEUED_EFFECTS);
    let says: Vec<_> = (0..limit + 2).map(|n| input(&user, &machine, "SAY", n)).collect();
    let (outcomes, signed) = world.head(1_000, &says.iter().collect::<Vec<_>>());
    assert_eq!(outcomes.iter().filter(|word| *word == "busy").count(), 2);
    assert_eq!(of_kind(&signed, 1).len(), 63);
    assert_eq!(world.ledger.next_due_ms(), Some(START + 1_000));
    let (_, rest) = world.head(1_001, &[]);
    assert_eq!(of_kind(&rest, 1).len(), 1);
    assert_eq!(snapshots(&rest).len(), 1, "no snapshot starves for ever");
}

#[test]
fn what_would_not_fit_into_an_event_is_refused() {
    let mut world = World::new();
    let user = Keys::generate();
    let long = "x".repeat(300);
    let machine = world.definition(&user, "m", &speaker(39000, json!([["d", long]])));
    world.head(0, &[&machine]);
    assert_eq!(world.one(1_000, &input(&user, &machine, "SAY", 1)), "too_large");
}

/// A statement is known by its machine: the ledger names it, and no machine can name another.
#[test]
fn a_statement_names_the_machine_that_makes_it() {
    let mut world = World::new();
    let user = Keys::generate();
    let honest = world.definition(&user, "a", &speaker(STATEMENT, json!([["p", "x"]])));
    let other = honest.id().to_hex();
    let liar = world.definition(&user, "b", &speaker(STATEMENT, json!([["p", "x"], ["e", other]])));
    world.head(0, &[&honest, &liar]);
    let (outcomes, signed) =
        world.head(1_000, &[&input(&user, &honest, "SAY", 1), &input(&user, &liar, "SAY", 2)]);
    assert_eq!(outcomes, ["ok", "effect_error"]);
    assert_eq!(world.context(&liar, "n"), 0, "the whole step is refused");
    let said = of_kind(&signed, STATEMENT);
    assert_eq!(said.len(), 1);
    let tags: Vec<Vec<String>> = said[0].event().tags.iter().map(|tag| tag.clone().to_vec()).collect();
    assert_eq!(tags, [["e", other.as_str()], ["p", "x"]]);
}
