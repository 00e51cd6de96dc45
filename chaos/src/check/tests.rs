//! Small searches: the law holds in every state, and what breaks it is found. Larger ones are run by command
//! (docs/adr/0017-model-check.md).

use super::custodian::Custodian;
use super::explore::{Bounds, Report};
use super::founding::{CUSTODIANS, Founding};
use super::laws::{Stood, explore};
use super::steps::{Outcome, Step, leader, take};
use super::world::{Fact, Id, World};
use crate::standin::Sound;

fn bounds(epochs: u64, liar: u16) -> Bounds {
    Bounds {
        heights: 1,
        epochs,
        depth: None,
        liar: Some(liar),
        crashes: 0,
        cuts: false,
        states: 100_000,
        rules: Vec::new(),
        audits: 100,
    }
}

fn broken(report: &Report) -> Option<&str> {
    report.found.as_ref().map(|found| found.rule.as_str())
}

/// Two epochs of honest leaders beside a liar, then a leader that equivocates: every state, nothing broken.
#[test]
fn the_law_holds_in_every_state_of_two_epochs() {
    let report = explore("law", false, bounds(2, 4)).unwrap();
    assert!(report.complete && report.found.is_none(), "{:?}", report.found);
    assert!(report.states > 1_000 && report.audited > 0, "{} states", report.states);
}

/// The search is a function of its bounds.
#[test]
fn a_search_is_the_same_each_time() {
    let one = explore("law", false, bounds(1, 2)).unwrap();
    let two = explore("law", false, bounds(1, 2)).unwrap();
    assert_eq!((one.states, one.transitions, one.depth), (two.states, two.transitions, two.depth));
    assert_eq!(one.custodian_states, two.custodian_states);
}

/// With neither the value rule nor the own-share rule a liar that leads has another head prepared after one was signed.
#[test]
fn dropping_both_rules_is_found() {
    let mutant = "value-and-own-share-rules-dropped";
    let report = explore(mutant, false, Bounds { depth: Some(7), ..bounds(2, 2) }).unwrap();
    assert_eq!(broken(&report), Some("I12"));
    let found = report.found.unwrap();
    assert_eq!(found.trace.len(), 7, "the shortest way there: {:?}", found.trace);
}

/// A share that leaves without its lock is seen where it leaves.
#[test]
fn a_share_without_a_lock_is_found() {
    let report = explore("share-before-certificate", false, bounds(1, 4)).unwrap();
    assert_eq!(broken(&report), Some("I4"));
}

/// A crash before a flush, of a custodian that sends first.
#[test]
fn sending_before_flushing_is_found() {
    let report = explore("flush-after-send", false, bounds(1, 4)).unwrap();
    assert_eq!(broken(&report), Some("PROTOCOL 7"));
}

/// A custodian that is killed between its steps comes back to a state from which nothing goes wrong.
#[test]
fn the_law_holds_with_a_crash() {
    let report = explore("law", false, Bounds { crashes: 1, cuts: true, ..bounds(1, 4) }).unwrap();
    assert!(report.complete && report.found.is_none(), "{:?}", report.found);
}

/// A leader opens its epoch with q grants, its own among them: the search must not need those of all, in whatever epoch.
#[test]
fn q_grants_open_every_epoch() {
    type Rules = Stood<Sound>;
    let mut world = World::new::<Rules>(Founding::new::<Rules>(1).unwrap(), None);
    let found = |number| {
        let mut custodian = Custodian::<Rules>::found(&mut world, number).unwrap();
        custodian.settle(&mut world).unwrap();
        custodian
    };
    let mut custodians: Vec<_> = (1..=CUSTODIANS).map(found).collect();
    for epoch in 1..4 {
        for custodian in &mut custodians {
            assert!(take(&mut world, custodian, &Step::Bind).unwrap());
        }
        let grant = |custodian: &Custodian<Rules>| -> Id {
            let is =
                |id: &&Id| matches!(world.told(**id).unwrap().fact, Fact::Grant(at, _, _) if at == epoch);
            *custodian.sent().iter().find(is).expect("it grants")
        };
        let lead = usize::from(leader(epoch) - 1);
        let others: Vec<Id> =
            custodians.iter().enumerate().filter(|(at, _)| *at != lead).map(|(_, one)| grant(one)).collect();
        for left_out in 0..others.len() {
            let mut some = others.clone();
            some.remove(left_out);
            let opened = Outcome::of(&mut world, &custodians[lead], &Step::Open(epoch, some, None)).unwrap();
            assert!(matches!(opened, Outcome::Moved(_)), "epoch {epoch}");
        }
    }
}
