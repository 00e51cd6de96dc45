//! Timers fire by batch time, in order, before requests, and come to rest.

use concordat_ledger::limits::{TIMER_REST_MS, TIMER_STREAK, TIMERS_PER_BATCH};
use nostr::Keys;
use serde_json::json;

use super::world::*;

fn auction(ms: u64) -> serde_json::Value {
    json!({
        "id": "auction", "initial": "open", "context": {"n": 0},
        "states": {
            "open": {
                "after": {ms.to_string(): "closed"},
                "on": {"BID": {"actions": {"type": "cel.assign", "params": {"n": "context.n + 1"}}}}
            },
            "closed": {"type": "final"}
        }
    })
}

fn spinner() -> serde_json::Value {
    json!({
        "id": "spinner", "initial": "a", "context": {"n": 0},
        "states": {
            "a": {
                "entry": {"type": "cel.assign", "params": {"n": "context.n + 1"}},
                "after": {"0": "b"},
                "on": {"STOP": "end"}
            },
            "b": {
                "entry": {"type": "cel.assign", "params": {"n": "context.n + 1"}},
                "after": {"0": "a"},
                "on": {"STOP": "end"}
            },
            "end": {"type": "final"}
        }
    })
}

#[test]
fn a_bid_meets_the_deadline_that_passed_before_it() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &auction(5_000));
    world.head(1_000, &[&machine]);
    assert_eq!(world.ledger.next_due_ms(), Some(START + 6_000));
    assert_eq!(world.one(5_999, &input(&user, &machine, "BID", 1)), "ok");
    assert_eq!(world.one(6_000, &input(&user, &machine, "BID", 2)), "done");
    assert_eq!(world.value(&machine), "closed");
    assert_eq!(world.context(&machine, "n"), 1);
}

#[test]
fn an_empty_batch_fires_what_is_due() {
    let mut world = World::new();
    let user = Keys::generate();
    let slow = world.definition(&user, "slow", &auction(60_000));
    let fast = world.definition(&user, "fast", &auction(3_000));
    world.head(0, &[&slow, &fast]);
    assert_eq!(world.ledger.next_due_ms(), Some(START + 3_000));
    let (_, signed) = world.head(3_000, &[]);
    assert_eq!(snapshots(&signed).len(), 1);
    assert_eq!(world.value(&fast), "closed");
    assert_eq!(world.value(&slow), "open");
    assert_eq!(world.ledger.next_due_ms(), Some(START + 60_000));
}

#[test]
fn more_timers_than_a_batch_fires_wait_for_the_next_but_hold_their_own_machine() {
    let mut world = World::with(|genesis| genesis.admission.machines_per_author = 1_000);
    let user = Keys::generate();
    let machines: Vec<_> = (0..TIMERS_PER_BATCH + 10)
        .map(|n| world.definition(&user, &format!("m{n}"), &auction(1_000)))
        .collect();
    world.head(0, &machines.iter().collect::<Vec<_>>());
    // Timers due at the same time fire in the order of ids; the last machine's isn't among the first 256.
    let last = machines.iter().max_by_key(|machine| machine.id()).unwrap();
    assert_eq!(world.one(5_000, &input(&user, last, "BID", 1)), "busy");
    let open: Vec<_> = machines.iter().filter(|machine| world.value(machine) == "open").collect();
    assert_eq!(open.len(), 10);
    assert_eq!(world.ledger.next_due_ms(), Some(START + 1_000));
    // Fires as the first of the next batch, so the bid (another than the refused one) comes too late all the same.
    assert_eq!(world.one(5_000, &input(&user, open[3], "BID", 2)), "done");
    assert!(machines.iter().all(|machine| world.value(machine) == "closed"));
}

#[test]
fn a_machine_that_never_rests_is_made_to() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &spinner());
    world.head(1_000, &[&machine]);
    let streak = u64::from(TIMER_STREAK);
    let empty: &[&concordat_events::ValidEvent] = &[];
    let batches: Vec<_> = (1..=streak).map(|ms| (1_000 + ms, empty)).collect();
    world.heads(&batches);
    assert_eq!(world.context(&machine, "n"), streak + 1);
    let rested = 1_000 + streak + TIMER_REST_MS;
    world.head(2_000, &[]);
    assert_eq!(world.context(&machine, "n"), streak + 1);
    assert_eq!(world.ledger.next_due_ms(), Some(START + rested));
    assert_eq!(world.one(2_010, &input(&user, &machine, "STOP", 1)), "busy");
    world.head(rested, &[]);
    assert_eq!(world.context(&machine, "n"), streak + 2);
    // Between two timers an input gets in, and a machine that takes inputs isn't spinning.
    assert_eq!(world.one(rested, &input(&user, &machine, "STOP", 2)), "ok");
    assert_eq!(world.ledger.machine(&machine.id()).unwrap().unwrap().record.timer_streak, 0);
}
