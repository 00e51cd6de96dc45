//! Measuring a local cluster: the load on it, and the walls that no implementation could pass on the same computer.

pub mod cluster;
pub mod load;
pub mod talk;
pub mod walls;

use std::time::Duration;

/// Latencies of certified requests.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// Adds all of another.
    pub fn join(&mut self, other: Latencies) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The latency that `percent` of them don't exceed, in milliseconds; 0 if there are none.
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        // Nearest rank: the smallest one that at least `percent` of all are at or below.
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_ms(99), 0.0);
        for ms in (1..=200).rev() {
            latencies.add(Duration::from_millis(ms));
        }
        assert_eq!((latencies.percentile_ms(50), latencies.percentile_ms(99)), (100.0, 198.0));
        let mut one = Latencies::default();
        one.add(Duration::from_millis(7));
        assert_eq!((one.percentile_ms(1), one.percentile_ms(100)), (7.0, 7.0));
    }
}
