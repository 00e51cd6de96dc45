//! Operations that end in the middle: what an operator is told of them afterwards, and where a test ends them.
//!
//! Every change of a custodian's files and of its store goes by [`step`]. In production that does nothing; in this crate's own tests it
//! ends a process at any one of them (`tests`), which then begins again and must go on or undo what was done, and say which.

/// What became of an earlier call of an operation that was interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Earlier {
    /// There was none, or nothing of it is left.
    #[default]
    None,
    /// What it had written counts for nothing: it was thrown away, and all was done anew.
    RolledBack,
    /// What it had written counts: this call has gone on from there.
    Resumed,
}

impl Earlier {
    /// In a word, for scripts. `None` if there is nothing to say.
    pub fn word(&self) -> Option<&'static str> {
        match self {
            Earlier::None => None,
            Earlier::RolledBack => Some("rolled_back"),
            Earlier::Resumed => Some("resumed"),
        }
    }

    /// For people.
    pub fn note(&self) -> Option<&'static str> {
        match self {
            Earlier::None => None,
            Earlier::RolledBack => Some(
                "an earlier call was interrupted: what it had left was thrown away, and all was done anew",
            ),
            Earlier::Resumed => {
                Some("an earlier call had come so far that what it wrote counts: this one has ended it")
            }
        }
    }

    /// That something was left behind which counts for nothing.
    pub(crate) fn left_behind(left: bool) -> Self {
        if left { Earlier::RolledBack } else { Earlier::None }
    }
}

/// Before a change of a file, a directory or the store.
#[cfg(not(test))]
pub(crate) fn step() -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use self::tests::step;

#[cfg(test)]
pub(crate) mod tests;
