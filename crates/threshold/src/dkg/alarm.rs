//! What ends a ceremony, and whom it names.

use std::collections::BTreeSet;

use super::message::Kind;

/// A fault. It ends the ceremony for good; [`Alarm::suspects`] names who is to
/// blame, or among whom the culprit is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// Two different messages of a kind of which there is one.
    #[error("custodian {culprit} sent two different messages of one kind ({kind})")]
    Equivocation {
        /// The sender.
        culprit: u16,
        /// The kind.
        kind: Kind,
    },
    /// A message that does not fit the parameters all signed.
    #[error(
        "custodian {culprit} sent a message ({kind}) that does not fit this ceremony's roster and threshold"
    )]
    Misfit {
        /// The sender.
        culprit: u16,
        /// The kind.
        kind: Kind,
    },
    /// A secret share came to the wrong receiver: it is no secret any more.
    #[error("custodian {culprit} sent the secret share of custodian {meant_for} to another one")]
    Misdirected {
        /// The sender.
        culprit: u16,
        /// Whose share it is.
        meant_for: u16,
    },
    /// Two custodians hold different messages of a third, or one says so.
    #[error(
        "custodian {reporter} holds other messages ({kind}) of {about:?} than we do: compare the signed messages; suspected: {suspects:?}"
    )]
    ViewsDiffer {
        /// Whose view differs from ours.
        reporter: u16,
        /// The kind of message on which they differ.
        kind: Kind,
        /// The senders of these messages.
        about: BTreeSet<u16>,
        /// Among whom the culprit is: only the reporter, if it contradicts what
        /// it sent us itself or what we know we sent; else also the senders.
        suspects: BTreeSet<u16>,
    },
    /// The proof of knowledge does not hold.
    #[error("custodian {culprit} can't prove that it knows the secret it committed to")]
    BadProof {
        /// The sender.
        culprit: u16,
    },
    /// A dealer of an old key committed to something else than its share of it.
    #[error("custodian {culprit} deals another secret than its share of the group key")]
    WrongSecret {
        /// The dealer.
        culprit: u16,
    },
    /// What all dealt adds up to keys that can't be.
    #[error("what custodians {suspects:?} dealt adds up to no keys of this threshold: they chose it so")]
    Degenerate {
        /// All dealers: one alone can't do this without giving itself away first.
        suspects: BTreeSet<u16>,
    },
    /// Members that kept silent until the time was up.
    #[error("custodians {culprits:?} sent nothing ({kind}) until the time was up")]
    Silent {
        /// Who was waited for.
        culprits: BTreeSet<u16>,
        /// What for.
        kind: Kind,
    },
    /// The secret share does not lie on the polynomial committed to.
    #[error("custodian {culprit} sent a secret share that does not fit its commitment")]
    BadSecretShare {
        /// The sender.
        culprit: u16,
    },
    /// Another result from the same messages.
    #[error("custodian {culprit} confirms other keys than those that follow from the messages")]
    WrongConfirmation {
        /// The sender.
        culprit: u16,
    },
    /// Test shares that do not fit.
    #[error("custodians {culprits:?} sent bad shares of the test signature")]
    BadTestShare {
        /// All who did.
        culprits: BTreeSet<u16>,
    },
    /// Another signature from the same shares.
    #[error("custodian {culprit} reports another test signature than the one that follows from the shares")]
    WrongSignature {
        /// The sender.
        culprit: u16,
    },
    /// Another custodian ended the ceremony.
    #[error("custodian {by} ended the ceremony ({reason}); it suspects {accused:?}")]
    Aborted {
        /// Who ended it.
        by: u16,
        /// Why, as it says.
        reason: Reason,
        /// Whom it accuses.
        accused: BTreeSet<u16>,
    },
    /// The operator stopped it. Nobody is accused.
    #[error("the operator stopped the ceremony")]
    Stopped,
    /// The own library refused what passed all checks. Nobody is accused.
    #[error("the FROST library refused to go on: {reason}")]
    Library {
        /// What it said.
        reason: String,
    },
}

impl Alarm {
    /// Those among whom the culprit is. One who accuses is suspected as well: who
    /// wasn't there can't tell a false accusation from a true one.
    pub fn suspects(&self) -> BTreeSet<u16> {
        match self {
            Self::Equivocation { culprit, .. }
            | Self::Misfit { culprit, .. }
            | Self::Misdirected { culprit, .. }
            | Self::BadProof { culprit }
            | Self::BadSecretShare { culprit }
            | Self::WrongSecret { culprit }
            | Self::WrongConfirmation { culprit }
            | Self::WrongSignature { culprit } => BTreeSet::from([*culprit]),
            Self::BadTestShare { culprits } | Self::Silent { culprits, .. } => culprits.clone(),
            Self::ViewsDiffer { suspects, .. } | Self::Degenerate { suspects } => suspects.clone(),
            Self::Aborted { by, accused, .. } => accused.iter().copied().chain([*by]).collect(),
            Self::Stopped | Self::Library { .. } => BTreeSet::new(),
        }
    }

    /// The reason to give to the others.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Equivocation { .. } => Reason::Equivocation,
            Self::Misfit { .. } => Reason::Misfit,
            Self::Misdirected { .. } => Reason::Misdirected,
            Self::ViewsDiffer { .. } => Reason::ViewsDiffer,
            Self::BadProof { .. } => Reason::BadProof,
            Self::BadSecretShare { .. } => Reason::BadSecretShare,
            Self::WrongConfirmation { .. } => Reason::WrongConfirmation,
            Self::BadTestShare { .. } => Reason::BadTestShare,
            Self::WrongSignature { .. } => Reason::WrongSignature,
            Self::Aborted { .. } => Reason::Aborted,
            Self::Stopped => Reason::Operator,
            Self::Library { .. } => Reason::Library,
            Self::WrongSecret { .. } => Reason::WrongSecret,
            Self::Degenerate { .. } => Reason::Degenerate,
            Self::Silent { .. } => Reason::Silent,
        }
    }
}

/// Why a custodian ended a ceremony, as it tells the others: the kind of its
/// [`Alarm`] without the particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// [`Alarm::Equivocation`].
    Equivocation = 1,
    /// [`Alarm::Misfit`].
    Misfit = 2,
    /// [`Alarm::Misdirected`].
    Misdirected = 3,
    /// [`Alarm::ViewsDiffer`].
    ViewsDiffer = 4,
    /// [`Alarm::BadProof`].
    BadProof = 5,
    /// [`Alarm::BadSecretShare`].
    BadSecretShare = 6,
    /// [`Alarm::WrongConfirmation`].
    WrongConfirmation = 7,
    /// [`Alarm::BadTestShare`].
    BadTestShare = 8,
    /// [`Alarm::WrongSignature`].
    WrongSignature = 9,
    /// [`Alarm::Aborted`]: another one ended it first.
    Aborted = 10,
    /// [`Alarm::Library`].
    Library = 11,
    /// The operator stopped it.
    Operator = 12,
    /// [`Alarm::WrongSecret`].
    WrongSecret = 13,
    /// [`Alarm::Degenerate`].
    Degenerate = 14,
    /// [`Alarm::Silent`].
    Silent = 15,
}

impl Reason {
    /// All reasons, in the order of their codes.
    pub const ALL: [Self; 15] = [
        Self::Equivocation,
        Self::Misfit,
        Self::Misdirected,
        Self::ViewsDiffer,
        Self::BadProof,
        Self::BadSecretShare,
        Self::WrongConfirmation,
        Self::BadTestShare,
        Self::WrongSignature,
        Self::Aborted,
        Self::Library,
        Self::Operator,
        Self::WrongSecret,
        Self::Degenerate,
        Self::Silent,
    ];

    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The reason with this number.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Equivocation => "two different messages of one kind",
            Self::Misfit => "a message that does not fit the ceremony",
            Self::Misdirected => "a secret share sent to the wrong custodian",
            Self::ViewsDiffer => "custodians hold different messages",
            Self::BadProof => "a proof of knowledge that does not hold",
            Self::BadSecretShare => "a secret share that does not fit its commitment",
            Self::WrongConfirmation => "a confirmation of other keys",
            Self::BadTestShare => "a bad share of the test signature",
            Self::WrongSignature => "another test signature",
            Self::Aborted => "another custodian ended it first",
            Self::Library => "a defect of the program",
            Self::Operator => "stopped by the operator",
            Self::WrongSecret => "another secret dealt than the share of the group key",
            Self::Degenerate => "what was dealt adds up to no keys",
            Self::Silent => "silence until the time was up",
        })
    }
}
