//! What can go wrong besides a refused request.

use concordat_events::Hash;
use concordat_events::limits::{BATCH_BYTES, BATCHES_PER_HEAD, MAX_INTEGER, REQUESTS_PER_HEAD};
use concordat_store::StoreError;

use crate::limits::{CHUNK_BYTES, CHUNK_LEAVES};

/// Why a ledger can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The genesis isn't one that this build can run.
    #[error(transparent)]
    Genesis(#[from] concordat_events::genesis::GenesisError),
    /// The genesis doesn't fit into Head(0).
    #[error("the genesis doesn't fit into the first head: {0}; shorten its description or relay list")]
    TooLarge(String),
    /// The store belongs to another cluster.
    #[error(
        "the store holds the state of cluster {stored}, the genesis is that of {expected}; give this cluster its own data directory"
    )]
    OtherCluster {
        /// Whose state the store holds.
        stored: Hash,
        /// Whose genesis was given.
        expected: Hash,
    },
    /// The stored tree doesn't have the root that the stored head names.
    #[error(
        "the stored state has root {got}, the certified head names {expected}: the disk lost or changed data; restore this custodian"
    )]
    Root {
        /// Root of the stored tree.
        got: Hash,
        /// What the head says.
        expected: Hash,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a head can't be computed.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// A batch is invalid whatever the clock says: evidence against the leader who signed it (PROTOCOL 5).
    #[error("batch {index} of the head is invalid: {fault}")]
    InvalidBatch {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        fault: BatchFault,
    },
    /// These batches can't make one head; each may be valid alone. The fault of who proposed the head's boundary.
    #[error("the batches can't make one head: {0}")]
    InvalidHead(HeadFault),
    /// The versions in force need what this build doesn't have.
    #[error(
        "the certified state needs {lacks}, which this build doesn't have; install a newer build and start it on the same data"
    )]
    Unsupported {
        /// What it lacks.
        lacks: String,
    },
    /// The store failed: the process stops.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a chunk of state is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// It isn't the one that comes next.
    #[error("the chunk doesn't begin where the last one ended")]
    Place,
    /// Larger than any.
    #[error(
        "a chunk of {leaves} leaves and {bytes} bytes; at most {CHUNK_LEAVES} and {CHUNK_BYTES} are taken"
    )]
    TooLarge {
        /// Its leaves.
        leaves: usize,
        /// Their size.
        bytes: usize,
    },
    /// A leaf out of order, twice, or from elsewhere.
    #[error("the chunk holds a leaf that has no place in it")]
    Stray,
    /// A leaf is missing, changed or too many.
    #[error(
        "the chunk leads to root {got}, the certified head's is {expected}: fetch it from another custodian"
    )]
    Root {
        /// Where it leads.
        got: Hash,
        /// What the head says.
        expected: Hash,
    },
}

/// Why a state that was taken in can't become the certified one.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It isn't this head's.
    #[error("the state has root {got}, the certified head names {expected}")]
    Root {
        /// Its root.
        got: Hash,
        /// What the head says.
        expected: Hash,
    },
    /// A chunk is missing.
    #[error("the chunk at {next} is missing")]
    Incomplete {
        /// Where it begins.
        next: Hash,
    },
    /// A certified height never falls.
    #[error("the state of height {height}, where {next} comes next here")]
    Stale {
        /// Its height.
        height: u64,
        /// The height to be certified next.
        next: u64,
    },
    /// The head isn't of this cluster.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is wrong with a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchFault {
    /// Time must not fall.
    #[error("its time {got} lies before {before}, the time of the batch or head before it")]
    TimeFell {
        /// Its time.
        got: u64,
        /// The time before it.
        before: u64,
    },
    /// A time that no JSON number carries.
    #[error("its time {got} is beyond {MAX_INTEGER} ms")]
    Time {
        /// Its time.
        got: u64,
    },
    /// Too many requests.
    #[error("{got} requests; a batch has at most {REQUESTS_PER_HEAD}")]
    Requests {
        /// How many.
        got: usize,
    },
    /// Too many bytes.
    #[error("{got} bytes of requests; a batch has at most {BATCH_BYTES}")]
    Bytes {
        /// How many.
        got: usize,
    },
    /// One request twice.
    #[error("request {id} stands in it twice")]
    Twice {
        /// The request.
        id: Hash,
    },
}

/// What is wrong with a head's boundary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// Head(0) executes the genesis alone.
    #[error("Head(0) has no batches, {got} were given")]
    First {
        /// How many.
        got: usize,
    },
    /// Later heads execute something.
    #[error("a head after the first covers at least one batch")]
    Empty,
    /// Too many batches.
    #[error("{got} batches; a head covers at most {BATCHES_PER_HEAD}")]
    Batches {
        /// How many.
        got: usize,
    },
    /// Too many requests.
    #[error("{got} requests; a head covers at most {REQUESTS_PER_HEAD}")]
    Requests {
        /// How many.
        got: usize,
    },
}

/// Why a draft can't be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It was computed on another state.
    #[error("the draft of height {height} continues {parent}, the certified head is {tip}; execute it again")]
    Stale {
        /// Its height.
        height: u64,
        /// The head that it continues.
        parent: Hash,
        /// The certified head; zero before Head(0).
        tip: Hash,
    },
}
