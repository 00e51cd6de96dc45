//! `chaos replay`: steps through the event log of a run and prints, at each step, what every custodian knew.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

/// Steps through an event log that `sim --log` wrote.
#[derive(Args)]
pub struct Replay {
    /// The event log.
    log: PathBuf,
    /// Only what this seat did and heard.
    #[arg(long)]
    seat: Option<usize>,
    /// From this virtual ms on.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Steps at once, without waiting for the return key; the default where the input is no terminal.
    #[arg(long)]
    all: bool,
}

/// One line of a log.
struct Line<'a> {
    at: u64,
    seat: Option<usize>,
    text: &'a str,
}

fn parse(line: &str) -> Option<Line<'_>> {
    let (at, text) = line.split_once(' ')?;
    let seat = text
        .strip_prefix("seat ")
        .or_else(|| text.split_once("at seat ").map(|(_, rest)| rest))
        .and_then(|rest| rest.split(' ').next()?.parse().ok());
    Some(Line { at: at.parse().ok()?, seat, text })
}

impl Replay {
    /// Prints the steps.
    ///
    /// # Errors
    /// When the log can't be read or the terminal is gone.
    pub fn run(self) -> Result<ExitCode> {
        let text = std::fs::read_to_string(&self.log)
            .with_context(|| format!("can't read {}", self.log.display()))?;
        let waits = !self.all && std::io::stdin().is_terminal();
        let (mut input, mut out) = (std::io::stdin().lock(), std::io::stdout().lock());
        let mut known: BTreeMap<usize, String> = BTreeMap::new();
        let mut steps = 0_u64;
        for line in text.lines() {
            let Some(line) = parse(line) else { continue };
            // What a custodian knows is the line after what it did; it is kept, and shown with the next step.
            if let (Some(seat), Some((_, now))) = (line.seat, line.text.split_once(" now Status ")) {
                known.insert(seat, summary(now));
                continue;
            }
            let shown = line.at >= self.from
                && (self.seat.is_none() || line.seat.is_none() || line.seat == self.seat);
            if !shown {
                continue;
            }
            steps += 1;
            writeln!(out, "{:>8} ms  {}", line.at, line.text)?;
            if waits {
                for (seat, knows) in &known {
                    writeln!(out, "             seat {seat}: {knows}")?;
                }
                out.flush()?;
                let mut answer = String::new();
                if input.read_line(&mut answer)? == 0 || answer.trim() == "q" {
                    break;
                }
            }
        }
        for (seat, knows) in &known {
            writeln!(out, "at the end, seat {seat}: {knows}")?;
        }
        writeln!(out, "{steps} steps")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The parts of a status that tell runs apart, ids shortened.
fn summary(status: &str) -> String {
    let wanted = [
        "epoch",
        "leader",
        "started",
        "bar",
        "certified",
        "prepared",
        "lock",
        "shared",
        "pool",
        "complained",
    ];
    let body = status.trim_start_matches("{ ").trim_end_matches(" }");
    let mut fields = Vec::new();
    let (mut depth, mut start) = (0_i32, 0);
    for (at, character) in body.char_indices() {
        match character {
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth -= 1,
            ',' if depth == 0 => {
                fields.extend(body.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    fields.extend(body.get(start..));
    let kept = fields
        .into_iter()
        .map(str::trim)
        .filter(|field| field.split_once(':').is_some_and(|(name, _)| wanted.contains(&name)));
    let short = kept.map(|field| {
        let words: Vec<String> = field
            .split(' ')
            .map(|word| {
                let hex = word.chars().filter(char::is_ascii_hexdigit).count();
                if hex >= 64 {
                    word.chars().filter(|c| *c != '"').take(18).collect()
                } else {
                    word.to_owned()
                }
            })
            .collect();
        words.join(" ")
    });
    short.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_knows_its_seat() {
        let line = parse("120 seat 2 hears Prepare of 1 seq 3 ab").unwrap();
        assert_eq!((line.at, line.seat), (120, Some(2)));
        let line = parse("7 power fails at seat 3").unwrap();
        assert_eq!(line.seat, Some(3));
        assert_eq!(parse("9 healed").unwrap().seat, None);
    }

    #[test]
    fn a_status_is_cut_down() {
        let text = "{ me: 1, epoch: 2, leader: 3, bar: None, certified: Some((4, Hash(ab))), named: [1, 2], pool: 0 }";
        assert_eq!(summary(text), "epoch: 2, leader: 3, bar: None, certified: Some((4, Hash(ab))), pool: 0");
    }
}
