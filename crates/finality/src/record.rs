//! The safety record: the promises of one custodian, durable before anything that depends on them is sent (PROTOCOL 3, 7).
//!
//! All keys start with `f/`. `f/record` is the fixed part, rewritten whole; batches behind what it names lie beside it by
//! their hash and are written in the same atomic batch.

use std::collections::BTreeMap;

use concordat_events::ValidEvent;
use concordat_events::batch::{Batch, batch_hash};
use concordat_events::hash::Hash;
use concordat_events::head::Head;
use concordat_store::{Order, Store, StoreError, WriteBatch, after_prefix, scan_prefix};
use prost::Message as _;
use std::ops::Bound;

use crate::certified::{Certified, Published};
use crate::context::Context;
use crate::evidence::Evidence;
use crate::message::{CertifiedHead, PrepareCert, Vote};
use crate::read;
use crate::wire;

/// Where the signatures of a Resume lie.
pub(crate) const RESUME: &[u8] = b"f/resume";
/// Where the fixed part of the safety record stands; a custodian without it has none.
pub const RECORD: &[u8] = b"f/record";
const BATCHES: &[u8] = b"f/b/";
const CLAIMS: &[u8] = b"f/c/";
const EVIDENCE: &[u8] = b"f/e/";
const HEADS: &[u8] = b"f/h/";

/// Is the custodian in quarantine (PROTOCOL 8)?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Bar {
    /// No.
    #[default]
    None,
    /// Yes, and the reports that tell until when aren't in yet.
    Unknown,
    /// Until it holds a certificate of this height.
    Until(u64),
}

/// The promises of one custodian.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Raised by every flush.
    pub seq: u64,
    /// The epoch entered.
    pub epoch: u64,
    /// The process run in which it was entered.
    pub epoch_run: u64,
    /// How many process runs there were, this one included.
    pub run: u64,
    /// What it last voted for.
    pub prepared: Option<Vote>,
    /// The prepare certificate of the highest epoch that it knows for the next height.
    pub lock: Option<PrepareCert>,
    /// The last head that it gave a share for, with the session.
    pub shared: Option<(Vote, Hash)>,
    /// Quarantine.
    pub bar: Bar,
    /// Epochs entered since the last certificate.
    pub doublings: u32,
    /// Boot id of the kernel that the last run saw (the intact mark).
    pub boot: Vec<u8>,
    /// The batches behind its last vote.
    pub prepared_batches: Vec<Hash>,
    /// The highest epoch that it has signed a Resume for, with the hash of that one.
    pub resumed: Option<(u64, Hash)>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    epoch_run: u64,
    #[prost(uint64, tag = "4")]
    run: u64,
    #[prost(message, optional, tag = "5")]
    prepared: Option<wire::Again>,
    #[prost(message, optional, tag = "6")]
    lock: Option<wire::PrepareCert>,
    #[prost(message, optional, tag = "7")]
    shared: Option<wire::Again>,
    #[prost(bytes = "vec", tag = "8")]
    session: Vec<u8>,
    #[prost(uint64, optional, tag = "9")]
    bar: Option<u64>,
    #[prost(bool, tag = "10")]
    bar_unknown: bool,
    #[prost(uint32, tag = "11")]
    doublings: u32,
    #[prost(bytes = "vec", tag = "12")]
    boot: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "13")]
    prepared_batches: Vec<Vec<u8>>,
    #[prost(uint64, tag = "14")]
    resumed: u64,
    #[prost(bytes = "vec", tag = "15")]
    resume: Vec<u8>,
}

fn vote_to_wire(vote: &Vote) -> wire::Again {
    wire::Again { epoch: vote.epoch, height: vote.height, id: vote.id.as_bytes().to_vec() }
}

fn vote_from_wire(vote: &wire::Again) -> Option<Vote> {
    Some(Vote { epoch: vote.epoch, height: vote.height, id: Hash::from_slice(&vote.id)? })
}

fn corrupt(key: &[u8], message: impl ToString) -> StoreError {
    StoreError::Corrupt {
        key: key.iter().map(|b| format!("{b:02x}")).collect(),
        message: message.to_string(),
    }
}

impl Record {
    /// Reads the record; `None` if this custodian has none.
    pub fn load<S: Store>(store: &S, context: &Context) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = store.get(RECORD)? else { return Ok(None) };
        let stored = Stored::decode(bytes.as_slice()).map_err(|error| corrupt(RECORD, error))?;
        let vote = |vote: &Option<wire::Again>| match vote {
            None => Ok(None),
            Some(vote) => vote_from_wire(vote).map(Some).ok_or_else(|| corrupt(RECORD, "expected a vote")),
        };
        let lock = stored
            .lock
            .as_ref()
            .map(|cert| PrepareCert::from_wire(context, cert))
            .transpose()
            .map_err(|error| corrupt(RECORD, error))?;
        let session = Hash::from_slice(&stored.session).unwrap_or_default();
        Ok(Some(Record {
            seq: stored.seq,
            epoch: stored.epoch,
            epoch_run: stored.epoch_run,
            run: stored.run,
            prepared: vote(&stored.prepared)?,
            lock,
            shared: vote(&stored.shared)?.map(|vote| (vote, session)),
            bar: match (stored.bar_unknown, stored.bar) {
                (true, _) => Bar::Unknown,
                (false, Some(height)) => Bar::Until(height),
                (false, None) => Bar::None,
            },
            doublings: stored.doublings,
            boot: stored.boot,
            prepared_batches: stored
                .prepared_batches
                .iter()
                .filter_map(|hash| Hash::from_slice(hash))
                .collect(),
            resumed: Hash::from_slice(&stored.resume).map(|hash| (stored.resumed, hash)),
        }))
    }

    /// Writes the record.
    pub fn save(&self, batch: &mut WriteBatch) {
        let stored = Stored {
            seq: self.seq,
            epoch: self.epoch,
            epoch_run: self.epoch_run,
            run: self.run,
            prepared: self.prepared.as_ref().map(vote_to_wire),
            lock: self.lock.as_ref().map(PrepareCert::to_wire),
            shared: self.shared.as_ref().map(|(vote, _)| vote_to_wire(vote)),
            session: self.shared.as_ref().map(|(_, session)| session.as_bytes().to_vec()).unwrap_or_default(),
            bar: match self.bar {
                Bar::Until(height) => Some(height),
                _ => None,
            },
            bar_unknown: self.bar == Bar::Unknown,
            doublings: self.doublings,
            boot: self.boot.clone(),
            prepared_batches: self.prepared_batches.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
            resumed: self.resumed.map(|(epoch, _)| epoch).unwrap_or_default(),
            resume: self.resumed.map(|(_, hash)| hash.as_bytes().to_vec()).unwrap_or_default(),
        };
        batch.put(RECORD, stored.encode_to_vec());
    }

    /// The first record of a custodian, made by the key ceremony and by nothing else.
    pub fn first(boot: Vec<u8>) -> WriteBatch {
        let mut batch = WriteBatch::new();
        Record { seq: 1, boot, ..Record::default() }.save(&mut batch);
        batch
    }
}

fn hash_key(prefix: &[u8], hash: &Hash) -> Vec<u8> {
    [prefix, hash.as_bytes()].concat()
}

/// Where the certified head of a height is kept.
pub fn height_key(height: u64) -> Vec<u8> {
    [HEADS, &height.to_be_bytes()].concat()
}

/// Keeps a batch by its hash.
pub fn put_batch(writes: &mut WriteBatch, batch: &Batch) {
    writes.put(hash_key(BATCHES, &batch.hash()), read::batch_to_wire(batch).encode_to_vec());
}

/// Forgets all kept batches: the height that they belong to is certified.
pub fn drop_batches(writes: &mut WriteBatch) {
    if let Some(end) = after_prefix(BATCHES) {
        writes.delete_range(BATCHES, end);
    }
}

/// A kept batch.
pub fn get_batch<S: Store>(store: &S, context: &Context, hash: &Hash) -> Result<Option<Batch>, StoreError> {
    let key = hash_key(BATCHES, hash);
    let Some(bytes) = store.get(&key)? else { return Ok(None) };
    let batch = wire::Batch::decode(bytes.as_slice()).map_err(|error| corrupt(&key, error))?;
    read::batch_from_wire(context, &batch).map(Some).map_err(|error| corrupt(&key, error))
}

/// Keeps a certified head with its batches and with everything that it lets out.
pub(crate) fn put_head(writes: &mut WriteBatch, head: &CertifiedHead, events: &[ValidEvent]) {
    let stored = wire::CertifiedHead {
        certificate: Some(head.certificate.to_wire()),
        batches: head.batches.iter().map(read::batch_to_wire).collect(),
        events: events.iter().map(|event| event.json().as_bytes().to_vec()).collect(),
    };
    writes.put(height_key(head.certificate.head.height), stored.encode_to_vec());
}

/// The certified head of a height, as stored.
pub fn get_head_bytes<S: Store>(store: &S, height: u64) -> Result<Option<wire::CertifiedHead>, StoreError> {
    let key = height_key(height);
    let Some(bytes) = store.get(&key)? else { return Ok(None) };
    wire::CertifiedHead::decode(bytes.as_slice()).map(Some).map_err(|error| corrupt(&key, error))
}

/// The certified head of a height.
pub fn get_head<S: Store>(
    store: &S,
    context: &Context,
    height: u64,
) -> Result<Option<CertifiedHead>, StoreError> {
    let Some(stored) = get_head_bytes(store, height)? else { return Ok(None) };
    CertifiedHead::from_wire(context, &stored).map(Some).map_err(|error| corrupt(&height_key(height), error))
}

/// Everything that the head of a height lets out, as it was certified. What is on the own disk was verified before it was
/// written, and is verified again.
pub fn published<S: Store>(
    store: &S,
    context: &Context,
    height: u64,
) -> Result<Option<Certified<Published>>, StoreError> {
    let Some(stored) = get_head_bytes(store, height)? else { return Ok(None) };
    let key = height_key(height);
    let head = CertifiedHead::from_wire(context, &stored).map_err(|error| corrupt(&key, error))?;
    let mut events = Vec::new();
    for bytes in &stored.events {
        let event = ValidEvent::parse(bytes).map_err(|error| corrupt(&key, error))?;
        if event.author() != context.group() {
            return Err(corrupt(&key, "expected events of the group"));
        }
        events.push(event);
    }
    let requests = head.batches.into_iter().flat_map(|batch| batch.requests).collect();
    Ok(Some(Certified::new(Published { head: head.certificate.head, events, requests })))
}

/// Hashes of the batches behind the certified head of a height: its log event alone tells, so that a long epoch's heads are
/// read fast.
pub fn batches_of<S: Store>(store: &S, height: u64) -> Result<Option<Vec<Hash>>, StoreError> {
    let Some(stored) = get_head_bytes(store, height)? else { return Ok(None) };
    let key = height_key(height);
    let log = stored.certificate.map(|certificate| certificate.log_event).unwrap_or_default();
    let log = ValidEvent::parse(&log).map_err(|error| corrupt(&key, error))?;
    let head = Head::from_log_event(&log).map_err(|error| corrupt(&key, error))?;
    let mut ids = head.outcomes.iter().map(|(id, _)| *id);
    let hashes = head.batches.iter().map(|(time_ms, count)| {
        let count = usize::try_from(*count).unwrap_or(usize::MAX);
        batch_hash(*time_ms, ids.by_ref().take(count).collect::<Vec<_>>().into_iter())
    });
    Ok(Some(hashes.collect()))
}

/// The highest certified head.
pub fn last_head<S: Store>(store: &S, context: &Context) -> Result<Option<CertifiedHead>, StoreError> {
    let end = after_prefix(HEADS).unwrap_or_default();
    let last = store.scan(Bound::Included(HEADS), Bound::Excluded(&end), Order::Descending, 1)?;
    let Some((key, bytes)) = last.into_iter().next() else { return Ok(None) };
    let stored = wire::CertifiedHead::decode(bytes.as_slice()).map_err(|error| corrupt(&key, error))?;
    CertifiedHead::from_wire(context, &stored).map(Some).map_err(|error| corrupt(&key, error))
}

/// Forgets what counts under one roster only: claims and evidence, the running epoch's opening and what its leader had made.
pub(crate) fn drop_roster(writes: &mut WriteBatch) {
    for prefix in [CLAIMS, EVIDENCE] {
        if let Some(end) = after_prefix(prefix) {
            writes.delete_range(prefix, end);
        }
    }
    for key in [b"f/opening".as_slice(), b"f/entry", b"f/proposal", RESUME] {
        writes.delete(key);
    }
}

/// Keeps a peer's claim to its highest seq.
pub fn put_claim(writes: &mut WriteBatch, claim: &wire::Claim) {
    writes.put([CLAIMS, &claim.sender.to_be_bytes()].concat(), claim.encode_to_vec());
}

/// All kept claims by sender.
pub fn claims<S: Store>(store: &S) -> Result<BTreeMap<u16, wire::Claim>, StoreError> {
    let mut claims = BTreeMap::new();
    for (key, bytes) in scan_prefix(store, CLAIMS, usize::from(u16::MAX))? {
        let claim = wire::Claim::decode(bytes.as_slice()).map_err(|error| corrupt(&key, error))?;
        claims.insert(u16::try_from(claim.sender).unwrap_or_default(), claim);
    }
    Ok(claims)
}

/// Keeps evidence.
pub fn put_evidence(writes: &mut WriteBatch, evidence: &Evidence) {
    writes.put(
        [EVIDENCE, &evidence.finding.culprit.to_be_bytes()].concat(),
        evidence.to_wire().encode_to_vec(),
    );
}

/// All kept evidence by signer.
pub fn evidence<S: Store>(store: &S, context: &Context) -> Result<BTreeMap<u16, Evidence>, StoreError> {
    let mut all = BTreeMap::new();
    for (key, bytes) in scan_prefix(store, EVIDENCE, usize::from(u16::MAX))? {
        let stored = wire::Evidence::decode(bytes.as_slice()).map_err(|error| corrupt(&key, error))?;
        let evidence = Evidence::read(context, &stored).map_err(|error| corrupt(&key, error))?;
        all.insert(evidence.finding.culprit, evidence);
    }
    Ok(all)
}

/// What a stored record promises, read without checking the signatures in it: for whoever watches, never for the core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// Its `seq`.
    pub seq: u64,
    /// The epoch entered.
    pub epoch: u64,
    /// What it last voted for.
    pub prepared: Option<Vote>,
    /// Its lock's vote.
    pub lock: Option<Vote>,
    /// The last head that it gave a share for.
    pub shared: Option<Vote>,
    /// Is it in quarantine?
    pub barred: bool,
}

/// Reads the bytes under [`RECORD`]. Nothing if there are none, or they are no record.
pub fn glance(bytes: Option<&[u8]>) -> Option<Glance> {
    let stored = Stored::decode(bytes?).ok()?;
    let vote = |vote: &Option<wire::Again>| vote.as_ref().and_then(vote_from_wire);
    let lock = stored.lock.as_ref().and_then(|cert| {
        Some(Vote { epoch: cert.epoch, height: cert.height, id: Hash::from_slice(&cert.id)? })
    });
    Some(Glance {
        seq: stored.seq,
        epoch: stored.epoch,
        prepared: vote(&stored.prepared),
        lock,
        shared: vote(&stored.shared),
        barred: stored.bar_unknown || stored.bar.is_some(),
    })
}
