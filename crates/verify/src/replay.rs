//! The replay: a real ledger over memory executes what the heads say was executed, and must come to the same heads.

use std::sync::Arc;

use concordat_events::kinds::SNAPSHOT;
use concordat_events::{Batch, Hash, PublicKey, Route};
use concordat_ledger::{Draft, ExecuteError, Ledger, OpenError};
use concordat_store::Store;
use concordat_store::memory::MemoryStore;

use crate::Report;
use crate::due::{Due, named_height, tag};
use crate::failure::{Code, Failure};
use crate::history::{Logged, Pile};

/// Replays the history in `pile`.
pub(crate) fn replay(group: PublicKey, pile: &Pile) -> Result<Report, Failure> {
    let chain = pile.chain()?;
    let log_kind = chain.genesis.kinds.log;
    let store = Arc::new(MemoryStore::default());
    let genesis = chain.genesis.clone();
    let mut ledger = Ledger::open(store.clone(), chain.genesis).map_err(|error| match error {
        OpenError::Genesis(_) | OpenError::TooLarge(_) => {
            Failure::new(Code::Unsupported, error.to_string()).at(0)
        }
        error => stopped(error),
    })?;
    let mut charters = vec![ledger.charter().clone()];
    let mut due = Due::default();
    let mut requests = 0;
    for logged in &chain.heads {
        let height = logged.head.height;
        let batches = batches(pile, logged)?;
        let draft = ledger.execute(&batches).map_err(|error| match error {
            ExecuteError::Store(error) => stopped(error),
            error => Failure::new(Code::InvalidBatch, error.to_string()).at(height),
        })?;
        if draft.id != logged.id {
            return Err(difference(group, pile, logged, &draft));
        }
        due.add(height, draft.messages.get(1..).unwrap_or_default());
        requests += logged.head.outcomes.len() as u64;
        let writes = ledger.install(draft).map_err(stopped)?;
        store.apply(writes).and_then(|()| store.flush()).map_err(stopped)?;
        if charters.last() != Some(ledger.charter()) {
            charters.push(ledger.charter().clone());
        }
    }
    due.check(pile, log_kind)?;
    let Some(last) = chain.heads.last() else {
        return Err(Failure::new(Code::NoGenesis, "no heads"));
    };
    Ok(Report {
        heads: chain.heads.len() as u64,
        requests,
        machines: machines(&ledger)?,
        state_root: last.head.state_root,
        head: last.id,
        rubbish: pile.rubbish,
        genesis,
        charters,
    })
}

/// The batches of a head, put together from the requests at hand.
fn batches(pile: &Pile, logged: &Logged) -> Result<Vec<Batch>, Failure> {
    let height = logged.head.height;
    let mut ids = logged.head.outcomes.iter().map(|(id, _)| *id);
    let mut batches = Vec::with_capacity(logged.head.batches.len());
    for (time_ms, count) in &logged.head.batches {
        let mut requests = Vec::new();
        for id in ids.by_ref().take(usize::try_from(*count).unwrap_or(usize::MAX)) {
            let Some(event) = pile.events.get(&id) else {
                let text = format!("head {height} names request {id}, which isn't among the events");
                return Err(Failure::new(Code::MissingRequest, text).at(height));
            };
            requests.push(event.clone());
        }
        batches.push(Batch { time_ms: *time_ms, requests });
    }
    Ok(batches)
}

/// Says in what the signed head differs from the replayed one, and at which machine.
fn difference(group: PublicKey, pile: &Pile, logged: &Logged, draft: &Draft) -> Failure {
    let (signed, replayed) = (&logged.head, &draft.head);
    let height = signed.height;
    let outcomes = signed.outcomes.iter().zip(&replayed.outcomes);
    if let Some(((id, got), (_, expected))) =
        outcomes.into_iter().find(|(signed, replayed)| signed != replayed)
    {
        let text = format!(
            "head {height} says that request {id} is {}, the replay says {}",
            words(got),
            words(expected)
        );
        return Failure::new(Code::WrongOutcome, text).at(height).of(machine_of(group, pile, id));
    }
    if signed.state_root != replayed.state_root {
        let machine = differing_snapshot(pile, height, draft).or_else(|| draft.touched.first().copied());
        let text = format!(
            "head {height} names state root {}, the replay has {}; it touched {} machine(s)",
            signed.state_root,
            replayed.state_root,
            draft.touched.len()
        );
        return Failure::new(Code::WrongRoot, text).at(height).of(machine);
    }
    let what = if signed.roster != replayed.roster {
        "roster"
    } else if signed.time_ms != replayed.time_ms {
        "time"
    } else {
        "contents"
    };
    let text = format!("head {height} is {}, the replay gives {}: its {what} differ", logged.id, draft.id);
    Failure::new(Code::WrongHead, text).at(height)
}

fn words(outcome: &concordat_events::Outcome) -> String {
    outcome.reason().map_or_else(|| outcome.word().to_owned(), |code| format!("{} ({code})", outcome.word()))
}

/// The machine that a request is about.
fn machine_of(group: PublicKey, pile: &Pile, request: &Hash) -> Option<Hash> {
    match Route::of(pile.events.get(request)?, &group).ok()? {
        Route::Definition(_) => Some(*request),
        Route::Input(input) => Some(input.machine),
        Route::Change(_) | Route::Other => None,
    }
}

/// A machine whose signed snapshot at this height says something else than the replay's.
fn differing_snapshot(pile: &Pile, height: u64, draft: &Draft) -> Option<Hash> {
    let snapshots = draft.messages.iter().filter(|message| message.kind == SNAPSHOT);
    let mut due: Vec<_> = snapshots
        .filter_map(|message| Some((tag(message, "e").and_then(Hash::from_hex)?, message)))
        .collect();
    due.sort_by_key(|(machine, _)| *machine);
    due.into_iter().find_map(|(machine, expected)| {
        let differs = |event: &&concordat_events::ValidEvent| {
            event.kind() == SNAPSHOT
                && named_height(event) == Some(height)
                && event.tag("e").and_then(Hash::from_hex) == Some(machine)
                && event.content() != expected.content
        };
        pile.of_group().find(differs).map(|_| machine)
    })
}

fn machines<S: Store>(ledger: &Ledger<S>) -> Result<u64, Failure> {
    let (mut count, mut after) = (0, None);
    loop {
        let page = ledger.machines(after.as_ref(), usize::MAX).map_err(stopped)?;
        let Some(last) = page.last() else { return Ok(count) };
        count += page.len() as u64;
        after = Some(last.id);
    }
}

fn stopped(error: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Replay, format!("the replay couldn't go on: {error}"))
}
