//! A custodian's TLS certificate after its first one: made by its operator alone, while it runs, vouched for by its identity.
//!
//! `tls.age` holds certificate and key, sealed; it wins over what the card had. A running custodian sees it and shows the new one to
//! whoever connects from then on. The roster stays as it is: the others know the identity in it (`transport`). Promises: the
//! certificate before stays whole until the new one is on the disk and was read back; a renewal that was interrupted says what
//! became of it. Refuses: before the group is founded, when only cards say who is who.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost::Message as _;
use zeroize::{Zeroize, Zeroizing};

use crate::ceremony::{Card, CardError};
use crate::config::{Config, ConfigError};
use crate::dir::{CustodianDir, DirError, card_in};
use crate::interrupted::Earlier;
use crate::keys::file::{self, FileError};
use crate::keys::{CustodianKeys, KeysError, Passphrase, SealError};
use crate::transport::{Certificate, CertificateError, Pin, Shown, Term};

/// The file with the certificate that came after the card's first one, and its key.
pub const FILE: &str = "tls.age";

/// The file with what was seen of others' certificates.
const SEEN: &str = "certificates.json";

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The directory or a file in it.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// It couldn't be made.
    #[error(transparent)]
    Make(#[from] CertificateError),
    /// No group yet.
    #[error(
        "{0} has no genesis: before the group is founded the others know this certificate from its card only"
    )]
    NotFounded(PathBuf),
}

impl From<FileError> for RenewError {
    fn from(error: FileError) -> Self {
        RenewError::Dir(error.into())
    }
}

impl From<SealError> for RenewError {
    fn from(error: SealError) -> Self {
        RenewError::Dir(error.into())
    }
}

impl From<KeysError> for RenewError {
    fn from(error: KeysError) -> Self {
        RenewError::Dir(error.into())
    }
}

impl From<ConfigError> for RenewError {
    fn from(error: ConfigError) -> Self {
        RenewError::Dir(error.into())
    }
}

/// What a renewal came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The certificate that the custodian shows from now on.
    pub pin: Pin,
    /// Its dates.
    pub term: Term,
    /// Resumed: an earlier renewal had made it, and no other one was made.
    pub earlier: Earlier,
}

#[derive(prost::Message)]
#[prost(skip_debug)]
struct Stored {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Makes another certificate for the custodian with this configuration, which may be running. `now` in seconds since 1970.
///
/// # Errors
/// [`RenewError`]; the certificate before stays in use then.
pub fn renew(config: &Path, now: u64) -> Result<Renewed, RenewError> {
    let path = file::directory_of(config);
    let settings = Config::read(config)?;
    let passphrase = Passphrase::read(&settings.passphrase_file)?;
    let keys = CustodianKeys::open(&path.join("keys.age"), &passphrase)?;
    if !path.join("genesis.json").exists() {
        return Err(RenewError::NotFounded(path.to_owned()));
    }
    let card = card_in(path)?;
    let before = in_use(path, &keys, &card)?;
    let term_of = |certificate: &Certificate| certificate.term().unwrap_or(Term { since: 0, until: 0 });
    if before.der() != card.certificate() {
        // The file was written, the card wasn't.
        write_card(path, &keys, &card, &before)?;
        return Ok(Renewed { pin: before.pin(), term: term_of(&before), earlier: Earlier::Resumed });
    }
    let earlier = Earlier::left_behind(file::was_interrupted(&path.join(FILE)));
    let term = Term::beginning(now, before.term().map(|term| term.since));
    let made = Certificate::vouched_for(&keys, term)?;
    let stored = Stored { version: 1, certificate: made.der().to_vec(), key: made.key_der().to_vec() };
    keys.seal_in_place(&path.join(FILE), &Zeroizing::new(stored.encode_to_vec()))?;
    let back = in_use(path, &keys, &card)?;
    if back.der() != made.der() {
        return Err(FileError::ReadBack { path: path.join(FILE) }.into());
    }
    write_card(path, &keys, &card, &made)?;
    Ok(Renewed { pin: made.pin(), term, earlier })
}

/// The certificate that the custodian of a directory shows, with its key: the renewed one, or the card's.
///
/// # Errors
/// [`DirError`] if there is one that can't be read, or that isn't this custodian's.
pub fn in_use(dir: &Path, keys: &CustodianKeys, card: &Card) -> Result<Certificate, DirError> {
    let path = dir.join(FILE);
    match keys.unseal(&path, "`key certificate` makes it") {
        Err(SealError::File(error)) if error.is_missing() => Ok(keys.certificate(card.certificate())),
        plain => read(&plain?, keys).map_err(|what| DirError::Certificate { path, what }),
    }
}

fn read(plain: &[u8], keys: &CustodianKeys) -> Result<Certificate, &'static str> {
    let mut stored = Stored::decode(plain).map_err(|_| "it holds no certificate of this version")?;
    if stored.version != 1 {
        return Err("it has another version");
    }
    let certificate = std::mem::take(&mut stored.certificate);
    let key = Zeroizing::new(std::mem::take(&mut stored.key));
    let certificate = Certificate::from_der(certificate, key);
    if !certificate.is_vouched_for(keys) {
        return Err("its certificate isn't one that this custodian's identity vouches for");
    }
    Shown::new(&certificate).map_err(|_| "its certificate and key don't fit together")?;
    Ok(certificate)
}

/// The card with another certificate: what the operator's own commands, and whoever is sent it, go by.
fn write_card(dir: &Path, keys: &CustodianKeys, card: &Card, shown: &Certificate) -> Result<(), DirError> {
    let path = dir.join("card.json");
    let wrong = |error: CardError| DirError::Card { path: path.clone(), error };
    let card = Card::make(keys, card.name(), shown.der(), card.address()).map_err(wrong)?;
    let text = card.to_json().map_err(wrong)?;
    Ok(file::replace(&path, text.as_bytes())?)
}

/// When the newest certificates of others were made that this custodian has seen, by their numbers. Nothing if none were.
///
/// # Errors
/// [`DirError`] if the file is there and can't be read.
pub fn seen(dir: &CustodianDir) -> Result<BTreeMap<u16, u64>, DirError> {
    let path = dir.file(SEEN);
    let bytes = match file::read(&path, "") {
        Err(error) if error.is_missing() => return Ok(Default::default()),
        bytes => bytes?,
    };
    let what = "it isn't what this version writes; without it older certificates of others are taken again";
    let wrong = |_| DirError::Certificate { path: path.clone(), what };
    serde_json::from_slice(&bytes).map_err(wrong)
}

/// Keeps it.
///
/// # Errors
/// [`DirError`].
pub fn keep_seen(dir: &CustodianDir, seen: &BTreeMap<u16, u64>) -> Result<(), DirError> {
    let text = serde_json::to_string(seen).unwrap_or_default();
    Ok(file::replace(&dir.file(SEEN), text.as_bytes())?)
}
