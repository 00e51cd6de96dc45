//! The offline commands as pure functions: `machine check` and `machine run` (CLI.md).
//!
//! Promises: rows exactly as CLI.md has them. `run` plays the leader too: between two inputs it
//! fires each timer at the time it is due, as the leader orders an empty batch when one is. Time
//! never runs backwards: an input that is earlier than its predecessor gets the predecessor's time,
//! as a batch would.

use crate::definition::Definition;
use crate::quote::quote;
use crate::records::MemoryRecords;
use crate::state::State;
use crate::step::{Event, Fault, Rejection, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What `machine check --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Would the definition be admitted?
    pub ok: bool,
    /// Every fault with its place.
    pub errors: Vec<Fault>,
}

/// Would this definition be admitted?
pub fn check(json: &str) -> Check {
    let errors = Definition::parse(json).err().unwrap_or_default();
    Check { ok: errors.is_empty(), errors }
}

/// A line of `--events`: `{"type":..,"data":..,"pubkey":..,"now":..}`, all but `type` optional.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The event type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The payload.
    #[serde(default)]
    pub data: Value,
    /// Who signs it, in hex; else the run's `--pubkey`.
    #[serde(default)]
    pub pubkey: Option<String>,
    /// The Nostr event's id.
    #[serde(default)]
    pub id: Option<String>,
    /// The Nostr event's time in seconds; else `now`, without its fraction.
    #[serde(default)]
    pub created_at: Option<i64>,
    /// Batch time in seconds, with a fraction if wanted; else that of the line before.
    #[serde(default, deserialize_with = "seconds")]
    pub now: Option<u64>,
}

impl Line {
    /// Reads one line.
    ///
    /// # Errors
    /// It isn't JSON of this shape.
    pub fn parse(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }
}

/// A row of `machine run`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The event type; `None` for the start.
    pub event: Option<String>,
    /// Did it change or leave the state by a transition?
    pub accepted: bool,
    /// The code of the rejection.
    pub reason: Option<String>,
    /// Ids of the active atomic and final states, sorted.
    pub active: Vec<String>,
    /// XState's persisted snapshot after the step.
    pub snapshot: Value,
}

/// A definition run offline, one input at a time.
#[derive(Debug)]
pub struct Runner {
    definition: Definition,
    state: State,
    records: MemoryRecords,
    now_ms: u64,
    pubkey: Option<String>,
}

impl Runner {
    /// Starts the definition at `now_ms` with an input; gives the first row. `pubkey` signs the start and the
    /// lines that name nobody.
    ///
    /// # Errors
    /// The start was rejected.
    pub fn start(
        definition: Definition,
        now_ms: u64,
        pubkey: Option<String>,
        input: &Value,
    ) -> Result<(Self, Row), Rejection> {
        let Step { state, records: changes, .. } = definition.start_with(now_ms, pubkey.as_deref(), input)?;
        let mut records = MemoryRecords::default();
        records.apply(changes);
        let runner = Self { definition, state, records, now_ms, pubkey };
        let row = runner.row(None, None);
        Ok((runner, row))
    }

    /// Runs one line: rows of the timers that are due before it, then its own.
    pub fn line(&mut self, line: Line) -> Vec<Row> {
        let mut rows = self.advance(line.now.unwrap_or(self.now_ms));
        let event = Event {
            kind: line.kind,
            data: line.data,
            pubkey: line.pubkey.or_else(|| self.pubkey.clone()),
            id: line.id,
            created_at: line.created_at.or_else(|| i64::try_from(self.now_ms / 1000).ok()),
            height: None,
        };
        let rejection = match self.definition.send_with(&self.state, &event, self.now_ms, &self.records) {
            Ok(step) => {
                self.state = step.state;
                self.records.apply(step.records);
                None
            }
            Err(rejection) => Some(rejection),
        };
        rows.push(self.row(Some(event.kind), rejection));
        rows
    }

    /// Lets time pass to `now_ms`: a row for each timer that fires, at most 10,000.
    pub fn advance(&mut self, now_ms: u64) -> Vec<Row> {
        /// A definition whose timer sets itself again at once would never let time pass.
        const ROWS: usize = 10_000;
        let mut rows = Vec::new();
        while let Some(due) = self.state.next_due_ms().filter(|&due| due <= now_ms) {
            self.now_ms = self.now_ms.max(due);
            match self.definition.fire_due_with(&self.state, self.now_ms, &self.records) {
                Ok(Some(fired)) => {
                    self.state = fired.step.state;
                    self.records.apply(fired.step.records);
                    rows.push(self.row(Some(fired.timer.id), fired.rejection));
                }
                Ok(None) | Err(_) => break,
            }
            if rows.len() >= ROWS {
                break;
            }
        }
        self.now_ms = self.now_ms.max(now_ms);
        rows
    }

    /// The state so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The records so far.
    pub fn records(&self) -> &MemoryRecords {
        &self.records
    }

    fn row(&self, event: Option<String>, rejection: Option<Rejection>) -> Row {
        Row {
            event,
            accepted: rejection.is_none(),
            reason: rejection.map(|r| r.reason.code().to_owned()),
            active: self.definition.active(&self.state),
            snapshot: self.state.snapshot().clone(),
        }
    }
}

/// Seconds, maybe with a fraction, to milliseconds.
///
/// # Errors
/// What was expected.
pub fn seconds_to_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("expected seconds since 1970 like 1700000000 or 12.5, got {}", quote(text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    let ms: String = fraction.chars().chain("000".chars()).take(3).collect();
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let ms: u64 = ms.parse().map_err(|_| wrong())?;
    whole
        .checked_mul(1000)
        .and_then(|s| s.checked_add(ms))
        .filter(|&ms| ms <= crate::limits::INTEGER.unsigned_abs())
        .ok_or_else(wrong)
}

fn seconds<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    match Option::<serde_json::Number>::deserialize(d)? {
        None => Ok(None),
        Some(n) => seconds_to_ms(&n.to_string()).map(Some).map_err(serde::de::Error::custom),
    }
}
