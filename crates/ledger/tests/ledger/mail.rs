//! Messages between machines: in order, once, never silent.

use concordat_events::{Hash, ValidEvent};
use concordat_ledger::limits::MAIL_PER_REQUEST;
use nostr::Keys;
use serde_json::{Value, json};

use super::world::*;

/// Sends `GO`'s messages to the machines that it was told of by `TO`.
fn sender(messages: &Value) -> Value {
    json!({"id": "sender", "initial": "on", "context": {"got": 0}, "states": {"on": {"on": {
        "GO": {"actions": messages},
        "BACK": {"actions": {"type": "cel.assign", "params": {"got": "context.got + event.data"}}}
    }}}})
}

fn send(to: &str, kind: &str, data: &Value) -> Value {
    json!({"type": "send", "params": {"to": to, "type": kind, "data": data}})
}

/// Writes down who sent what.
fn listener() -> Value {
    json!({"id": "listener", "initial": "on", "context": {"log": []}, "states": {"on": {"on": {
        "NOTE": {"actions": {"type": "cel.assign", "params": {"log": "context.log + [event.data]"}}},
        "FROM": {
            "guard": {"type": "cel", "params": {"expr": "event.pubkey == event.data"}},
            "actions": {"type": "cel.assign", "params": {"log": "context.log + [event.id]"}}
        }
    }}}})
}

fn start(world: &mut World, d: &str, ms: u64, definition: &Value) -> ValidEvent {
    let machine = world.definition(&Keys::generate(), d, definition);
    assert_eq!(world.one(ms, &machine), "ok");
    machine
}

#[test]
fn messages_arrive_in_order_within_the_head() {
    let mut world = World::new();
    let listener = start(&mut world, "l", 0, &listener());
    let to = listener.id().to_hex();
    let messages = json!([send(&to, "NOTE", &json!(1)), send(&to, "NOTE", &json!(2))]);
    let sender = start(&mut world, "s", 1_000, &sender(&messages));
    let user = Keys::generate();
    let go = |n| input(&user, &sender, "GO", n);
    let note = input(&user, &listener, "NOTE", 9);
    let (outcomes, signed) = world.head(2_000, &[&go(1), &note, &go(2)]);
    assert_eq!(outcomes, ["ok", "ok", "ok"]);
    assert_eq!(world.context(&listener, "log"), json!([1, 2, {"n": 9}, 1, 2]));
    // Both machines' snapshots are due.
    assert_eq!(snapshots(&signed).len(), 2);
    // A request that is brought again sends nothing again.
    assert_eq!(world.one(3_000, &go(1)), "duplicate");
    assert_eq!(world.context(&listener, "log").as_array().unwrap().len(), 5);
}

#[test]
fn the_receiver_knows_the_sender_and_refusals_are_kept() {
    let mut world = World::new();
    let listener = start(&mut world, "l", 0, &listener());
    let to = listener.id().to_hex();
    let messages = json!([
        {"type": "send", "params": {"to": to, "type": "FROM", "data": {"cel": "event.data.who"}}},
        send(&to, "NOBODY", &json!(null)),
    ]);
    let sender = start(&mut world, "s", 1_000, &sender(&messages));
    let user = Keys::generate();
    let tags = concordat_events::request::input_tags(sender.id(), "GO", None);
    let who = json!({"who": sender.id().to_hex()}).to_string();
    assert_eq!(world.one(2_000, &event(&user, 7501, tags, &who, START)), "ok");
    let log = world.context(&listener, "log");
    let first = Hash::from_hex(log[0].as_str().unwrap()).unwrap();
    let delivery = world.ledger.delivery(&listener.id(), &first).unwrap().unwrap();
    assert_eq!((delivery.from, delivery.reason), (sender.id(), None));
    // The second one's id follows from its sender and its number.
    let second = concordat_ledger::mail_id(&sender.id(), 1);
    assert_eq!(first, concordat_ledger::mail_id(&sender.id(), 0));
    let delivery = world.ledger.delivery(&listener.id(), &second).unwrap().unwrap();
    assert_eq!(delivery.reason.as_deref(), Some("unknown_event"));
}

#[test]
fn a_step_that_writes_to_nobody_is_refused() {
    let mut world = World::new();
    let user = Keys::generate();
    for (n, to) in ["x".to_owned(), Hash::ZERO.to_hex()].iter().enumerate() {
        let machine =
            start(&mut world, &format!("s{n}"), n as u64 * 2_000, &sender(&send(to, "NOTE", &json!(1))));
        assert_eq!(world.one(n as u64 * 2_000 + 1_000, &input(&user, &machine, "GO", 1)), "unknown_machine");
    }
}

/// Two machines that answer each other for ever stop at the limit, the same on every replay.
#[test]
fn answers_to_answers_end() {
    let mut world = World::new();
    let echo = json!({"id": "echo", "initial": "on", "context": {"n": 0}, "states": {"on": {"on": {
    "PING": {"actions": [
        {"type": "cel.assign", "params": {"n": "context.n + 1"}},
        {"type": "send", "params": {"to": {"cel": "event.data.to"}, "type": "PING",
            "data": {"to": {"cel": "event.data.back"}, "back": {"cel": "event.data.to"}}}}
    ]}}}}});
    let (a, b) = (start(&mut world, "a", 0, &echo), start(&mut world, "b", 1_000, &echo));
    let data = json!({"to": b.id().to_hex(), "back": a.id().to_hex()}).to_string();
    let tags = concordat_events::request::input_tags(a.id(), "PING", None);
    assert_eq!(world.one(2_000, &event(&Keys::generate(), 7501, tags, &data, START)), "ok");
    let n = |machine: &ValidEvent| world.context(machine, "n").as_u64().unwrap();
    // Each message is one step of its receiver, but the last, which finds none left to send.
    assert_eq!(n(&a) + n(&b), MAIL_PER_REQUEST as u64);
}

#[test]
fn timers_send_too() {
    let mut world = World::new();
    let listener = start(&mut world, "l", 0, &listener());
    let message = send(&listener.id().to_hex(), "NOTE", &json!("late"));
    let clock = json!({"id": "clock", "initial": "a", "states": {
        "a": {"after": {"1000": {"target": "b", "actions": message}}}, "b": {}}});
    start(&mut world, "c", 1_000, &clock);
    world.head(2_500, &[]);
    assert_eq!(world.context(&listener, "log"), json!(["late"]));
}
