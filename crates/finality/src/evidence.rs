//! Evidence: what a custodian signed and no honest one signs (PROTOCOL 5). It is durable, passed on, bounded (one piece for
//! each custodian), and checked by anybody who has the genesis.

use concordat_events::batch::batch_hash;
use concordat_events::hash::Hash;
use concordat_events::limits::{MAX_INTEGER, REQUESTS_PER_HEAD};
use concordat_store::Store;
use prost::Message as _;
use std::collections::BTreeSet;

use crate::context::Context;
use crate::core::{Core, Then};
use crate::effect::Alarm;
use crate::limits::{EVIDENCE_BYTES, SLOT_BODY_BYTES};
use crate::message::{Body, Kind, Message, authenticate};
use crate::record;
use crate::repeat::Slot;
use crate::rules::{Rule, Rules};
use crate::wire;

/// Messages of one signer that show its fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// What they show.
    pub finding: Finding,
    /// The messages, without what the proof doesn't need.
    envelopes: Vec<wire::Envelope>,
}

/// What evidence shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Who signed it.
    pub culprit: u16,
    /// What is wrong.
    pub fault: Fault,
    /// In which epoch.
    pub epoch: u64,
    /// At which height, or for log entries at which number.
    pub place: u64,
}

/// A fault that no honest custodian commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Two entries with one number.
    Wrappers,
    /// Two proposals for one height in one epoch.
    Proposals,
    /// Two votes for one height in one epoch.
    Prepares,
    /// Two starts of one epoch.
    Starts,
    /// A batch that is invalid whatever the clock: too many requests, one of them twice, a time that no number carries, or
    /// one below that of the batch before.
    Batch,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Fault::Wrappers => "two log entries with one number",
            Fault::Proposals => "two proposals for one height in one epoch",
            Fault::Prepares => "two votes for one height in one epoch",
            Fault::Starts => "two starts of one epoch",
            Fault::Batch => "a batch that is invalid whatever the clock",
        })
    }
}

/// Why bytes are no evidence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Not the form of evidence, or larger than any.
    #[error("not evidence: {0}")]
    Malformed(String),
    /// A message in it isn't by a custodian of this cluster.
    #[error("a message in it isn't signed by a custodian of this cluster: {0}")]
    Message(#[from] crate::message::MessageError),
    /// The messages don't contradict each other.
    #[error("its messages show no fault: an honest custodian may sign them")]
    NoFault,
}

/// Checks what [`Evidence::export`] gave. `context` follows from the genesis alone.
///
/// # Errors
/// See [`EvidenceError`].
pub fn check(context: &Context, bytes: &[u8]) -> Result<Finding, EvidenceError> {
    if bytes.len() > EVIDENCE_BYTES {
        return Err(EvidenceError::Malformed(format!("{} bytes; at most {EVIDENCE_BYTES}", bytes.len())));
    }
    let body: wire::Evidence =
        wire::decode(bytes).map_err(|error| EvidenceError::Malformed(error.to_string()))?;
    Ok(Evidence::read(context, &body)?.finding)
}

/// What a batch's hash covers: enough to tell that it is invalid.
struct Outline {
    time_ms: u64,
    ids: Vec<Hash>,
}

impl Outline {
    /// The outline attached to an entry, if it is that of the batch which the entry signs.
    fn of(envelope: &wire::Envelope, signed: &[u8]) -> Option<Self> {
        let body: wire::Outline = wire::decode(&envelope.attachment).ok()?;
        let (ids, rest) = body.ids.as_chunks::<32>();
        let ids: Vec<Hash> = ids.iter().map(|id| Hash::from_bytes(*id)).collect();
        let outline = Outline { time_ms: body.time_ms, ids };
        let hash = batch_hash(outline.time_ms, outline.ids.iter().copied());
        (rest.is_empty() && hash.as_bytes().as_slice() == signed).then_some(outline)
    }

    fn invalid(&self) -> bool {
        let mut seen = BTreeSet::new();
        self.ids.len() > REQUESTS_PER_HEAD
            || self.time_ms > MAX_INTEGER.unsigned_abs()
            || !self.ids.iter().all(|id| seen.insert(id))
    }
}

/// The place for which a custodian signs one message, and what it says there.
fn slot(kind: Kind, envelope: &wire::Envelope) -> Option<(u64, u64, Vec<u8>)> {
    let bytes = envelope.body.as_slice();
    if bytes.len() > SLOT_BODY_BYTES {
        return None;
    }
    Some(match kind {
        Kind::Wrapper => {
            let w: wire::Wrapper = wire::decode(bytes).ok()?;
            (w.epoch, w.number, [w.previous, w.batch].concat())
        }
        Kind::Propose => {
            let p: wire::Propose = wire::decode(bytes).ok()?;
            (p.epoch, p.height, [p.id, p.number.to_be_bytes().to_vec()].concat())
        }
        Kind::Prepare => {
            let p: wire::Prepare = wire::decode(bytes).ok()?;
            (p.epoch, p.height, p.id)
        }
        Kind::EpochStart => {
            let s: wire::EpochStart = wire::decode(bytes).ok()?;
            (s.epoch, 0, s.opening)
        }
        _ => return None,
    })
}

/// One entry whose batch is invalid by itself.
fn invalid_batch(context: &Context, entry: &wire::Envelope) -> Result<Evidence, EvidenceError> {
    let (culprit, kind, _) = authenticate(context, entry)?;
    let wrapper: wire::Wrapper = wire::decode(&entry.body)
        .ok()
        .filter(|_| kind == Kind::Wrapper && entry.body.len() <= SLOT_BODY_BYTES)
        .ok_or(EvidenceError::NoFault)?;
    match Outline::of(entry, &wrapper.batch) {
        Some(outline) if outline.invalid() => Ok(Evidence {
            finding: Finding { culprit, fault: Fault::Batch, epoch: wrapper.epoch, place: wrapper.number },
            envelopes: vec![entry.clone()],
        }),
        _ => Err(EvidenceError::NoFault),
    }
}

/// Two messages of one signer that contradict each other. Signatures are checked.
fn contradiction(
    context: &Context,
    first: &wire::Envelope,
    second: &wire::Envelope,
) -> Result<Evidence, EvidenceError> {
    let (culprit, kind, digest) = authenticate(context, first)?;
    let (other, other_kind, other_digest) = authenticate(context, second)?;
    if culprit != other || kind != other_kind || digest == other_digest {
        return Err(EvidenceError::NoFault);
    }
    let (a, b) = slot(kind, first).zip(slot(kind, second)).ok_or(EvidenceError::NoFault)?;
    let found = |fault, envelopes| Evidence {
        finding: Finding { culprit, fault, epoch: b.0, place: b.1 },
        envelopes,
    };
    if (a.0, a.1) == (b.0, b.1) && a.2 != b.2 {
        let fault = match kind {
            Kind::Wrapper => Fault::Wrappers,
            Kind::Propose => Fault::Proposals,
            Kind::Prepare => Fault::Prepares,
            _ => Fault::Starts,
        };
        return Ok(found(fault, vec![bare(first), bare(second)]));
    }
    if kind == Kind::Wrapper && time_falls(first, second, &digest) {
        return Ok(found(Fault::Batch, vec![first.clone(), second.clone()]));
    }
    Err(EvidenceError::NoFault)
}

/// Does the second entry name the first as the one before it, and lie before it in time?
fn time_falls(first: &wire::Envelope, second: &wire::Envelope, digest: &Hash) -> bool {
    let read = |envelope: &wire::Envelope| {
        let wrapper: wire::Wrapper = wire::decode(&envelope.body).ok()?;
        let outline = Outline::of(envelope, &wrapper.batch)?;
        Some((wrapper, outline))
    };
    let Some(((before, earlier), (after, later))) = read(first).zip(read(second)) else { return false };
    before.epoch == after.epoch
        && after.previous.as_slice() == digest.as_bytes().as_slice()
        && later.time_ms < earlier.time_ms
}

fn bare(envelope: &wire::Envelope) -> wire::Envelope {
    wire::Envelope { attachment: Vec::new(), ..envelope.clone() }
}

impl Evidence {
    /// The bytes to store or send.
    pub(crate) fn to_wire(&self) -> wire::Evidence {
        wire::Evidence { messages: self.envelopes.clone() }
    }

    /// The signed messages, for anybody: see [`check`].
    pub fn export(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Reads and checks evidence.
    pub(crate) fn read(context: &Context, body: &wire::Evidence) -> Result<Self, EvidenceError> {
        if body.encoded_len() > EVIDENCE_BYTES {
            return Err(EvidenceError::Malformed(format!("more than {EVIDENCE_BYTES} bytes")));
        }
        match body.messages.as_slice() {
            [entry] => invalid_batch(context, entry),
            [first, second] => contradiction(context, first, second),
            other => {
                Err(EvidenceError::Malformed(format!("{} messages; one or two show a fault", other.len())))
            }
        }
    }
}

/// A message as it may become evidence: an entry keeps its batch's time and ids, everything else stands for itself.
fn as_evidence(message: &Message) -> wire::Envelope {
    let mut envelope = message.bare();
    if let Body::Wrapper(wrapper) = &message.body
        && let Some(batch) = &wrapper.batch
    {
        let ids = batch.requests.iter().flat_map(|request| *request.id().as_bytes()).collect();
        envelope.attachment = wire::Outline { time_ms: batch.time_ms, ids }.encode_to_vec();
    }
    envelope
}

impl<S: Store, R: Rules> Core<S, R> {
    /// Compares a message with what its sender said before in the same place.
    pub(crate) fn witness(&mut self, message: &Message) {
        if !matches!(message.kind(), Kind::Propose | Kind::Prepare | Kind::Wrapper | Kind::EpochStart) {
            return;
        }
        let envelope = as_evidence(message);
        if message.kind() == Kind::Wrapper
            && let Ok(evidence) = invalid_batch(&self.context, &envelope)
        {
            return self.accept_evidence(evidence);
        }
        let key = (message.sender, message.kind());
        if let Some(before) = self.witnessed.get(&key)
            && before.body != envelope.body
            && let Ok(evidence) = contradiction(&self.context, before, &envelope)
        {
            return self.accept_evidence(evidence);
        }
        self.witnessed.insert(key, envelope);
    }

    /// Evidence is durable, passed on, and names its signer for as long as the roster lasts.
    pub(crate) fn accept_evidence(&mut self, evidence: Evidence) {
        let led = self.leader() == evidence.finding.culprit || !R::keeps(Rule::EvidenceEndsOwnEpoch);
        // It ends an epoch at once only if its signer leads it.
        if self.keep_evidence(evidence) && led && self.start.running() {
            self.enter(self.record.epoch + 1);
            self.out.then.push(Then::Grant);
        }
    }

    /// Keeps evidence and passes it on. `false` if its signer was named before.
    pub(crate) fn keep_evidence(&mut self, evidence: Evidence) -> bool {
        let Finding { culprit, fault, .. } = evidence.finding;
        if self.evidence.contains_key(&culprit) {
            return false;
        }
        record::put_evidence(&mut self.out.writes, &evidence);
        self.durable();
        self.alarm(Alarm::Evidence { culprit, fault });
        if let Some(message) = self.seal(Kind::Evidence, &evidence.to_wire(), Vec::new()) {
            self.send_others(&message);
            let (now, timeout) = (self.now.mono_ms, self.timeout());
            self.repeats.set(Slot::Evidence(culprit), message, None, now, timeout);
        }
        self.evidence.insert(culprit, evidence);
        true
    }
}
