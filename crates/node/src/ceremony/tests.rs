//! Whole ceremonies in one process, over links that can lose, tamper with and cut off messages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use concordat_events::{Admission, SignedGenesis};
use tokio::task::JoinHandle;

use super::core::Core;
use super::{CeremonyError, CeremonyLink, Proposal, Session, Stage, init};
use crate::config::Config;
use crate::dir::CustodianDir;
use crate::interrupted::tests::{Mortal, Row, copy};
use crate::keys::{CustodianKeys, file};

/// Everything that a test changes about a message on its way: sender, receiver, bytes.
type Meddle = Arc<dyn Fn(u16, u16, &mut Vec<u8>) -> bool + Send + Sync>;

/// The sessions that run, by number.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<BTreeMap<u16, Arc<Session>>>>);

struct Link {
    net: Net,
    own: u16,
    meddle: Meddle,
}

impl CeremonyLink for Link {
    async fn call(&self, to: u16, mut body: Vec<u8>) -> Result<Vec<u8>, String> {
        if !(self.meddle)(self.own, to, &mut body) {
            return Err("lost".into());
        }
        let peer = self.net.0.lock().unwrap().get(&to).cloned().ok_or("connection refused")?;
        let mut answer = peer.answer(self.own, body).await.map_err(|error| error.to_string())?;
        match (self.meddle)(to, self.own, &mut answer) {
            true => Ok(answer),
            false => Err("lost".into()),
        }
    }
}

pub(crate) struct Founder {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) keys: Arc<CustodianKeys>,
}

impl Founder {
    fn genesis_is_missing(&self) -> bool {
        !self.temp.path().join("c/genesis.json").exists()
    }

    pub(crate) fn dir(&self) -> Arc<CustodianDir> {
        Arc::new(CustodianDir::open(&self.path()).unwrap())
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.temp.path().join("c")
    }

    pub(crate) fn config(&self) -> Config {
        Config::read(&self.path().join("custodian.toml")).unwrap()
    }
}

pub(crate) fn founders(n: u16) -> (Vec<Founder>, Proposal) {
    let mut founders = Vec::new();
    let mut cards = Vec::new();
    for number in 1..=n {
        let temp = tempfile::tempdir().unwrap();
        let pass = temp.path().join("pass");
        file::write_new(&pass, format!("{}\n", hex::encode(rand::random::<[u8; 16]>())).as_bytes()).unwrap();
        let text = format!("name = \"c{number}\"\nlisten = \"127.0.0.1:1\"\npassphrase_file = {pass:?}\n");
        let config = Config::parse(&temp.path().join("c/custodian.toml"), &text).unwrap();
        cards.push(init(&temp.path().join("c"), &config, &format!("localhost:{}", 7400 + number)).unwrap().0);
        let dir = CustodianDir::open(&temp.path().join("c")).unwrap();
        let keys = Arc::new(dir.keys(&dir.config().unwrap()).unwrap());
        assert_eq!(dir.card().unwrap(), cards[cards.len() - 1]);
        founders.push(Founder { temp, keys });
    }
    let relays = vec!["wss://relay.example.org".to_owned()];
    let proposal =
        Proposal::from_cards("ours", "", 1_700_000_000_000, &cards, relays, Admission::default()).unwrap();
    (founders, proposal)
}

/// Starts a founder's process.
fn start(
    net: &Net,
    founder: &Founder,
    proposal: &Proposal,
    own: u16,
    meddle: Meddle,
) -> JoinHandle<Result<SignedGenesis, CeremonyError>> {
    let session = Session::begin(founder.dir(), Arc::clone(&founder.keys), proposal.clone()).unwrap();
    net.0.lock().unwrap().insert(own, Arc::clone(&session));
    let link = Link { net: net.clone(), own, meddle };
    tokio::spawn(async move { session.run(link, Duration::from_secs(30)).await })
}

/// Custodians that have held their ceremony.
pub(crate) async fn founded(n: u16) -> (Vec<Founder>, SignedGenesis) {
    let (founders, proposal) = founders(n);
    let net = Net::default();
    let mut running = Vec::new();
    for (founder, own) in founders.iter().zip(1..) {
        founder.dir().accept(&proposal).unwrap();
        running.push(start(&net, founder, &proposal, own, nothing()));
    }
    let mut genesis = None;
    for task in running {
        genesis = Some(task.await.unwrap().unwrap());
    }
    (founders, genesis.unwrap())
}

#[tokio::test]
async fn the_operator_ends_a_ceremony_and_no_restart_takes_it_up() {
    let (founders, proposal) = founders(3);
    let net = Net::default();
    // The third isn't there: the others wait for it.
    let one = Session::begin(founders[0].dir(), Arc::clone(&founders[0].keys), proposal.clone()).unwrap();
    net.0.lock().unwrap().insert(1, Arc::clone(&one));
    let (link, linger) = (Link { net: net.clone(), own: 1, meddle: nothing() }, Duration::from_millis(10));
    let one = tokio::spawn(async move { one.run(link, linger).await });
    let two = start(&net, &founders[1], &proposal, 2, nothing());
    let dir = founders[0].temp.path().join("c");
    file::write_new(&dir.join("abort"), b"").unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), one).await.unwrap().unwrap();
    assert!(ended.unwrap_err().to_string().contains("operator ended"));
    net.0.lock().unwrap().clear();
    two.abort();
    let _ = two.await;
    let again = Session::begin(founders[0].dir(), Arc::clone(&founders[0].keys), proposal.clone());
    assert!(matches!(again.err(), Some(CeremonyError::AbortedHere)));
    // Accepting it again begins it anew.
    founders[0].dir().accept(&proposal).unwrap();
    Session::begin(founders[0].dir(), Arc::clone(&founders[0].keys), proposal).unwrap();
}

/// Every file below a directory.
fn files(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[tokio::test]
async fn no_secret_stands_in_any_file() {
    let (founders, _) = founded(3).await;
    let mut all = Vec::new();
    for founder in &founders {
        files(founder.temp.path(), &mut all);
    }
    assert!(all.len() >= 3 * 6, "{all:?}");
    for founder in &founders {
        let share = founder.dir().share(&founder.keys).unwrap().unwrap().to_sealed_bytes();
        let identity = founder.keys.keypair().secret_bytes();
        for secret in [&share[3..35], &identity[..], founder.keys.tls_key()] {
            let reversed: Vec<u8> = secret.iter().rev().copied().collect();
            for needle in [secret.to_vec(), reversed, hex::encode(secret).into_bytes()] {
                for path in &all {
                    let bytes = std::fs::read(path).unwrap();
                    let found = bytes.windows(needle.len()).any(|window| window == needle);
                    assert!(!found, "{}", path.display());
                }
            }
        }
    }
}

fn nothing() -> Meddle {
    Arc::new(|_, _, _| true)
}

fn check(founders: &[Founder], genesis: &[SignedGenesis]) {
    for (founder, own) in founders.iter().zip(1..) {
        let dir = founder.dir();
        let written = dir.genesis().unwrap().unwrap();
        assert_eq!(written.genesis, genesis[0].genesis);
        assert_eq!(written.signatures.len(), founders.len());
        let share = dir.share(&founder.keys).unwrap().unwrap();
        assert_eq!(share.number(), own);
        assert_eq!(share.group_key().to_bytes(), written.genesis.group_key.to_bytes());
        let left = std::fs::read_dir(dir.path()).unwrap();
        let left = left
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("attempt-"));
        assert_eq!(left.count(), 0, "shares of attempts are cleared away");
    }
}

async fn finish(
    net: Net,
    tasks: Vec<JoinHandle<Result<SignedGenesis, CeremonyError>>>,
) -> Vec<SignedGenesis> {
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.unwrap().unwrap());
    }
    net.0.lock().unwrap().clear();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_founders_who_start_one_after_the_other() {
    let (founders, proposal) = founders(4);
    let net = Net::default();
    let mut tasks = Vec::new();
    for (founder, own) in founders.iter().zip(1..) {
        tasks.push(start(&net, founder, &proposal, own, nothing()));
        // The first ones are already looking for the others.
        tokio::task::yield_now().await;
    }
    let status = net.0.lock().unwrap()[&1].status();
    let genesis = finish(net, tasks).await;
    assert_eq!(status.borrow().stage, Stage::Complete);
    check(&founders, &genesis);
    assert_eq!(genesis[0].genesis.ceremony, proposal.id().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_and_tampered_messages_are_named_and_repeated() {
    let (founders, proposal) = founders(4);
    let net = Net::default();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let meddle: Meddle = Arc::new(move |from, _, bytes| match counted.fetch_add(1, Ordering::SeqCst) % 5 {
        0 => false,
        1 if from == 2 => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            true
        }
        _ => true,
    });
    let tasks: Vec<_> = founders
        .iter()
        .zip(1..)
        .map(|(founder, own)| start(&net, founder, &proposal, own, Arc::clone(&meddle)))
        .collect();
    let genesis = finish(net, tasks).await;
    check(&founders, &genesis);
    assert!(count.load(Ordering::SeqCst) > 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_always_tampered_with_are_reported_and_nobody_finishes() {
    let (founders, proposal) = founders(2);
    let net = Net::default();
    let meddle: Meddle = Arc::new(|from, _, bytes| {
        if from == 2 {
            bytes[40] ^= 1;
        }
        true
    });
    let tasks: Vec<_> = founders
        .iter()
        .zip(1..)
        .map(|(founder, own)| start(&net, founder, &proposal, own, Arc::clone(&meddle)))
        .collect();
    let mut status = net.0.lock().unwrap()[&1].status();
    let named = status
        .wait_for(|status| {
            status.members[&2].problem.as_ref().is_some_and(|problem| problem.contains("custodian 2"))
        })
        .await
        .unwrap()
        .clone();
    assert_eq!(named.stage, Stage::Gathering);
    tasks.iter().for_each(JoinHandle::abort);
}

/// One of four stops at every stage of the ceremony, and comes back as a new process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_stage_is_recovered_from() {
    for stage in [Stage::Making, Stage::Signing] {
        let (founders, proposal) = founders(3);
        let net = Net::default();
        // Custodian 3's messages stop when it reaches the stage: the crash.
        let dead = Arc::new(AtomicUsize::new(0));
        let cut = Arc::clone(&dead);
        let meddle: Meddle =
            Arc::new(move |from, to, _| cut.load(Ordering::SeqCst) == 0 || (from != 3 && to != 3));
        let mut tasks: Vec<_> = founders[..2]
            .iter()
            .zip(1..)
            .map(|(founder, own)| start(&net, founder, &proposal, own, Arc::clone(&meddle)))
            .collect();
        let third = start(&net, &founders[2], &proposal, 3, Arc::clone(&meddle));
        let mut status = net.0.lock().unwrap()[&3].status();
        status.wait_for(|status| status.stage == stage || status.stage == Stage::Complete).await.unwrap();
        dead.store(1, Ordering::SeqCst);
        let session = net.0.lock().unwrap().remove(&3).unwrap();
        third.abort();
        let _ = third.await;
        // The lock on its directory goes with the last of the old process.
        while Arc::strong_count(&session) > 1 {
            tokio::task::yield_now().await;
        }
        drop((session, status));
        dead.store(0, Ordering::SeqCst);
        let third = retry_start(&net, &founders[2], &proposal, meddle).await;
        tasks.push(third);
        let genesis = finish(net, tasks).await;
        check(&founders, &genesis);
    }
}

async fn retry_start(
    net: &Net,
    founder: &Founder,
    proposal: &Proposal,
    meddle: Meddle,
) -> JoinHandle<Result<SignedGenesis, CeremonyError>> {
    // Calls in flight may hold the old process's directory a moment longer.
    while CustodianDir::open(&founder.temp.path().join("c")).is_err() {
        tokio::task::yield_now().await;
    }
    start(net, founder, proposal, 3, meddle)
}

#[tokio::test]
async fn strangers_and_other_proposals_are_refused() {
    let (founders, proposal) = founders(2);
    let mut other = proposal.clone();
    other.name.push('x');
    let ours = Session::begin(founders[0].dir(), Arc::clone(&founders[0].keys), proposal.clone()).unwrap();
    let theirs = Session::begin(founders[1].dir(), Arc::clone(&founders[1].keys), other).unwrap();
    assert!(matches!(ours.answer(7, vec![]).await, Err(CeremonyError::Stranger(7))));
    assert!(matches!(ours.answer(1, vec![]).await, Err(CeremonyError::Stranger(1))));
    let body = theirs.core().bundle_for(1).unwrap();
    assert!(ours.answer(2, body).await.unwrap_err().to_string().contains("another proposal"));
    let (keys, _) = CustodianKeys::generate().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let dir = Arc::new(CustodianDir::open(temp.path()).unwrap());
    assert!(matches!(Session::begin(dir, Arc::new(keys), proposal), Err(CeremonyError::NotInProposal(_))));
}

/// The whole way: real sockets, mutual TLS, pins from the proposal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_founders_over_mutual_tls() {
    use crate::transport::Listener;
    let (founders, proposal) = founders(4);
    let mut listeners = Vec::new();
    let mut addresses = BTreeMap::new();
    for number in 1..=4 {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        addresses.insert(number, listener.address().to_string());
        listeners.push(listener);
    }
    let mut tasks = Vec::new();
    for (founder, listener) in founders.iter().zip(listeners) {
        let session = Session::begin(founder.dir(), Arc::clone(&founder.keys), proposal.clone()).unwrap();
        let addresses = addresses.clone();
        tasks.push(tokio::spawn(async move {
            session.run_on(listener, &addresses, Duration::from_secs(30)).await
        }));
    }
    let genesis = finish(Net::default(), tasks).await;
    check(&founders, &genesis);
}

/// A disk that can't keep the share: nothing is signed, and after a new start all finish.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_that_cant_be_stored_stops_its_holder_only() {
    let (founders, proposal) = founders(2);
    let net = Net::default();
    // The name of the temporary file is taken by a directory.
    let blocker = founders[1].temp.path().join("c/.attempt-1.age.new");
    std::fs::create_dir(&blocker).unwrap();
    let first = start(&net, &founders[0], &proposal, 1, nothing());
    let second = start(&net, &founders[1], &proposal, 2, nothing());
    let error = second.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, CeremonyError::Stopped(reason) if reason.contains(".attempt-1.age.new")),
        "{error}"
    );
    assert!(founders[0].genesis_is_missing() && founders[1].genesis_is_missing());
    net.0.lock().unwrap().remove(&2);
    std::fs::remove_dir(&blocker).unwrap();
    while CustodianDir::open(&founders[1].temp.path().join("c")).is_err() {
        tokio::task::yield_now().await;
    }
    let second = start(&net, &founders[1], &proposal, 2, nothing());
    let genesis = finish(net, vec![first, second]).await;
    check(&founders, &genesis);
}

/// What a dead process said may come after what the next one says; nobody looks like a liar for it.
#[tokio::test]
async fn words_of_a_dead_process_come_late() {
    let (founders, proposal) = founders(2);
    let begin = |founder: &Founder| {
        Session::begin(founder.dir(), Arc::clone(&founder.keys), proposal.clone()).unwrap()
    };
    let ours = begin(&founders[0]);
    let dead = begin(&founders[1]);
    let late = dead.core().bundle_for(1).unwrap();
    drop(dead);
    let next = begin(&founders[1]);
    let newer = next.core().bundle_for(1).unwrap();
    let hello = ours.core().bundle_for(2).unwrap();
    next.core().take(1, &hello).unwrap();
    for bundle in [&late, &newer, &late, &newer] {
        ours.core().take(2, bundle).unwrap();
        let told = ours.core().bundle_for(2).unwrap();
        next.core().take(1, &told).unwrap();
    }
    assert!(next.core().alarm().is_none(), "{:?}", next.core().alarm());
    assert_eq!(next.core().status().stage, ours.core().status().stage);
}

/// Key ceremonies of three in which the first founder's process ends at each of its writes, and begins again.
pub(crate) fn ended_at_each_write() -> Row {
    let (founders, proposal) = founders(3);
    let mut row = Row::new("key ceremony");
    loop {
        let temp = tempfile::tempdir().unwrap();
        let path = |own: u16| temp.path().join(own.to_string());
        founders.iter().zip(1..).for_each(|(founder, own)| copy(&founder.path(), &path(own)));
        let start = |own: u16| {
            let dir = Arc::new(CustodianDir::open(&path(own)).unwrap());
            let keys = founders[usize::from(own) - 1].keys.clone();
            Core::new(dir, keys, proposal.clone()).unwrap()
        };
        let mut cores: BTreeMap<u16, Core> = (1..=3).map(|own| (own, start(own))).collect();
        let (mut process, mut again, mut rounds) = (Mortal::new(row.writes), false, 0);
        while cores.len() < 3 || cores.values().any(|core| core.genesis().is_none()) {
            rounds += 1;
            assert!(rounds < 100, "ended at write {}: {:?}", row.writes, cores[&1].status());
            for (from, to) in (1..=3).flat_map(|from| (1..=3).map(move |to| (from, to))) {
                let Some(word) = cores.get(&from).map(|core| core.bundle_for(to).unwrap()) else { continue };
                let Some(core) = cores.get_mut(&to).filter(|_| from != to) else { continue };
                let _ = match to == 1 && !again {
                    true => process.runs(|| core.take(from, &word)),
                    false => core.take(from, &word),
                };
                if process.dead && !again {
                    // The others talk on before it is there again.
                    cores.remove(&1);
                }
            }
            if process.dead && !again && rounds % 2 == 0 {
                again = true;
                let core = start(1);
                row.count(core.status().earlier);
                cores.insert(1, core);
            }
        }
        drop(cores);
        let mut genesis = None;
        for (founder, own) in founders.iter().zip(1..) {
            let dir = CustodianDir::open(&path(own)).unwrap();
            let written = dir.genesis().unwrap().unwrap();
            let share = dir.share(&founder.keys).unwrap().unwrap();
            assert_eq!(share.group_key().to_bytes(), written.genesis.group_key.to_bytes());
            assert_eq!(genesis.get_or_insert(written.genesis.clone()), &written.genesis, "one key");
            // The next start clears away what the last one couldn't.
            super::clear(&dir).unwrap();
            let left = std::fs::read_dir(path(own)).unwrap().map(|entry| entry.unwrap().file_name());
            let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("attempt-")).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        if !process.dead {
            return row;
        }
    }
}
