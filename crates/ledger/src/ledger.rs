//! The ledger itself: the certified state, what is computed on it, and what is asked of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use concordat_events::kinds::SNAPSHOT;
use concordat_events::limits::{EVENT_BYTES, MAX_INTEGER};
use concordat_events::{Batch, Build, Charter, Genesis, Hash, PublicKey, Route, ValidEvent};
use concordat_store::{Store, StoreError, WriteBatch};

use crate::cache::Definitions;
use crate::charter::{self, Proposed};
use crate::draft::{Draft, StoredTip, Tip};
use crate::error::{BatchFault, ExecuteError, InstallError, OpenError};
use crate::execute::{Ground, execute};
use crate::keys::{self, claim_key, corrupt, machine_key};
use crate::layer::{Certified, Read};
use crate::mail::Delivery;
use crate::proof::{End, Proof};
use crate::reason::Refusal;
use crate::record::{Claim, MachineView, Record, leaf};
use crate::tree::{self, Node};
use crate::{admit, check, limits, request, work};

/// All machines under one head, over a store.
///
/// Its keys all begin with `ledger/`, so it can share a store with others. It writes nothing itself:
/// [`Ledger::install`] returns the batch, which the caller applies with its own record of the certificate.
pub struct Ledger<S> {
    certified: Certified<S>,
    genesis: Genesis,
    cluster: Hash,
    charter: Charter,
    build: Build,
    definitions: Arc<Definitions>,
    tip: Option<Tip>,
    next_due_ms: Option<u64>,
}

impl<S: Store> Ledger<S> {
    /// Opens the state of the cluster that `genesis` founded; an empty store is its state before Head(0).
    ///
    /// # Errors
    /// A genesis that this build can't run, a store of another cluster, or one whose tree doesn't have the root of its
    /// head.
    pub fn open(store: S, genesis: Genesis) -> Result<Self, OpenError> {
        Self::open_as(store, genesis, Build::default())
    }

    /// The same for another build than this one: what it can execute is told apart from what is in force.
    pub fn open_as(store: S, genesis: Genesis, build: Build) -> Result<Self, OpenError> {
        genesis.check()?;
        if genesis.time_ms > MAX_INTEGER.unsigned_abs() {
            return Err(OpenError::TooLarge(format!("its time is beyond {MAX_INTEGER} ms")));
        }
        let cluster = genesis.cluster()?;
        let certified = Certified::open(store)?;
        let mut ledger = Ledger {
            charter: charter::in_force(&certified, &genesis)?,
            certified,
            genesis,
            cluster,
            build,
            definitions: Arc::default(),
            tip: None,
            next_due_ms: None,
        };
        match ledger.certified.stored(keys::TIP)? {
            Some(bytes) => ledger.resume(&bytes)?,
            None => ledger.check_first()?,
        }
        Ok(ledger)
    }

    /// The same ledger over another store, which must hold what the own one holds.
    pub fn fork(&self, store: S) -> Self {
        Ledger {
            certified: self.certified.fork(store),
            genesis: self.genesis.clone(),
            cluster: self.cluster,
            charter: self.charter.clone(),
            build: self.build.clone(),
            definitions: self.definitions.clone(),
            tip: self.tip.clone(),
            next_due_ms: self.next_due_ms,
        }
    }

    fn resume(&mut self, bytes: &[u8]) -> Result<(), OpenError> {
        let stored = StoredTip::decode(bytes)?;
        let next_due_ms = stored.next_due_ms();
        let tip = stored.tip(self.genesis.group_key, self.genesis.kinds.log)?;
        if tip.head.cluster != self.cluster {
            return Err(OpenError::OtherCluster { stored: tip.head.cluster, expected: self.cluster });
        }
        let got = tree::root(&self.certified)?;
        if got != tip.head.state_root {
            return Err(OpenError::Root { got, expected: tip.head.state_root });
        }
        self.tip = Some(tip);
        self.next_due_ms = next_due_ms;
        Ok(())
    }

    /// Head(0) must fit into events before anybody signs a genesis that can't start.
    fn check_first(&self) -> Result<(), OpenError> {
        let draft = self.execute(&[]).map_err(|error| match error {
            ExecuteError::Store(error) => OpenError::Store(error),
            other => OpenError::TooLarge(other.to_string()),
        })?;
        for message in &draft.messages {
            let size = message.signed_size();
            if size > EVENT_BYTES {
                let kind = message.kind;
                let text = format!("its event of kind {kind} would have {size} bytes, at most {EVENT_BYTES}");
                return Err(OpenError::TooLarge(text));
            }
        }
        Ok(())
    }

    /// The certified head; `None` before Head(0).
    pub fn tip(&self) -> Option<&Tip> {
        self.tip.as_ref()
    }

    /// The height of the head to be computed next.
    pub fn next_height(&self) -> u64 {
        self.tip.as_ref().map_or(0, |tip| tip.height + 1)
    }

    /// The genesis.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The cluster's id.
    pub fn cluster(&self) -> Hash {
        self.cluster
    }

    /// What the certified head puts in force.
    pub fn charter(&self) -> &Charter {
        &self.charter
    }

    /// What custodians propose to put in force instead, by number.
    pub fn proposals(&self) -> Result<BTreeMap<u16, Proposed>, StoreError> {
        charter::proposals(&self.certified)
    }

    /// The highest number that any custodian ever had: who comes into office has a higher one.
    pub fn highest_number(&self) -> Result<u16, StoreError> {
        charter::highest_number(&self.certified, &self.charter)
    }

    /// Computes the next head from `batches` (none for Head(0)). The certified state stays as it is.
    pub fn execute(&self, batches: &[Batch]) -> Result<Draft, ExecuteError> {
        let ground = Ground {
            genesis: &self.genesis,
            cluster: self.cluster,
            charter: &self.charter,
            build: &self.build,
            definitions: &self.definitions,
            certified: &self.certified,
        };
        execute(&ground, self.tip.as_ref(), batches)
    }

    /// Is a batch that follows a batch or head of time `before_ms` invalid whatever the clock says? No state is looked
    /// at, so this is what makes evidence.
    pub fn check_batch(batch: &Batch, before_ms: u64) -> Result<(), BatchFault> {
        check::batch(batch, before_ms)
    }

    /// Makes a draft the certified state, at once for every reader of this ledger. The caller applies the batch, together
    /// with its own record of the certificate, before the next draft is installed after a restart; batches must be
    /// applied in the order of their heights.
    ///
    /// # Errors
    /// [`InstallError::Stale`] if the draft continues another head than the certified one.
    pub fn install(&mut self, draft: Draft) -> Result<WriteBatch, InstallError> {
        let tip = self.tip.as_ref().map_or(Hash::ZERO, |tip| tip.id);
        let height = draft.head.height;
        if draft.head.parent != tip || height != self.next_height() {
            return Err(InstallError::Stale { height, parent: draft.head.parent, tip });
        }
        self.settle();
        let batch = self.certified.install(height, draft.writes);
        self.tip = Some(Tip { height, id: draft.id, time_ms: draft.head.time_ms, head: draft.head });
        self.next_due_ms = draft.next_due_ms;
        if let Some(charter) = draft.charter {
            self.charter = charter;
        }
        Ok(batch)
    }

    /// Drops from memory what the store has taken over; [`Ledger::install`] does this too. A store that can't be read says
    /// so at the next read that matters; until then everything installed is kept.
    pub fn settle(&mut self) {
        if let Ok(Some(bytes)) = self.certified.stored(keys::TIP)
            && let Ok(stored) = StoredTip::decode(&bytes)
        {
            self.certified.forget(stored.height());
        }
    }

    /// When a batch is needed though no request waits, ms since 1970: for a timer, an event that waits for its second,
    /// or one that found no room in the last head (then it is that head's time). `None` if nothing is pending.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.next_due_ms
    }

    /// Would a request be worth ordering now? A look at the certified state alone, before anything is ordered: `None`
    /// is no promise, and what depends on the order in the log (`transition`, guards, a machine's end) isn't judged.
    ///
    /// So what a machine won't take is ordered too, and rejected in the log. What bounds a flood of that is what bounds every
    /// flood of inputs, and a machine that is done costs least of all, because nothing of it is evaluated: a custodian's queue
    /// holds so many requests of one author, so many of all and so many bytes (`finality::limits::POOL_PER_AUTHOR`,
    /// `POOL_PER_CUSTODIAN`, `POOL_BYTES`), queues are served in turn, and a head has at most
    /// [`concordat_events::limits::REQUESTS_PER_HEAD`] requests, a batch [`concordat_events::limits::BATCH_BYTES`]. Each request is
    /// ordered once, however often it is brought: its leaf stays, one of some 80 bytes, and makes it a `duplicate`. No fee
    /// and no work is asked for, so an author with many keys can fill a custodian's queue; those of the others go on.
    pub fn judge(&self, event: &ValidEvent, wall_ms: u64) -> Result<Option<Refusal>, StoreError> {
        match Route::of(event, &self.genesis.group_key) {
            Err(error) => Ok(Some(request::unreadable(&error))),
            Ok(Route::Definition(definition)) => {
                // The group's own are of machines that machines started: there already, or about to be here too.
                let own = event.author() == self.genesis.group_key;
                let refusal = if own || self.has(&machine_key(&event.id()))? {
                    Some(Refusal::Duplicate)
                } else if request::too_new(event, wall_ms) {
                    Some(Refusal::TooNew)
                } else if let Err(refusal) =
                    admit::policy(&self.genesis, &self.charter.versions.engines, event, &definition)
                {
                    Some(refusal)
                } else {
                    self.has(&claim_key(SNAPSHOT, &definition.d))?.then_some(Refusal::DTaken)
                };
                Ok(refusal)
            }
            Ok(Route::Input(input)) => self.judge_input(event, &input.machine, wall_ms),
            Ok(Route::Change(_)) => {
                let judged = charter::judge(&self.certified, &self.genesis, &self.charter, event, wall_ms)?;
                Ok(judged.err())
            }
            Ok(Route::Other) => {
                let mut first = None;
                for id in request::listeners(&self.certified, event)? {
                    let fixed = work::fixed(&self.definitions, &self.certified, &id)?;
                    if request::matches(&fixed.sources, event) {
                        match self.judge_input(event, &id, wall_ms)? {
                            None => return Ok(None),
                            refusal => first = first.or(refusal),
                        }
                    }
                }
                Ok(first.or(Some(request::nobody_listens(event))))
            }
        }
    }

    fn judge_input(
        &self,
        event: &ValidEvent,
        machine: &Hash,
        wall_ms: u64,
    ) -> Result<Option<Refusal>, StoreError> {
        let Some(record) = self.record(machine)? else { return Ok(Some(Refusal::UnknownMachine)) };
        // One for a machine that is done is ordered too: who comes a moment too late is told so in the log, signed.
        Ok(if self.has(&keys::request_key(machine, &event.id()))? {
            Some(Refusal::Duplicate)
        } else if request::too_old(event, record.started_ms) {
            Some(Refusal::TooOld)
        } else if request::too_new(event, wall_ms) {
            Some(Refusal::TooNew)
        } else {
            None
        })
    }

    /// A machine as certified.
    pub fn machine(&self, id: &Hash) -> Result<Option<MachineView>, StoreError> {
        self.record(id)?.map(|record| self.view(*id, record)).transpose()
    }

    /// Machines in the order of their ids, from the one after `after`; at most [`limits::PAGE`] and `limit`.
    pub fn machines(&self, after: Option<&Hash>, limit: usize) -> Result<Vec<MachineView>, StoreError> {
        let prefix = keys::leaf(keys::MACHINES);
        let from = after.map_or_else(Vec::new, |id| [&keys::leaf(&machine_key(id)), &[0][..]].concat());
        let entries = self.certified.scan(&prefix, &from, limit.min(limits::PAGE))?;
        let mut machines = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let id = key.strip_prefix(prefix.as_slice()).and_then(|hex| std::str::from_utf8(hex).ok());
            let id = id.and_then(Hash::from_hex).ok_or_else(|| corrupt(&key, "expected a machine's id"))?;
            machines.push(self.view(id, crate::record::decode(&key, &value)?)?);
        }
        Ok(machines)
    }

    /// The machine whose snapshots have this `d`.
    pub fn find_by_d(&self, d: &str) -> Result<Option<Hash>, StoreError> {
        let claim: Option<Claim> = leaf(&self.certified, &claim_key(SNAPSHOT, d))?;
        Ok(claim.map(|claim| claim.machine))
    }

    /// Is this request to this machine settled, accepted or rejected, and at which height?
    pub fn settled(&self, machine: &Hash, request: &Hash) -> Result<Option<u64>, StoreError> {
        leaf(&self.certified, &keys::request_key(machine, request))
    }

    /// The value under a key of a machine's record; `None` if it has none.
    pub fn kept(
        &self,
        machine: &Hash,
        record: &str,
        key: &str,
    ) -> Result<Option<serde_json::Value>, StoreError> {
        leaf(&self.certified, &keys::record_key(machine, record, key))
    }

    /// What became of a message between machines; `None` if there was none with this id.
    pub fn delivery(&self, receiver: &Hash, mail: &Hash) -> Result<Option<Delivery>, StoreError> {
        leaf(&self.certified, &keys::mail_key(receiver, mail))
    }

    /// The `source` filters of a machine; none if there is no such machine.
    pub fn sources(&self, machine: &Hash) -> Result<Vec<nostr::Filter>, StoreError> {
        if !self.has(&machine_key(machine))? {
            return Ok(Vec::new());
        }
        Ok(work::fixed(&self.definitions, &self.certified, machine)?.sources.clone())
    }

    /// Proves a machine's record, or that there is no such machine, against the tip's state root.
    pub fn prove(&self, machine: &Hash) -> Result<Proof, StoreError> {
        self.prove_key(&machine_key(machine))
    }

    /// Proves any leaf, or its absence, against the tip's state root.
    pub fn prove_key(&self, key: &[u8]) -> Result<Proof, StoreError> {
        let place = tree::place(key);
        let (path, end) = tree::walk(&self.certified, &place)?;
        let end = match end {
            Some(Node::Leaf { place: at, .. }) if at == place => {
                let stored = keys::leaf(key);
                let value = self.certified.get(&stored)?.map(String::from_utf8);
                match value {
                    Some(Ok(value)) => End::Value(value),
                    _ => return Err(corrupt(&stored, "the tree has a leaf without its value")),
                }
            }
            Some(Node::Leaf { place, value }) => End::Other(place, value),
            _ => End::Empty,
        };
        Ok(Proof { path, end })
    }

    pub(crate) fn certified(&self) -> &Certified<S> {
        &self.certified
    }

    pub(crate) fn certified_mut(&mut self) -> &mut Certified<S> {
        &mut self.certified
    }

    /// Another state has taken the place of the certified one.
    pub(crate) fn set_tip(&mut self, tip: Tip, next_due_ms: Option<u64>, charter: Charter) {
        (self.tip, self.next_due_ms, self.charter) = (Some(tip), next_due_ms, charter);
    }

    /// The group's key.
    pub fn group(&self) -> PublicKey {
        self.genesis.group_key
    }

    fn has(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.certified.get(&keys::leaf(key))?.is_some())
    }

    fn record(&self, id: &Hash) -> Result<Option<Record>, StoreError> {
        leaf(&self.certified, &machine_key(id))
    }

    fn view(&self, id: Hash, record: Record) -> Result<MachineView, StoreError> {
        let fixed = work::fixed(&self.definitions, &self.certified, &id)?;
        Ok(MachineView::new(id, &fixed, record))
    }
}
