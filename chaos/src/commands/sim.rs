//! `chaos sim`: many seeds, one summary.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use concordat_finality::mutants::ALL;
use serde::Serialize;

use crate::cluster::Cluster;
use crate::council;
use crate::sim::brain::mind;
use crate::sim::faults::{Counters, FAMILIES, Fault, ROSTERS};
use crate::sim::liars::{BEHAVIOURS, TWINS};
use crate::sim::run::{FAULTY_MS, Outcome, Setting, family_named, run};
use crate::sim::scenarios::{self, SCENARIOS};

/// Runs seeds and checks every invariant after every step.
#[derive(Args)]
pub struct Sim {
    /// The seeds, `A..B` without B.
    #[arg(long, value_parser = seeds, default_value = "0..1")]
    seeds: Range<u64>,
    /// How many custodians.
    #[arg(long, default_value_t = 4)]
    custodians: u16,
    /// How many of them lie; without it as many as the group stands.
    #[arg(long)]
    byzantine: Option<usize>,
    /// Runs each seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// One family of faults, or one directed attack, only; `list` prints the names.
    #[arg(long)]
    family: Option<String>,
    /// The honest run under other rules; `list` prints the names.
    #[arg(long)]
    mutant: Option<String>,
    /// What the liars do, instead of what the seed says; `list` prints the names.
    #[arg(long)]
    behaviour: Vec<String>,
    /// Where the event log of the first failing seed goes; with a single seed, of that one.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Stops at the first broken rule.
    #[arg(long)]
    first: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: u64,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("expected A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    let range = number(from)?..number(to)?;
    if range.is_empty() { Err("expected A..B with A below B".into()) } else { Ok(range) }
}

/// From so many seeds of all families and behaviours on, everything that a run set is there for must have happened in it.
const ENOUGH: u64 = 200;

/// As many of those in which the roster changes are enough for it to happen.
const ENOUGH_CHANGES: u64 = 10;

/// Paths that are rarely taken and must be taken by some run.
const RARE: [&str; 8] = [
    "attempt 2",
    "value rule applied",
    "certificate from another epoch",
    "quarantine entered",
    "quarantine left",
    "evidence passed on",
    "alarm: bad share",
    "alarm: refused",
];

/// What a change of the roster is made of; clusters of four change theirs.
const CHANGES: [&str; 4] =
    ["roster activated", "custodian left", "custodian joined", "refused: another roster"];

/// A broken rule in the summary.
#[derive(Serialize)]
struct Broken {
    seed: u64,
    invariant: String,
    step: u64,
    message: String,
}

/// One JSON object on stdout.
#[derive(Default, Serialize)]
struct Summary {
    seeds: u64,
    custodians: u16,
    heads: u64,
    epochs: u64,
    requests: u64,
    messages: u64,
    bytes: u64,
    virtual_s: u64,
    /// Epochs from healing to certified: how many runs took so many.
    healing_epochs: BTreeMap<u64, u64>,
    families: BTreeMap<String, u64>,
    faults: BTreeMap<&'static str, u64>,
    /// What should have happened in so many runs, and never did.
    missing: Vec<&'static str>,
    violations: Vec<Broken>,
}

impl Sim {
    /// Runs the seeds.
    ///
    /// # Errors
    /// Wrong input, or a log that can't be written.
    pub fn run(self) -> Result<ExitCode> {
        let cluster = Arc::new(Cluster::found(self.custodians)?);
        let byzantine = self.byzantine.unwrap_or_else(|| cluster.f());
        if self.behaviour.iter().any(|name| name == "list") {
            BEHAVIOURS.iter().for_each(|(name, _)| println(name));
            println(TWINS);
            return Ok(ExitCode::SUCCESS);
        }
        if self.mutant.as_deref() == Some("list") {
            ALL.iter().for_each(|mutant| println(mutant.name));
            return Ok(ExitCode::SUCCESS);
        }
        let rules = self.mutant.as_deref().unwrap_or("law");
        let mind = mind(rules).with_context(|| format!("no mutant is called {rules}"))?;
        let named = |name: &String| {
            if name == TWINS {
                return Ok(TWINS);
            }
            let known = BEHAVIOURS.iter().find(|(known, _)| known == name);
            known.map(|(name, _)| *name).with_context(|| format!("no behaviour is called {name}"))
        };
        let behaviours = self.behaviour.iter().map(named).collect::<Result<Vec<_>>>()?;
        if self.family.as_deref() == Some("list") {
            FAMILIES.iter().for_each(|family| println(family.name));
            println(ROSTERS);
            SCENARIOS.iter().for_each(|scenario| println(scenario.name));
            return Ok(ExitCode::SUCCESS);
        }
        let name = self.family.as_deref().unwrap_or_default();
        let (family, scenario) = (family_named(name), scenarios::named(name));
        let rosters = name == ROSTERS;
        if rosters && self.custodians != council::FOUNDERS {
            bail!("{name} is written for --custodians {}", council::FOUNDERS);
        }
        if !name.is_empty() && family.is_none() && scenario.is_none() && !rosters {
            bail!("no family is called {name}");
        }
        if let Some(scenario) =
            scenario.filter(|scenario| scenario.custodians != usize::from(self.custodians))
        {
            bail!("{name} is written for --custodians {}", scenario.custodians);
        }
        let one = self.seeds.end - self.seeds.start == 1;
        let keep = one && self.log.is_some();
        let faulty_ms = FAULTY_MS;
        let setting =
            Setting { cluster, byzantine, behaviours, mind, faulty_ms, keep, family, scenario, rosters };
        let next = AtomicU64::new(self.seeds.start);
        let (end, twice, first) = (self.seeds.end, self.twice, self.first);
        let outcomes = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads.max(1))
                .map(|_| scope.spawn(|| work(&setting, &next, end, twice, first)))
                .collect();
            let mut all = Vec::new();
            for worker in workers {
                match worker.join() {
                    Ok(outcomes) => all.extend(outcomes?),
                    Err(_) => bail!("a run panicked"),
                }
            }
            Ok(all)
        })?;
        let summary = self.summary(&outcomes);
        for broken in &summary.violations {
            eprintln!(
                "seed {}: {} broken at step {}: {}",
                broken.seed, broken.invariant, broken.step, broken.message
            );
            eprintln!(
                "  cargo run --release -p chaos -- sim --seeds {}..{} --custodians {} --log seed-{}.log",
                broken.seed,
                broken.seed + 1,
                self.custodians,
                broken.seed
            );
        }
        if let Some(path) = &self.log {
            let failed = outcomes.iter().find(|outcome| outcome.violation.is_some() || one);
            if let Some(seed) = failed.map(|outcome| outcome.seed) {
                let again = run(&Setting { keep: true, ..setting.clone() }, seed)?;
                std::fs::write(path, again.lines.join("\n") + "\n")
                    .with_context(|| format!("can't write {}", path.display()))?;
            }
        }
        let ok = summary.violations.is_empty() && summary.missing.is_empty();
        for missing in &summary.missing {
            eprintln!(
                "{missing}: never happened in {} seeds; more seeds, or a simulator that forgot it",
                summary.seeds
            );
        }
        println(&serde_json::to_string(&summary)?);
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn summary(&self, outcomes: &[Outcome]) -> Summary {
        let mut summary = Summary { custodians: self.custodians, ..Summary::default() };
        let mut counters = Counters::default();
        for outcome in outcomes {
            summary.seeds += 1;
            summary.heads += outcome.heads;
            summary.epochs += outcome.epochs;
            summary.requests += outcome.requests;
            summary.messages += outcome.sent.0;
            summary.bytes += outcome.sent.1;
            *summary.healing_epochs.entry(outcome.healing).or_default() += 1;
            summary.virtual_s += outcome.ms / 1000;
            *summary.families.entry(outcome.family.into()).or_default() += 1;
            counters.add(&outcome.counters);
            if let Some(broken) = &outcome.violation {
                summary.violations.push(Broken {
                    seed: outcome.seed,
                    invariant: broken.invariant.into(),
                    step: outcome.steps,
                    message: broken.message.clone(),
                });
            }
        }
        let rosters = self.family.as_deref() == Some(ROSTERS) && self.mutant.is_none();
        if rosters && summary.seeds >= ENOUGH_CHANGES {
            summary.missing = CHANGES.into_iter().filter(|what| counters.of(what) == 0).collect();
        }
        let everything = self.family.is_none() && self.behaviour.is_empty() && self.mutant.is_none();
        if everything && summary.seeds >= ENOUGH {
            let faults = Fault::ALL.iter().map(|fault| fault.name());
            let liars = BEHAVIOURS.iter().map(|(name, _)| *name).chain([TWINS]);
            let liars = liars.filter(|_| self.byzantine != Some(0));
            let changing = CHANGES.into_iter().filter(|_| self.custodians == council::FOUNDERS);
            let wanted = faults.chain(liars).chain(RARE).chain(changing);
            summary.missing = wanted.filter(|what| counters.of(what) == 0).collect();
        }
        summary.faults = counters.0;
        summary.violations.sort_by_key(|broken| broken.seed);
        summary
    }
}

/// Runs seeds until none is left.
fn work(setting: &Setting, next: &AtomicU64, end: u64, twice: bool, first: bool) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return Ok(outcomes);
        }
        let outcome = run(setting, seed)?;
        if twice {
            let again = run(setting, seed)?;
            if again.digest != outcome.digest {
                bail!(
                    "seed {seed} gave two traces, {} and {}: the simulator isn't deterministic",
                    outcome.digest,
                    again.digest
                );
            }
        }
        if first && outcome.violation.is_some() {
            next.store(end, Ordering::Relaxed);
        }
        outcomes.push(outcome);
    }
}

#[expect(clippy::print_stdout, reason = "the summary is this command's data")]
fn println(line: &str) {
    std::println!("{line}");
}
