//! kill -9 in the middle of writing.
//!
//! The test binary starts itself again as a writer that applies numbered batches, flushes now and then, and reports
//! every flush that was acknowledged. It is killed after a random number of reports; then everything reported must be
//! there, and what is there must be exactly the first batches, whole, without a gap.

use crate::engines::Engine;
use crate::model::{self, Model};
use concordat_store::conformance::everything;
use concordat_store::redb::RedbStore;
use concordat_store::sled::SledStore;
use concordat_store::{Store, StoreError, WriteBatch};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

const ENGINE: &str = "CONCORDAT_STORE_TEST_ENGINE";
const DIRECTORY: &str = "CONCORDAT_STORE_TEST_DIRECTORY";

/// The key with the number of the last batch.
const LAST: &[u8] = b"last";

/// How many batches stay before the oldest is deleted.
const KEPT: u64 = 20;

/// Batch `n`: several keys, one of them in every batch, sometimes a large value, and the end of an old batch.
fn batch(n: u64) -> WriteBatch {
    let key = |n: u64, part: u64| [n.to_be_bytes(), part.to_be_bytes()].concat();
    let mut batch = WriteBatch::new();
    batch.put(LAST, n.to_be_bytes());
    for part in 0..=n % 7 {
        batch.put(key(n, part), vec![n as u8; 100]);
    }
    if n.is_multiple_of(25) {
        batch.put(key(n, 99), vec![n as u8; 150_000]);
    }
    if let Some(old) = n.checked_sub(KEPT) {
        batch.delete_range(key(old, 0), key(old + 1, 0));
    }
    batch
}

fn last(store: &impl Store) -> Option<u64> {
    let bytes = store.get(LAST).unwrap()?;
    Some(u64::from_be_bytes(bytes.try_into().unwrap()))
}

/// The writer process. Run without its variables, as a test among the others, it has nothing to do.
#[test]
fn writer() {
    let (Ok(engine), Ok(dir)) = (std::env::var(ENGINE), std::env::var(DIRECTORY)) else {
        return;
    };
    let dir = Path::new(&dir);
    if engine == RedbStore::NAME {
        write_forever::<RedbStore>(dir);
    } else {
        write_forever::<SledStore>(dir);
    }
}

/// Reports on standard error, where the test harness writes nothing.
fn write_forever<E: Engine>(dir: &Path) {
    eprintln!("opening");
    let store = E::open_in(dir).unwrap();
    let next = last(&store).map_or(0, |n| n + 1);
    for n in next.. {
        store.apply(batch(n)).unwrap();
        if n.is_multiple_of(3) {
            store.flush().unwrap();
            eprintln!("flushed {n}");
        }
    }
}

struct Writer {
    process: Child,
    reports: Lines<BufReader<ChildStderr>>,
}

impl Writer {
    fn start<E: Engine>(dir: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["kill::writer", "--exact", "--nocapture", "--test-threads=1"])
            .env(ENGINE, E::NAME)
            .env(DIRECTORY, dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let reports = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut writer = Self { process, reports };
        assert_eq!(writer.report().as_deref(), Some("opening"));
        writer
    }

    fn report(&mut self) -> Option<String> {
        self.reports.next().map(Result::unwrap)
    }

    /// Kills it after `count` more flushes; gives the last batch it reported as flushed, also in the moment between.
    fn kill_after(mut self, count: u64) -> Option<u64> {
        let mut flushed = None;
        let mut note = |line: String| {
            let n = line.strip_prefix("flushed ").expect(&line);
            flushed = Some(n.parse::<u64>().unwrap());
        };
        for _ in 0..count {
            note(self.report().expect("the writer goes on"));
        }
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        while let Some(line) = self.report() {
            note(line);
        }
        flushed
    }
}

/// A failed check must not leave a writer behind that fills the disk.
impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn survives_kills<E: Engine>() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut flushed = None;
    let mut expected = Model::new();
    let mut written = 0;
    for _ in 0..15 {
        let count = rng.next_u64() % 10;
        let reported = Writer::start::<E>(dir.path()).kill_after(count);
        flushed = flushed.max(reported);
        let store = E::open_in(dir.path()).unwrap();
        let found = last(&store);
        assert!(found >= flushed, "found {found:?}, flushed was {flushed:?}");
        let survived = found.map_or(0, |n| n + 1);
        for n in written..survived {
            model::write(&mut expected, &batch(n));
        }
        written = survived;
        let expected: Vec<_> = expected.clone().into_iter().collect();
        assert!(everything(&store) == expected, "not the first {written} batches");
        // What was seen once stays: the next life builds on it.
        store.flush().unwrap();
        flushed = found;
    }
    assert!(written > 15);
}

/// Killed while the database is created, on an empty directory each time.
fn survives_kills_in_creation<E: Engine>() {
    for _ in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        Writer::start::<E>(dir.path()).kill_after(0);
        let store = E::open_in(dir.path()).unwrap();
        let mut expected = Model::new();
        for n in 0..last(&store).map_or(0, |n| n + 1) {
            model::write(&mut expected, &batch(n));
        }
        assert_eq!(everything(&store).len(), expected.len());
    }
}

/// The directory belongs to a process until it ends, however it ends.
fn is_held_by_its_process<E: Engine>() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::start::<E>(dir.path());
    writer.report();
    let error = E::open_in(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    writer.kill_after(0);
    E::open_in(dir.path()).unwrap();
}

#[test]
fn redb_survives_kills() {
    survives_kills::<RedbStore>();
}

#[test]
fn sled_survives_kills() {
    survives_kills::<SledStore>();
}

#[test]
fn redb_survives_kills_in_creation() {
    survives_kills_in_creation::<RedbStore>();
}

#[test]
fn sled_survives_kills_in_creation() {
    survives_kills_in_creation::<SledStore>();
}

#[test]
fn redb_is_held_by_its_process() {
    is_held_by_its_process::<RedbStore>();
}

#[test]
fn sled_is_held_by_its_process() {
    is_held_by_its_process::<SledStore>();
}
