//! Sealing at rest with age (age-encryption.org/v1): one file under a passphrase, all others under the key in it.
//!
//! The passphrase file is a secret that a service manager hands over (systemd's `LoadCredential=`), not one that people
//! type from memory; scrypt only slows down guessing at a short one. So its cost is fixed and small: log2 N = 15 is
//! 32 MiB and about 0.1 s, once per start; age's own choice is 256 MiB and a second, which four custodians on one small
//! machine would feel, and it would differ from machine to machine.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, SecretString};
use age::{DecryptError, x25519};
use zeroize::Zeroizing;

use super::file::{self, FileError};

/// log2 of scrypt's N (RFC 7914, r = 8, p = 1): 128 * r * N = 32 MiB. This crate's own tests seal and open many hundred times, without
/// optimisation.
pub const WORK_FACTOR: u8 = if cfg!(test) { 6 } else { 15 };

/// The highest factor taken when opening: a planted file must not exhaust the memory (18 is age's own 256 MiB).
pub const MAX_WORK_FACTOR: u8 = 18;

/// Fewest bytes of a passphrase: 16 random ones can't be guessed, and a shorter one isn't worth its file.
pub const PASSPHRASE_BYTES: usize = 16;

/// Why something can't be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// The passphrase doesn't open it.
    #[error(
        "{path}: the passphrase in {passphrase} doesn't open it; give the passphrase file it was made with"
    )]
    WrongPassphrase {
        /// The sealed file.
        path: PathBuf,
        /// Where the passphrase came from.
        passphrase: PathBuf,
    },
    /// The key in `keys.age` doesn't open it.
    #[error("{path} isn't sealed to this custodian's keys; it belongs to another directory")]
    WrongKey {
        /// The sealed file.
        path: PathBuf,
    },
    /// Not an age file, or damaged.
    #[error("{path} is damaged or no sealed file: {message}; restore it from its backup")]
    Damaged {
        /// The sealed file.
        path: PathBuf,
        /// What age said.
        message: String,
    },
    /// A passphrase that could be guessed.
    #[error(
        "{path}: a passphrase needs at least {PASSPHRASE_BYTES} characters, this one has {got}; make one with `openssl rand -hex 32`"
    )]
    ShortPassphrase {
        /// Its file.
        path: PathBuf,
        /// How many there are.
        got: usize,
    },
    /// The library refused to seal.
    #[error("sealing {path} failed: {message}")]
    Sealing {
        /// The file to be.
        path: PathBuf,
        /// What age said.
        message: String,
    },
}

/// A passphrase from its file. Wiped when dropped; never printed.
pub struct Passphrase {
    secret: SecretString,
    path: PathBuf,
}

impl Passphrase {
    /// Reads the first line of a file that only its owner may open.
    pub fn read(path: &Path) -> Result<Self, SealError> {
        // First that it is there, so that a missing file isn't called an open one.
        let bytes = Zeroizing::new(file::read(
            path,
            "it must hold the passphrase of keys.age; `passphrase_file` in custodian.toml names it",
        )?);
        file::check_private(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| SealError::Damaged {
            path: path.to_owned(),
            message: "a passphrase is UTF-8 text".into(),
        })?;
        let line = text.lines().next().unwrap_or_default();
        if line.len() < PASSPHRASE_BYTES {
            return Err(SealError::ShortPassphrase { path: path.to_owned(), got: line.len() });
        }
        Ok(Passphrase { secret: SecretString::from(line.to_owned()), path: path.to_owned() })
    }
}

/// Seals bytes under a passphrase: one scrypt.
pub fn seal_with_passphrase(
    path: &Path,
    passphrase: &Passphrase,
    plain: &[u8],
) -> Result<Vec<u8>, SealError> {
    let mut recipient =
        age::scrypt::Recipient::new(SecretString::from(passphrase.secret.expose_secret().to_owned()));
    recipient.set_work_factor(WORK_FACTOR);
    age::encrypt(&recipient, plain).map_err(|error| sealing(path, &error))
}

/// Opens what [`seal_with_passphrase`] sealed: one scrypt.
pub fn open_with_passphrase(
    path: &Path,
    passphrase: &Passphrase,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let mut identity =
        age::scrypt::Identity::new(SecretString::from(passphrase.secret.expose_secret().to_owned()));
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    open(&identity, sealed).map_err(|error| match error {
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
            SealError::WrongPassphrase { path: path.to_owned(), passphrase: passphrase.path.clone() }
        }
        other => damaged(path, &other),
    })
}

/// Seals bytes to the key that `keys.age` holds: no scrypt.
pub fn seal_to(path: &Path, recipient: &x25519::Recipient, plain: &[u8]) -> Result<Vec<u8>, SealError> {
    age::encrypt(recipient, plain).map_err(|error| sealing(path, &error))
}

/// Opens what [`seal_to`] sealed.
pub fn open_with(
    path: &Path,
    identity: &x25519::Identity,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    open(identity, sealed).map_err(|error| match error {
        DecryptError::NoMatchingKeys => SealError::WrongKey { path: path.to_owned() },
        other => damaged(path, &other),
    })
}

/// As `age::decrypt`, into memory reserved in full: a vector that grows leaves copies of the secret behind.
fn open(identity: &dyn age::Identity, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let mut plain = Zeroizing::new(Vec::with_capacity(sealed.len()));
    let mut reader = age::Decryptor::new_buffered(sealed)?.decrypt(std::iter::once(identity))?;
    reader.read_to_end(&mut plain)?;
    Ok(plain)
}

fn sealing(path: &Path, error: &age::EncryptError) -> SealError {
    SealError::Sealing { path: path.to_owned(), message: error.to_string() }
}

fn damaged(path: &Path, error: &DecryptError) -> SealError {
    SealError::Damaged { path: path.to_owned(), message: error.to_string() }
}
