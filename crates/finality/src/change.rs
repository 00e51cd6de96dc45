//! Changing the epoch (PROTOCOL 5): complaints, grants, the opening and the EpochStart. One epoch has one leader and one
//! Raft group; there is one way out of it, for a crash and for a lie.

use std::collections::{BTreeMap, BTreeSet};

use concordat_events::limits::REQUESTS_PER_HEAD;
use concordat_store::Store;
use prost::Message as _;

use crate::core::{Core, Fatal, Hint, Then};
use crate::effect::{Action, After, Alarm};
use crate::epoch::{Entry, Epoch, Started};
use crate::evidence::Evidence;
use crate::message::{self, Body, Cause, Complaint, Grant, Kind, Msg, PrepareCert};
use crate::record;
use crate::repeat::Slot;
use crate::rules::{Rule, Rules};
use crate::wire;

impl<S: Store, R: Rules> Core<S, R> {
    /// The epoch's Raft group has committed its next entry.
    pub(crate) fn on_ordered(&mut self, epoch: u64, entry: Msg) -> Result<(), Fatal> {
        if epoch != self.record.epoch || !self.start.running() {
            return Ok(());
        }
        self.witness(&entry);
        if epoch != self.record.epoch {
            return Ok(());
        }
        match &entry.body {
            Body::EpochStart(start) if self.epoch.started.is_none() && start.epoch == epoch => {
                // It names who was skipped: that makes its sender the leader and ends nothing.
                let mut named: BTreeSet<u16> = self.evidence.keys().copied().collect();
                named.extend(start.evidence.iter().map(|evidence| evidence.finding.culprit));
                if entry.sender == self.context.leader(epoch, &named) {
                    for evidence in &start.evidence {
                        self.keep_evidence(evidence.clone());
                    }
                }
                if entry.sender != self.leader() {
                    return Ok(());
                }
                self.on_epoch_start(&entry)?;
            }
            Body::Wrapper(wrapper) => {
                let expected = self.epoch.last_number() + 1;
                let Some(batch) = &wrapper.batch else { return Ok(()) };
                let by_leader = self.epoch.started.as_ref().is_some_and(|s| s.leader == entry.sender);
                if !by_leader || wrapper.number != expected || wrapper.epoch != epoch {
                    return Ok(());
                }
                for request in &batch.requests {
                    self.pool.mark_ordered(request.id());
                }
                self.epoch.last_time_ms = self.epoch.last_time_ms.max(batch.time_ms);
                self.epoch.entries.push_back(Entry {
                    batch: batch.clone(),
                    hash: wrapper.hash,
                    arrived_wall_ms: self.now.wall_ms,
                });
                self.epoch.match_heads();
            }
            _ => {}
        }
        Ok(())
    }

    fn on_epoch_start(&mut self, entry: &Msg) -> Result<(), Fatal> {
        let Body::EpochStart(start) = &entry.body else { return Ok(()) };
        let (next_height, forced) = match Self::resumed_value(&start.resume) {
            Some(value) => value,
            None if start.epoch == self.context.first_epoch() => (self.context.first_height(), None),
            None => self.value_rule(&start.grants)?,
        };
        let mut behind = None;
        for message in &start.grants {
            if message.grant().is_some_and(|grant| grant_height(grant) > self.next_height()) {
                behind = Some(message.sender);
            }
        }
        if let Some(peer) = behind {
            self.ask_for_heads(peer);
        }
        // Heads certified since c, before this entry came: their batches stand at the front of the log.
        let mut heads = std::collections::VecDeque::new();
        // From the newest down, as far as they are known: before that, the state was fetched.
        let mut height = self.next_height();
        while height > next_height {
            height -= 1;
            let Some(hashes) = record::batches_of(&self.store, height)? else {
                height += 1;
                break;
            };
            heads.push_front(hashes);
        }
        self.epoch.gap = height > next_height;
        self.epoch.unmatched = heads;
        if let Some(forced) = &forced
            && R::keeps(Rule::ValueRule)
            && self.leads()
            && forced.vote.height == self.next_height()
        {
            self.wrap_forced(forced)?;
        }
        if self.opens(start.epoch, &start.grants) {
            self.opening_known(start.grants.clone());
        }
        self.epoch.opened_ms.get_or_insert(self.now.mono_ms);
        self.epoch.started = Some(Started { next_height, forced, leader: entry.sender });
        self.epoch.progress_ms = self.now.mono_ms;
        self.epoch.match_heads();
        Ok(())
    }

    /// The highest certified head that the grants name, and the lock that forces the head after it (PROTOCOL 5).
    fn value_rule(&self, grants: &[Msg]) -> Result<(u64, Option<PrepareCert>), Fatal> {
        let next = grants.iter().filter_map(|message| message.grant()).map(grant_height).max().unwrap_or(0);
        let mut forced: Option<&PrepareCert> = None;
        for lock in grants.iter().filter_map(|message| message.grant()?.lock.as_ref()) {
            if lock.vote.height != next {
                continue;
            }
            let lower = |best: &PrepareCert| best.vote.epoch > lock.vote.epoch;
            match forced {
                Some(best) if !R::keeps(Rule::HighestLockDecides) && !lower(best) => {}
                Some(best) if best.vote.epoch == lock.vote.epoch && best.vote.id != lock.vote.id => {
                    let alarm = Alarm::TwoLocks { epoch: lock.vote.epoch, height: next };
                    return Err(Fatal::Stop(alarm));
                }
                Some(best) if R::keeps(Rule::HighestLockDecides) && best.vote.epoch >= lock.vote.epoch => {}
                _ => forced = Some(lock),
            }
        }
        Ok((next, forced.cloned()))
    }

    /// The first head of the epoch is that of the lock, from the same batches, wrapped anew.
    fn wrap_forced(&mut self, forced: &PrepareCert) -> Result<(), Fatal> {
        // What the certificate says of the batches is a hint of whoever sent it; what was rebuilt here is known.
        let own = self.round.computed_as(&forced.vote.id).map(|computed| computed.batches.clone());
        let batches = match own {
            Some(batches) => batches,
            None => {
                let known = self.round.rebuilt.get(&forced.vote.id).unwrap_or(&forced.batch_hashes).clone();
                let mut batches = Vec::new();
                for hash in &known {
                    match record::get_batch(&self.store, &self.context, hash)? {
                        Some(batch) => batches.push(batch),
                        None => return Ok(()),
                    }
                }
                batches
            }
        };
        self.epoch.forced_batches = batches.len() as u64;
        for batch in batches {
            self.order(batch);
        }
        Ok(())
    }

    /// Wants the epoch to end. Valid only from one who can show its opening.
    pub(crate) fn complain(&mut self, cause: Cause) {
        if self.epoch.complained.is_some() || self.epoch.opened_ms.is_none() || !self.start.running() {
            return;
        }
        if !R::keeps(Rule::ComplainsWithoutStart) && self.epoch.started.is_none() {
            return;
        }
        self.epoch.complained = Some(cause);
        self.flush_claims();
        let epoch = self.record.epoch;
        self.alarm(Alarm::Complained { epoch, cause });
        // Whoever can heal the cause does: everybody gets the requests that wait here.
        let waiting = self.pool.own(REQUESTS_PER_HEAD);
        if !waiting.is_empty() {
            for peer in self.others() {
                self.send_requests(peer, &waiting);
            }
        }
        let opening = self.known_grants().iter().map(|grant| grant.bare()).collect();
        let body = wire::Complaint { epoch, cause: cause.number(), next_height: self.next_height() };
        let attachment = wire::Proof { messages: opening }.encode_to_vec();
        if let Some(message) = self.seal(Kind::Complaint, &body, attachment) {
            self.send_and_repeat(Slot::Complaint, &message);
        }
    }

    pub(crate) fn on_complaint(&mut self, message: &Msg) -> Result<(), Fatal> {
        let Body::Complaint(complaint) = &message.body else { return Ok(()) };
        self.learn_opening(complaint)?;
        if complaint.next_height < self.next_height() {
            self.show_certificate(message.sender, complaint.next_height)?;
        } else if complaint.next_height > self.next_height() {
            self.ask_for_heads(message.sender);
        }
        if complaint.epoch < self.record.epoch && message.sender != self.me {
            self.show_epoch(message.sender);
        }
        self.keep_complaint(message);
        // A leader that says itself that it can't lead is taken at its word: waiting for a timer would only cost time.
        let resigns = complaint.cause == Cause::Resigned && complaint.epoch == self.record.epoch;
        if resigns && message.sender == self.leader() {
            self.complain(Cause::Resigned);
        }
        self.try_bound()
    }

    fn keep_complaint(&mut self, message: &Msg) {
        let Body::Complaint(complaint) = &message.body else { return };
        let newer = self.complaints.get(&message.sender).is_none_or(|known| match &known.body {
            Body::Complaint(known) => known.epoch <= complaint.epoch,
            _ => true,
        });
        if newer {
            self.complaints.insert(message.sender, message.clone());
        }
        if !R::keeps(Rule::GrantReadsLockLast) && complaint.epoch == self.record.epoch {
            let lock = self.record.lock.clone().map(Box::new);
            self.epoch.early_lock.get_or_insert(lock);
        }
    }

    fn complaints_about(&self, epoch: u64) -> Vec<Msg> {
        self.complaints
            .values()
            .filter(|message| matches!(&message.body, Body::Complaint(c) if c.epoch == epoch))
            .cloned()
            .collect()
    }

    /// A complaint shows the opening of its epoch to those who haven't seen it. It counts as it stands there: of who has
    /// granted a later epoch since, only that grant is kept here.
    fn learn_opening(&mut self, complaint: &Complaint) -> Result<(), Fatal> {
        for grant in &complaint.opening {
            self.keep_grant(grant);
        }
        self.try_join()?;
        if complaint.epoch >= self.record.epoch && self.opens(complaint.epoch, &complaint.opening) {
            if complaint.epoch > self.record.epoch {
                self.enter(complaint.epoch);
                self.out.then.push(Then::Grant);
            }
            self.opening_known(complaint.opening.clone());
        }
        Ok(())
    }

    /// q complaints, or evidence against the leader, end the epoch for whoever sees them. f liars, or f liars and one flaky
    /// honest timer, move nobody.
    pub(crate) fn try_bound(&mut self) -> Result<(), Fatal> {
        let epoch = self.record.epoch;
        let needed = if R::keeps(Rule::ComplaintsBindByQuorum) {
            self.context.q()
        } else {
            self.context.roster.f() + 1
        };
        let mut against: BTreeSet<u16> =
            self.complaints_about(epoch).iter().map(|message| message.sender).collect();
        // Who grants a later epoch has left this one: it counts among those who want it to end, and can't say so any more.
        against.extend(
            self.grants
                .values()
                .filter(|message| message.grant().is_some_and(|grant| grant.epoch > epoch))
                .map(|message| message.sender),
        );
        if against.len() >= needed {
            self.enter(epoch + 1);
            self.out.then.push(Then::Grant);
        }
        Ok(())
    }

    /// Enters an epoch: the record first, then everything else (PROTOCOL 5).
    pub(crate) fn enter(&mut self, epoch: u64) {
        let old = self.record.epoch;
        if epoch <= old {
            return;
        }
        // After the flush: closing erases the log, which a crash before it would still need.
        self.effect(After::Flush, Action::CloseGroup { epoch: old });
        self.record.epoch = epoch;
        self.record.epoch_run = self.record.run;
        // An epoch that ended for its age, its leader's word or a proof doesn't say that timeouts are too short.
        if !matches!(self.epoch.complained, Some(Cause::Old | Cause::Resigned | Cause::Evidence)) {
            self.record.doublings = (self.record.doublings + 1).min(crate::limits::MAX_DOUBLINGS);
        }
        self.streak = 0;
        self.durable();
        let kept = (!R::keeps(Rule::EpochEndsShares))
            .then(|| (std::mem::take(&mut self.round.nonces), std::mem::take(&mut self.round.sessions)));
        self.round.new_epoch();
        if let Some(kept) = kept {
            (self.round.nonces, self.round.sessions) = kept;
        }
        let early_lock = self.epoch.early_lock.take();
        self.pace.leader_changed(self.context.roster.n());
        self.epoch =
            Epoch { early_lock, ..Epoch::new(epoch == self.context.first_epoch(), self.now.mono_ms) };
        self.pool.new_epoch(self.now.mono_ms);
        for slot in [Slot::Complaint, Slot::Propose, Slot::Prepare, Slot::Certify, Slot::Share] {
            self.repeats.clear(slot);
        }
        let leader = self.leader();
        self.alarm(Alarm::Epoch { epoch, leader });
        if leader != self.me {
            self.effect(After::Flush, Action::OpenGroup { epoch, leader, lead: false });
        }
        let grants = self.grants_for(epoch);
        if self.opens(epoch, &grants) {
            self.opening_known(grants);
        }
    }

    /// The epoch is durable; only now are lock and certified head read.
    pub(crate) fn send_grant(&mut self) {
        let epoch = self.record.epoch;
        if !self.may_vote() || epoch == self.context.first_epoch() {
            return;
        }
        let next = self.next_height();
        let lock = self.record.lock.as_ref().filter(|l| l.vote.height == next);
        // A lock of this epoch has taken the place of the one that its grant carried or would have carried: the epoch is
        // open, and a grant without that lock would say that there was none.
        if lock.is_some_and(|lock| lock.vote.epoch >= epoch) && R::keeps(Rule::GrantShowsLock) {
            return;
        }
        let early = self.epoch.early_lock.as_ref().filter(|_| !R::keeps(Rule::GrantReadsLockLast));
        let lock = match early {
            Some(early) => early.as_deref().filter(|lock| lock.vote.height == next),
            None => lock.filter(|lock| lock.vote.epoch < epoch),
        };
        let body = wire::Grant {
            epoch,
            certified: self
                .last
                .as_ref()
                .map(|h| h.certificate.log.json().as_bytes().to_vec())
                .unwrap_or_default(),
            lock: lock.map(PrepareCert::to_wire),
            evidence: self.evidence.values().map(Evidence::to_wire).collect(),
        };
        let proof = self.complaints_about(epoch - 1).iter().map(|message| message.bare()).collect();
        let attachment = wire::Proof { messages: proof }.encode_to_vec();
        if let Some(message) = self.seal(Kind::Grant, &body, attachment) {
            self.send_and_repeat(Slot::Grant, &message);
        }
    }

    pub(crate) fn on_grant(&mut self, message: &Msg) -> Result<(), Fatal> {
        let Some(grant) = message.grant() else { return Ok(()) };
        for evidence in &grant.evidence {
            self.accept_evidence(evidence.clone());
        }
        for complaint in &grant.complaints {
            self.keep_complaint(complaint);
        }
        if grant_height(grant) > self.next_height() {
            self.ask_for_heads(message.sender);
        }
        if grant.epoch < self.record.epoch && message.sender != self.me {
            self.show_epoch(message.sender);
        }
        if let Some(lock) = &grant.lock {
            self.adopt(lock.clone(), message.sender)?;
        }
        self.keep_grant(message);
        self.try_bound()?;
        self.try_join()
    }

    fn keep_grant(&mut self, message: &Msg) {
        let Some(grant) = message.grant() else { return };
        let newer = self.grants.get(&message.sender).is_none_or(|known| {
            known.grant().is_none_or(|other| (other.epoch, known.seq) <= (grant.epoch, message.seq))
        });
        if newer {
            self.grants.insert(message.sender, message.clone());
        }
    }

    pub(crate) fn grants_for(&self, epoch: u64) -> Vec<Msg> {
        self.grants
            .values()
            .filter(|message| message.grant().is_some_and(|grant| grant.epoch == epoch))
            .cloned()
            .collect()
    }

    /// The grants of the running epoch: those that opened it, and what came since. Its opening stays whole when who took part
    /// in it has gone on to later epochs.
    pub(crate) fn known_grants(&self) -> Vec<Msg> {
        let newest = self.grants_for(self.record.epoch);
        let known = self.epoch.opening.iter().chain(&newest).map(|grant| (grant.sender, grant.clone()));
        known.collect::<BTreeMap<u16, Msg>>().into_values().collect()
    }

    /// Are these what opens the epoch?
    fn opens(&self, epoch: u64, grants: &[Msg]) -> bool {
        let of_it = grants.iter().filter(|message| message.grant().is_some_and(|grant| grant.epoch == epoch));
        let senders: BTreeSet<u16> = of_it.map(|message| message.sender).collect();
        senders.len() >= self.context.opening_quorum()
    }

    /// q grants open an epoch: whoever sees them enters it.
    fn try_join(&mut self) -> Result<(), Fatal> {
        let mut epochs: Vec<u64> =
            self.grants.values().filter_map(|message| Some(message.grant()?.epoch)).collect();
        epochs.sort_unstable_by(|a, b| b.cmp(a));
        epochs.dedup();
        let open = epochs.into_iter().find(|epoch| self.opens(*epoch, &self.grants_for(*epoch)));
        match open {
            Some(epoch) if epoch > self.record.epoch => {
                self.enter(epoch);
                self.out.then.push(Then::Grant);
            }
            Some(epoch) if epoch == self.record.epoch => self.opening_known(self.grants_for(epoch)),
            _ => {}
        }
        Ok(())
    }

    /// These grants have opened the running epoch. The first that do are kept for it.
    fn opening_known(&mut self, grants: Vec<Msg>) {
        if !self.epoch.opening.is_empty() {
            return;
        }
        self.epoch.opened_ms.get_or_insert(self.now.mono_ms);
        // The opening is shown with complaints after a restart too.
        let messages = grants.iter().map(|grant| grant.bare()).collect();
        self.out.writes.put(b"f/opening".as_slice(), wire::Proof { messages }.encode_to_vec());
        self.epoch.opening = grants;
        self.durable();
    }

    /// The stored opening of the running epoch.
    pub(crate) fn load_opening(&mut self) -> Result<(), Fatal> {
        let Some(bytes) = self.store.get(b"f/opening")? else { return Ok(()) };
        let proof = wire::Proof::decode(bytes.as_slice()).unwrap_or_default();
        let mut grants = Vec::new();
        for envelope in proof.messages {
            if let Ok(message) = message::Message::check(&self.context, envelope) {
                self.keep_grant(&message);
                grants.push(message);
            }
        }
        if self.record.epoch != self.context.first_epoch() && self.opens(self.record.epoch, &grants) {
            self.epoch.opened_ms = Some(self.now.mono_ms);
            self.epoch.opening = grants;
        }
        Ok(())
    }

    /// Shows a laggard which epoch runs.
    pub(crate) fn show_epoch(&mut self, to: u16) {
        let mut grants = self.known_grants();
        grants.extend(self.resume_for(self.record.epoch).unwrap_or_default());
        if to == self.me || grants.is_empty() || self.too_soon(to, Hint::Epoch) {
            return;
        }
        for grant in grants {
            self.send(to, grant);
        }
    }

    /// The leader opens its epoch's log with all grants it has (PROTOCOL 5).
    pub(crate) fn try_start_epoch(&mut self) -> Result<(), Fatal> {
        if !self.leads() || self.epoch.start_sent {
            return Ok(());
        }
        let epoch = self.record.epoch;
        let mut counted = Vec::new();
        let resume = self.resume_for(epoch).unwrap_or_default();
        if let Some((next, forced)) = Self::resumed_value(&resume) {
            if next > self.next_height() {
                return Ok(());
            }
            if let Some(forced) = forced.filter(|forced| forced.vote.height == self.next_height())
                && !self.has_head_of(&forced, self.me)?
            {
                return Ok(());
            }
        } else if epoch != self.context.first_epoch() {
            let Some(opened) = self.epoch.opened_ms else { return Ok(()) };
            for message in self.known_grants() {
                if self.can_rebuild(&message)? {
                    counted.push(message);
                }
            }
            let all = counted.len() == self.context.roster.n();
            let waited = self.now.mono_ms >= opened + self.timeout() / 10;
            if counted.len() < self.context.opening_quorum() || !(all || waited) {
                return Ok(());
            }
        }
        let skipped: Vec<wire::Evidence> = self.evidence.values().map(Evidence::to_wire).collect();
        let opening = wire::Opening {
            grants: counted.iter().map(|grant| grant.bare()).collect(),
            evidence: skipped,
            resume: resume.iter().map(|message| message.bare()).collect(),
        };
        let attachment = opening.encode_to_vec();
        let body =
            wire::EpochStart { epoch, opening: message::attachment_hash(&attachment).as_bytes().to_vec() };
        self.durable();
        if let Some(entry) = self.seal(Kind::EpochStart, &body, attachment) {
            self.epoch.start_sent = true;
            self.epoch.last_digest = entry.digest;
            self.epoch.created = 0;
            self.out.writes.put(b"f/entry".as_slice(), entry.to_bytes());
            let leader = self.me;
            self.effect(After::Flush, Action::OpenGroup { epoch, leader, lead: true });
            self.effect(After::Flush, Action::Append { epoch, number: 0, entry });
        }
        Ok(())
    }

    /// A grant counts once the leader holds what rebuilds its certified head and its lock's head.
    fn can_rebuild(&mut self, message: &Msg) -> Result<bool, Fatal> {
        let Some(grant) = message.grant() else { return Ok(false) };
        if grant_height(grant) > self.next_height() {
            self.ask_for_heads(message.sender);
            return Ok(false);
        }
        let Some(lock) = grant.lock.as_ref().filter(|lock| lock.vote.height == self.next_height()) else {
            return Ok(true);
        };
        self.has_head_of(lock, message.sender)
    }

    /// The Raft core of the epoch is dead: its leader resigns, a follower rebuilds its group.
    pub(crate) fn on_group_failed(&mut self, epoch: u64) {
        if epoch != self.record.epoch || !self.start.running() {
            return;
        }
        if self.leads() {
            self.complain(Cause::Resigned);
        } else {
            self.epoch.restart_log();
            if let Some(computed) = &mut self.round.computed {
                computed.number = None;
            }
            // A group that can't be opened fails again at once: not in a circle.
            self.epoch.reopen_ms.get_or_insert(self.now.mono_ms + self.timeout() / 4);
        }
    }

    /// Opens the group of a follower again whose core was dead.
    pub(crate) fn reopen_group(&mut self) {
        if self.epoch.reopen_ms.is_some_and(|at| self.now.mono_ms >= at) {
            self.epoch.reopen_ms = None;
            let (epoch, leader) = (self.record.epoch, self.leader());
            self.effect(After::Flush, Action::OpenGroup { epoch, leader, lead: false });
        }
    }
}

/// The height after the head that a grant names.
pub(crate) fn grant_height(grant: &Grant) -> u64 {
    grant.next_height()
}
