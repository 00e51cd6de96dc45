//! What goes wrong, and when: drawn from a seed, or read from a scenario of one line each.
//!
//! A scenario's line is `SECONDS NAME [CUSTODIAN]`: how long, what, and to whom; without a number the seed chooses. Empty lines and
//! those that begin with `#` are skipped.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, anyhow, bail};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

/// Shortest and longest fault that is drawn, s.
const SECONDS: (u64, u64) = (4, 12);

/// Longest fault of a scenario, s: custodians are given an hour to stand still, not a day.
const LONGEST: u64 = 3_600;

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Two halves; neither has a quorum.
    Halves,
    /// f custodians are cut off from the rest, not from each other.
    Minority,
    /// Two halves that one custodian sees both of.
    Bridge,
    /// One sends and isn't heard by its peers.
    Unheard,
    /// One hears its peers no more, and is heard.
    Deaf,
    /// One's cable comes out and goes in again, every second.
    Flapping,
    /// The leader's cable is out.
    LeaderIsolated,
    /// SIGKILL.
    Killed,
    /// SIGKILL to the leader.
    LeaderKilled,
    /// SIGSTOP, later SIGCONT.
    Paused,
    /// SIGSTOP to the leader.
    LeaderPaused,
    /// One is killed and started again as often as the time allows.
    Storm,
    /// SIGKILL to all at once.
    AllKilled,
    /// Each in turn is told to stop and started again.
    Rolling,
    /// The relay is killed.
    RelayGone,
    /// One's disk has no room left.
    DiskFull,
}

/// All, with their names.
pub const KINDS: [(Kind, &str); 16] = [
    (Kind::Halves, "halves"),
    (Kind::Minority, "minority"),
    (Kind::Bridge, "bridge"),
    (Kind::Unheard, "unheard"),
    (Kind::Deaf, "deaf"),
    (Kind::Flapping, "flapping"),
    (Kind::LeaderIsolated, "leader-isolated"),
    (Kind::Killed, "killed"),
    (Kind::LeaderKilled, "leader-killed"),
    (Kind::Paused, "paused"),
    (Kind::LeaderPaused, "leader-paused"),
    (Kind::Storm, "storm"),
    (Kind::AllKilled, "all-killed"),
    (Kind::Rolling, "rolling"),
    (Kind::RelayGone, "relay-gone"),
    (Kind::DiskFull, "disk-full"),
];

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }
}

/// One fault of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// To whom, where it is about one that isn't the leader; where halves are cut.
    pub custodian: u16,
    /// For how long, s.
    pub seconds: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} s, custodian {}", self.kind.name(), self.seconds, self.custodian)
    }
}

/// Draws faults, each kind once before any comes twice.
pub struct Dice {
    dice: ChaCha20Rng,
    left: Vec<Kind>,
    n: u16,
}

impl Dice {
    /// For `n` custodians.
    pub fn new(seed: u64, n: u16) -> Self {
        Dice { dice: ChaCha20Rng::seed_from_u64(seed), left: Vec::new(), n }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.dice.next_u64() % end.max(1)
    }

    fn one(&mut self) -> u16 {
        let n = u64::from(self.n);
        1 + u16::try_from(self.below(n)).unwrap_or_default()
    }

    /// The next fault.
    pub fn fault(&mut self) -> Fault {
        if self.left.is_empty() {
            self.left = KINDS.iter().map(|(kind, _)| *kind).collect();
        }
        let which = usize::try_from(self.below(self.left.len() as u64)).unwrap_or_default();
        let kind = self.left.swap_remove(which);
        let (least, most) = SECONDS;
        let seconds = least + self.below(most - least + 1);
        Fault { kind, custodian: self.one(), seconds }
    }

    /// The faults of a scenario.
    ///
    /// # Errors
    /// The line that is none.
    pub fn scenario(&mut self, text: &str) -> Result<Vec<Fault>> {
        let names: BTreeMap<&str, Kind> = KINDS.iter().map(|(kind, name)| (*name, *kind)).collect();
        let mut faults = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: String| anyhow!("line {number}: {why}; expected `SECONDS NAME [CUSTODIAN]`");
            let mut words = line.split_whitespace();
            let seconds =
                words.next().and_then(|word| word.parse().ok()).filter(|s| (1..=LONGEST).contains(s));
            let seconds = seconds.ok_or_else(|| wrong(format!("seconds must be 1 to {LONGEST}")))?;
            let name = words.next().unwrap_or_default();
            let known = || KINDS.map(|(_, name)| name).join(", ");
            let kind = names.get(name).copied();
            let kind = kind.ok_or_else(|| wrong(format!("no fault `{name}`, there are {}", known())))?;
            let custodian = match words.next() {
                None => self.one(),
                Some(word) => word
                    .parse()
                    .ok()
                    .filter(|number| (1..=self.n).contains(number))
                    .ok_or_else(|| wrong(format!("no custodian `{word}`, there are 1 to {}", self.n)))?,
            };
            if let Some(more) = words.next() {
                bail!(wrong(format!("`{more}` is too much")));
            }
            faults.push(Fault { kind, custodian, seconds });
        }
        if faults.is_empty() {
            bail!("a scenario without a fault");
        }
        Ok(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_comes_before_any_comes_twice() {
        let mut dice = Dice::new(7, 4);
        let first: std::collections::BTreeSet<Kind> = KINDS.iter().map(|_| dice.fault().kind).collect();
        assert_eq!(first.len(), KINDS.len());
        let mut again = Dice::new(7, 4);
        let mut other = Dice::new(8, 4);
        let drawn = |dice: &mut Dice| (0..40).map(|_| dice.fault()).collect::<Vec<_>>();
        assert_eq!(drawn(&mut Dice::new(7, 4)), drawn(&mut again));
        assert_ne!(drawn(&mut Dice::new(7, 4)), drawn(&mut other));
    }

    #[test]
    fn a_scenario_is_read_or_its_line_is_named() {
        let read = Dice::new(1, 4).scenario("# the leader first\n\n5 leader-killed\n 3 paused 2 \n").unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[1], Fault { kind: Kind::Paused, custodian: 2, seconds: 3 });
        for (text, part) in [
            ("5 killed 9", "no custodian `9`"),
            ("5 nothing", "no fault `nothing`"),
            ("x killed", "line 1: seconds"),
            ("5 killed 1 2", "`2` is too much"),
            ("# none", "without a fault"),
        ] {
            let refused = Dice::new(1, 4).scenario(text).unwrap_err().to_string();
            assert!(refused.contains(part), "{text}: {refused}");
        }
    }
}
