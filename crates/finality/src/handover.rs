//! From one roster to the next (PROTOCOL 9): what a custodian lets go of when a head puts another roster in force, and how those
//! without a vote follow along.
//!
//! Nothing that was promised under a roster matters under the next: votes, locks and shares are for heights that are certified, and
//! what is signed under one roster counts for nothing under another. So the next core starts from the same disk as after a crash:
//! it asks the others first, which tells it if the disk was rolled back.
//!
//! All meet in one epoch ([`crate::Context::first_epoch`]), open from the start: there is no lock that grants would have to show, since
//! whoever votes for the next height has let go of the roster before.

use concordat_store::Store;

use crate::core::{Core, Fatal, Hint};
use crate::effect::{Action, After};
use crate::message::{Body, Msg};
use crate::record;
use crate::rules::Rules;

impl<S: Store, R: Rules> Core<S, R> {
    /// Lets go of everything under the old roster, if the certified head puts another in force, or the same one with fresh shares.
    pub(crate) fn hand_over(&mut self) {
        if self.ledger.charter().office == self.context.office {
            return;
        }
        if let Some(message) = self.certificate_message() {
            // Whoever comes into office waits for this head.
            self.send_others(&message);
            self.send_guests(&message);
        }
        self.durable();
        let old = self.record.epoch;
        let record = &mut self.record;
        (record.prepared, record.lock, record.shared) = (None, None, None);
        record.prepared_batches.clear();
        record.doublings = 0;
        record.epoch = self.ledger.charter().office.since << crate::limits::FIRST_EPOCH_BITS;
        // Entered by the next run, the one that the next core begins.
        record.epoch_run = record.run + 1;
        record::drop_roster(&mut self.out.writes);
        self.unflushed_claims.clear();
        self.claims.clear();
        self.effect(After::Flush, Action::CloseGroup { epoch: old });
        self.effect(After::Flush, Action::Reopen);
        self.out.then.clear();
        self.done = true;
    }

    /// A certificate for those who follow along.
    pub(crate) fn send_guests(&mut self, message: &Msg) {
        for to in self.context.guests().filter(|to| *to != self.me).collect::<Vec<_>>() {
            self.send(to, message.clone());
        }
    }

    /// A message to one who isn't running. Who only follows along takes in and passes on what the group has signed; who is asking
    /// what is known of it learns that its roster is one of the past, under which nobody will answer.
    pub(crate) fn follow(&mut self, message: &Msg) -> Result<(), Fatal> {
        if !self.start.outside() {
            let shown = match &message.body {
                Body::Certificate(certificate) => Some(&certificate.head),
                _ => None,
            };
            let later = shown.filter(|head| head.height >= self.next_height());
            match &message.body {
                // Those who come into office with this roster may have its head from nobody else, and don't answer without it.
                Body::FetchHeads(from) => return self.on_fetch_heads(message.sender, *from),
                Body::FetchState(asked) => return self.on_fetch_state(message.sender, *asked),
                _ => {}
            }
            if !self.start.asking() || later.is_none_or(|head| head.roster == self.context.roster_hash) {
                return Ok(());
            }
            self.start.leave();
        }
        match &message.body {
            Body::Certificate(certificate) => self.on_certificate(message.sender, certificate),
            Body::FetchHeads(from) => self.on_fetch_heads(message.sender, *from),
            Body::Heads(heads) => self.on_heads(message.sender, heads),
            Body::FetchState(asked) => self.on_fetch_state(message.sender, *asked),
            Body::State(state) => {
                self.on_state(message.sender, state);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Who has no vote asks those who have one for what is new.
    pub(crate) fn keep_following(&mut self) {
        if !self.start.outside() || self.done {
            return;
        }
        let (now, every) = (self.now.mono_ms, self.timing.timeout_ms);
        let peers: Vec<u16> =
            self.others().chain(self.context.guests()).filter(|peer| *peer != self.me).collect();
        for peer in peers {
            let asked = self.asked.get(&(peer, Hint::Heads)).copied();
            if asked.is_none_or(|at| now >= at + every) {
                self.ask_for_heads(peer);
            }
        }
        self.watch_state();
    }
}
