//! One custodian alone with a test that plays everybody else, signs what it likes and orders what it likes: directed
//! scenarios in the fewest steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use concordat_events::Hash;
use concordat_events::batch::Batch;
use concordat_store::memory::{Image, MemoryStore};
use concordat_threshold::{aggregate_many, commit_many, sign_many};
use prost::Message as _;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::durable::check_durable;
use super::net::{Cluster, Net, WALL};
use crate::message::{Body, Kind, Message, PrepareCert, Vote, attachment_hash};
use crate::read::batch_to_wire;
use crate::rules::{Law, Rules};
use crate::{Action, Alarm, Decider, Input, Msg, Now, Parts, Timing, record, wire};

/// Who is played by the code under test: it leads epoch 3.
pub const ME: u16 = 4;

/// Its disk once Head(0) is certified.
pub fn founded() -> Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE
        .get_or_init(|| {
            let mut net = Net::<Law>::new(Cluster::four(), 77);
            net.start_all();
            assert!(net.run_until(10_000, |net| net.certified.len() == 4), "{}", net.report());
            net.store(ME).snapshot()
        })
        .clone()
}

pub struct Solo<R: Rules<Scheme = crate::Frost>> {
    pub cluster: &'static Cluster,
    pub decider: Decider<MemoryStore, R>,
    pub store: Arc<MemoryStore>,
    pub now: u64,
    pub sent: Vec<Msg>,
    pub alarms: Vec<Alarm>,
    /// What left before it was durable.
    pub early: Vec<String>,
    /// Entries that it gave to its group.
    pub appended: Vec<(u64, Msg)>,
    /// Heights that it let out as certified.
    pub certified: Vec<u64>,
    /// Its store is going to fail.
    pub may_crash: bool,
    /// It is going to stop by itself.
    pub may_stop: bool,
    /// What it said when it stopped.
    pub stopped: Option<String>,
    /// Digest of the last entry given, by epoch.
    chain: BTreeMap<u64, (u64, Hash)>,
    seq: u64,
}

impl<R: Rules<Scheme = crate::Frost>> Solo<R> {
    /// Opens it on a disk; `intact` says that the operator vouches for it.
    pub fn open(image: Image, intact: bool) -> Self {
        Self::open_with(image, intact, 1_000)
    }

    /// As [`Solo::open`], with another timeout.
    pub fn open_with(image: Image, intact: bool, timeout_ms: u64) -> Self {
        let cluster = Cluster::four();
        let store = Arc::new(MemoryStore::restore(image));
        let parts = Parts {
            context: cluster.context.clone(),
            me: ME,
            identity: Box::new(cluster.members[&ME].identity),
            share: Some(cluster.share(ME)),
            store: store.clone(),
            timing: Timing { timeout_ms },
            boot: b"some boot".to_vec(),
            not_restored: intact,
            entropy: Box::new(ChaCha20Rng::seed_from_u64(9)),
        };
        let decider = Decider::open(parts).unwrap();
        let mut solo = Solo {
            cluster,
            decider,
            store,
            now: 1_000,
            sent: Vec::new(),
            alarms: Vec::new(),
            early: Vec::new(),
            appended: Vec::new(),
            certified: Vec::new(),
            may_crash: false,
            may_stop: false,
            stopped: None,
            chain: BTreeMap::new(),
            // Above what the peers have signed in the run that the disk comes from.
            seq: 1 << 40,
        };
        solo.input(Input::Start);
        solo
    }

    /// Running on Head(0), nothing rolled back.
    pub fn running() -> Self {
        let mut solo = Self::open(founded(), true);
        for from in [1, 2, 3] {
            solo.answer(from, |_| {});
        }
        assert!(solo.decider.status().running);
        solo.sent.clear();
        solo
    }

    /// SIGKILL and a start on what was durable.
    pub fn restart(&mut self) {
        let next = Self::open(self.store.snapshot(), true);
        let (now, seq) = (self.now, self.seq);
        *self = Solo { now, seq, ..next };
        for from in [1, 2, 3] {
            self.answer(from, |_| {});
        }
    }

    pub fn input(&mut self, input: Input) {
        let now = Now { mono_ms: self.now, wall_ms: WALL + self.now };
        let (store, cluster) = (self.store.clone(), self.cluster);
        let (sent, alarms, early) = (&mut self.sent, &mut self.alarms, &mut self.early);
        let (appended, certified) = (&mut self.appended, &mut self.certified);
        let result = self.decider.handle(now, input, &mut |action| {
            if let Err(error) = check_durable(&store, &cluster.context, ME, &action) {
                early.push(error.to_owned());
            }
            match action {
                Action::Append { epoch, entry, .. } => appended.push((epoch, entry)),
                Action::Send { message, .. } => sent.push(message),
                Action::Alarm(alarm) => alarms.push(alarm),
                Action::Certified(head) => certified.push(head.head.height),
                _ => {}
            }
        });
        if let Err(error) = &result
            && self.may_stop
        {
            self.stopped = Some(error.to_string());
        }
        assert!(result.is_ok() || self.may_crash || self.may_stop, "{result:?}");
        let law = std::any::TypeId::of::<R>() == std::any::TypeId::of::<Law>();
        assert!(!law || self.early.is_empty(), "{:?}", self.early);
    }

    pub fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.input(Input::Tick);
    }

    pub fn forge(&mut self, sender: u16, kind: Kind, body: &impl prost::Message, attachment: Vec<u8>) -> Msg {
        self.seq += 1;
        self.cluster.forge(sender, self.seq, kind, body, attachment)
    }

    /// The seq of the last message that a peer was made to sign.
    pub fn last_seq(&self) -> Option<u64> {
        Some(self.seq)
    }

    pub fn say(&mut self, sender: u16, kind: Kind, body: &impl prost::Message) {
        let message = self.forge(sender, kind, body, Vec::new());
        self.input(Input::Message(message));
    }

    /// The number of this start's question.
    pub fn question(&self) -> [u8; 32] {
        let last = self.sent.iter().rev().find_map(|message| match &message.body {
            Body::Question(nonce) => Some(*nonce),
            _ => None,
        });
        last.expect("it asks before anything else")
    }

    /// Answers the start's question for a custodian; `change` makes it lie.
    pub fn answer(&mut self, from: u16, change: impl FnOnce(&mut wire::Answer)) {
        let mut body = wire::Answer {
            nonce: self.question().to_vec(),
            highest: None,
            certified: self.tip(),
            quarantined: false,
            starting: false,
            intact: true,
        };
        change(&mut body);
        self.say(from, Kind::Answer, &body);
    }

    fn tip(&self) -> Vec<u8> {
        record::last_head(&self.store, &self.cluster.context)
            .unwrap()
            .map(|head| head.certificate.log.json().as_bytes().to_vec())
            .unwrap_or_default()
    }

    /// An empty batch, and the id of the next head that covers just it.
    pub fn head(&self, ms: u64) -> (Batch, Hash) {
        let batch = Batch { time_ms: WALL + self.now - 100 + ms, requests: Vec::new() };
        let id = self.decider.ledger().execute(std::slice::from_ref(&batch)).unwrap().id;
        (batch, id)
    }

    pub fn vote(epoch: u64, id: Hash) -> Vote {
        Vote { epoch, height: 1, id }
    }

    /// A grant.
    pub fn grant(&mut self, sender: u16, epoch: u64, lock: Option<&wire::PrepareCert>) -> Msg {
        let body = wire::Grant { epoch, certified: self.tip(), lock: lock.cloned(), evidence: Vec::new() };
        self.forge(sender, Kind::Grant, &body, Vec::new())
    }

    /// Makes it enter an epoch by complaints about the one before, and gives it the leader's EpochStart.
    pub fn enter(&mut self, epoch: u64, lock: Option<&wire::PrepareCert>) {
        for sender in [1, 2, 3] {
            self.complain(sender, epoch - 1);
        }
        assert_eq!(self.decider.status().epoch, epoch);
        self.start_epoch(epoch, lock);
    }

    pub fn complain(&mut self, sender: u16, epoch: u64) {
        self.say(sender, Kind::Complaint, &wire::Complaint { epoch, cause: 2, next_height: 1 });
    }

    /// Shows it a lock, and the batch behind it when it asks.
    pub fn show_lock(&mut self, sender: u16, lock: &wire::PrepareCert, batch: &Batch) {
        self.say(sender, Kind::Lock, &wire::Lock { cert: Some(lock.clone()) });
        self.say(sender, Kind::Batches, &wire::Batches { batches: vec![batch_to_wire(batch)] });
        self.say(sender, Kind::Lock, &wire::Lock { cert: Some(lock.clone()) });
    }

    pub fn start_epoch(&mut self, epoch: u64, lock: Option<&wire::PrepareCert>) {
        self.start_epoch_on(epoch, [lock, None, None]);
    }

    /// An EpochStart with the grants of 1, 2 and 3, and their locks.
    pub fn start_epoch_on(&mut self, epoch: u64, locks: [Option<&wire::PrepareCert>; 3]) {
        let mut grants = Vec::new();
        if epoch > 0 {
            for (sender, lock) in (1..).zip(locks) {
                grants.push(self.grant(sender, epoch, lock).envelope().clone());
            }
        }
        let attachment = wire::Opening { grants, evidence: Vec::new(), resume: Vec::new() }.encode_to_vec();
        self.start_with(epoch, attachment);
    }

    /// An EpochStart on any opening.
    pub fn start_with(&mut self, epoch: u64, attachment: Vec<u8>) {
        let body = wire::EpochStart { epoch, opening: attachment_hash(&attachment).as_bytes().to_vec() };
        let leader = self.cluster.context.leader(epoch, &BTreeSet::new());
        let entry = self.forge(leader, Kind::EpochStart, &body, attachment);
        self.chain.insert(epoch, (0, entry.digest));
        self.input(Input::Ordered { epoch, entry });
        assert!(self.decider.status().started);
    }

    /// Orders a batch and proposes the head that covers everything up to it.
    pub fn propose(&mut self, epoch: u64, batch: &Batch, id: Hash) {
        let number = self.order(epoch, batch);
        let leader = self.cluster.context.leader(epoch, &BTreeSet::new());
        let body = wire::Propose { epoch, height: 1, number, id: id.as_bytes().to_vec() };
        self.say(leader, Kind::Propose, &body);
    }

    /// Orders a batch. Gives its number.
    pub fn order(&mut self, epoch: u64, batch: &Batch) -> u64 {
        let leader = self.cluster.context.leader(epoch, &BTreeSet::new());
        let (number, previous) = self.chain[&epoch];
        let number = number + 1;
        let (previous, hash) = (previous.as_bytes().to_vec(), batch.hash().as_bytes().to_vec());
        let body = wire::Wrapper { epoch, number, previous, batch: hash };
        let entry = self.forge(leader, Kind::Wrapper, &body, batch_to_wire(batch).encode_to_vec());
        self.chain.insert(epoch, (number, entry.digest));
        self.input(Input::Ordered { epoch, entry });
        number
    }

    fn prepare(&mut self, sender: u16, vote: Vote) -> Msg {
        let mut rng = ChaCha20Rng::seed_from_u64(self.seq);
        let (_, commitments) = commit_many(&self.cluster.share(sender), 1, &mut rng).unwrap();
        let list =
            wire::Commitments { commitments: commitments.iter().map(|c| c.to_bytes().to_vec()).collect() };
        let attachment = list.encode_to_vec();
        let body = wire::Prepare {
            epoch: vote.epoch,
            height: vote.height,
            id: vote.id.as_bytes().to_vec(),
            commitments: attachment_hash(&attachment).as_bytes().to_vec(),
        };
        self.forge(sender, Kind::Prepare, &body, attachment)
    }

    /// A prepare certificate by the three others.
    pub fn cert(&mut self, vote: Vote, batches: &[Hash]) -> wire::PrepareCert {
        let prepares = [1, 2, 3].map(|sender| self.prepare(sender, vote)).to_vec();
        PrepareCert { vote, prepares, batch_hashes: batches.to_vec() }.to_wire()
    }

    /// A session of two others and the own newest prepare.
    pub fn certify(&mut self, vote: Vote, batches: &[Hash]) {
        let mine = self.sent.iter().rev().find(|m| m.prepare().is_some_and(|p| p.vote == vote)).cloned();
        let mut signers = vec![self.prepare(1, vote), self.prepare(2, vote)];
        signers.extend(mine);
        let cert = PrepareCert { vote, prepares: signers.clone(), batch_hashes: batches.to_vec() }.to_wire();
        let signers = signers.iter().map(|signer| signer.envelope().clone()).collect();
        let leader = self.cluster.context.leader(vote.epoch, &BTreeSet::new());
        self.say(leader, Kind::Certify, &wire::Certify { cert: Some(cert), attempt: 1, signers });
    }

    pub fn prepared(&self, vote: Vote) -> bool {
        self.sent.iter().any(|message| message.prepare().is_some_and(|prepare| prepare.vote == vote))
    }

    pub fn shared(&self, vote: Vote) -> bool {
        self.sent.iter().any(|message| matches!(&message.body, Body::Share(share) if share.vote == vote))
    }

    /// Locks of the own grants for an epoch.
    pub fn granted(&self, epoch: u64) -> Vec<Option<PrepareCert>> {
        let grants = self.sent.iter().filter(|message| message.sender == ME).filter_map(|m| m.grant());
        grants.filter(|grant| grant.epoch == epoch).map(|grant| grant.lock.clone()).collect()
    }

    /// The group's certificate of the head after these batches, signed by 1, 2 and 3.
    pub fn signed(&self, batches: &[Batch]) -> Option<wire::Certificate> {
        let draft = self.decider.ledger().execute(batches).ok()?;
        let (ids, count) = (crate::session::message_ids(&draft), draft.messages.len());
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let (mut nonces, mut sessions) = (BTreeMap::new(), BTreeMap::new());
        for number in [1, 2, 3] {
            let (own, commitments) = commit_many(&self.cluster.share(number), count, &mut rng).unwrap();
            nonces.insert(number, own);
            sessions.insert(number, commitments);
        }
        let shares = nonces.into_iter().map(|(number, nonces)| {
            (number, sign_many(&self.cluster.share(number), nonces, &ids, &sessions).unwrap())
        });
        let shares = shares.collect();
        let keys = self.cluster.share(1).keys().clone();
        let signatures = aggregate_many(&keys, &ids, &sessions, &shares).unwrap();
        let log = draft.messages[0].signed(&signatures[0]).unwrap();
        Some(wire::Certificate {
            log_event: log.json().as_bytes().to_vec(),
            signatures: signatures.iter().map(|signature| signature.to_vec()).collect(),
        })
    }

    /// A claim to have said something so many flushes after what its disk knows.
    pub fn lost(&self, flushes: u64) -> wire::Claim {
        self.claim(ME, self.decider.status().seq + flushes)
    }

    /// A claim by a custodian to have reached a seq.
    pub fn claim(&self, sender: u16, seq: u64) -> wire::Claim {
        let message: Msg = self.cluster.forge(sender, seq, Kind::Nudge, &wire::Nudge {}, Vec::new());
        Message::claim(&message)
    }
}
