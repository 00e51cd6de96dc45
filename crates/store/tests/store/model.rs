//! Random operations on every engine and on a plain map, which must agree at every step.

use crate::engines::{RedbDisk, SledDisk};
use concordat_store::conformance::{Disk, MemoryDisk, PrefixedDisk, everything};
use concordat_store::{Op, Order, Store, WriteBatch};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The reference.
pub type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Writes a batch to the reference, one key at a time and without any range of the map.
pub fn write(model: &mut Model, batch: &WriteBatch) {
    for op in batch.ops() {
        match op {
            Op::Put(key, value) => {
                model.insert(key.clone(), value.clone());
            }
            Op::Delete(key) => {
                model.remove(key);
            }
            Op::DeleteRange(from, to) => model.retain(|key, _| key < from || key >= to),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Apply(WriteBatch),
    Get(Vec<u8>),
    Scan(Bound<Vec<u8>>, Bound<Vec<u8>>, Order, usize),
    Flush,
    /// Flushes first: what happens to the rest differs from engine to engine.
    Reopen,
}

/// Few and short, so that operations meet.
fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop::sample::select(vec![0, 1, 2, 0x7f, 0xff]), 0..4)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..40),
        // Over a page of redb, over a blob of sled.
        1 => any::<u8>().prop_map(|byte| vec![byte; 9_000]),
        1 => any::<u8>().prop_map(|byte| vec![byte; 140_000]),
    ]
}

/// Random writes, ranges among them.
pub fn batch() -> impl Strategy<Value = WriteBatch> {
    let op = prop_oneof![
        6 => (key(), value()).prop_map(|(k, v)| Op::Put(k, v)),
        2 => key().prop_map(Op::Delete),
        1 => (key(), key()).prop_map(|(from, to)| Op::DeleteRange(from, to)),
    ];
    vec(op, 0..8).prop_map(|ops| {
        let mut batch = WriteBatch::new();
        for op in ops {
            match op {
                Op::Put(key, value) => batch.put(key, value),
                Op::Delete(key) => batch.delete(key),
                Op::DeleteRange(from, to) => batch.delete_range(from, to),
            };
        }
        batch
    })
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![Just(Bound::Unbounded), key().prop_map(Bound::Included), key().prop_map(Bound::Excluded),]
}

fn step() -> impl Strategy<Value = Step> {
    let order = prop_oneof![Just(Order::Ascending), Just(Order::Descending)];
    let limit = prop_oneof![0..5_usize, Just(usize::MAX)];
    prop_oneof![
        6 => batch().prop_map(Step::Apply),
        3 => key().prop_map(Step::Get),
        4 => (bound(), bound(), order, limit).prop_map(|(f, t, o, l)| Step::Scan(f, t, o, l)),
        2 => Just(Step::Flush),
        1 => Just(Step::Reopen),
    ]
}

fn within(key: &Vec<u8>, from: &Bound<Vec<u8>>, to: &Bound<Vec<u8>>) -> bool {
    let above = match from {
        Bound::Unbounded => true,
        Bound::Included(from) => key >= from,
        Bound::Excluded(from) => key > from,
    };
    above
        && match to {
            Bound::Unbounded => true,
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
        }
}

fn agrees(mut disk: impl Disk, steps: Vec<Step>) {
    let mut model = Model::new();
    let mut store = Some(disk.open());
    for step in steps {
        let open = store.as_ref().unwrap();
        match step {
            Step::Apply(batch) => {
                write(&mut model, &batch);
                open.apply(batch).unwrap();
            }
            Step::Get(key) => assert_eq!(open.get(&key).unwrap(), model.get(&key).cloned()),
            Step::Scan(from, to, order, limit) => {
                let got = open
                    .scan(from.as_ref().map(Vec::as_slice), to.as_ref().map(Vec::as_slice), order, limit)
                    .unwrap();
                let mut expected: Vec<_> = model
                    .iter()
                    .filter(|(key, _)| within(key, &from, &to))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                if order == Order::Descending {
                    expected.reverse();
                }
                expected.truncate(limit);
                assert_eq!(got, expected);
            }
            Step::Flush => open.flush().unwrap(),
            Step::Reopen => {
                open.flush().unwrap();
                // Closed before it is opened again.
                drop(store.take());
                store = Some(disk.open());
            }
        }
    }
    let open = store.as_ref().unwrap();
    assert_eq!(everything(open), model.into_iter().collect::<Vec<_>>());
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn memory_agrees(steps in steps()) {
        agrees(MemoryDisk::default(), steps);
    }

    #[test]
    fn prefixed_memory_agrees(steps in steps()) {
        agrees(PrefixedDisk { below: MemoryDisk::default(), prefix: vec![0, 0xff] }, steps);
    }
}

proptest! {
    // Each run opens files and syncs them.
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn redb_agrees(steps in steps()) {
        agrees(RedbDisk::default(), steps);
    }

    #[test]
    fn sled_agrees(steps in steps()) {
        agrees(SledDisk::default(), steps);
    }
}
