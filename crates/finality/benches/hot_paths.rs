//! What a custodian does for every message, batch and head, by itself: `cargo bench -p concordat-finality`.
//!
//! `concordat bench` measures whole clusters; these say where its time goes, and whether a change of one of them was for the
//! better.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a measurement of made up inputs"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hint::black_box;
use std::sync::Arc;

use concordat_events::request::{definition_tags, input_tags};
use concordat_events::{Batch, Hash, Mode, Template, ValidEvent};
use concordat_finality::message::{Kind, seal};
use concordat_finality::{Message, wire};
use concordat_ledger::Ledger;
use concordat_store::Store;
use concordat_store::memory::MemoryStore;
use concordat_threshold::dkg::{self, Ceremony, Params, To};
use concordat_threshold::{KeyShare, aggregate, commit, sign};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use prost::Message as _;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

#[path = "../../../tests/fuzz/src/world.rs"]
#[allow(dead_code, reason = "shared with the fuzz targets")]
mod world;

use world::{START, public, sign as signed, world};

/// A vote as a peer sends it: decoded, its fields counted, its signature checked.
fn messages(criterion: &mut Criterion) {
    let vote = wire::Propose { epoch: 1, height: 7, number: 3, id: vec![7; 32] }.encode_to_vec();
    let context = &world().context;
    let bytes = seal(context, &world().custodians[&1], 1, 9, Kind::Propose, vote, Vec::new()).encode_to_vec();
    criterion.bench_function("message/receive a proposal", |bencher| {
        bencher.iter(|| Message::receive(context, 1, black_box(&bytes)).unwrap());
    });
    let event = input(Hash::ZERO, 0);
    criterion.bench_function("message/check a request", |bencher| {
        bencher.iter(|| ValidEvent::parse(black_box(event.json().as_bytes())).unwrap());
    });
}

const COUNTER: &str = r#"{"id":"counter","initial":"on","context":{"n":0},"states":{"on":{"on":{"ADD":{"actions":{"type":"cel.assign","params":{"n":"context.n + 1"}}}}}}}"#;

fn request(kind: u16, tags: Vec<Vec<String>>, content: String) -> ValidEvent {
    let author = public(&world().users[0]);
    signed(&Template { author, created_at: START / 1000, kind, tags, content }).unwrap().unwrap()
}

fn input(machine: Hash, number: usize) -> ValidEvent {
    request(7501, input_tags(machine, "ADD", None), number.to_string())
}

/// A ledger with so many counters, and their ids.
fn ledger(machines: usize) -> (Ledger<Arc<MemoryStore>>, Vec<Hash>) {
    let store = Arc::new(MemoryStore::default());
    let mut ledger = Ledger::open(store.clone(), world().context.genesis.clone()).unwrap();
    let definitions: Vec<ValidEvent> = (0..machines)
        .map(|n| {
            let tags = definition_tags(&public(&world().group), &format!("m{n}"), None, Mode::Sequenced);
            request(7500, tags, COUNTER.to_owned())
        })
        .collect();
    let ids = definitions.iter().map(ValidEvent::id).collect();
    let mut install = |batches: &[Batch]| {
        let draft = ledger.execute(batches).unwrap();
        store.apply(ledger.install(draft).unwrap()).unwrap();
    };
    install(&[]);
    for (n, some) in (1..).zip(definitions.chunks(400)) {
        install(&[Batch { time_ms: START + n * 1_000, requests: some.to_vec() }]);
    }
    (ledger, ids)
}

/// A batch of inputs to one machine: checked, run, and the state's root made.
fn batches(criterion: &mut Criterion) {
    let (one, ids) = ledger(1);
    for size in [1, 100, 400] {
        let requests = (0..size).map(|n| input(ids[0], n)).collect();
        let batch = [Batch { time_ms: START + 60_000, requests }];
        criterion.bench_function(&format!("execute/{size} inputs to one machine"), |bencher| {
            bencher.iter(|| one.execute(black_box(&batch)).unwrap());
        });
    }
}

/// The state's root after one input, with few and with many machines beside it: it grows with the tree's depth alone.
fn roots(criterion: &mut Criterion) {
    for machines in [1, 30, 900] {
        let (ledger, ids) = ledger(machines);
        let batch = [Batch { time_ms: START + 60_000, requests: vec![input(ids[0], 1)] }];
        criterion.bench_function(&format!("state root/one input among {machines} machines"), |bencher| {
            bencher.iter(|| ledger.execute(black_box(&batch)).unwrap().head.state_root);
        });
    }
}

fn ceremony(n: u16, t: u16, rng: &mut ChaCha20Rng) -> Vec<KeyShare> {
    let roster: BTreeSet<u16> = (1..=n).collect();
    let (mut members, mut waiting) = (BTreeMap::new(), VecDeque::new());
    for own in &roster {
        let params = Params::new(Hash::ZERO, roster.clone(), *own, t).unwrap();
        let (member, first) = Ceremony::new(params, rng).unwrap();
        members.insert(*own, member);
        waiting.extend(first.into_iter().map(|out| (*own, out)));
    }
    while let Some((from, out)) = waiting.pop_front() {
        for (own, member) in &mut members {
            let meant = match out.to {
                To::All => *own != from,
                To::One(to) => *own == to,
            };
            if meant {
                let message = dkg::Message::decode(&out.message.encode()).unwrap();
                let next = member.on_message(from, message, rng).unwrap();
                waiting.extend(next.into_iter().map(|out| (*own, out)));
            }
        }
    }
    members.into_values().map(|member| member.finish().map_err(|_| ()).unwrap().share).collect()
}

/// Both rounds of one message's signature: each signer's part, and the leader's.
fn signatures(criterion: &mut Criterion) {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for (n, t) in [(4, 3), (7, 5), (13, 9)] {
        let shares = ceremony(n, t, &mut rng);
        let signers: Vec<&KeyShare> = shares.iter().take(t.into()).collect();
        let message = [7; 32];
        let mut round = || -> (Vec<_>, BTreeMap<_, _>) {
            let commit = |share: &&KeyShare| {
                let (nonce, commitment) = commit(share, &mut rng);
                (nonce, (share.number(), commitment))
            };
            signers.iter().map(commit).unzip()
        };
        criterion.bench_function(&format!("sign/one share of {t} of {n}"), |bencher| {
            let made = || {
                let (mut nonces, session) = round();
                (nonces.remove(0), session)
            };
            bencher.iter_batched(
                made,
                |(nonce, session)| sign(signers[0], nonce, &message, &session).unwrap(),
                BatchSize::SmallInput,
            );
        });
        let (nonces, session) = round();
        let made: BTreeMap<_, _> = signers
            .iter()
            .zip(nonces)
            .map(|(share, nonce)| (share.number(), sign(share, nonce, &message, &session).unwrap()))
            .collect();
        criterion.bench_function(&format!("aggregate/{t} of {n}"), |bencher| {
            bencher.iter(|| aggregate(signers[0].keys(), &message, &session, black_box(&made)).unwrap());
        });
    }
}

criterion_group!(hot_paths, messages, batches, roots, signatures);
criterion_main!(hot_paths);
