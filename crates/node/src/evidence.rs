//! What signed messages show against a custodian (PROTOCOL 5), checked by anybody who has replayed the group's history: the
//! genesis and the rosters that were in force say whose signature each is.

use concordat_events::{Charter, Genesis};
use concordat_finality::evidence::{self, EvidenceError};
use concordat_finality::{Context, Finding};

/// What evidence shows, and under which roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// What it shows.
    pub finding: Finding,
    /// Since which height that roster is in force.
    pub since: u64,
}

/// Checks signed messages under each of the rosters, the newest first.
///
/// # Errors
/// [`EvidenceError`] of the newest roster if they show nothing under any.
pub fn check(genesis: &Genesis, charters: &[Charter], signed: &[u8]) -> Result<Shown, EvidenceError> {
    let mut first = None;
    for charter in charters.iter().rev() {
        let Ok(context) = Context::at(genesis.clone(), charter, &[]) else { continue };
        match evidence::check(&context, signed) {
            Ok(finding) => return Ok(Shown { finding, since: charter.office.since }),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or_else(|| EvidenceError::Malformed("no roster to check it under".into())))
}
