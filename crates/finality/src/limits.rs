//! Limits of the consensus core. Those that decide validity stand in `events::limits`.

/// Bytes of one envelope: a batch of 1 MiB, or an epoch's opening with all grants and locks, fits several times over.
pub const ENVELOPE_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of certified heads or batches in one answer: below [`ENVELOPE_BYTES`] with room for one more head.
pub const SYNC_BYTES: usize = 1024 * 1024;

/// Bytes of the batches of one head, unless a single batch is larger: a head with its batches fits into an envelope.
pub const HEAD_BYTES: usize = 2 * 1024 * 1024;

/// Empty batches that a leader orders in one epoch for one custodian in quarantine: two end it, two more may be asked for
/// before the first is seen.
pub const NUDGES_PER_EPOCH: u32 = 4;

/// Bytes of requests in one custodian's queue in the pool.
pub const POOL_BYTES: usize = 32 * 1024 * 1024;

/// Requests kept for one custodian's queue in the pool: ten full heads.
pub const POOL_PER_CUSTODIAN: usize = 4_000;

/// Requests of one author in one custodian's queue: a flood by one key leaves room for others.
pub const POOL_PER_AUTHOR: usize = 1_000;

/// Longest pause between two sendings of one request to the leader, in first timeouts: after a line was cut for long, a request is
/// with the leader in some seconds; a full pool costs a few hundred requests a second.
pub const FORWARD_LONGEST: u64 = 8;

/// Entries of an epoch's log after which its leader hands over (PROTOCOL 5).
pub const EPOCH_ENTRIES: u64 = 1 << 20;

/// How long an epoch lasts at most, in ms (PROTOCOL 5).
pub const EPOCH_MS: u64 = 60 * 60 * 1000;

/// How long requests may wait for long while heads have room, before the leader counts as too slow, in ms (PROTOCOL 5).
pub const SLOW_MS: u64 = 60_000;

/// How often timeouts double (PROTOCOL 5: 64-fold at most).
pub const MAX_DOUBLINGS: u32 = 6;

/// Certificates in a row after which a doubled timeout is halved.
pub const HALVE_AFTER: u32 = 16;

/// Messages about later epochs or heights kept per peer and kind: one, the newest.
pub const HELD_PER_PEER: usize = 1;

/// Evidence kept per signer: one piece names it for as long as the roster lasts.
pub const EVIDENCE_PER_SIGNER: usize = 1;

/// Bytes of a body that names one place in an epoch (an entry, a proposal, a vote, a start): a few numbers and hashes.
pub const SLOT_BODY_BYTES: usize = 256;

/// Requests of a batch that are read, to be shown as evidence: more than a batch may have, few enough to be passed on.
pub const EVIDENCE_REQUESTS: usize = 1_600;

/// Bytes of a piece of evidence: two entries with the ids of all their requests.
pub const EVIDENCE_BYTES: usize = 2 * (32 * EVIDENCE_REQUESTS + 4 * SLOT_BODY_BYTES);

/// Heads behind which a custodian fetches the state instead of replaying them: some seconds of replay.
pub const FAR_HEADS: u64 = 1_000;

/// How long a state is kept for those who fetch it, in ms: a few hundred MiB at 10 Mbit/s.
pub const FROZEN_MS: u64 = 10 * 60 * 1_000;

/// How long a custodian fetches a state from one peer before it tries another, in ms: a peer that drips holds nobody for ever.
pub const FETCH_STATE_MS: u64 = 15 * 60 * 1_000;

/// How often a peer may name another head while its state is being fetched.
pub const STATE_RESTARTS: u32 = 8;

/// Epochs under one roster before they could reach those of the next, as a power of two: with timeouts of a second that double,
/// years in which not one head is certified.
pub const FIRST_EPOCH_BITS: u32 = 20;

/// How far `seq` jumps when a run begins: over everything that a disk could have lost of one run. Twice that is used at most,
/// so two thousand million starts fit.
pub const RUN_JUMP: u64 = 1 << 32;

/// How far `seq` jumps when a Resume is signed: over everything that a lost disk could have signed, in a hundred thousand runs.
pub const RESUME_JUMP: u64 = 1 << 50;

/// The largest `seq` that a message may have: a custodian that was shown an own one counts on from there, so the rest of the range
/// must hold every jump that is still to come. No run of the protocol gets anywhere near it.
pub const SEQ_MAX: u64 = 1 << 62;

/// Commitments that a custodian issues for one (epoch, height, id): n-t+1 attempts, restarts and returns, and an end to a
/// leader that asks for ever.
pub const COMMITMENTS_PER_HEAD: u32 = 64;

/// How long a peer's message with a higher `seq` may stay un-flushed, in ms (PROTOCOL 7).
pub const CLAIM_FLUSH_MS: u64 = 1_000;
