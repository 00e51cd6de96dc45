//! How fast a leader certifies while requests wait (PROTOCOL 5): one that lets them wait though heads have room, or that is
//! much slower with full heads than those before it, is complained about.

use std::collections::VecDeque;

use crate::limits::SLOW_MS;

/// The rates of the last leaders, and the minute that is being measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    /// Bytes per second of the last n leaders that were measured.
    past: VecDeque<u64>,
    /// The running epoch's last whole minute, bytes per second.
    measured: Option<u64>,
    /// Since when requests have waited for long without a break, ms; a new minute begins when one is over.
    since_ms: Option<u64>,
    /// Bytes certified since then.
    bytes: u64,
    /// Was a head full since then?
    full: bool,
}

impl Pace {
    /// A head was certified.
    pub fn certified(&mut self, bytes: usize, full: bool) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.full |= full;
    }

    /// Says whether the minute that is over now was too slow. `waits`: the oldest own request has waited for long.
    pub fn watch(&mut self, now_ms: u64, waits: bool) -> bool {
        let Some(since) = self.since_ms.filter(|_| waits) else {
            (self.bytes, self.full) = (0, false);
            self.since_ms = waits.then_some(now_ms);
            return false;
        };
        let elapsed = now_ms.saturating_sub(since);
        if elapsed < SLOW_MS {
            return false;
        }
        let (bytes, full) = (self.bytes, self.full);
        (self.since_ms, self.bytes, self.full) = (Some(now_ms), 0, false);
        if !full {
            return true;
        }
        let rate = bytes.saturating_mul(1_000) / elapsed.max(1);
        self.measured = Some(rate);
        self.median().is_some_and(|median| rate.saturating_mul(2) < median)
    }

    /// When the minute that is measured is over.
    pub fn next_ms(&self) -> Option<u64> {
        self.since_ms.map(|since| since + SLOW_MS)
    }

    /// The next leader is measured by itself.
    pub fn leader_changed(&mut self, n: usize) {
        self.past.extend(self.measured.take());
        while self.past.len() > n {
            self.past.pop_front();
        }
        (self.since_ms, self.bytes, self.full) = (None, 0, false);
    }

    fn median(&self) -> Option<u64> {
        let mut rates: Vec<u64> = self.past.iter().copied().collect();
        rates.sort_unstable();
        rates.get(rates.len().checked_sub(1)? / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minute in which requests wait throughout and so many bytes are certified.
    fn minute(pace: &mut Pace, now: &mut u64, bytes: usize, full: bool) -> bool {
        assert!(!pace.watch(*now, true));
        pace.certified(bytes, full);
        *now += SLOW_MS;
        pace.watch(*now, true)
    }

    #[test]
    fn heads_with_room_while_requests_wait_are_slow() {
        let (mut pace, mut now) = (Pace::default(), 5);
        assert!(minute(&mut pace, &mut now, 1_000_000, false));
        assert!(!minute(&mut pace, &mut now, 1_000_000, true), "nobody to compare with");
    }

    #[test]
    fn half_the_median_of_the_last_leaders_is_slow() {
        let (mut pace, mut now) = (Pace::default(), 5);
        for bytes in [600_000, 6_000_000, 60_000_000] {
            minute(&mut pace, &mut now, bytes, true);
            pace.leader_changed(3);
        }
        // The median is 100 kB/s.
        assert!(!minute(&mut pace, &mut now, 3_000_000, true));
        assert!(minute(&mut pace, &mut now, 2_900_000, true));
        // Who was measured counts, and the oldest are forgotten.
        pace.leader_changed(3);
        assert!(minute(&mut pace, &mut now, 2_900_000, true));
        pace.leader_changed(3);
        assert!(!minute(&mut pace, &mut now, 2_900_000, true));
    }

    #[test]
    fn a_break_begins_a_new_minute() {
        let (mut pace, mut now) = (Pace::default(), 5);
        assert!(!pace.watch(now, true));
        now += SLOW_MS - 1;
        assert!(!pace.watch(now, false));
        now += SLOW_MS;
        assert!(!pace.watch(now, true));
    }
}
