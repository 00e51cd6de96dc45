//! Time passes: repeats, timeouts, complaints (PROTOCOL 5).

use concordat_store::Store;

use crate::core::{Core, Fatal, Hint};
use crate::effect::{Action, After};
use crate::limits::{CLAIM_FLUSH_MS, EPOCH_ENTRIES, EPOCH_MS, NUDGES_PER_EPOCH};
use crate::message::{Cause, Kind};
use crate::record::Bar;
use crate::rules::{Rule, Rules};
use crate::wire;

impl<S: Store, R: Rules> Core<S, R> {
    pub(crate) fn on_tick(&mut self) -> Result<(), Fatal> {
        let timeout = self.timeout();
        let due = self.repeats.due(self.now.mono_ms, timeout);
        for (to, message) in due.into_iter().filter(|_| R::keeps(Rule::Repeats)) {
            let to: Vec<u16> = match to {
                Some(peer) => vec![peer],
                None => self.others().collect(),
            };
            let to = to.into_iter().filter(|to| *to != self.me).collect::<Vec<_>>();
            for to in to {
                self.effect(After::Nothing, Action::Send { to, message: message.clone() });
            }
        }
        self.spread_certificate();
        self.watch_relayed()?;
        self.keep_following();
        if !self.start.running() {
            return Ok(());
        }
        self.aggregate_late()?;
        self.nudge();
        self.watch_state();
        Ok(())
    }

    /// Starts, stops and hears the timers behind complaints.
    pub(crate) fn watch_progress(&mut self) {
        let now = self.now.mono_ms;
        let waits = self.waits_for_certificate();
        match (waits, self.epoch.waiting_ms) {
            (true, None) => self.epoch.waiting_ms = Some(now),
            (false, _) => self.epoch.waiting_ms = None,
            _ => {}
        }
        if self.epoch.complained.is_some() || self.epoch.opened_ms.is_none() {
            return;
        }
        let timeout = self.timeout();
        let leader = self.leader();
        if leader == self.me && !self.leads() {
            return self.complain(Cause::Resigned);
        }
        if self.evidence.contains_key(&leader) {
            return self.complain(Cause::Evidence);
        }
        if self.epoch.started.is_none() {
            if self.epoch.opened_ms.is_some_and(|opened| now >= opened + timeout) {
                self.complain(Cause::NoStart);
            }
            return;
        }
        if self.down.get(&leader).is_some_and(|since| now >= since + timeout) {
            return self.complain(Cause::Unreachable);
        }
        if self.stuck_since().is_some_and(|since| now >= since + timeout) {
            // A request that has become inadmissible since it came is nothing to wait for.
            let dead: Vec<_> = self
                .pool
                .ids()
                .filter(|id| self.pool.get(id).is_some_and(|event| !self.acceptable(event)))
                .collect();
            dead.iter().for_each(|id| {
                self.pool.remove(id);
            });
            if !self.waits_for_certificate() {
                self.epoch.waiting_ms = None;
                return;
            }
            return self.complain(Cause::NoCertificate);
        }
        let waits = self.pool.oldest_own().is_some_and(|(since, _)| now > since + timeout / 2);
        if self.pace.watch(now, waits) {
            return self.complain(Cause::Slow);
        }
        let old = now >= self.epoch.entered_ms + EPOCH_MS || self.epoch.last_number() >= EPOCH_ENTRIES;
        if old {
            self.complain(Cause::Old);
        }
    }

    /// Since when a certificate is missing for something.
    fn stuck_since(&self) -> Option<u64> {
        self.epoch.waiting_ms.map(|since| since.max(self.epoch.progress_ms))
    }

    /// Would the certificate that has just come have been in time for a timeout of half the length, with as much to spare again?
    /// Heads that are fetched say nothing about that.
    pub(crate) fn came_quickly(&self) -> bool {
        let waited = self.stuck_since().map(|since| self.now.mono_ms.saturating_sub(since));
        self.round.proposal.is_some()
            && waited.is_some_and(|waited| waited.saturating_mul(4) <= self.timeout())
    }

    /// When the next of the timers behind complaints runs out.
    fn next_complaint(&self) -> Option<u64> {
        let opened = self.epoch.opened_ms.filter(|_| self.epoch.complained.is_none())?;
        let timeout = self.timeout();
        if self.epoch.started.is_none() {
            return Some(opened + timeout);
        }
        let timers = [
            self.down.get(&self.leader()).map(|since| since + timeout),
            self.stuck_since().map(|since| since + timeout),
            self.pace.next_ms().or_else(|| Some(self.pool.oldest_own()?.0 + timeout / 2 + 1)),
            Some(self.epoch.entered_ms + EPOCH_MS),
        ];
        timers.into_iter().flatten().min()
    }

    /// Is there anything that a certificate should come for?
    fn waits_for_certificate(&self) -> bool {
        let next = self.next_height();
        !self.pool.is_empty()
            || next == 0
            || self.epoch.uncovered().0 > 0
            || self.round.proposal.is_some()
            || self.record.lock.as_ref().is_some_and(|lock| lock.vote.height == next)
            || self.ledger.next_due_ms().is_some_and(|due| due <= self.now.wall_ms)
    }

    /// Own requests that came well before one that was certified were passed over by the leader.
    pub(crate) fn watch_overdue(&mut self, newest_certified_ms: u64) {
        let timeout = self.timeout();
        while let Some((since, id)) = self.pool.oldest_own() {
            if since + timeout >= newest_certified_ms {
                return;
            }
            let acceptable = self.pool.get(&id).is_some_and(|event| self.acceptable(event));
            if acceptable {
                return self.complain(Cause::Overdue);
            }
            self.pool.remove(&id);
        }
    }

    /// In quarantine of an idle group: asks the leader for empty batches.
    fn nudge(&mut self) {
        if let Bar::Until(_) = self.record.bar
            && let leader = self.leader()
            && leader != self.me
            && !self.too_soon(leader, Hint::Nudge)
            && let Some(message) = self.seal(Kind::Nudge, &wire::Nudge {}, Vec::new())
        {
            self.effect(After::Nothing, Action::Send { to: leader, message });
        }
    }

    /// A custodian in quarantine asks for an empty batch. Nobody gets more than a few in one epoch.
    pub(crate) fn on_nudge(&mut self, from: u16) {
        let idle = self.epoch.uncovered().0 == 0 && self.epoch.created <= self.epoch.last_number();
        if !self.leads() || !idle || self.round.nudged {
            return;
        }
        let given = self.epoch.nudges.entry(from).or_default();
        if *given < NUDGES_PER_EPOCH {
            *given += 1;
            self.round.nudged = true;
        }
    }

    /// When the core wants to be called next, ms of the clock that never jumps.
    pub(crate) fn next_wake(&self) -> u64 {
        let now = self.now.mono_ms;
        let timeout = self.timeout();
        let mut next = now + timeout;
        let mut at = |when: Option<u64>| {
            if let Some(when) = when {
                next = next.min(when.max(now + 1));
            }
        };
        at(self.repeats.next_ms());
        at(self.spread.next_ms());
        let soon = now + (timeout / 20).max(1);
        at(self.unflushed_since.map(|since| since + CLAIM_FLUSH_MS));
        if !self.start.running() {
            return next;
        }
        // One that has run out and led to nothing is looked at again: not at every tick of the clock.
        at(self.next_complaint().map(|due| if due > now { due } else { soon }));
        at(self.epoch.reopen_ms);
        at(self.far.next_ms(timeout));
        if self.epoch.started.is_some() {
            at(self.pool.next_forward());
        } else if self.leads() {
            // Past that moment it waits for what rebuilds a lock: not at every tick of the clock.
            at(self.epoch.opened_ms.map(|opened| (opened + timeout / 10).max(soon)));
        }
        if !self.round.sessions.is_empty() || self.round.cert.is_some() {
            at(Some(now + timeout / 20));
        }
        if self.round.proposal.is_some() && self.round.prepare.is_none() {
            at(Some(now + timeout / 20));
        }
        if let Some(due) = self.ledger.next_due_ms() {
            let left = due.saturating_sub(self.now.wall_ms);
            at(Some(if left > 0 { now + left } else { soon }));
        }
        next
    }
}
