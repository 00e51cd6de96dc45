//! Certificates and what rebuilds them: installing, showing and fetching certified heads; locks that travel (PROTOCOL 4, 5, 8).

use concordat_events::batch::Batch;
use concordat_events::hash::Hash;
use concordat_ledger::{Draft, ExecuteError};
use concordat_store::Store;
use prost::Message as _;

use crate::certified::{Certified, Published};
use crate::core::{Core, Fatal, Hint, Then};
use crate::effect::{Action, After, Alarm};
use crate::limits::{FAR_HEADS, HALVE_AFTER, HEAD_BYTES, SYNC_BYTES};
use crate::message::{Body, Certificate, CertifiedHead, Heads, Kind, Msg, PrepareCert};
use crate::read::batch_to_wire;
use crate::record::{self, Bar};
use crate::repeat::Slot;
use crate::rules::{Rule, Rules};
use crate::wire;
use concordat_events::limits::REQUESTS_PER_HEAD;

impl<S: Store, R: Rules> Core<S, R> {
    /// A certificate that this custodian aggregated itself.
    pub(crate) fn install_own(&mut self, certificate: Certificate) -> Result<(), Fatal> {
        let id = certificate.log.id();
        let Some(batches) = self.round.computed_as(&id).map(|computed| computed.batches.clone()) else {
            return Ok(());
        };
        let height = self.next_height();
        self.install(CertifiedHead { certificate, batches }, None)?;
        if self.next_height() > height
            && let Some(message) = self.certificate_message()
        {
            self.send_others(&message);
            self.send_guests(&message);
            self.spread.told();
        }
        Ok(())
    }

    pub(crate) fn certificate_message(&self) -> Option<Msg> {
        let certificate = self.last.as_ref()?.certificate.clone();
        self.seal_own(Kind::Certificate, &certificate.to_wire(), Vec::new(), |_| {
            Body::Certificate(certificate)
        })
    }

    /// A lock that was adopted or shared before a restart is shown again.
    pub(crate) fn repeat_lock(&mut self) {
        let next = self.next_height();
        let Some(lock) = self.record.lock.as_ref().filter(|lock| lock.vote.height == next) else { return };
        let body = wire::Lock { cert: Some(lock.to_wire()) };
        if let Some(message) = self.seal(Kind::Lock, &body, Vec::new()) {
            self.repeats.set(Slot::Lock, message, None, self.now.mono_ms, self.timeout());
        }
    }

    /// A certificate from a peer: accepted in any epoch, from anyone, whatever is prepared or locked.
    pub(crate) fn on_certificate(&mut self, from: u16, certificate: &Certificate) -> Result<(), Fatal> {
        let height = certificate.head.height;
        if height < self.next_height() {
            self.show_keeper(from, height);
            return Ok(());
        }
        let id = certificate.log.id();
        let own = self.round.computed_as(&id).map(|computed| computed.batches.clone());
        let batches = own.or_else(|| {
            // The batches may be here though nobody proposed them to this custodian yet.
            let number = self.epoch.covered + certificate.head.batches.len() as u64;
            let batches = self.epoch.batches_to(number)?;
            let hashes: Vec<Hash> = batches.iter().map(Batch::hash).collect();
            (concordat_events::batch::batches_root(&hashes) == certificate.head.batches_root)
                .then_some(batches)
        });
        match batches {
            Some(batches) if height == self.next_height() => {
                self.install(CertifiedHead { certificate: certificate.clone(), batches }, Some(from))
            }
            _ => {
                self.ask_for_heads(from);
                Ok(())
            }
        }
    }

    /// Makes a certified head the own state, if the own execution agrees with it. The write and everything that follows from
    /// it leave together after the flush.
    fn install(&mut self, head: CertifiedHead, from: Option<u16>) -> Result<(), Fatal> {
        let certificate = &head.certificate;
        let id = certificate.log.id();
        let fresh = match self.round.draft_of(&id) {
            Some(_) => None,
            None => match self.execute(&head.batches) {
                Ok(draft) => Some(draft),
                Err(ExecuteError::Store(error)) => return Err(error.into()),
                Err(error @ ExecuteError::Unsupported { .. }) => return Err(Fatal::Unsupported(error)),
                // Batches that can't be executed aren't those of a certified head.
                Err(_) => return Ok(()),
            },
        };
        // The own draft stays where it is until the certificate has proved whole: a liar's part of one costs nothing.
        let Some(draft) = fresh.as_ref().or_else(|| self.round.draft_of(&id)) else { return Ok(()) };
        if draft.head.batches_root != certificate.head.batches_root {
            return Ok(());
        }
        if draft.id != id {
            return Err(Fatal::Stop(Alarm::Diverged {
                height: certificate.head.height,
                certified: id,
                computed: draft.id,
            }));
        }
        let Some(events) = signed_events(draft, certificate) else {
            if let Some(from) = from {
                self.ask_for_heads(from);
            }
            return Ok(());
        };
        let published = Published {
            head: draft.head.clone(),
            events,
            requests: head.batches.iter().flat_map(|batch| batch.requests.iter().cloned()).collect(),
        };
        let height = draft.head.height;
        let own = self.round.computed.take().map(|computed| computed.draft);
        let Some(draft) = fresh.or(own) else { return Ok(()) };
        let Ok(writes) = self.ledger.install(draft) else { return Ok(()) };
        record::put_head(&mut self.out.writes, &head, &published.events);
        record::drop_batches(&mut self.out.writes);
        self.out.writes.append(writes);
        self.settle(height, &head, &published);
        self.last = Some(head);
        self.repeat_certificate();
        self.effect(After::Flush, Action::Certified(Box::new(Certified::new(published))));
        self.hand_over();
        Ok(())
    }

    /// What a new certified head ends.
    pub(crate) fn settle(&mut self, height: u64, head: &CertifiedHead, published: &Published) {
        if self.record.lock.as_ref().is_some_and(|lock| lock.vote.height <= height) {
            self.record.lock = None;
        }
        if self.record.bar != Bar::None
            && let Bar::Until(bar) = self.record.bar
            && height >= bar
        {
            self.record.bar = Bar::None;
            // The epoch may have been led by it before its disk was rolled back.
            self.record.epoch_run = 0;
            self.out.then.push(Then::Grant);
        }
        self.streak += 1;
        if self.streak.is_multiple_of(HALVE_AFTER) || self.came_quickly() {
            self.record.doublings = self.record.doublings.saturating_sub(1);
        }
        self.durable();
        // The certificate destroys the nonces of its height and everything voted for it.
        self.round = Default::default();
        for slot in [Slot::Lock, Slot::Propose, Slot::Prepare, Slot::Certify, Slot::Share] {
            self.repeats.clear(slot);
        }
        let bytes = head.batches.iter().map(Batch::bytes).sum();
        let full = published.head.outcomes.len() >= REQUESTS_PER_HEAD || bytes >= HEAD_BYTES;
        self.pace.certified(bytes, full);
        self.epoch.certified(head.batches.iter().map(Batch::hash).collect());
        self.epoch.progress_ms = self.now.mono_ms;
        let mut newest = 0;
        for (id, _) in &published.head.outcomes {
            if let Some(since) = self.pool.remove(id) {
                newest = newest.max(since);
            }
        }
        if self.start.running() {
            self.watch_overdue(newest);
        }
    }

    /// Answers who is behind with the certified heads that it lacks.
    pub(crate) fn on_fetch_heads(&mut self, to: u16, from: u64) -> Result<(), Fatal> {
        if self.context.votes(to) {
            self.show_epoch(to);
        }
        let next = self.next_height();
        let lacking = from < next && record::get_head_bytes(&self.store, from)?.is_none();
        if lacking || next.saturating_sub(from) > FAR_HEADS {
            return self.show_newest(to);
        }
        self.show_heads(to, from)
    }

    /// Answers who votes on an old height.
    pub(crate) fn show_certificate(&mut self, to: u16, height: u64) -> Result<(), Fatal> {
        if to == self.me || self.too_soon(to, Hint::Certificate) {
            return Ok(());
        }
        self.show_heads(to, height)
    }

    fn show_heads(&mut self, to: u16, from: u64) -> Result<(), Fatal> {
        let (mut heads, mut size, mut height) = (Vec::new(), 0, from);
        while height < self.next_height() && size < SYNC_BYTES {
            let Some(mut head) = record::get_head_bytes(&self.store, height)? else { break };
            head.events.clear();
            size += head.encoded_len();
            heads.push(head);
            height += 1;
        }
        if !heads.is_empty()
            && let Some(message) =
                self.seal_own(Kind::Heads, &wire::Heads { heads, newest: Vec::new() }, Vec::new(), |_| {
                    Body::Heads(Heads::default())
                })
        {
            self.send(to, message);
        }
        Ok(())
    }

    /// Certified heads with their batches.
    pub(crate) fn on_heads(&mut self, from: u16, shown: &Heads) -> Result<(), Fatal> {
        if let Some((log, head)) = &shown.newest {
            self.on_newest(from, log, head);
        }
        let before = self.next_height();
        if let Some(first) = shown.heads.first() {
            self.try_adopt_state(from, first)?;
        }
        for head in &shown.heads {
            let height = head.certificate.head.height;
            if height != self.next_height() {
                continue;
            }
            let tip = self.ledger.tip().map_or(Hash::ZERO, |tip| tip.id);
            if head.certificate.head.parent != tip {
                return Err(Fatal::Stop(Alarm::Diverged {
                    height: height.saturating_sub(1),
                    certified: head.certificate.head.parent,
                    computed: tip,
                }));
            }
            self.install(head.clone(), None)?;
            if self.done {
                return Ok(());
            }
        }
        // There may be more where these came from.
        if self.next_height() > before {
            self.asked.remove(&(from, Hint::Heads));
            self.ask_for_heads(from);
        }
        Ok(())
    }

    /// Asks a peer for certified heads, at most once per tenth of the timeout.
    pub(crate) fn ask_for_heads(&mut self, peer: u16) {
        if peer == self.me || self.too_soon(peer, Hint::Heads) {
            return;
        }
        let body = wire::FetchHeads { from: self.next_height() };
        if let Some(message) = self.seal(Kind::FetchHeads, &body, Vec::new()) {
            self.send(peer, message);
        }
    }

    /// Was this peer told or asked something of the kind just now? Hints come in floods; answers needn't.
    pub(crate) fn too_soon(&mut self, peer: u16, hint: Hint) -> bool {
        let (now, key) = (self.now.mono_ms, (peer, hint));
        if self.asked.get(&key).is_some_and(|at| now < at + self.timing.timeout_ms / 10) {
            return true;
        }
        self.asked.insert(key, now);
        false
    }

    pub(crate) fn on_fetch_batches(&mut self, to: u16, hashes: &[Hash]) -> Result<(), Fatal> {
        let (mut batches, mut size) = (Vec::new(), 0);
        for hash in hashes {
            if let Some(batch) = record::get_batch(&self.store, &self.context, hash)? {
                size += batch.bytes();
                if size > SYNC_BYTES && !batches.is_empty() {
                    break;
                }
                batches.push(batch_to_wire(&batch));
            }
        }
        if !batches.is_empty()
            && let Some(message) =
                self.seal_own(Kind::Batches, &wire::Batches { batches }, Vec::new(), |_| {
                    Body::Batches(Vec::new())
                })
        {
            self.send(to, message);
        }
        Ok(())
    }

    /// Batches that were asked for: kept until the height that they belong to is certified.
    pub(crate) fn on_batches(&mut self, batches: &[Batch]) -> Result<(), Fatal> {
        for batch in batches {
            let hash = batch.hash();
            let mut asked = false;
            for wanted in self.round.wanted.values_mut() {
                let before = wanted.len();
                wanted.retain(|other| *other != hash);
                asked |= wanted.len() < before;
            }
            if asked {
                record::put_batch(&mut self.out.writes, batch);
                self.durable();
            }
        }
        Ok(())
    }

    /// Locks travel: a prepare certificate of a higher epoch for the next height becomes the own lock, with the batches that
    /// rebuild its head. It goes into grants; it never makes its holder refuse.
    pub(crate) fn adopt(&mut self, cert: PrepareCert, from: u16) -> Result<(), Fatal> {
        let vote = cert.vote;
        if vote.height != self.next_height() {
            return Ok(());
        }
        if let Some(lock) = &self.record.lock
            && lock.vote.height == vote.height
        {
            if lock.vote.epoch == vote.epoch && lock.vote.id != vote.id {
                return Err(Fatal::Stop(Alarm::TwoLocks { epoch: vote.epoch, height: vote.height }));
            }
            if lock.vote.epoch >= vote.epoch && R::keeps(Rule::LockNeverFalls) {
                return Ok(());
            }
        }
        if !self.has_head_of(&cert, from)? {
            return Ok(());
        }
        if vote.epoch > self.record.epoch {
            self.enter(vote.epoch);
            // Somebody leads this epoch already, so it isn't this run; and it is open, so no grant for it is owed. One that
            // left after this lock has taken the place of an older one would hide that one.
            self.record.epoch_run = 0;
            if !R::keeps(Rule::GrantShowsLock) {
                self.out.then.push(Then::Grant);
            }
        }
        self.take_lock(cert)
    }

    /// Stores a lock; one is replaced only by one of a higher height or epoch.
    pub(crate) fn take_lock(&mut self, mut cert: PrepareCert) -> Result<(), Fatal> {
        let vote = cert.vote;
        if let Some(lock) = &self.record.lock {
            if (lock.vote.height, lock.vote.epoch) == (vote.height, vote.epoch) && lock.vote.id != vote.id {
                return Err(Fatal::Stop(Alarm::TwoLocks { epoch: vote.epoch, height: vote.height }));
            }
            if (vote.height, vote.epoch) <= (lock.vote.height, lock.vote.epoch)
                && R::keeps(Rule::LockNeverFalls)
            {
                return Ok(());
            }
        }
        self.durable();
        // Nobody signs which batches rebuild the head: what this custodian passes on is what it rebuilt it from itself, or a
        // liar's hint would make every honest grant useless.
        if let Some(computed) = self.round.computed_as(&vote.id) {
            cert.batch_hashes = computed.batches.iter().map(Batch::hash).collect();
            for batch in &computed.batches {
                record::put_batch(&mut self.out.writes, batch);
            }
        } else if let Some(hashes) = self.round.rebuilt.get(&vote.id) {
            cert.batch_hashes = hashes.clone();
        }
        self.record.lock = Some(cert);
        self.repeat_lock();
        Ok(())
    }

    /// Does this custodian hold the batches that rebuild a lock's head? Asks for them if not.
    pub(crate) fn has_head_of(&mut self, cert: &PrepareCert, from: u16) -> Result<bool, Fatal> {
        let id = cert.vote.id;
        if self.round.draft_of(&id).is_some() || self.round.rebuilt.contains_key(&id) {
            return Ok(true);
        }
        let spoiled = self.round.spoiled.get(&from);
        if spoiled.is_some_and(|(head, hashes)| *head == id && *hashes == cert.batch_hashes) {
            return Ok(false);
        }
        let (mut batches, mut missing) = (Vec::new(), Vec::new());
        for hash in &cert.batch_hashes {
            match record::get_batch(&self.store, &self.context, hash)? {
                Some(batch) => batches.push(batch),
                None => missing.push(*hash),
            }
        }
        if !missing.is_empty() {
            self.ask_for_batches(cert, missing, from);
            return Ok(false);
        }
        match self.execute(&batches) {
            Ok(draft) if draft.id == id => {
                self.round.rebuilt.insert(id, cert.batch_hashes.clone());
                Ok(true)
            }
            Err(ExecuteError::Store(error)) => Err(error.into()),
            Ok(_) | Err(_) => {
                self.round.spoiled.insert(from, (id, cert.batch_hashes.clone()));
                Ok(false)
            }
        }
    }

    /// Asks those who prepared, who keep the batches.
    fn ask_for_batches(&mut self, cert: &PrepareCert, missing: Vec<Hash>, from: u16) {
        let body =
            wire::FetchBatches { hashes: missing.iter().map(|hash| hash.as_bytes().to_vec()).collect() };
        // One list per custodian that names locks: a liar's takes no room from others.
        self.round.wanted.insert(from, missing);
        let Some(message) = self.seal(Kind::FetchBatches, &body, Vec::new()) else { return };
        let mut peers: Vec<u16> = cert.prepares.iter().map(|prepare| prepare.sender).collect();
        peers.push(from);
        if cert.prepares.is_empty() {
            // A Resume doesn't say who voted.
            peers.extend(self.others());
        }
        peers.sort_unstable();
        peers.dedup();
        let me = self.me;
        for peer in peers.into_iter().filter(|peer| *peer != me) {
            if !self.too_soon(peer, Hint::Batches(from)) {
                self.send(peer, message.clone());
            }
        }
    }
}

/// Everything that a head determines, signed; `None` if a signature is missing or wrong.
fn signed_events(draft: &Draft, certificate: &Certificate) -> Option<Vec<concordat_events::ValidEvent>> {
    if draft.messages.len() != certificate.signatures.len() {
        return None;
    }
    draft
        .messages
        .iter()
        .zip(&certificate.signatures)
        .map(|(template, signature)| template.signed(signature).ok())
        .collect()
}
