//! The `recover` ceremony (PROTOCOL 8), for when too many were rolled back at once: the pure part. Processes are stopped, q
//! operators exchange [`Report`]s, each works out the same [`plan`], and q of them [`sign`] it. The signatures replace the grants
//! of its epoch and end their signers' quarantine.
//!
//! Promises: the plan follows from the reports alone; nobody signs a plan that its own report isn't truly in, nor two for one
//! epoch; who has signed votes for nothing until the plan's epoch. The risk that stays, and that whoever runs it must name: a
//! head that only absent custodians know may be lost.

mod over;
mod replay;

use std::collections::{BTreeMap, BTreeSet};

use concordat_events::ValidEvent;
use concordat_events::hash::{Hash, tagged};
use concordat_events::head::Head;
use concordat_store::{Store, StoreError, WriteBatch};
use prost::Message as _;

use crate::context::{Context, Identity};
use crate::limits::RESUME_JUMP;
use crate::message::{self, Body, Kind, Message, MessageError, Msg, PrepareCert, Vote};
use crate::record::{self, Bar, RESUME, Record};
use crate::wire;

pub use self::replay::{Attached, Replay, attach};

/// What a stopped custodian shows.
#[derive(Debug)]
pub struct Report {
    /// The epoch that it has entered.
    pub epoch: u64,
    /// Its certified head, by the signed log event.
    pub certified: Option<(ValidEvent, Head)>,
    /// Its lock.
    pub lock: Option<PrepareCert>,
    /// Its last vote.
    pub prepared: Option<Vote>,
    /// The batches behind that vote.
    pub batch_hashes: Vec<Hash>,
    /// The highest epoch that it has signed a Resume for.
    pub resumed: u64,
}

impl Report {
    /// The height that comes after its certified head.
    pub fn next_height(&self) -> u64 {
        self.certified.as_ref().map_or(0, |(_, head)| head.height + 1)
    }
}

/// What q custodians agree to go on from.
#[derive(Debug)]
pub struct Resume {
    /// The epoch that it opens.
    pub epoch: u64,
    /// The highest certified head.
    pub certified: Option<(ValidEvent, Head)>,
    /// The head that must come next: that of the highest lock, or of a vote that absent ones may have made a lock (then without
    /// prepares).
    pub forced: Option<PrepareCert>,
}

/// A plan that follows from reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    body: wire::Resume,
    /// The epoch that it opens.
    pub epoch: u64,
    /// The height of the highest certified head that was shown; `None` before Head(0).
    pub certified: Option<u64>,
    /// The head that must come next, if one must.
    pub forced: Option<Vote>,
    /// Who wasn't there.
    pub absent: Vec<u16>,
    /// Votes that could have been made a lock as well: to be named as a risk.
    pub passed_over: Vec<Vote>,
}

impl Plan {
    /// What is signed, as a hash: two operators have the same plan if they have the same hash.
    pub fn hash(&self) -> Hash {
        resume_hash(&self.body.encode_to_vec())
    }

    /// The batches behind the head that must come next, as who voted for it or has locked it names them.
    fn forced_batches(&self) -> impl Iterator<Item = Hash> {
        let locked = self.body.lock.iter().flat_map(|lock| &lock.batch_hashes);
        locked.chain(&self.body.batch_hashes).filter_map(|hash| Hash::from_slice(hash))
    }
}

/// The hash of the plan that a signature is for.
pub fn signed_hash(signature: &Msg) -> Option<Hash> {
    matches!(signature.body, Body::Resume(_)).then(|| resume_hash(&signature.envelope().body))
}

fn resume_hash(body: &[u8]) -> Hash {
    tagged("concordat/resume", &[body])
}

/// Why a Resume isn't planned or signed.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Too few are there.
    #[error("{got} custodians have shown their records; {needed} must")]
    TooFew {
        /// How many.
        got: usize,
        /// How many must.
        needed: usize,
    },
    /// Something else stands among them.
    #[error("what custodian {sender} signed isn't what is asked for here")]
    Stray {
        /// Who signed it.
        sender: u16,
    },
    /// Two locks of one epoch.
    #[error("two locks of epoch {epoch} with different heads: more than f custodians are faulty; stop")]
    TwoLocks {
        /// Of which epoch.
        epoch: u64,
    },
    /// The own report isn't in it, or this custodian has run since.
    #[error("this custodian's record isn't the one that it has shown: report again")]
    OtherRecord,
    /// Another Resume of this epoch was signed.
    #[error("this custodian has signed another Resume of epoch {epoch}: report again, and plan with that")]
    Signed {
        /// Which epoch.
        epoch: u64,
    },
    /// The own vote can't be shown whole.
    #[error(
        "batch {hash} behind this custodian's own vote isn't in its store: the disk is damaged; leave this custodian out"
    )]
    NoBatch {
        /// Which batch.
        hash: Hash,
    },
    /// A head that was asked for isn't kept.
    #[error(
        "the head of height {height} isn't kept here; take those from the next height on, or from another custodian"
    )]
    NoHead {
        /// Which height.
        height: u64,
    },
    /// A vote can't be judged here.
    #[error(
        "a vote for head {needed} must be judged, and this custodian's state with what came with the reports goes up to the height before {next}: \
         have one of those who hold the heads from {next} on report with them"
    )]
    Behind {
        /// The height that comes next here.
        next: u64,
        /// That of the vote.
        needed: u64,
    },
    /// The own state isn't what the group has signed.
    #[error(
        "this custodian computes head {height} as {computed}, the group has signed {certified}: its disk or its build is at fault"
    )]
    Diverged {
        /// Which height.
        height: u64,
        /// What the group has signed.
        certified: Hash,
        /// What was computed.
        computed: Hash,
    },
    /// A head can't be computed.
    #[error("{0}")]
    Stale(String),
    /// The state can't be opened.
    #[error(transparent)]
    Ledger(#[from] concordat_ledger::OpenError),
    /// A message doesn't verify.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Signs what the stopped custodian's store holds. Nothing is written.
pub fn report<S: Store>(
    store: &S,
    context: &Context,
    identity: &dyn Identity,
    me: u16,
) -> Result<Msg, RecoverError> {
    let record = Record::load(store, context)?.unwrap_or_else(lost);
    Ok(Message::check(
        context,
        seal(context, identity, me, record.seq, Kind::Report, &shown(store, context, &record)?),
    )?)
}

/// A custodian whose disk lost its record: in quarantine, and knows nothing.
fn lost() -> Record {
    Record { bar: Bar::Unknown, ..Record::default() }
}

fn shown<S: Store>(store: &S, context: &Context, record: &Record) -> Result<wire::Report, RecoverError> {
    let last = record::last_head(store, context)?;
    Ok(wire::Report {
        epoch: record.epoch,
        certified: last.map(|head| head.certificate.log.json().as_bytes().to_vec()).unwrap_or_default(),
        lock: record.lock.as_ref().map(PrepareCert::to_wire),
        prepared: record.prepared.as_ref().map(to_wire),
        batch_hashes: record.prepared_batches.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
        resumed: record.resumed.map(|(epoch, _)| epoch).unwrap_or_default(),
    })
}

fn to_wire(vote: &Vote) -> wire::Again {
    wire::Again { epoch: vote.epoch, height: vote.height, id: vote.id.as_bytes().to_vec() }
}

fn seal(
    context: &Context,
    identity: &dyn Identity,
    me: u16,
    seq: u64,
    kind: Kind,
    body: &impl prost::Message,
) -> wire::Envelope {
    message::seal(context, identity, me, seq, kind, body.encode_to_vec(), Vec::new())
}

/// What follows from the reports of at least q custodians. `rebuilds` says whether the batches behind a vote are at hand and give
/// its head: who voted honestly has kept them, so a vote without them is a liar's.
///
/// # Errors
/// See [`RecoverError`].
pub fn plan(
    context: &Context,
    reports: &[Msg],
    rebuilds: impl Fn(&Vote, &[Hash]) -> Result<bool, RecoverError>,
) -> Result<Plan, RecoverError> {
    let mut by = BTreeMap::new();
    for message in reports {
        let Body::Report(report) = &message.body else {
            return Err(RecoverError::Stray { sender: message.sender });
        };
        by.insert(message.sender, report);
    }
    let (n, f, q) = (context.roster.n(), context.roster.f(), context.q());
    if by.len() < q {
        return Err(RecoverError::TooFew { got: by.len(), needed: q });
    }
    let newest =
        by.values().filter_map(|report| report.certified.as_ref()).max_by_key(|(_, head)| head.height);
    let next = newest.map_or(0, |(_, head)| head.height + 1);
    let mut lock: Option<&PrepareCert> = None;
    for shown in by.values().filter_map(|report| report.lock.as_ref()).filter(|l| l.vote.height == next) {
        match lock {
            Some(best) if best.vote.epoch == shown.vote.epoch && best.vote.id != shown.vote.id => {
                return Err(RecoverError::TwoLocks { epoch: best.vote.epoch });
            }
            Some(best) if best.vote.epoch >= shown.vote.epoch => {}
            _ => lock = Some(shown),
        }
    }
    // A vote that those shown, those absent and f liars could have made a lock counts as one. Who has voted in a later epoch
    // may have voted for it before.
    let mut possible: BTreeMap<Vote, (usize, &[Hash])> = BTreeMap::new();
    for report in by.values() {
        let Some(vote) = report.prepared.filter(|vote| vote.height == next) else { continue };
        let same = by.values().filter(|other| other.prepared == Some(vote)).count();
        let later = by
            .values()
            .filter(|other| other.prepared.is_some_and(|p| p.height == next && p.epoch > vote.epoch))
            .count();
        let above = lock.is_none_or(|lock| vote.epoch > lock.vote.epoch);
        let enough = (same + later + (n - by.len()) + f) >= q;
        if above && enough && rebuilds(&vote, &report.batch_hashes)? {
            possible.insert(vote, (same, &report.batch_hashes));
        }
    }
    let chosen = possible
        .iter()
        .max_by_key(|(vote, (same, _))| (vote.epoch, *same, std::cmp::Reverse(vote.id)))
        .map(|(vote, (_, batches))| (*vote, *batches));
    let epochs = by.values().flat_map(|report| {
        let voted = report.prepared.map_or(0, |vote| vote.epoch);
        let locked = report.lock.as_ref().map_or(0, |lock| lock.vote.epoch);
        [report.epoch, voted, locked, report.resumed]
    });
    let epoch = epochs.max().unwrap_or(0).saturating_add(2);
    let body = wire::Resume {
        epoch,
        certified: newest.map(|(log, _)| log.json().as_bytes().to_vec()).unwrap_or_default(),
        lock: lock.filter(|_| chosen.is_none()).map(PrepareCert::to_wire),
        possible: chosen.map(|(vote, _)| to_wire(&vote)),
        batch_hashes: chosen
            .map(|(_, batches)| batches.iter().map(|hash| hash.as_bytes().to_vec()).collect())
            .unwrap_or_default(),
    };
    let forced = chosen.map(|(vote, _)| vote).or(lock.map(|lock| lock.vote));
    Ok(Plan {
        body,
        epoch,
        certified: newest.map(|(_, head)| head.height),
        forced,
        absent: context.roster.numbers().filter(|number| !by.contains_key(number)).collect(),
        passed_over: possible.keys().filter(|vote| Some(**vote) != forced).copied().collect(),
    })
}

/// Signs the plan that follows from `reports`, once for its epoch. The signature is given only when it is durable that it was
/// given: from then on this custodian votes for nothing below the plan's epoch.
///
/// # Errors
/// [`RecoverError::OtherRecord`] unless the own report is among them and still true, [`RecoverError::Signed`] if another plan of
/// this epoch was signed before, and those of [`plan`].
pub fn sign<S: Store>(
    store: &S,
    context: &Context,
    identity: &dyn Identity,
    me: u16,
    reports: &[Msg],
    rebuilds: impl Fn(&Vote, &[Hash]) -> Result<bool, RecoverError>,
) -> Result<Msg, RecoverError> {
    let plan = plan(context, reports, rebuilds)?;
    let mut record = Record::load(store, context)?.unwrap_or_else(lost);
    let hash = plan.hash();
    match record.resumed {
        // The same again: its first signature may have been lost on the way.
        Some((epoch, signed)) if epoch == plan.epoch && signed == hash => {}
        Some((epoch, _)) if epoch >= plan.epoch => return Err(RecoverError::Signed { epoch: plan.epoch }),
        _ => {
            let now = shown(store, context, &record)?.encode_to_vec();
            let own = reports.iter().find(|message| message.sender == me);
            if own.is_none_or(|own| own.envelope().body != now) {
                return Err(RecoverError::OtherRecord);
            }
            record.resumed = Some((plan.epoch, hash));
            // Far above whatever this custodian signed before its disk was rolled back: what comes next is newer than that.
            record.seq = record.seq.saturating_add(RESUME_JUMP);
            let mut writes = WriteBatch::new();
            record.save(&mut writes);
            store.apply(writes)?;
            store.flush()?;
        }
    }
    Ok(Message::check(context, seal(context, identity, me, record.seq, Kind::Resume, &plan.body))?)
}

/// Puts the signatures where the next start finds them.
///
/// # Errors
/// [`RecoverError::TooFew`] unless q custodians have signed the same.
pub fn keep<S: Store>(store: &S, context: &Context, signatures: &[Msg]) -> Result<(), RecoverError> {
    if agreed(context, signatures).is_none() {
        return Err(RecoverError::TooFew { got: signatures.len(), needed: context.q() });
    }
    let mut writes = WriteBatch::new();
    writes.put(RESUME, to_bytes(signatures));
    store.apply(writes)?;
    Ok(store.flush()?)
}

pub(crate) fn to_bytes(signatures: &[Msg]) -> Vec<u8> {
    wire::Proof { messages: signatures.iter().map(|message| message.bare()).collect() }.encode_to_vec()
}

/// The Resume that at least q distinct custodians have signed, if these are their signatures and nothing else.
pub(crate) fn agreed<'a>(context: &Context, signatures: &'a [Msg]) -> Option<&'a Resume> {
    let first = signatures.first()?;
    let signers: BTreeSet<u16> = signatures
        .iter()
        .filter(|message| message.kind() == Kind::Resume && message.envelope().body == first.envelope().body)
        .map(|message| message.sender)
        .collect();
    match &first.body {
        Body::Resume(resume) if signers.len() >= context.q() && signers.len() == signatures.len() => {
            Some(resume)
        }
        _ => None,
    }
}
