//! Every bound of this crate, each with its reason.

/// Most custodians of one group.
///
/// A ceremony sends n messages to n custodians and each holds n of every kind;
/// at 64 the largest message is 4.2 kB and a whole ceremony stays below 2 MB
/// per custodian. Certification is O(n) signatures per head, and at 16 signers
/// a core makes 154 certificates a second: a group beyond 64 would be a
/// different design.
pub const MAX_CUSTODIANS: usize = 64;

/// Fewest custodians of one group: FROST has no key of a single holder.
pub const MIN_CUSTODIANS: usize = 2;

/// Lowest threshold. One signer alone would be an ordinary key in one place.
pub const MIN_THRESHOLD: u16 = 2;

/// Most messages that one session signs: `|M(h)|` of PROTOCOL section 3.
pub const MAX_MESSAGES: usize = 64;
