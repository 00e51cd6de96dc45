//! The program with rules switched off (PROTOCOL 12): for the tests of this crate and for the simulator, so that a checker
//! which finds nothing is known to look. No custodian is made of one; nothing outside tests and simulator names this module.
//!
//! A [`Mutant`] is a set of switches over other rules. Each name of PROTOCOL 12 stands for such a set; [`crate::each_mutant`]
//! hands all of them to a macro of the caller, who can run `Decider<S, Mutant<OFF>>` by name with one `match`.
//!
//! Not here, because they aren't rules of this crate: a threshold of f+1 (how the key is dealt), shares of epochs that
//! combine (a property of FROST: the model check), openraft's majority (its commits count for nothing here).

use std::marker::PhantomData;

use crate::record::Record;
use crate::rules::{Law, Rule, Rules};

/// The rules of `B` without those whose bits stand in `OFF` (see [`off`]).
pub struct Mutant<const OFF: u64, B: Rules = Law>(PhantomData<fn() -> B>);

macro_rules! switches {
    ($($switch:ident = $rule:ident),+ $(,)?) => {
        /// The bit of each [`Rule`].
        #[allow(missing_docs, reason = "named after the rules, which are documented")]
        pub mod off {
            use crate::rules::Rule;
            $(pub const $switch: u64 = Rule::$rule.bit();)+
        }

        #[cfg(test)]
        pub(crate) const SWITCHES: &[(&str, u64)] = &[$((stringify!($switch), off::$switch)),+];
    };
}

impl<const OFF: u64, B: Rules> Rules for Mutant<OFF, B> {
    type Scheme = B::Scheme;

    #[inline(always)]
    fn keeps(rule: Rule) -> bool {
        B::keeps(rule) && OFF & rule.bit() == 0
    }

    fn next_seq(record: &Record) -> u64 {
        B::next_seq(record)
    }
}

switches! {
    FLUSH_BEFORE_SEND = FlushBeforeSend,
    LOCK_BEFORE_SHARE = LockBeforeShare,
    OWN_SHARE_RULE = OwnShareRule,
    VALUE_RULE = ValueRule,
    PREPARED_PERSISTS = PreparedPersists,
    EPOCH_PERSISTS = EpochPersists,
    QUARANTINE = Quarantine,
    SEQ_STAYS_UNTIL_CHECKED = SeqStaysUntilChecked,
    FRESH_ANSWERS = FreshAnswers,
    QUARANTINED_DONT_REPORT = QuarantinedDontReport,
    HEADS_FROM_QUORUM = HeadsFromQuorum,
    BAR_IS_TWO_AHEAD = BarIsTwoAhead,
    BAR_PERSISTS = BarPersists,
    GRANT_SHOWS_LOCK = GrantShowsLock,
    ADOPTED_LOCK_BINDS_NOT = AdoptedLockBindsNot,
    COMPLAINTS_BIND_BY_QUORUM = ComplaintsBindByQuorum,
    LOCK_PERSISTS = LockPersists,
    LOCK_FLUSHED_FIRST = LockFlushedFirst,
    LOCK_NEVER_FALLS = LockNeverFalls,
    EPOCH_ENDS_SHARES = EpochEndsShares,
    GRANT_READS_LOCK_LAST = GrantReadsLockLast,
    HIGHEST_LOCK_DECIDES = HighestLockDecides,
    ADOPTED_LOCK_FREES_NOT = AdoptedLockFreesNot,
    PREPARE_BINDS_EPOCH = PrepareBindsEpoch,
    GRANTS_OPEN_BY_QUORUM = GrantsOpenByQuorum,
    QUORUM_OUTVOTES_LIARS = QuorumOutvotesLiars,
    ID_WITHOUT_EPOCH = IdWithoutEpoch,
    ONE_VOTE_PER_HEIGHT = OneVotePerHeight,
    MARK_IS_BOOT_ID = MarkIsBootId,
    EVIDENCE_ENDS_OWN_EPOCH = EvidenceEndsOwnEpoch,
    COMPLAINS_WITHOUT_START = ComplainsWithoutStart,
    SESSIONS_OF_ALL_PREPARED = SessionsOfAllPrepared,
    REPEATS = Repeats,
    ROSTER_BINDS = RosterBinds,
}

/// Gives a macro of the caller every mutant of PROTOCOL 12: its name, what it breaks, and the switches it turns off, as
/// `"name" breaks Safety without [SWITCH, ..];`.
#[doc(hidden)]
#[macro_export]
macro_rules! each_mutant {
    ($callback:path) => {
        $callback! {
            "flush-after-send" breaks Safety without [FLUSH_BEFORE_SEND];
            "share-before-certificate" breaks Safety without [LOCK_BEFORE_SHARE];
            "prepare-not-persisted" breaks Safety without [PREPARED_PERSISTS];
            "epoch-not-persisted" breaks Safety without [EPOCH_PERSISTS];
            "lock-not-persisted" breaks Safety without [LOCK_PERSISTS];
            "lock-flushed-after-share" breaks Safety without [LOCK_FLUSHED_FIRST];
            "lock-falls" breaks Safety without [LOCK_NEVER_FALLS];
            "share-after-grant" breaks Safety without [EPOCH_ENDS_SHARES];
            "grant-reads-lock-early" breaks Safety without [GRANT_READS_LOCK_LAST];
            "grant-hides-lock" breaks Safety without [GRANT_SHOWS_LOCK];
            "not-the-highest-lock" breaks Safety without [HIGHEST_LOCK_DECIDES];
            "value-rule-dropped" breaks Safety without [VALUE_RULE];
            "own-share-rule-dropped" breaks Safety without [OWN_SHARE_RULE];
            "value-and-own-share-rules-dropped" breaks Safety without [VALUE_RULE, OWN_SHARE_RULE];
            "adopted-lock-frees" breaks Safety without [ADOPTED_LOCK_FREES_NOT, VALUE_RULE];
            "prepare-without-epoch" breaks Safety without [PREPARE_BINDS_EPOCH];
            "grant-quorum-f-plus-1" breaks Safety without [GRANTS_OPEN_BY_QUORUM];
            "majority-quorum" breaks Safety without [QUORUM_OUTVOTES_LIARS];
            "epoch-inside-id" breaks Safety without [ID_WITHOUT_EPOCH];
            "two-votes-per-height" breaks Safety without [ONE_VOTE_PER_HEIGHT];
            "no-quarantine" breaks Safety without [QUARANTINE];
            "quarantine-not-persisted" breaks Safety without [BAR_PERSISTS];
            "bar-one-lower" breaks Safety without [BAR_IS_TWO_AHEAD];
            "heads-from-few" breaks Safety without [HEADS_FROM_QUORUM];
            "quarantined-report" breaks Safety without [QUARANTINED_DONT_REPORT];
            "answers-replayed" breaks Safety without [FRESH_ANSWERS];
            "seq-raised-before-asking" breaks Safety without [SEQ_STAYS_UNTIL_CHECKED];
            "mark-without-boot-id" breaks Safety without [MARK_IS_BOOT_ID];
            "few-complaints-bind" breaks Liveness without [COMPLAINTS_BIND_BY_QUORUM];
            "evidence-ends-any-epoch" breaks Liveness without [EVIDENCE_ENDS_OWN_EPOCH];
            "complaints-need-start" breaks Liveness without [COMPLAINS_WITHOUT_START];
            "adopted-lock-binds" breaks Liveness without [ADOPTED_LOCK_BINDS_NOT];
            "sessions-of-certificate-only" breaks Liveness without [SESSIONS_OF_ALL_PREPARED];
            "nothing-repeated" breaks Liveness without [REPEATS];
            "roster-unbound" breaks Safety without [ROSTER_BINDS];
        }
    };
}

/// What a mutant breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaks {
    /// What must never happen, happens.
    Safety,
    /// What must happen, doesn't.
    Liveness,
}

/// A mutant of PROTOCOL 12.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name; stable.
    pub name: &'static str,
    /// What it breaks.
    pub breaks: Breaks,
    /// The bits of the switches that it turns off.
    pub off: u64,
}

macro_rules! list {
    ($($name:literal breaks $breaks:ident without [$($switch:ident),+];)+) => {
        /// All mutants.
        pub const ALL: &[Entry] = &[$(
            Entry { name: $name, breaks: Breaks::$breaks, off: $(off::$switch)|+ }
        ),+];
    };
}
each_mutant!(list);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_switch_has_a_mutant_and_every_name_is_one() {
        let names: BTreeSet<_> = ALL.iter().map(|entry| entry.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(
            names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-' || b == b'1'))
        );
        for (switch, bit) in SWITCHES {
            assert!(ALL.iter().any(|entry| entry.off & bit != 0), "{switch} is in no mutant");
            assert_eq!(bit.count_ones(), 1);
        }
        assert_eq!(
            SWITCHES.iter().map(|(_, bit)| bit).fold(0, |all, bit| all | bit).count_ones() as usize,
            SWITCHES.len()
        );
    }

    #[test]
    fn a_mutant_breaks_only_its_own_rules() {
        type Both = Mutant<{ off::REPEATS }, Mutant<{ off::VALUE_RULE }>>;
        assert!(
            !Both::keeps(Rule::Repeats) && !Both::keeps(Rule::ValueRule) && Both::keeps(Rule::OwnShareRule)
        );
        assert!(Mutant::<0>::keeps(Rule::Repeats) && Mutant::<0>::keeps(Rule::FlushBeforeSend));
    }
}
