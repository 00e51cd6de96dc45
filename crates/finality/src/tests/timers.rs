//! The timers behind complaints: when they run out, and how long they are (PROTOCOL 5).

use concordat_events::batch::Batch;

use super::net::definition;
use super::solo::{ME, Solo};
use crate::limits::EPOCH_MS;
use crate::message::{Body, Cause, Kind};
use crate::rules::Law;
use crate::{Input, Origin};

impl Solo<Law> {
    fn complained_of(&self, epoch: u64) -> Option<Cause> {
        self.sent.iter().find_map(|message| match &message.body {
            Body::Complaint(complaint) if message.sender == ME && complaint.epoch == epoch => {
                Some(complaint.cause)
            }
            _ => None,
        })
    }

    /// Nothing comes from outside: it is called when it asked to be, until it complains. Gives when that was.
    fn left_alone(&mut self, epoch: u64) -> u64 {
        let mut turns = 0;
        while self.complained_of(epoch).is_none() {
            self.now = self.decider.next_wake().max(self.now);
            self.input(Input::Tick);
            turns += 1;
            assert!(turns < 10_000, "it wakes again and again and does nothing");
        }
        self.now
    }

    fn timeout_ms(&self) -> u64 {
        self.decider.status().timeout_ms
    }
}

#[test]
fn a_complaint_comes_when_its_timer_runs_out() {
    let mut solo = Solo::<Law>::running();
    for _ in 0..3 {
        let epoch = solo.decider.status().epoch + 1;
        for sender in [1, 2, 3] {
            solo.complain(sender, epoch - 1);
        }
        for sender in [1, 2, 3] {
            let grant = solo.grant(sender, epoch, None);
            solo.input(Input::Message(grant));
        }
        let opened = solo.now;
        let timeout = solo.timeout_ms();
        assert_eq!(solo.left_alone(epoch), opened + timeout);
        assert_eq!(solo.complained_of(epoch), Some(Cause::NoStart));
    }
}

#[test]
fn a_head_that_does_not_come_is_complained_about_in_time() {
    let mut solo = Solo::<Law>::running();
    solo.enter(1, None);
    // Its repeats have become rare.
    solo.wait(solo.timeout_ms() - 1);
    let (batch, id) = solo.head(0);
    solo.propose(1, &batch, id);
    let waits_since = solo.now;
    assert_eq!(solo.left_alone(1), waits_since + solo.timeout_ms());
    assert_eq!(solo.complained_of(1), Some(Cause::NoCertificate));
}

#[test]
fn an_epoch_that_has_grown_old_does_not_make_timeouts_longer() {
    let mut solo = Solo::<Law>::running();
    let (batch, id) = solo.head(0);
    solo.start_epoch(0, None);
    solo.propose(0, &batch, id);
    let certificate = solo.signed(std::slice::from_ref(&batch)).unwrap();
    solo.say(1, Kind::Certificate, &certificate);
    let before = solo.timeout_ms();
    let began = solo.now;
    assert!(solo.left_alone(0) >= began + EPOCH_MS - 1_000);
    assert_eq!(solo.complained_of(0), Some(Cause::Old));
    solo.complain(1, 0);
    solo.complain(2, 0);
    assert_eq!((solo.decider.status().epoch, solo.timeout_ms()), (1, before));
    // One that brings nothing does.
    for sender in [1, 2, 3] {
        solo.complain(sender, 1);
    }
    assert_eq!((solo.decider.status().epoch, solo.timeout_ms()), (2, before * 2));
}

/// A head of epoch 1 that came after `ms`, proposed to this custodian or not; the timeout before and after.
fn head_after(ms: u64, proposed: bool) -> (u64, u64) {
    let mut solo = Solo::<Law>::running();
    solo.enter(1, None);
    let before = solo.timeout_ms();
    let (batch, id) = solo.head(0);
    let certificate = solo.signed(std::slice::from_ref(&batch)).unwrap();
    if proposed {
        solo.propose(1, &batch, id);
    } else {
        solo.order(1, &batch);
    }
    solo.now += ms;
    solo.say(1, Kind::Certificate, &certificate);
    assert_eq!(solo.certified, [1]);
    (before, solo.timeout_ms())
}

#[test]
fn a_head_that_comes_quickly_makes_timeouts_shorter_again() {
    let (before, after) = head_after(0, true);
    assert_eq!(after, before / 2);
    let (_, after) = head_after(before / 4, true);
    assert_eq!(after, before / 2);
    let (_, after) = head_after(before / 4 + 1, true);
    assert_eq!(after, before, "half the timeout would leave nothing to spare");
    let (_, after) = head_after(0, false);
    assert_eq!(after, before, "what is only taken over says nothing about the network");
}

/// When this custodian sent the leader requests, since `from`, until `until`.
fn forwarded(solo: &mut Solo<Law>, until: u64) -> Vec<u64> {
    let (mut times, mut seen) = (Vec::new(), solo.sent.len());
    while solo.now < until {
        solo.input(Input::Tick);
        let new = solo.sent.iter().skip(seen).filter(|message| message.kind() == Kind::Requests).count();
        seen = solo.sent.len();
        times.extend((0..new).map(|_| solo.now));
        solo.now = solo.decider.next_wake().max(solo.now + 1);
    }
    times
}

#[test]
fn a_request_is_sent_to_the_leader_until_a_batch_holds_it() {
    let mut solo = Solo::<Law>::running();
    let (batch, id) = solo.head(0);
    solo.start_epoch(0, None);
    solo.propose(0, &batch, id);
    let certificate = solo.signed(std::slice::from_ref(&batch)).unwrap();
    solo.say(1, Kind::Certificate, &certificate);
    let began = solo.now;
    let timeout = solo.timeout_ms();
    let request = definition(solo.cluster, "lonely");
    solo.input(Input::Request { event: Box::new(request.clone()), origin: Origin::Client });
    let mut times = forwarded(&mut solo, began + 40 * timeout);
    // With its complaint, after the first timeout, it shows the others too what it waits for.
    times.dedup();
    let pauses: Vec<u64> = times.windows(2).map(|pair| (pair[1] - pair[0]).div_ceil(timeout)).collect();
    assert_eq!(pauses, [2, 4, 8, 8, 8, 8], "{times:?} since {began}");

    // It is in a batch: the leader has it.
    solo.order(0, &Batch { time_ms: batch.time_ms + 1, requests: vec![request] });
    let now = solo.now;
    assert_eq!(forwarded(&mut solo, now + 20 * timeout), Vec::<u64>::new());
}
