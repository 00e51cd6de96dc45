//! `chaos mutants`: every mutant of PROTOCOL 12 on its recorded runs, or in its recorded search. A checker that finds nothing is known to look only if it
//! finds these, and nothing in the same runs under the rule's law.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use concordat_finality::mutants::ALL;
use serde::{Deserialize, Serialize};

use crate::check::explore::Bounds;
use crate::check::founding::CUSTODIANS;
use crate::check::laws;
use crate::cluster::Cluster;
use crate::sim::brain::{Mind, control_of, mind};
use crate::sim::faults::ROSTERS;
use crate::sim::run::{FAULTY_MS, Setting, family_named, run};
use crate::sim::scenarios;

/// Where the recorded runs stand.
const TABLE: &str = include_str!("../../mutants.json");

/// Runs every mutant on its recorded seeds.
#[derive(Args)]
pub struct Mutants {
    /// Only these mutants.
    names: Vec<String>,
    /// One JSON object instead of lines.
    #[arg(long)]
    json: bool,
    /// Another table than the one that was built in.
    #[arg(long)]
    table: Option<PathBuf>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// The table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Which run catches which mutant.
    caught: Vec<Record>,
    /// Mutants that no run can show (FROST's shares don't combine, and the genesis refuses another threshold than the quorum), and
    /// the search over a stand-in for the signatures that does.
    searched: Vec<Searched>,
}

/// A run that catches a mutant.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Its name.
    mutant: String,
    /// The family of faults or the directed attack.
    family: String,
    /// How many custodians.
    custodians: u16,
    /// How many of them lie; a directed attack brings its own.
    byzantine: usize,
    /// The first seed and how many are tried.
    seeds: (u64, u64),
    /// The invariant that catches it.
    by: String,
}

/// A search that catches a mutant. Four custodians, one height.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Searched {
    /// Its name.
    mutant: String,
    /// The rules that are explored, see `chaos check --list`.
    rules: String,
    /// How many epochs.
    epochs: u64,
    /// Who lies.
    liar: u16,
    /// The invariant that catches it.
    by: String,
}

/// What came of a record.
#[derive(Clone, Serialize)]
struct Found {
    mutant: String,
    family: String,
    custodians: u16,
    /// The invariant that caught it, with seed and step; nothing if none did.
    by: Option<String>,
    seed: Option<u64>,
    step: Option<u64>,
    message: Option<String>,
    /// What the same run breaks under the law, or under the law without the rule that masks the mutant.
    control: Option<String>,
    expected: String,
}

impl Found {
    fn ok(&self) -> bool {
        self.by.as_deref() == Some(self.expected.as_str()) && self.control.is_none()
    }

    fn line(&self) -> String {
        let Found { mutant, family, custodians, expected, .. } = self;
        let at = format!("{family}, {custodians} custodians");
        let caught = match (&self.by, self.seed, self.step) {
            (Some(by), Some(seed), Some(step)) if by == expected => {
                format!("caught by {by} at seed {seed}, step {step} ({at})")
            }
            (Some(by), None, Some(step)) if by == expected => {
                format!("caught by {by} in {step} steps ({at})")
            }
            (Some(by), Some(seed), _) => {
                format!("caught by {by} at seed {seed} instead of by {expected} ({at})")
            }
            _ => format!("NOT CAUGHT by {expected} ({at})"),
        };
        let control = self.control.as_ref().map_or(String::new(), |broken| format!("; without it: {broken}"));
        format!("{mutant}: {caught}{control}")
    }
}

/// The summary.
#[derive(Serialize)]
struct Summary {
    results: Vec<Found>,
    /// Mutants without a record.
    unrecorded: Vec<String>,
}

impl Mutants {
    /// Runs them.
    ///
    /// # Errors
    /// A table that names what doesn't exist.
    pub fn run(self) -> Result<ExitCode> {
        let text = match &self.table {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?
            }
            None => TABLE.to_owned(),
        };
        let table: Table = serde_json::from_str(&text).context("the table of mutants")?;
        let wanted = |name: &str| {
            self.names.is_empty()
                || self.names.iter().any(|wanted| name.split('+').next() == Some(wanted.as_str()))
        };
        let records: Vec<Record> =
            table.caught.iter().filter(|record| wanted(&record.mutant)).cloned().collect();
        let known = |name: &str| {
            table.caught.iter().any(|record| record.mutant.split('+').next() == Some(name))
                || table.searched.iter().any(|search| search.mutant == name)
        };
        let unrecorded: Vec<String> = ALL
            .iter()
            .map(|mutant| mutant.name)
            .filter(|name| wanted(name) && !known(name))
            .map(String::from)
            .collect();
        let mut results = all(&records, self.threads)?;
        for searched in table.searched.iter().filter(|searched| wanted(&searched.mutant)) {
            results.push(search(searched)?);
        }
        let ok = results.iter().all(Found::ok) && unrecorded.is_empty();
        let summary = Summary { results, unrecorded };
        if self.json {
            println(&serde_json::to_string(&summary)?);
        } else {
            summary.results.iter().for_each(|result| println(&result.line()));
            for name in &summary.unrecorded {
                println(&format!("{name}: NO RECORD"));
            }
        }
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// All records, in the table's order.
fn all(records: &[Record], threads: usize) -> Result<Vec<Found>> {
    let mut clusters = BTreeMap::new();
    for record in records {
        if let Entry::Vacant(entry) = clusters.entry(record.custodians) {
            entry.insert(Arc::new(Cluster::found(record.custodians)?));
        }
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1))
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(record) = records.get(index) else { return Ok(()) };
                        let cluster = clusters.get(&record.custodians).context("a cluster")?;
                        let result = one(record, cluster)?;
                        done.lock().unwrap_or_else(PoisonError::into_inner).insert(index, result);
                    }
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(result) => result?,
                Err(_) => bail!("a run panicked"),
            }
        }
        Ok(())
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect())
}

/// A record's seeds until one catches the mutant, and the same seed under the rules that the mutant breaks.
fn one(record: &Record, cluster: &Arc<Cluster>) -> Result<Found> {
    let name = &record.mutant;
    let mutant = mind(name).with_context(|| format!("no mutant is called {name}"))?;
    let (family, scenario) = (family_named(&record.family), scenarios::named(&record.family));
    let rosters = record.family == ROSTERS;
    if family.is_none() && scenario.is_none() && !rosters {
        bail!("no family is called {}", record.family);
    }
    let setting = |mind: Mind| Setting {
        cluster: cluster.clone(),
        byzantine: record.byzantine,
        behaviours: Vec::new(),
        mind,
        faulty_ms: FAULTY_MS,
        keep: false,
        family,
        scenario,
        rosters,
    };
    let mut result = Found {
        mutant: name.clone(),
        family: record.family.clone(),
        custodians: record.custodians,
        by: None,
        seed: None,
        step: None,
        message: None,
        control: None,
        expected: record.by.clone(),
    };
    let (first, count) = record.seeds;
    for seed in first..first + count {
        let outcome = run(&setting(mutant), seed)?;
        let Some(broken) = outcome.violation else { continue };
        let control = run(&setting(control_of(name)), seed)?;
        result = Found {
            by: Some(broken.invariant.into()),
            seed: Some(seed),
            step: Some(outcome.steps),
            message: Some(broken.message),
            control: control.violation.map(|broken| format!("{}: {}", broken.invariant, broken.message)),
            ..result
        };
        if result.ok() {
            break;
        }
    }
    Ok(result)
}

/// A search for a mutant, and one of as many states of the law.
fn search(record: &Searched) -> Result<Found> {
    let bounds = |states| Bounds {
        heights: 1,
        epochs: record.epochs,
        depth: None,
        liar: Some(record.liar),
        crashes: 0,
        cuts: false,
        states,
        rules: Vec::new(),
        audits: 0,
    };
    let report = laws::explore(&record.rules, false, bounds(1_000_000))?;
    let control = laws::explore("law", false, bounds(report.states))?;
    let found = report.found.as_ref();
    Ok(Found {
        mutant: record.mutant.clone(),
        family: format!("model check of {} epochs, custodian {} lies", record.epochs, record.liar),
        custodians: CUSTODIANS,
        by: found.map(|found| found.rule.clone()),
        seed: None,
        step: found.map(|found| found.trace.len() as u64),
        message: found.map(|found| found.how.clone()),
        control: control.found.map(|found| format!("{}: {}", found.rule, found.how)),
        expected: record.by.clone(),
    })
}

#[expect(clippy::print_stdout, reason = "the summary is this command's data")]
fn println(line: &str) {
    std::println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_has_a_record_or_a_search() {
        let table: Table = serde_json::from_str(TABLE).unwrap();
        for mutant in ALL {
            let known = |name: &str| name.split('+').next() == Some(mutant.name);
            let caught = table.caught.iter().any(|record| known(&record.mutant));
            let explained = table.searched.iter().any(|search| search.mutant == mutant.name);
            assert!(caught != explained, "{}", mutant.name);
        }
        for record in &table.caught {
            assert!(mind(&record.mutant).is_some(), "{}", record.mutant);
            let scenario = scenarios::named(&record.family);
            let family = family_named(&record.family).is_some() || record.family == ROSTERS;
            assert!(scenario.is_some() || family, "{}", record.family);
            assert!(scenario.is_none_or(|s| s.custodians == usize::from(record.custodians)));
        }
        for search in &table.searched {
            assert!(laws::ALL.iter().any(|law| law.name == search.rules), "{}", search.rules);
        }
    }
}
