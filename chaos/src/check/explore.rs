//! The search: breadth first over what four custodians can come to, each state once.
//!
//! A global state is nothing but the states of the honest custodians: what they have sent is part of theirs, and the liar can
//! do whatever follows from that. A custodian takes a step the same way whatever the others are at, so the code under test runs
//! once for each of its states and inputs, and the search combines the results.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::custodian::{Custodian, Explored, View};
use super::founding::{CUSTODIANS, Founding};
use super::soup::Soup;
use super::steps::{Outcome, Step};
use super::world::{Id, World};
use crate::invariants::Violation;

/// What is explored.
#[derive(Clone, Debug, Serialize)]
pub struct Bounds {
    /// Heights after Head(0).
    pub heights: u64,
    /// Epochs, counted from 0.
    pub epochs: u64,
    /// Steps from the beginning at most.
    pub depth: Option<u32>,
    /// Who lies.
    pub liar: Option<u16>,
    /// Crashes of all custodians together.
    pub crashes: u32,
    /// Crashes inside a step, before each write and flush; else only between steps.
    pub cuts: bool,
    /// Global states at most.
    pub states: usize,
    /// Rules that count; all if empty.
    pub rules: Vec<String>,
    /// Runs every input again on a custodian that came to a known state on another way, so many times at most.
    pub audits: usize,
}

/// A step of a trace.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    /// Whose.
    pub custodian: u16,
    /// What.
    pub step: String,
    /// Where it stands then.
    pub then: String,
}

/// What a search found.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The rule.
    pub rule: String,
    /// How it is broken.
    pub how: String,
    /// A shortest way there.
    pub trace: Vec<Taken>,
}

/// The result of a search.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was explored.
    pub bounds: Bounds,
    /// Distinct global states.
    pub states: usize,
    /// Steps tried that led somewhere.
    pub transitions: u64,
    /// Distinct states of single custodians, and how often the code under test took a step.
    pub custodian_states: usize,
    /// See above.
    pub runs: u64,
    /// Different messages.
    pub messages: usize,
    /// The longest of all shortest ways.
    pub depth: u32,
    /// Was everything within the bounds explored?
    pub complete: bool,
    /// Steps not followed because they made evidence: nobody is shown both halves of a contradiction.
    pub evidence: u64,
    /// Inputs that were tried again on another way to the same state.
    pub audited: u64,
    /// Seconds.
    pub seconds: f64,
    /// A broken rule.
    pub found: Option<Found>,
}

type State = [Id; CUSTODIANS as usize];

/// How a global state was reached first: from where, whose step, which, and which of its outcomes.
#[derive(Clone, Copy)]
struct Way {
    from: u32,
    place: u8,
    step: Id,
    outcome: u16,
}

/// A step of one custodian that leads somewhere: its number, which of its outcomes, the state after it.
type Move = (Id, u16, Id);

/// Soups kept at hand; others are cooked again.
const FRESH: usize = 20_000;

/// The search.
pub struct Search<R: Explored> {
    bounds: Bounds,
    world: World,
    custodians: Vec<Custodian<R>>,
    views: Vec<View>,
    known: HashMap<([u8; 32], Id), Id>,
    steps: Vec<Step>,
    by_step: HashMap<Step, Id>,
    moves: HashMap<(Id, Id), Vec<Id>>,
    labels: HashMap<(Id, Id), Vec<String>>,
    /// Soups by the sets of messages in them, and the rules that each breaks.
    soups: HashMap<State, Id>,
    broken: Vec<Vec<Violation>>,
    /// The soups of late.
    fresh: HashMap<Id, Rc<Soup>>,
    /// What may happen next to a custodian in a soup, with a crash or without.
    next: HashMap<(Id, Id, bool), Rc<[Move]>>,
    report: Report,
}

/// The sets of those who are there.
fn present(sets: &State) -> Vec<Id> {
    sets.iter().filter(|set| **set != NOBODY).copied().collect()
}

/// Nobody stands here: the liar's place.
const NOBODY: Id = Id::MAX;

impl<R: Explored> Search<R> {
    /// A search from the moment after Head(0).
    ///
    /// # Errors
    /// When the cluster can't be founded.
    pub fn new(bounds: Bounds) -> Result<Self> {
        let world = World::new::<R>(Founding::new::<R>(bounds.heights)?, bounds.liar);
        let report = Report {
            bounds: bounds.clone(),
            states: 0,
            transitions: 0,
            custodian_states: 0,
            runs: 0,
            messages: 0,
            depth: 0,
            complete: false,
            evidence: 0,
            audited: 0,
            seconds: 0.0,
            found: None,
        };
        Ok(Search {
            bounds,
            world,
            custodians: Vec::new(),
            views: Vec::new(),
            known: HashMap::new(),
            steps: Vec::new(),
            by_step: HashMap::new(),
            moves: HashMap::new(),
            labels: HashMap::new(),
            soups: HashMap::new(),
            broken: Vec::new(),
            fresh: HashMap::new(),
            next: HashMap::new(),
            report,
        })
    }

    /// Searches.
    ///
    /// # Errors
    /// When the explorer itself is at fault.
    pub fn run(mut self) -> Result<Report> {
        let begun = Instant::now();
        let mut first = [NOBODY; CUSTODIANS as usize];
        for (place, number) in first.iter_mut().zip(1..=CUSTODIANS) {
            if Some(number) != self.bounds.liar {
                let mut custodian = Custodian::found(&mut self.world, number)?;
                custodian.settle(&mut self.world)?;
                *place = self.meet(custodian)?.0;
            }
        }
        let mut seen: HashMap<State, u32> = HashMap::from([(first, 0)]);
        let mut ways = vec![(first, Way { from: 0, place: 0, step: 0, outcome: 0 })];
        let (mut level, mut depth) = (0..1usize, 0);
        self.report.complete = true;
        'search: while !level.is_empty() {
            if self.bounds.depth.is_some_and(|limit| depth >= limit) {
                self.report.complete = false;
                break;
            }
            let end = ways.len();
            for at in level.clone() {
                let Some((state, _)) = ways.get(at).copied() else { break };
                let successors = self.successors(&state)?;
                let moves =
                    successors.iter().flat_map(|(place, moves)| moves.iter().map(move |one| (*place, *one)));
                for (place, (step, outcome, next)) in moves {
                    let mut state = state;
                    let Some(custodian) = state.get_mut(place) else { continue };
                    *custodian = next;
                    self.report.transitions += 1;
                    let index = u32::try_from(ways.len())?;
                    if seen.contains_key(&state) {
                        continue;
                    }
                    seen.insert(state, index);
                    let way = Way { from: u32::try_from(at)?, place: u8::try_from(place)?, step, outcome };
                    ways.push((state, way));
                    if let Some(broken) = self.judge(&state)? {
                        let trace = self.trace(&ways, ways.len() - 1)?;
                        self.report.depth = depth + 1;
                        self.report.complete = false;
                        self.report.found =
                            Some(Found { rule: broken.invariant.into(), how: broken.message, trace });
                        break 'search;
                    }
                    if ways.len() >= self.bounds.states {
                        self.report.complete = false;
                        break 'search;
                    }
                }
            }
            if ways.len() > end {
                depth += 1;
            }
            level = end..ways.len();
        }
        self.report.depth = self.report.depth.max(depth);
        self.report.states = ways.len();
        self.report.custodian_states = self.custodians.len();
        self.report.messages = self.world.messages();
        self.report.seconds = begun.elapsed().as_secs_f64();
        Ok(self.report)
    }

    /// Is a rule broken here?
    fn judge(&mut self, state: &State) -> Result<Option<Violation>> {
        let mut all = Vec::new();
        for id in state.iter().filter(|id| **id != NOBODY) {
            let custodian = self.custodians.get(*id as usize).context("a custodian that nobody met")?;
            all.extend(custodian.broken().iter().cloned());
            all.extend(
                custodian.stopped.iter().map(|how| Violation { invariant: "stopped", message: how.clone() }),
            );
        }
        let soup = self.soup(state)?;
        all.extend(self.broken.get(soup as usize).into_iter().flatten().cloned());
        let counts =
            |name: &str| self.bounds.rules.is_empty() || self.bounds.rules.iter().any(|rule| rule == name);
        Ok(all.into_iter().find(|broken| counts(broken.invariant)))
    }

    /// The number of the soup of a state.
    fn soup(&mut self, state: &State) -> Result<Id> {
        let sets = state.map(|id| self.views.get(id as usize).map_or(NOBODY, |view| view.sent));
        if let Some(soup) = self.soups.get(&sets) {
            return Ok(*soup);
        }
        let id = Id::try_from(self.broken.len())?;
        let soup = Soup::of::<R>(&mut self.world, &present(&sets))?;
        self.broken.push(soup.broken.clone());
        self.soups.insert(sets, id);
        self.keep(id, Rc::new(soup));
        Ok(id)
    }

    fn keep(&mut self, id: Id, soup: Rc<Soup>) {
        if self.fresh.len() >= FRESH {
            self.fresh.clear();
        }
        self.fresh.insert(id, soup);
    }

    /// All steps that lead somewhere, by whose they are.
    fn successors(&mut self, state: &State) -> Result<Vec<(usize, Rc<[Move]>)>> {
        let crashed: u32 =
            state.iter().filter_map(|id| self.views.get(*id as usize)).map(|v| v.crashes).sum();
        let crash = crashed < self.bounds.crashes;
        let soup = self.soup(state)?;
        let mut all = Vec::new();
        for (place, id) in state.iter().enumerate().filter(|(_, id)| **id != NOBODY) {
            let moves = match self.next.get(&(*id, soup, crash)) {
                Some(moves) => moves.clone(),
                None => self.look(state, soup, *id, crash)?,
            };
            all.push((place, moves));
        }
        Ok(all)
    }

    /// What may happen next to a custodian in a soup.
    fn look(&mut self, state: &State, soup: Id, id: Id, crash: bool) -> Result<Rc<[Move]>> {
        let view = *self.views.get(id as usize).context("a custodian that nobody met")?;
        let cooked = match self.fresh.get(&soup) {
            Some(cooked) => cooked.clone(),
            None => {
                let sets = state.map(|id| self.views.get(id as usize).map_or(NOBODY, |view| view.sent));
                let cooked = Rc::new(Soup::of::<R>(&mut self.world, &present(&sets))?);
                self.keep(soup, cooked.clone());
                cooked
            }
        };
        let mut steps = cooked.steps::<R>(&mut self.world, &view, self.bounds.epochs)?;
        if crash && !view.stopped {
            if self.bounds.cuts {
                let cuts: Vec<Step> = steps.iter().map(|step| Step::Cut(Box::new(step.clone()))).collect();
                steps.extend(cuts);
            }
            steps.push(Step::Restart);
        }
        let mut all = Vec::new();
        for step in steps {
            let step = self.name(step)?;
            for (outcome, next) in self.moves(id, step)?.into_iter().enumerate() {
                if next != id {
                    all.push((step, u16::try_from(outcome)?, next));
                }
            }
        }
        let all: Rc<[Move]> = all.into();
        self.next.insert((id, soup, crash), all.clone());
        Ok(all)
    }

    fn name(&mut self, step: Step) -> Result<Id> {
        if let Some(id) = self.by_step.get(&step) {
            return Ok(*id);
        }
        let id = Id::try_from(self.steps.len())?;
        self.steps.push(step.clone());
        self.by_step.insert(step, id);
        Ok(id)
    }

    /// Where a step takes a custodian.
    fn moves(&mut self, id: Id, step: Id) -> Result<Vec<Id>> {
        if let Some(moves) = self.moves.get(&(id, step)) {
            return Ok(moves.clone());
        }
        let from = self.custodians.get(id as usize).context("a custodian that nobody met")?;
        let what = self.steps.get(step as usize).cloned().context("a step without a name")?;
        let mut moves = Vec::new();
        for (label, custodian) in self.carry_out(from.fork(&self.world)?, &what)? {
            let (next, _) = self.meet(custodian)?;
            moves.push(next);
            self.labels.entry((id, step)).or_default().push(label);
        }
        self.moves.insert((id, step), moves.clone());
        Ok(moves)
    }

    fn carry_out(&mut self, from: Custodian<R>, step: &Step) -> Result<Vec<(String, Custodian<R>)>> {
        self.report.runs += 1;
        let mut all = match step {
            Step::Cut(step) => Outcome::cuts(&mut self.world, &from, step)?,
            Step::Restart => vec![(String::new(), from.restart(&mut self.world, 0)?)],
            _ => match Outcome::of(&mut self.world, &from, step)? {
                Outcome::Moved(custodian) => vec![(String::new(), *custodian)],
                Outcome::Cut | Outcome::Nothing => Vec::new(),
            },
        };
        let before = all.len();
        all.retain(|(_, custodian)| !custodian.evidence);
        self.report.evidence += (before - all.len()) as u64;
        Ok(all)
    }

    /// The number of a custodian's state. The second: was it known?
    fn meet(&mut self, custodian: Custodian<R>) -> Result<(Id, bool)> {
        let view = custodian.view(&mut self.world)?;
        let key = (*custodian.digest().as_bytes(), view.sent);
        if let Some(id) = self.known.get(&key).copied() {
            if self.report.audited < self.bounds.audits as u64 {
                self.audit(&custodian, id)?;
            }
            return Ok((id, true));
        }
        let id = Id::try_from(self.custodians.len())?;
        self.known.insert(key, id);
        self.views.push(view);
        self.custodians.push(custodian);
        Ok((id, false))
    }

    /// What leads to one state on two ways must lead on to the same states: the digest leaves nothing out that matters.
    fn audit(&mut self, other: &Custodian<R>, id: Id) -> Result<()> {
        let mut tried: Vec<(Id, Vec<Id>)> = self
            .moves
            .iter()
            .filter(|((at, _), _)| *at == id)
            .map(|((_, step), to)| (*step, to.clone()))
            .collect();
        tried.sort_unstable();
        for (step, expected) in tried {
            let what = self.steps.get(step as usize).cloned().context("a step without a name")?;
            self.report.audited += 1;
            let mut got = Vec::new();
            for (_, custodian) in self.carry_out(other.fork(&self.world)?, &what)? {
                let view = custodian.view(&mut self.world)?;
                got.push(self.known.get(&(*custodian.digest().as_bytes(), view.sent)).copied());
            }
            let expected: Vec<Option<Id>> = expected.into_iter().map(Some).collect();
            anyhow::ensure!(
                got == expected,
                "two ways to one state of custodian {} part at {what:?}: the digest leaves something out",
                other.status().me
            );
        }
        Ok(())
    }

    /// The steps that led to a state.
    fn trace(&self, ways: &[(State, Way)], mut at: usize) -> Result<Vec<Taken>> {
        let mut taken = Vec::new();
        while at != 0 {
            let (state, way) = ways.get(at).context("a way from nowhere")?;
            let place = usize::from(way.place);
            let before = ways.get(way.from as usize).and_then(|(state, _)| state.get(place)).copied();
            let step = self.steps.get(way.step as usize).context("a step without a name")?;
            let label = before
                .and_then(|id| self.labels.get(&(id, way.step)))
                .and_then(|labels| labels.get(usize::from(way.outcome)))
                .cloned()
                .unwrap_or_default();
            let now = state.get(place).and_then(|id| self.custodians.get(*id as usize));
            taken.push(Taken {
                custodian: way.place as u16 + 1,
                step: super::report::describe(&self.world, step, &label),
                then: now.map(|custodian| super::report::stands(&custodian.status())).unwrap_or_default(),
            });
            at = way.from as usize;
        }
        taken.reverse();
        Ok(taken)
    }
}
