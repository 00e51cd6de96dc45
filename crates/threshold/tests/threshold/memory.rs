//! What is left in memory after a signing run: a child process opens a share, makes
//! nonces, signs, and is read by its parent through `/proc/<pid>/mem`, as a debugger
//! or a core dump would show it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use concordat_threshold::{Commitment, KeyShare, Session, commit, sign};
use frost_core::Field;
use frost_secp256k1_tr::Secp256K1ScalarField as Scalars;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

use crate::net::Group;

/// Set in the child: the seed of its nonces and the commitment of the other signer.
const ORDERS: &str = "CONCORDAT_TEST_MEMORY";

const MESSAGE: [u8; 32] = [7; 32];

/// Reads what the parent writes, past the buffer that `stdin` keeps for itself.
fn read(count: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; count]);
    File::open("/dev/stdin").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

/// Says where it is, and waits until the parent has looked.
fn stop(at: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\n<{at}>").and_then(|()| out.flush()).unwrap();
    read(1);
}

/// The child's part; in any other run of the tests it does nothing.
#[test]
fn the_childs_part() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let (seed, other) = orders.split_once(':').unwrap();
    let length = usize::from(u16::from_be_bytes(read(2)[..].try_into().unwrap()));
    let share = KeyShare::from_sealed_bytes(&read(length)).unwrap();
    stop("opened");
    let (nonce, commitment) = commit(&share, &mut ChaCha20Rng::seed_from_u64(seed.parse().unwrap()));
    stop("committed");
    let other = Commitment::from_bytes(&hex::decode(other).unwrap()).unwrap();
    let session: Session = BTreeMap::from([(share.number(), commitment), (2, other)]);
    sign(&share, nonce, &MESSAGE, &session).unwrap();
    stop("signed");
    drop(share.to_sealed_bytes());
    drop(share);
    stop("dropped");
}

struct Victim {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Victim {
    /// Waits until it has come to this place.
    fn at(&mut self, place: &str) {
        let mut line = String::new();
        while line.trim() != format!("<{place}>") {
            line.clear();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "it ended before `{place}`");
        }
    }

    fn go_on(&mut self) {
        self.stdin.write_all(&[0]).unwrap();
    }

    /// How often each needle stands in its writable memory.
    fn count(&self, needles: &[(&'static str, Vec<u8>)]) -> BTreeMap<&'static str, usize> {
        let pid = self.child.id();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let mut memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let mut found: BTreeMap<&'static str, usize> = needles.iter().map(|(name, _)| (*name, 0)).collect();
        for line in maps.lines().filter(|line| line.contains(" rw") && !line.contains("[vvar")) {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let parse = |text| u64::from_str_radix(text, 16).unwrap();
            let (from, to) = (parse(from), parse(to));
            let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
            memory.seek(SeekFrom::Start(from)).unwrap();
            if memory.read_exact(&mut bytes).is_err() {
                continue;
            }
            for (name, needle) in needles {
                let hits = bytes.windows(needle.len()).filter(|window| window == needle).count();
                *found.get_mut(name).unwrap() += hits;
            }
        }
        found
    }
}

/// A scalar as it is written, and as the curve's code holds it: words, lowest first.
fn forms(what: [&'static str; 2], scalar: &[u8]) -> [(&'static str, Vec<u8>); 2] {
    let reversed = scalar.iter().rev().copied().collect();
    [(what[0], scalar.to_vec()), (what[1], reversed)]
}

#[cfg(target_os = "linux")]
#[test]
fn no_share_and_no_nonce_stays_in_memory_after_its_use() {
    let group = Group::make(&[1, 2], 2, rand::random());
    let sealed = group.shares[&1].to_sealed_bytes();
    let seed: u64 = rand::random();

    // What the child will draw: the library gives the parent what our types don't.
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let signing = frost_secp256k1_tr::keys::SigningShare::deserialize(&sealed[3..35]).unwrap();
    let (nonces, _) = frost_secp256k1_tr::round1::commit(&signing, &mut rng);
    let other = commit(&group.shares[&2], &mut rng).1;

    // The negated share is what signs when the group key is odd.
    let negated = -Scalars::deserialize(sealed[3..35].try_into().unwrap()).unwrap();
    let mut needles = Vec::new();
    needles.extend(forms(["share", "share in words"], &sealed[3..35]));
    needles.extend(forms(["negated share", "negated share in words"], &Scalars::serialize(&negated)));
    needles.extend(forms(["hiding nonce", "hiding nonce in words"], &nonces.hiding().serialize()));
    needles.extend(forms(["binding nonce", "binding nonce in words"], &nonces.binding().serialize()));

    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["memory::the_childs_part", "--exact", "--nocapture", "--test-threads=1"])
        .env(ORDERS, format!("{seed}:{}", hex::encode(other.to_bytes())))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut victim = Victim { child, stdin, stdout };
    victim.stdin.write_all(&(sealed.len() as u16).to_be_bytes()).unwrap();
    victim.stdin.write_all(&sealed).unwrap();

    let mut seen = Vec::new();
    for place in ["opened", "committed", "signed", "dropped"] {
        victim.at(place);
        seen.push((place, victim.count(&needles)));
        victim.go_on();
    }
    assert!(victim.child.wait().unwrap().success());
    let at = |place: usize, name: &str| seen[place].1[name];
    // The scan sees what is there: a share in use, nonces that wait.
    assert!(at(0, "share in words") > 0, "{seen:?}");
    assert!(at(1, "hiding nonce in words") > 0 && at(1, "binding nonce in words") > 0, "{seen:?}");
    for name in ["hiding nonce", "binding nonce"] {
        for form in [name.to_owned(), format!("{name} in words")] {
            assert_eq!(at(2, &form), 0, "{form} after signing: {seen:?}");
        }
    }
    assert!(seen[3].1.values().all(|count| *count == 0), "{seen:?}");
}
