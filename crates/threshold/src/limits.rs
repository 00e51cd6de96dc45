//! Every bound of this crate, each with its reason. Those that the whole system
//! shares stand in [`concordat_events::limits`].

/// Most custodians of one group: the system's limit. At 64 the largest message of
/// a ceremony has 2.3 kB and one custodian holds less than 1 MB of them.
pub const MAX_CUSTODIANS: usize = concordat_events::limits::CUSTODIANS;

/// Fewest custodians of one group: FROST has no key of a single holder.
pub const MIN_CUSTODIANS: usize = 2;

/// Lowest threshold. One signer alone would be an ordinary key in one place.
pub const MIN_THRESHOLD: u16 = 2;

/// Most messages that one session signs: `|M(h)|` of PROTOCOL section 3.
pub const MAX_MESSAGES: usize = concordat_events::limits::MESSAGES_PER_HEAD;

/// Most bytes of one message of a ceremony. The largest are a round-1 package
/// (33 bytes a coefficient and a 64-byte proof) and a view (34 bytes a custodian),
/// both below 2.3 kB at [`MAX_CUSTODIANS`].
pub const MAX_CEREMONY_MESSAGE: usize = 2_560;
