//! What fuzzing found worth keeping, replayed on every run: the same functions as the fuzz targets, without a fuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use concordat_finality::Message;
use prost::Message as _;

use super::fuzz::seeds::{messages, seeds};
use super::fuzz::world::world;
use super::fuzz::{TARGETS, mend};

/// The corpus is read by every run of the tests: what is larger is minimised first (`tests/fuzz/README.md`).
const FILES: usize = 300;
const BYTES: usize = 400 * 1024;

fn corpus(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn the_corpus_is_replayed_and_small() {
    let (mut files, mut bytes) = (0, 0);
    for (target, run) in TARGETS {
        let mut accepted = 0;
        for path in corpus(target) {
            let input = fs::read(&path).unwrap();
            (files, bytes) = (files + 1, bytes + input.len());
            println!("{}", path.display());
            accepted += usize::from(run(&input));
        }
        assert!(accepted > 0, "nothing in the corpus of {target} gets past the first checks");
    }
    assert!(files <= FILES && bytes <= BYTES, "{files} files, {bytes} bytes");
}

#[test]
fn every_seed_is_accepted() {
    for seed in seeds() {
        let (_, run) = TARGETS.iter().find(|(target, _)| *target == seed.target).unwrap();
        // A history whose heads the mender made isn't one that a replay gives.
        let expected = (seed.target, seed.name.as_str()) != ("history", "seed-specs");
        assert_eq!(run(&seed.input), expected, "{}/{}", seed.target, seed.name);
    }
}

#[test]
fn there_is_a_seed_of_every_kind_of_message() {
    let mut kinds = BTreeSet::new();
    for (kind, body, attachment) in messages() {
        let mut envelope = concordat_finality::wire::Envelope {
            sender: 1,
            seq: 1,
            kind: kind as u32,
            body,
            signature: Vec::new(),
            attachment,
        };
        mend::message(&mut envelope);
        let message = Message::receive(&world().context, 1, &envelope.encode_to_vec()).unwrap();
        assert_eq!(message.kind(), kind);
        kinds.insert(kind);
    }
    assert_eq!(kinds, mend::KINDS.into_iter().collect());
    // A kind that the mender doesn't know would never be signed by it.
    let unknown = mend::KINDS.len() as u32 + 1;
    let next = concordat_finality::wire::Envelope { sender: 1, kind: unknown, ..Default::default() };
    let error = Message::receive(&world().context, 1, &next.encode_to_vec()).unwrap_err();
    assert!(error.to_string().contains("is unknown"), "{error}");
}
