//! Coming back (PROTOCOL 8): the question before anything else, quarantine for a disk that was rolled back.

use std::collections::BTreeMap;

use concordat_store::Store;

use crate::core::{Core, Fatal, Then};
use crate::effect::{Action, After, Alarm};
use crate::limits::RUN_JUMP;
use crate::message::{Answer, Kind};
use crate::record::Bar;
use crate::repeat::Slot;
use crate::rules::{Rule, Rules};
use crate::wire;

/// How far the check at the start is.
#[derive(Clone, Debug, Default)]
pub(crate) struct StartCheck {
    phase: Phase,
    /// The fresh number of this start.
    nonce: [u8; 32],
    /// What each peer answered.
    answers: BTreeMap<u16, Heard>,
    /// The highest own `seq` that this disk or this start's quarantine answers for: as it was read, until there is one.
    known: u64,
    /// The first `seq` of this run. What was signed between the two was signed before the disk was taken back.
    first: u64,
    /// Somebody has shown a later message of the own.
    rolled_back: bool,
    /// This custodian has signed the Resume that the next epoch stands on: its operator has looked at its disk.
    ceremony: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing has happened.
    #[default]
    New,
    /// Asking.
    Asking,
    /// Enough answers are in; what they show is being flushed.
    Flushing,
    /// Running.
    Running,
    /// Without a vote: under this roster, without a key share, or until the certified heads up to the one in force are here.
    Outside,
}

/// What one answer is worth.
#[derive(Clone, Debug)]
struct Heard {
    highest: Option<u64>,
    next_height: u64,
    quarantined: bool,
    starting: bool,
    intact: bool,
}

impl Heard {
    /// Answers of those in quarantine don't count; those of others just starting count if their mark holds.
    fn counts<R: Rules>(&self) -> bool {
        let reports = !self.quarantined || !R::keeps(Rule::QuarantinedDontReport);
        reports && (!self.starting || self.intact)
    }
}

impl StartCheck {
    /// Isn't the check over yet?
    pub fn asking(&self) -> bool {
        matches!(self.phase, Phase::New | Phase::Asking)
    }

    /// Has this start found that the disk was rolled back?
    pub fn rolled_back(&self) -> bool {
        self.rolled_back
    }

    /// Does this custodian only follow along?
    pub fn outside(&self) -> bool {
        self.phase == Phase::Outside
    }

    /// From here on it does.
    pub fn leave(&mut self) {
        self.phase = Phase::Outside;
    }

    /// Is the check over?
    pub fn running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Was a message of this `seq` signed by a run that this disk has lost? `seq`: the own one now.
    fn lost(&self, shown: u64, seq: u64) -> bool {
        shown > seq || (self.known < shown && shown < self.first)
    }

    /// How far `seq` jumps when a run begins: over everything that a disk could have lost, so that an answer that comes late
    /// shows whether the message in it is of this run; and not twice to one place, so that two runs on one image differ.
    fn jump(&self) -> u64 {
        let [a, b, c, d, ..] = self.nonce;
        RUN_JUMP + u64::from(u32::from_be_bytes([a, b, c, d]))
    }
}

impl<S: Store, R: Rules> Core<S, R> {
    pub(crate) fn on_start(&mut self) -> Result<(), Fatal> {
        if self.start.phase != Phase::New {
            return Ok(());
        }
        if !self.context.votes(self.me) || self.share.is_none() {
            self.start.leave();
            self.repeat_certificate();
            self.keep_following();
            return Ok(());
        }
        self.start.phase = Phase::Asking;
        self.start.ceremony = self.comes_from_ceremony()?;
        self.entropy.fill_bytes(&mut self.start.nonce);
        if !R::keeps(Rule::SeqStaysUntilChecked) {
            self.durable();
        }
        // Before anything else, with the seq as read, unraised.
        self.start.known = self.record.seq;
        self.ask_all();
        self.judge_answers();
        Ok(())
    }

    pub(crate) fn ask_all(&mut self) {
        let body = wire::Question { nonce: self.start.nonce.to_vec() };
        if let Some(message) = self.seal(Kind::Question, &body, Vec::new()) {
            for to in self.others() {
                self.effect(After::Nothing, Action::Send { to, message: message.clone() });
            }
            self.repeats.set(Slot::Question, message, None, self.now.mono_ms, self.timing.timeout_ms);
        }
    }

    /// Does the local intact mark hold: is this a restart of the process, not of the disk?
    fn intact(&self) -> bool {
        self.not_restored
            || self.start.ceremony
            || (!self.boot.is_empty() && self.boot == self.record.boot)
            || (!R::keeps(Rule::MarkIsBootId) && self.record.run > 0)
    }

    /// Another custodian starts.
    pub(crate) fn on_question(&mut self, from: u16, seq: u64, nonce: [u8; 32]) -> Result<(), Fatal> {
        // Only a higher seq than the question's says anything; the highest known may be the question itself.
        let highest = self.claims.get(&from).filter(|claim| claim.seq > seq).cloned();
        let body = wire::Answer {
            nonce: nonce.to_vec(),
            highest,
            certified: self
                .last
                .as_ref()
                .map(|h| h.certificate.log.json().as_bytes().to_vec())
                .unwrap_or_default(),
            // Whoever has signed the Resume that it is about to act on counts again: else two of them wait for each other.
            quarantined: self.record.bar != Bar::None && (!self.start.ceremony || self.start.rolled_back),
            starting: !self.start.running(),
            intact: self.intact(),
        };
        if let Some(message) = self.seal(Kind::Answer, &body, Vec::new()) {
            self.effect(After::Nothing, Action::Send { to: from, message });
        }
        Ok(())
    }

    pub(crate) fn on_answer(&mut self, from: u16, answer: &Answer) -> Result<(), Fatal> {
        if (answer.nonce != self.start.nonce && R::keeps(Rule::FreshAnswers))
            || self.start.phase == Phase::New
        {
            return Ok(());
        }
        // Nobody can be silenced by what another has signed.
        let highest = answer.highest.filter(|(signer, _)| *signer == self.me).map(|(_, seq)| seq);
        let heard = Heard {
            highest,
            next_height: answer.certified.as_ref().map_or(0, |(_, head)| head.height + 1),
            quarantined: answer.quarantined,
            starting: answer.starting,
            intact: answer.intact,
        };
        self.heard_height(from, heard.next_height);
        self.start.answers.insert(from, heard);
        if self.start.phase == Phase::Asking {
            self.judge_answers();
        }
        // An answer that comes late may still show what this disk has lost.
        if self.start.running()
            && let Some(shown) = highest.filter(|shown| self.start.lost(*shown, self.record.seq))
            && R::keeps(Rule::Quarantine)
        {
            let barred = self.record.bar == Bar::Unknown;
            self.rolled_back(shown);
            self.start.known = self.start.first;
            self.record.seq = self.record.seq.max(shown);
            self.durable();
            if !barred {
                self.round.new_epoch();
                self.ask_all();
            }
        }
        self.judge_quarantine();
        Ok(())
    }

    fn judge_answers(&mut self) {
        let (others, f, q) = (self.others().count(), self.context.roster.f(), self.context.q());
        let needed = if self.intact() { others.saturating_sub(f) } else { q.min(others) };
        let counted = self.start.answers.values().filter(|heard| heard.counts::<R>()).count();
        if counted < needed {
            return;
        }
        let shown = self.start.answers.values().filter_map(|heard| heard.highest).max().unwrap_or(0);
        if shown > self.record.seq && R::keeps(Rule::Quarantine) {
            self.rolled_back(shown);
        }
        // Only now is seq raised, above all that was shown.
        self.record.seq = self.record.seq.max(shown).saturating_add(self.start.jump());
        if self.record.run == 0 && self.record.epoch == 0 && self.record.bar == Bar::None {
            // The first run after the ceremony entered epoch 0 when the record was made.
            self.record.epoch_run = 1;
        }
        self.record.run += 1;
        self.record.boot = self.boot.clone();
        self.durable();
        self.start.first = self.record.seq;
        if self.record.bar == Bar::Unknown {
            // The bar that is to come is above all of it, so what else of it is shown later says nothing new.
            self.start.known = self.start.first;
        }
        self.start.phase = Phase::Flushing;
        self.out.then.push(Then::Run);
    }

    /// Somebody has shown an own message that this disk doesn't know: quarantine. A bar that an earlier loss has set says
    /// nothing about this one, which may have taken back votes that were given after it; nor does a Resume.
    fn rolled_back(&mut self, shown: u64) {
        self.alarm(Alarm::RolledBack { own: self.record.seq, shown });
        self.record.bar = Bar::Unknown;
        self.start.rolled_back = true;
    }

    /// The check is over and durable: the custodian takes its place.
    pub(crate) fn run(&mut self) -> Result<(), Fatal> {
        self.start.phase = Phase::Running;
        if self.record.bar == Bar::None {
            self.repeats.clear(Slot::Question);
        }
        // A crash after a vote or an adopted lock may have lost the epoch's own flush: never vote below it again.
        let voted = self.record.prepared.map_or(0, |vote| vote.epoch);
        let locked = self.record.lock.as_ref().map_or(0, |lock| lock.vote.epoch);
        let shared = self.record.shared.as_ref().map_or(0, |(vote, _)| vote.epoch);
        let epoch = self.record.epoch.max(voted).max(locked).max(shared);
        if epoch > self.record.epoch {
            self.record.epoch = epoch;
            self.durable();
        }
        self.epoch =
            crate::epoch::Epoch::new(self.record.epoch == self.context.first_epoch(), self.now.mono_ms);
        self.load_opening()?;
        let (epoch, leader) = (self.record.epoch, self.leader());
        if !self.leads() {
            self.effect(After::Flush, Action::OpenGroup { epoch, leader, lead: false });
        }
        self.send_grant();
        self.repeat_lock();
        self.repeat_certificate();
        self.load_resume()?;
        self.judge_quarantine();
        for peer in self.others() {
            self.ask_for_heads(peer);
        }
        Ok(())
    }

    /// In quarantine the heads of enough others, in answer to this start's number, tell until when.
    fn judge_quarantine(&mut self) {
        if self.record.bar != Bar::Unknown || !self.start.running() {
            return;
        }
        let others = self.others().count();
        let needed = if R::keeps(Rule::HeadsFromQuorum) {
            self.context.q().min(others)
        } else {
            others - self.context.roster.f()
        };
        let heights: Vec<u64> = self
            .start
            .answers
            .values()
            .filter(|heard| heard.counts::<R>())
            .map(|heard| heard.next_height)
            .collect();
        if heights.len() < needed {
            return;
        }
        // What it holds itself can only raise the bar.
        let highest = heights.into_iter().max().unwrap_or(0).max(self.next_height());
        // H0 + 2, where H0 = next height - 1.
        self.record.bar = Bar::Until(highest + if R::keeps(Rule::BarIsTwoAhead) { 1 } else { 0 });
        self.durable();
        self.repeats.clear(Slot::Question);
    }
}
