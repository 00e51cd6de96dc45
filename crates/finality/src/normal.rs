//! The normal case (PROTOCOL 4): requests, batches, proposals, votes.

use concordat_events::batch::Batch;
use concordat_events::hash::tagged;
use concordat_events::limits::{BATCH_AGE_MS, BATCH_BYTES, REQUESTS_PER_HEAD, WINDOW_BATCHES, WINDOW_BYTES};
use concordat_events::{Hash, ValidEvent};
use concordat_ledger::{Draft, ExecuteError};
use concordat_store::Store;
use prost::Message as _;

use crate::core::{Core, Fatal};
use crate::effect::{Action, After, Alarm, Origin};
use crate::limits::{HEAD_BYTES, SYNC_BYTES};
use crate::message::{self, Body, Kind, Msg, Refuse, RefuseReason, Vote, attachment_hash};
use crate::read::batch_to_wire;
use crate::record;
use crate::repeat::Slot;
use crate::round::Computed;
use crate::rules::{Rule, Rules};
use crate::scheme::Scheme;
use crate::wire;

impl<S: Store, R: Rules> Core<S, R> {
    /// The height that is certified next.
    pub(crate) fn next_height(&self) -> u64 {
        self.ledger.next_height()
    }

    /// A request came in here.
    pub(crate) fn on_request(&mut self, event: ValidEvent, origin: Origin) {
        if !self.acceptable(&event) {
            return;
        }
        // It will come again in a batch.
        self.context.checked.keep(&event);
        // What a relay brought to this custodian it probably brought to the leader too.
        let delay = match origin {
            Origin::Client => 0,
            Origin::Relay => self.timing.timeout_ms / 10,
        };
        self.pool.add(event, self.me, self.now.mono_ms, Some(self.now.mono_ms + delay));
    }

    /// Would this request be worth ordering, as far as the certified state tells?
    pub(crate) fn acceptable(&self, event: &ValidEvent) -> bool {
        matches!(self.ledger.judge(event, self.now.wall_ms), Ok(None))
    }

    /// Requests that another custodian took in.
    pub(crate) fn on_requests(&mut self, from: u16, events: &[ValidEvent]) {
        for event in events {
            if self.acceptable(event) {
                self.pool.add(event.clone(), from, self.now.mono_ms, None);
            }
        }
    }

    /// Sends the leader what it may not have, again and again until it is in a batch.
    pub(crate) fn forward_requests(&mut self) {
        if self.epoch.started.is_none() {
            return;
        }
        let leader = self.leader();
        let again = Some(self.timing.timeout_ms).filter(|_| leader != self.me && R::keeps(Rule::Repeats));
        let due = self.pool.to_forward(self.now.mono_ms, again);
        if leader != self.me && !due.is_empty() {
            self.send_requests(leader, &due);
        }
    }

    pub(crate) fn send_requests(&mut self, to: u16, events: &[ValidEvent]) {
        let mut rest = events;
        while !rest.is_empty() {
            // As many as fit into one message, and one at least.
            let mut size = 0;
            let fitting = rest.iter().take(REQUESTS_PER_HEAD).take_while(|event| {
                size += event.json().len();
                size <= SYNC_BYTES
            });
            let (chunk, more) = rest.split_at(fitting.count().max(1).min(rest.len()));
            rest = more;
            let events = chunk.iter().map(|event| event.json().as_bytes().to_vec()).collect();
            if let Some(message) =
                self.seal_own(Kind::Requests, &wire::Requests { events }, Vec::new(), |_| {
                    Body::Requests(Vec::new())
                })
            {
                self.effect(After::Nothing, Action::Send { to, message });
            }
        }
    }

    /// The leader puts what waits into a batch, flushes it and gives it to Raft.
    pub(crate) fn try_batch(&mut self) -> Result<(), Fatal> {
        if !self.leads() || self.epoch.started.is_none() {
            return Ok(());
        }
        let (entries, bytes) = self.epoch.uncovered();
        let waiting_for_raft = self.epoch.created > self.epoch.last_number();
        // One batch at a time is on its way through Raft: what comes meanwhile makes the next one larger.
        if waiting_for_raft || entries >= WINDOW_BATCHES || bytes >= WINDOW_BYTES {
            return Ok(());
        }
        let timer_due = self.ledger.next_due_ms().is_some_and(|due| due <= self.now.wall_ms);
        let wanted = entries == 0 && self.next_height() > 0 && (timer_due || self.round.nudged);
        if !self.pool.has_unordered() && !wanted {
            return Ok(());
        }
        if self.next_height() == 0 {
            return Ok(());
        }
        let mut batch = Batch { time_ms: self.batch_time(), requests: Vec::new() };
        let mut size = 0;
        while batch.requests.len() < REQUESTS_PER_HEAD {
            let Some(event) = self.pool.take_next() else { break };
            size += event.json().len();
            if size > BATCH_BYTES {
                self.pool.put_back(&event.id());
                break;
            }
            if self.acceptable(&event) {
                batch.requests.push(event);
            } else {
                self.pool.remove(&event.id());
            }
        }
        if batch.requests.is_empty() && !wanted {
            return Ok(());
        }
        self.round.nudged = false;
        self.order(batch);
        Ok(())
    }

    /// A batch's time: the own clock, never before what was ordered already.
    fn batch_time(&self) -> u64 {
        let last = self.epoch.last_time_ms;
        let tip = self.ledger.tip().map_or(self.context.genesis.time_ms, |tip| tip.time_ms);
        self.now.wall_ms.max(last).max(tip)
    }

    /// Wraps a batch, flushes it, gives it to Raft.
    pub(crate) fn order(&mut self, batch: Batch) {
        self.durable();
        let number = self.epoch.created + 1;
        let body = wire::Wrapper {
            epoch: self.record.epoch,
            number,
            previous: self.epoch.last_digest.as_bytes().to_vec(),
            batch: batch.hash().as_bytes().to_vec(),
        };
        let attachment = batch_to_wire(&batch).encode_to_vec();
        let (epoch, previous, time_ms) = (self.record.epoch, self.epoch.last_digest, batch.time_ms);
        let entry = self.seal_own(Kind::Wrapper, &body, attachment, |_| {
            let hash = batch.hash();
            Body::Wrapper(message::Wrapper { epoch, number, previous, hash, batch: Some(batch) })
        });
        if let Some(entry) = entry {
            self.out.writes.put(b"f/entry".as_slice(), entry.to_bytes());
            self.epoch.created = number;
            self.epoch.last_digest = entry.digest;
            self.epoch.last_time_ms = time_ms;
            self.effect(After::Flush, Action::Append { epoch, number, entry });
        }
    }

    /// The leader proposes the next head over what Raft has committed, once per (epoch, height).
    pub(crate) fn try_propose(&mut self) -> Result<(), Fatal> {
        let height = self.next_height();
        if !self.leads() || self.epoch.proposed.is_some_and(|proposed| proposed >= height) {
            return Ok(());
        }
        let Some(started) = &self.epoch.started else { return Ok(()) };
        if height < started.next_height {
            return Ok(());
        }
        let forced =
            started.forced_for(height).filter(|_| R::keeps(Rule::ValueRule)).map(|cert| cert.vote.id);
        let number = if height == 0 {
            0
        } else if forced.is_some() {
            self.epoch.forced_batches
        } else {
            let number = self.epoch.coverable();
            if number == self.epoch.covered {
                return Ok(());
            }
            number
        };
        let Some(id) = self.compute(height, number)? else { return Ok(()) };
        if forced.is_some_and(|forced| forced != id) {
            return Ok(());
        }
        let vote = Vote { epoch: self.record.epoch, height, id };
        self.durable();
        let body = wire::Propose { epoch: vote.epoch, height, number, id: id.as_bytes().to_vec() };
        if let Some(message) = self.seal(Kind::Propose, &body, Vec::new()) {
            self.out.writes.put(b"f/proposal".as_slice(), message.to_bytes());
            self.epoch.proposed = Some(height);
            self.round.proposed = Some(vote);
            self.send_and_repeat(Slot::Propose, &message);
        }
        Ok(())
    }

    /// Executes the batches up to `number` on the certified state, unless that is done already. Gives the head's id.
    fn compute(&mut self, height: u64, number: u64) -> Result<Option<Hash>, Fatal> {
        if height != self.next_height() {
            return Ok(None);
        }
        if let Some(computed) = &self.round.computed
            && computed.number == Some(number)
            && computed.draft.head.height == height
        {
            return Ok(Some(computed.draft.id));
        }
        if self.round.uncomputable == Some(number) {
            return Ok(None);
        }
        let Some(batches) = self.epoch.batches_to(number) else { return Ok(None) };
        let bytes: usize = batches.iter().map(Batch::bytes).sum();
        if batches.len() > 1 && bytes > HEAD_BYTES {
            let message = format!("{bytes} bytes of batches in one head; at most {HEAD_BYTES} are signed");
            self.round.uncomputable = Some(number);
            self.alarm(Alarm::BadBatch { epoch: self.record.epoch, message });
            return Ok(None);
        }
        match self.execute(&batches) {
            Ok(draft) => {
                let id = draft.id;
                self.round.computed = Some(Computed { number: Some(number), batches, draft });
                Ok(Some(id))
            }
            Err(ExecuteError::Store(error)) => Err(error.into()),
            Err(error @ ExecuteError::Unsupported { .. }) => Err(Fatal::Unsupported(error)),
            Err(error) => {
                let message = error.to_string();
                self.round.uncomputable = Some(number);
                self.alarm(Alarm::BadBatch { epoch: self.record.epoch, message });
                Ok(None)
            }
        }
    }

    /// The head that follows from these batches, and from nothing else.
    pub(crate) fn execute(&self, batches: &[Batch]) -> Result<Draft, ExecuteError> {
        let mut draft = self.ledger.execute(batches)?;
        if !R::keeps(Rule::IdWithoutEpoch) && self.record.epoch > 0 {
            let epoch = self.record.epoch.to_be_bytes();
            draft.head.roster = tagged("mutant", &[draft.head.roster.as_bytes(), &epoch]);
            let log = draft.head.log_event(self.context.group(), self.context.genesis.kinds.log);
            if let (Ok(log), Some(first)) = (log, draft.messages.first_mut()) {
                draft.id = log.id();
                *first = log;
            }
        }
        Ok(draft)
    }

    /// The leader's proposal is held until it can be judged.
    pub(crate) fn on_propose(&mut self, message: &Msg) -> Result<(), Fatal> {
        let Body::Propose(propose) = &message.body else { return Ok(()) };
        let vote = propose.vote;
        if vote.epoch > self.record.epoch || vote.height > self.next_height() {
            self.ask_for_heads(message.sender);
        }
        if vote.height < self.next_height() {
            return self.show_certificate(message.sender, vote.height);
        }
        let next = self.next_height();
        let held = self.round.proposal.as_ref().is_some_and(
            |held| matches!(&held.body, Body::Propose(held) if held.vote.height <= next || vote.height > next),
        );
        if vote.epoch == self.record.epoch && message.sender == self.leader() && !held {
            self.round.proposal = Some(message.clone());
        }
        Ok(())
    }

    /// Votes for what is proposed, if every rule of PROTOCOL 4.4 allows it.
    pub(crate) fn try_prepare(&mut self) -> Result<(), Fatal> {
        let Some(proposal) = self.round.proposal.clone() else { return Ok(()) };
        let Body::Propose(propose) = &proposal.body else { return Ok(()) };
        let (vote, number) = (propose.vote, propose.number);
        if vote.height < self.next_height() || vote.epoch != self.record.epoch {
            self.round.proposal = None;
            return Ok(());
        }
        if !self.may_vote() || vote.height != self.next_height() || self.round.prepare.is_some() {
            return Ok(());
        }
        let Some(started) = &self.epoch.started else { return Ok(()) };
        if vote.height < started.next_height {
            return Ok(());
        }
        let forced = started.forced_for(vote.height).map(|cert| cert.vote);
        // A vote that a Resume forces without a certificate frees nobody from its share.
        let frees = started.forced_for(vote.height).is_some_and(|cert| !cert.prepares.is_empty());
        if R::keeps(Rule::ValueRule) && forced.is_some_and(|forced| forced.id != vote.id) {
            return self.refuse(vote, RefuseReason::Forced, proposal.sender);
        }
        let above = self.record.prepared.is_none_or(|prepared| {
            let equal = (vote.epoch, vote.height) == (prepared.epoch, prepared.height);
            (vote.epoch, vote.height) > (prepared.epoch, prepared.height)
                || vote == prepared
                || (equal && !R::keeps(Rule::OneVotePerHeight))
        });
        if !above {
            return Ok(());
        }
        let id = match self.compute(vote.height, number)? {
            Some(id) => id,
            None => return Ok(()),
        };
        if id != vote.id {
            return self.refuse(vote, RefuseReason::OtherId, proposal.sender);
        }
        if R::keeps(Rule::OwnShareRule)
            && let Some((shared, _)) = &self.record.shared
            && shared.height == vote.height
            && shared.id != vote.id
            && !(frees && forced.is_some_and(|forced| forced.id == vote.id && forced.epoch > shared.epoch))
            && (R::keeps(Rule::AdoptedLockFreesNot)
                || self.record.lock.as_ref().is_none_or(|lock| lock.vote.epoch <= shared.epoch))
        {
            return self.refuse(vote, RefuseReason::OwnShare, proposal.sender);
        }
        if !R::keeps(Rule::AdoptedLockBindsNot)
            && let Some(lock) = &self.record.lock
            && lock.vote.height == vote.height
            && lock.vote.id != vote.id
            && !forced.is_some_and(|forced| forced.id == vote.id && forced.epoch > lock.vote.epoch)
        {
            return self.refuse(vote, RefuseReason::OwnShare, proposal.sender);
        }
        match self.judge_time(&vote, number, forced.is_some()) {
            TimeRule::Holds => {}
            TimeRule::Ahead => return Ok(()),
            TimeRule::Old => return self.refuse(vote, RefuseReason::Old, proposal.sender),
        }
        let Some(batches) = self.epoch.batches_to(number) else { return Ok(()) };
        self.record.prepared = Some(vote);
        self.record.prepared_batches = batches.iter().map(Batch::hash).collect();
        for batch in &batches {
            record::put_batch(&mut self.out.writes, batch);
        }
        self.durable();
        self.send_prepare(vote);
        Ok(())
    }

    /// Issues fresh commitments for a head that it has voted for. The vote must be in this step's flush, or durable.
    pub(crate) fn send_prepare(&mut self, vote: Vote) {
        let Some(draft) = self.round.draft_of(&vote.id) else { return };
        if self.round.issued >= crate::limits::COMMITMENTS_PER_HEAD {
            return;
        }
        let count = draft.messages.len();
        let Some(share) = &self.share else { return };
        let Some((nonces, commitments)) = R::Scheme::commit_many(share, count, &mut self.entropy) else {
            return;
        };
        self.round.issued += 1;
        let list = wire::Commitments {
            commitments: commitments.iter().map(|commitment| commitment.to_bytes().to_vec()).collect(),
        };
        let attachment = list.encode_to_vec();
        let hash = attachment_hash(&attachment);
        let body = wire::Prepare {
            epoch: vote.epoch,
            height: vote.height,
            id: vote.id.as_bytes().to_vec(),
            commitments: hash.as_bytes().to_vec(),
        };
        let message = self.seal_own(Kind::Prepare, &body, attachment, |_| {
            Body::Prepare(message::Prepare { vote, hash, commitments })
        });
        let Some(message) = message else { return };
        self.round.nonces.insert(hash, nonces);
        self.round.prepare = Some(message.clone());
        let leader = self.leader();
        self.send(leader, message.clone());
        self.repeats.set(Slot::Prepare, message, Some(leader), self.now.mono_ms, self.timeout());
    }

    fn judge_time(&self, vote: &Vote, number: u64, forced: bool) -> TimeRule {
        let entries = || self.epoch.entries_to(number);
        if entries().any(|entry| entry.batch.time_ms > self.now.wall_ms) {
            return TimeRule::Ahead;
        }
        let seen_by_others =
            self.round.shown.values().filter(|seen| *seen == vote).count() > self.context.roster.f();
        let exempt = forced || seen_by_others || self.record.prepared.is_some_and(|p| p.id == vote.id);
        let old =
            entries().any(|entry| entry.arrived_wall_ms.saturating_sub(entry.batch.time_ms) > BATCH_AGE_MS);
        if old && !exempt { TimeRule::Old } else { TimeRule::Holds }
    }

    /// Says why it doesn't vote, once, and shows its lock to all.
    fn refuse(&mut self, vote: Vote, reason: RefuseReason, leader: u16) -> Result<(), Fatal> {
        if self.round.refused == Some(vote) {
            return Ok(());
        }
        self.round.refused = Some(vote);
        if leader != self.me {
            self.alarm(Alarm::Refused { by: self.me, height: vote.height, id: vote.id, reason });
        }
        let lock = self.record.lock.as_ref().filter(|lock| lock.vote.height == vote.height);
        let body = wire::Refuse {
            epoch: vote.epoch,
            height: vote.height,
            id: vote.id.as_bytes().to_vec(),
            reason: match reason {
                RefuseReason::OwnShare => 1,
                RefuseReason::Old => 2,
                RefuseReason::OtherId => 3,
                RefuseReason::Forced => 4,
            },
            lock: lock.map(message::PrepareCert::to_wire),
        };
        if let Some(message) = self.seal(Kind::Refuse, &body, Vec::new()) {
            self.send_all(&message);
        }
        Ok(())
    }

    /// Another custodian refuses: its lock travels, and what it hasn't seen in time is shown to it.
    pub(crate) fn on_refuse(&mut self, from: u16, refuse: &Refuse) -> Result<(), Fatal> {
        self.alarm(Alarm::Refused {
            by: from,
            height: refuse.vote.height,
            id: refuse.vote.id,
            reason: refuse.reason,
        });
        if let Some(lock) = &refuse.lock {
            self.adopt(lock.clone(), from)?;
        }
        if refuse.reason == RefuseReason::Old && self.leads() {
            self.flush_claims();
            let prepares = self.round.prepares.values().map(|message| message.bare()).collect();
            if let Some(message) = self.seal(Kind::Shown, &wire::Shown { prepares }, Vec::new()) {
                self.send(from, message);
            }
        }
        Ok(())
    }

    /// Votes of others: more than f of them include an honest custodian that saw the batch in time.
    pub(crate) fn on_shown(&mut self, prepares: &[Msg]) {
        for message in prepares {
            if let Some(prepare) = message.prepare()
                && prepare.vote.height == self.next_height()
                && prepare.vote.epoch == self.record.epoch
            {
                self.round.shown.insert(message.sender, prepare.vote);
                if self.round.refused == Some(prepare.vote) {
                    self.round.refused = None;
                }
            }
        }
    }
}

/// What PROTOCOL 10 says of a proposal.
enum TimeRule {
    Holds,
    /// It is ahead of this custodian's clock: wait.
    Ahead,
    /// It came more than 10 s late.
    Old,
}
