//! What a migration costs in a key registry that has many identities: as much as in an empty one. The engine asks for as many keys
//! of its records, and writes as many, however many there are; the time beside it is printed:
//! `CONCORDAT_IDENTITIES=100000 cargo test --release -p concordat-machine --test machine -- --nocapture migrations_cost`.

use concordat_machine::{Definition, Event, MemoryRecords, RecordChange, Records, State, Step, records_root};
use serde_json::{Value, json};
use std::cell::Cell;
use std::time::Instant;

/// Records that count what they are asked.
#[derive(Debug)]
struct Counted<'r> {
    kept: &'r MemoryRecords,
    reads: Cell<usize>,
}

impl Records for Counted<'_> {
    fn get(&self, record: &str, key: &str) -> Option<Value> {
        self.reads.set(self.reads.get() + 1);
        self.kept.get(record, key)
    }
}

fn key(n: u64) -> String {
    format!("{n:064x}")
}

/// An event of a `source` filter.
fn event(kind: u16, id: u64, by: u64, tags: &Value) -> Event {
    Event {
        id: Some(key(id)),
        height: Some(1),
        ..Event::new(format!("nostr.{kind}"))
            .by(key(by))
            .with_data(json!({"kind": kind, "content": "", "tags": tags}))
    }
}

/// A registry in which so many identities have precommitted, as the steps would have left it.
fn filled(definition: &Definition, identities: u64) -> (State, MemoryRecords) {
    let input = json!({"delay_s": 0, "contest_s": 0, "age_s": 0});
    let state = definition.start_with(1_000, None, &input).unwrap().state;
    let mut records = MemoryRecords::default();
    let policy = json!({"delay_s": 0, "contest_s": 0, "age_s": 0, "guardians": [], "needed": 0});
    for n in 0..identities {
        let precommit =
            json!({"id": key(n << 32), "kind": 360, "sig": null, "keys": [key(1)], "height": 1, "at": 1});
        let value = json!({"policy": policy, "precommit": precommit, "move": null});
        records.apply(vec![
            RecordChange { record: "events".into(), key: key(n << 32), value: Some(json!(key(n << 33))) },
            RecordChange { record: "identities".into(), key: key(n << 33), value: Some(value) },
        ]);
    }
    let mut whole = serde_json::to_value(&state).unwrap();
    for record in ["events", "identities"] {
        let mark = json!({"count": identities, "root": records_root(record, records.iter(record))});
        whole["snapshot"]["records"][record] = mark;
    }
    (serde_json::from_value(whole).unwrap(), records)
}

#[test]
fn migrations_cost_the_same_among_many() {
    let text = include_str!("../../../../docs/machines/registry.json");
    let definition = Definition::parse(text).unwrap();
    let most = std::env::var("CONCORDAT_IDENTITIES").map_or(2_000, |text| text.parse().unwrap());
    let mut seen = Vec::new();
    for identities in [1, most] {
        let (mut state, mut records) = filled(&definition, identities);
        let (mut counts, mut times) = (Vec::new(), Vec::new());
        for n in 0..20 {
            let (who, by, to, id) = (3 + 8 * n, 5 + 8 * n, 7 + 8 * n, 9 + 8 * n);
            let both = [
                event(360, id, who, &json!([["p", key(by)]])),
                event(361, id + 1, by, &json!([["p", key(to)], ["e", key(id)]])),
            ];
            for one in both {
                let counted = Counted { kept: &records, reads: Cell::new(0) };
                let began = Instant::now();
                let step = definition.send_with(&state, &one, 2_000, &counted).unwrap();
                times.push(began.elapsed());
                let Step { state: next, records: changes, effects } = step;
                counts.push((counted.reads.get(), changes.len(), effects.len()));
                state = next;
                records.apply(changes);
            }
        }
        assert_eq!(state.snapshot()["records"]["identities"]["count"], json!(identities + 20));
        times.sort_unstable();
        println!(
            "{identities} identities: reads, writes, statements {:?}; median {:?}",
            &counts[..2],
            times[times.len() / 2]
        );
        seen.push(counts);
    }
    assert_eq!(seen[0], seen[1]);
}
