//! Where a custodian stands, for operators and for the invariants of the simulator.

use concordat_events::hash::Hash;
use concordat_store::Store;

use crate::core::Core;
use crate::evidence::Finding;
use crate::message::Vote;
use crate::record::Bar;
use crate::rules::Rules;

/// A view of one custodian's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its number.
    pub me: u16,
    /// The epoch entered.
    pub epoch: u64,
    /// Its leader.
    pub leader: u16,
    /// Has the epoch's log begun?
    pub started: bool,
    /// Is the check at the start over?
    pub running: bool,
    /// Does it only follow along, without a vote?
    pub outside: bool,
    /// Quarantine.
    pub bar: Bar,
    /// Its flush counter.
    pub seq: u64,
    /// The certified head: height and id.
    pub certified: Option<(u64, Hash)>,
    /// What it last voted for.
    pub prepared: Option<Vote>,
    /// Its lock.
    pub lock: Option<Vote>,
    /// The head that it last gave a share for.
    pub shared: Option<Vote>,
    /// Requests that wait.
    pub pool: usize,
    /// Does it lead the running epoch?
    pub leads: bool,
    /// Has it resigned, so that it leads nothing until it is started again?
    pub resigned: bool,
    /// Custodians named by evidence.
    pub named: Vec<u16>,
    /// What they did.
    pub evidence: Vec<Finding>,
    /// Custodians that can't be reached.
    pub unreachable: Vec<u16>,
    /// The timeout in force, ms.
    pub timeout_ms: u64,
    /// The height of a head that relays hold and nobody has shown to it.
    pub relays_ahead: Option<u64>,
    /// Has it complained about the running epoch?
    pub complained: bool,
}

impl<S: Store, R: Rules> Core<S, R> {
    pub(crate) fn status(&self) -> Status {
        Status {
            me: self.me,
            epoch: self.record.epoch,
            outside: self.start.outside(),
            leader: self.leader(),
            started: self.epoch.started.is_some(),
            running: self.start.running(),
            bar: self.record.bar,
            seq: self.record.seq,
            certified: self.ledger.tip().map(|tip| (tip.height, tip.id)),
            prepared: self.record.prepared,
            lock: self.record.lock.as_ref().map(|lock| lock.vote),
            shared: self.record.shared.as_ref().map(|(vote, _)| *vote),
            pool: self.pool.len(),
            leads: self.leads(),
            resigned: self.resigned,
            named: self.evidence.keys().copied().collect(),
            evidence: self.evidence.values().map(|evidence| evidence.finding).collect(),
            unreachable: self.down.keys().copied().collect(),
            timeout_ms: self.timeout(),
            relays_ahead: self.relays_ahead(),
            complained: self.epoch.complained.is_some(),
        }
    }
}
