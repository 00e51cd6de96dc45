//! The data directory of an engine: made durable, and held by one process.

use crate::StoreError;
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// Name of the file whose lock says who holds the directory. It stays empty, and stays when the process ends: the
/// kernel drops the lock, also after `kill -9`.
const LOCK: &str = "concordat.lock";

/// The right to a directory, given back when dropped.
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file would do, were it not that a process being started holds a copy of it until its exec. An
        // error changes nothing: the lock goes with the process at the latest.
        let _ = self.0.unlock();
    }
}

/// Makes `dir`, and its parents as far as they are missing, so that they survive power loss; then locks it.
pub(crate) fn open(engine: &'static str, dir: &Path) -> Result<Lock, StoreError> {
    create(dir).map_err(|e| io_error(engine, "creating the data directory", e))?;
    let locking = |e| io_error(engine, "locking the data directory", e);
    let file =
        File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(locking)?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(in_use(dir)),
        Err(TryLockError::Error(e)) => Err(locking(e)),
    }
}

/// Says that somebody else has `dir`.
pub(crate) fn in_use(dir: &Path) -> StoreError {
    StoreError::InUse { path: dir.display().to_string() }
}

/// Makes names created, renamed or removed in `dir` durable: syncing a file doesn't sync the entry that names it.
pub(crate) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Tells a full disk from the rest.
pub(crate) fn io_error(engine: &'static str, action: &'static str, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { engine },
        _ => StoreError::Engine { engine, action, source: Box::new(error) },
    }
}

/// Makes `dir` and its missing parents, so that their names survive power loss.
pub(crate) fn create(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    // "" is the parent of a relative path of one name.
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create(parent)?;
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    sync(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_its_own_error() {
        // ENOSPC and EDQUOT as the kernel gives them.
        for code in [28, 122] {
            let error = io_error("test", "writing", io::Error::from_raw_os_error(code));
            assert!(matches!(error, StoreError::Full { engine: "test" }), "{error}");
        }
        let error = io_error("test", "writing", io::Error::from_raw_os_error(5));
        assert!(matches!(error, StoreError::Engine { .. }), "{error}");
    }
}
