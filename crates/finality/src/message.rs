//! Messages between custodians, checked whole: a [`Message`] exists only with a good signature of a roster member over its
//! exact bytes, and everything nested in it has been checked the same way.

use std::collections::BTreeSet;
use std::sync::Arc;

use concordat_events::batch::Batch;
use concordat_events::hash::{Hash, tagged};
use concordat_events::head::{Head, HeadError};
use concordat_events::{EventError, ValidEvent};
use concordat_threshold::{Commitment, Share};
use prost::Message as _;

use crate::context::{Context, Identity};
use crate::limits::ENVELOPE_BYTES;
use crate::wire;

/// A checked message. Cheap to clone through [`Msg`].
#[derive(Debug)]
pub struct Message {
    /// Who signed it.
    pub sender: u16,
    /// Its sender's flush counter.
    pub seq: u64,
    /// What was signed.
    pub digest: Hash,
    /// What it says.
    pub body: Body,
    /// The bytes as they came.
    envelope: wire::Envelope,
}

/// A shared [`Message`].
pub type Msg = Arc<Message>;

/// What a message says. Fields are those of `consensus.proto`, parsed.
#[derive(Debug)]
pub enum Body {
    /// New requests for the pool.
    Requests(Vec<ValidEvent>),
    /// An entry of the epoch's log.
    Wrapper(Wrapper),
    /// The leader proposes a head.
    Propose(Propose),
    /// First round: a vote and nonce commitments.
    Prepare(Prepare),
    /// A prepare certificate and the session that signs it.
    Certify(Certify),
    /// A lock that travels.
    Lock(PrepareCert),
    /// A custodian doesn't prepare what was proposed.
    Refuse(Refuse),
    /// Prepares that show that others saw a batch in time.
    Shown(Vec<Msg>),
    /// Second round: signature shares.
    Share(ShareMsg),
    /// The leader asks for fresh commitments.
    Again(Vote),
    /// The group's signatures.
    Certificate(Certificate),
    /// A custodian wants the epoch to end.
    Complaint(Complaint),
    /// A custodian has entered an epoch.
    Grant(Grant),
    /// The first entry of an epoch's log.
    EpochStart(EpochStart),
    /// Proof that a custodian broke the protocol.
    Evidence(Evidence),
    /// A starting custodian asks for what is known of it.
    Question([u8; 32]),
    /// The answer.
    Answer(Answer),
    /// Asks for certified heads.
    FetchHeads(u64),
    /// Certified heads with their batches.
    Heads(Vec<CertifiedHead>),
    /// Asks for batches by hash.
    FetchBatches(Vec<Hash>),
    /// Batches.
    Batches(Vec<Batch>),
    /// A custodian in quarantine asks the leader for empty batches.
    Nudge,
}

/// A head in the votes of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vote {
    /// The epoch.
    pub epoch: u64,
    /// The height.
    pub height: u64,
    /// The head's id.
    pub id: Hash,
}

/// See [`Body::Wrapper`].
#[derive(Debug)]
pub struct Wrapper {
    /// The epoch.
    pub epoch: u64,
    /// Its place in the epoch's log, from 1.
    pub number: u64,
    /// Digest of the entry before.
    pub previous: Hash,
    /// Hash of the batch.
    pub hash: Hash,
    /// The batch; `None` in evidence, which needs only what is signed.
    pub batch: Option<Batch>,
}

/// See [`Body::Propose`].
#[derive(Debug)]
pub struct Propose {
    /// The head.
    pub vote: Vote,
    /// The last batch that it covers.
    pub number: u64,
}

/// See [`Body::Prepare`].
#[derive(Debug)]
pub struct Prepare {
    /// The head.
    pub vote: Vote,
    /// Hash of the commitments.
    pub hash: Hash,
    /// The commitments; empty where only the vote counts.
    pub commitments: Vec<Commitment>,
}

/// q prepares for one head (PROTOCOL 4.5).
#[derive(Clone, Debug)]
pub struct PrepareCert {
    /// The head.
    pub vote: Vote,
    /// The prepares, by distinct custodians.
    pub prepares: Vec<Msg>,
    /// The batches that rebuild the head. A hint: the head's id decides.
    pub batch_hashes: Vec<Hash>,
}

/// See [`Body::Certify`].
#[derive(Debug)]
pub struct Certify {
    /// The prepare certificate.
    pub cert: PrepareCert,
    /// Which session for it, from 1.
    pub attempt: u32,
    /// The prepares of exactly t custodians, with their commitments.
    pub signers: Vec<Msg>,
    /// The session's id.
    pub session: Hash,
}

/// Why a custodian refuses to prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseReason {
    /// It has shared another id at this height.
    OwnShare,
    /// The batch was too old when it came.
    Old,
    /// It computes another id.
    OtherId,
    /// The epoch's start forces another id.
    Forced,
}

/// See [`Body::Refuse`].
#[derive(Debug)]
pub struct Refuse {
    /// What it refuses.
    pub vote: Vote,
    /// Why.
    pub reason: RefuseReason,
    /// Its lock, if it has one for this height.
    pub lock: Option<PrepareCert>,
}

/// See [`Body::Share`].
#[derive(Debug)]
pub struct ShareMsg {
    /// The head.
    pub vote: Vote,
    /// The session.
    pub session: Hash,
    /// One share per message of the head.
    pub shares: Vec<Share>,
}

/// The group's signatures on everything that a head determines.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The signed log event.
    pub log: ValidEvent,
    /// The head that it holds.
    pub head: Head,
    /// Signatures of all messages of the head, the log event's first.
    pub signatures: Vec<[u8; 64]>,
}

/// A certified head with what rebuilds it.
#[derive(Clone, Debug)]
pub struct CertifiedHead {
    /// Its certificate.
    pub certificate: Certificate,
    /// Its batches.
    pub batches: Vec<Batch>,
}

/// Why a custodian complains (PROTOCOL 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The opening is there, the leader's EpochStart isn't.
    NoStart,
    /// Something is uncertified for too long.
    NoCertificate,
    /// A request has been passed over.
    Overdue,
    /// The leader can't be reached.
    Unreachable,
    /// The leader says itself that it can't lead.
    Resigned,
    /// The epoch has lasted long enough.
    Old,
    /// The leader is named by evidence.
    Evidence,
}

/// See [`Body::Complaint`].
#[derive(Debug)]
pub struct Complaint {
    /// The epoch.
    pub epoch: u64,
    /// Why.
    pub cause: Cause,
    /// The height that its sender waits for.
    pub next_height: u64,
    /// Grants that open the epoch, as far as attached.
    pub opening: Vec<Msg>,
}

/// See [`Body::Grant`].
#[derive(Debug)]
pub struct Grant {
    /// The epoch entered.
    pub epoch: u64,
    /// The highest certified head, by its signed log event.
    pub certified: Option<(ValidEvent, Head)>,
    /// The lock for the height after it.
    pub lock: Option<PrepareCert>,
    /// Evidence that its sender has accepted.
    pub evidence: Vec<Evidence>,
    /// Complaints that bound its sender, as far as attached.
    pub complaints: Vec<Msg>,
}

/// See [`Body::EpochStart`].
#[derive(Debug)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: u64,
    /// The grants: at least q, distinct; none for epoch 0.
    pub grants: Vec<Msg>,
    /// Evidence against each custodian that was skipped.
    pub evidence: Vec<Evidence>,
}

/// Two messages of one signer that no honest custodian signs (PROTOCOL 5).
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Who signed both.
    pub signer: u16,
    /// What is contradictory.
    pub fault: Fault,
    /// The messages.
    pub envelopes: [wire::Envelope; 2],
}

/// What evidence shows.
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
}

/// See [`Body::Answer`].
#[derive(Debug)]
pub struct Answer {
    /// The question's number.
    pub nonce: [u8; 32],
    /// The highest seq known of the asker, shown by its own signature.
    pub highest: Option<u64>,
    /// The sender's certified head.
    pub certified: Option<(ValidEvent, Head)>,
    /// Is the sender in quarantine?
    pub quarantined: bool,
    /// Is the sender's own check still running?
    pub starting: bool,
    /// Does the sender's intact mark hold?
    pub intact: bool,
}

/// Why bytes from a peer are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not decodable.
    #[error("not a message: {0}")]
    Malformed(String),
    /// Too large.
    #[error("message of {got} bytes; at most {ENVELOPE_BYTES} are taken")]
    TooLarge {
        /// Its size.
        got: usize,
    },
    /// Not in the roster.
    #[error("custodian {sender} isn't in the roster")]
    Stranger {
        /// Who it claims to be.
        sender: u16,
    },
    /// The signature doesn't verify.
    #[error("the signature doesn't verify under custodian {sender}'s identity key")]
    Signature {
        /// Who it claims to be.
        sender: u16,
    },
    /// Signed by another than the channel says, where only the sender itself may speak.
    #[error("custodian {channel} sent a message signed by custodian {sender}")]
    WrongSender {
        /// Whose connection it came over.
        channel: u16,
        /// Who signed it.
        sender: u16,
    },
    /// A nested message or field isn't what the protocol allows.
    #[error("custodian {sender}: {what}")]
    Invalid {
        /// Who signed it.
        sender: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// An event in it is refused.
    #[error("custodian {sender}: {error}")]
    Event {
        /// Who signed it.
        sender: u16,
        /// What is wrong.
        error: EventError,
    },
    /// A head in it is refused.
    #[error("custodian {sender}: {error}")]
    Head {
        /// Who signed it.
        sender: u16,
        /// What is wrong.
        error: HeadError,
    },
}

macro_rules! kinds {
    ($($name:ident = $number:literal),+ $(,)?) => {
        /// The number by which an envelope names its body. Never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        #[allow(missing_docs, reason = "named after the variants of Body")]
        pub enum Kind { $($name = $number),+ }

        impl Kind {
            fn read(number: u32) -> Option<Self> {
                match number { $($number => Some(Kind::$name),)+ _ => None }
            }
        }

        impl Message {
            /// The kind.
            pub fn kind(&self) -> Kind {
                match &self.body { $(Body::$name { .. } => Kind::$name),+ }
            }
        }
    };
}

kinds! {
    Requests = 1, Wrapper = 2, Propose = 3, Prepare = 4, Certify = 5, Lock = 6, Refuse = 7, Shown = 8, Share = 9,
    Again = 10, Certificate = 11, Complaint = 12, Grant = 13, EpochStart = 14, Evidence = 15, Question = 16,
    Answer = 17, FetchHeads = 18, Heads = 19, FetchBatches = 20, Batches = 21, Nudge = 22,
}

/// The hash of a body's exact bytes.
fn body_hash(body: &[u8]) -> Hash {
    tagged("concordat/body", &[body])
}

/// The hash by which a body binds its attachment.
pub(crate) fn attachment_hash(bytes: &[u8]) -> Hash {
    tagged("concordat/attachment", &[bytes])
}

/// Signs a message.
pub(crate) fn seal(
    context: &Context,
    identity: &dyn Identity,
    sender: u16,
    seq: u64,
    kind: Kind,
    body: Vec<u8>,
    attachment: Vec<u8>,
) -> wire::Envelope {
    let digest = context.digest(sender, seq, kind as u32, &body_hash(&body));
    let signature = identity.sign(&digest).to_vec();
    wire::Envelope { sender: sender.into(), seq, kind: kind as u32, body, signature, attachment }
}

impl Message {
    /// Reads and checks the bytes that came over custodian `channel`'s connection.
    pub fn receive(context: &Context, channel: u16, bytes: &[u8]) -> Result<Msg, MessageError> {
        if bytes.len() > ENVELOPE_BYTES {
            return Err(MessageError::TooLarge { got: bytes.len() });
        }
        let envelope = wire::Envelope::decode(bytes).map_err(malformed)?;
        let message = Self::check(context, envelope)?;
        if message.sender != channel && !message.may_be_passed_on() {
            return Err(MessageError::WrongSender { channel, sender: message.sender });
        }
        Ok(message)
    }

    /// Checks an envelope, wherever it stood.
    pub fn check(context: &Context, envelope: wire::Envelope) -> Result<Msg, MessageError> {
        let (sender, kind, digest) = authenticate(context, &envelope)?;
        let body = Reader { context, sender }.body(kind, &envelope)?;
        Ok(Arc::new(Message { sender, seq: envelope.seq, digest, body, envelope }))
    }

    /// A message that this custodian has just signed.
    pub(crate) fn own(context: &Context, me: u16, envelope: wire::Envelope, body: Body) -> Msg {
        let digest = context.digest(me, envelope.seq, envelope.kind, &body_hash(&envelope.body));
        Arc::new(Message { sender: me, seq: envelope.seq, digest, body, envelope })
    }

    /// Proofs are worth the same whoever brings them; everything else only from its signer.
    fn may_be_passed_on(&self) -> bool {
        matches!(self.kind(), Kind::Complaint | Kind::Grant | Kind::Evidence)
    }

    /// The envelope as it came.
    pub fn envelope(&self) -> &wire::Envelope {
        &self.envelope
    }

    /// The bytes to send or store.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.envelope.encode_to_vec()
    }

    /// The envelope without its attachment, for certificates.
    pub(crate) fn bare(&self) -> wire::Envelope {
        wire::Envelope { attachment: Vec::new(), ..self.envelope.clone() }
    }

    /// The sender's claim to have reached this seq.
    pub(crate) fn claim(&self) -> wire::Claim {
        wire::Claim {
            sender: self.sender.into(),
            seq: self.seq,
            kind: self.envelope.kind,
            body_hash: body_hash(&self.envelope.body).as_bytes().to_vec(),
            signature: self.envelope.signature.clone(),
        }
    }

    /// The prepare's vote, if it is one.
    pub(crate) fn prepare(&self) -> Option<&Prepare> {
        match &self.body {
            Body::Prepare(prepare) => Some(prepare),
            _ => None,
        }
    }

    /// The grant, if it is one.
    pub(crate) fn grant(&self) -> Option<&Grant> {
        match &self.body {
            Body::Grant(grant) => Some(grant),
            _ => None,
        }
    }
}

/// Who signed an envelope, and that it did.
fn authenticate(context: &Context, envelope: &wire::Envelope) -> Result<(u16, Kind, Hash), MessageError> {
    let sender = u16::try_from(envelope.sender).unwrap_or_default();
    let kind = Kind::read(envelope.kind)
        .ok_or_else(|| MessageError::Malformed(format!("kind {} is unknown", envelope.kind)))?;
    let digest = context.digest(sender, envelope.seq, envelope.kind, &body_hash(&envelope.body));
    context.verify(sender, &digest, &envelope.signature)?;
    Ok((sender, kind, digest))
}

/// Checks a claim; gives its seq.
pub(crate) fn check_claim(context: &Context, sender: u16, claim: &wire::Claim) -> Option<u64> {
    let hash = Hash::from_slice(&claim.body_hash)?;
    let digest = context.digest(sender, claim.seq, claim.kind, &hash);
    (claim.sender == u32::from(sender) && context.verify(sender, &digest, &claim.signature).is_ok())
        .then_some(claim.seq)
}

fn malformed(error: impl std::fmt::Display) -> MessageError {
    MessageError::Malformed(error.to_string())
}

/// Reads bodies signed by one custodian.
struct Reader<'a> {
    context: &'a Context,
    sender: u16,
}

impl Reader<'_> {
    fn invalid(&self, what: &'static str) -> MessageError {
        MessageError::Invalid { sender: self.sender, what }
    }

    fn hash(&self, bytes: &[u8]) -> Result<Hash, MessageError> {
        Hash::from_slice(bytes).ok_or_else(|| self.invalid("a hash hasn't 32 bytes"))
    }

    fn event(&self, bytes: &[u8]) -> Result<ValidEvent, MessageError> {
        ValidEvent::parse(bytes).map_err(|error| MessageError::Event { sender: self.sender, error })
    }

    fn events(&self, list: &[Vec<u8>]) -> Result<Vec<ValidEvent>, MessageError> {
        list.iter().map(|bytes| self.event(bytes)).collect()
    }

    fn decode<T: prost::Message + Default>(&self, bytes: &[u8]) -> Result<T, MessageError> {
        T::decode(bytes).map_err(malformed)
    }

    fn vote(&self, epoch: u64, height: u64, id: &[u8]) -> Result<Vote, MessageError> {
        Ok(Vote { epoch, height, id: self.hash(id)? })
    }

    fn body(&self, kind: Kind, envelope: &wire::Envelope) -> Result<Body, MessageError> {
        let bytes = envelope.body.as_slice();
        Ok(match kind {
            Kind::Requests => {
                let body: wire::Requests = self.decode(bytes)?;
                Body::Requests(self.events(&body.events)?)
            }
            Kind::Wrapper => Body::Wrapper(self.wrapper(bytes, &envelope.attachment)?),
            Kind::Propose => {
                let body: wire::Propose = self.decode(bytes)?;
                Body::Propose(Propose {
                    vote: self.vote(body.epoch, body.height, &body.id)?,
                    number: body.number,
                })
            }
            Kind::Prepare => Body::Prepare(self.prepare(bytes, &envelope.attachment)?),
            Kind::Certify => Body::Certify(self.certify(bytes)?),
            Kind::Lock => {
                let body: wire::Lock = self.decode(bytes)?;
                Body::Lock(self.cert(&body.cert.ok_or_else(|| self.invalid("a lock without certificate"))?)?)
            }
            Kind::Refuse => {
                let body: wire::Refuse = self.decode(bytes)?;
                let reason = match body.reason {
                    1 => RefuseReason::OwnShare,
                    2 => RefuseReason::Old,
                    3 => RefuseReason::OtherId,
                    4 => RefuseReason::Forced,
                    _ => return Err(self.invalid("refuses for an unknown reason")),
                };
                let lock = body.lock.as_ref().map(|lock| self.cert(lock)).transpose()?;
                Body::Refuse(Refuse { vote: self.vote(body.epoch, body.height, &body.id)?, reason, lock })
            }
            Kind::Shown => {
                let body: wire::Shown = self.decode(bytes)?;
                Body::Shown(self.prepares(&body.prepares)?)
            }
            Kind::Share => {
                let body: wire::Share = self.decode(bytes)?;
                let shares = body
                    .shares
                    .iter()
                    .map(|bytes| Share::from_bytes(bytes).map_err(|_| self.invalid("a share isn't a scalar")))
                    .collect::<Result<_, _>>()?;
                Body::Share(ShareMsg {
                    vote: self.vote(body.epoch, body.height, &body.id)?,
                    session: self.hash(&body.session)?,
                    shares,
                })
            }
            Kind::Again => {
                let body: wire::Again = self.decode(bytes)?;
                Body::Again(self.vote(body.epoch, body.height, &body.id)?)
            }
            Kind::Certificate => Body::Certificate(self.certificate(&self.decode(bytes)?)?),
            Kind::Complaint => Body::Complaint(self.complaint(bytes, &envelope.attachment)?),
            Kind::Grant => Body::Grant(self.grant(bytes, &envelope.attachment)?),
            Kind::EpochStart => Body::EpochStart(self.epoch_start(bytes, &envelope.attachment)?),
            Kind::Evidence => Body::Evidence(self.evidence(&self.decode(bytes)?)?),
            Kind::Question => {
                let body: wire::Question = self.decode(bytes)?;
                Body::Question(*self.hash(&body.nonce)?.as_bytes())
            }
            Kind::Answer => Body::Answer(self.answer(bytes)?),
            Kind::FetchHeads => {
                let body: wire::FetchHeads = self.decode(bytes)?;
                Body::FetchHeads(body.from)
            }
            Kind::Heads => {
                let body: wire::Heads = self.decode(bytes)?;
                Body::Heads(
                    body.heads.iter().map(|head| self.certified_head(head)).collect::<Result<_, _>>()?,
                )
            }
            Kind::FetchBatches => {
                let body: wire::FetchBatches = self.decode(bytes)?;
                if body.hashes.len() > concordat_events::limits::BATCHES_PER_HEAD {
                    return Err(self.invalid("asks for more batches than a head has"));
                }
                Body::FetchBatches(body.hashes.iter().map(|hash| self.hash(hash)).collect::<Result<_, _>>()?)
            }
            Kind::Batches => {
                let body: wire::Batches = self.decode(bytes)?;
                Body::Batches(body.batches.iter().map(|batch| self.batch(batch)).collect::<Result<_, _>>()?)
            }
            Kind::Nudge => Body::Nudge,
        })
    }

    fn batch(&self, batch: &wire::Batch) -> Result<Batch, MessageError> {
        Ok(Batch { time_ms: batch.time_ms, requests: self.events(&batch.requests)? })
    }

    fn wrapper(&self, bytes: &[u8], attachment: &[u8]) -> Result<Wrapper, MessageError> {
        let body: wire::Wrapper = self.decode(bytes)?;
        let hash = self.hash(&body.batch)?;
        let batch = self.batch(&self.decode(attachment)?)?;
        if batch.hash() != hash {
            return Err(self.invalid("a wrapper's batch doesn't hash to what it signs"));
        }
        let (requests, bytes) = (batch.requests.len(), batch.bytes());
        let limits = (concordat_events::limits::REQUESTS_PER_HEAD, concordat_events::limits::BATCH_BYTES);
        if requests > limits.0 || bytes > limits.1 {
            return Err(self.invalid("a batch is over the limits"));
        }
        Ok(Wrapper {
            epoch: body.epoch,
            number: body.number,
            previous: self.hash(&body.previous)?,
            hash,
            batch: Some(batch),
        })
    }

    fn prepare(&self, bytes: &[u8], attachment: &[u8]) -> Result<Prepare, MessageError> {
        let body: wire::Prepare = self.decode(bytes)?;
        let hash = self.hash(&body.commitments)?;
        let mut commitments = Vec::new();
        if !attachment.is_empty() {
            if attachment_hash(attachment) != hash {
                return Err(self.invalid("commitments that don't hash to what the prepare signs"));
            }
            let list: wire::Commitments = self.decode(attachment)?;
            if list.commitments.len() > concordat_events::limits::MESSAGES_PER_HEAD {
                return Err(self.invalid("more commitments than a head has messages"));
            }
            for bytes in &list.commitments {
                commitments.push(
                    Commitment::from_bytes(bytes)
                        .map_err(|_| self.invalid("a nonce commitment isn't two points"))?,
                );
            }
        }
        Ok(Prepare { vote: self.vote(body.epoch, body.height, &body.id)?, hash, commitments })
    }

    /// Prepares of distinct custodians, whatever they vote for.
    fn prepares(&self, list: &[wire::Envelope]) -> Result<Vec<Msg>, MessageError> {
        let mut seen = BTreeSet::new();
        let mut prepares = Vec::new();
        for envelope in list.iter().take(self.context.roster.n() + 1) {
            if envelope.kind != Kind::Prepare as u32 {
                return Err(self.invalid("something else stands where a prepare should"));
            }
            let message = Message::check(self.context, envelope.clone())?;
            if !seen.insert(message.sender) {
                return Err(self.invalid("one custodian's prepare counts twice"));
            }
            prepares.push(message);
        }
        Ok(prepares)
    }

    fn cert(&self, cert: &wire::PrepareCert) -> Result<PrepareCert, MessageError> {
        let vote = self.vote(cert.epoch, cert.height, &cert.id)?;
        let prepares = self.prepares(&cert.prepares)?;
        if prepares.len() < self.context.q() {
            return Err(self.invalid("a prepare certificate with fewer than q prepares"));
        }
        if !prepares.iter().all(|message| message.prepare().is_some_and(|prepare| prepare.vote == vote)) {
            return Err(self.invalid("a prepare certificate holds a prepare for something else"));
        }
        if cert.batch_hashes.len() > concordat_events::limits::BATCHES_PER_HEAD {
            return Err(self.invalid("a prepare certificate names too many batches"));
        }
        let batch_hashes = cert.batch_hashes.iter().map(|hash| self.hash(hash)).collect::<Result<_, _>>()?;
        Ok(PrepareCert { vote, prepares, batch_hashes })
    }

    fn certify(&self, bytes: &[u8]) -> Result<Certify, MessageError> {
        let body: wire::Certify = self.decode(bytes)?;
        let cert =
            self.cert(&body.cert.ok_or_else(|| self.invalid("a session without prepare certificate"))?)?;
        let signers = self.prepares(&body.signers)?;
        let fits = signers.len() == usize::from(self.context.genesis.threshold)
            && signers.iter().all(|message| {
                message.prepare().is_some_and(|p| p.vote == cert.vote && !p.commitments.is_empty())
            });
        if !fits {
            return Err(self.invalid("a session isn't t prepares with commitments for its head"));
        }
        let session = session_id(&cert.vote, body.attempt, &signers);
        Ok(Certify { cert, attempt: body.attempt, signers, session })
    }

    fn head_event(&self, bytes: &[u8]) -> Result<(ValidEvent, Head), MessageError> {
        let event = self.event(bytes)?;
        if event.author() != self.context.group() || event.kind() != self.context.genesis.kinds.log {
            return Err(self.invalid("a log event isn't the group's"));
        }
        let head = Head::from_log_event(&event)
            .map_err(|error| MessageError::Head { sender: self.sender, error })?;
        if head.cluster != self.context.cluster {
            return Err(self.invalid("a log event is of another cluster"));
        }
        Ok((event, head))
    }

    fn certificate(&self, body: &wire::Certificate) -> Result<Certificate, MessageError> {
        let (log, head) = self.head_event(&body.log_event)?;
        let signatures: Vec<[u8; 64]> = body
            .signatures
            .iter()
            .map(|bytes| bytes.as_slice().try_into().map_err(|_| self.invalid("a signature hasn't 64 bytes")))
            .collect::<Result<_, _>>()?;
        if signatures.len() > concordat_events::limits::MESSAGES_PER_HEAD {
            return Err(self.invalid("more signatures than a head has messages"));
        }
        if signatures.first() != Some(&log.signature()) {
            return Err(self.invalid("a certificate's first signature isn't its log event's"));
        }
        Ok(Certificate { log, head, signatures })
    }

    fn certified_head(&self, body: &wire::CertifiedHead) -> Result<CertifiedHead, MessageError> {
        let certificate =
            body.certificate.as_ref().ok_or_else(|| self.invalid("a head without certificate"))?;
        Ok(CertifiedHead {
            certificate: self.certificate(certificate)?,
            batches: body.batches.iter().map(|batch| self.batch(batch)).collect::<Result<_, _>>()?,
        })
    }

    /// Signed messages of one kind and epoch by distinct custodians, attached as a proof.
    fn proof(&self, attachment: &[u8], kind: Kind) -> Result<Vec<Msg>, MessageError> {
        let proof: wire::Proof = self.decode(attachment)?;
        let mut seen = BTreeSet::new();
        let mut messages = Vec::new();
        for mut envelope in proof.messages.into_iter().take(self.context.roster.n()) {
            if envelope.kind != kind as u32 {
                return Err(self.invalid("something else stands in a proof"));
            }
            // A proof's messages stand for themselves: what is attached to them would nest without end.
            envelope.attachment.clear();
            let message = Message::check(self.context, envelope)?;
            if seen.insert(message.sender) {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    fn complaint(&self, bytes: &[u8], attachment: &[u8]) -> Result<Complaint, MessageError> {
        let body: wire::Complaint = self.decode(bytes)?;
        let cause = Cause::read(body.cause).ok_or_else(|| self.invalid("complains for an unknown cause"))?;
        let opening = self.proof(attachment, Kind::Grant)?;
        if opening.iter().any(|message| message.grant().is_none_or(|grant| grant.epoch != body.epoch)) {
            return Err(self.invalid("a complaint shows grants of another epoch"));
        }
        Ok(Complaint { epoch: body.epoch, cause, next_height: body.next_height, opening })
    }

    fn grant(&self, bytes: &[u8], attachment: &[u8]) -> Result<Grant, MessageError> {
        let body: wire::Grant = self.decode(bytes)?;
        let certified = match body.certified.as_slice() {
            [] => None,
            bytes => Some(self.head_event(bytes)?),
        };
        let next = certified.as_ref().map_or(0, |(_, head)| head.height + 1);
        let lock = body.lock.as_ref().map(|lock| self.cert(lock)).transpose()?;
        if lock.as_ref().is_some_and(|lock| lock.vote.height != next || lock.vote.epoch >= body.epoch) {
            return Err(self.invalid("a grant's lock isn't for the next height or not of an earlier epoch"));
        }
        let evidence = body.evidence.iter().map(|item| self.evidence(item)).collect::<Result<_, _>>()?;
        let complaints = self.proof(attachment, Kind::Complaint)?;
        Ok(Grant { epoch: body.epoch, certified, lock, evidence, complaints })
    }

    fn epoch_start(&self, bytes: &[u8], attachment: &[u8]) -> Result<EpochStart, MessageError> {
        let body: wire::EpochStart = self.decode(bytes)?;
        if attachment_hash(attachment) != self.hash(&body.opening)? {
            return Err(self.invalid("an opening that doesn't hash to what the EpochStart signs"));
        }
        let opening: wire::Opening = self.decode(attachment)?;
        let (mut grants, mut seen) = (Vec::new(), BTreeSet::new());
        for envelope in &opening.grants {
            // A grant that doesn't verify is no grant and hides no other.
            let bare = wire::Envelope { attachment: Vec::new(), ..envelope.clone() };
            let Ok(message) = Message::check(self.context, bare) else { continue };
            if message.grant().is_some_and(|grant| grant.epoch == body.epoch) && seen.insert(message.sender) {
                grants.push(message);
            }
        }
        if body.epoch > 0 && grants.len() < self.context.q() {
            return Err(self.invalid("an EpochStart with fewer than q valid grants"));
        }
        let evidence = opening.evidence.iter().map(|item| self.evidence(item)).collect::<Result<_, _>>()?;
        Ok(EpochStart { epoch: body.epoch, grants, evidence })
    }

    fn evidence(&self, body: &wire::Evidence) -> Result<Evidence, MessageError> {
        let [first, second] = body.messages.as_slice() else {
            return Err(self.invalid("evidence isn't two messages"));
        };
        contradiction(self.context, first, second)
            .ok_or_else(|| self.invalid("evidence that shows no contradiction"))
    }

    fn answer(&self, bytes: &[u8]) -> Result<Answer, MessageError> {
        let body: wire::Answer = self.decode(bytes)?;
        let highest = match &body.highest {
            None => None,
            Some(claim) => {
                let asker = u16::try_from(claim.sender).unwrap_or_default();
                let seq = check_claim(self.context, asker, claim);
                Some(seq.ok_or_else(|| self.invalid("shows a message that its asker never signed"))?)
            }
        };
        let certified = match body.certified.as_slice() {
            [] => None,
            bytes => Some(self.head_event(bytes)?),
        };
        Ok(Answer {
            nonce: *self.hash(&body.nonce)?.as_bytes(),
            highest,
            certified,
            quarantined: body.quarantined,
            starting: body.starting,
            intact: body.intact,
        })
    }
}

impl Cause {
    fn read(number: u32) -> Option<Self> {
        Some(match number {
            1 => Cause::NoStart,
            2 => Cause::NoCertificate,
            3 => Cause::Overdue,
            4 => Cause::Unreachable,
            5 => Cause::Resigned,
            6 => Cause::Old,
            7 => Cause::Evidence,
            _ => return None,
        })
    }

    pub(crate) fn number(self) -> u32 {
        match self {
            Cause::NoStart => 1,
            Cause::NoCertificate => 2,
            Cause::Overdue => 3,
            Cause::Unreachable => 4,
            Cause::Resigned => 5,
            Cause::Old => 6,
            Cause::Evidence => 7,
        }
    }
}

impl PrepareCert {
    /// The bytes to store or send.
    pub(crate) fn to_wire(&self) -> wire::PrepareCert {
        wire::PrepareCert {
            epoch: self.vote.epoch,
            height: self.vote.height,
            id: self.vote.id.as_bytes().to_vec(),
            prepares: self.prepares.iter().map(|message| message.bare()).collect(),
            batch_hashes: self.batch_hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
        }
    }

    /// Reads and checks stored bytes.
    pub(crate) fn from_wire(context: &Context, cert: &wire::PrepareCert) -> Result<Self, MessageError> {
        Reader { context, sender: 0 }.cert(cert)
    }
}

impl CertifiedHead {
    /// Reads and checks stored bytes.
    pub(crate) fn from_wire(context: &Context, head: &wire::CertifiedHead) -> Result<Self, MessageError> {
        Reader { context, sender: 0 }.certified_head(head)
    }
}

impl Certificate {
    /// The bytes to store or send.
    pub(crate) fn to_wire(&self) -> wire::Certificate {
        wire::Certificate {
            log_event: self.log.json().as_bytes().to_vec(),
            signatures: self.signatures.iter().map(|signature| signature.to_vec()).collect(),
        }
    }
}

/// A batch's bytes to store or send.
pub(crate) fn batch_to_wire(batch: &Batch) -> wire::Batch {
    wire::Batch {
        time_ms: batch.time_ms,
        requests: batch.requests.iter().map(|request| request.json().as_bytes().to_vec()).collect(),
    }
}

/// Reads and checks a stored batch.
pub(crate) fn batch_from_wire(context: &Context, batch: &wire::Batch) -> Result<Batch, MessageError> {
    Reader { context, sender: 0 }.batch(batch)
}

/// A session's id: the head, the attempt and all commitments with their signers (PROTOCOL 4.5).
pub(crate) fn session_id(vote: &Vote, attempt: u32, signers: &[Msg]) -> Hash {
    let mut hasher = concordat_events::hash::Tagged::new("concordat/session");
    hasher.part(&vote.epoch.to_be_bytes()).part(&vote.height.to_be_bytes()).part(vote.id.as_bytes());
    hasher.part(&attempt.to_be_bytes());
    for message in signers {
        hasher.part(&message.sender.to_be_bytes());
        hasher.part(message.prepare().map_or(&Hash::ZERO, |prepare| &prepare.hash).as_bytes());
    }
    hasher.finish()
}

/// Do two messages contradict each other in a way that no honest custodian's can (PROTOCOL 5)? Signatures are checked,
/// attachments don't count.
pub(crate) fn contradiction(
    context: &Context,
    first: &wire::Envelope,
    second: &wire::Envelope,
) -> Option<Evidence> {
    let (signer, kind, digest) = authenticate(context, first).ok()?;
    let (other, other_kind, other_digest) = authenticate(context, second).ok()?;
    if signer != other || kind != other_kind || digest == other_digest {
        return None;
    }
    let slot = |envelope: &wire::Envelope| -> Option<(u64, u64, Vec<u8>)> {
        let bytes = envelope.body.as_slice();
        Some(match kind {
            Kind::Wrapper => {
                let w = wire::Wrapper::decode(bytes).ok()?;
                (w.epoch, w.number, [w.previous, w.batch].concat())
            }
            Kind::Propose => {
                let p = wire::Propose::decode(bytes).ok()?;
                (p.epoch, p.height, [p.id, p.number.to_be_bytes().to_vec()].concat())
            }
            Kind::Prepare => {
                let p = wire::Prepare::decode(bytes).ok()?;
                (p.epoch, p.height, p.id)
            }
            Kind::EpochStart => {
                let s = wire::EpochStart::decode(bytes).ok()?;
                (s.epoch, 0, s.opening)
            }
            _ => return None,
        })
    };
    let (a, b) = (slot(first)?, slot(second)?);
    if (a.0, a.1) != (b.0, b.1) || a.2 == b.2 {
        return None;
    }
    let fault = match kind {
        Kind::Wrapper => Fault::Wrappers,
        Kind::Propose => Fault::Proposals,
        Kind::Prepare => Fault::Prepares,
        _ => Fault::Starts,
    };
    let bare = |envelope: &wire::Envelope| wire::Envelope { attachment: Vec::new(), ..envelope.clone() };
    Some(Evidence { signer, fault, envelopes: [bare(first), bare(second)] })
}

impl Evidence {
    /// The bytes to store or send.
    pub(crate) fn to_wire(&self) -> wire::Evidence {
        wire::Evidence { messages: self.envelopes.to_vec() }
    }

    /// Reads and checks stored bytes.
    pub(crate) fn from_wire(context: &Context, evidence: &wire::Evidence) -> Option<Self> {
        let [first, second] = evidence.messages.as_slice() else { return None };
        contradiction(context, first, second)
    }
}
