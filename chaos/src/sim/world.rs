//! What happens when, and to whom: one queue of events in virtual time, and the only hands that touch a custodian.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use concordat_events::{Hash, ValidEvent};
use concordat_finality::message::Body;
use concordat_finality::{
    Action, Alarm, Certified, Context, Fatal, Input, Message, Now, Origin, Parts, Published, Timing,
};
use concordat_node::engine::{self, Groups, Setting, Ways};
use concordat_node::order::{self, AsyncRuntime, Instant, LinkError};
use concordat_node::transport::RaftCall;
use concordat_store::memory::MemoryStore;
use futures::channel::mpsc::UnboundedSender;
use openraft_rt_sim::{SimInstant, SimRuntime};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

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
use crate::invariants::{Moment, Seen, Violation, Watch};

/// How long a custodian waits before it complains, ms.
pub const TIMEOUT_MS: u64 = 1_000;

/// Between two looks at who can be reached, ms.
const PULSE_MS: u64 = 250;

/// Longest wait of a Raft request, ms; a lost one is forgotten a moment later.
const RAFT_MS: u64 = 2_000;

/// Something that will happen.
pub enum Event {
    /// A message arrives.
    Deliver {
        /// At which seat.
        to: usize,
        /// Over whose connection.
        from: u16,
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
    /// How its messages are read: by the law, or by a mutant's.
    pub context: Arc<Context>,
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
    /// The highest epoch that an honest custodian has entered.
    pub epoch: u64,
    queue: BTreeMap<(u64, u64), Event>,
    counter: u64,
    start: SimInstant,
    post: Arc<Post>,
    watch: Watch,
    /// Every event that a certificate covers.
    certified: BTreeSet<Hash>,
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

    fn alarm(&mut self, alarm: Alarm) {
        self.alarms.push(alarm);
    }
}

impl World {
    /// A world at its beginning. Must be called on the simulated runtime.
    pub fn new(cluster: Arc<Cluster>, mind: Mind, seats: Vec<Seat>, seed: u64, trace: Trace) -> Self {
        let users = Users::new(cluster.context.group(), seed);
        let context = Arc::new(mind.context(&cluster.context));
        let post = Arc::<Post>::default();
        let relays = Relays::new(2, post.clone());
        World {
            cluster,
            context,
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
            epoch: 0,
            queue: BTreeMap::new(),
            counter: 0,
            start: SimInstant::now(),
            post,
            watch: Watch::default(),
            certified: BTreeSet::new(),
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
        if let Some(broken) = self.watch.see(&self.cluster.context, &moment) {
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
            Mail::LogFailed(life) => {
                if self.seats.get(life.seat).is_some_and(|seat| seat.run == life.run) {
                    self.power_fails(life.seat);
                }
            }
        }
    }

    /// I7: nothing is published before its certificate.
    fn published(&mut self, event: &ValidEvent) {
        if event.author() == self.cluster.context.group() && !self.certified.contains(&event.id()) {
            self.violate("I7", format!("event {} was published before its certificate", event.id()));
        }
    }

    /// A Raft request on its way: over a connection, so it comes once or not at all.
    fn carry(&mut self, life: Life, to: u16, call: RaftCall, request: Bytes, answer: Answer) {
        if self.seats.get(life.seat).is_none_or(|seat| seat.run != life.run) {
            return;
        }
        let Some(target) = self.seat_for(to, life.seat) else { return };
        let is_liar = self.seats.get(life.seat).is_some_and(|seat| seat.liar.is_some());
        let request = match is_liar {
            false => request,
            true => match self.as_liar(life.seat, |liar, tools| liar.ask(tools, to, call, request)) {
                Some(Some(request)) => request,
                _ => return self.forget(life, answer),
            },
        };
        self.sent.0 += 1;
        self.sent.1 += request.len() as u64;
        let fate = self.net.fate(&mut self.dice, life.seat, target);
        let Some(ms) = fate.arrives.first().copied() else { return self.forget(life, answer) };
        if self.seats.get(target).is_some_and(|seat| seat.running.is_some()) {
            self.after(ms, Event::Raft { to: target, asker: life, call, request, answer });
        } else {
            let reply = Err(LinkError { peer: to, why: "connection refused".into() });
            self.after(ms, Event::Reply { asker: life, reply, answer });
        }
    }

    /// Nothing comes back; the asker finds out by its own deadline.
    fn forget(&mut self, asker: Life, answer: Answer) {
        let reply = Err(LinkError { peer: 0, why: "lost".into() });
        self.after(RAFT_MS + 100, Event::Reply { asker, reply, answer });
    }

    /// The seat that a peer's messages for a number reach; twins share the peers.
    fn seat_for(&self, number: u16, from: usize) -> Option<usize> {
        let seats: Vec<usize> = self.seats_of(number);
        seats.get(from % seats.len().max(1)).copied()
    }

    fn seats_of(&self, number: u16) -> Vec<usize> {
        let all = self.seats.iter().enumerate();
        all.filter(|(_, seat)| seat.number == number).map(|(index, _)| index).collect()
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
            Event::Deliver { to, from, bytes } => self.deliver(to, from, &bytes),
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

    fn deliver(&mut self, to: usize, from: u16, bytes: &Bytes) {
        if self.seats.get(to).is_none_or(|seat| seat.running.is_none()) {
            return;
        }
        match self.read.read(&self.context, from, bytes) {
            Some(message) => {
                let hears = self.as_liar(to, |liar, tools| liar.hear(tools, &message));
                if hears.unwrap_or(true) {
                    self.input(to, Input::Message(message));
                }
            }
            None => self.counters.count("refused message"),
        }
    }

    /// A Raft request at its goal: answered by the group, in a task of its own.
    fn ask(&mut self, to: usize, asker: Life, call: RaftCall, request: Bytes, answer: Answer) {
        let Some(from) = self.seats.get(asker.seat).map(|seat| seat.number) else { return };
        let Some(seat) = self.seats.get(to) else { return };
        let (by, number) = (seat.life(to), seat.number);
        let Some(running) = &seat.running else { return self.forget(asker, answer) };
        let (groups, post) = (running.groups.clone(), self.post.clone());
        SimRuntime::spawn(async move {
            let reply = groups.raft(from, call, request).await;
            let reply = reply.map_err(|why| LinkError { peer: number, why });
            post.put(Mail::Answered { by, asker, call, reply, answer });
        });
    }

    /// Starts a custodian's process from its disk.
    pub fn start(&mut self, seat: usize) {
        if let Err(error) = self.try_start(seat) {
            self.violate("start", format!("seat {seat} doesn't start: {error}"));
        }
    }

    fn try_start(&mut self, index: usize) -> Result<()> {
        let entropy = ChaCha20Rng::seed_from_u64(self.dice.next_u64());
        let dice = Arc::new(Mutex::new(ChaCha20Rng::seed_from_u64(self.dice.next_u64())));
        let (cluster, context) = (self.cluster.clone(), self.context.clone());
        let Some(seat) = self.seats.get_mut(index) else { return Ok(()) };
        let Some(member) = cluster.members.get(&seat.number) else { return Ok(()) };
        if seat.running.is_some() || seat.absent {
            return Ok(());
        }
        seat.run += 1;
        seat.fuse = None;
        let life = seat.life(index);
        let brain = seat.mind.open(Parts {
            context: context.clone(),
            me: seat.number,
            identity: Box::new(member.identity),
            share: member.share()?,
            store: seat.disk.clone(),
            timing: Timing { timeout_ms: TIMEOUT_MS },
            boot: seat.boot.clone(),
            not_restored: false,
            entropy: Box::new(entropy),
        })?;
        let (orders, ordered) = engine::orders();
        let setting = Setting::<Simulated> {
            context,
            me: seat.number,
            store: seat.disk.clone(),
            flusher: SlowFlusher { disk: seat.disk.clone(), most_ms: 4, dice },
            link: Wire { life, post: self.post.clone() },
            inbox: Slot { life, post: self.post.clone() },
            timing: order::Timing {
                heartbeat: Duration::from_millis(250),
                leader_timeout: Duration::from_millis(TIMEOUT_MS),
                request: Duration::from_millis(RAFT_MS),
            },
        };
        let (groups, failed) = Groups::start(setting, ordered);
        let post = self.post.clone();
        SimRuntime::spawn(async move {
            if failed.await.is_ok() {
                post.put(Mail::LogFailed(life));
            }
        });
        let status = brain.status();
        let tip = status.certified;
        let reachable = BTreeMap::new();
        let (number, disk, relays) = (seat.number, &seat.disk, &self.relays);
        let opened = Outlet::open(life, number, &cluster.context, disk, brain.as_ref(), relays, &self.post);
        let Ok(outlet) = opened else {
            // Its disk is full or broken: it is found out at once.
            let running = groups;
            SimRuntime::spawn(async move { running.close().await });
            self.lose_power(index);
            return Ok(());
        };
        seat.running = Some(Running { brain, groups, orders, outlet, wake: None, reachable, status });
        self.note(format_args!("start seat {index} run {} tip {tip:?}", life.run));
        self.see(index, Seen::Started { tip });
        self.input(index, Input::Start);
        Ok(())
    }

    /// Power fails: what wasn't flushed may or may not survive.
    pub fn power_fails(&mut self, index: usize) {
        let Some(seat) = self.seats.get_mut(index) else { return };
        let Some(running) = seat.running.take() else { return };
        // Nothing of it reaches its old disk or anybody any more; its tasks are let go.
        let Running { groups, .. } = running;
        SimRuntime::spawn(async move { groups.close().await });
        self.lose_power(index);
    }

    fn lose_power(&mut self, index: usize) {
        let Some(seat) = self.seats.get_mut(index) else { return };
        seat.disk.stop();
        let left = seat.disk.crash(&mut self.dice);
        seat.disk = Arc::new(left);
        seat.run += 1;
        seat.paused = None;
        seat.deferred.clear();
        seat.fuse = None;
        self.note(format_args!("power fails at seat {index}"));
        self.counters.count("power failure");
        let pause = 50 + below(&mut self.dice, 3_000);
        self.after(pause, Event::Start(index));
    }

    /// Replaces the disk of a custodian that is down by another.
    pub fn replace_disk(&mut self, index: usize, disk: MemoryStore) {
        if let Some(seat) = self.seats.get_mut(index) {
            seat.disk = Arc::new(disk);
        }
        self.see(index, Seen::Restored);
    }

    fn resume(&mut self, index: usize) {
        let Some(seat) = self.seats.get_mut(index) else { return };
        if seat.paused.take().is_some() {
            for event in std::mem::take(&mut seat.deferred) {
                self.after(0, event);
            }
        }
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
        let context = self.cluster.context.clone();
        let line = format!("{} seat {index} {}", self.now(), describe(&input));
        self.trace.note(line);
        let Some(seat) = self.seats.get_mut(index) else { return };
        let (number, honest, life, disk) = (seat.number, seat.honest, seat.life(index), seat.disk.clone());
        let lies = seat.liar.is_some();
        let Some(running) = &mut seat.running else { return };
        let (watch, fuse, mut broken, mut dead) = (&mut self.watch, &mut seat.fuse, None, false);
        let gate = &mut self.gate;
        let (mut signed, mut rare, mut spoken) = (Vec::new(), Vec::new(), Vec::new());
        let epoch = running.status.epoch;
        let orders = running.orders.clone();
        let mut exits =
            Exits { orders: &orders, messages: Vec::new(), certified: Vec::new(), alarms: Vec::new() };
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
            if let Action::Send { to, message } = &action {
                notable(&message.body, &mut signed, &mut rare);
                if lies {
                    return spoken.push((*to, message.clone()));
                }
            }
            engine::release(action, &mut exits);
        });
        let Exits { messages, certified, alarms, .. } = exits;
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
            if self.signed.get(&id).is_some_and(|epochs| !epochs.contains(&epoch)) {
                self.counters.count("certificate from another epoch");
            }
            if honest && let Err(broken) = self.users.told(&head) {
                self.violate("client", broken);
            }
            self.certified.extend(head.events.iter().map(ValidEvent::id));
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
            Ok(()) => {}
            Err(Fatal::Store(_)) => self.power_fails(index),
            Err(error) if honest => self.violate("stopped", format!("custodian {number} stops: {error}")),
            Err(_) => self.power_fails(index),
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
            self.epoch = self.epoch.max(now.epoch);
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

    /// A message on its way, to every seat of its goal.
    fn send(&mut self, from: usize, to: u16, bytes: Bytes, late: u64) {
        let Some(number) = self.seats.get(from).map(|seat| seat.number) else { return };
        self.sent.0 += 1;
        self.sent.1 += bytes.len() as u64;
        let targets = self.seats_of(to);
        // Twins hear some things both, some only one of them.
        let both = targets.len() < 2 || below(&mut self.dice, 2) == 0;
        for target in targets {
            if !both && self.seat_for(to, from) != Some(target) {
                continue;
            }
            let mut fate = self.net.fate(&mut self.dice, from, target);
            let now = self.now();
            let mut held = 0;
            match self.gate.as_mut().map(|gate| gate.judge(now, from, target, &bytes)) {
                Some(Pass::Lost) => fate.arrives.clear(),
                Some(Pass::After(ms)) => held = ms,
                Some(Pass::Goes) | None => {}
            }
            if let Some(fault) = fate.fault {
                self.counters.count(fault);
            }
            for ms in fate.arrives {
                self.after(
                    ms + late + held,
                    Event::Deliver { to: target, from: number, bytes: bytes.clone() },
                );
            }
        }
    }

    /// What a liar says leaves. Invariants that look at everybody look at it too.
    fn say(&mut self, from: usize, sayings: Vec<Saying>) {
        let Some(number) = self.seats.get(from).map(|seat| seat.number) else { return };
        for (to, bytes, late) in sayings {
            let context = self.context.clone();
            if let Ok(message) = Message::receive(&context, number, &bytes) {
                self.see(from, Seen::Sent { to, message: &message });
            }
            self.send(from, to, bytes, late);
        }
    }

    /// A liar says something to one seat, past network and gate.
    pub fn utter(&mut self, from: usize, to: usize, bytes: Bytes) {
        let numbers =
            (self.seats.get(from).map(|seat| seat.number), self.seats.get(to).map(|seat| seat.number));
        let (Some(number), Some(goal)) = numbers else { return };
        let context = self.context.clone();
        if let Ok(message) = Message::receive(&context, number, &bytes) {
            self.see(from, Seen::Sent { to: goal, message: &message });
        }
        self.after(1, Event::Deliver { to, from: number, bytes });
    }

    /// Lets a liar do something; nothing if the custodian at this seat is none, or is down.
    fn as_liar<T>(&mut self, index: usize, act: impl FnOnce(&mut Liar, &mut Tools<'_>) -> T) -> Option<T> {
        let (cluster, context) = (self.cluster.clone(), self.context.clone());
        let seat = self.seats.get_mut(index)?;
        let status = &seat.running.as_ref()?.status;
        let member = cluster.members.get(&seat.number)?;
        let others: Vec<u16> =
            cluster.members.keys().copied().filter(|number| *number != seat.number).collect();
        let mut liar = seat.liar.take()?;
        let mut dice = liar.dice.clone();
        let mut done = Vec::new();
        let mut tools = Tools {
            context: &context,
            number: seat.number,
            identity: &member.identity,
            dice: &mut dice,
            status,
            others: &others,
            done: &mut done,
        };
        let result = act(&mut liar, &mut tools);
        liar.dice = dice;
        seat.liar = Some(liar);
        for what in done {
            self.counters.count(what);
        }
        Some(result)
    }

    /// Everybody learns who can be reached: an answer must come back.
    fn pulse(&mut self) {
        for index in 0..self.seats.len() {
            let Some(seat) = self.seats.get(index).filter(|seat| seat.awake()) else { continue };
            let me = seat.number;
            let sayings = self.as_liar(index, |liar, tools| liar.idle(tools));
            self.say(index, sayings.unwrap_or_default());
            let numbers: Vec<u16> = self.cluster.members.keys().copied().filter(|n| *n != me).collect();
            for peer in numbers {
                let up = self.seat_for(peer, index).is_some_and(|target| {
                    let awake = self.seats.get(target).is_some_and(Seat::awake);
                    awake && self.net.open(index, target) && self.net.open(target, index)
                });
                let running = self.seats.get_mut(index).and_then(|seat| seat.running.as_mut());
                if let Some(running) = running
                    && running.reachable.insert(peer, up) != Some(up)
                {
                    self.input(index, Input::Reachable { peer, up });
                }
            }
        }
        self.after(PULSE_MS, Event::Pulse);
    }
}

/// A request that a relay brought.
fn relayed(event: ValidEvent) -> Input {
    Input::Request { event: Box::new(event), origin: Origin::Relay }
}

/// What of an action the invariants look at.
fn seen(action: &Action) -> Option<Seen<'_>> {
    match action {
        Action::Send { to, message } => Some(Seen::Sent { to: *to, message }),
        Action::Append { epoch, entry, .. } => Some(Seen::Appended { epoch: *epoch, entry }),
        Action::Certified(head) => Some(Seen::Certified(head)),
        _ => None,
    }
}

/// Rare paths that a message shows.
fn notable(body: &Body, signed: &mut Vec<(Hash, u64)>, rare: &mut Vec<&'static str>) {
    match body {
        Body::Certify(certify) => {
            signed.push((certify.cert.vote.id, certify.cert.vote.epoch));
            if certify.attempt >= 2 {
                rare.push("attempt 2");
            }
        }
        Body::EpochStart(start) => {
            let grants = start.grants.iter().filter_map(|grant| match &grant.body {
                Body::Grant(grant) => Some(grant),
                _ => None,
            });
            let grants: Vec<_> = grants.collect();
            let highest = grants.iter().map(|grant| grant.next_height()).max();
            if grants.iter().any(|grant| grant.lock.is_some() && Some(grant.next_height()) == highest) {
                rare.push("value rule applied");
            }
        }
        Body::Evidence(_) => rare.push("evidence passed on"),
        _ => {}
    }
}

fn alarm_name(alarm: &Alarm) -> &'static str {
    match alarm {
        Alarm::Evidence { .. } => "alarm: evidence",
        Alarm::BadShare { .. } => "alarm: bad share",
        Alarm::Refused { .. } => "alarm: refused",
        Alarm::Diverged { .. } => "alarm: diverged",
        Alarm::TwoLocks { .. } => "alarm: two locks",
        Alarm::RolledBack { .. } => "alarm: rolled back",
        Alarm::Epoch { .. } => "alarm: epoch",
        Alarm::Complained { .. } => "alarm: complained",
        _ => "alarm: other",
    }
}

/// An input in a line.
fn describe(input: &Input) -> String {
    match input {
        Input::Message(message) => {
            format!("hears {:?} of {} seq {} {}", message.kind(), message.sender, message.seq, message.digest)
        }
        Input::Ordered { epoch, entry } => format!("ordered {epoch} {}", entry.digest),
        Input::Request { event, .. } => format!("request {}", event.id()),
        other => format!("{other:?}"),
    }
}
