//! What a custodian's state is, for explorers: two custodians with the same digest do the same from here on, but for what an
//! explorer that holds the clocks still can't see. What is left out stands beside its reason.
//!
//! Left out everywhere: `seq`, claims and what is flushed when (they order the messages of one sender, which an explorer
//! does by runs, see [`crate::rules::Rules::next_seq`], and find rolled back disks); resumes, states that are being fetched and
//! heads seen on relays (an explorer delivers none); every clock, timeout, repeat and rate
//! limit (time stands still, and a network that delivers anything at any time needs no repeats); complaints, doublings,
//! reachability and the opening of an epoch (the explorer makes everybody complain whenever it likes); signatures and
//! the digests over them.

use concordat_events::batch::Batch;
use concordat_events::hash::{Hash, Tagged};
use concordat_store::{Store, scan_prefix};
use prost::Message as _;

use crate::core::Core;
use crate::decider::Decider;
use crate::message::{Body, Kind, Message, Msg, Vote};
use crate::record::{Bar, Record};
use crate::rules::Rules;
use crate::wire;

/// Batches kept beside the record that are looked at; no head has more.
const BATCHES: usize = 4096;

/// A hash over fields that are told apart by name.
struct Canon(Tagged);

impl Canon {
    fn new(tag: &str) -> Self {
        Canon(Tagged::new(tag))
    }

    fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.0.part(name.as_bytes()).part(&value.to_be_bytes());
        self
    }

    fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.number(name, value.into())
    }

    fn hash(&mut self, name: &str, hash: &Hash) -> &mut Self {
        self.0.part(name.as_bytes()).part(hash.as_bytes());
        self
    }

    fn vote(&mut self, name: &str, vote: &Vote) -> &mut Self {
        self.number(name, vote.epoch).number("height", vote.height).hash("id", &vote.id)
    }

    fn maybe_vote(&mut self, name: &str, vote: Option<Vote>) -> &mut Self {
        match vote {
            Some(vote) => self.vote(name, &vote),
            None => self.flag(name, false),
        }
    }

    fn maybe_number(&mut self, name: &str, value: Option<u64>) -> &mut Self {
        match value {
            Some(value) => self.number(name, value),
            None => self.flag("none", false),
        }
    }

    fn hashes<'a>(&mut self, name: &str, hashes: impl Iterator<Item = &'a Hash>) -> &mut Self {
        self.0.part(name.as_bytes());
        for hash in hashes {
            self.0.part(hash.as_bytes());
        }
        self.flag("end", true)
    }
}

impl Message {
    /// What the message says, without signatures, the choice of prepares in a certificate and the bytes of an attachment:
    /// messages with one digest have the same effect on whoever has seen neither.
    pub fn digest(&self) -> Hash {
        let mut canon = Canon::new("concordat/canon-message");
        canon.number("sender", self.sender.into()).number("kind", self.kind() as u64);
        match &self.body {
            Body::Wrapper(wrapper) => {
                canon.number("epoch", wrapper.epoch).number("number", wrapper.number);
                canon.hash("batch", &wrapper.hash);
            }
            Body::Propose(propose) => {
                canon.vote("vote", &propose.vote).number("number", propose.number);
            }
            Body::Prepare(prepare) => {
                canon.vote("vote", &prepare.vote).hash("commitments", &prepare.hash);
            }
            Body::Certify(certify) => {
                canon.vote("vote", &certify.cert.vote).hash("session", &certify.session);
            }
            Body::Lock(cert) => {
                canon.vote("vote", &cert.vote);
            }
            Body::Refuse(refuse) => {
                canon.vote("vote", &refuse.vote).maybe_vote("lock", refuse.lock.as_ref().map(|l| l.vote));
            }
            Body::Share(share) => {
                canon.vote("vote", &share.vote).hash("session", &share.session);
            }
            Body::Again(vote) => {
                canon.vote("vote", vote);
            }
            Body::Certificate(certificate) => {
                canon.hash("id", &certificate.log.id());
            }
            // A later grant of one epoch takes the place of an earlier one, by its seq.
            Body::Grant(grant) => {
                canon.number("seq", self.seq).number("epoch", grant.epoch);
                canon.number("next", crate::change::grant_height(grant));
                canon.maybe_vote("lock", grant.lock.as_ref().map(|lock| lock.vote));
            }
            Body::EpochStart(start) => {
                // What it says is where its epoch begins.
                canon.number("epoch", start.epoch);
                let grants = || start.grants.iter().filter_map(|grant| grant.grant());
                let next = grants().map(crate::change::grant_height).max().unwrap_or(0);
                let locks = grants().filter_map(|grant| grant.lock.as_ref()).map(|lock| lock.vote);
                let forced = locks.filter(|vote| vote.height == next).max_by_key(|vote| vote.epoch);
                canon.number("next", next).maybe_vote("forced", forced);
            }
            // What these say is only in their bytes.
            _ => {
                canon.hash("body", &crate::message::attachment_hash(&self.envelope().body));
            }
        }
        canon.0.finish()
    }
}

impl<S: Store, R: Rules> Decider<S, R> {
    /// See the module.
    pub fn digest(&self) -> Hash {
        self.core.digest()
    }

    /// The batches of the running epoch's log that no certified head covers yet.
    pub fn uncovered(&self) -> Vec<Batch> {
        self.core.epoch.batches_to(self.core.epoch.last_number()).unwrap_or_default()
    }
}

impl<S: Store, R: Rules> Core<S, R> {
    fn digest(&self) -> Hash {
        let mut canon = Canon::new("concordat/canon-core");
        canon.number("me", self.me.into());
        // The ledger is a function of its head, and so is everything stored about heads.
        canon.hash("tip", &self.ledger.tip().map_or(Hash::ZERO, |tip| tip.id));
        self.digest_record(&mut canon, &self.record);
        match Record::load(&self.store, &self.context) {
            Ok(Some(durable)) => self.digest_record(&mut canon, &durable),
            _ => {
                canon.flag("record", false);
            }
        }
        let kept = scan_prefix(&self.store, b"f/b/", BATCHES).unwrap_or_default();
        canon.number("kept", kept.len() as u64);
        for (key, _) in kept {
            canon.0.part(&key);
        }
        canon.flag("running", self.start.running()).flag("resigned", self.resigned).flag("done", self.done);
        canon.0.part(&self.evidence.keys().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>());
        self.digest_witnessed(&mut canon);
        self.digest_epoch(&mut canon);
        self.digest_round(&mut canon);
        for (id, place) in self.pool.digest() {
            canon.hash("waits", &id).number("place", place.into());
        }
        canon.0.finish()
    }

    fn digest_record(&self, canon: &mut Canon, record: &Record) {
        canon.number("epoch", record.epoch).number("run", record.run);
        // Only whether it leads what it entered in this run matters.
        canon.flag("own", record.epoch_run == record.run);
        canon.maybe_vote("prepared", record.prepared);
        canon.maybe_vote("lock", record.lock.as_ref().map(|lock| lock.vote));
        canon.maybe_vote("shared", record.shared.as_ref().map(|(vote, _)| *vote));
        canon.hash("session", record.shared.as_ref().map_or(&Hash::ZERO, |(_, session)| session));
        let (height, resumed) = record.resumed.unwrap_or_default();
        canon.number("resumed", height).hash("by", &resumed);
        match record.bar {
            Bar::None => canon.number("bar", 0),
            Bar::Unknown => canon.number("bar", 1),
            Bar::Until(height) => canon.number("bar", 2 + height),
        };
    }

    /// What a later message may contradict: messages of epochs that have ended are not delivered again.
    fn digest_witnessed(&self, canon: &mut Canon) {
        for ((sender, kind), envelope) in &self.witnessed {
            let body = envelope.body.as_slice();
            // The log holds the same entries for everybody, so only these can be contradicted.
            let said = match kind {
                Kind::Propose => wire::Propose::decode(body).map(|p| (p.epoch, p.height, p.number, p.id)),
                Kind::Prepare => wire::Prepare::decode(body).map(|p| (p.epoch, p.height, 0, p.id)),
                _ => continue,
            };
            let Ok((epoch, height, number, id)) = said else { continue };
            if epoch >= self.record.epoch {
                canon.number("witnessed", (*sender).into()).number("kind", *kind as u64);
                canon.number("epoch", epoch).number("height", height).number("number", number);
                canon.0.part(&id);
            }
        }
    }

    fn digest_epoch(&self, canon: &mut Canon) {
        let epoch = &self.epoch;
        if let Some(started) = &epoch.started {
            canon.number("started", started.next_height).number("leader", started.leader.into());
            canon.maybe_vote("forced", started.forced.as_ref().map(|cert| cert.vote));
        }
        canon.hashes("entries", epoch.entries.iter().map(|entry| &entry.hash));
        canon.flag("gap", epoch.gap).number("dropped", epoch.dropped).number("covered", epoch.covered);
        for head in &epoch.unmatched {
            canon.hashes("unmatched", head.iter());
        }
        canon.number("time", epoch.last_time_ms);
        // Only a mutant has one.
        if let Some(early) = &epoch.early_lock {
            canon.flag("early", true).maybe_vote("lock", early.as_ref().map(|lock| lock.vote));
        }
        // Who has restarted in its epoch doesn't lead it, whatever grants it has kept (no explorer ends a quarantine).
        if !self.leads() {
            return;
        }
        // Only a leader makes entries, proposes and counts grants, and those of its own epoch only: an older one counts
        // nowhere, a later one is delivered again when its epoch has come.
        canon.number("created", epoch.created).number("forced_batches", epoch.forced_batches);
        canon.maybe_number("proposed", epoch.proposed).flag("start_sent", epoch.start_sent);
        if epoch.started.is_none() {
            let grants: Vec<Hash> = self.known_grants().iter().map(|m| m.digest()).collect();
            canon.hashes("grants", grants.iter());
        }
    }

    fn digest_round(&self, canon: &mut Canon) {
        let round = &self.round;
        if let Some(computed) = &round.computed {
            canon.hash("computed", &computed.draft.id).maybe_number("number", computed.number);
        }
        let message = |message: &Option<Msg>| message.as_ref().map_or(Hash::ZERO, |m| m.digest());
        canon.hash("proposal", &message(&round.proposal)).hash("prepare", &message(&round.prepare));
        canon.hashes("nonces", round.nonces.keys());
        canon.number("issued", round.issued.into()).maybe_number("uncomputable", round.uncomputable);
        // Lists that rebuilt nothing rebuild nothing again.
        canon.hashes("rebuilt", round.rebuilt.keys());
        canon.maybe_vote("refused", round.refused).maybe_vote("led", round.proposed);
        for (sender, prepare) in &round.prepares {
            canon.number("from", (*sender).into()).hash("prepare", &prepare.digest());
        }
        for (sender, hash) in &round.used {
            canon.number("used", (*sender).into()).hash("hash", hash);
        }
        canon.number("passed_over", round.passed_over.len() as u64);
        canon.number("cheats", round.cheats.len() as u64).number("attempt", round.attempt.into());
        canon.maybe_vote("cert", round.cert.as_ref().map(|cert| cert.vote));
        for (id, session) in &round.sessions {
            canon.hash("session", id).flag("failed", session.failed);
            session.shares.keys().for_each(|sender| {
                canon.number("share", (*sender).into());
            });
        }
        for (sender, share) in &round.early {
            canon.number("early", (*sender).into()).hash("share", &share.digest());
        }
    }
}
