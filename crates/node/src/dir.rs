//! A custodian's directory: every file in it by name, one process at a time, one cluster for ever.
//!
//! | file | what |
//! |---|---|
//! | `custodian.toml` | local configuration, no secrets |
//! | `keys.age`, `share.age` | sealed keys; the key share |
//! | `card.json` | who this custodian is, for the others |
//! | `tls.age`, `certificates.json` | its TLS certificate and key, if renewed; the newest of others' that were seen |
//! | `proposal.json`, `genesis.json` | what was proposed, what all founders signed |
//! | `change.json`, `share-<transcript>.age` | the change of roster that the operator has accepted; the shares that came of changes |
//! | `ceremony.json`, `abort` | how far the ceremony is; the operator's wish to end it |
//! | `db/`, `cluster` | data, and the id of the cluster it belongs to |
//! | `lock` | held by the running process; empty, and stays |

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use concordat_events::{Hash, SignedGenesis};
use concordat_threshold::{KeyError, KeyShare};

use crate::ceremony::pending::is_attempt;
use crate::ceremony::{Card, CardError, Proposal, ProposalError};
use crate::certificate;
use crate::config::{Config, ConfigError};
use crate::interrupted::step;
use crate::keys::file::{self, FileError};
use crate::keys::{CustodianKeys, KeysError, Passphrase, SealError};
use crate::transport::Certificate;

/// The file that says that the operator ended the ceremony.
pub const ABORT: &str = "abort";

/// The file with the newest status of the ceremony.
pub const STATUS: &str = "ceremony.json";

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// One of its files.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Its share, sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Its share, opened.
    #[error("{path}: {error}")]
    Share {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: KeyError,
    },
    /// Its card.
    #[error("{path}: {error}")]
    Card {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: CardError,
    },
    /// Its TLS certificate, or what it has seen of others'.
    #[error("{path}: {what}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Its proposal.
    #[error("{path}: {error}")]
    Proposal {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: ProposalError,
    },
    /// Its genesis.
    #[error("{path}: {error}")]
    Genesis {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: concordat_events::genesis::GenesisError,
    },
    /// The change that the operator has accepted.
    #[error("{path}: {error}; `member accept` writes it")]
    Accepted {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: concordat_events::json::JsonError,
    },
    /// Not text.
    #[error("{0} isn't UTF-8 text")]
    Text(PathBuf),
    /// Another process has it.
    #[error("{0} is in use by another process; stop it first, or give this one its own directory")]
    InUse(PathBuf),
    /// Its data belong elsewhere.
    #[error("{path} holds data of cluster {found}, not of {expected}; give each cluster its own directory")]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Whose data it holds.
        found: String,
        /// Whose they should be.
        expected: Hash,
    },
}

/// Is this the name of a file with a share of the group's key?
pub(crate) fn is_share(name: &str) -> bool {
    let made = name.strip_prefix("share-").and_then(|rest| rest.strip_suffix(".age"));
    name == "share.age" || made.is_some_and(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Is this what a process left that ended while it wrote a share, or shares of the founders' attempts?
fn is_left(name: &str) -> bool {
    let share = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new")).is_some_and(is_share);
    share || is_attempt(name)
}

/// The files with shares of the group's key in a directory, in the order of their names.
pub(crate) fn shares_in(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    named_in(dir, is_share)
}

/// What processes that ended have left of shares.
pub(crate) fn left_in(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    named_in(dir, is_left)
}

fn named_in(dir: &Path, is: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, FileError> {
    let io = |source| FileError::Io { path: dir.to_owned(), action: "listing", source };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(&is) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A directory that this process holds.
pub struct CustodianDir {
    path: PathBuf,
    _lock: File,
}

impl CustodianDir {
    /// Opens a directory, made (for its owner only) if it isn't there, and holds it until dropped.
    pub fn open(path: &Path) -> Result<Self, DirError> {
        let io = |action| move |source| FileError::Io { path: path.to_owned(), action, source };
        if !path.is_dir() {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            {
                use std::os::unix::fs::DirBuilderExt;
                builder.mode(0o700);
            }
            step().and_then(|()| builder.create(path)).map_err(io("creating the directory"))?;
            file::sync_directory(file::directory_of(path))?;
        }
        let held = path.join("lock");
        if !held.exists() {
            step().map_err(io("creating the lock"))?;
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(held)
            .map_err(io("creating the lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(CustodianDir { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DirError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(io("locking")(source).into()),
        }
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the store keeps its data.
    pub fn db(&self) -> PathBuf {
        self.file("db")
    }

    /// The configuration.
    pub fn config(&self) -> Result<Config, DirError> {
        Ok(Config::read(&self.file("custodian.toml"))?)
    }

    /// Writes the configuration of a new custodian.
    pub fn write_config(&self, config: &Config) -> Result<(), DirError> {
        Ok(file::write_new(&self.file("custodian.toml"), config.to_toml()?.as_bytes())?)
    }

    /// The keys, opened with the passphrase that the configuration names.
    pub fn keys(&self, config: &Config) -> Result<CustodianKeys, DirError> {
        let passphrase = Passphrase::read(&config.passphrase_file)?;
        Ok(CustodianKeys::open(&self.file("keys.age"), &passphrase)?)
    }

    /// The founders' key share; `None` before the ceremony.
    pub fn share(&self, keys: &CustodianKeys) -> Result<Option<KeyShare>, DirError> {
        self.share_of(keys, Hash::ZERO)
    }

    /// The file of the share that came of a ceremony: zero for the founders'.
    pub fn share_file(&self, transcript: Hash) -> PathBuf {
        match transcript {
            Hash::ZERO => self.file("share.age"),
            other => self.file(&format!("share-{}.age", &other.to_hex()[..16])),
        }
    }

    /// The key share that came of a ceremony, if it is here.
    pub fn share_of(&self, keys: &CustodianKeys, transcript: Hash) -> Result<Option<KeyShare>, DirError> {
        let path = self.share_file(transcript);
        match keys.unseal(&path, "the key ceremony makes it") {
            Err(SealError::File(error)) if error.is_missing() => Ok(None),
            plain => KeyShare::from_sealed_bytes(&plain?)
                .map(Some)
                .map_err(|error| DirError::Share { path, error }),
        }
    }

    /// Seals a new share, reads it back and opens it. One that is there stays.
    pub fn write_share(&self, keys: &CustodianKeys, share: &KeyShare) -> Result<(), DirError> {
        self.write_next_share(keys, Hash::ZERO, share)
    }

    /// Seals the share that came of a ceremony beside those that are there, reads it back and opens it. The same one may be there.
    pub fn write_next_share(
        &self,
        keys: &CustodianKeys,
        transcript: Hash,
        share: &KeyShare,
    ) -> Result<(), DirError> {
        let path = self.share_file(transcript);
        if transcript == Hash::ZERO || !path.exists() {
            keys.seal_new(&path, &share.to_sealed_bytes())?;
        }
        match self.share_of(keys, transcript)? {
            Some(back) if back.number() == share.number() && back.keys() == share.keys() => Ok(()),
            _ => Err(FileError::ReadBack { path }.into()),
        }
    }

    /// Is any share here?
    pub fn has_shares(&self) -> Result<bool, DirError> {
        Ok(!shares_in(&self.path)?.is_empty())
    }

    /// Are there shares beside one in force: of rosters before it, or of attempts that came to nothing so far?
    pub fn has_shares_beside(&self, in_force: bool) -> Result<bool, DirError> {
        Ok(shares_in(&self.path)?.len() > usize::from(in_force))
    }

    /// Erases all shares but the one in force: those of rosters before it, and of ceremonies that came to nothing. What the disk
    /// itself may keep of them is out of reach, so they are overwritten and sealed besides. Says how many there were.
    pub fn erase_shares_but(&self, transcript: Option<Hash>) -> Result<usize, DirError> {
        let kept = transcript.map(|transcript| self.share_file(transcript));
        if kept.as_ref().is_some_and(|kept| !kept.exists()) {
            return Ok(0);
        }
        let mut old = shares_in(&self.path)?;
        old.retain(|path| Some(path) != kept.as_ref());
        self.erase_left()?;
        for path in &old {
            file::erase(path)?;
        }
        file::sync_directory(&self.path)?;
        Ok(old.len())
    }

    /// Erases what processes that ended have left of shares and of founders' attempts.
    pub fn erase_left(&self) -> Result<(), DirError> {
        for path in left_in(&self.path)? {
            file::erase(&path)?;
        }
        Ok(file::sync_directory(&self.path)?)
    }

    /// The card.
    pub fn card(&self) -> Result<Card, DirError> {
        card_in(&self.path)
    }

    /// The TLS certificate that this custodian shows, with its key.
    pub fn certificate(&self, keys: &CustodianKeys) -> Result<Certificate, DirError> {
        certificate::in_use(&self.path, keys, &self.card()?)
    }

    /// Writes the card of a new custodian, before it has keys.
    pub fn write_card(&self, card: &Card) -> Result<(), DirError> {
        let path = self.file("card.json");
        let text = card.to_json().map_err(|error| DirError::Card { path: path.clone(), error })?;
        Ok(file::replace(&path, text.as_bytes())?)
    }

    /// The proposal.
    pub fn proposal(&self) -> Result<Proposal, DirError> {
        let path = self.file("proposal.json");
        let text =
            self.text(&path, "the founders' proposal brings it; `concordat dev up` makes whole clusters")?;
        Proposal::parse(&text).map_err(|error| DirError::Proposal { path, error })
    }

    /// Writes a proposal in place of an earlier one, as long as there is no share.
    pub fn write_proposal(&self, proposal: &Proposal) -> Result<(), DirError> {
        let share = self.file("share.age");
        if share.exists() {
            return Err(FileError::Exists { path: share }.into());
        }
        let path = self.file("proposal.json");
        let text = proposal.to_json().map_err(|error| DirError::Proposal { path: path.clone(), error })?;
        Ok(file::replace(&path, text.as_bytes())?)
    }

    /// Has the operator ended the ceremony? (`ceremony abort` writes the file, also while another process holds the directory.)
    pub fn is_aborted(&self) -> bool {
        self.file(ABORT).exists()
    }

    /// Accepts a proposal: it is written, and an abort of an earlier one forgotten.
    pub fn accept(&self, proposal: &Proposal) -> Result<(), DirError> {
        self.write_proposal(proposal)?;
        file::remove(&self.file(ABORT))?;
        Ok(file::sync_directory(&self.path)?)
    }

    /// The genesis with all signatures checked; `None` before the ceremony has ended.
    pub fn genesis(&self) -> Result<Option<SignedGenesis>, DirError> {
        let path = self.file("genesis.json");
        match self.text(&path, "the key ceremony makes it") {
            Err(DirError::File(error)) if error.is_missing() => Ok(None),
            text => SignedGenesis::parse(&text?).map(Some).map_err(|error| DirError::Genesis { path, error }),
        }
    }

    /// Writes the genesis. One that is there stays.
    pub fn write_genesis(&self, genesis: &SignedGenesis) -> Result<(), DirError> {
        let path = self.file("genesis.json");
        let broken = |error| DirError::Genesis { path: path.clone(), error };
        genesis.check().map_err(broken)?;
        let text = concordat_events::json::canonical(genesis).map_err(|error| broken(error.into()))?;
        Ok(file::write_new(&path, text.as_bytes())?)
    }

    /// Names the data in here after the proposal whose ceremony begins: there is no share yet, so nothing is lost with them.
    pub fn begin(&self, proposal: Hash) -> Result<(), DirError> {
        Ok(file::replace(&self.file("cluster"), format!("{proposal}\n").as_bytes())?)
    }

    /// Makes sure that the data in here are of this cluster (by the id of its ceremony), or that there are none yet and will be.
    pub fn bind(&self, cluster: Hash) -> Result<(), DirError> {
        let path = self.file("cluster");
        let other =
            |found: String| DirError::OtherCluster { path: self.path.clone(), found, expected: cluster };
        match self.text(&path, "the first start makes it") {
            Ok(text) if text.trim_end() == cluster.to_hex() => Ok(()),
            Ok(text) => Err(other(text.trim_end().chars().take(64).collect())),
            Err(DirError::File(error)) if error.is_missing() => {
                // Data without a name aren't taken for one's own.
                if fs::read_dir(self.db()).is_ok_and(|mut entries| entries.next().is_some()) {
                    return Err(other("unknown (the file `cluster` is gone)".into()));
                }
                Ok(file::write_new(&path, format!("{cluster}\n").as_bytes())?)
            }
            Err(error) => Err(error),
        }
    }

    fn text(&self, path: &Path, hint: &'static str) -> Result<String, DirError> {
        text(path, hint)
    }
}

/// The card of the custodian in a directory, which may be running.
pub(crate) fn card_in(dir: &Path) -> Result<Card, DirError> {
    let path = dir.join("card.json");
    let hint = "it is made with the custodian's directory; `concordat dev up` makes whole clusters";
    Card::parse(&text(&path, hint)?).map_err(|error| DirError::Card { path, error })
}

fn text(path: &Path, hint: &'static str) -> Result<String, DirError> {
    String::from_utf8(file::read(path, hint)?).map_err(|_| DirError::Text(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use concordat_events::hash::tagged;

    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("alice");
        let first = CustodianDir::open(&path).unwrap();
        let Err(error) = CustodianDir::open(&path) else { panic!("two at once") };
        assert!(matches!(error, DirError::InUse(_)) && error.to_string().contains("alice"));
        drop(first);
        CustodianDir::open(&path).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn the_directory_is_its_owners() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("alice");
        CustodianDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn data_of_another_cluster_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = CustodianDir::open(temp.path()).unwrap();
        let (ours, theirs) = (tagged("test", &[b"ours"]), tagged("test", &[b"theirs"]));
        dir.bind(ours).unwrap();
        dir.bind(ours).unwrap();
        assert!(matches!(dir.bind(theirs), Err(DirError::OtherCluster { .. })));
        fs::create_dir(dir.db()).unwrap();
        fs::write(dir.db().join("data"), b"x").unwrap();
        dir.bind(ours).unwrap();
        fs::remove_file(dir.file("cluster")).unwrap();
        assert!(matches!(dir.bind(ours), Err(DirError::OtherCluster { .. })));
    }

    #[test]
    fn what_isnt_there_names_what_makes_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = CustodianDir::open(temp.path()).unwrap();
        assert!(dir.genesis().unwrap().is_none());
        let text = dir.card().unwrap_err().to_string();
        assert!(text.contains("card.json") && text.contains("dev up"), "{text}");
        fs::write(dir.file("genesis.json"), "{}").unwrap();
        assert!(dir.genesis().unwrap_err().to_string().contains("genesis.json"));
    }
}
