//! Heads: what Head(0) is, what makes batches invalid, determinism, install, and coming back.

use concordat_events::hash::tagged;
use concordat_events::{Hash, Head};
use concordat_ledger::{BatchFault, ExecuteError, HeadFault, InstallError, Ledger, OpenError, machine_key};
use concordat_store::{Op, Store, WriteBatch};
use nostr::Keys;
use proptest::prelude::*;

use super::world::*;

#[test]
fn the_first_head_carries_the_genesis_and_announces_the_group() {
    let world = World::new();
    let tip = world.ledger.tip().unwrap();
    assert_eq!((tip.height, tip.head.parent, tip.time_ms), (0, Hash::ZERO, START));
    let kinds: Vec<u16> = world.public.iter().map(|event| event.kind()).collect();
    assert_eq!(kinds, [400, 10002, 10400]);
    assert_eq!(Head::from_log_event(&world.public[0]).unwrap(), tip.head);
    assert_eq!(tip.id, world.public[0].id());
    assert_eq!(world.ledger.next_due_ms(), None);
}

#[test]
fn batches_that_no_clock_makes_valid() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &counter());
    world.head(1_000, &[&machine]);
    let add = input(&user, &machine, "ADD", 1);
    let fault = |batches: &[(u64, &[&concordat_events::ValidEvent])]| match world.try_heads(batches) {
        Err(ExecuteError::InvalidBatch { index, fault }) => (index, fault),
        other => panic!("{other:?}"),
    };
    let (now, before) = (START + 1_000, START + 999);
    assert_eq!(fault(&[(999, &[])]), (0, BatchFault::TimeFell { got: before, before: now }));
    assert!(matches!(fault(&[(2_000, &[]), (1_999, &[])]), (1, BatchFault::TimeFell { .. })));
    assert_eq!(fault(&[(2_000, &[&add, &add])]), (0, BatchFault::Twice { id: add.id() }));
    assert!(matches!(fault(&[(1 << 53, &[])]), (0, BatchFault::Time { .. })));
    let many: Vec<_> = (0..401).map(|n| input(&user, &machine, "ADD", n)).collect();
    let many: Vec<_> = many.iter().collect();
    assert!(matches!(fault(&[(2_000, &many)]), (0, BatchFault::Requests { got: 401 })));
    // Where a head ends is the proposer's choice, not the batch's fault.
    let (left, right) = many.split_at(200);
    for (batches, expected) in [
        (vec![], HeadFault::Empty),
        (vec![(2_000, &[][..]); 65], HeadFault::Batches { got: 65 }),
        (vec![(2_000, left), (2_000, right)], HeadFault::Requests { got: 401 }),
    ] {
        let result = world.try_heads(&batches);
        assert!(matches!(result, Err(ExecuteError::InvalidHead(fault)) if fault == expected));
    }
    assert!(world.try_heads(&[(1_000, &[])]).is_ok(), "equal times are fine");
}

#[test]
fn drafts_leave_no_trace_and_stale_ones_are_refused() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &counter());
    let root = world.ledger.tip().unwrap().head.state_root;
    let first = world.try_heads(&[(1_000, &[&machine])]).unwrap();
    let second = world.try_heads(&[(1_000, &[&machine])]).unwrap();
    assert_eq!((&first.head, first.id, &first.messages), (&second.head, second.id, &second.messages));
    assert_ne!(first.head.state_root, root);
    assert_eq!(world.ledger.machine(&machine.id()).unwrap(), None);
    world.certify(first);
    assert!(matches!(world.ledger.install(second), Err(InstallError::Stale { height: 1, .. })));
}

#[test]
fn what_is_installed_reads_before_it_is_written_and_after_a_restart() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &counter());
    let mut late = Vec::new();
    for (n, request) in [machine.clone(), input(&user, &machine, "ADD", 1), input(&user, &machine, "ADD", 2)]
        .iter()
        .enumerate()
    {
        let draft = world.try_heads(&[(1_000 * (n as u64 + 1), &[request])]).unwrap();
        late.push(world.ledger.install(draft).unwrap());
    }
    assert_eq!(world.context(&machine, "n"), 2);
    assert_eq!(world.ledger.find_by_d("m").unwrap(), Some(machine.id()), "written by the first head alone");
    let tip = world.ledger.tip().unwrap().clone();
    // Nothing reached the disk but Head(0).
    let genesis = world.ledger.genesis().clone();
    let cold = Ledger::open(world.store.clone(), genesis.clone()).unwrap();
    assert_eq!(cold.next_height(), 1);
    for batch in late {
        world.store.apply(batch).unwrap();
    }
    let warm = Ledger::open(world.store.clone(), genesis).unwrap();
    assert_eq!(warm.tip(), Some(&tip));
    assert_eq!(warm.next_due_ms(), world.ledger.next_due_ms());
    let next = [batch(9_000, &[&input(&user, &machine, "ADD", 3)])];
    assert_eq!(warm.execute(&next).unwrap().id, world.ledger.execute(&next).unwrap().id);
}

#[test]
fn another_cluster_and_a_changed_disk_are_noticed() {
    let mut world = World::new();
    let mut other = world.ledger.genesis().clone();
    other.name = "other".into();
    assert!(matches!(Ledger::open(world.store.clone(), other), Err(OpenError::OtherCluster { .. })));
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &counter());
    world.head(1_000, &[&machine]);
    let genesis = world.ledger.genesis().clone();
    // The root node of the tree, one bit changed.
    let key = b"ledger/n\0\0".to_vec();
    let mut node = world.store.get(&key).unwrap().unwrap();
    node[40] ^= 1;
    let mut batch = WriteBatch::new();
    batch.put(key, node);
    world.store.apply(batch).unwrap();
    assert!(matches!(Ledger::open(world.store.clone(), genesis), Err(OpenError::Root { .. })));
}

/// One bit of one leaf below a ledger changes every root that it computes from there on.
#[test]
fn a_perturbed_leaf_gives_another_root() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &counter());
    world.head(1_000, &[&machine]);
    let add = input(&user, &machine, "ADD", 1);
    let honest = world.try_heads(&[(2_000, &[&add])]).unwrap();
    let key = [b"ledger/v".as_slice(), &machine_key(&machine.id())].concat();
    let record = String::from_utf8(world.store.get(&key).unwrap().unwrap()).unwrap();
    let mut batch = WriteBatch::new();
    batch.put(key, record.replace("\"n\":0", "\"n\":1"));
    world.store.apply(batch).unwrap();
    world.ledger.settle();
    let perturbed = world.try_heads(&[(2_000, &[&add])]).unwrap();
    assert_ne!(honest.head.state_root, perturbed.head.state_root);
    assert_ne!(honest.id, perturbed.id);
}

#[test]
fn proofs_hold_against_the_head() {
    let mut world = World::new();
    let user = Keys::generate();
    let machines: Vec<_> = (0..20).map(|n| world.definition(&user, &format!("m{n}"), &counter())).collect();
    world.head(1_000, &machines.iter().collect::<Vec<_>>());
    let root = world.ledger.tip().unwrap().head.state_root;
    for machine in &machines {
        let proof = world.ledger.prove(&machine.id()).unwrap();
        let value = proof.check(&root, &machine_key(&machine.id())).unwrap().unwrap();
        let record: concordat_ledger::Record = serde_json::from_str(value).unwrap();
        assert_eq!(record, world.ledger.machine(&machine.id()).unwrap().unwrap().record);
    }
    let nobody = tagged("nobody", &[]);
    let absent = world.ledger.prove(&nobody).unwrap();
    assert_eq!(absent.check(&root, &machine_key(&nobody)), Ok(None));
    assert!(absent.check(&Hash::ZERO, &machine_key(&nobody)).is_err());
}

#[test]
fn all_keys_stay_in_the_ledgers_room() {
    let world = World::new();
    let draft = world.try_heads(&[(1_000, &[])]).unwrap();
    let mut ledger = world.ledger;
    for op in ledger.install(draft).unwrap().ops() {
        let (Op::Put(key, _) | Op::Delete(key) | Op::DeleteRange(key, _)) = op;
        assert!(key.starts_with(b"ledger/"));
    }
}

/// A full head of refusals with long codes, in as many batches as there may be, still fits into one event.
#[test]
fn the_largest_head_fits_into_its_log_event() {
    let world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &counter());
    let requests: Vec<_> = (0..400).map(|n| input(&user, &machine, "ADD", n)).collect();
    let requests: Vec<_> = requests.iter().collect();
    let batches: Vec<_> =
        (0..64).map(|n| (n, requests.chunks(7).nth(n as usize).unwrap_or_default())).collect();
    let draft = world.try_heads(&batches).unwrap();
    assert_eq!(draft.head.outcomes.len(), 400);
    assert!(draft.head.outcomes.iter().all(|(_, outcome)| outcome.reason() == Some("unknown_machine")));
    let size = draft.messages[0].signed_size();
    assert!(size <= concordat_events::limits::EVENT_BYTES, "{size}");
}

#[test]
fn a_ledger_moves_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Ledger<std::sync::Arc<concordat_store::memory::MemoryStore>>>();
    shared::<concordat_ledger::Draft>();
}

#[test]
fn machines_are_listed_in_pages_and_found_by_d() {
    let mut world = World::new();
    let user = Keys::generate();
    let mut machines: Vec<_> =
        (0..7).map(|n| world.definition(&user, &format!("m{n}"), &counter())).collect();
    world.head(1_000, &machines.iter().collect::<Vec<_>>());
    machines.sort_by_key(|machine| machine.id());
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = world.ledger.machines(after.as_ref(), 3).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        listed.extend(page.iter().map(|view| view.id));
    }
    assert_eq!(listed, machines.iter().map(|machine| machine.id()).collect::<Vec<_>>());
    assert_eq!(world.ledger.find_by_d("m99").unwrap(), None);
    let view = world.ledger.machine(&listed[0]).unwrap().unwrap();
    assert_eq!(world.ledger.find_by_d(&view.d).unwrap(), Some(view.id));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The same batches give the same heads in another ledger over another store, whatever was drafted in between, and
    /// whether or not the process was restarted.
    #[test]
    fn replays_agree(
        script in prop::collection::vec((0u64..1_500, prop::collection::vec((0usize..3, 0usize..4), 0..4)), 1..12)
    ) {
        let mut world = World::new();
        let user = Keys::generate();
        let machines: Vec<_> = (0..3).map(|n| world.definition(&user, &format!("m{n}"), &counter())).collect();
        let genesis = world.ledger.genesis().clone();
        let mut history = vec![vec![], vec![batch(0, &machines.iter().collect::<Vec<_>>())]];
        let mut now = 0;
        for (n, (step, requests)) in script.into_iter().enumerate() {
            now += step;
            let requests: Vec<_> = requests
                .into_iter()
                .enumerate()
                .map(|(m, (machine, kind))| {
                    let kind = ["ADD", "NEVER", "STOP", "WHAT"][kind];
                    input(&user, &machines[machine], kind, (n * 100 + m) as u64)
                })
                .collect();
            history.push(vec![batch(now, &requests.iter().collect::<Vec<_>>())]);
        }
        let mut ids = vec![world.ledger.tip().unwrap().id];
        for batches in &history[1..] {
            let draft = world.ledger.execute(batches).unwrap();
            ids.push(draft.id);
            world.certify(draft);
        }
        let store = std::sync::Arc::new(concordat_store::memory::MemoryStore::default());
        for (height, batches) in history.iter().enumerate() {
            let mut ledger = Ledger::open(store.clone(), genesis.clone()).unwrap();
            if height > 0 {
                ledger.execute(&[batch(now + 5_000, &[])]).unwrap();
            }
            let draft = ledger.execute(batches).unwrap();
            prop_assert_eq!(draft.id, ids[height]);
            store.apply(ledger.install(draft).unwrap()).unwrap();
        }
    }
}
