//! One custodian and the machine it runs on: its process, its disk, its clock, its power.

use std::collections::BTreeMap;
use std::sync::Arc;

use concordat_finality::{Action, Context, Record, Status};
use concordat_node::engine::Groups;
use concordat_store::Store;
use concordat_store::memory::{Image, MemoryStore};
use futures::channel::mpsc::UnboundedSender;

use super::brain::{Brain, Mind};
use super::liars::Liar;
use super::outlet::Outlet;
use super::outside::{Life, Simulated};
use super::world::Event;

/// A running process.
pub struct Running {
    /// Its decider.
    pub brain: Box<dyn Brain>,
    /// Its log groups.
    pub groups: Groups<Simulated>,
    /// The way from the decider to them.
    pub orders: UnboundedSender<Action>,
    /// Its way to the relays.
    pub outlet: Outlet,
    /// When the decider is woken next, ms; nothing if it isn't.
    pub wake: Option<u64>,
    /// What it was told about its peers.
    pub reachable: BTreeMap<u16, bool>,
    /// Where it stood after its last input.
    pub status: Status,
}

/// See the module's header.
pub struct Seat {
    /// The custodian's number. Twins have one number and two seats.
    pub number: u16,
    /// Does it keep to the protocol?
    pub honest: bool,
    /// What it does instead.
    pub liar: Option<Liar>,
    /// The rules that its decider keeps.
    pub mind: Mind,
    /// What was in force when its process started, under the law.
    pub context: Arc<Context>,
    /// How it reads messages: by the law, or by a mutant's.
    pub reads: Arc<Context>,
    /// Its disk.
    pub disk: Arc<MemoryStore>,
    /// Which process run.
    pub run: u64,
    /// The process; nothing while it is down.
    pub running: Option<Running>,
    /// Its wall clock is off by so many ms.
    pub skew_ms: i64,
    /// It stands still until then; what comes meanwhile waits.
    pub paused: Option<u64>,
    /// What waits.
    pub deferred: Vec<Event>,
    /// After so many more actions the power fails.
    pub fuse: Option<u64>,
    /// The kernel's boot id.
    pub boot: Vec<u8>,
    /// An old image of the disk.
    pub backup: Option<Image>,
    /// It never comes back.
    pub absent: bool,
}

impl Seat {
    /// A custodian after its key ceremony.
    ///
    /// # Errors
    /// None that a fresh memory store has.
    pub fn new(number: u16, mind: Mind, context: Arc<Context>) -> Result<Self, concordat_store::StoreError> {
        let boot = format!("boot {number}").into_bytes();
        let disk = MemoryStore::new();
        disk.apply(Record::first(boot.clone()))?;
        disk.flush()?;
        Ok(Seat {
            number,
            honest: true,
            liar: None,
            mind,
            reads: Arc::new(mind.context(&context)),
            context,
            disk: Arc::new(disk),
            run: 0,
            running: None,
            skew_ms: 0,
            paused: None,
            deferred: Vec::new(),
            fuse: None,
            boot,
            backup: None,
            absent: false,
        })
    }

    /// Makes it a liar.
    pub fn corrupt(&mut self, liar: Liar) {
        self.honest = false;
        self.liar = Some(liar);
    }

    /// This process run.
    pub fn life(&self, seat: usize) -> Life {
        Life { seat, run: self.run }
    }

    /// Is it running and not standing still?
    pub fn awake(&self) -> bool {
        self.running.is_some() && self.paused.is_none()
    }
}
