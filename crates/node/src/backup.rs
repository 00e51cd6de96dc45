//! One file that brings a custodian back: its keys, its share and who it is with whom; sealed under its passphrase.
//!
//! Promises: what is in it opened and fits together when it was made, and the file was read back; restoring gives the whole
//! directory or none. **Never in it: the safety record** and everything else in `db/`. So who comes back from a backup has a
//! share and no record, and is in quarantine until two heads above those of a quorum are certified (PROTOCOL 8): it can't
//! contradict what it signed after the backup was made. Refuses: to restore over anything.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use concordat_threshold::KeyShare;
use prost::Message as _;
use zeroize::{Zeroize, Zeroizing};

use crate::certificate;
use crate::config::{Config, ConfigError};
use crate::dir::{CustodianDir, DirError, card_in, is_share, left_in, shares_in};
use crate::handover::ACCEPTED;
use crate::interrupted::{Earlier, step};
use crate::keys::file::{self, FileError};
use crate::keys::{CustodianKeys, KeysError, Passphrase, SealError, seal};

/// Version of the contents.
const VERSION: u32 = 1;

/// The files of a directory that a backup holds, beside its shares. `db/` is none of them, on purpose.
const FILES: [&str; 8] = [
    "custodian.toml",
    "keys.age",
    "card.json",
    certificate::FILE,
    "proposal.json",
    "genesis.json",
    "cluster",
    ACCEPTED,
];

/// Why there is no backup, or no restored directory.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The custodian's directory.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// There is no key to lose yet.
    #[error(
        "{0} holds no share and no genesis yet: the key ceremony makes them, and then is the time for a backup"
    )]
    NotFounded(PathBuf),
    /// It opened, but isn't what this version writes.
    #[error("{path} opened, but {what}; it was written by another program or version")]
    Contents {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// Share and genesis are of different groups.
    #[error("{0}: share and genesis belong to different groups")]
    Mixed(PathBuf),
    /// A directory with something in it.
    #[error("{0} exists and isn't empty; a backup is restored into a new directory only")]
    NotEmpty(PathBuf),
}

impl From<FileError> for BackupError {
    fn from(error: FileError) -> Self {
        BackupError::Dir(error.into())
    }
}

impl From<SealError> for BackupError {
    fn from(error: SealError) -> Self {
        BackupError::Dir(error.into())
    }
}

impl From<KeysError> for BackupError {
    fn from(error: KeysError) -> Self {
        BackupError::Dir(error.into())
    }
}

impl From<ConfigError> for BackupError {
    fn from(error: ConfigError) -> Self {
        BackupError::Dir(error.into())
    }
}

/// Whom a backup brings back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The custodian's name.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// The group's key, hex.
    pub group: String,
}

#[derive(prost::Message)]
#[prost(skip_debug)]
struct Contents {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    files: Vec<Entry>,
}

#[derive(prost::Message)]
#[prost(skip_debug)]
struct Entry {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    bytes: Vec<u8>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Makes a backup of the custodian with this configuration file in a new file. It may be running meanwhile: nothing that it
/// writes is read. A file that is there and holds just this is what an earlier call has made.
pub fn backup(config: &Path, out: &Path) -> Result<(Subject, Earlier), BackupError> {
    let dir = file::directory_of(config);
    let settings = Config::read(config)?;
    let passphrase = Passphrase::read(&settings.passphrase_file)?;
    let mut files = Vec::new();
    let shares = shares_in(dir)?;
    let shares = shares.iter().filter_map(|path| path.file_name()?.to_str());
    for name in FILES.into_iter().chain(shares) {
        match file::read(&dir.join(name), "") {
            Ok(bytes) => files.push(Entry { name: name.to_owned(), bytes }),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let subject = examine(dir, &settings.name, &passphrase)?;
    let plain = Zeroizing::new(Contents { version: VERSION, files }.encode_to_vec());
    let opened = || seal::open_with_passphrase(out, &passphrase, &file::read(out, "")?);
    if out.exists() {
        return match opened() {
            Ok(back) if *back == *plain => {
                file::forget(out)?;
                file::sync_directory(file::directory_of(out))?;
                Ok((subject, Earlier::Resumed))
            }
            _ => Err(FileError::Exists { path: out.to_owned() }.into()),
        };
    }
    let earlier = Earlier::left_behind(file::was_interrupted(out));
    let sealed = seal::seal_with_passphrase(out, &passphrase, &plain)?;
    file::write_new(out, &sealed)?;
    // Read back and opened, as whoever needs it will.
    if *opened()? != *plain {
        return Err(FileError::ReadBack { path: out.to_owned() }.into());
    }
    Ok((subject, earlier))
}

/// Restores a backup into a directory that doesn't exist or is empty. `passphrase_file` is the one that it was made under; the
/// restored configuration names it. A crash on the way leaves the directory as it was, or whole.
pub fn restore(from: &Path, passphrase_file: &Path, to: &Path) -> Result<(Subject, Earlier), BackupError> {
    let broken = |what| BackupError::Contents { path: from.to_owned(), what };
    let passphrase = Passphrase::read(passphrase_file)?;
    let sealed = file::read(from, "name the file that `backup` wrote")?;
    let plain = seal::open_with_passphrase(from, &passphrase, &sealed)?;
    let contents = Contents::decode(plain.as_slice()).map_err(|_| broken("isn't a backup"))?;
    if contents.version != VERSION {
        return Err(broken("has another version"));
    }
    let mut files = BTreeMap::new();
    for entry in &contents.files {
        let name = entry.name.as_str();
        if !FILES.contains(&name) && !is_share(name) {
            return Err(broken("holds a file that no backup has"));
        }
        if files.insert(name, entry.bytes.as_slice()).is_some() {
            return Err(broken("holds a file twice"));
        }
    }
    // Beside it, and renamed when it is whole.
    let mut half = to.as_os_str().to_owned();
    half.push(".restoring");
    let half = PathBuf::from(half);
    if fs::read_dir(to).is_ok_and(|mut entries| entries.next().is_some()) {
        if !is_restored(to, &files) {
            return Err(BackupError::NotEmpty(to.to_owned()));
        }
        let subject = examine(to, &Config::read(&to.join("custodian.toml"))?.name, &passphrase)?;
        file::sync_directory(file::directory_of(to))?;
        return Ok((subject, Earlier::Resumed));
    }
    let earlier = Earlier::left_behind(half.exists());
    clear(&half)?;
    let subject = {
        let dir = CustodianDir::open(&half)?;
        for (name, bytes) in &files {
            if *name != "custodian.toml" {
                file::write_new(&dir.file(name), bytes)?;
            }
        }
        let text = files.get("custodian.toml").and_then(|bytes| std::str::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| broken("holds no configuration"))?;
        let mut config = Config::parse(&to.join("custodian.toml"), text)?;
        config.passphrase_file = fs::canonicalize(passphrase_file).map_err(io(passphrase_file, "naming"))?;
        dir.write_config(&config)?;
        examine(&half, &config.name, &passphrase)?
    };
    step().and_then(|()| fs::rename(&half, to)).map_err(io(to, "renaming the restored directory"))?;
    file::sync_directory(file::directory_of(to))?;
    Ok((subject, earlier))
}

/// Is this what a call has restored from these files, and nobody has used since?
fn is_restored(dir: &Path, files: &BTreeMap<&str, &[u8]>) -> bool {
    let same = |(name, bytes): (&&str, &&[u8])| {
        *name == "custodian.toml" || file::read(&dir.join(name), "").is_ok_and(|found| found == *bytes)
    };
    let known = |entry: std::io::Result<fs::DirEntry>| {
        let name = entry.ok().and_then(|entry| entry.file_name().into_string().ok());
        name.is_some_and(|name| name == "lock" || files.contains_key(name.as_str()))
    };
    files.iter().all(same) && fs::read_dir(dir).is_ok_and(|mut entries| entries.all(known))
}

/// Gives the keys of a custodian another passphrase. It must not be running. `passphrase_file` of its configuration is changed
/// last; interrupted between the two, the same call ends it.
pub fn change_passphrase(config: &Path, new_file: &Path) -> Result<Earlier, BackupError> {
    let path = file::directory_of(config);
    let dir = CustodianDir::open(path)?;
    let mut settings = Config::read(config)?;
    let (old, new) = (Passphrase::read(&settings.passphrase_file)?, Passphrase::read(new_file)?);
    let sealed = dir.file("keys.age");
    let named = fs::canonicalize(new_file).map_err(io(new_file, "naming"))?;
    let mut earlier = Earlier::left_behind(file::was_interrupted(&sealed));
    match CustodianKeys::open(&sealed, &old) {
        Ok(_) if settings.passphrase_file == named => {
            file::forget(config)?;
            file::sync_directory(path)?;
            return Ok(Earlier::Resumed);
        }
        Ok(keys) => keys.reseal(&sealed, &new)?,
        Err(KeysError::Seal(SealError::WrongPassphrase { .. })) => {
            drop(CustodianKeys::open(&sealed, &new)?);
            earlier = Earlier::Resumed;
        }
        Err(error) => return Err(error.into()),
    }
    settings.passphrase_file = named;
    file::replace(config, settings.to_toml()?.as_bytes())?;
    Ok(earlier)
}

/// Opens all that a restored custodian will need.
fn examine(dir: &Path, name: &str, passphrase: &Passphrase) -> Result<Subject, BackupError> {
    let keys = CustodianKeys::open(&dir.join("keys.age"), passphrase)?;
    let missing = || BackupError::NotFounded(dir.to_owned());
    certificate::in_use(dir, &keys, &card_in(dir)?)?;
    // Which of them is in force stands in certified state; all must open.
    let mut shares = Vec::new();
    for path in shares_in(dir)? {
        let plain = keys.unseal(&path, "")?;
        shares.push(KeyShare::from_sealed_bytes(&plain).map_err(|error| DirError::Share { path, error })?);
    }
    let share = shares.first().ok_or_else(missing)?;
    let path = dir.join("genesis.json");
    let text = match file::read(&path, "") {
        Err(error) if error.is_missing() => return Err(missing()),
        bytes => String::from_utf8(bytes?).map_err(|_| DirError::Text(path.clone()))?,
    };
    let genesis = concordat_events::SignedGenesis::parse(&text)
        .map_err(|error| DirError::Genesis { path: path.clone(), error })?;
    let fits = |other: &KeyShare| {
        other.group_key().to_bytes() == genesis.genesis.group_key.to_bytes()
            && other.number() == share.number()
    };
    if !shares.iter().all(fits) {
        return Err(BackupError::Mixed(dir.to_owned()));
    }
    let group = genesis.genesis.group_key.to_hex();
    Ok(Subject { name: name.to_owned(), number: share.number(), group })
}

/// Removes what an interrupted restore left, and nothing else.
fn clear(half: &Path) -> Result<(), FileError> {
    if !half.exists() {
        return Ok(());
    }
    let shares = shares_in(half).unwrap_or_default();
    let shares = shares.iter().filter_map(|path| path.file_name()?.to_str());
    for path in left_in(half).unwrap_or_default() {
        file::remove(&path)?;
    }
    for name in FILES.into_iter().chain(["lock"]).chain(shares) {
        for name in [name.to_owned(), format!(".{name}.new")] {
            file::remove(&half.join(name))?;
        }
    }
    step().and_then(|()| fs::remove_dir(half)).map_err(io(half, "removing what an earlier restore left"))
}

fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { path, action, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceremony::tests::founded;

    fn contents(out: &Path, passphrase: &Passphrase) -> Contents {
        let plain = seal::open_with_passphrase(out, passphrase, &fs::read(out).unwrap()).unwrap();
        Contents::decode(plain.as_slice()).unwrap()
    }

    #[tokio::test]
    async fn restore_brings_everything_back_but_the_safety_record() {
        let (founders, genesis) = founded(2).await;
        let (temp, keys) = (founders[0].temp.path(), &founders[0].keys);
        let (dir, out) = (temp.join("c"), temp.join("one.backup"));
        let config = dir.join("custodian.toml");
        let pass = Config::read(&config).unwrap().passphrase_file;
        let passphrase = Passphrase::read(&pass).unwrap();
        fs::create_dir(dir.join("db")).unwrap();
        fs::write(dir.join("db/record"), b"the safety record").unwrap();

        // While it runs: the directory is held. A later share is beside the founders'.
        let held = CustodianDir::open(&dir).unwrap();
        let later = concordat_events::Hash::from_bytes([7; 32]);
        let first = held.share(keys).unwrap().unwrap();
        held.write_next_share(keys, later, &first).unwrap();
        let (subject, _) = backup(&config, &out).unwrap();
        let share = held.share(keys).unwrap().unwrap();
        drop(held);
        assert_eq!((subject.name.as_str(), subject.number), ("c1", share.number()));
        assert_eq!(subject.group, genesis.genesis.group_key.to_hex());
        file::check_private(&out).unwrap();
        let names: Vec<String> = contents(&out, &passphrase).files.iter().map(|f| f.name.clone()).collect();
        let known = |name: &String| FILES.contains(&name.as_str()) || is_share(name);
        assert!(names.iter().all(known) && names.len() == 7, "{names:?}");
        // The same again is the one that is there; anything else stays as it is.
        assert_eq!(backup(&config, &out).unwrap(), (subject.clone(), Earlier::Resumed));
        file::write_new(&temp.join("other"), b"something").unwrap();
        assert!(matches!(
            backup(&config, &temp.join("other")),
            Err(BackupError::Dir(DirError::File(FileError::Exists { .. })))
        ));

        // Whatever an interrupted restore left, the next one makes the directory whole.
        for left in 0..=FILES.len() {
            let to = temp.join(format!("again-{left}"));
            let half = temp.join(format!("again-{left}.restoring"));
            fs::create_dir(&half).unwrap();
            for name in &FILES[..left] {
                fs::write(half.join(name), b"half").unwrap();
            }
            assert_eq!(restore(&out, &pass, &to).unwrap(), (subject.clone(), Earlier::RolledBack));
            assert_eq!(restore(&out, &pass, &to).unwrap().1, Earlier::Resumed);
            assert!(!half.exists() && !to.join("db").exists());
            let back = CustodianDir::open(&to).unwrap();
            let opened = back.keys(&back.config().unwrap()).unwrap();
            assert_eq!(opened.public_key(), keys.public_key());
            assert_eq!(back.share(&opened).unwrap().unwrap().to_sealed_bytes(), share.to_sealed_bytes());
            assert!(back.share_of(&opened, later).unwrap().is_some());
            assert_eq!(back.genesis().unwrap().unwrap().genesis, genesis.genesis);
            assert!(back.proposal().is_ok() && back.card().is_ok());
        }
        assert!(matches!(restore(&out, &pass, &dir), Err(BackupError::NotEmpty(_))));
    }

    #[tokio::test]
    async fn what_is_no_backup_is_refused_and_leaves_nothing() {
        let (founders, _) = founded(2).await;
        let temp = founders[0].temp.path();
        let (config, out, to) = (temp.join("c/custodian.toml"), temp.join("b"), temp.join("to"));
        let pass = Config::read(&config).unwrap().passphrase_file;
        let passphrase = Passphrase::read(&pass).unwrap();
        backup(&config, &out).unwrap();
        let other = Config::read(&founders[1].temp.path().join("c/custodian.toml")).unwrap().passphrase_file;
        let refused = |from: &Path, pass: &Path| {
            let error = restore(from, pass, &to).unwrap_err();
            assert!(!to.exists(), "{error}");
            error
        };
        let wrong = refused(&out, &other);
        assert!(
            matches!(wrong, BackupError::Dir(DirError::Seal(SealError::WrongPassphrase { .. }))),
            "{wrong}"
        );
        let write = |name: &str, files: Vec<Entry>| {
            let path = temp.join(name);
            let plain = Contents { version: VERSION, files }.encode_to_vec();
            file::write_new(&path, &seal::seal_with_passphrase(&path, &passphrase, &plain).unwrap()).unwrap();
            path
        };
        let entry = |name: &str| Entry { name: name.into(), bytes: b"x".to_vec() };
        // A name that leads elsewhere, one twice, none at all.
        for (name, files) in [
            ("path", vec![entry("../keys.age")]),
            ("record", vec![entry("db/record")]),
            ("share", vec![entry("share-../../keys.age")]),
            ("twice", vec![entry("keys.age"), entry("keys.age")]),
            ("none", vec![]),
        ] {
            assert!(matches!(refused(&write(name, files), &pass), BackupError::Contents { .. }), "{name}");
        }
        // Another custodian's share: it doesn't open with these keys.
        let mut mixed = contents(&out, &passphrase).files;
        let share = fs::read(founders[1].temp.path().join("c/share.age")).unwrap();
        mixed.iter_mut().filter(|file| file.name == "share.age").for_each(|file| file.bytes = share.clone());
        let error = refused(&write("mixed", mixed), &pass);
        assert!(matches!(error, BackupError::Dir(DirError::Seal(SealError::WrongKey { .. }))), "{error}");
    }

    #[tokio::test]
    async fn another_passphrase_opens_the_same_keys_also_after_an_interruption() {
        let (founders, _) = founded(2).await;
        let temp = founders[0].temp.path();
        let config = temp.join("c/custodian.toml");
        let key = founders[0].keys.public_key();
        let mut earlier = Config::read(&config).unwrap();
        for round in 0..2 {
            let new = temp.join(format!("pass-{round}"));
            file::write_new(&new, hex::encode(rand::random::<[u8; 16]>()).as_bytes()).unwrap();
            change_passphrase(&config, &new).unwrap();
            if round == 0 {
                // As if it had been interrupted before the configuration was changed.
                fs::remove_file(&config).unwrap();
                file::write_new(&config, earlier.to_toml().unwrap().as_bytes()).unwrap();
                assert!(founders[0].temp.path().exists());
                change_passphrase(&config, &new).unwrap();
            }
            let dir = CustodianDir::open(&temp.join("c")).unwrap();
            let settings = dir.config().unwrap();
            assert_eq!(settings.passphrase_file, fs::canonicalize(&new).unwrap());
            assert_eq!(dir.keys(&settings).unwrap().public_key(), key);
            let old = Passphrase::read(&earlier.passphrase_file).unwrap();
            assert!(CustodianKeys::open(&dir.file("keys.age"), &old).is_err());
            earlier = settings;
        }
        // Neither of both: nothing is changed.
        let before = fs::read(temp.join("c/keys.age")).unwrap();
        let (stray, new) = (temp.join("stray"), temp.join("new"));
        for path in [&stray, &new] {
            file::write_new(path, hex::encode(rand::random::<[u8; 16]>()).as_bytes()).unwrap();
        }
        earlier.passphrase_file = stray;
        file::replace(&config, earlier.to_toml().unwrap().as_bytes()).unwrap();
        assert!(change_passphrase(&config, &new).is_err());
        assert_eq!(fs::read(temp.join("c/keys.age")).unwrap(), before);
    }
}
