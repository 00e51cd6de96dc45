//! From batches to a draft: the one function that every custodian and every reader computes alike (PROTOCOL 4.2).

use std::collections::BTreeSet;

use concordat_events::batch::batches_root;
use concordat_events::limits::MESSAGES_PER_HEAD;
use concordat_events::{Batch, Build, Charter, Genesis, Hash, Head, Outcome, Template, output};
use concordat_store::{Store, StoreError};

use crate::cache::Definitions;
use crate::check;
use crate::draft::{Draft, StoredTip, Tip};
use crate::error::{ExecuteError, HeadFault};
use crate::keys;
use crate::layer::{Certified, Read};
use crate::reason::Refusal;
use crate::tree;
use crate::work::Work;

/// What all drafts of one ledger have in common.
pub(crate) struct Ground<'a, S> {
    pub(crate) genesis: &'a Genesis,
    pub(crate) cluster: Hash,
    pub(crate) charter: &'a Charter,
    pub(crate) build: &'a Build,
    pub(crate) definitions: &'a Definitions,
    pub(crate) certified: &'a Certified<S>,
}

/// Computes the head after `tip`.
pub(crate) fn execute<S: Store>(
    ground: &Ground<'_, S>,
    tip: Option<&Tip>,
    batches: &[Batch],
) -> Result<Draft, ExecuteError> {
    let height = tip.map_or(0, |tip| tip.height + 1);
    if let Some(lacks) = ground.build.lacks(&ground.charter.versions) {
        return Err(ExecuteError::Unsupported { lacks });
    }
    let mut work = Work::new(ground.genesis, ground.charter, ground.definitions, ground.certified, height);
    let mut outcomes = Vec::new();
    let (time_ms, first) = match tip {
        None if !batches.is_empty() => {
            return Err(ExecuteError::InvalidHead(HeadFault::First { got: batches.len() }));
        }
        None => (ground.genesis.time_ms, found(ground, &mut work)?),
        Some(tip) => {
            check::batches(batches, tip.time_ms)?;
            let mut seen = BTreeSet::new();
            for batch in batches {
                work.begin(batch.time_ms)?;
                for request in &batch.requests {
                    let id = request.id();
                    // Rejected earlier in this head, it would stand in the log with two different outcomes.
                    let outcome = if seen.insert(id) {
                        work.request(request, ground.cluster)?
                    } else {
                        Refusal::Duplicate.outcome()
                    };
                    outcomes.push((id, outcome));
                }
            }
            (batches.last().map_or(tip.time_ms, |batch| batch.time_ms), Vec::new())
        }
    };
    finish(ground, work, tip, Content { time_ms, batches, outcomes, first })
}

/// What a head consists of before its state is known.
struct Content<'b> {
    time_ms: u64,
    batches: &'b [Batch],
    outcomes: Vec<(Hash, Outcome)>,
    /// Due before anything queued.
    first: Vec<Template>,
}

/// The state that the genesis alone makes, and what Head(0) emits.
fn found<S: Store>(ground: &Ground<'_, S>, work: &mut Work<'_, S>) -> Result<Vec<Template>, StoreError> {
    work.found(ground.cluster)?;
    let computer =
        output::computer(ground.genesis).map_err(|error| keys::corrupt(b"genesis", &error.to_string()))?;
    Ok(vec![output::relay_list(ground.genesis), computer])
}

fn finish<S: Store>(
    ground: &Ground<'_, S>,
    mut work: Work<'_, S>,
    tip: Option<&Tip>,
    content: Content<'_>,
) -> Result<Draft, ExecuteError> {
    let due = work.take_due(content.time_ms, content.first, MESSAGES_PER_HEAD - 1)?;
    work.write_back()?;
    let (mut changes, mut places) = (Vec::new(), Vec::new());
    for (key, value) in &work.over.writes {
        let Some(leaf) = keys::leaf_of(key) else { continue };
        let place = tree::place(leaf);
        changes.push((place, value.as_deref().map(tree::value_hash)));
        places.push((keys::placed(&place), value.as_ref().map(|_| leaf.to_vec())));
    }
    work.over.writes.extend(places);
    let state_root = tree::update(&mut work.over, changes)?;
    let hashes: Vec<Hash> = content.batches.iter().map(Batch::hash).collect();
    let count = |batch: &Batch| (batch.time_ms, u32::try_from(batch.requests.len()).unwrap_or(u32::MAX));
    let head = Head {
        cluster: ground.cluster,
        height: work.height,
        parent: tip.map_or(Hash::ZERO, |tip| tip.id),
        batches_root: batches_root(&hashes),
        state_root,
        time_ms: content.time_ms,
        roster: work.next.as_ref().unwrap_or(ground.charter).roster_hash,
        batches: content.batches.iter().map(count).collect(),
        outcomes: content.outcomes,
        genesis: tip.is_none().then(|| Box::new(ground.genesis.clone())),
    };
    let group = ground.genesis.group_key;
    let log = head
        .log_event(group, ground.genesis.kinds.log)
        .map_err(|error| keys::corrupt(keys::TIP, &error.to_string()))?;
    let id = log.id();
    let mut messages = vec![log];
    messages.extend(due.snapshots(group, id, &head));
    // Effects stand before snapshots.
    messages.splice(1..1, due.effects);
    let timer = work.over.scan(keys::TIMER_PREFIX, &[], 1)?;
    let timer = timer.first().and_then(|(key, _)| keys::timer_of(key)).map(|(due, _)| due);
    let next_due_ms = [timer, due.next_ms].into_iter().flatten().min();
    work.over.put(keys::TIP.to_vec(), StoredTip::new(id, &head, next_due_ms).encode()?);
    Ok(Draft {
        head,
        id,
        messages,
        touched: work.touched.into_iter().collect(),
        next_due_ms,
        charter: work.next,
        writes: work.over.writes,
    })
}
