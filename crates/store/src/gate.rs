//! What both engines on disk share: failing for good, and one sync for several flushes.
//!
//! Promises that after a failed write or flush no call succeeds any more. A kernel that failed to write a page marks it
//! clean and reports the error once, so a second fsync that succeeds proves nothing ("fsyncgate", PostgreSQL 2018):
//! only a new process, which reads what the disk really holds, may go on.

use crate::StoreError;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The state of an engine: alive or failed, and how far it has flushed.
pub(crate) struct Gate {
    engine: &'static str,
    failed: AtomicBool,
    /// Batches applied so far.
    applied: AtomicU64,
    /// How many of them are durable. Held while syncing: who waits here finds the work done by the one before.
    flushed: Mutex<u64>,
}

/// Fails the gate when dropped armed: on an error, and also when the engine panics.
struct Fuse<'a> {
    gate: &'a Gate,
    armed: bool,
}

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.gate.failed.store(true, Ordering::Release);
        }
    }
}

impl Gate {
    /// An open gate. What the engine found on disk counts as flushed.
    pub(crate) fn new(engine: &'static str) -> Self {
        Self { engine, failed: AtomicBool::new(false), applied: AtomicU64::new(0), flushed: Mutex::new(0) }
    }

    /// `Ok` until a write or flush has failed.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::Stopped { engine: self.engine });
        }
        Ok(())
    }

    /// Runs a write; its failure is final.
    pub(crate) fn apply(&self, write: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.check()?;
        let mut fuse = Fuse { gate: self, armed: true };
        write()?;
        fuse.armed = false;
        self.applied.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Runs `sync` unless another caller's sync, begun after this call, has covered the same batches.
    pub(crate) fn flush(&self, sync: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let wanted = self.applied.load(Ordering::Acquire);
        // A poisoned lock is a sync that panicked.
        let Ok(mut flushed) = self.flushed.lock() else {
            return Err(StoreError::Stopped { engine: self.engine });
        };
        self.check()?;
        if *flushed >= wanted {
            return Ok(());
        }
        let mut fuse = Fuse { gate: self, armed: true };
        // Read before the sync starts: what is applied while it runs may or may not be in it.
        let covered = self.applied.load(Ordering::Acquire);
        sync()?;
        fuse.armed = false;
        *flushed = covered;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU32;

    fn full() -> Result<(), StoreError> {
        Err(StoreError::Full { engine: "test" })
    }

    #[test]
    fn a_failed_write_is_final() {
        let gate = Gate::new("test");
        assert!(matches!(gate.apply(full), Err(StoreError::Full { .. })));
        assert!(matches!(gate.check(), Err(StoreError::Stopped { .. })));
        assert!(matches!(gate.apply(|| Ok(())), Err(StoreError::Stopped { .. })));
        assert!(matches!(gate.flush(|| Ok(())), Err(StoreError::Stopped { .. })));
    }

    #[test]
    fn a_failed_flush_is_never_tried_again() {
        let gate = Gate::new("test");
        gate.apply(|| Ok(())).unwrap();
        assert!(gate.flush(full).is_err());
        let synced = Cell::new(false);
        let again = gate.flush(|| {
            synced.set(true);
            Ok(())
        });
        assert!(matches!(again, Err(StoreError::Stopped { .. })));
        assert!(!synced.get());
    }

    #[test]
    fn a_panic_is_a_failure() {
        let gate = Gate::new("test");
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            gate.apply(|| panic!("as an engine might"))
        }));
        assert!(caught.is_err());
        assert!(gate.check().is_err());
    }

    #[test]
    fn nothing_new_needs_no_sync() {
        let gate = Gate::new("test");
        gate.flush(full).unwrap();
        gate.apply(|| Ok(())).unwrap();
        gate.flush(|| Ok(())).unwrap();
        gate.flush(full).unwrap();
    }

    #[test]
    fn a_batch_applied_during_a_sync_is_not_covered_by_it() {
        let gate = Gate::new("test");
        gate.apply(|| Ok(())).unwrap();
        gate.flush(|| gate.apply(|| Ok(()))).unwrap();
        let synced = Cell::new(false);
        gate.flush(|| {
            synced.set(true);
            Ok(())
        })
        .unwrap();
        assert!(synced.get());
    }

    #[test]
    fn flushes_that_wait_share_one_sync() {
        let gate = Gate::new("test");
        let syncs = AtomicU32::new(0);
        // The others apply while the first sync runs, which ends when all have; then they wait for its lock.
        let (started, applied) = (Barrier::new(5), Barrier::new(5));
        gate.apply(|| Ok(())).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    started.wait();
                    gate.apply(|| Ok(())).unwrap();
                    applied.wait();
                    gate.flush(|| {
                        syncs.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    })
                    .unwrap();
                });
            }
            gate.flush(|| {
                started.wait();
                applied.wait();
                syncs.fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
            .unwrap();
        });
        // Its own and one for the four.
        assert_eq!(syncs.load(Ordering::SeqCst), 2);
    }
}
