//! What goes wrong in a run. A seed picks a family: some kinds of fault together, because random mixtures of everything hide what
//! few together do.

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;

use super::net::below;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Messages are lost.
    Loss,
    /// Messages come twice.
    Duplicate,
    /// Messages overtake each other by up to a minute.
    Straggle,
    /// Two halves don't reach each other.
    Partition,
    /// One hears and isn't heard, or the other way round.
    OneWay,
    /// Two halves with one custodian that reaches both.
    Bridge,
    /// One is cut off.
    Isolate,
    /// One stands still.
    Pause,
    /// Power fails between any write and any send of one.
    Crash,
    /// Power fails everywhere at once.
    Blackout,
    /// One kill follows the other.
    CrashLoop,
    /// A disk is full.
    DiskFull,
    /// A flush fails.
    FailedFlush,
    /// A wall clock is wrong.
    Skew,
    /// A wall clock jumps, and back.
    Jump,
    /// A disk is replaced by an old image of itself.
    Restore,
    /// A relay goes down, or comes back.
    Relay,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 17] = [
        Fault::Loss,
        Fault::Duplicate,
        Fault::Straggle,
        Fault::Partition,
        Fault::OneWay,
        Fault::Bridge,
        Fault::Isolate,
        Fault::Pause,
        Fault::Crash,
        Fault::Blackout,
        Fault::CrashLoop,
        Fault::DiskFull,
        Fault::FailedFlush,
        Fault::Skew,
        Fault::Jump,
        Fault::Restore,
        Fault::Relay,
    ];

    /// Its name in counters.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Loss => "loss",
            Fault::Duplicate => "duplicate",
            Fault::Straggle => "straggle",
            Fault::Partition => "partition",
            Fault::OneWay => "one-way",
            Fault::Bridge => "bridge",
            Fault::Isolate => "isolate",
            Fault::Pause => "pause",
            Fault::Crash => "crash",
            Fault::Blackout => "blackout",
            Fault::CrashLoop => "crash-loop",
            Fault::DiskFull => "disk-full",
            Fault::FailedFlush => "failed-flush",
            Fault::Skew => "skew",
            Fault::Jump => "jump",
            Fault::Restore => "restore",
            Fault::Relay => "relay",
        }
    }
}

/// Which kinds of fault a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// Its kinds.
    pub faults: &'static [Fault],
}

/// The families.
pub const FAMILIES: [Family; 9] = [
    Family { name: "calm", faults: &[] },
    Family { name: "network", faults: &[Fault::Loss, Fault::Duplicate, Fault::Straggle, Fault::Relay] },
    Family { name: "partitions", faults: &[Fault::Partition, Fault::OneWay, Fault::Bridge, Fault::Isolate] },
    Family { name: "power", faults: &[Fault::Crash, Fault::CrashLoop] },
    Family { name: "blackouts", faults: &[Fault::Crash, Fault::Blackout, Fault::Relay] },
    Family { name: "disks", faults: &[Fault::DiskFull, Fault::FailedFlush, Fault::Crash] },
    Family { name: "clocks", faults: &[Fault::Skew, Fault::Jump, Fault::Pause] },
    Family { name: "restores", faults: &[Fault::Restore, Fault::Crash] },
    Family {
        name: "storm",
        faults: &[
            Fault::Loss,
            Fault::Duplicate,
            Fault::Straggle,
            Fault::Partition,
            Fault::OneWay,
            Fault::Bridge,
            Fault::Isolate,
            Fault::Pause,
            Fault::Crash,
            Fault::Blackout,
            Fault::CrashLoop,
            Fault::DiskFull,
            Fault::FailedFlush,
            Fault::Skew,
            Fault::Jump,
            Fault::Relay,
        ],
    },
];

/// The name of runs in which the roster changes, under the faults of any family.
pub const ROSTERS: &str = "rosters";

/// The family of a seed.
pub fn family(dice: &mut ChaCha20Rng) -> Family {
    let which = usize::try_from(below(dice, FAMILIES.len() as u64)).unwrap_or_default();
    FAMILIES.get(which).copied().unwrap_or(Family { name: "calm", faults: &[] })
}

/// How often what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub BTreeMap<&'static str, u64>);

impl Counters {
    /// One more.
    pub fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// All of another's.
    pub fn add(&mut self, other: &Counters) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// How often.
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}
