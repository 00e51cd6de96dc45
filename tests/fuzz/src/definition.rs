//! Definitions from users, and the first steps of what was admitted. Input: the definition on the first line, then inputs
//! as `machine run` reads them, one a line.

use concordat_ledger::check_definition;
use concordat_machine::limits::{DEFINITION_BYTES, EFFECTS, FAULTS, SNAPSHOT_BYTES, TIMERS};
use concordat_machine::run::Line;
use concordat_machine::{Definition, Event, Rejection, State, Step};

use super::bounded;
use super::world::START;

/// Inputs that are sent, and timers that fire after each.
const STEPS: usize = 6;

pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (first, lines) = text.split_once('\n').unwrap_or((text, ""));
    steps(first, lines.lines().take(STEPS).filter_map(|line| Line::parse(line).ok()))
}

/// Admits a definition and lets it take some inputs.
pub fn steps(text: &str, lines: impl Iterator<Item = Line>) -> bool {
    let definition = match Definition::parse(text) {
        Ok(definition) => definition,
        Err(faults) => {
            assert!((1..=FAULTS + 1).contains(&faults.len()));
            assert_eq!(Definition::parse(text).unwrap_err(), faults);
            return false;
        }
    };
    assert!(text.len() <= DEFINITION_BYTES);
    let again = Definition::parse(text).unwrap();
    let _ = check_definition(text);
    let mut now = START;
    let Some(Step { mut state, .. }) =
        same(definition.start(now, Some("author")), again.start(now, Some("author")))
    else {
        return true;
    };
    for line in lines {
        now = now.max(line.now.unwrap_or(now));
        for _ in 0..STEPS {
            let (fired, other) = (definition.fire_due(&state, now), again.fire_due(&state, now));
            assert_eq!(fired, other);
            let Ok(Some(fired)) = fired else { break };
            assert!(fired.timer.due_ms <= now);
            fits(&fired.step);
            state = fired.step.state;
        }
        let event = Event {
            kind: line.kind,
            data: line.data,
            pubkey: line.pubkey,
            id: line.id,
            created_at: line.created_at,
            height: None,
        };
        if let Some(step) = same(definition.send(&state, &event, now), again.send(&state, &event, now)) {
            state = step.state;
        }
    }
    true
}

fn same(step: Result<Step, Rejection>, again: Result<Step, Rejection>) -> Option<Step> {
    assert_eq!(step, again, "two custodians differ");
    match step {
        Ok(step) => {
            fits(&step);
            Some(step)
        }
        Err(rejection) => {
            bounded(&rejection);
            None
        }
    }
}

fn fits(step: &Step) {
    let state = &step.state;
    assert!(state.snapshot_bytes().len() <= SNAPSHOT_BYTES);
    assert!(step.effects.len() <= EFFECTS && state.timers().len() <= TIMERS);
    let bytes = state.canonical_bytes();
    let read = State::from_bytes(&bytes).unwrap();
    assert_eq!(&read, state);
    assert_eq!(read.canonical_bytes(), bytes);
}
