//! The network: which message arrives, when and how often. Directed: a can reach b while b can't reach a.

use std::collections::BTreeSet;

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

/// How the network is now.
#[derive(Clone, Debug)]
pub struct Net {
    /// Shortest and longest way, ms.
    pub delay_ms: (u64, u64),
    /// Of 100 messages so many are lost.
    pub loss: u64,
    /// Of 100 messages so many come twice.
    pub twice: u64,
    /// Of 1000 messages so many take up to a minute.
    pub straggle: u64,
    /// Ways that are cut: from a seat to a seat.
    cut: BTreeSet<(usize, usize)>,
}

impl Default for Net {
    fn default() -> Self {
        Net { delay_ms: (1, 20), loss: 0, twice: 0, straggle: 0, cut: BTreeSet::new() }
    }
}

/// A number below `end`, which is at least 1.
pub fn below(dice: &mut ChaCha20Rng, end: u64) -> u64 {
    dice.next_u64() % end.max(1)
}

/// True `chance` times of `of`.
pub fn chance(dice: &mut ChaCha20Rng, chance: u64, of: u64) -> bool {
    below(dice, of) < chance
}

/// What became of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// After how many ms it arrives, once for each time.
    pub arrives: Vec<u64>,
    /// The fault that befell it, if any.
    pub fault: Option<&'static str>,
}

impl Net {
    /// Is the way open?
    pub fn open(&self, from: usize, to: usize) -> bool {
        from == to || !self.cut.contains(&(from, to))
    }

    /// Cuts a way.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut.insert((from, to));
    }

    /// Opens all ways.
    pub fn mend(&mut self) {
        self.cut.clear();
    }

    /// How long a way takes.
    pub fn delay(&self, dice: &mut ChaCha20Rng) -> u64 {
        let (shortest, longest) = self.delay_ms;
        shortest + below(dice, longest - shortest + 1)
    }

    /// What becomes of a message.
    pub fn fate(&self, dice: &mut ChaCha20Rng, from: usize, to: usize) -> Fate {
        if !self.open(from, to) {
            return Fate { arrives: Vec::new(), fault: Some("cut") };
        }
        if chance(dice, self.loss, 100) {
            return Fate { arrives: Vec::new(), fault: Some("lost") };
        }
        let mut fate = Fate { arrives: vec![self.delay(dice)], fault: None };
        if chance(dice, self.twice, 100) {
            fate.arrives.push(self.delay(dice));
            fate.fault = Some("duplicated");
        }
        if chance(dice, self.straggle, 1000) {
            fate.arrives = vec![below(dice, 60_000)];
            fate.fault = Some("straggling");
        }
        fate
    }
}
