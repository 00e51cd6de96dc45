//! Why a request changed nothing: the codes of the log, of which only the ledger's own are listed here; a machine's are
//! those of `concordat_machine::Reason`.

use concordat_events::{Outcome, Reason};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The definition names another custodian.
    NotForUs,
    /// A tag or the content of the event can't be read.
    BadRequest,
    /// No machine of this id.
    UnknownMachine,
    /// No `source` filter of any machine matches the event.
    NoMachine,
    /// This request was settled before, or stands twice in one head.
    Duplicate,
    /// Another machine has this (kind, `d`).
    DTaken,
    /// The author isn't on the allow list, or a change isn't a custodian's.
    NotAllowed,
    /// The definition's id has too few leading zero bits (NIP-13).
    Pow,
    /// The author has as many running machines as the policy grants, or too many machines listen to this kind.
    Quota,
    /// The definition isn't one that this engine admits.
    BadDefinition,
    /// The definition needs an engine that isn't in force.
    Engine,
    /// What it would publish is larger than an event may be.
    TooLarge,
    /// Its `transition` isn't the last accepted input (compare and swap in log order), or a change follows another in one head.
    Stale,
    /// Signed more than an hour before the machine's start.
    TooOld,
    /// Signed more than 15 minutes after the batch's time.
    TooNew,
    /// It asks the group to sign a kind that the group never signs.
    ForbiddenKind,
    /// The machine has more effects or timers waiting than it gets served.
    Busy,
    /// What it activates isn't proposed, or no longer.
    NoProposal,
    /// A new custodian has a number that another had before.
    NumberReused,
    /// Too few confirm it, a confirmation is wrong, or the new shares don't sign.
    Unconfirmed,
    /// It starts a machine from a definition that the group hasn't admitted.
    UnknownDefinition,
    /// It starts more machines than one request, one batch or a machine's timers may.
    StartLimit,
    /// A key pack or a wrapped event: custodians can't open it, so encrypted machines aren't admitted.
    Encrypted,
    /// The machine itself said no.
    Machine(concordat_machine::Reason),
}

impl Refusal {
    /// The code that stands in the log. It never changes.
    pub const fn code(&self) -> &str {
        match self {
            Refusal::NotForUs => "not_for_us",
            Refusal::BadRequest => "bad_request",
            Refusal::UnknownMachine => "unknown_machine",
            Refusal::NoMachine => "no_machine",
            Refusal::Duplicate => "duplicate",
            Refusal::DTaken => "d_taken",
            Refusal::NotAllowed => "not_allowed",
            Refusal::Pow => "pow",
            Refusal::Quota => "quota",
            Refusal::BadDefinition => "bad_definition",
            Refusal::Engine => "engine",
            Refusal::TooLarge => "too_large",
            Refusal::Stale => "stale",
            Refusal::TooOld => "too_old",
            Refusal::TooNew => "too_new",
            Refusal::ForbiddenKind => "forbidden_kind",
            Refusal::Busy => "busy",
            Refusal::NoProposal => "no_proposal",
            Refusal::NumberReused => "number_reused",
            Refusal::Unconfirmed => "unconfirmed",
            Refusal::UnknownDefinition => "unknown_definition",
            Refusal::StartLimit => "start_limit",
            Refusal::Encrypted => "encrypted",
            Refusal::Machine(reason) => reason.code(),
        }
    }

    /// The code as the log's type.
    #[expect(
        clippy::expect_used,
        reason = "a constant, which a test reads, or a definition's, which was checked when it was admitted"
    )]
    pub fn reason(&self) -> Reason {
        Reason::new(self.code()).expect("a code of the allowed form")
    }

    /// The outcome of a request refused for this.
    pub fn outcome(&self) -> Outcome {
        Outcome::Rejected(self.reason())
    }
}

// A definition's own codes are `machine.` and up to so many of `a-z`, `0-9` and `_`: a head takes 64 of these and the dot.
const _: () = assert!("machine.".len() + concordat_machine::limits::REFUSAL_BYTES <= 64);

impl From<concordat_machine::Rejection> for Refusal {
    fn from(rejection: concordat_machine::Rejection) -> Self {
        Refusal::Machine(rejection.reason)
    }
}

#[cfg(test)]
mod tests {
    use concordat_machine::Reason as M;
    use concordat_machine::dlc::Fault;

    use super::*;

    #[test]
    fn every_code_is_one_that_a_head_can_carry() {
        use Refusal::*;
        let own = [
            NotForUs,
            BadRequest,
            UnknownMachine,
            NoMachine,
            Duplicate,
            DTaken,
            NotAllowed,
            Pow,
            Quota,
            BadDefinition,
            Engine,
            TooLarge,
            Stale,
            TooOld,
            TooNew,
            ForbiddenKind,
            Busy,
            NoProposal,
            NumberReused,
            Unconfirmed,
            UnknownDefinition,
            StartLimit,
            Encrypted,
        ];
        let machine = [
            M::UnknownEvent,
            M::GuardFalse,
            M::GuardError,
            M::GuardCost,
            M::AssignError,
            M::EffectError,
            M::Oracle(Fault::Malformed("")),
            M::Oracle(Fault::Key),
            M::Oracle(Fault::Event),
            M::Oracle(Fault::Nonce),
            M::Oracle(Fault::Outcome),
            M::Oracle(Fault::Signature),
            M::OutputError,
            M::RecordError,
            M::TimerError,
            M::StepLimit,
            M::TooLarge,
            M::Done,
            M::BadEvent,
            M::BadState,
        ];
        for refusal in own.into_iter().chain(machine.map(Machine)) {
            assert_eq!(refusal.reason().code(), refusal.code());
        }
    }
}
