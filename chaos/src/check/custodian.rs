//! One honest custodian as the exploration holds it: the code of production over a disk in memory, everything that it has sent,
//! and the hands that bring it its inputs.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use concordat_events::Hash;
use concordat_finality::message::{Body, Kind, Vote};
use concordat_finality::{
    Action, Alarm, Decider, Fatal, Input, Msg, Now, Origin, Parts, Record, Rules, Status, Timing, wire,
};
use concordat_store::Store;
use concordat_store::memory::MemoryStore;

use super::dice::Dice;
use super::founding::{CUSTODIANS, WALL};
use super::watch::Watching;
use super::world::{Fact, Id, World};
use crate::invariants::Violation;
use crate::standin::{Flaw, StandIn};

/// Where the clock stands that never jumps, ms. It stands still: timeouts are steps of their own.
const MONO: u64 = 1_000_000;
/// The timeout, ms.
const TIMEOUT: u64 = 1_000;

/// How often timeouts double at most (PROTOCOL 5).
const MOST_DOUBLINGS: u64 = 6;

/// Rules over a stand-in scheme: what can be explored.
pub trait Explored: Rules<Scheme = StandIn<Self::Flaw>> {
    /// What is wrong with the scheme.
    type Flaw: Flaw;
}

/// What the exploration sees of a custodian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Its number.
    pub me: u16,
    /// The epoch entered.
    pub epoch: u64,
    /// The height that it votes on.
    pub next: u64,
    /// Its lock.
    pub lock: Option<Vote>,
    /// The forced head and where its epoch begins, if its log has begun.
    pub started: bool,
    /// How many entries of the log were handed over.
    pub handed: u64,
    /// The certified head.
    pub tip: Hash,
    /// How often it has crashed.
    pub crashes: u32,
    /// What it has sent, by the number of the set.
    pub sent: Id,
    /// Has it stopped for good?
    pub stopped: bool,
}

/// See the module.
pub struct Custodian<R: Explored> {
    me: u16,
    decider: Decider<MemoryStore, R>,
    store: Arc<MemoryStore>,
    dice: Dice,
    crashes: u32,
    /// The open group and how many of its entries were handed over.
    group: Option<(u64, u64)>,
    sent: BTreeSet<Id>,
    /// Entries of the log that it leads, in order.
    led: Vec<Msg>,
    /// The height whose request it was given.
    asked: u64,
    /// Why it has stopped.
    pub stopped: Option<String>,
    /// Somebody was named by evidence.
    pub evidence: bool,
    watching: Watching,
}

/// How an input ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It was taken.
    Done,
    /// The power went before a write or a flush.
    Cut,
}

impl<R: Explored> Custodian<R> {
    /// A custodian after the key ceremony, running.
    ///
    /// # Errors
    /// When its first start fails.
    pub fn found(world: &mut World, me: u16) -> Result<Self> {
        let store = MemoryStore::new();
        store.apply(Record::first(b"boot".to_vec()))?;
        store.flush()?;
        let watching = Watching::new(me);
        Self::open(world, me, store, Dice::default(), 0, BTreeSet::new(), watching)
    }

    fn open(
        world: &mut World,
        me: u16,
        store: MemoryStore,
        dice: Dice,
        crashes: u32,
        sent: BTreeSet<Id>,
        watching: Watching,
    ) -> Result<Self> {
        let store = Arc::new(store);
        dice.aim(me, crashes, u64::MAX, 0);
        let parts = Parts {
            context: world.founding.context.clone(),
            me,
            identity: Box::new(world.founding.identity(me)?),
            share: Some(world.founding.share(me)),
            store: store.clone(),
            timing: Timing { timeout_ms: TIMEOUT },
            boot: b"boot".to_vec(),
            not_restored: true,
            entropy: Box::new(dice.clone()),
        };
        let decider = Decider::open(parts)?;
        let mut custodian = Custodian {
            me,
            decider,
            store,
            dice,
            crashes,
            group: None,
            sent,
            led: Vec::new(),
            asked: 0,
            stopped: None,
            evidence: false,
            watching,
        };
        let tip = custodian.decider.ledger().tip().map(|tip| (tip.height, tip.id));
        custodian.watching.started(&world.founding.context, &custodian.store, tip);
        custodian.start(world)?;
        Ok(custodian)
    }

    /// The check at the start. Nothing was restored, so what the others answer is that they know of nothing.
    fn start(&mut self, world: &mut World) -> Result<()> {
        let mut nonce = None;
        self.handle(world, Input::Start, &mut |action| {
            if let Action::Send { message, .. } = action
                && let Body::Question(question) = &message.body
            {
                nonce = Some(*question);
            }
        })?;
        let nonce = nonce.context("a custodian that asks nothing at its start")?;
        for from in self.others() {
            let body = wire::Answer { nonce: nonce.to_vec(), intact: true, ..wire::Answer::default() };
            let answer = world.forge(from, Kind::Answer, &body, Vec::new())?;
            self.input(world, Input::Message(answer))?;
        }
        anyhow::ensure!(self.decider.status().running, "custodian {} doesn't start", self.me);
        Ok(())
    }

    /// The same custodian once more.
    ///
    /// # Errors
    /// When its identity is unknown.
    pub fn fork(&self, world: &World) -> Result<Self> {
        let store = Arc::new(MemoryStore::restore(self.store.snapshot()));
        let dice = self.dice.fork();
        let identity = Box::new(world.founding.identity(self.me)?);
        let decider = self.decider.fork(store.clone(), identity, Box::new(dice.clone()));
        Ok(Custodian {
            me: self.me,
            decider,
            store,
            dice,
            crashes: self.crashes,
            group: self.group,
            sent: self.sent.clone(),
            led: self.led.clone(),
            asked: self.asked,
            stopped: self.stopped.clone(),
            evidence: self.evidence,
            watching: self.watching.clone(),
        })
    }

    /// The others.
    pub fn others(&self) -> Vec<u16> {
        (1..=CUSTODIANS).filter(|number| *number != self.me).collect()
    }

    /// Its own view of itself.
    pub fn status(&self) -> Status {
        self.decider.status()
    }

    /// What the exploration sees.
    ///
    /// # Errors
    /// When there are too many sets of messages.
    pub fn view(&self, world: &mut World) -> Result<View> {
        let status = self.decider.status();
        Ok(View {
            me: self.me,
            epoch: status.epoch,
            next: self.decider.ledger().next_height(),
            lock: status.lock,
            started: status.started,
            handed: self.group.map_or(0, |(_, handed)| handed),
            tip: self.tip(),
            crashes: self.crashes,
            sent: world.set(&self.sent)?,
            stopped: self.stopped.is_some(),
        })
    }

    /// The id of its certified head.
    pub fn tip(&self) -> Hash {
        self.decider.ledger().tip().map_or(Hash::ZERO, |tip| tip.id)
    }

    /// What tells its state from others'.
    pub fn digest(&self) -> Hash {
        let place = self.group.map_or(0, |(_, handed)| handed + 1);
        let numbers = [place, self.dice.draws(), u64::from(self.crashes), self.stopped.is_some().into()];
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        concordat_events::hash::tagged("chaos/custodian", &[self.decider.digest().as_bytes(), &bytes])
    }

    /// What it has sent.
    pub fn sent(&self) -> &BTreeSet<Id> {
        &self.sent
    }

    /// Head(0) is certified, and what was said about it forgotten: the exploration begins after it.
    ///
    /// # Errors
    /// When it isn't accepted.
    pub fn settle(&mut self, world: &mut World) -> Result<()> {
        let first = world.head_of(&Hash::ZERO, &[]).context("no first head")?;
        world.first_head = Some(first);
        super::steps::take(world, self, &super::steps::Step::Certificate(first))?;
        anyhow::ensure!(self.tip() == first, "custodian {} doesn't take Head(0)", self.me);
        let mut kept = BTreeSet::new();
        for id in &self.sent {
            let said = match world.told(*id)?.fact {
                Fact::Propose(vote, _)
                | Fact::Prepare(vote)
                | Fact::Certify(vote, _)
                | Fact::Share(vote, _) => vote.height,
                Fact::Grant(..) | Fact::Entry(..) => 1,
            };
            if said > 0 {
                kept.insert(*id);
            }
        }
        self.sent = kept;
        Ok(())
    }

    /// It is about to be shown a session.
    pub fn show(&mut self, world: &World, session: &Msg) {
        self.watching.session(&world.founding.context, &self.store, session);
    }

    /// The rules that it broke.
    pub fn broken(&self) -> &[Violation] {
        &self.watching.broken
    }

    /// Batches of the log that no certified head covers.
    pub fn uncovered(&self) -> Vec<concordat_events::Batch> {
        self.decider.uncovered()
    }

    /// How many writes and flushes its disk has seen.
    pub fn ops(&self) -> u64 {
        self.store.ops()
    }

    /// Lets the power go before a write or flush.
    pub fn cut_at(&self, op: u64) {
        self.store.stop_at(op);
    }

    /// How many writes would be lost if the power went now.
    pub fn unflushed(&self) -> usize {
        self.store.unflushed()
    }

    /// The power went: another process starts on what the disk kept.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn restart(self, world: &mut World, keep: usize) -> Result<Self> {
        let left = self.store.crash_keeping(keep);
        let mut custodian =
            Self::open(world, self.me, left, self.dice, self.crashes + 1, self.sent, self.watching)?;
        custodian.give_request(world)?;
        Ok(custodian)
    }

    /// Brings an input and everything that follows from it here: the own log's entries and the next request.
    ///
    /// # Errors
    /// When the explorer itself is at fault.
    pub fn input(&mut self, world: &mut World, input: Input) -> Result<End> {
        let end = self.handle(world, input, &mut |_| {})?;
        if end == End::Cut {
            return Ok(end);
        }
        self.give_request(world)
    }

    /// Lets a leader wait for as long as it waits for grants: a tenth of a timeout that doubles with each epoch entered. No longer,
    /// or it would complain about itself.
    ///
    /// # Errors
    /// As [`Custodian::input`].
    pub fn wait(&mut self, world: &mut World) -> Result<End> {
        for doublings in 0..=self.status().epoch.min(MOST_DOUBLINGS) {
            let end = self.handle_at(world, MONO + (TIMEOUT << doublings) / 10, Input::Tick, &mut |_| {})?;
            if end == End::Cut || self.status().started {
                return Ok(end);
            }
        }
        Ok(End::Done)
    }

    /// Hands over an entry of the open group's log.
    ///
    /// # Errors
    /// As [`Custodian::input`].
    pub fn hand(&mut self, world: &mut World, entry: Msg) -> Result<End> {
        let Some((epoch, handed)) = self.group else { return Ok(End::Done) };
        self.group = Some((epoch, handed + 1));
        self.input(world, Input::Ordered { epoch, entry })
    }

    fn give_request(&mut self, world: &mut World) -> Result<End> {
        let next = self.decider.ledger().next_height();
        if self.asked >= next || next == 0 || self.stopped.is_some() {
            return Ok(End::Done);
        }
        self.asked = next;
        let place = usize::try_from(next - 1)?;
        let Some(request) = world.founding.requests.get(place).cloned() else { return Ok(End::Done) };
        self.handle(world, Input::Request { event: Box::new(request), origin: Origin::Client }, &mut |_| {})
    }

    fn handle(&mut self, world: &mut World, input: Input, also: &mut dyn FnMut(&Action)) -> Result<End> {
        self.handle_at(world, MONO, input, also)
    }

    fn handle_at(
        &mut self,
        world: &mut World,
        mono_ms: u64,
        input: Input,
        also: &mut dyn FnMut(&Action),
    ) -> Result<End> {
        let mut inputs = VecDeque::from([(mono_ms, input)]);
        while let Some((mono_ms, input)) = inputs.pop_front() {
            if self.stopped.is_some() {
                return Ok(End::Done);
            }
            let status = self.decider.status();
            let height = self.decider.ledger().next_height();
            if status.running {
                self.dice.aim(self.me, self.crashes, status.epoch, height);
            }
            // Batches of different epochs have different times, so that what they make are different heads.
            let wall_ms = WALL + 1_000 * status.epoch + 500;
            let (mut actions, mut proposed) = (Vec::new(), Vec::new());
            let (tip, before) = (self.tip(), self.decider.uncovered());
            let (watching, store) = (&mut self.watching, &self.store);
            let context = world.founding.context.clone();
            let result = self.decider.handle(Now { mono_ms, wall_ms }, input, &mut |action| {
                watching.see(&context, store, &action);
                actions.push(action);
            });
            for action in actions {
                also(&action);
                match action {
                    Action::Send { message, .. } if message.sender == self.me => {
                        self.sent.extend(world.tell(&message));
                        if let Body::Propose(propose) = &message.body {
                            proposed.push(propose.vote.id);
                        }
                    }
                    Action::OpenGroup { epoch, lead, .. } => {
                        self.group = Some((epoch, 0));
                        if lead {
                            self.led.clear();
                        }
                    }
                    Action::CloseGroup { .. } => self.group = None,
                    Action::Append { entry, .. } => {
                        self.sent.extend(world.tell(&entry));
                        self.led.push(entry);
                    }
                    Action::Alarm(Alarm::Evidence { .. }) => self.evidence = true,
                    _ => {}
                }
            }
            if result.is_ok() && self.stopped.is_none() && self.tip() != tip {
                self.keep_ledger(world);
            }
            for id in proposed {
                // What is proposed covers the log as it was, or with the entry that has just come; a forced head its own part. It
                // follows the head of before, or one that was certified by this input.
                let (after, new) = (self.decider.uncovered(), self.tip());
                let found =
                    [(&tip, &before), (&tip, &after), (&new, &after)].into_iter().any(|(tip, batches)| {
                        let mut parts = (0..=batches.len()).rev().filter_map(|count| batches.get(..count));
                        parts.any(|part| world.head_of(tip, part) == Some(id))
                    });
                anyhow::ensure!(
                    found || world.heads.contains_key(&id),
                    "custodian {} proposes {} after {} in {:?}, made of neither {:?} nor {:?}",
                    self.me,
                    id.short(),
                    tip.short(),
                    self.decider.status(),
                    before.iter().map(|batch| batch.time_ms - WALL).collect::<Vec<_>>(),
                    after.iter().map(|batch| batch.time_ms - WALL).collect::<Vec<_>>(),
                );
            }
            match result {
                Ok(()) => {}
                Err(Fatal::Store(_)) => return Ok(End::Cut),
                Err(Fatal::Stop(alarm)) => self.stopped = Some(alarm.to_string()),
                Err(Fatal::Ledger(error)) => return Err(anyhow!(error)),
                Err(error @ (Fatal::Roster { .. } | Fatal::Unsupported(_))) => return Err(anyhow!(error)),
            }
            // The log's own leader reads it at once: reading it later is proposing later.
            if let Some((epoch, handed)) = self.group
                && let Some(entry) = self.led.get(usize::try_from(handed)?).cloned()
                && status.epoch == epoch
            {
                self.group = Some((epoch, handed + 1));
                inputs.push_back((MONO, Input::Ordered { epoch, entry }));
            }
        }
        if self.stopped.is_none() {
            self.keep_ledger(world);
        }
        Ok(End::Done)
    }

    /// The state after its certified head, for whoever asks what a batch would make of it.
    fn keep_ledger(&self, world: &mut World) {
        let ledger = self.decider.ledger();
        let fork = || ledger.fork(Arc::new(MemoryStore::restore(self.store.snapshot())));
        world.keep_ledger(self.tip(), fork);
    }
}
