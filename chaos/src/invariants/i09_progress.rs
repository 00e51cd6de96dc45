//! I9: after healing, what was asked for is certified within f+2 epochs. Bounds are epochs and virtual time, never a wall clock.

/// Its name in PROTOCOL 11.
pub const NAME: &str = "I9";

/// How long epochs may take after healing, ms: a minute of stragglers and the longest timeout of everybody's first epochs, then f
/// more and two.
pub fn longest_ms(timeout_ms: u64, f: u64) -> u64 {
    64 * timeout_ms * (f + 4) + 120_000
}

/// Everything healed, `failed` epochs ended and all requests are certified; `rosters` were in force meanwhile.
///
/// # Errors
/// More epochs failed than may.
pub fn epochs(failed: u64, f: u64, rosters: u64) -> Result<(), String> {
    let most = (f + 2) * rosters;
    if failed > most {
        return Err(format!("{failed} epochs from healing to certified, at most {most} may fail"));
    }
    Ok(())
}

/// A height that must be certified in the epoch of an honest custodian, and in no later one than `epoch`.
///
/// # Errors
/// That epoch ended, or the time was over.
pub fn height(certified: bool, over: bool, height: u64, epoch: u64, ms: u64) -> Result<(), String> {
    if over {
        return Err(format!("epoch {epoch}, led by an honest custodian, was lost at height {height}"));
    }
    if !certified {
        return Err(format!("height {height} isn't certified after {ms} ms"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_and_two_epochs_may_fail_and_no_more() {
        assert_eq!(epochs(3, 1, 1), Ok(()));
        assert!(epochs(4, 1, 1).is_err());
        assert_eq!(epochs(4, 2, 1), Ok(()));
        assert_eq!(epochs(6, 1, 2), Ok(()));
    }

    #[test]
    fn an_epoch_lost_is_told_also_where_the_height_was_certified_later() {
        assert_eq!(height(true, false, 3, 0, 1), Ok(()));
        assert!(height(true, true, 3, 0, 1).is_err());
        assert!(height(false, false, 3, 0, 1).is_err());
    }
}
