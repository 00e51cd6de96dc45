//! Machines that start machines: whole or not at all, once, by ids that everybody computes alike, within limits.

use concordat_events::kinds::DEFINITION;
use concordat_events::output::Started;
use concordat_events::{Hash, Mode, ValidEvent};
use concordat_ledger::limits::{STARTS_BY_TIMERS, STARTS_PER_BATCH, STARTS_PER_REQUEST};
use nostr::Keys;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::*;

fn start_of(definition: &Value, input: &Value) -> Value {
    json!({"type": "start", "params": {"definition": definition, "input": input}})
}

/// Starts what an input names: `ONE` with its data as input; `MANY` eight times; `TOO_MANY` nine times.
fn factory() -> Value {
    let one = start_of(&json!({"cel": "event.data.of"}), &json!({"cel": "event.data.with"}));
    let plain = start_of(&json!({"cel": "event.data.of"}), &json!(null));
    let count = json!({"type": "cel.assign", "params": {"n": "context.n + 1"}});
    let many = |n: usize| -> Vec<Value> {
        std::iter::once(count.clone()).chain(std::iter::repeat_n(plain.clone(), n)).collect()
    };
    json!({"id": "factory", "initial": "on", "context": {"n": 0}, "states": {"on": {"on": {
        "ONE": {"actions": [count, one]},
        "MANY": {"actions": many(STARTS_PER_REQUEST)},
        "TOO_MANY": {"actions": many(STARTS_PER_REQUEST + 1)}
    }}}})
}

/// Counts down: with more than 0 left it starts another of its kind, which has one less.
fn chain() -> Value {
    json!({"id": "chain", "initial": "a",
    "context": {"left": {"cel": "input == null ? 0 : input.left"}, "of": {"cel": "input == null ? '' : input.of"}},
    "states": {
        "a": {"always": [
            {"guard": {"type": "cel", "params": {"expr": "context.left > 0"}}, "target": "b", "actions":
                start_of(&json!({"cel": "context.of"}), &json!({"left": {"cel": "context.left - 1"}, "of": {"cel": "context.of"}}))},
            {"target": "b"}
        ]},
        "b": {"on": {"END": "end"}},
        "end": {"type": "final"}
    }})
}

fn tell(user: &Keys, machine: Hash, kind: &str, data: &Value) -> ValidEvent {
    let tags = concordat_events::request::input_tags(machine, kind, None);
    event(user, 7501, tags, &data.to_string(), START)
}

fn ids(world: &World) -> Vec<Hash> {
    world.ledger.machines(None, usize::MAX).unwrap().into_iter().map(|machine| machine.id).collect()
}

/// A world with a factory and another machine.
fn with(other: &Value) -> (World, Keys, ValidEvent, ValidEvent) {
    let (mut world, user) = (World::new(), Keys::generate());
    let factory = world.definition(&user, "factory", &factory());
    let other = world.definition(&user, "other", other);
    assert_eq!(world.head(0, &[&factory, &other]).0, ["ok", "ok"]);
    (world, user, factory, other)
}

#[test]
fn a_started_machine_is_one_like_any_other() {
    let child = json!({"id": "child", "initial": "on",
    "context": {"got": {"cel": "input == null ? 0 : input.n"}, "by": {"cel": "event.pubkey"}},
    "states": {"on": {"on": {
        "MINE": {"guard": "isCreator", "actions": {"type": "cel.assign", "params": {"got": "0"}}},
        "ADD": {"actions": {"type": "cel.assign", "params": {"got": "context.got + 1"}}}
    }}}});
    let (mut world, user, factory, child) = with(&child);
    let request = tell(&user, factory.id(), "ONE", &json!({"of": child.id(), "with": {"n": 41}}));
    let (outcomes, signed) = world.head(2_300, &[&request]);
    assert_eq!(outcomes, ["ok"]);
    // Its definition is public, signed by the group, before anything else of it; its id is the machine's.
    let kinds: Vec<u16> = signed.iter().map(ValidEvent::kind).collect();
    assert_eq!(kinds, [400, DEFINITION, 30078, 30078]);
    let definition = &signed[1];
    assert_eq!(definition.content(), child.content());
    let id = definition.id();
    let input = json!({"n": 41}).to_string();
    let started = Started {
        group: world.group.public_key(),
        parent: factory.id(),
        n: 0,
        definition: child.id(),
        input: Some(&input),
        mode: Mode::Sequenced,
        sources: &[],
        content: child.content(),
        time_ms: START + 2_300,
    };
    assert_eq!(id, started.template().id(), "the id follows from parent, number, input and batch time");
    let machine = world.ledger.machine(&id).unwrap().unwrap();
    assert_eq!((machine.parent, machine.creator), (Some(factory.id()), user.public_key()));
    assert_eq!(machine.d, started.d());
    assert_eq!(world.context(definition, "got"), 41);
    assert_eq!(world.context(definition, "by"), factory.id().to_hex());
    // It takes inputs; to be its creator is its parent's part.
    assert_eq!(world.one(3_300, &tell(&user, id, "ADD", &json!(null))), "ok");
    assert_eq!(world.context(definition, "got"), 42);
    assert_eq!(world.one(4_300, &tell(&user, id, "MINE", &json!(null))), "guard_false");
    // Neither the request nor the definition that came of it start anything again.
    let before = ids(&world);
    // Who hasn't come so far as to know the machine doesn't order its definition either.
    for ledger in [&world.ledger, &World::of(world.group.clone()).ledger] {
        let judged = ledger.judge(definition, START).unwrap();
        assert_eq!(judged, Some(concordat_ledger::Refusal::Duplicate));
    }
    assert_eq!(world.head(5_300, &[&request, definition]).0, ["duplicate", "duplicate"]);
    assert_eq!(ids(&world), before);
    // It can be started from in turn, by the definition that it was started from.
    let again = tell(&user, factory.id(), "ONE", &json!({"of": id, "with": {"n": 1}}));
    let (outcomes, signed) = world.head(6_300, &[&again]);
    assert_eq!(outcomes, ["ok"]);
    assert_eq!(signed[1].tag("definition"), Some(child.id().to_hex().as_str()));
    assert_eq!(world.ledger.machine(&factory.id()).unwrap().unwrap().record.begun, 2);
}

#[test]
fn a_chain_starts_within_one_request_up_to_the_limit() {
    let (mut world, user, factory, link) = with(&chain());
    let chain = |left: usize| {
        tell(&user, factory.id(), "ONE", &json!({"of": link.id(), "with": {"left": left, "of": link.id()}}))
    };
    let before = ids(&world);
    let (outcomes, signed) = world.head(2_000, &[&chain(STARTS_PER_REQUEST - 1)]);
    assert_eq!(outcomes, ["ok"]);
    let definitions: Vec<_> = signed.iter().filter(|event| event.kind() == DEFINITION).collect();
    assert_eq!(definitions.len(), STARTS_PER_REQUEST);
    // Parents come before those that they started.
    let mut parent = factory.id();
    for definition in definitions {
        assert_eq!(definition.tag("parent"), Some(parent.to_hex().as_str()));
        parent = definition.id();
    }
    assert_eq!(ids(&world).len(), before.len() + STARTS_PER_REQUEST);
    // One more is refused whole: nothing of the chain is there, the factory's state is the same to the byte.
    let (before, state) = (ids(&world), world.ledger.machine(&factory.id()).unwrap().unwrap().record);
    let (outcomes, signed) = world.head(4_000, &[&chain(STARTS_PER_REQUEST)]);
    assert_eq!(outcomes, ["start_limit"]);
    assert_eq!(signed.len(), 1, "the log event alone");
    assert_eq!(ids(&world), before);
    assert_eq!(world.ledger.machine(&factory.id()).unwrap().unwrap().record, state);
}

#[test]
fn a_request_and_a_batch_start_so_many_and_no_more() {
    let (mut world, user, factory, other) = with(&counter());
    let tell = |kind, n: usize| tell(&user, factory.id(), kind, &json!({"of": other.id(), "n": n}));
    assert_eq!(world.one(1_000, &tell("TOO_MANY", 0)), "start_limit");
    assert_eq!(world.context(&factory, "n"), 0);
    let full = STARTS_PER_BATCH / STARTS_PER_REQUEST;
    let requests: Vec<_> = (0..=full).map(|n| tell("MANY", n)).collect();
    let (outcomes, _) =
        world.heads(&[(2_000, &requests.iter().collect::<Vec<_>>()), (2_000, &[&tell("MANY", full + 1)])]);
    let ok = outcomes.iter().filter(|outcome| *outcome == "ok").count();
    assert_eq!((ok, outcomes[full].as_str()), (full + 1, "start_limit"));
    assert_eq!(ids(&world).len(), 2 + (full + 1) * STARTS_PER_REQUEST);
    assert_eq!(world.context(&factory, "n"), full + 1);
}

#[test]
fn what_a_started_machine_may_not_do_refuses_the_step_that_starts_it() {
    let publishes = |kind: u16| {
        let action =
            json!({"type": "publish", "params": {"kind": kind, "content": "x", "tags": [["d", "same"]]}});
        json!({"id": "p", "initial": "a", "states": {"a": {"on": {"GO": {"actions": "assignExecutor"}}, "entry": action}}})
    };
    let wants = json!({"id": "w", "initial": "a", "context": {"n": {"cel": "input == null ? 0 : input.n"}},
        "states": {"a": {}}});
    let writes = json!({"id": "m", "initial": "a", "context": {"to": {"cel": "input == null ? '' : input"}}, "states": {"a": {
        "entry": {"type": "send", "params": {"to": {"cel": "context.to"}, "type": "X"}}}}});
    for (definition, input, expected) in [
        (&wants, json!({"n": 1}), "ok"),
        (&wants, json!({}), "assign_error"),
        (&publishes(39_000), json!(null), "d_taken"),
    ] {
        let (mut world, user, factory, other) = with(definition);
        let state = world.ledger.machine(&factory.id()).unwrap().unwrap().record;
        let request = tell(&user, factory.id(), "ONE", &json!({"of": other.id(), "with": input}));
        assert_eq!(world.one(2_000, &request), expected);
        let after = world.ledger.machine(&factory.id()).unwrap().unwrap().record;
        assert_eq!(after.state == state.state, expected != "ok", "{expected}");
        assert_eq!(ids(&world).len(), if expected == "ok" { 3 } else { 2 });
    }
    // A machine that can't start by itself isn't there to be started from, and one that isn't there neither.
    let (mut world, user, factory, _) = with(&counter());
    let forbidden = world.definition(&user, "m", &publishes(5));
    let nobody = world.definition(&user, "n", &writes);
    assert_eq!(world.head(1_000, &[&forbidden, &nobody]).0, ["forbidden_kind", "unknown_machine"]);
    for (n, of) in [forbidden.id().to_hex(), "x".into(), Hash::ZERO.to_hex()].into_iter().enumerate() {
        let request = tell(&user, factory.id(), "ONE", &json!({"of": of, "with": null}));
        assert_eq!(world.one(2_000 + n as u64 * 1_000, &request), "unknown_definition");
    }
}

#[test]
fn an_author_pays_with_the_own_quota_and_done_machines_cost_nothing() {
    let mut world = World::with(|genesis| genesis.admission.machines_per_author = 4);
    let user = Keys::generate();
    let factory = world.definition(&user, "factory", &factory());
    let other = world.definition(&Keys::generate(), "other", &counter());
    world.head(0, &[&factory, &other]);
    let one = |n: u64| tell(&user, factory.id(), "ONE", &json!({"of": other.id(), "with": n}));
    let outcomes = world.head(1_000, &[&one(1), &one(2), &one(3), &one(4)]).0;
    assert_eq!(outcomes, ["ok", "ok", "ok", "quota"]);
    let child = *ids(&world).iter().find(|id| ![factory.id(), other.id()].contains(id)).unwrap();
    assert_eq!(world.one(2_000, &tell(&user, child, "STOP", &json!(null))), "ok");
    assert_eq!(world.head(3_000, &[&one(5), &one(6)]).0, ["ok", "quota"]);
    // Nobody else's quota was touched, and no participant takes an address of theirs.
    let squatter = world.definition(&user, "started:x", &counter());
    assert_eq!(world.one(4_000, &squatter), "d_taken");
}

/// What the machines of one step want together is judged together: an address has one owner, a quota one sum.
#[test]
fn siblings_are_judged_together() {
    let child = json!({"id": "child", "initial": "a", "context": {"kind": {"cel": "input == null ? 39001 : input"}},
        "states": {"a": {"entry":
            {"type": "publish", "params": {"kind": {"cel": "context.kind"}, "content": "x", "tags": [["d", "one"]]}}}}});
    let mut world = World::with(|genesis| genesis.admission.machines_per_author = 4);
    let user = Keys::generate();
    let child = world.definition(&Keys::generate(), "child", &child);
    let start = |kind: &Value| start_of(&json!(child.id()), kind);
    let family = json!({"id": "family", "initial": "a", "states": {"a": {"on": {
        "SAME": {"actions": [start(&json!(39_000)), start(&json!(39_000))]},
        "OWN": {"actions": [start(&json!(39_000)), start(&json!(39_002))]},
        "MORE": {"actions": [start(&json!(39_003)), start(&json!(39_004))]}
    }}}});
    let family = world.definition(&user, "family", &family);
    assert_eq!(world.head(0, &[&child, &family]).0, ["ok", "ok"]);
    assert_eq!(world.one(1_000, &input(&user, &family, "SAME", 1)), "d_taken");
    assert_eq!(world.one(2_000, &input(&user, &family, "OWN", 2)), "ok");
    assert_eq!(world.one(3_000, &input(&user, &family, "MORE", 3)), "quota");
    assert_eq!(ids(&world).len(), 4);
}

/// Messages reach the machines of the own step, in the order of its effects.
#[test]
fn a_started_machine_writes_to_its_parent() {
    let child = json!({"id": "child", "initial": "a", "context": {"n": {"cel": "input == null ? 0 : input"}},
        "states": {"a": {"always": [{"guard": {"type": "cel", "params": {"expr": "context.n > 0"}}, "target": "b",
            "actions": {"type": "send", "params": {"to": {"cel": "event.pubkey"}, "type": "HI", "data": {"cel": "context.n"}}}}]},
            "b": {}}});
    let (mut world, user) = (World::new(), Keys::generate());
    let child = world.definition(&user, "child", &child);
    let start = |n: u64| start_of(&json!(child.id()), &json!(n));
    let parent = json!({"id": "parent", "initial": "a", "context": {"log": []}, "states": {"a": {"on": {
        "GO": {"actions": [start(1), start(2)]},
        "HI": {"actions": {"type": "cel.assign", "params": {"log": "context.log + [event.data]"}}}
    }}}});
    let parent = world.definition(&user, "parent", &parent);
    // Also while the state doesn't show the parent yet.
    assert_eq!(world.head(0, &[&child, &parent, &input(&user, &parent, "GO", 1)]).0, ["ok", "ok", "ok"]);
    assert_eq!(world.one(1_000, &input(&user, &parent, "GO", 2)), "ok");
    assert_eq!(world.context(&parent, "log"), json!([1, 2, 1, 2]));
}

/// Nobody signs for what timers do, so they start a few machines and then wait for a participant.
#[test]
fn timers_start_a_few_machines_and_then_wait_for_a_participant() {
    let (mut world, user) = (World::new(), Keys::generate());
    let other = world.definition(&user, "other", &counter());
    let clock = json!({"id": "clock", "initial": "a", "context": {"n": 0}, "states": {"a": {
        "on": {"REST": {}},
        "after": {"10": {"target": "a", "reenter": true, "actions": [
            {"type": "cel.assign", "params": {"n": "context.n + 1"}}, start_of(&json!(other.id()), &json!(null))]}}}}});
    let clock = world.definition(&user, "clock", &clock);
    world.head(0, &[&other, &clock]);
    for n in 1..=u64::from(STARTS_BY_TIMERS) + 2 {
        world.head(n * 10, &[]);
    }
    let record = |world: &World| world.ledger.machine(&clock.id()).unwrap().unwrap().record;
    assert_eq!(record(&world).begun, u64::from(STARTS_BY_TIMERS));
    assert_eq!(record(&world).timer_refused.as_deref(), Some("start_limit"));
    assert_eq!(ids(&world).len(), 2 + STARTS_BY_TIMERS as usize);
    for child in world.ledger.machines(None, usize::MAX).unwrap() {
        let expected = if child.parent.is_some() { STARTS_BY_TIMERS } else { child.record.begun_by_timers };
        assert_eq!(child.record.begun_by_timers, expected, "a child has none of its own");
    }
    assert_eq!(record(&world).begun_by_timers, STARTS_BY_TIMERS);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked for in whatever batches: each accepted request starts what it says and each refused one nothing,
    /// in one head or in many, and twice the same bytes.
    #[test]
    fn starts_happen_once_wherever_heads_end(
        asked in prop::collection::vec(prop::collection::vec(0..STARTS_PER_REQUEST + 2, 0..6), 1..5),
    ) {
        let (mut world, user, factory, link) = with(&chain());
        let request = |at: usize, n: usize, left: usize| {
            let with = json!({"left": left, "of": link.id(), "at": at, "n": n});
            tell(&user, factory.id(), "ONE", &json!({"of": link.id(), "with": with}))
        };
        let batches: Vec<Vec<ValidEvent>> = asked.iter().enumerate().map(|(at, batch)| {
            batch.iter().enumerate().map(|(n, left)| request(at, n, *left)).collect()
        }).collect();
        let refs: Vec<Vec<&ValidEvent>> = batches.iter().map(|batch| batch.iter().collect()).collect();
        let timed: Vec<(u64, &[&ValidEvent])> =
            refs.iter().enumerate().map(|(n, batch)| (2_000 + n as u64, batch.as_slice())).collect();
        // Twice the same, and the same outcomes and machines in heads of their own.
        let whole = world.try_heads(&timed).unwrap();
        prop_assert_eq!(&world.try_heads(&timed).unwrap().messages, &whole.messages);
        let mut apart = World { group: world.group.clone(), store: world.store.clone(),
            ledger: world.ledger.fork(world.store.clone()), public: Vec::new() };
        let mut outcomes = Vec::new();
        let mut drafts = Vec::new();
        for one in &timed {
            let draft = apart.try_heads(&[*one]).unwrap();
            outcomes.extend(draft.head.outcomes.clone());
            drafts.push(draft.messages.clone());
            apart.ledger.install(draft).unwrap();
        }
        prop_assert_eq!(&outcomes, &whole.head.outcomes);
        let machines = ids(&apart);
        world.certify(whole);
        prop_assert_eq!(ids(&world), machines);
        // As many as the accepted ones asked for.
        let mut expected = 2;
        let mut all = asked.iter().flatten();
        for batch in &asked {
            let mut room = STARTS_PER_BATCH;
            for left in batch {
                let wanted = all.next().unwrap() + 1;
                prop_assert_eq!(wanted, left + 1);
                if wanted <= STARTS_PER_REQUEST.min(room) {
                    expected += wanted;
                    room -= wanted;
                }
            }
        }
        prop_assert_eq!(ids(&world).len(), expected);
        let begun: u64 = world.ledger.machines(None, usize::MAX).unwrap().iter().map(|m| m.record.begun).sum();
        prop_assert_eq!(begun as usize + 2, expected);
    }
}
