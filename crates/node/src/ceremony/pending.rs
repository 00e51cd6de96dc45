//! Shares of attempts that aren't a group yet. Each is sealed into a file of its own before its holder signs the genesis,
//! and stays until the genesis with all signatures is written: a source is never destroyed before the copy reads back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use concordat_events::hash::Tagged;
use concordat_events::{Hash, PublicKey};
use concordat_threshold::KeyShare;
use prost::Message as _;
use zeroize::{Zeroize, Zeroizing};

use super::core::CeremonyError;
use crate::dir::CustodianDir;
use crate::keys::CustodianKeys;
use crate::keys::file::FileError;

/// Attempts whose shares are kept. Each needs all custodians to have got that far, so more mean that something else is wrong.
const KEPT: usize = 32;

/// The result of one attempt.
pub(super) struct Pending {
    /// Who took part, with the random number of its process.
    pub runs: BTreeMap<u16, Hash>,
    /// The signature that all made with the new key, which ends the threshold ceremony for those still in it.
    pub test_signature: [u8; 64],
    /// The own share.
    pub share: KeyShare,
}

#[derive(prost::Message)]
#[prost(skip_debug)]
struct Stored {
    #[prost(uint32, repeated, tag = "1")]
    numbers: Vec<u32>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    runs: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "3")]
    test_signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    share: Vec<u8>,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.share.zeroize();
    }
}

/// The id of an attempt: the proposal and the random number of every custodian's process, so that a restart of one of
/// them is another attempt and no message of an earlier one counts in it.
pub(super) fn attempt_id(proposal: Hash, runs: &BTreeMap<u16, Hash>) -> Hash {
    let mut hash = Tagged::new("concordat/ceremony/attempt");
    hash.part(proposal.as_bytes());
    for (number, run) in runs {
        hash.part(&number.to_be_bytes()).part(run.as_bytes());
    }
    hash.finish()
}

impl Pending {
    /// The group key of this attempt.
    pub fn group_key(&self) -> Option<PublicKey> {
        group_key(&self.share)
    }

    /// Stores it sealed, reads it back and opens it.
    pub fn store(&self, dir: &CustodianDir, keys: &CustodianKeys) -> Result<(), CeremonyError> {
        let used = files(dir)?;
        if used.len() >= KEPT {
            return Err(CeremonyError::TooManyAttempts(dir.path().to_owned()));
        }
        let next = used.last_key_value().map_or(1, |(number, _)| number.saturating_add(1));
        let stored = Stored {
            numbers: self.runs.keys().map(|number| u32::from(*number)).collect(),
            runs: self.runs.values().map(|run| run.as_bytes().to_vec()).collect(),
            test_signature: self.test_signature.to_vec(),
            share: self.share.to_sealed_bytes().to_vec(),
        };
        let path = dir.file(&format!("attempt-{next}.age"));
        keys.seal_new(&path, &Zeroizing::new(stored.encode_to_vec()))?;
        match load(keys, &path)? {
            back if back.share.keys() == self.share.keys() => Ok(()),
            _ => Err(FileError::ReadBack { path }.into()),
        }
    }

    /// All that are stored, oldest first.
    pub fn all(dir: &CustodianDir, keys: &CustodianKeys) -> Result<Vec<Pending>, CeremonyError> {
        files(dir)?.values().map(|path| load(keys, path)).collect()
    }

    /// Removes all files, once the share is where it belongs and the genesis is written.
    pub fn clear(dir: &CustodianDir) -> Result<(), CeremonyError> {
        Ok(dir.erase_left()?)
    }
}

/// Is this the file of an attempt, or what was left of one that was being written?
pub(crate) fn is_attempt(name: &str) -> bool {
    let left = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new"));
    left.unwrap_or(name).strip_prefix("attempt-").is_some_and(|rest| rest.ends_with(".age"))
}

/// The x-only key of a share's group as Nostr's type.
pub(super) fn group_key(share: &KeyShare) -> Option<PublicKey> {
    PublicKey::from_slice(&share.group_key().to_bytes()).ok()
}

fn files(dir: &CustodianDir) -> Result<BTreeMap<u32, PathBuf>, CeremonyError> {
    let io = |source| FileError::Io { path: dir.path().to_owned(), action: "listing", source };
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir.path()).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix("attempt-")?.strip_suffix(".age")?.parse::<u32>().ok());
        if let Some(number) = number {
            found.insert(number, entry.path());
        }
    }
    Ok(found)
}

fn load(keys: &CustodianKeys, path: &std::path::Path) -> Result<Pending, CeremonyError> {
    let broken = || CeremonyError::BrokenAttempt(path.to_owned());
    let plain = keys.unseal(path, "the key ceremony makes it")?;
    let stored = Stored::decode(plain.as_slice()).map_err(|_| broken())?;
    let runs = stored
        .numbers
        .iter()
        .zip(&stored.runs)
        .map(|(number, run)| Some((u16::try_from(*number).ok()?, Hash::from_slice(run)?)))
        .collect::<Option<BTreeMap<_, _>>>()
        .ok_or_else(broken)?;
    Ok(Pending {
        runs,
        test_signature: stored.test_signature.as_slice().try_into().map_err(|_| broken())?,
        share: KeyShare::from_sealed_bytes(&stored.share).map_err(|_| broken())?,
    })
}
