//! The simulator itself: it is deterministic, it reaches what it is for, and it sees what is wrong.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use chaos::cluster::Cluster;
use chaos::sim::brain::{LAW, mind};
use chaos::sim::run::{Outcome, Setting, family_named, run};
use chaos::sim::scenarios::named;

fn setting(family: &str, byzantine: usize) -> Result<Setting> {
    Ok(Setting {
        cluster: Arc::new(Cluster::found(4)?),
        byzantine,
        behaviours: Vec::new(),
        mind: LAW,
        faulty_ms: (2_000, 3_000),
        keep: false,
        family: Some(family_named(family).context("no such family")?),
        scenario: None,
        rosters: false,
    })
}

fn clean(setting: &Setting, seed: u64) -> Result<Outcome> {
    let outcome = run(setting, seed)?;
    assert_eq!(outcome.violation, None, "seed {seed}");
    assert!(outcome.heads >= 2 && outcome.requests >= 3, "seed {seed}: nothing happened");
    Ok(outcome)
}

#[test]
fn one_seed_is_one_run() {
    let setting = setting("storm", 1).unwrap();
    let (first, again) = (clean(&setting, 1).unwrap(), clean(&setting, 1).unwrap());
    assert_eq!(first, again);
    // What is written down beside it changes nothing.
    let kept = run(&Setting { keep: true, ..setting.clone() }, 1).unwrap();
    assert_eq!((kept.digest, kept.steps), (first.digest.clone(), first.steps));
    assert!(!kept.lines.is_empty());
    assert_ne!(clean(&setting, 2).unwrap().digest, first.digest);
}

#[test]
fn custodians_outlive_power_failures() {
    let setting = Setting { faulty_ms: (5_000, 5_000), ..setting("power", 0).unwrap() };
    // Everybody is restarted once when all heals; more failures are the faults'.
    let failures = (5..12).map(|seed| clean(&setting, seed).unwrap().counters.of("power failure"));
    assert!(failures.max().is_some_and(|most| most > 4), "power never failed");
}

#[test]
fn the_roster_changes_under_faults() {
    let changing = Setting { rosters: true, faulty_ms: (4_000, 4_000), ..setting("power", 1).unwrap() };
    let outcome = clean(&changing, 3).unwrap();
    for what in ["roster activated", "custodian joined", "custodian left"] {
        assert!(outcome.counters.of(what) > 0, "{what}: {:?}", outcome.counters);
    }
    let unbound = Setting { mind: mind("roster-unbound").unwrap(), ..changing };
    let broken = run(&unbound, 3).unwrap().violation;
    assert_eq!(broken.map(|broken| broken.invariant), Some("PROTOCOL 9"));
}

#[test]
fn a_mutant_is_seen() {
    let mutant = mind("flush-after-send").unwrap();
    let broken = run(&Setting { mind: mutant, ..setting("calm", 0).unwrap() }, 1).unwrap().violation;
    assert_eq!(broken.map(|broken| broken.invariant), Some("PROTOCOL 7"));
}

#[test]
fn a_directed_attack_tells_a_mutant_from_the_law() {
    let attack = |rules: &str| {
        let scenario = named("certified-after-grant");
        let setting = Setting { mind: mind(rules).unwrap(), scenario, ..setting("calm", 0).unwrap() };
        run(&setting, 1).unwrap()
    };
    let broken = attack("share-after-grant").violation;
    assert_eq!(broken.map(|broken| broken.invariant), Some("I8"));
    let law = attack("law");
    assert_eq!((law.violation, law.counters.of("scenario played")), (None, 1));
}
