//! What a running custodian shows of its secrets: not in its log, nor in any file of its directory, nor in its arguments and
//! environment, and in its memory no more than it signs with.

use std::fs::File;
use std::io::{BufRead, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use concordat_node::config::Config;
use concordat_node::keys::{CustodianKeys, Passphrase};
use zeroize::Zeroizing;

use crate::town::Town;

/// How often the memory is looked at before something is wrong with it.
const LOOKS: usize = 5;

/// Something that must not be found, in one of the forms that it could have.
struct Needle {
    what: String,
    bytes: Zeroizing<Vec<u8>>,
    /// How often it may stand in the memory of who signs with it.
    held: std::ops::RangeInclusive<usize>,
}

/// A secret in all its forms: as it is written, as words with the lowest first, as text. `bytes` and `words`: how often the form stands
/// in the memory of who uses it.
fn forms(
    what: &str,
    secret: &[u8],
    bytes: std::ops::RangeInclusive<usize>,
    words: std::ops::RangeInclusive<usize>,
) -> [Needle; 4] {
    let needle = |form: &str, bytes: Vec<u8>, held| Needle {
        what: format!("{what} {form}"),
        bytes: Zeroizing::new(bytes),
        held,
    };
    let text = hex::encode(secret);
    [
        needle("as bytes", secret.to_vec(), bytes),
        needle("in words", secret.iter().rev().copied().collect(), words),
        needle("as text", text.clone().into_bytes(), 0..=0),
        needle("as capital text", text.to_uppercase().into_bytes(), 0..=0),
    ]
}

/// The secrets of a custodian, as its operator could open them.
fn secrets(dir: &Path) -> Vec<Needle> {
    let config = Config::read(&dir.join("custodian.toml")).unwrap();
    let passphrase = Passphrase::read(&config.passphrase_file).unwrap();
    let keys = CustodianKeys::open(&dir.join("keys.age"), &passphrase).unwrap();
    let share = keys.unseal(&dir.join("share.age"), "").unwrap();
    let typed = std::fs::read(&config.passphrase_file).unwrap();
    let mut all = Vec::new();
    // Version and number stand before it; what follows is public.
    all.extend(forms("share", &share[3..35], 0..=0, 1..=1));
    // It signs every message, and the library's type for it is copied by value: how often isn't ours to say.
    // In words it is libsecp256k1's own, on the stack of whoever has just signed.
    all.extend(forms("identity key", &keys.keypair().secret_bytes(), 1..=usize::MAX, 0..=usize::MAX));
    // A PKCS#8 wrapping of what is secret in it, whose last bytes are the public key.
    all.extend(forms("TLS key", keys.tls_key(), 0..=4, 0..=0));
    all.push(Needle {
        what: "passphrase".to_owned(),
        bytes: Zeroizing::new(typed.trim_ascii().to_vec()),
        held: 0..=0,
    });
    all
}

/// How often the needle stands there.
fn count(hay: &[u8], needle: &[u8]) -> usize {
    // Most of a memory is zeros: the search goes by a byte that isn't everywhere.
    let anchor = needle.iter().position(|byte| !matches!(byte, 0 | 0xff)).unwrap();
    let (mut rest, mut at, mut found) = (hay, 0, 0);
    loop {
        let skipped = rest.skip_until(needle[anchor]).unwrap();
        if skipped == 0 {
            return found;
        }
        at += skipped;
        let from = (at - 1).checked_sub(anchor);
        found += usize::from(from.and_then(|from| hay.get(from..from + needle.len())) == Some(needle));
    }
}

/// The process that serves from a directory.
fn process_of(dir: &Path) -> PathBuf {
    let config = dir.join("custodian.toml");
    let serves = |process: &PathBuf| {
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        let own = config.as_os_str().as_encoded_bytes();
        arguments.any(|argument| argument == b"serve") && arguments.any(|argument| argument == own)
    };
    let mut all = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    all.find(serves).unwrap_or_else(|| panic!("nobody serves from {}", dir.display()))
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut left, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            found.push(path);
        }
    }
    found
}

/// How often each needle stands in the writable memory of a process. `None` if this user may not read it, which is what `serve` asks
/// the system for.
fn in_memory(process: &Path, needles: &[Needle]) -> Option<Vec<usize>> {
    let refused = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    let maps = match std::fs::read_to_string(process.join("maps")) {
        Err(error) if refused(&error) => return None,
        maps => maps.unwrap(),
    };
    let mut memory = match File::open(process.join("mem")) {
        Err(error) if refused(&error) => return None,
        memory => memory.unwrap(),
    };
    let mut found = vec![0; needles.len()];
    let mut bytes = Zeroizing::new(Vec::new());
    for line in maps.lines().filter(|line| line.contains(" rw") && !line.contains("[vvar")) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let parse = |text| u64::from_str_radix(text, 16).unwrap();
        let (from, to) = (parse(from), parse(to));
        bytes.resize(usize::try_from(to - from).unwrap(), 0);
        memory.seek(SeekFrom::Start(from)).unwrap();
        // Some mappings are of devices, and some are gone by now.
        if memory.read_exact(&mut bytes).is_ok() {
            for (count_of, needle) in found.iter_mut().zip(needles) {
                *count_of += count(&bytes, &needle.bytes);
            }
        }
    }
    Some(found)
}

/// Looks for the secrets of the first custodian, which has just signed.
pub async fn stay_where_they_are_used(town: &Town) {
    let dir = town.layout.dirs().swap_remove(0);
    for _ in 0..5 {
        town.goes_on().await;
    }
    tokio::task::spawn_blocking(move || look(&dir)).await.unwrap();
}

fn look(dir: &Path) {
    let needles = secrets(dir);
    let process = process_of(dir);
    let mut places: Vec<PathBuf> =
        files(dir).into_iter().filter(|file| !file.ends_with("passphrase")).collect();
    places.extend([process.join("cmdline"), process.join("environ")]);
    for place in places {
        let hay = std::fs::read(&place).unwrap_or_default();
        let found: Vec<&str> =
            needles.iter().filter(|n| count(&hay, &n.bytes) > 0).map(|n| n.what.as_str()).collect();
        assert!(found.is_empty(), "{}: {found:?}", place.display());
    }
    // What is there while it signs is gone when it has signed; what is kept is there at every look.
    let mut wrong = Vec::new();
    for _ in 0..LOOKS {
        let Some(found) = in_memory(&process, &needles) else {
            let own = std::fs::metadata("/proc/self").unwrap().uid();
            assert_ne!(own, 0, "root reads everything");
            return;
        };
        wrong = needles
            .iter()
            .zip(&found)
            .filter(|(needle, count)| !needle.held.contains(count))
            .map(|(needle, count)| format!("{}: {count} times, not {:?}", needle.what, needle.held))
            .collect::<Vec<String>>();
        if wrong.is_empty() {
            return;
        }
    }
    panic!("{}", wrong.join("\n"));
}
