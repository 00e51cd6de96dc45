//! What a custodian makes of its leader's pace, from certified heads to the complaint (PROTOCOL 5). The arithmetic is tested beside
//! it, in `crate::pace`.

use concordat_events::batch::Batch;
use concordat_events::kinds::DEFINITION;

use super::net::{WALL, definition, event};
use super::solo::{Solo, founded};
use crate::message::{Cause, Kind};
use crate::read::batch_to_wire;
use crate::rules::Law;
use crate::{Alarm, Input, Origin, wire};

/// The timeout: requests wait for long from half of it on, and a minute fits behind that.
const TIMEOUT: u64 = 200_000;

/// Batches that fill a head by their bytes.
fn full() -> Vec<Batch> {
    let large: Vec<_> = (0..12).map(|_| event(DEFINITION, Vec::new(), &"x".repeat(60_000), 0)).collect();
    (0..3).map(|_| Batch { time_ms: 0, requests: large.clone() }).collect()
}

/// The next head covers these batches.
fn certify(solo: &mut Solo<Law>, batches: &[Batch]) {
    let mut batches = batches.to_vec();
    batches.iter_mut().for_each(|batch| batch.time_ms = WALL + solo.now);
    let before = solo.certified.len();
    let head = wire::CertifiedHead {
        certificate: solo.signed(&batches),
        batches: batches.iter().map(batch_to_wire).collect(),
        events: Vec::new(),
    };
    solo.say(1, Kind::Heads, &wire::Heads { heads: vec![head], newest: Vec::new() });
    assert_eq!(solo.certified.len(), before + 1);
}

fn slow(solo: &Solo<Law>, epoch: u64) -> bool {
    solo.alarms.contains(&Alarm::Complained { epoch, cause: Cause::Slow })
}

/// Full heads while requests wait: three in a minute of one leader, then so many in a minute of the next.
fn complains_after(heads: usize) -> bool {
    let batches = full();
    let mut solo = Solo::<Law>::open_with(founded(), true, TIMEOUT);
    for from in [1, 2, 3] {
        solo.answer(from, |_| {});
    }
    solo.start_epoch(0, None);
    let waiting = Box::new(definition(solo.cluster, "waits"));
    solo.input(Input::Request { event: waiting, origin: Origin::Client });
    solo.wait(TIMEOUT / 2 + 1);
    (0..3).for_each(|_| certify(&mut solo, &batches));
    solo.wait(60_000);
    assert!(!slow(&solo, 0), "its heads were full, and there was nobody to compare it with");
    solo.enter(1, None);
    // The timeout has doubled.
    solo.wait(TIMEOUT + 1);
    (0..heads).for_each(|_| certify(&mut solo, &batches));
    solo.wait(60_000);
    slow(&solo, 1)
}

#[test]
fn a_leader_at_less_than_half_the_pace_of_the_one_before_is_complained_about() {
    assert!(complains_after(1));
    assert!(!complains_after(2));
}
