//! Certificates and what rebuilds them: installing, showing and fetching certified heads; locks that travel (PROTOCOL 4, 5, 8).

use concordat_events::batch::Batch;
use concordat_events::hash::Hash;
use concordat_ledger::{Draft, ExecuteError};
use concordat_store::Store;
use prost::Message as _;

use crate::certified::{Certified, Published};
use crate::core::{Core, Fatal};
use crate::effect::{Action, After, Alarm};
use crate::limits::{HALVE_AFTER, SYNC_BYTES};
use crate::message::{Body, Certificate, CertifiedHead, Kind, PrepareCert};
use crate::read::batch_to_wire;
use crate::record::{self, Bar};
use crate::repeat::Slot;
use crate::rules::Rules;
use crate::wire;

impl<S: Store, R: Rules> Core<S, R> {
    /// A certificate that this custodian aggregated itself.
    pub(crate) fn install_own(&mut self, certificate: Certificate) -> Result<(), Fatal> {
        let id = certificate.log.id();
        let Some(batches) = self.round.computed_as(&id).map(|computed| computed.batches.clone()) else {
            return Ok(());
        };
        let body = certificate.to_wire();
        self.install(CertifiedHead { certificate, batches }, None)?;
        if let Some(message) = self.seal(Kind::Certificate, &body, Vec::new()) {
            self.send_others(&message);
            self.repeats.set(Slot::Certificate, message, None, self.now.mono_ms, self.timeout());
        }
        Ok(())
    }

    /// A certificate from a peer: accepted in any epoch, from anyone, whatever is prepared or locked.
    pub(crate) fn on_certificate(&mut self, from: u16, certificate: &Certificate) -> Result<(), Fatal> {
        let height = certificate.head.height;
        if height < self.next_height() {
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
        let known = self.round.computed.take().map(|computed| computed.draft).filter(|draft| draft.id == id);
        let draft = match known {
            Some(draft) => draft,
            None => match self.ledger.execute(&head.batches) {
                Ok(draft) => draft,
                Err(ExecuteError::Store(error)) => return Err(error.into()),
                // Batches that can't be executed aren't those of a certified head.
                Err(_) => return Ok(()),
            },
        };
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
        let Some(events) = signed_events(&draft, certificate) else {
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
        record::put_head(&mut self.out.writes, &head, &published.events);
        record::drop_batches(&mut self.out.writes);
        let writes = match self.ledger.install(draft) {
            Ok(writes) => writes,
            Err(_) => return Ok(()),
        };
        self.out.writes.append(writes);
        self.settle(height, &head, &published);
        self.last = Some(head);
        self.effect(After::Flush, Action::Certified(Box::new(Certified::new(published))));
        Ok(())
    }

    /// What a new certified head ends.
    fn settle(&mut self, height: u64, head: &CertifiedHead, published: &Published) {
        if self.record.lock.as_ref().is_some_and(|lock| lock.vote.height <= height) {
            self.record.lock = None;
        }
        if self.record.bar != Bar::None
            && let Bar::Until(bar) = self.record.bar
            && height >= bar
        {
            self.record.bar = Bar::None;
        }
        self.streak += 1;
        if self.streak.is_multiple_of(HALVE_AFTER) {
            self.record.doublings = self.record.doublings.saturating_sub(1);
        }
        self.durable();
        // The certificate destroys the nonces of its height and everything voted for it.
        self.round = Default::default();
        for slot in [Slot::Lock, Slot::Propose, Slot::Prepare, Slot::Certify, Slot::Share] {
            self.repeats.clear(slot);
        }
        self.epoch.certified(head.certificate.head.batches_root, head.certificate.head.batches.len());
        self.epoch.progress_ms = self.now.mono_ms;
        let mut newest = 0;
        for (id, _) in &published.head.outcomes {
            if let Some(since) = self.pool.remove(id) {
                newest = newest.max(since);
            }
        }
        self.watch_overdue(newest);
    }

    /// Answers who is behind with the certified heads that it lacks.
    pub(crate) fn on_fetch_heads(&mut self, to: u16, from: u64) -> Result<(), Fatal> {
        self.show_epoch(to);
        self.show_heads(to, from)
    }

    /// Answers who votes on an old height.
    pub(crate) fn show_certificate(&mut self, to: u16, height: u64) -> Result<(), Fatal> {
        if to == self.me || self.recently_told(to) {
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
                self.seal_own(Kind::Heads, &wire::Heads { heads }, Vec::new(), |_| Body::Heads(Vec::new()))
        {
            self.send(to, message);
        }
        Ok(())
    }

    /// Certified heads with their batches.
    pub(crate) fn on_heads(&mut self, from: u16, heads: &[CertifiedHead]) -> Result<(), Fatal> {
        let before = self.next_height();
        for head in heads {
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
        }
        // There may be more where these came from.
        if self.next_height() > before {
            self.asked.remove(&from);
            self.ask_for_heads(from);
        }
        Ok(())
    }

    /// Asks a peer for certified heads, at most once per tenth of the timeout.
    pub(crate) fn ask_for_heads(&mut self, peer: u16) {
        if peer == self.me || self.recently_asked(peer) {
            return;
        }
        let body = wire::FetchHeads { from: self.next_height() };
        if let Some(message) = self.seal(Kind::FetchHeads, &body, Vec::new()) {
            self.send(peer, message);
        }
    }

    fn recently_asked(&mut self, peer: u16) -> bool {
        self.too_soon(peer)
    }

    /// Was this peer told or asked something of the kind just now? Hints come in floods; answers needn't.
    pub(crate) fn recently_told(&mut self, peer: u16) -> bool {
        self.too_soon(peer | 0x8000)
    }

    fn too_soon(&mut self, key: u16) -> bool {
        let now = self.now.mono_ms;
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
        let wanted = std::mem::take(&mut self.epoch_wanted());
        for batch in batches.iter().filter(|batch| wanted.contains(&batch.hash())) {
            record::put_batch(&mut self.out.writes, batch);
            self.durable();
        }
        Ok(())
    }

    /// Hashes of batches behind locks that this custodian has been shown for its next height.
    fn epoch_wanted(&self) -> Vec<Hash> {
        let next = self.next_height();
        self.grants
            .values()
            .filter_map(|message| message.grant()?.lock.as_ref())
            .filter(|lock| lock.vote.height == next)
            .flat_map(|lock| lock.batch_hashes.iter().copied())
            .collect()
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
            if lock.vote.epoch >= vote.epoch {
                return Ok(());
            }
        }
        if !self.has_head_of(&cert, from)? {
            return Ok(());
        }
        if vote.epoch > self.record.epoch {
            self.enter(vote.epoch);
        }
        self.take_lock(cert);
        Ok(())
    }

    /// Stores a lock; one is replaced only by one of a higher height or epoch.
    pub(crate) fn take_lock(&mut self, cert: PrepareCert) {
        let higher = self
            .record
            .lock
            .as_ref()
            .is_none_or(|lock| (cert.vote.height, cert.vote.epoch) > (lock.vote.height, lock.vote.epoch));
        if !higher {
            return;
        }
        self.durable();
        if let Some(computed) = self.round.computed_as(&cert.vote.id) {
            for batch in &computed.batches {
                record::put_batch(&mut self.out.writes, batch);
            }
        }
        let body = wire::Lock { cert: Some(cert.to_wire()) };
        self.record.lock = Some(cert);
        if let Some(message) = self.seal(Kind::Lock, &body, Vec::new()) {
            self.repeats.set(Slot::Lock, message, None, self.now.mono_ms, self.timeout());
        }
    }

    /// Does this custodian hold the batches that rebuild a lock's head? Asks for them if not.
    pub(crate) fn has_head_of(&mut self, cert: &PrepareCert, from: u16) -> Result<bool, Fatal> {
        if self.round.draft_of(&cert.vote.id).is_some() {
            return Ok(true);
        }
        let mut batches = Vec::new();
        for hash in &cert.batch_hashes {
            match record::get_batch(&self.store, &self.context, hash)? {
                Some(batch) => batches.push(batch),
                None => {
                    self.ask_for_batches(cert, from);
                    return Ok(false);
                }
            }
        }
        match self.ledger.execute(&batches) {
            Ok(draft) => Ok(draft.id == cert.vote.id),
            Err(ExecuteError::Store(error)) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// Asks those who prepared, who keep the batches.
    fn ask_for_batches(&mut self, cert: &PrepareCert, from: u16) {
        let body = wire::FetchBatches {
            hashes: cert.batch_hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
        };
        let Some(message) = self.seal(Kind::FetchBatches, &body, Vec::new()) else { return };
        let mut peers: Vec<u16> = cert.prepares.iter().map(|prepare| prepare.sender).collect();
        peers.push(from);
        peers.sort_unstable();
        peers.dedup();
        let me = self.me;
        for peer in peers.into_iter().filter(|peer| *peer != me) {
            if !self.recently_asked(peer) {
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
