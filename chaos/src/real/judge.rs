//! What a run's history must fulfil.
//!
//! The group's log puts all inputs of a machine into one order, and that order is the witness: calls are linearizable if each answer is what
//! the order gives, and no call that ended before another began comes after it. No search is needed, and nothing is left undecided.
//!
//! A read is of a certified head, not of the newest: its value must be what the order gives at its height, and a custodian that has answered
//! an input shows no older state afterwards.

use std::collections::BTreeMap;

use anyhow::Result;
use concordat_events::{Hash, Head, PublicKey, ValidEvent};
use concordat_verify::Reader;
use serde::{Deserialize, Serialize};

use super::users::{Answer, Ask, Call, UNANSWERED};
use super::{Note, What};

/// How long after everything healed an input must have been asked and answered, ms.
pub const PROGRESS_MS: u64 = 30_000;

/// How long nothing may be wrong, in all, while an input waits at a custodian that runs on, ms: its longest pause between two sendings
/// to the leader, and a change of epoch.
pub const WAITS_MS: u64 = 25_000;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Heads that the relay shows.
    pub heads: u64,
    /// Calls that were made.
    pub calls: u64,
    /// Inputs whose outcome was told.
    pub settled: u64,
    /// States that were read.
    pub reads: u64,
    /// Calls without an answer that says anything.
    pub unanswered: u64,
    /// Of each fault, how long after its end an input was asked and answered, ms.
    pub recovered_ms: Vec<u64>,
    /// Rules that were broken.
    pub violations: Vec<String>,
}

/// Where an input stands: height, place in the head.
type Spot = (u64, usize);

struct History {
    spots: BTreeMap<Hash, (Spot, Option<String>)>,
    broken: Vec<String>,
    heads: u64,
}

impl History {
    /// From every event ever seen: whoever signed two heads of one height is caught here.
    fn read(group: PublicKey, log_kind: u16, events: &[ValidEvent]) -> Self {
        let (mut ids, mut spots) = (BTreeMap::<u64, Hash>::new(), BTreeMap::new());
        let mut broken = Vec::new();
        for event in events.iter().filter(|event| event.author() == group && event.kind() == log_kind) {
            let head = match Head::from_log_event(event) {
                Ok(head) => head,
                Err(error) => {
                    broken.push(format!("log event {} is no head: {error}", event.id()));
                    continue;
                }
            };
            let known = *ids.entry(head.height).or_insert(event.id());
            if known != event.id() {
                broken.push(format!("height {} has two heads, {known} and {}", head.height, event.id()));
                continue;
            }
            for (place, (request, outcome)) in head.outcomes.iter().enumerate() {
                let here = ((head.height, place), outcome.reason().map(str::to_owned));
                // A request that comes again has no effect: the first place is its own.
                let again = here.1.as_deref() == Some("duplicate");
                match spots.get(request) {
                    None => drop(spots.insert(*request, here)),
                    Some((spot, _)) if *spot == here.0 => {}
                    Some((first, _)) if again && *first < here.0 => {}
                    Some((first, reason)) if reason.as_deref() == Some("duplicate") && here.0 < *first => {
                        spots.insert(*request, here);
                    }
                    Some((first, _)) => broken.push(format!(
                        "request {request} is executed at height {} and again at {}",
                        first.0, head.height
                    )),
                }
            }
        }
        History { spots, broken, heads: ids.len() as u64 }
    }
}

/// Judges a run.
///
/// # Errors
/// None but a defect of the harness.
pub fn judge(
    group: PublicKey,
    log_kind: u16,
    events: &[ValidEvent],
    calls: &[Call],
    notes: &[Note],
) -> Result<Verdict> {
    let mut history = History::read(group, log_kind, events);
    let mut broken = std::mem::take(&mut history.broken);
    let mut reader = Reader::new(group);
    events.iter().cloned().for_each(|event| reader.event(event));
    match reader.check() {
        Ok(report) if report.heads == history.heads => {}
        Ok(report) => {
            broken.push(format!("a replay finds {} heads, the relay shows {}", report.heads, history.heads));
        }
        Err(failure) => broken.push(format!("the replay fails: {failure}")),
    }
    answers(&history, calls, &mut broken);
    order(&history, calls, &mut broken);
    values(&history, calls, &mut broken);
    let recovered_ms = progress(calls, notes, &mut broken);
    lost(&history, calls, notes, &mut broken);
    let count = |wanted: fn(&Answer) -> bool| {
        calls.iter().filter_map(|call| call.answer.as_ref()).filter(|answer| wanted(answer)).count() as u64
    };
    let settled = count(|answer| matches!(answer, Answer::Settled { .. }));
    let reads = count(|answer| matches!(answer, Answer::Value { .. }));
    Ok(Verdict {
        heads: history.heads,
        calls: calls.len() as u64,
        settled,
        reads,
        unanswered: calls.len() as u64 - settled - reads,
        recovered_ms,
        violations: broken,
    })
}

/// What was told stands in the log, where and as it was told.
fn answers(history: &History, calls: &[Call], broken: &mut Vec<String>) {
    for call in calls {
        let (Ask::Add { request, .. }, Some(Answer::Settled { height, rejected })) =
            (&call.ask, &call.answer)
        else {
            continue;
        };
        match history.spots.get(request) {
            None => broken.push(format!("request {request} was settled at height {height} and is in no head")),
            Some(((at, _), reason)) if at != height || reason != rejected => broken.push(format!(
                "request {request} was told as {rejected:?} at height {height} and stands as {reason:?} at {at}"
            )),
            Some(_) => {}
        }
    }
}

/// No call that ended before another began comes after it.
fn order(history: &History, calls: &[Call], broken: &mut Vec<String>) {
    let mut machines: BTreeMap<Hash, Vec<(u64, u64, Spot, Hash)>> = BTreeMap::new();
    for call in calls {
        if let (Ask::Add { request, .. }, Some(Answer::Settled { .. }), Some(ended)) =
            (&call.ask, &call.answer, call.ended_ms)
            && let Some((spot, _)) = history.spots.get(request)
        {
            machines.entry(call.machine).or_default().push((call.began_ms, ended, *spot, *request));
        }
    }
    for mut done in machines.into_values() {
        let mut by_end = done.clone();
        by_end.sort_by_key(|(_, ended, ..)| *ended);
        done.sort_by_key(|(began, ..)| *began);
        let (mut over, mut last) = (by_end.into_iter().peekable(), None::<(Spot, Hash)>);
        for (began, _, spot, request) in done {
            while let Some((_, _, before, earlier)) = over.next_if(|(_, ended, ..)| *ended < began) {
                last = last.max(Some((before, earlier)));
            }
            if let Some((before, earlier)) = last.filter(|(before, _)| *before > spot) {
                broken.push(format!(
                    "request {request} began after {earlier} was settled and stands before it: {spot:?}, {before:?}"
                ));
            }
        }
    }
}

/// What is read is what the order gives, and no custodian goes back behind what it has answered.
fn values(history: &History, calls: &[Call], broken: &mut Vec<String>) {
    // By machine: the sum after each height. Inputs that nobody was answered count where they stand.
    let mut sums: BTreeMap<Hash, BTreeMap<u64, i64>> = BTreeMap::new();
    for call in calls {
        if let Ask::Add { request, by } = &call.ask
            && let Some(((height, _), None)) = history.spots.get(request)
        {
            *sums.entry(call.machine).or_default().entry(*height).or_default() += by;
        }
    }
    for call in calls {
        let Some(Answer::Value { height, n }) = &call.answer else { continue };
        let sum = sums.get(&call.machine).map_or(0, |sums| sums.range(..=height).map(|(_, by)| by).sum());
        if sum != *n {
            broken.push(format!(
                "machine {} was read as {n} at height {height}; it is {sum} there",
                call.machine
            ));
        }
        let known = calls.iter().filter(|other| {
            other.at.is_some()
                && other.at == call.at
                && other.ended_ms.is_some_and(|ended| ended < call.began_ms)
        });
        let told = known.filter_map(|other| match &other.answer {
            Some(Answer::Settled { height, .. } | Answer::Value { height, .. }) => Some(*height),
            _ => None,
        });
        if let Some(told) = told.max().filter(|told| told > height) {
            let at = call.at.as_deref().unwrap_or_default();
            broken.push(format!("{at} told of height {told} and showed {height} afterwards"));
        }
    }
}

/// After each fault an input is asked and answered in time.
fn progress(calls: &[Call], notes: &[Note], broken: &mut Vec<String>) -> Vec<u64> {
    let mut recovered = Vec::new();
    for (at_ms, fault) in notes.iter().filter_map(|note| match &note.what {
        What::Healed { fault } => Some((note.at_ms, fault)),
        _ => None,
    }) {
        let answered = calls.iter().filter(|call| call.began_ms >= at_ms);
        let settled = answered.filter(|call| matches!(call.answer, Some(Answer::Settled { .. })));
        match settled.filter_map(|call| call.ended_ms).min().map(|ended| ended - at_ms) {
            Some(ms) if ms <= PROGRESS_MS => recovered.push(ms),
            ms => broken.push(format!(
                "after `{fault}` no input was asked and answered within {PROGRESS_MS} ms (the first: {ms:?} ms)"
            )),
        }
    }
    recovered
}

/// When something was wrong: each fault's name, beginning and end.
fn faults(notes: &[Note]) -> Vec<(&str, u64, u64)> {
    let (mut faults, mut began) = (Vec::new(), None);
    for note in notes {
        match &note.what {
            What::Fault { fault } => began = Some((fault.split(' ').next().unwrap_or_default(), note.at_ms)),
            What::Healed { .. } => faults.extend(began.take().map(|(name, from)| (name, from, note.at_ms))),
            _ => {}
        }
    }
    faults
}

/// A custodian that took an input in and runs on sees to it, though nobody asks a second time and though it was cut off at that moment.
fn lost(history: &History, calls: &[Call], notes: &[Note], broken: &mut Vec<String>) {
    let faults = faults(notes);
    let Some(end) = notes.iter().map(|note| note.at_ms).max() else { return };
    let mut certified = BTreeMap::<u64, u64>::new();
    let mut doors = BTreeMap::<&str, u16>::new();
    for note in notes {
        match &note.what {
            What::Certified { height } => {
                let at = certified.entry(*height).or_insert(note.at_ms);
                *at = note.at_ms.min(*at);
            }
            What::Door { at } => doors.extend(note.custodian.map(|number| (at.as_str(), number))),
            _ => {}
        }
    }
    for call in calls {
        let (Ask::Add { request, .. }, Some(at)) = (&call.ask, call.at.as_deref()) else { continue };
        // Whoever wasn't let in was told so, and a cable that is out lets nobody in.
        let waited = match &call.answer {
            Some(Answer::Nothing { why }) => why == UNANSWERED,
            _ => false,
        };
        let unplugged = ["flapping", "leader-isolated"];
        let outside = faults.iter().any(|(name, from, to)| {
            unplugged.contains(name) && call.began_ms + 1_000 >= *from && call.began_ms <= *to
        });
        let number = doors.get(at).copied();
        let died = notes
            .iter()
            .any(|note| note.custodian == number && note.what == What::Down && note.at_ms >= call.began_ms);
        if !waited || outside || died || number.is_none() {
            continue;
        }
        let settled = history.spots.get(request).and_then(|((height, _), _)| certified.get(height)).copied();
        let until = settled.unwrap_or(end);
        let wrong: u64 =
            faults.iter().map(|(_, from, to)| until.min(*to).saturating_sub(call.began_ms.max(*from))).sum();
        let quiet = until.saturating_sub(call.began_ms).saturating_sub(wrong);
        if quiet > WAITS_MS {
            broken.push(format!(
                "request {request} waited at custodian {} for {quiet} ms in which nothing was wrong",
                number.unwrap_or_default()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> Hash {
        Hash::from_bytes([n; 32])
    }

    fn history(spots: &[(u8, u64)]) -> History {
        let spots = spots.iter().map(|(request, height)| (hash(*request), ((*height, 0), None))).collect();
        History { spots, broken: Vec::new(), heads: 9 }
    }

    fn add(request: u8, began_ms: u64, ended_ms: u64, height: u64) -> Call {
        Call {
            user: 0,
            machine: hash(200),
            ask: Ask::Add { request: hash(request), by: 5 },
            at: Some("a".into()),
            began_ms,
            ended_ms: Some(ended_ms),
            answer: Some(Answer::Settled { height, rejected: None }),
        }
    }

    fn read(began_ms: u64, height: u64, n: i64) -> Call {
        let answer = Some(Answer::Value { height, n });
        Call { ask: Ask::Read, answer, ..add(0, began_ms, began_ms + 1, 0) }
    }

    fn broken(rule: fn(&History, &[Call], &mut Vec<String>), history: &History, calls: &[Call]) -> usize {
        let mut broken = Vec::new();
        rule(history, calls, &mut broken);
        broken.len()
    }

    #[test]
    fn an_answer_that_the_log_contradicts_is_found() {
        let log = history(&[(1, 4)]);
        assert_eq!(broken(answers, &log, &[add(1, 0, 1, 4)]), 0);
        assert_eq!(broken(answers, &log, &[add(1, 0, 1, 5)]), 1);
        assert_eq!(broken(answers, &log, &[add(2, 0, 1, 4)]), 1);
        let mut rejected = add(1, 0, 1, 4);
        rejected.answer = Some(Answer::Settled { height: 4, rejected: Some("done".into()) });
        assert_eq!(broken(answers, &log, &[rejected]), 1);
    }

    #[test]
    fn who_came_later_stands_later() {
        let log = history(&[(1, 4), (2, 3)]);
        // At once: any order is right.
        assert_eq!(broken(order, &log, &[add(1, 0, 10, 4), add(2, 5, 15, 3)]), 0);
        assert_eq!(broken(order, &log, &[add(1, 0, 4, 4), add(2, 5, 15, 3)]), 1);
        // Another machine is nobody's business.
        let mut other = add(2, 5, 15, 3);
        other.machine = hash(201);
        assert_eq!(broken(order, &log, &[add(1, 0, 4, 4), other]), 0);
    }

    #[test]
    fn a_read_is_what_the_order_gives_at_its_height() {
        let log = history(&[(1, 4), (2, 6)]);
        let adds = [add(1, 0, 1, 4), add(2, 2, 3, 6)];
        let with = |call: Call| adds.iter().cloned().chain([call]).collect::<Vec<_>>();
        assert_eq!(broken(values, &log, &with(read(9, 7, 10))), 0);
        assert_eq!(broken(values, &log, &with(read(9, 7, 5))), 1);
        // Right for its height, and older than what this custodian has told.
        assert_eq!(broken(values, &log, &with(read(9, 5, 5))), 1);
        let mut elsewhere = read(9, 5, 5);
        elsewhere.at = Some("b".into());
        assert_eq!(broken(values, &log, &with(elsewhere)), 0);
    }

    #[test]
    fn a_fault_without_an_answer_afterwards_is_named() {
        let healed = Note { at_ms: 100, custodian: None, what: What::Healed { fault: "halves".into() } };
        let mut found = Vec::new();
        assert_eq!(progress(&[add(1, 101, 300, 4)], std::slice::from_ref(&healed), &mut found), [200]);
        assert!(found.is_empty());
        for calls in [vec![], vec![add(1, 99, 300, 4)], vec![add(1, 101, 101 + 2 * PROGRESS_MS, 4)]] {
            progress(&calls, std::slice::from_ref(&healed), &mut found);
        }
        assert!(found.len() == 3 && found[0].contains("halves"), "{found:?}");
    }

    #[test]
    fn an_input_that_a_living_custodian_forgets_is_named() {
        let note = |at_ms, custodian, what| Note { at_ms, custodian, what };
        let mut waiting = add(1, 1_000, 26_000, 0);
        waiting.answer = Some(Answer::Nothing { why: UNANSWERED.into() });
        let notes = |settled: u64, down: Option<u64>| {
            let mut notes = vec![
                note(0, Some(1), What::Door { at: "a".into() }),
                note(500, None, What::Fault { fault: "halves 5 s".into() }),
                note(6_000, None, What::Healed { fault: "halves 5 s".into() }),
                note(settled, Some(2), What::Certified { height: 4 }),
            ];
            notes.extend(down.map(|at| note(at, Some(1), What::Down)));
            notes
        };
        let found = |notes: &[Note], log: &History| {
            let mut broken = Vec::new();
            lost(log, std::slice::from_ref(&waiting), notes, &mut broken);
            broken.len()
        };
        let log = history(&[(1, 4)]);
        assert_eq!(found(&notes(6_000 + WAITS_MS, None), &log), 0);
        assert_eq!(found(&notes(6_001 + WAITS_MS, None), &log), 1);
        // Its memory is gone with its process.
        assert_eq!(found(&notes(6_001 + WAITS_MS, Some(7_000)), &log), 0);
        // It never came.
        assert_eq!(found(&notes(6_001 + WAITS_MS, None), &history(&[])), 1);
    }
}
