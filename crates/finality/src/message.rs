//! Messages between custodians, checked whole: a [`Message`] exists only with a good signature of a roster member over its
//! exact bytes, and everything nested in it has been checked the same way.

use std::sync::Arc;

use concordat_events::batch::Batch;
use concordat_events::hash::{Hash, tagged};
use concordat_events::head::{Head, HeadError};
use concordat_events::{EventError, ValidEvent};
use concordat_ledger::Chunk;
use concordat_threshold::{Commitment, Share};
use prost::Message as _;

use crate::context::{Context, Identity};
use crate::evidence::Evidence;
use crate::limits::{ENVELOPE_BYTES, SEQ_MAX};
use crate::recover::{Report, Resume};
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
    /// Certified heads with their batches, or a head whose state is to be fetched instead.
    Heads(Heads),
    /// Asks for batches by hash.
    FetchBatches(Vec<Hash>),
    /// Batches.
    Batches(Vec<Batch>),
    /// A custodian in quarantine asks the leader for empty batches.
    Nudge,
    /// Asks for a chunk of state.
    FetchState(FetchState),
    /// A chunk of state.
    State(State),
    /// What a stopped custodian shows in the `recover` ceremony.
    Report(Report),
    /// A signature of that ceremony's result.
    Resume(Resume),
}

/// A head in the votes of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// See [`Body::Heads`].
#[derive(Debug, Default)]
pub struct Heads {
    /// The heads in order.
    pub heads: Vec<CertifiedHead>,
    /// The log event of a head whose state the sender serves.
    pub newest: Option<(ValidEvent, Head)>,
}

/// See [`Body::FetchState`].
#[derive(Clone, Copy, Debug)]
pub struct FetchState {
    /// Of which head.
    pub height: u64,
    /// Where in the state tree the chunk begins.
    pub place: Hash,
}

/// See [`Body::State`].
#[derive(Debug)]
pub struct State {
    /// What was asked for.
    pub asked: FetchState,
    /// The chunk; whether it is true, only the head's state root tells.
    pub chunk: Chunk,
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
    /// Requests have waited for long through a whole minute while heads had room for them.
    Slow,
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

impl Grant {
    /// The height after the head that it names: the one that its lock is for.
    pub fn next_height(&self) -> u64 {
        self.certified.as_ref().map_or(0, |(_, head)| head.height + 1)
    }
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
    /// Instead of grants: at least q signatures of one Resume.
    pub resume: Vec<Msg>,
}

/// See [`Body::Answer`].
#[derive(Debug)]
pub struct Answer {
    /// The question's number.
    pub nonce: [u8; 32],
    /// A seq higher than the question's, with the custodian whose signature shows it: it counts only for that one.
    pub highest: Option<(u16, u64)>,
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
            /// The kind of this number.
            pub fn read(number: u32) -> Option<Self> {
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
    FetchState = 23, State = 24, Report = 25, Resume = 26,
}

/// The hash of a body's exact bytes.
pub(crate) fn body_hash(body: &[u8]) -> Hash {
    tagged("concordat/body", &[body])
}

/// The hash by which a body binds its attachment.
pub fn attachment_hash(bytes: &[u8]) -> Hash {
    tagged("concordat/attachment", &[bytes])
}

/// Signs a message. Anybody with an identity key may; [`Message::check`] says what it is worth.
pub fn seal(
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
        let envelope: wire::Envelope = wire::decode(bytes).map_err(malformed)?;
        let message = Self::check(context, envelope)?;
        if message.sender != channel && !message.may_be_passed_on() {
            return Err(MessageError::WrongSender { channel, sender: message.sender });
        }
        Ok(message)
    }

    /// Checks an envelope, wherever it stood.
    pub fn check(context: &Context, envelope: wire::Envelope) -> Result<Msg, MessageError> {
        let (sender, kind, digest) = authenticate(context, &envelope)?;
        let body = crate::read::body(context, sender, kind, &envelope)?;
        Ok(Arc::new(Message { sender, seq: envelope.seq, digest, body, envelope }))
    }

    /// A message that this custodian has just signed.
    pub(crate) fn own(context: &Context, me: u16, envelope: wire::Envelope, body: Body) -> Msg {
        let digest = context.digest(me, envelope.seq, envelope.kind, &body_hash(&envelope.body));
        Arc::new(Message { sender: me, seq: envelope.seq, digest, body, envelope })
    }

    /// Proofs are worth the same whoever brings them; everything else only from its signer.
    fn may_be_passed_on(&self) -> bool {
        matches!(self.kind(), Kind::Complaint | Kind::Grant | Kind::Evidence | Kind::Resume)
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
pub(crate) fn authenticate(
    context: &Context,
    envelope: &wire::Envelope,
) -> Result<(u16, Kind, Hash), MessageError> {
    let sender = u16::try_from(envelope.sender).unwrap_or_default();
    let kind = Kind::read(envelope.kind)
        .ok_or_else(|| MessageError::Malformed(format!("kind {} is unknown", envelope.kind)))?;
    if envelope.seq > SEQ_MAX {
        return Err(MessageError::Malformed(format!("seq {}; at most {SEQ_MAX} is taken", envelope.seq)));
    }
    let digest = context.digest(sender, envelope.seq, envelope.kind, &body_hash(&envelope.body));
    context.verify(sender, envelope.kind, &digest, &envelope.signature)?;
    Ok((sender, kind, digest))
}

/// Checks a claim; gives its seq.
pub(crate) fn check_claim(context: &Context, sender: u16, claim: &wire::Claim) -> Option<u64> {
    let hash = Hash::from_slice(&claim.body_hash)?;
    let digest = context.digest(sender, claim.seq, claim.kind, &hash);
    (claim.sender == u32::from(sender)
        && claim.seq <= SEQ_MAX
        && context.verify(sender, claim.kind, &digest, &claim.signature).is_ok())
    .then_some(claim.seq)
}

pub(crate) fn malformed(error: impl std::fmt::Display) -> MessageError {
    MessageError::Malformed(concordat_events::quoted(error))
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
