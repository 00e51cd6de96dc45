//! What happens when, and to whom: one queue of events in virtual time, and the only hands that touch a custodian.

mod mail;
mod power;
mod tell;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use concordat_events::{Hash, ValidEvent};
use concordat_finality::limits::FIRST_EPOCH_BITS;
use concordat_finality::message::Body;
use concordat_finality::{
    Action, Alarm, Certified, Context, Fatal, Input, Msg, Now, Origin, Parts, Published, Timing,
};
use concordat_node::engine::{self, Groups, Setting, Ways};
use concordat_node::order::{self, AsyncRuntime, Instant, LinkError};
use concordat_node::transport::RaftCall;
use concordat_store::memory::MemoryStore;
use futures::channel::mpsc::UnboundedSender;
use openraft_rt_sim::{SimInstant, SimRuntime};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use self::tell::{alarm_name, describe, notable, seen};
use super::brain::Mind;
use super::faults::Counters;
use super::liars::{Liar, Saying, Tools};
use super::net::{Net, below};
use super::outlet::Outlet;
use super::outside::{Answer, Life, Mail, Post, Simulated, Slot, SlowFlusher, Wire};
use super::reading::Reading;
use super::relays::Relays;
use super::scenarios::gate::{Gate, Pass};
use super::seat::{Running, Seat};
use super::trace::Trace;
use super::users::Users;
use crate::cluster::{Cluster, WALL};
use crate::invariants::i07_no_early_effect::{self, NoEarlyEffect};
use crate::invariants::{Moment, Seen, Violation, Watch};

/// How long a custodian waits before it complains, ms.
pub const TIMEOUT_MS: u64 = 1_000;

/// Between two looks at who can be reached, ms.
const PULSE_MS: u64 = 250;

/// Longest wait of a Raft request, ms; a lost one is forgotten a moment later.
const RAFT_MS: u64 = 2_000;

/// Most messages of a virtual second: a run has some two hundred, one with stragglers and liars a few thousand.
const STORM: u64 = 100_000;

/// Something that will happen.
pub enum Event {
    /// A message arrives.
    Deliver {
        /// At which seat.
        to: usize,
        /// Over whose connection.
        from: u16,
        /// The roster that its sender went by, if an honest one sends what it has signed itself.
        under: Option<Hash>,
        /// The message.
        bytes: Bytes,
    },
    /// The decider is woken.
    Wake(Life),
    /// An input that waited.
    Input(Life, Input),
    /// A Raft request arrives.
    Raft {
        /// At which seat.
        to: usize,
        /// Who asks.
        asker: Life,
        /// Which.
        call: RaftCall,
        /// The request.
        request: Bytes,
        /// Where the reply goes.
        answer: Answer,
    },
    /// A reply arrives, or what stands for a broken connection.
    Reply {
        /// Who asked.
        asker: Life,
        /// The reply.
        reply: Result<Bytes, LinkError>,
        /// Where it goes.
        answer: Answer,
    },
    /// Everybody looks who can be reached.
    Pulse,
    /// A process starts.
    Start(usize),
    /// A process that stood still goes on.
    Resume(usize),
    /// The run's plan goes on.
    Plan,
}

/// The world of one run.
pub struct World {
    /// The cluster, under the law.
    pub cluster: Arc<Cluster>,
    /// The rules by which its messages are read: the law's, or a mutant's.
    mind: Mind,
    /// The custodians' seats.
    pub seats: Vec<Seat>,
    /// The network.
    pub net: Net,
    /// What stands over the network in a directed scenario.
    pub gate: Option<Gate>,
    /// The users.
    pub users: Users,
    /// The relays.
    pub relays: Relays,
    /// Everything random in the world.
    pub dice: ChaCha20Rng,
    /// How often what happened.
    pub counters: Counters,
    /// What happened.
    pub trace: Trace,
    /// The broken rule that ended the run.
    pub violation: Option<Violation>,
    /// Messages that left, and their bytes.
    pub sent: (u64, u64),
    /// The running second, and how many had left when it began.
    second: (u64, u64),
    /// The highest epoch that an honest custodian has entered.
    pub epoch: u64,
    /// How many epochs have ended without their roster.
    pub ended: u64,
    /// The heads that put a roster in force.
    pub activations: BTreeSet<u64>,
    /// What is in force by the highest certified head.
    pub in_force: Arc<Context>,
    queue: BTreeMap<(u64, u64), Event>,
    counter: u64,
    start: SimInstant,
    post: Arc<Post>,
    watch: Watch,
    effects: NoEarlyEffect,
    /// Messages read before.
    read: Reading,
    /// In which epochs each head was signed.
    signed: BTreeMap<Hash, Vec<u64>>,
}

/// The ways out of a simulated custodian.
struct Exits<'a> {
    orders: &'a UnboundedSender<Action>,
    messages: Vec<(u16, Bytes)>,
    certified: Vec<Certified<Published>>,
    alarms: Vec<Alarm>,
    reopened: bool,
}

impl Ways for Exits<'_> {
    fn send(&mut self, to: u16, message: Bytes) {
        self.messages.push((to, message));
    }

    fn certified(&mut self, head: Certified<Published>) {
        self.certified.push(head);
    }

    fn order(&mut self, action: Action) {
        let _ = self.orders.unbounded_send(action);
    }

    fn reopen(&mut self) {
        self.reopened = true;
    }

    fn alarm(&mut self, alarm: Alarm) {
        self.alarms.push(alarm);
    }
}

impl World {
    /// A world at its beginning. Must be called on the simulated runtime.
    pub fn new(cluster: Arc<Cluster>, mind: Mind, seats: Vec<Seat>, seed: u64, trace: Trace) -> Self {
        let users = Users::new(cluster.context.group(), seed);
        let in_force = cluster.context.clone();
        let post = Arc::<Post>::default();
        let relays = Relays::new(2, post.clone());
        World {
            cluster,
            mind,
            seats,
            net: Net::default(),
            gate: None,
            users,
            relays,
            dice: ChaCha20Rng::seed_from_u64(seed),
            counters: Counters::default(),
            trace,
            violation: None,
            sent: (0, 0),
            second: (0, 0),
            epoch: 0,
            ended: 0,
            activations: BTreeSet::new(),
            in_force,
            queue: BTreeMap::new(),
            counter: 0,
            start: SimInstant::now(),
            post,
            watch: Watch::default(),
            effects: NoEarlyEffect::default(),
            read: Reading::default(),
            signed: BTreeMap::new(),
        }
    }

    /// ms since the run's beginning.
    pub fn now(&self) -> u64 {
        u64::try_from((SimInstant::now() - self.start).as_millis()).unwrap_or(u64::MAX)
    }

    /// Lets something happen in so many ms.
    pub fn after(&mut self, ms: u64, event: Event) {
        self.counter += 1;
        let at = self.now() + ms;
        self.queue.insert((at, self.counter), event);
    }

    /// Notes a line of the trace.
    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let line = format!("{} {what}", self.now());
        self.trace.note(line);
    }

    /// Ends the run with a broken rule.
    pub fn violate(&mut self, invariant: &'static str, message: String) {
        if self.violation.is_none() {
            self.note(format_args!("VIOLATION {invariant}: {message}"));
            self.violation = Some(Violation { invariant, message });
        }
    }

    fn see(&mut self, seat: usize, seen: Seen<'_>) {
        let Some(at) = self.seats.get(seat) else { return };
        let moment = Moment { number: at.number, honest: at.honest, disk: &at.disk, seen };
        if let Some(broken) = self.watch.see(&at.context, &moment) {
            self.violate(broken.invariant, broken.message);
        }
    }

    /// Lets things happen until the plan is due, or a rule is broken.
    pub async fn until_plan(&mut self) {
        while self.violation.is_none() {
            if self.step().await {
                return;
            }
        }
    }

    /// Lets one thing happen, or time pass until something may. `true` if the plan is due.
    pub async fn step(&mut self) -> bool {
        while let Some(mail) = self.post.take() {
            self.receive(mail);
        }
        let now = self.now();
        if now / 1_000 > self.second.0 {
            self.second = (now / 1_000, self.sent.0);
        }
        if self.sent.0 - self.second.1 > STORM {
            self.violate("storm", format!("more than {STORM} messages in a second: answers beget questions"));
        }
        match self.queue.first_key_value().map(|((at, _), _)| *at) {
            Some(at) if at <= now => match self.queue.pop_first() {
                Some((_, Event::Plan)) => return true,
                Some((_, event)) => self.happen(event),
                None => {}
            },
            Some(at) => {
                let rest = SimRuntime::sleep_until(self.start + Duration::from_millis(at));
                let post = self.post.clone();
                SimRuntime::select2(post.some(), rest).await;
            }
            None => self.post.clone().some().await,
        }
        false
    }

    fn receive(&mut self, mail: Mail) {
        match mail {
            Mail::Input { life, input } => self.happen(Event::Input(life, input)),
            Mail::Raft { life, to, call, request, answer } => self.carry(life, to, call, request, answer),
            Mail::Answered { by, asker, call, reply, answer } => {
                let is_liar = self.seats.get(by.seat).is_some_and(|seat| seat.liar.is_some());
                let reply = match reply {
                    Ok(reply) if is_liar => {
                        let said =
                            self.as_liar(by.seat, |liar, tools| liar.answer(tools, call, reply.clone()));
                        Ok(said.unwrap_or(reply))
                    }
                    other => other,
                };
                let fate = self.net.fate(&mut self.dice, by.seat, asker.seat);
                match fate.arrives.first() {
                    Some(ms) => self.after(*ms, Event::Reply { asker, reply, answer }),
                    None => self.forget(asker, answer),
                }
            }
            Mail::Published(event) => self.published(&event),
            Mail::FromRelay { life, event } => {
                if let Some(event) = self.process(life).and_then(|running| running.outlet.take(event)) {
                    self.happen(Event::Input(life, relayed(event)));
                }
            }
            Mail::LetGo(life) => {
                if self.seats.get(life.seat).is_some_and(|seat| seat.run == life.run) {
                    self.start(life.seat);
                }
            }
            Mail::LogFailed(life) => {
                if self.seats.get(life.seat).is_some_and(|seat| seat.run == life.run) {
                    self.power_fails(life.seat);
                }
            }
        }
    }

    fn published(&mut self, event: &ValidEvent) {
        if let Err(message) = self.effects.published(self.cluster.context.group(), event) {
            self.violate(i07_no_early_effect::NAME, message);
        }
    }

    fn happen(&mut self, event: Event) {
        let (seat, is_reply) = match &event {
            Event::Deliver { to, .. } | Event::Raft { to, .. } => (Some(*to), false),
            Event::Wake(life) | Event::Input(life, _) => (Some(life.seat), false),
            Event::Reply { asker, .. } => (Some(asker.seat), true),
            _ => (None, false),
        };
        if let Some(seat) = seat.and_then(|seat| self.seats.get_mut(seat))
            && seat.paused.is_some()
            && !is_reply
        {
            return seat.deferred.push(event);
        }
        match event {
            Event::Deliver { to, from, under, bytes } => self.deliver(to, from, under, &bytes),
            Event::Wake(life) => {
                if let Some(running) = self.process(life) {
                    running.wake = None;
                    self.input(life.seat, Input::Tick);
                }
            }
            Event::Input(life, input) => {
                if self.process(life).is_some() {
                    self.input(life.seat, input);
                }
            }
            Event::Raft { to, asker, call, request, answer } => self.ask(to, asker, call, request, answer),
            Event::Reply { asker, reply, answer } => {
                if self.process(asker).is_some() {
                    let _ = answer.send(reply);
                }
            }
            Event::Pulse => self.pulse(),
            Event::Start(seat) => self.start(seat),
            Event::Resume(seat) => self.resume(seat),
            Event::Plan => {}
        }
    }

    /// The process of a life, if it is still that one.
    fn process(&mut self, life: Life) -> Option<&mut Running> {
        self.seats.get_mut(life.seat).filter(|seat| seat.run == life.run)?.running.as_mut()
    }

    /// What a custodian's clocks say.
    fn clock(&self, index: usize) -> Now {
        let mono_ms = self.now();
        let skew = self.seats.get(index).map_or(0, |seat| seat.skew_ms);
        Now { mono_ms, wall_ms: (WALL + mono_ms).saturating_add_signed(skew) }
    }

    /// Hands a request to a custodian.
    pub fn request(&mut self, index: usize, event: &ValidEvent) {
        let takes = self.as_liar(index, |liar, tools| liar.take(tools, event)).unwrap_or(true);
        let event = Box::new(event.clone());
        if takes && self.seats.get(index).is_some_and(Seat::awake) {
            self.input(index, Input::Request { event, origin: Origin::Client });
        }
    }

    /// One step of one custodian.
    fn input(&mut self, index: usize, input: Input) {
        if self.violation.is_some() {
            return;
        }
        let now = self.clock(index);
        let line = format!("{} seat {index} {}", self.now(), describe(&input));
        self.trace.note(line);
        let Some(seat) = self.seats.get_mut(index) else { return };
        let context = seat.context.clone();
        let (number, honest, life, disk) = (seat.number, seat.honest, seat.life(index), seat.disk.clone());
        let lies = seat.liar.is_some();
        let Some(running) = &mut seat.running else { return };
        let (watch, fuse, mut broken, mut dead) = (&mut self.watch, &mut seat.fuse, None, false);
        let gate = &mut self.gate;
        let (mut signed, mut rare, mut spoken) = (Vec::new(), Vec::new(), Vec::new());
        let epoch = running.status.epoch;
        let orders = running.orders.clone();
        let mut exits =
            Exits { orders: &orders, messages: vec![], certified: vec![], alarms: vec![], reopened: false };
        let result = running.brain.handle(now, input, &mut |action| {
            match fuse {
                Some(0) => dead = true,
                Some(left) => *left -= 1,
                None => {}
            }
            if dead {
                return;
            }
            // What a liar's decider would say is nothing; what the liar says is seen when it does.
            if let Some(seen) = seen(&action).filter(|seen| !lies || !matches!(seen, Seen::Sent { .. })) {
                let moment = Moment { number, honest, disk: &disk, seen };
                broken = broken.take().or_else(|| watch.see(&context, &moment));
            }
            if let (Action::Append { entry, .. }, Some(gate)) = (&action, gate.as_mut()) {
                gate.entries.push((index, entry.clone()));
            }
            if let Action::Append { entry, .. } = &action {
                notable(&entry.body, &mut signed, &mut rare);
            }
            if let Action::Send { to, message } = &action {
                notable(&message.body, &mut signed, &mut rare);
                if lies {
                    return spoken.push((*to, message.clone()));
                }
            }
            engine::release(action, &mut exits);
        });
        let Exits { messages, certified, alarms, reopened, .. } = exits;
        let status = running.brain.status();
        let wake = running.brain.next_wake().max(now.mono_ms + 1);
        let before = std::mem::replace(&mut running.status, status);
        let status = running.status.clone();
        let sooner = running.wake.is_none_or(|set| wake < set || set <= now.mono_ms);
        if sooner {
            running.wake = Some(wake);
        }
        if let Some(broken) = broken {
            self.violate(broken.invariant, broken.message);
        }
        for what in rare {
            self.counters.count(what);
        }
        for (id, epoch) in signed {
            let epochs = self.signed.entry(id).or_default();
            if !epochs.contains(&epoch) {
                epochs.push(epoch);
            }
        }
        if honest {
            self.compare(index, &before, &status);
        }
        for alarm in alarms {
            self.note(format_args!("seat {index} alarm {alarm}"));
            self.counters.count(alarm_name(&alarm));
        }
        for head in certified {
            let id = head.log().map(|log| log.id()).unwrap_or_default();
            self.note(format_args!("seat {index} certified {} {id}", head.head.height));
            if head.head.roster != context.roster_hash && self.activations.insert(head.head.height) {
                self.counters.count("roster activated");
            }
            if self.signed.get(&id).is_some_and(|epochs| !epochs.contains(&epoch)) {
                self.counters.count("certificate from another epoch");
            }
            if honest && let Err(broken) = self.users.told(&head) {
                self.violate("client", broken);
            }
            self.effects.certified(&head);
            let ready = self.process(life).map(|running| running.outlet.certified(&head));
            for event in ready.into_iter().flatten() {
                self.post.put(Mail::Input { life, input: relayed(event) });
            }
        }
        if sooner {
            self.after(wake - now.mono_ms, Event::Wake(life));
        }
        for (to, bytes) in messages {
            self.send(index, to, bytes, 0);
        }
        for (to, message) in spoken {
            let sayings = self.as_liar(index, |liar, tools| liar.say(tools, to, &message));
            self.say(index, sayings.unwrap_or_default());
        }
        match result {
            Ok(()) if dead => self.power_fails(index),
            Ok(()) if reopened => self.let_go(index),
            Ok(()) => {}
            Err(Fatal::Store(_)) => self.power_fails(index),
            Err(error) if honest => self.violate("stopped", format!("custodian {number} stops: {error}")),
            Err(_) => self.power_fails(index),
        }
    }

    /// An honest custodian is in an epoch.
    fn enters(&mut self, epoch: u64) {
        if epoch > self.epoch {
            // The first of its roster, which was open from the start.
            let first = epoch >> FIRST_EPOCH_BITS << FIRST_EPOCH_BITS;
            self.ended += epoch - self.epoch.max(first);
            self.epoch = epoch;
        }
    }

    /// Counts what changed at an honest custodian.
    fn compare(
        &mut self,
        index: usize,
        before: &concordat_finality::Status,
        now: &concordat_finality::Status,
    ) {
        use concordat_finality::Bar;
        if before.epoch != now.epoch {
            self.counters.count("epoch entered");
            self.enters(now.epoch);
        }
        match (before.bar, now.bar) {
            (Bar::None, Bar::Unknown | Bar::Until(_)) => self.counters.count("quarantine entered"),
            (Bar::Unknown | Bar::Until(_), Bar::None) => self.counters.count("quarantine left"),
            _ => {}
        }
        if before != now {
            let at = self.now();
            self.trace.aside(|| format!("{at} seat {index} now {now:?}"));
        }
    }
}

/// A request that a relay brought.
fn relayed(event: ValidEvent) -> Input {
    Input::Request { event: Box::new(event), origin: Origin::Relay }
}
