//! How a certificate reaches everybody though its maker may be gone, or a liar (PROTOCOL 3), without everybody telling everybody.
//!
//! The roster gives each height f+1 *keepers*, one of them honest at least. A quarter of the timeout after a head was certified,
//! if none came after it, everybody shows its certificate to the keepers; they tell all those who haven't shown it, again and
//! again. Where that doesn't do, all tell all: keepers may be down, and what a peer has shown may be of a disk that it has lost.
//!
//! A peer shows a height by what it signs itself, so it can keep itself from being told and nobody else.

use std::collections::BTreeMap;

use concordat_store::Store;

use crate::core::{Core, Hint};
use crate::effect::{Action, After};
use crate::message::{Body, Message, Msg};
use crate::rules::{Rule, Rules};

/// From this interval on, in timeouts, everybody tells those who haven't shown the head: no keeper has.
const EVERYBODY: u64 = 2;

/// Intervals grow to this many timeouts; then everybody is told.
const LONGEST: u64 = 16;

/// The newest certificate on its way, and who has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread {
    /// The height that each peer needs next, as it has shown last.
    next: BTreeMap<u16, u64>,
    round: Option<Round>,
}

#[derive(Clone, Debug)]
struct Round {
    message: Msg,
    first: bool,
    next_ms: u64,
    interval_ms: u64,
}

impl Spread {
    /// A new certificate is to reach everybody.
    pub fn begin(&mut self, message: Msg, now_ms: u64, timeout_ms: u64) {
        let interval_ms = (timeout_ms / 4).max(1);
        self.round = Some(Round { message, first: true, next_ms: now_ms + interval_ms, interval_ms });
    }

    /// Everybody is told by this custodian now, the keepers too.
    pub fn told(&mut self) {
        if let Some(round) = &mut self.round {
            round.first = false;
            // After the others have shown it to the keepers.
            round.interval_ms *= 2;
            round.next_ms += round.interval_ms;
        }
    }

    /// When somebody is told next.
    pub fn next_ms(&self) -> Option<u64> {
        self.round.as_ref().map(|round| round.next_ms)
    }

    /// What a message says about the heads that its sender has.
    pub fn note(&mut self, message: &Message) {
        let next = match &message.body {
            // It says so itself, and may have lost what it had.
            Body::FetchHeads(from) => {
                self.next.insert(message.sender, *from);
                return;
            }
            Body::Question(_) => {
                self.next.remove(&message.sender);
                return;
            }
            Body::Certificate(certificate) => certificate.head.height.saturating_add(1),
            Body::Propose(propose) => propose.vote.height,
            Body::Prepare(prepare) => prepare.vote.height,
            Body::Certify(certify) => certify.cert.vote.height,
            Body::Share(share) => share.vote.height,
            Body::Complaint(complaint) => complaint.next_height,
            Body::Grant(grant) => grant.next_height(),
            _ => return,
        };
        let known = self.next.entry(message.sender).or_default();
        *known = next.max(*known);
    }

    fn lacks(&self, peer: u16, next_height: u64) -> bool {
        self.next.get(&peer).is_none_or(|next| *next < next_height)
    }
}

impl<S: Store, R: Rules> Core<S, R> {
    /// Everybody sees to it that the newest certificate gets around.
    pub(crate) fn repeat_certificate(&mut self) {
        if let Some(message) = self.certificate_message() {
            self.spread.begin(message, self.now.mono_ms, self.timeout());
        }
    }

    /// Is this one of the f+1 who see to it that everybody gets a height's certificate? They take turns.
    fn keeps_height(&self, number: u16, height: u64) -> bool {
        let (n, f) = (self.context.roster.n() as u64, self.context.roster.f() as u64);
        let place = height % n.max(1);
        (0..=f).any(|step| self.context.roster.at(place + step).is_some_and(|member| member.number == number))
    }

    /// Tells those who are to be told now.
    pub(crate) fn spread_certificate(&mut self) {
        let (now, timeout, next) = (self.now.mono_ms, self.timeout(), self.next_height());
        let Some(round) = self.spread.round.as_mut().filter(|round| round.next_ms <= now) else { return };
        let (message, first, interval) = (round.message.clone(), round.first, round.interval_ms);
        round.first = false;
        round.interval_ms = (interval * 2).min(timeout * LONGEST);
        round.next_ms = now + round.interval_ms;
        if !R::keeps(Rule::Repeats) {
            return;
        }
        let Some(height) = next.checked_sub(1) else { return };
        let (keeper, spread) = (self.keeps_height(self.me, height), &self.spread);
        let told = |peer: &u16| match first {
            true => self.keeps_height(*peer, height),
            false => {
                interval >= timeout * LONGEST
                    || ((keeper || interval >= timeout * EVERYBODY) && spread.lacks(*peer, next))
            }
        };
        let others = self.others().chain(self.context.guests()).filter(|peer| *peer != self.me);
        let to: Vec<u16> = others.filter(told).collect();
        for to in to {
            self.effect(After::Nothing, Action::Send { to, message: message.clone() });
        }
    }

    /// A keeper tells what is known here already: it learns so.
    pub(crate) fn show_keeper(&mut self, from: u16, height: u64) {
        let newest = height.checked_add(1) == Some(self.next_height());
        if newest
            && self.keeps_height(from, height)
            && !self.keeps_height(self.me, height)
            && !self.too_soon(from, Hint::Certificate)
            && let Some(message) = self.certificate_message()
        {
            self.send(from, message);
        }
    }
}
