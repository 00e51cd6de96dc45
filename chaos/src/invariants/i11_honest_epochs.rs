//! I11: f custodians alone end no epoch that an honest, reachable custodian leads.

/// Its name in PROTOCOL 11.
pub const NAME: &str = "I11";

/// `epoch` was led by this custodian while nothing was wrong but liars; `now` is the highest epoch that honest custodians are in.
///
/// # Errors
/// The epoch ended though its leader is honest.
pub fn see(epoch: u64, leader: u16, honest: bool, now: u64) -> Result<(), String> {
    if honest && now > epoch {
        return Err(format!(
            "epoch {epoch} of custodian {leader}, who is honest and reachable, ended; epoch {now} is entered"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_epochs_of_the_honest_must_stand() {
        assert_eq!(see(4, 1, true, 4), Ok(()));
        assert_eq!(see(4, 1, false, 5), Ok(()));
        assert!(see(4, 1, true, 5).is_err());
    }
}
