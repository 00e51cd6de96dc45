//! What fuzzing the custodian's own decoders found worth keeping, replayed on every run; the pure crates' corpus is replayed
//! in `crates/verify/tests`.

use std::fs;

use super::architecture::root;
use super::shell::TARGETS;
use super::shell::seeds::seeds;

/// The corpus is read by every run of the tests: what is larger is minimised first (`tests/fuzz/README.md`).
const FILES: usize = 80;
const BYTES: usize = 80 * 1024;

#[test]
fn the_shells_corpus_is_replayed_and_small() {
    let (mut files, mut bytes) = (0, 0);
    for (target, run) in TARGETS {
        let mut accepted = 0;
        for entry in fs::read_dir(root().join("tests/fuzz/corpus").join(target)).unwrap() {
            let path = entry.unwrap().path();
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
fn every_seed_of_the_shell_is_accepted() {
    for seed in seeds() {
        let (_, run) = TARGETS.iter().find(|(target, _)| *target == seed.target).unwrap();
        assert!(run(&seed.input), "{}/{}", seed.target, seed.name);
    }
}
