//! The rows of PROTOCOL 7 that no vote stands behind: certificate, peers' claims, evidence. The power goes in front of every
//! write and flush of a scenario; what left by then must be on the disk.

use concordat_store::memory::{Image, MemoryStore};

use super::solo::Solo;
use crate::message::{Body, Kind};
use crate::mutants::{Mutant, off};
use crate::rules::{Law, Rules};
use crate::{Frost, record, wire};

type SendFirst = Mutant<{ off::FLUSH_BEFORE_SEND }>;

/// Runs a scenario once for each place at which the power may go. Says of each whether the message in question left and
/// whether what it needs is on the disk.
fn crashes<R: Rules<Scheme = Frost>>(
    scenario: impl Fn(&mut Solo<R>),
    left: impl Fn(&Solo<R>) -> bool,
    kept: impl Fn(&Solo<R>, &MemoryStore) -> bool,
) -> Vec<(bool, bool)> {
    let outcome = |op: Option<u64>| {
        let mut solo = Solo::<R>::running();
        solo.may_crash = true;
        let before = solo.store.ops();
        if let Some(op) = op {
            solo.store.stop_at(before + op);
        }
        scenario(&mut solo);
        let image: Image = solo.store.snapshot();
        ((left(&solo), kept(&solo, &MemoryStore::restore(image))), solo.store.ops() - before)
    };
    let (whole, ops) = outcome(None);
    let mut seen: Vec<_> = (0..ops).map(|op| outcome(Some(op)).0).collect();
    seen.push(whole);
    seen
}

/// The law never lets it leave alone, whether the crash comes before the flush or after it; the swap does.
fn row(law: &[(bool, bool)], swapped: &[(bool, bool)]) {
    assert!(law.iter().all(|(left, kept)| *kept || !left), "{law:?}");
    assert!(law.iter().any(|(left, _)| !left), "some crash came before the flush: {law:?}");
    assert!(law.iter().any(|(left, kept)| *left && *kept), "some came after it: {law:?}");
    assert!(swapped.iter().any(|(left, kept)| *left && !kept), "the mutant is seen: {swapped:?}");
}

#[test]
fn a_head_is_durable_before_it_is_acknowledged() {
    fn seen<R: Rules<Scheme = Frost>>() -> Vec<(bool, bool)> {
        crashes::<R>(
            |solo| {
                let (batch, id) = solo.head(0);
                solo.start_epoch(0, None);
                solo.propose(0, &batch, id);
                // Nothing comes after the power went.
                if let Some(certificate) = solo.signed(std::slice::from_ref(&batch)) {
                    solo.say(1, Kind::Certificate, &certificate);
                }
            },
            |solo| solo.certified.contains(&1),
            |solo, disk| {
                let context = &solo.cluster.context;
                let head = record::last_head(disk, context).unwrap();
                let store = std::sync::Arc::new(MemoryStore::restore(disk.snapshot()));
                let ledger = concordat_ledger::Ledger::open(store, context.genesis.clone()).unwrap();
                let tip = ledger.tip().map(|tip| tip.height);
                tip == Some(1) && head.is_some_and(|head| head.certificate.head.height == 1)
            },
        )
    }
    row(&seen::<Law>(), &seen::<SendFirst>());
}

#[test]
fn evidence_is_durable_before_it_is_passed_on() {
    fn seen<R: Rules<Scheme = Frost>>() -> Vec<(bool, bool)> {
        crashes::<R>(
            |solo| {
                for id in [1, 2] {
                    let body = wire::Propose { epoch: 0, height: 9, number: 1, id: vec![id; 32] };
                    solo.say(2, Kind::Propose, &body);
                }
            },
            |solo| solo.sent.iter().any(|message| matches!(&message.body, Body::Evidence(_))),
            |solo, disk| record::evidence(disk, &solo.cluster.context).unwrap().contains_key(&2),
        )
    }
    row(&seen::<Law>(), &seen::<SendFirst>());
}

#[test]
fn peers_claims_are_durable_before_what_depends_on_them() {
    fn seen<R: Rules<Scheme = Frost>>() -> Vec<(bool, bool)> {
        crashes::<R>(
            |solo| {
                // Long enough for a complaint, too short for the claim to be flushed by itself.
                solo.wait(950);
                let claimed = solo.forge(1, Kind::Nudge, &wire::Nudge {}, Vec::new());
                solo.input(crate::Input::Message(claimed));
                solo.wait(60);
            },
            |solo| solo.sent.iter().any(|message| matches!(&message.body, Body::Complaint(_))),
            |solo, disk| {
                let known = record::claims(disk).unwrap().get(&1).map(|claim| claim.seq);
                known == solo.last_seq()
            },
        )
    }
    row(&seen::<Law>(), &seen::<SendFirst>());
}
