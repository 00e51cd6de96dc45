//! The state of one custodian and the dispatch of one step. What a step may do is spread over the modules beside this one:
//! [`crate::normal`] certifies heads, [`crate::session`] signs them, [`crate::change`] changes leaders, [`crate::sync`]
//! catches up, [`crate::start`] comes back after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use concordat_events::hash::Hash;
use concordat_ledger::Ledger;
use concordat_store::{Store, StoreError, WriteBatch};
use rand_core::{CryptoRng, RngCore};

use crate::context::{Context, Identity};
use crate::effect::{Action, After, Alarm, Effect, Input, Now};
use crate::epoch::Epoch;
use crate::evidence::Evidence;
use crate::limits::CLAIM_FLUSH_MS;
use crate::message::{self, Body, CertifiedHead, Kind, Message, Msg, PrepareCert};
use crate::pace::Pace;
use crate::pool::Pool;
use crate::record::{self, Bar, Record};
use crate::repeat::{Repeats, Slot};
use crate::resume::Relayed;
use crate::round::{Nonces, Round};
use crate::rules::{Rule, Rules};
use crate::scheme::{Frost, Scheme};
use crate::spread::Spread;
use crate::start::StartCheck;
use crate::state::Far;
use crate::timing::Timing;
use crate::wire;

/// Why a custodian must stop. Nothing of this is retried.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The store failed (PROTOCOL 7).
    #[error("the store failed, so this custodian stops: {0}")]
    Store(#[from] StoreError),
    /// The ledger can't be opened.
    #[error("the ledger can't be opened: {0}")]
    Ledger(#[from] concordat_ledger::OpenError),
    /// The own state contradicts what the group signed, or the protocol's assumption is broken.
    #[error("{0}")]
    Stop(Alarm),
    /// The certified state puts another roster in force than the one this core was given.
    #[error(
        "the certified state puts the roster of head {expected} in force, this custodian was started under that of head {got}; take the context from its store"
    )]
    Roster {
        /// What is in force.
        expected: u64,
        /// What it was given.
        got: u64,
    },
    /// The versions in force need what this build doesn't have.
    #[error("{0}")]
    Unsupported(concordat_ledger::ExecuteError),
}

/// Randomness for nonces and questions, passed in.
pub trait Entropy: RngCore + CryptoRng + Send {}
impl<T: RngCore + CryptoRng + Send> Entropy for T {}

/// What a custodian is made of.
pub struct Parts<S, Sc: Scheme = Frost> {
    /// The cluster.
    pub context: Arc<Context>,
    /// Its number.
    pub me: u16,
    /// Its identity key.
    pub identity: Box<dyn Identity>,
    /// Its key share. Without one it only follows along, whatever the roster says.
    pub share: Option<Sc::KeyShare>,
    /// Its store.
    pub store: S,
    /// Its timeouts.
    pub timing: Timing,
    /// The kernel's boot id, empty if there is none (PROTOCOL 8).
    pub boot: Vec<u8>,
    /// The operator says that the disk was not restored.
    pub not_restored: bool,
    /// Randomness.
    pub entropy: Box<dyn Entropy>,
}

/// What peers are told or asked once in a while, each apart from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hint {
    /// A question for heads.
    Heads,
    /// A question for the batches of a lock that this custodian names. Each namer's apart: a list that nobody can serve must
    /// not keep another's from being asked for.
    Batches(u16),
    /// An older certificate.
    Certificate,
    /// The running epoch's grants.
    Epoch,
    /// A request for an empty batch.
    Nudge,
}

/// What is left to do after a step's flush.
#[derive(Debug)]
pub(crate) enum Then {
    /// Take the nonces out of memory and compute the share.
    Share(Hash),
    /// Take the lock that belonged before the share ([`Rules::LOCK_FLUSHED_FIRST`]).
    Lock(Box<PrepareCert>),
    /// Read lock and certified head, and grant.
    Grant,
    /// The check at the start is over.
    Run,
}

/// What one step has produced so far.
#[derive(Default)]
pub(crate) struct Out {
    pub writes: WriteBatch,
    pub dirty: bool,
    pub effects: Vec<Effect>,
    pub then: Vec<Then>,
}

/// One custodian's side of PROTOCOL.md.
pub struct Core<S: Store, R: Rules> {
    pub(crate) context: Arc<Context>,
    pub(crate) me: u16,
    pub(crate) identity: Box<dyn Identity>,
    pub(crate) share: Option<<R::Scheme as Scheme>::KeyShare>,
    pub(crate) keys: Option<<R::Scheme as Scheme>::GroupKeys>,
    pub(crate) timing: Timing,
    pub(crate) store: Arc<S>,
    pub(crate) ledger: Ledger<Arc<S>>,
    pub(crate) record: Record,
    /// The newest certified head, as it is shown to others.
    pub(crate) last: Option<CertifiedHead>,
    pub(crate) evidence: BTreeMap<u16, Evidence>,
    /// The newest message of each kind that can contradict another, per sender.
    pub(crate) witnessed: BTreeMap<(u16, Kind), wire::Envelope>,
    pub(crate) claims: BTreeMap<u16, wire::Claim>,
    pub(crate) unflushed_claims: BTreeSet<u16>,
    pub(crate) unflushed_since: Option<u64>,
    pub(crate) pool: Pool,
    pub(crate) epoch: Epoch,
    pub(crate) round: Round<Nonces<R::Scheme>>,
    pub(crate) start: StartCheck,
    pub(crate) repeats: Repeats,
    /// The newest certificate on its way to everybody.
    pub(crate) spread: Spread,
    /// Since when each peer can't be reached, ms.
    pub(crate) down: BTreeMap<u16, u64>,
    /// The newest grant of each custodian.
    pub(crate) grants: BTreeMap<u16, Msg>,
    /// The newest complaint of each custodian.
    pub(crate) complaints: BTreeMap<u16, Msg>,
    pub(crate) now: Now,
    pub(crate) entropy: Box<dyn Entropy>,
    pub(crate) out: Out,
    pub(crate) boot: Vec<u8>,
    pub(crate) not_restored: bool,
    /// Certificates in a row since the last epoch change.
    pub(crate) streak: u32,
    /// How fast this leader certifies, and those before it.
    pub(crate) pace: Pace,
    /// The newest signature of a Resume by each custodian.
    pub(crate) resumes: BTreeMap<u16, Msg>,
    /// A head that relays hold and this custodian doesn't.
    pub(crate) relayed: Option<Relayed>,
    /// The state of another head, as it is fetched and served.
    pub(crate) far: Far,
    /// This process is going to stop, so it leads nothing any more.
    pub(crate) resigned: bool,
    /// Another roster is in force: this core is done.
    pub(crate) done: bool,
    /// When something was asked for last, so that a flood of hints makes no flood of questions.
    pub(crate) asked: BTreeMap<(u16, Hint), u64>,
    pub(crate) rules: std::marker::PhantomData<R>,
}

impl<S: Store, R: Rules> Core<S, R> {
    /// Reads what is durable. Nothing is sent before [`Input::Start`].
    pub fn open(parts: Parts<Arc<S>, R::Scheme>) -> Result<Self, Fatal> {
        let Parts { context, me, identity, share, store, timing, boot, not_restored, entropy } = parts;
        let context = Arc::new(context.under::<R>());
        let ledger = Ledger::open(store.clone(), context.genesis.clone())?;
        if ledger.charter().office != context.office {
            let (expected, got) = (ledger.charter().office.since, context.office.since);
            return Err(Fatal::Roster { expected, got });
        }
        let stored = Record::load(&store, &context)?;
        // A key share without a record: only the ceremony makes a first one, so this disk has lost it (PROTOCOL 8).
        let lost = stored.is_none();
        let mut record = stored.unwrap_or_default();
        if lost && R::keeps(Rule::Quarantine) {
            record.bar = Bar::Unknown;
        }
        let epoch = Epoch::new(record.epoch == context.first_epoch(), 0);
        Ok(Core {
            keys: share.as_ref().map(R::Scheme::group_keys),
            last: record::last_head(&store, &context)?,
            evidence: record::evidence(&store, &context)?,
            claims: record::claims(&store)?,
            context,
            me,
            identity,
            share,
            timing,
            store,
            ledger,
            record,
            witnessed: BTreeMap::new(),
            unflushed_claims: BTreeSet::new(),
            unflushed_since: None,
            pool: Pool::default(),
            epoch,
            round: Round::default(),
            start: StartCheck::default(),
            repeats: Repeats::default(),
            spread: Spread::default(),
            down: BTreeMap::new(),
            grants: BTreeMap::new(),
            complaints: BTreeMap::new(),
            now: Now::default(),
            entropy,
            out: Out::default(),
            boot,
            not_restored,
            streak: 0,
            pace: Pace::default(),
            resumes: BTreeMap::new(),
            relayed: None,
            far: Far::default(),
            resigned: false,
            done: false,
            asked: BTreeMap::new(),
            rules: std::marker::PhantomData,
        })
    }

    /// One step: everything that follows from one input, as data.
    pub(crate) fn step(&mut self, now: Now, input: Input) -> Result<Out, Fatal> {
        self.now = now;
        if self.done {
            return Ok(Out::default());
        }
        match input {
            Input::Start => self.on_start()?,
            Input::Tick => self.on_tick()?,
            Input::Request { event, origin } => self.on_request(*event, origin),
            Input::Message(message) => self.on_message(message)?,
            Input::Ordered { epoch, entry } => self.on_ordered(epoch, entry)?,
            Input::GroupFailed { epoch } => self.on_group_failed(epoch),
            Input::Reachable { peer, up } => self.on_reachable(peer, up),
            Input::Resign => self.resigned = true,
            Input::Relayed(log) => self.on_relayed(&log),
        }
        self.advance()?;
        Ok(self.finish())
    }

    /// What is left to do once the flush is done.
    pub(crate) fn resume(&mut self, then: Then) -> Result<Out, Fatal> {
        if self.done {
            return Ok(Out::default());
        }
        match then {
            Then::Share(session) => self.release_share(session)?,
            Then::Lock(cert) => self.take_lock(*cert)?,
            Then::Grant => self.send_grant(),
            Then::Run => self.run()?,
        }
        self.advance()?;
        Ok(self.finish())
    }

    /// Everything that may have become possible, whatever the input was.
    fn advance(&mut self) -> Result<(), Fatal> {
        if !self.start.running() || self.done {
            return Ok(());
        }
        self.reopen_group();
        self.try_start_epoch()?;
        self.try_batch()?;
        self.try_propose()?;
        self.try_prepare()?;
        self.try_session()?;
        self.forward_requests();
        self.watch_progress();
        Ok(())
    }

    fn finish(&mut self) -> Out {
        let overdue = self.unflushed_since.is_some_and(|since| self.now.mono_ms >= since + CLAIM_FLUSH_MS);
        // Before the check at the start is over, seq must stay as it was read, or a rollback is never seen: then claims are
        // flushed by themselves (PROTOCOL 8).
        let alone = overdue && self.start.asking() && R::keeps(Rule::SeqStaysUntilChecked);
        if overdue && !alone {
            self.durable();
        }
        let mut out = std::mem::take(&mut self.out);
        if out.dirty || alone {
            for sender in std::mem::take(&mut self.unflushed_claims) {
                if let Some(claim) = self.claims.get(&sender) {
                    record::put_claim(&mut out.writes, claim);
                }
            }
            self.unflushed_since = None;
        }
        if alone {
            out.dirty = true;
        } else if out.dirty {
            let mut record = self.record.clone();
            if !R::keeps(Rule::PreparedPersists) {
                record.prepared = None;
            }
            if !R::keeps(Rule::BarPersists) {
                record.bar = Bar::None;
            }
            if !R::keeps(Rule::EpochPersists) {
                record.epoch = 0;
            }
            if !R::keeps(Rule::LockPersists) {
                record.lock = None;
            }
            record.save(&mut out.writes);
        }
        out
    }

    /// Something in this step must be durable: raises `seq`, once.
    pub(crate) fn durable(&mut self) {
        if !self.out.dirty {
            self.out.dirty = true;
            // Without a vote there is nothing to promise; and whoever comes back to one is still asked what it has lost.
            if !self.start.outside() {
                self.record.seq = R::next_seq(&self.record);
            }
        }
    }

    /// Are there claims of peers that own messages must not outrun (PROTOCOL 7)?
    pub(crate) fn flush_claims(&mut self) {
        if !self.unflushed_claims.is_empty() {
            self.durable();
        }
    }

    fn on_message(&mut self, message: Msg) -> Result<(), Fatal> {
        self.note_claim(&message);
        self.spread.note(&message);
        match &message.body {
            Body::Question(nonce) => return self.on_question(message.sender, message.seq, *nonce),
            Body::Answer(answer) => return self.on_answer(message.sender, answer),
            _ if !self.start.running() => return self.follow(&message),
            _ => {}
        }
        self.witness(&message);
        match &message.body {
            Body::Requests(events) => self.on_requests(message.sender, events),
            Body::Propose(_) => self.on_propose(&message)?,
            Body::Prepare(_) => self.on_prepare(&message),
            Body::Certify(_) => self.on_certify(&message)?,
            Body::Lock(cert) => self.adopt(cert.clone(), message.sender)?,
            Body::Refuse(refuse) => self.on_refuse(message.sender, refuse)?,
            Body::Shown(prepares) => self.on_shown(prepares),
            Body::Share(_) => self.on_share(&message)?,
            Body::Again(vote) => self.on_again(message.sender, *vote),
            Body::Certificate(certificate) => self.on_certificate(message.sender, certificate)?,
            Body::Complaint(_) => self.on_complaint(&message)?,
            Body::Grant(_) => self.on_grant(&message)?,
            Body::Evidence(evidence) => self.accept_evidence(evidence.clone()),
            Body::FetchHeads(from) => self.on_fetch_heads(message.sender, *from)?,
            Body::Heads(heads) => self.on_heads(message.sender, heads)?,
            Body::FetchBatches(hashes) => self.on_fetch_batches(message.sender, hashes)?,
            Body::Batches(batches) => self.on_batches(batches)?,
            Body::Nudge => self.on_nudge(message.sender),
            Body::FetchState(asked) => self.on_fetch_state(message.sender, *asked)?,
            Body::State(state) => self.on_state(message.sender, state),
            Body::Resume(_) => self.on_resume(&message)?,
            // Shown to operators, not to custodians.
            Body::Report(_) => {}
            // These count only where the epoch's log has them; a contradiction was seen above.
            Body::Wrapper(_) | Body::EpochStart(_) => {}
            Body::Question(_) | Body::Answer(_) => {}
        }
        Ok(())
    }

    /// Remembers the highest seq of each peer, shown by its own signature.
    fn note_claim(&mut self, message: &Msg) {
        if message.sender == self.me || !self.context.votes(message.sender) {
            return;
        }
        if self.claims.get(&message.sender).is_none_or(|known| known.seq < message.seq) {
            self.claims.insert(message.sender, message.claim());
            self.unflushed_claims.insert(message.sender);
            self.unflushed_since.get_or_insert(self.now.mono_ms);
        }
    }

    fn on_reachable(&mut self, peer: u16, up: bool) {
        if up {
            self.down.remove(&peer);
        } else {
            self.down.entry(peer).or_insert(self.now.mono_ms);
        }
    }

    /// The timeout now.
    pub(crate) fn timeout(&self) -> u64 {
        self.timing.timeout(self.record.doublings)
    }

    /// Signs a message of this custodian.
    pub(crate) fn seal(&self, kind: Kind, body: &impl prost::Message, attachment: Vec<u8>) -> Option<Msg> {
        let envelope = message::seal(
            &self.context,
            self.identity.as_ref(),
            self.me,
            self.record.seq,
            kind,
            body.encode_to_vec(),
            attachment,
        );
        // What this custodian says passes the same checks as what others say; if it doesn't, it isn't said.
        Message::check(&self.context, envelope).ok()
    }

    /// Signs a message whose body this custodian has just made itself, and which need not be parsed again.
    pub(crate) fn seal_own(
        &self,
        kind: Kind,
        body: &impl prost::Message,
        attachment: Vec<u8>,
        make: impl FnOnce(&Self) -> Body,
    ) -> Option<Msg> {
        let bytes = body.encode_to_vec();
        let envelope = message::seal(
            &self.context,
            self.identity.as_ref(),
            self.me,
            self.record.seq,
            kind,
            bytes,
            attachment,
        );
        Some(Message::own(&self.context, self.me, envelope, make(self)))
    }

    /// Sends after this step's flush, or at once if the step writes nothing.
    pub(crate) fn send(&mut self, to: u16, message: Msg) {
        self.effect(After::Flush, Action::Send { to, message });
    }

    /// Sends to all, the sender included: its own votes count like others'.
    pub(crate) fn send_all(&mut self, message: &Msg) {
        let everyone: Vec<u16> = self.context.roster.numbers().collect();
        for to in everyone {
            self.send(to, message.clone());
        }
    }

    /// Sends to all others.
    pub(crate) fn send_others(&mut self, message: &Msg) {
        let others: Vec<u16> = self.others().collect();
        for to in others {
            self.send(to, message.clone());
        }
    }

    /// Sends to all and repeats until superseded.
    pub(crate) fn send_and_repeat(&mut self, slot: Slot, message: &Msg) {
        self.send_all(message);
        self.repeats.set(slot, message.clone(), None, self.now.mono_ms, self.timeout());
    }

    pub(crate) fn others(&self) -> impl Iterator<Item = u16> + use<S, R> {
        let me = self.me;
        let all: Vec<u16> = self.context.roster.numbers().filter(|number| *number != me).collect();
        all.into_iter()
    }

    pub(crate) fn effect(&mut self, after: After, action: Action) {
        // A message that names a seq which isn't durable yet would make a crash look like a rollback.
        let after = match &action {
            Action::Send { message, .. } if self.out.dirty && message.sender == self.me => After::Flush,
            _ => after,
        };
        self.out.effects.push(Effect { after, action });
    }

    pub(crate) fn alarm(&mut self, alarm: Alarm) {
        self.effect(After::Nothing, Action::Alarm(alarm));
    }

    /// May this custodian vote?
    pub(crate) fn may_vote(&self) -> bool {
        self.start.running()
            && (self.record.bar == Bar::None || !R::keeps(Rule::Quarantine))
            && !self.waits_for_resume()
            && self.relayed.is_none()
    }

    /// The leader of the running epoch.
    pub(crate) fn leader(&self) -> u16 {
        let named: BTreeSet<u16> = self.evidence.keys().copied().collect();
        self.context.leader(self.record.epoch, &named)
    }

    /// Does this custodian lead the running epoch? Not if it has restarted since it entered it, or has resigned (PROTOCOL 5).
    pub(crate) fn leads(&self) -> bool {
        self.leader() == self.me
            && self.record.epoch_run == self.record.run
            && self.may_vote()
            && !self.resigned
    }
}
