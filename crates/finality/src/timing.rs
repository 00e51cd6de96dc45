//! Timeouts: local configuration that only touches speed.

use crate::limits::MAX_DOUBLINGS;

/// How long a custodian waits. Defaults are those of a wide area network, not of a rack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long something may stay uncertified before an epoch is complained about, in ms: several round trips around the
    /// world plus flushes.
    pub timeout_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Timing { timeout_ms: 1_500 }
    }
}

impl Timing {
    /// The timeout after some failed epochs.
    pub fn timeout(&self, doublings: u32) -> u64 {
        self.timeout_ms << doublings.min(MAX_DOUBLINGS)
    }
}
