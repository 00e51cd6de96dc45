//! What makes batches invalid whatever the clock says. Nothing here looks at the state: a fault is evidence that anybody
//! can check, and it doesn't depend on where a head's boundaries fall.

use std::collections::BTreeSet;

use concordat_events::Batch;
use concordat_events::limits::{BATCH_BYTES, BATCHES_PER_HEAD, MAX_INTEGER, REQUESTS_PER_HEAD};

use crate::error::{BatchFault, ExecuteError, HeadFault};

/// Checks one batch that follows `before_ms`.
pub(crate) fn batch(batch: &Batch, before_ms: u64) -> Result<(), BatchFault> {
    let got = batch.time_ms;
    if got < before_ms {
        return Err(BatchFault::TimeFell { got, before: before_ms });
    }
    if got > MAX_INTEGER.unsigned_abs() {
        return Err(BatchFault::Time { got });
    }
    if batch.requests.len() > REQUESTS_PER_HEAD {
        return Err(BatchFault::Requests { got: batch.requests.len() });
    }
    let bytes = batch.bytes();
    if bytes > BATCH_BYTES {
        return Err(BatchFault::Bytes { got: bytes });
    }
    let mut ids = BTreeSet::new();
    match batch.requests.iter().map(|request| request.id()).find(|id| !ids.insert(*id)) {
        Some(id) => Err(BatchFault::Twice { id }),
        None => Ok(()),
    }
}

/// Checks the batches of one head after the first.
pub(crate) fn batches(batches: &[Batch], before_ms: u64) -> Result<(), ExecuteError> {
    let mut before = before_ms;
    for (index, one) in batches.iter().enumerate() {
        batch(one, before).map_err(|fault| ExecuteError::InvalidBatch { index, fault })?;
        before = one.time_ms;
    }
    let requests: usize = batches.iter().map(|batch| batch.requests.len()).sum();
    let fault = if batches.is_empty() {
        HeadFault::Empty
    } else if batches.len() > BATCHES_PER_HEAD {
        HeadFault::Batches { got: batches.len() }
    } else if requests > REQUESTS_PER_HEAD {
        HeadFault::Requests { got: requests }
    } else {
        return Ok(());
    };
    Err(ExecuteError::InvalidHead(fault))
}
