//! The opening of an epoch is kept whole, whatever those who granted it have granted since (PROTOCOL 5).

use prost::Message as _;

use super::solo::{ME, Solo};
use crate::message::{Body, Kind};
use crate::rules::Law;
use crate::wire;

impl Solo<Law> {
    /// A complaint about an epoch that shows the grants of 1, 2 and 3 which opened it.
    fn complain_showing_opening(&mut self, sender: u16, epoch: u64) {
        let messages = [1, 2, 3].map(|from| self.grant(from, epoch, None).envelope().clone()).to_vec();
        let attachment = wire::Proof { messages }.encode_to_vec();
        let body = wire::Complaint { epoch, cause: 2, next_height: 1 };
        let complaint = self.forge(sender, Kind::Complaint, &body, attachment);
        self.input(crate::Input::Message(complaint));
    }

    fn grants_later(&mut self, sender: u16, epoch: u64) {
        let grant = self.grant(sender, epoch, None);
        self.input(crate::Input::Message(grant));
    }

    /// Who stands in the opening of the newest own complaint about an epoch.
    fn shown(&self, epoch: u64) -> Option<Vec<u16>> {
        self.sent.iter().rev().find_map(|message| match &message.body {
            Body::Complaint(complaint) if message.sender == ME && complaint.epoch == epoch => {
                Some(complaint.opening.iter().map(|grant| grant.sender).collect())
            }
            _ => None,
        })
    }
}

#[test]
fn a_complaint_shows_an_opening_to_who_holds_later_grants() {
    let mut solo = Solo::<Law>::running();
    // 3 has gone on: of it only this is kept.
    solo.grants_later(3, 9);
    assert_eq!(solo.decider.status().epoch, 0);
    solo.complain_showing_opening(1, 1);
    assert_eq!(solo.decider.status().epoch, 1, "three grants have opened it");
    assert!(!solo.granted(1).is_empty(), "who enters grants");
    solo.wait(60_000);
    let shown = solo.shown(1).expect("no EpochStart comes, so it complains");
    assert!([1, 2, 3].iter().all(|number| shown.contains(number)), "the opening is whole: {shown:?}");
}

#[test]
fn who_is_in_an_epoch_learns_from_a_complaint_that_it_is_open() {
    let mut solo = Solo::<Law>::running();
    for sender in [1, 2, 3] {
        solo.complain(sender, 0);
    }
    assert_eq!(solo.decider.status().epoch, 1);
    solo.grants_later(3, 9);
    solo.wait(60_000);
    assert_eq!(solo.shown(1), None, "without an opening nobody complains");
    solo.complain_showing_opening(1, 1);
    solo.wait(60_000);
    assert!(solo.shown(1).is_some());
}

#[test]
fn an_opening_outlasts_later_grants_and_a_restart() {
    let mut solo = Solo::<Law>::running();
    solo.complain_showing_opening(1, 1);
    solo.grants_later(3, 9);
    solo.restart();
    assert_eq!(solo.decider.status().epoch, 1);
    // It came after the opening and is gone with the crash; it comes again.
    solo.grants_later(3, 9);
    solo.wait(60_000);
    let shown = solo.shown(1).expect("it complains");
    assert!([1, 2, 3].iter().all(|number| shown.contains(number)), "the opening is whole: {shown:?}");
}
