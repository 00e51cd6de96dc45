//! `chaos check`: explores all states of a small cluster.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::check::explore::{Bounds, Report};
use crate::check::founding::CUSTODIANS;
use crate::check::laws;

/// Explores every state that four custodians can come to within bounds, and checks the invariants in each.
#[derive(Args)]
pub struct Check {
    /// Heights after Head(0).
    #[arg(long, default_value_t = 1)]
    heights: u64,
    /// Epochs.
    #[arg(long, default_value_t = 2)]
    epochs: u64,
    /// Steps at most; without it, until nothing is new.
    #[arg(long)]
    depth: Option<u32>,
    /// How many lie: 0 or 1.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=1))]
    byzantine: u16,
    /// Who lies; without it each in turn.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(CUSTODIANS)))]
    liar: Option<u16>,
    /// Crashes of all custodians together.
    #[arg(long, default_value_t = 0)]
    crashes: u32,
    /// Crashes also inside a step, before each write and flush.
    #[arg(long)]
    cuts: bool,
    /// States at most, for each liar.
    #[arg(long, default_value_t = 20_000_000)]
    states: usize,
    /// The rules: the law, or a mutant of it.
    #[arg(long, default_value = "law")]
    mutant: String,
    /// Drops the own-share rule as well, which hides several mutants from I1.
    #[arg(long)]
    unmasked: bool,
    /// Only these invariants count, by their names in PROTOCOL 11.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// So many inputs are tried again on another way to the same state.
    #[arg(long, default_value_t = 1_000)]
    audits: usize,
    /// One JSON object per search on stdout.
    #[arg(long)]
    json: bool,
    /// Names the rules that can be explored.
    #[arg(long)]
    list: bool,
}

impl Check {
    /// Explores.
    ///
    /// # Errors
    /// Wrong input, or an explorer at fault.
    pub fn run(self) -> Result<ExitCode> {
        if self.list {
            laws::ALL.iter().for_each(|law| println(law.name));
            return Ok(ExitCode::SUCCESS);
        }
        let liars: Vec<Option<u16>> = match (self.byzantine, self.liar) {
            (0, _) => vec![None],
            (_, Some(liar)) => vec![Some(liar)],
            _ => (1..=CUSTODIANS).map(Some).collect(),
        };
        let mut good = true;
        for liar in liars {
            let bounds = Bounds {
                heights: self.heights,
                epochs: self.epochs,
                depth: self.depth,
                liar,
                crashes: self.crashes,
                cuts: self.cuts,
                states: self.states,
                rules: self.only.clone(),
                audits: self.audits,
            };
            let report = laws::explore(&self.mutant, self.unmasked, bounds)?;
            good &= report.found.is_none();
            if self.json {
                println(&serde_json::to_string(&report)?);
            } else {
                tell(&self.mutant, &report);
            }
        }
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn tell(mutant: &str, report: &Report) {
    let bounds = &report.bounds;
    let liar = bounds.liar.map_or("nobody lies".into(), |liar| format!("custodian {liar} lies"));
    println(&format!(
        "{mutant}: {liar}; {} heights, {} epochs, {} crashes: {} states, {} transitions, depth {}, {}",
        bounds.heights,
        bounds.epochs,
        bounds.crashes,
        report.states,
        report.transitions,
        report.depth,
        if report.complete { "complete" } else { "cut short" }
    ));
    println(&format!(
        "  {} states of single custodians, {} steps of the core, {} messages, {} audited, {} cut for evidence; {:.1} s, {:.0} states/s",
        report.custodian_states,
        report.runs,
        report.messages,
        report.audited,
        report.evidence,
        report.seconds,
        report.states as f64 / report.seconds.max(1e-9)
    ));
    if let Some(found) = &report.found {
        println(&format!("  {} broken: {}", found.rule, found.how));
        for (at, taken) in found.trace.iter().enumerate() {
            println(&format!("  {:3}. custodian {} {}", at + 1, taken.custodian, taken.step));
            println(&format!("       {}", taken.then));
        }
    }
}

#[expect(clippy::print_stdout, reason = "the report is this command's data")]
fn println(line: &str) {
    std::println!("{line}");
}
