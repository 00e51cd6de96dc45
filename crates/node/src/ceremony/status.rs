//! How far a ceremony is, for the people who wait for it: who was heard, who is missing, what is wrong.

use std::collections::BTreeMap;
use std::fmt;

use concordat_events::Hash;
use concordat_threshold::dkg::Progress;

use crate::interrupted::Earlier;

/// A ceremony as one custodian sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CeremonyStatus {
    /// The proposal's id.
    pub proposal: Hash,
    /// The attempt, once all custodians were heard. A restart of one begins another.
    pub attempt: Option<Hash>,
    /// What is going on.
    pub stage: Stage,
    /// How far each custodian is, the own one too.
    pub members: BTreeMap<u16, MemberStatus>,
    /// Whose next message is missing.
    pub waiting_on: Vec<u16>,
    /// What became of what an earlier process of this custodian had done for it.
    pub earlier: Earlier,
}

/// What a custodian is doing in a ceremony.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Looking for the others.
    #[default]
    Gathering,
    /// Making the key together.
    Making,
    /// The share is stored; collecting signatures on the genesis.
    Signing,
    /// The genesis is written.
    Complete,
    /// Ended by a fault.
    Failed {
        /// What went wrong.
        reason: String,
        /// Among whom the culprit is.
        suspects: Vec<u16>,
    },
}

impl CeremonyStatus {
    /// The status for people and scripts that are not this process: the contents of `ceremony.json`.
    pub fn to_json(&self) -> serde_json::Value {
        let member = |(number, member): (&u16, &MemberStatus)| {
            let MemberStatus { name, heard, progress, signed, complete, problem } = member;
            serde_json::json!({
                "number": number, "name": name, "seen": heard, "round1": progress.round1, "echo": progress.echo,
                "round2": progress.round2, "confirmed": progress.confirmed, "tested": progress.tested,
                "signed": signed, "complete": complete, "problem": problem,
            })
        };
        let suspects = match &self.stage {
            Stage::Failed { suspects, .. } => suspects.clone(),
            _ => Vec::new(),
        };
        serde_json::json!({
            "proposal": self.proposal, "attempt": self.attempt, "stage": self.stage.to_string(),
            "waiting_on": self.waiting_on, "suspects": suspects, "earlier": self.earlier.word(),
            "members": self.members.iter().map(member).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Gathering => f.write_str("looking for the other custodians"),
            Stage::Making => f.write_str("making the key"),
            Stage::Signing => f.write_str("signing the genesis"),
            Stage::Complete => f.write_str("complete"),
            Stage::Failed { reason, .. } => write!(f, "failed: {reason}"),
        }
    }
}

/// How far one custodian is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// It was heard in this attempt or while looking for it.
    pub heard: bool,
    /// Its messages of the threshold ceremony.
    pub progress: Progress,
    /// It stored its share and signed the genesis.
    pub signed: bool,
    /// It holds the genesis with all signatures.
    pub complete: bool,
    /// The last thing that went wrong with it.
    pub problem: Option<String>,
}
