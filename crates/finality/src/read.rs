//! Reading bodies: from the bytes of an envelope to a checked [`Body`], nested messages and events included.

use std::collections::BTreeSet;

use concordat_events::ValidEvent;
use concordat_events::batch::Batch;
use concordat_events::hash::Hash;
use concordat_events::head::Head;
use concordat_events::protobuf::Shaped;
use concordat_ledger::Chunk;
use concordat_threshold::{Commitment, Share};

use crate::context::Context;
use crate::evidence::Evidence;
use crate::limits::{EVIDENCE_REQUESTS, SLOT_BODY_BYTES};
use crate::message::{
    Answer, Body, Cause, Certificate, CertifiedHead, Certify, Complaint, EpochStart, FetchState, Grant,
    Heads, Kind, Message, MessageError, Msg, Prepare, PrepareCert, Propose, Refuse, RefuseReason, ShareMsg,
    State, Vote, Wrapper, attachment_hash, check_claim, malformed, session_id,
};
use crate::recover::{Report, Resume, agreed};
use crate::wire;

/// Reads the body of an envelope whose signature has been checked.
pub(crate) fn body(
    context: &Context,
    sender: u16,
    kind: Kind,
    envelope: &wire::Envelope,
) -> Result<Body, MessageError> {
    Reader { context, sender }.body(kind, envelope)
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
        ValidEvent::parse_with(bytes, &self.context.checked)
            .map_err(|error| MessageError::Event { sender: self.sender, error })
    }

    fn events(&self, list: &[Vec<u8>]) -> Result<Vec<ValidEvent>, MessageError> {
        list.iter().map(|bytes| self.event(bytes)).collect()
    }

    fn decode<T: prost::Message + Default + Shaped>(&self, bytes: &[u8]) -> Result<T, MessageError> {
        wire::decode(bytes).map_err(malformed)
    }

    fn vote(&self, epoch: u64, height: u64, id: &[u8]) -> Result<Vote, MessageError> {
        Ok(Vote { epoch, height, id: self.hash(id)? })
    }

    fn body(&self, kind: Kind, envelope: &wire::Envelope) -> Result<Body, MessageError> {
        let bytes = envelope.body.as_slice();
        // What may become evidence is small, or a liar's contradictions would be too large to be passed on.
        let slot = matches!(kind, Kind::Wrapper | Kind::Propose | Kind::Prepare | Kind::EpochStart);
        if slot && bytes.len() > SLOT_BODY_BYTES {
            return Err(self.invalid("a body larger than its fields"));
        }
        Ok(match kind {
            Kind::Requests => {
                let body: wire::Requests = self.decode(bytes)?;
                if body.events.len() > concordat_events::limits::REQUESTS_PER_HEAD {
                    return Err(self.invalid("more requests than a head has"));
                }
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
                if body.shares.len() > concordat_events::limits::MESSAGES_PER_HEAD {
                    return Err(self.invalid("more shares than a head has messages"));
                }
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
                let newest = Some(body.newest.as_slice()).filter(|bytes| !bytes.is_empty());
                Body::Heads(Heads {
                    heads: body
                        .heads
                        .iter()
                        .map(|head| self.certified_head(head))
                        .collect::<Result<_, _>>()?,
                    newest: newest.map(|bytes| self.head_event(bytes)).transpose()?,
                })
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
            Kind::Report => Body::Report(self.report(&self.decode(bytes)?)?),
            Kind::Resume => Body::Resume(self.resume(&self.decode(bytes)?)?),
            Kind::FetchState => {
                let body: wire::FetchState = self.decode(bytes)?;
                Body::FetchState(FetchState { height: body.height, place: self.hash(&body.place)? })
            }
            Kind::State => {
                let body: wire::State = self.decode(bytes)?;
                let asked = FetchState { height: body.height, place: self.hash(&body.place)? };
                // Everything else about it is checked against the root that it claims to lead to.
                let beside = body.beside.iter().map(|hash| self.hash(hash)).collect::<Result<_, _>>()?;
                let leaves = body.leaves.into_iter().map(|leaf| (leaf.key, leaf.value)).collect();
                Body::State(State { asked, chunk: Chunk { beside, leaves } })
            }
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
        // Somewhat too many requests are let through: they are evidence.
        let (requests, bytes) = (batch.requests.len(), batch.bytes());
        if requests > EVIDENCE_REQUESTS || bytes > concordat_events::limits::BATCH_BYTES {
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
        self.cert_of(cert, self.prepares(&cert.prepares)?)
    }

    /// A prepare certificate beside the prepares of a session's signers needn't hold any itself: those are q prepares for its
    /// head, and the same signatures twice would be a third of the largest message of each head.
    fn cert_beside(&self, cert: &wire::PrepareCert, signers: &[Msg]) -> Result<PrepareCert, MessageError> {
        if cert.prepares.is_empty() { self.cert_of(cert, signers.to_vec()) } else { self.cert(cert) }
    }

    fn cert_of(&self, cert: &wire::PrepareCert, prepares: Vec<Msg>) -> Result<PrepareCert, MessageError> {
        let vote = self.vote(cert.epoch, cert.height, &cert.id)?;
        if prepares.len() < self.context.q() {
            return Err(self.invalid("a prepare certificate with fewer than q prepares"));
        }
        let counts = |message: &Msg| {
            message.prepare().is_some_and(|prepare| self.context.counts_for(&prepare.vote, &vote))
        };
        if !prepares.iter().all(counts) {
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
        let cert = body.cert.ok_or_else(|| self.invalid("a session without prepare certificate"))?;
        let signers = self.prepares(&body.signers)?;
        let cert = self.cert_beside(&cert, &signers)?;
        let fits = signers.len() == self.context.roster.q()
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
        if body.evidence.len() > self.context.roster.n() {
            return Err(self.invalid("a grant with more evidence than custodians"));
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
        let n = self.context.roster.n();
        if opening.grants.len() > n || opening.evidence.len() > n {
            return Err(self.invalid("an opening with more grants or evidence than custodians"));
        }
        let (mut grants, mut seen) = (Vec::new(), BTreeSet::new());
        for envelope in &opening.grants {
            // A grant that doesn't verify is no grant and hides no other.
            let bare = wire::Envelope { attachment: Vec::new(), ..envelope.clone() };
            let Ok(message) = Message::check(self.context, bare) else { continue };
            if message.grant().is_some_and(|grant| grant.epoch == body.epoch) && seen.insert(message.sender) {
                grants.push(message);
            }
        }
        let mut resume = Vec::new();
        for envelope in opening.resume.iter().take(n) {
            let bare = wire::Envelope { attachment: Vec::new(), ..envelope.clone() };
            resume.push(Message::check(self.context, bare)?);
        }
        if !resume.is_empty() && agreed(self.context, &resume).is_none_or(|resume| resume.epoch != body.epoch)
        {
            return Err(self.invalid("an EpochStart with fewer than q signatures of one Resume"));
        }
        if body.epoch != self.context.first_epoch()
            && resume.is_empty()
            && grants.len() < self.context.opening_quorum()
        {
            return Err(self.invalid("an EpochStart with fewer than q valid grants"));
        }
        let evidence = opening.evidence.iter().map(|item| self.evidence(item)).collect::<Result<_, _>>()?;
        Ok(EpochStart { epoch: body.epoch, grants, evidence, resume })
    }

    fn certified(&self, bytes: &[u8]) -> Result<Option<(ValidEvent, Head)>, MessageError> {
        if bytes.is_empty() { Ok(None) } else { self.head_event(bytes).map(Some) }
    }

    fn batch_list(&self, hashes: &[Vec<u8>]) -> Result<Vec<Hash>, MessageError> {
        if hashes.len() > concordat_events::limits::BATCHES_PER_HEAD {
            return Err(self.invalid("names more batches than a head has"));
        }
        hashes.iter().map(|hash| self.hash(hash)).collect()
    }

    fn report(&self, body: &wire::Report) -> Result<Report, MessageError> {
        let vote = |vote: &wire::Again| self.vote(vote.epoch, vote.height, &vote.id);
        Ok(Report {
            epoch: body.epoch,
            certified: self.certified(&body.certified)?,
            lock: body.lock.as_ref().map(|lock| self.cert(lock)).transpose()?,
            prepared: body.prepared.as_ref().map(vote).transpose()?,
            batch_hashes: self.batch_list(&body.batch_hashes)?,
            resumed: body.resumed,
        })
    }

    fn resume(&self, body: &wire::Resume) -> Result<Resume, MessageError> {
        let certified = self.certified(&body.certified)?;
        let next = certified.as_ref().map_or(0, |(_, head)| head.height + 1);
        let batch_hashes = self.batch_list(&body.batch_hashes)?;
        let forced = match (&body.lock, &body.possible) {
            (None, None) => None,
            (Some(lock), None) => Some(self.cert(lock)?),
            (None, Some(vote)) => {
                let vote = self.vote(vote.epoch, vote.height, &vote.id)?;
                Some(PrepareCert { vote, prepares: Vec::new(), batch_hashes })
            }
            _ => return Err(self.invalid("a Resume with two locks")),
        };
        if forced.as_ref().is_some_and(|lock| lock.vote.height != next || lock.vote.epoch >= body.epoch) {
            return Err(self.invalid("a Resume's lock isn't for the next height or not of an earlier epoch"));
        }
        Ok(Resume { epoch: body.epoch, certified, forced })
    }

    fn evidence(&self, body: &wire::Evidence) -> Result<Evidence, MessageError> {
        Evidence::read(self.context, body).map_err(|_| self.invalid("evidence that shows no fault"))
    }

    fn answer(&self, bytes: &[u8]) -> Result<Answer, MessageError> {
        let body: wire::Answer = self.decode(bytes)?;
        let highest = match &body.highest {
            None => None,
            Some(claim) => {
                let asker = u16::try_from(claim.sender).unwrap_or_default();
                let seq = check_claim(self.context, asker, claim);
                let seq = seq.ok_or_else(|| self.invalid("shows a message that its asker never signed"))?;
                Some((asker, seq))
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
            8 => Cause::Slow,
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
            Cause::Slow => 8,
        }
    }
}

impl PrepareCert {
    /// As it stands in messages: the prepares without their attachments.
    pub fn to_wire(&self) -> wire::PrepareCert {
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
