//! How much one peer may ask of this custodian: calls at a time, and messages per second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::limits;

/// A bucket that fills at `rate` tokens a second up to `burst`.
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// Takes a token, or says how long until there is one.
    fn take(&mut self, now: Instant, rate: f64, burst: f64) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(burst);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / rate))
    }
}

/// One peer's share.
pub(super) struct Share {
    calls: Arc<Semaphore>,
    bucket: Mutex<Bucket>,
}

impl Share {
    fn new() -> Self {
        let bucket = Bucket { tokens: f64::from(limits::PEER_BURST), filled: Instant::now() };
        Self { calls: Arc::new(Semaphore::new(limits::MAX_CALLS_PER_PEER)), bucket: Mutex::new(bucket) }
    }

    fn take(&self) -> Result<(), Duration> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(Instant::now(), f64::from(limits::PEER_RATE), f64::from(limits::PEER_BURST))
    }

    /// Leave for one call, until the permit is dropped; `None` if the peer asks too much.
    pub fn call(&self) -> Option<OwnedSemaphorePermit> {
        self.take().ok()?;
        self.calls.clone().try_acquire_owned().ok()
    }

    /// Waits until the peer may send one more message: its stream is held up, not cut.
    pub async fn message(&self) {
        while let Err(wait) = self.take() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// The shares of all peers that ever connected: members only, so they are few.
#[derive(Default)]
pub(super) struct Shares(Mutex<BTreeMap<u16, Arc<Share>>>);

impl Shares {
    pub fn of(&self, peer: u16) -> Arc<Share> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shares.entry(peer).or_insert_with(|| Arc::new(Share::new())).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket { tokens: 3.0, filled: start };
        for _ in 0..3 {
            assert_eq!(bucket.take(start, 2.0, 3.0), Ok(()));
        }
        assert_eq!(bucket.take(start, 2.0, 3.0), Err(Duration::from_millis(500)));
        let later = start + Duration::from_millis(500);
        assert_eq!(bucket.take(later, 2.0, 3.0), Ok(()));
        assert!(bucket.take(later, 2.0, 3.0).is_err());
        let much_later = later + Duration::from_secs(3600);
        let given = (0..100).filter(|_| bucket.take(much_later, 2.0, 3.0).is_ok()).count();
        assert_eq!(given, 3);
    }

    #[tokio::test]
    async fn calls_at_a_time_are_bounded() {
        let share = Share::new();
        let held: Vec<_> = (0..limits::MAX_CALLS_PER_PEER).map(|_| share.call().unwrap()).collect();
        assert!(share.call().is_none());
        drop(held);
        assert!(share.call().is_some());
    }
}
