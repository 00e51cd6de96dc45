//! Files that hold secrets or decide who a custodian is: written whole or not at all, read back before anybody relies on
//! them, never overwritten, and closed to other users.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::interrupted::step;

/// Largest file read here: a proposal of 64 custodians with their certificates is below 200 kB.
pub const FILE_BYTES: u64 = 1 << 20;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system said no.
    #[error("{path}: {action} failed: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There already is one.
    #[error(
        "{path} exists already and is never overwritten; move it away first, if you are sure nobody needs it"
    )]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// It isn't there.
    #[error("{path} doesn't exist; {hint}")]
    Missing {
        /// Which file.
        path: PathBuf,
        /// What makes it.
        hint: &'static str,
    },
    /// Other users may read it.
    #[error("{path} has mode {mode:o}: other users may open it; run `chmod 600 {path}`")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than any file of this kind.
    #[error("{path} has more than {most} bytes; it isn't what it should be")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// How many it may have.
        most: u64,
    },
    /// What was written isn't what is read.
    #[error("{path} doesn't read back as written; the disk or its file system is at fault, nothing was kept")]
    ReadBack {
        /// Which file.
        path: PathBuf,
    },
}

impl FileError {
    fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError::Io { path, action, source }
    }

    /// Is the error that the file isn't there?
    pub fn is_missing(&self) -> bool {
        matches!(self, FileError::Missing { .. })
    }
}

/// Writes a new file that only its owner may open, durable when this returns. One that is there already stays as it is.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    if path.exists() {
        return Err(FileError::Exists { path: path.to_owned() });
    }
    let temporary = write_temporary(path, bytes)?;
    // A link fails if the name is taken, a rename would replace what is there.
    let linked = step().and_then(|()| fs::hard_link(&temporary, path));
    let removed = step().and_then(|()| fs::remove_file(&temporary));
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(FileError::Exists { path: path.to_owned() });
        }
        result => result.map_err(FileError::io(path, "naming the new file"))?,
    }
    removed.map_err(FileError::io(&temporary, "removing the temporary name"))?;
    finish(path, bytes)
}

/// Writes a file in place of the one that may be there: a reader sees the old one or the new one.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = write_temporary(path, bytes)?;
    step()
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(FileError::io(path, "renaming the new file"))?;
    finish(path, bytes)
}

/// Overwrites a file with zeros, flushes it and removes it. The directory isn't synced. A name of a file that has another one too is
/// only removed: that is what [`write_new`] leaves when it is interrupted, and the other name may be in use.
pub fn erase(path: &Path) -> Result<(), FileError> {
    let meta = fs::metadata(path).map_err(FileError::io(path, "reading the size"))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if meta.nlink() > 1 {
            return remove(path);
        }
    }
    let length = meta.len();
    let mut file = File::options().write(true).open(path).map_err(FileError::io(path, "opening"))?;
    step()
        .and_then(|()| io::copy(&mut io::repeat(0).take(length), &mut file))
        .map_err(FileError::io(path, "overwriting"))?;
    step().and_then(|()| file.sync_all()).map_err(FileError::io(path, "flushing"))?;
    step().and_then(|()| fs::remove_file(path)).map_err(FileError::io(path, "removing"))
}

/// Removes a file that may be there. The directory isn't synced.
pub fn remove(path: &Path) -> Result<(), FileError> {
    if !path.exists() {
        return Ok(());
    }
    match step().and_then(|()| fs::remove_file(path)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FileError::io(path, "removing")(source))
        }
        _ => Ok(()),
    }
}

/// Is there what a call left behind that was interrupted while it wrote this file?
pub fn was_interrupted(path: &Path) -> bool {
    temporary_of(path).exists()
}

/// Reads a file, at most [`FILE_BYTES`] of it.
pub fn read(path: &Path, hint: &'static str) -> Result<Vec<u8>, FileError> {
    read_most(path, hint, FILE_BYTES)
}

/// Reads a file of at most `most` bytes.
pub fn read_most(path: &Path, hint: &'static str, most: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing { path: path.to_owned(), hint },
        _ => FileError::Io { path: path.to_owned(), action: "opening", source },
    })?;
    let length = file.metadata().map_err(FileError::io(path, "reading the size"))?.len();
    if length > most {
        return Err(FileError::TooLarge { path: path.to_owned(), most });
    }
    // Room for all of it at once: a growing vector would leave copies of secrets behind.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(FileError::io(path, "reading"))?;
    if bytes.len() as u64 > most {
        return Err(FileError::TooLarge { path: path.to_owned(), most });
    }
    Ok(bytes)
}

/// Refuses a file that its group or others may open.
pub fn check_private(path: &Path) -> Result<(), FileError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let meta = fs::metadata(path).map_err(FileError::io(path, "reading the permissions"))?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FileError::Open { path: path.to_owned(), mode });
        }
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Makes the names in a directory durable: syncing a file doesn't sync the entry that names it.
pub fn sync_directory(directory: &Path) -> Result<(), FileError> {
    #[cfg(unix)]
    step()
        .and_then(|()| File::open(directory))
        .and_then(|file| file.sync_all())
        .map_err(FileError::io(directory, "flushing the directory"))?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

/// The directory that holds `path`; "." for a bare name.
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what a call left behind that was interrupted while it wrote this file.
pub fn forget(path: &Path) -> Result<(), FileError> {
    remove(&temporary_of(path))
}

fn temporary_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    directory_of(path).join(name)
}

fn write_temporary(path: &Path, bytes: &[u8]) -> Result<PathBuf, FileError> {
    let temporary = temporary_of(path);
    // One left by a crash holds nothing that anybody was told about.
    remove(&temporary)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let made = step().and_then(|()| options.open(&temporary));
    let mut file = made.map_err(FileError::io(&temporary, "creating"))?;
    // In two halves, so that there is a middle to be interrupted in.
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let written = step()
        .and_then(|()| file.write_all(first))
        .and_then(|()| step())
        .and_then(|()| file.write_all(rest))
        .and_then(|()| step())
        .and_then(|()| file.sync_all());
    written.map_err(FileError::io(&temporary, "writing"))?;
    Ok(temporary)
}

fn finish(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    sync_directory(directory_of(path))?;
    let back = zeroize::Zeroizing::new(read_most(path, "it was written a moment ago", bytes.len() as u64)?);
    if *back != bytes {
        return Err(FileError::ReadBack { path: path.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_private_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        write_new(&path, b"one").unwrap();
        check_private(&path).unwrap();
        assert!(matches!(write_new(&path, b"two"), Err(FileError::Exists { .. })));
        assert_eq!(read(&path, "").unwrap(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(read(&path, "").unwrap(), b"three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn what_a_crash_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".secret.new"), b"half").unwrap();
        write_new(&dir.path().join("secret"), b"whole").unwrap();
        assert_eq!(read(&dir.path().join("secret"), "").unwrap(), b"whole");
    }

    #[test]
    fn oversize_and_missing_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        File::create(&path).unwrap().set_len(FILE_BYTES + 1).unwrap();
        assert!(matches!(read(&path, ""), Err(FileError::TooLarge { .. })));
        let error = read(&dir.path().join("none"), "run `init`").unwrap_err();
        assert!(error.is_missing() && error.to_string().contains("run `init`"));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("open");
        fs::write(&path, b"x").unwrap();
        for mode in [0o640, 0o604, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(check_private(&path), Err(FileError::Open { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        check_private(&path).unwrap();
    }
}
