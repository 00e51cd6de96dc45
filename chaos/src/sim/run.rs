//! A run from its seed to its outcome: faults first, and safety all the while; then everything heals, and what was asked for must
//! be certified in time.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;
use concordat_finality::mutants::ALL;
use concordat_node::order::AsyncRuntime;
use concordat_store::memory::MemoryStore;
use openraft_rt_sim::SimRuntime;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::agenda::Agenda;
use super::brain::Mind;
use super::faults::{Counters, FAMILIES, Family, Fault, ROSTERS, family};
use super::liars::{BEHAVIOURS, Liar, TWINS};
use super::net::{Net, below, chance};
use super::scenarios::{self, Scenario};
use super::seat::Seat;
use super::trace::Trace;
use super::world::{Event, TIMEOUT_MS, World};
use crate::cluster::Cluster;
use crate::council;
use crate::invariants::{Violation, i06_replay, i09_progress, i11_honest_epochs};

/// How long faults last, if nobody says otherwise: long enough for several epochs.
pub const FAULTY_MS: (u64, u64) = (4_000, 16_000);

/// Rules under which a liar would sign what no honest custodian reads.
const UNREADABLE: &str = "roster-unbound";

/// What a run is made of, beside its seed.
#[derive(Clone)]
pub struct Setting {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// How many liars; at most f keep the promises of the protocol.
    pub byzantine: usize,
    /// What the liars do; what the seed says, if nothing.
    pub behaviours: Vec<&'static str>,
    /// The rules of those who aren't liars: the law, or a mutant.
    pub mind: Mind,
    /// Shortest and longest time of faults, ms.
    pub faulty_ms: (u64, u64),
    /// Is every step written down?
    pub keep: bool,
    /// One family of faults only.
    pub family: Option<Family>,
    /// One directed attack only.
    pub scenario: Option<Scenario>,
    /// Does the roster change in every run? Else it does in those whose seed says so.
    pub rosters: bool,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// Its family of faults.
    pub family: &'static str,
    /// Certified heads.
    pub heads: u64,
    /// Epochs entered.
    pub epochs: u64,
    /// Requests acknowledged.
    pub requests: u64,
    /// Messages and Raft requests sent, and their bytes.
    pub sent: (u64, u64),
    /// Epochs entered from healing until all was certified.
    pub healing: u64,
    /// Virtual ms.
    pub ms: u64,
    /// Steps of the trace.
    pub steps: u64,
    /// How often what happened.
    pub counters: Counters,
    /// The rule that was broken.
    pub violation: Option<Violation>,
    /// The hash of the trace.
    pub digest: String,
    /// The trace, if it was kept.
    pub lines: Vec<String>,
}

/// Runs a seed.
///
/// # Errors
/// When the cluster's keys can't be read: a defect.
pub fn run(setting: &Setting, seed: u64) -> Result<Outcome> {
    let mut runtime = SimRuntime::with_seed(seed);
    runtime.block_on(async {
        let mut dice = ChaCha20Rng::seed_from_u64(seed ^ 0x506c_616e_0000_0000);
        let free = setting.family.is_none() && setting.behaviours.is_empty();
        let changes = setting.rosters || free && setting.scenario.is_none() && changes(setting, seed);
        let cluster = if changes { council::changing()? } else { setting.cluster.clone() };
        let free = free && !changes;
        let scenario = setting.scenario.or_else(|| {
            free.then(|| scenarios::any(&mut dice, setting.cluster.n(), setting.byzantine)).flatten()
        });
        let family = setting.family.unwrap_or_else(|| family(&mut dice));
        let mut seats = Vec::new();
        for number in cluster.members.keys() {
            seats.push(Seat::new(*number, setting.mind, cluster.context.clone())?);
        }
        // A disk that is replaced counts among the f who may be faulty.
        let spared = usize::from(family.faults.contains(&Fault::Restore));
        let byzantine = setting.byzantine.saturating_sub(spared);
        let liars = match scenario {
            None => corrupt(&mut seats, setting, byzantine, &mut dice)?,
            Some(_) => Vec::new(),
        };
        let trace = if setting.keep { Trace::kept() } else { Trace::default() };
        let world = World::new(cluster.clone(), setting.mind, seats, seed, trace);
        let mut play = Play {
            world,
            dice,
            family,
            agenda: changes.then(|| Agenda::new(seed)),
            f: cluster.f(),
            byzantine,
            faulty_ms: setting.faulty_ms,
            healing: 0,
        };
        for (told, names) in liars {
            play.world.note(format_args!("{told}"));
            names.into_iter().for_each(|name| play.world.counters.count(name));
        }
        if let Some(scenario) = scenario {
            play.family = Family { name: scenario.name, faults: &[] };
            return scenarios::play(scenario, play, seed).await;
        }
        if changes {
            let faults = play.family.name;
            play.world.note(format_args!("rosters change under {faults}"));
        }
        play.begin();
        play.faulty().await;
        play.healed().await;
        Ok(play.end(seed))
    })
}

/// Does the roster change in this seed's run? By dice of its own, so that the others' runs are what they were.
fn changes(setting: &Setting, seed: u64) -> bool {
    let mut dice = ChaCha20Rng::seed_from_u64(seed ^ 0x526f_7374_6572_7300);
    setting.cluster.n() == usize::from(council::FOUNDERS) && chance(&mut dice, 1, 12)
}

/// Makes some of the custodians liars.
fn corrupt(
    seats: &mut Vec<Seat>,
    setting: &Setting,
    byzantine: usize,
    dice: &mut ChaCha20Rng,
) -> Result<Vec<(String, Vec<&'static str>)>> {
    let mut numbers: Vec<usize> = (0..seats.len()).collect();
    let (mut told, mut twins) = (Vec::new(), Vec::new());
    for _ in 0..byzantine {
        let which = usize::try_from(below(dice, numbers.len() as u64)).unwrap_or_default();
        let Some(seat) = numbers.get(which).copied().and_then(|seat| seats.get_mut(seat)) else { break };
        numbers.remove(which);
        let own = ChaCha20Rng::seed_from_u64(dice.next_u64());
        let one_of = BEHAVIOURS.len() as u64 + 1;
        if setting.behaviours == [TWINS] || setting.behaviours.is_empty() && chance(dice, 1, one_of) {
            told.push((format!("custodian {} is twins", seat.number), vec![TWINS]));
            seat.honest = false;
            twins.push(seat.number);
            continue;
        }
        let liar =
            if setting.behaviours.is_empty() { Liar::any(own) } else { Liar::new(&setting.behaviours, own) };
        // Some liars keep other rules inside than everybody else.
        if setting.behaviours.is_empty()
            && chance(dice, 1, 3)
            && let minds = ALL.iter().filter(|mutant| mutant.name != UNREADABLE).collect::<Vec<_>>()
            && let Some(mutant) =
                usize::try_from(below(dice, minds.len() as u64)).ok().and_then(|at| minds.get(at))
        {
            seat.mind = Mind { name: mutant.name, off: mutant.off };
        }
        let told_of =
            format!("custodian {} {} under {}", seat.number, liar.names().join(" and "), seat.mind.name);
        told.push((told_of, liar.names()));
        seat.corrupt(liar);
    }
    for number in twins {
        let context =
            seats.first().map_or_else(|| setting.cluster.context.clone(), |seat| seat.context.clone());
        let mut twin = Seat::new(number, setting.mind, context)?;
        twin.honest = false;
        seats.push(twin);
    }
    Ok(told)
}

/// A run that goes on.
pub struct Play {
    /// Its world.
    pub world: World,
    /// What the plan is made by.
    pub dice: ChaCha20Rng,
    family: Family,
    /// The rosters that are to come, if any.
    agenda: Option<Agenda>,
    f: usize,
    byzantine: usize,
    faulty_ms: (u64, u64),
    /// Epochs from healing to certified.
    healing: u64,
}

impl Play {
    /// Everybody starts.
    pub(super) fn begin(&mut self) {
        for seat in 0..self.world.seats.len() {
            // Not all start at once.
            let ms = below(&mut self.dice, 400);
            self.world.after(ms, Event::Start(seat));
        }
        self.world.after(500, Event::Pulse);
    }

    /// The safety phase: requests and faults, for a while.
    async fn faulty(&mut self) {
        let (shortest, longest) = self.faulty_ms;
        let end = shortest + below(&mut self.dice, longest - shortest + 1);
        while self.world.now() < end && self.world.violation.is_none() {
            let pause = 20 + below(&mut self.dice, 700);
            self.world.after(pause, Event::Plan);
            self.world.until_plan().await;
            if chance(&mut self.dice, 3, 4) {
                self.ask();
            }
            self.govern();
            if self.world.now() > 1_500 && !self.family.faults.is_empty() && chance(&mut self.dice, 1, 3) {
                self.fault();
            }
        }
    }

    /// A user signs a request and hands it to one or two custodians; what waits for long is handed to another.
    fn ask(&mut self) {
        let now = self.world.now();
        match self.world.users.next(now) {
            // Half of the users know nothing but relays.
            Ok(event) if chance(&mut self.dice, 1, 2) => self.world.relays.publish_all(&event),
            Ok(event) => {
                for _ in 0..=below(&mut self.dice, 2) {
                    let seat = self.any_seat();
                    self.world.request(seat, &event);
                }
            }
            Err(error) => self.world.violate("user", error.to_string()),
        }
        let waiting = self.world.users.waiting();
        if !waiting.is_empty() && chance(&mut self.dice, 1, 3) {
            let which = below(&mut self.dice, waiting.len() as u64);
            if let Some(event) = usize::try_from(which).ok().and_then(|which| waiting.get(which)) {
                let seat = self.any_seat();
                self.world.request(seat, event);
            }
        }
    }

    /// Custodians go on with the next change of the roster.
    fn govern(&mut self) {
        let Some(agenda) = &mut self.agenda else { return };
        if let Err(error) = agenda.go_on(&mut self.world, &mut self.dice) {
            self.world.violate("roster", error.to_string());
        }
    }

    fn any_seat(&mut self) -> usize {
        usize::try_from(below(&mut self.dice, self.world.seats.len() as u64)).unwrap_or_default()
    }

    /// Seats in two groups, at random.
    fn sides(&mut self) -> Vec<bool> {
        (0..self.world.seats.len()).map(|_| chance(&mut self.dice, 1, 2)).collect()
    }

    /// Something goes wrong.
    fn fault(&mut self) {
        let kinds = self.family.faults;
        let which = usize::try_from(below(&mut self.dice, kinds.len() as u64)).unwrap_or_default();
        let Some(fault) = kinds.get(which).copied() else { return };
        // Now and then everything mends.
        if chance(&mut self.dice, 1, 4) {
            self.world.net = Net::default();
        }
        let seat = self.any_seat();
        let all = 0..self.world.seats.len();
        match fault {
            Fault::Loss => self.world.net.loss = below(&mut self.dice, 40),
            Fault::Duplicate => self.world.net.twice = below(&mut self.dice, 40),
            Fault::Straggle => {
                self.world.net.straggle = below(&mut self.dice, 60);
                self.world.net.delay_ms = (1, 20 + below(&mut self.dice, 400));
            }
            Fault::Partition | Fault::Bridge => {
                self.world.net.mend();
                let sides = self.sides();
                for (a, first) in sides.iter().enumerate() {
                    for (b, second) in sides.iter().enumerate() {
                        let bridged = fault == Fault::Bridge && (a == seat || b == seat);
                        if first != second && !bridged {
                            self.world.net.cut(a, b);
                        }
                    }
                }
            }
            Fault::OneWay => {
                let hears = chance(&mut self.dice, 1, 2);
                for other in all.filter(|other| *other != seat) {
                    match hears {
                        true => self.world.net.cut(seat, other),
                        false => self.world.net.cut(other, seat),
                    }
                }
            }
            Fault::Isolate => {
                for other in all.filter(|other| *other != seat) {
                    self.world.net.cut(seat, other);
                    self.world.net.cut(other, seat);
                }
            }
            Fault::Pause => {
                let ms = 100 + below(&mut self.dice, 5_000);
                let now = self.world.now();
                let Some(at) = self.world.seats.get_mut(seat).filter(|at| at.awake()) else { return };
                at.paused = Some(now + ms);
                self.world.after(ms, Event::Resume(seat));
            }
            Fault::Crash => self.arm(seat),
            Fault::CrashLoop => {
                for _ in 0..3 {
                    self.arm(seat);
                }
            }
            Fault::Blackout => {
                for seat in all {
                    self.world.power_fails(seat);
                }
            }
            Fault::DiskFull => {
                if let Some(at) = self.world.seats.get(seat) {
                    at.disk.fill_disk();
                }
            }
            Fault::FailedFlush => {
                let after = below(&mut self.dice, 6);
                if let Some(at) = self.world.seats.get(seat) {
                    at.disk.fail_flush_after(after);
                }
            }
            Fault::Relay => {
                let (which, down) = (seat % 2, chance(&mut self.dice, 2, 3));
                self.world.relays.set_down(which, down);
            }
            Fault::Skew => self.skew(seat, 3_000),
            Fault::Jump => self.skew(seat, 60_000),
            Fault::Restore => {
                if !self.restore(seat) {
                    return;
                }
            }
        }
        self.world.note(format_args!("fault {} at seat {seat}", fault.name()));
        self.world.counters.count(fault.name());
    }

    /// Power will fail soon: at a write, at a flush, or between two sends.
    fn arm(&mut self, seat: usize) {
        let (how, when) = (below(&mut self.dice, 3), below(&mut self.dice, 12));
        let Some(at) = self.world.seats.get_mut(seat).filter(|at| at.running.is_some()) else { return };
        match how {
            0 => at.disk.stop_at(at.disk.ops() + when),
            1 => at.fuse = Some(when),
            _ => self.world.power_fails(seat),
        }
    }

    fn skew(&mut self, seat: usize, most: u64) {
        let off = i64::try_from(below(&mut self.dice, 2 * most + 1)).unwrap_or_default();
        let most = i64::try_from(most).unwrap_or_default();
        if let Some(at) = self.world.seats.get_mut(seat) {
            at.skew_ms = off - most;
        }
    }

    /// The first time a disk is copied, the second time it is replaced by the copy. At most f custodians lose their memory so,
    /// liars included, and each starts on a kernel that has booted again.
    fn restore(&mut self, seat: usize) -> bool {
        let restored = self.world.seats.iter().filter(|seat| seat.backup.is_some()).count();
        // Where there is a copy, it is its turn every other time.
        let copied = self.world.seats.iter().position(|seat| seat.backup.is_some());
        let seat = copied.filter(|_| chance(&mut self.dice, 1, 2)).unwrap_or(seat);
        let Some(at) = self.world.seats.get_mut(seat).filter(|at| at.honest) else { return false };
        match at.backup.clone() {
            None if restored + self.byzantine < self.f => {
                at.backup = Some(at.disk.snapshot());
                false
            }
            None => false,
            Some(image) => {
                at.boot.push(b'.');
                self.world.power_fails(seat);
                self.world.replace_disk(seat, MemoryStore::restore(image));
                true
            }
        }
    }

    /// Everything heals.
    pub(super) async fn healed(&mut self) {
        if self.world.violation.is_some() {
            return;
        }
        self.world.note(format_args!("healed"));
        self.world.net = Net::default();
        (0..2).for_each(|relay| self.world.relays.set_down(relay, false));
        for seat in 0..self.world.seats.len() {
            if let Some(at) = self.world.seats.get_mut(seat) {
                at.skew_ms = 0;
                at.fuse = None;
            }
            self.world.after(0, Event::Resume(seat));
            // A disk that failed is found out by the next write; one that is full or broken is replaced with what it holds.
            self.world.power_fails(seat);
        }
        let (began, activated) = (self.world.ended, self.world.activations.len());
        let f = self.f as u64;
        let limit = self.world.now() + i09_progress::longest_ms(TIMEOUT_MS, f);
        for _ in 0..3 {
            self.ask();
        }
        loop {
            self.world.after(1_000, Event::Plan);
            self.world.until_plan().await;
            if self.world.violation.is_some() {
                return;
            }
            self.govern();
            let waiting = self.world.users.waiting();
            let over = self.agenda.as_ref().is_none_or(Agenda::is_over);
            if waiting.is_empty() && over && self.level() {
                break;
            }
            if self.world.now() > limit {
                let standing = self.standing();
                let waiting = waiting.len();
                self.world.violate(i09_progress::NAME, format!("{waiting} requests wait still; {standing}"));
                return;
            }
            for event in &waiting {
                for seat in 0..self.world.seats.len() {
                    self.world.request(seat, event);
                }
            }
        }
        self.healing = self.world.ended - began;
        // Of each roster that was in force meanwhile.
        let rosters = 1 + self.world.activations.len() - activated;
        if let Err(message) = i09_progress::epochs(self.healing, f, rosters as u64) {
            return self.world.violate(i09_progress::NAME, message);
        }
        if let Err(broken) = self.world.users.check() {
            return self.world.violate("client", broken);
        }
        self.quiet().await;
        self.replay().await;
    }

    /// I11: nothing is wrong but f liars, so an honest leader leads on.
    async fn quiet(&mut self) {
        // What was on its way when everything healed has had its say.
        self.world.after(5_000, Event::Plan);
        self.world.until_plan().await;
        let named = self.named();
        let mut epoch = self.world.epoch;
        for _ in 0..12 {
            self.world.after(700, Event::Plan);
            self.world.until_plan().await;
            self.ask();
            if self.world.violation.is_some() {
                return;
            }
            let leader = self.world.in_force.leader(epoch, &named);
            let honest = self.world.seats.iter().any(|seat| seat.number == leader && seat.honest);
            let judged = i11_honest_epochs::see(epoch, leader, honest, self.world.epoch);
            // Who has been named since leads nothing any more.
            if let Err(message) = judged
                && self.named() == named
            {
                return self.world.violate(i11_honest_epochs::NAME, message);
            }
            epoch = self.world.epoch;
        }
    }

    /// Custodians that some honest one holds evidence against.
    fn named(&self) -> BTreeSet<u16> {
        let honest = self.world.seats.iter().filter(|seat| seat.honest);
        let running = honest.filter_map(|seat| seat.running.as_ref());
        running.flat_map(|running| running.status.named.iter().copied()).collect()
    }

    /// I6: whoever has the relays' events and the group's key finds the same history, head by head.
    async fn replay(&mut self) {
        let end = self.world.now() + 90_000;
        loop {
            self.world.after(2_000, Event::Plan);
            self.world.until_plan().await;
            if self.world.violation.is_some() {
                return;
            }
            let events = self.world.relays.everything();
            let (group, log) =
                (self.world.cluster.context.group(), self.world.cluster.context.genesis.kinds.log);
            let logs = events.iter().filter(|event| event.kind() == log && event.author() == group).count();
            let complete = logs >= self.world.users.history.len();
            if !complete && self.world.now() < end {
                continue;
            }
            match i06_replay::see(group, events, self.world.users.history.len() as u64) {
                Ok(()) => return,
                // What a head lets out may be on its way still.
                Err(_) if self.world.now() < end => {}
                Err(message) => return self.world.violate(i06_replay::NAME, message),
            }
        }
    }

    /// Does every custodian that is there have the whole history?
    fn level(&self) -> bool {
        let top = self.world.users.history.keys().max().copied();
        self.world.seats.iter().filter(|seat| seat.honest && !seat.absent).all(|seat| {
            seat.running
                .as_ref()
                .is_some_and(|running| running.status.certified.map(|(height, _)| height) == top)
        })
    }

    fn standing(&self) -> String {
        let all = self.world.seats.iter().map(|seat| {
            let status = seat.running.as_ref().map(|running| &running.status);
            format!("custodian {}: {status:?}", seat.number)
        });
        all.collect::<Vec<_>>().join("; ")
    }

    /// What came of it.
    pub(super) fn end(self, seed: u64) -> Outcome {
        let World { users, counters, trace, violation, sent, ended, .. } = &self.world;
        let requests = users.sent.values().filter(|sent| sent.acknowledged.is_some()).count() as u64;
        let (heads, epochs, ms, steps) = (users.history.len() as u64, *ended, self.world.now(), trace.steps);
        let (counters, violation, sent) = (counters.clone(), violation.clone(), *sent);
        let (digest, lines) = self.world.trace.finish();
        Outcome {
            seed,
            family: if self.agenda.is_some() { ROSTERS } else { self.family.name },
            heads,
            epochs,
            requests,
            sent,
            healing: self.healing,
            ms,
            steps,
            counters,
            violation,
            digest,
            lines,
        }
    }
}

/// A family by its name.
pub fn family_named(name: &str) -> Option<Family> {
    FAMILIES.into_iter().find(|family| family.name == name)
}
