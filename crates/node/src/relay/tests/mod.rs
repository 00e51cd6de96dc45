//! The link, the embedded relay, intake and outbox together: real sockets, real events.

mod outward;
mod scripted;

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use concordat_events::hash::Hash;
use concordat_events::{Mode, ValidEvent, kinds, request};
use concordat_store::memory::MemoryStore;
use concordat_store::{Store, StoreError};
use futures::StreamExt;
use nostr::{EventBuilder, Filter, Keys, Kind, Tag, Timestamp};
use openraft::{AsyncRuntime, Instant as _};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::order::TokioRuntime;

const DEADLINE: Duration = Duration::from_secs(30);

fn options() -> LinkOptions {
    LinkOptions { deadline: DEADLINE, retry: Duration::from_millis(50), sweep: Duration::from_secs(300) }
}

fn signed(keys: &Keys, kind: u16, content: &str, tags: &[[&str; 2]], at: u64) -> ValidEvent {
    let tags: Vec<Tag> = tags.iter().map(|tag| Tag::parse(*tag).unwrap()).collect();
    let event = EventBuilder::new(Kind::from_u16(kind), content)
        .tags(tags)
        .custom_created_at(Timestamp::from_secs(at))
        .sign_with_keys(keys)
        .unwrap();
    ValidEvent::check(event).unwrap()
}

fn interest(kind: u16) -> Interest {
    Interest { filters: vec![Filter::new().kind(Kind::from_u16(kind))], since: 0 }
}

async fn link(urls: &[&str]) -> NostrLink {
    let urls: Vec<String> = urls.iter().map(|&url| url.to_owned()).collect();
    let link = NostrLink::connect(&urls, options()).await.unwrap();
    for url in &urls {
        assert!(link.connected_within(url, DEADLINE).await);
    }
    link
}

async fn ids(receiver: &mut mpsc::Receiver<Received>, n: usize) -> BTreeSet<Hash> {
    let mut ids = BTreeSet::new();
    while ids.len() < n {
        let received = tokio::time::timeout(DEADLINE, receiver.recv()).await.unwrap().unwrap();
        assert!(ids.insert(received.event.id()), "an event came twice");
    }
    ids
}

/// Publishes many events, some at a time.
async fn publish_all(link: &NostrLink, relay: &str, events: &[ValidEvent]) {
    let mut answers = futures::stream::iter(events).map(|event| link.publish(relay, event)).buffered(32);
    while let Some(answer) = answers.next().await {
        answer.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_and_new_events_come_once_from_all_relays() {
    let relays = [EmbeddedRelay::start(None, 0).await.unwrap(), EmbeddedRelay::start(None, 0).await.unwrap()];
    let link = link(&[relays[0].url(), relays[1].url()]).await;
    let keys = Keys::generate();
    // More than a page, many in one second, some old: kind 400 is outside the ranges of NIP-01.
    let events: Vec<_> = (0..700).map(|n| signed(&keys, 400, &n.to_string(), &[], 1_000 + n / 100)).collect();
    publish_all(&link, relays[0].url(), &events).await;
    let all = events.iter().map(ValidEvent::id).collect::<BTreeSet<_>>();
    let (change, wanted) = watch::channel(interest(400));
    let mut receiver = link.subscribe(wanted);
    assert_eq!(ids(&mut receiver, events.len()).await, all);

    // A new one on both relays, with an old time.
    let late = signed(&keys, 400, "late", &[], 5);
    for (_, result) in publish_to(&link, &late, &link.relays()).await {
        result.unwrap();
    }
    assert_eq!(ids(&mut receiver, 1).await, BTreeSet::from([late.id()]));

    // Another interest: what is stored of it comes, and nothing comes again.
    let other = signed(&keys, 401, "", &[], 1_000);
    link.publish(relays[1].url(), &other).await.unwrap();
    let mut both = interest(400);
    both.filters.extend(interest(401).filters);
    change.send(both).unwrap();
    assert_eq!(ids(&mut receiver, 1).await, BTreeSet::from([other.id()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_while_a_relay_was_away_is_fetched() {
    let directory = tempfile::tempdir().unwrap();
    let relay = EmbeddedRelay::start(Some(directory.path()), 0).await.unwrap();
    let url = relay.url().to_owned();
    let port: u16 = url.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    let link_a = link(&[&url]).await;
    let (_change, wanted) = watch::channel(interest(7501));
    let mut receiver = link_a.subscribe(wanted);
    let keys = Keys::generate();
    let now = Timestamp::now().as_secs();
    let first = signed(&keys, 7501, "1", &[], now);
    link_a.publish(&url, &first).await.unwrap();
    ids(&mut receiver, 1).await;

    relay.shutdown().await;
    drop(relay);
    // The same data at the same address, and an event that nobody was told of.
    let started = async {
        loop {
            match EmbeddedRelay::start(Some(directory.path()), port).await {
                Ok(relay) => break relay,
                // What came is still being written.
                Err(EmbeddedError::Store(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let relay = tokio::time::timeout(DEADLINE, started).await.expect("the directory is free");
    let link_b = link(&[relay.url()]).await;
    let missed = signed(&keys, 7501, "2", &[], now - 60);
    link_b.publish(relay.url(), &missed).await.unwrap();
    assert_eq!(ids(&mut receiver, 1).await, BTreeSet::from([missed.id()]));
    let stored = link_b.fetch(relay.url(), Filter::new().kind(Kind::from_u16(7501)), DEADLINE).await.unwrap();
    assert_eq!(stored.len(), 2, "the first one survived on disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_relay_answers_more_than_its_library_would() {
    let directory = tempfile::tempdir().unwrap();
    let keys = Keys::generate();
    let group = keys.public_key();
    for start in 0..2 {
        let relay = EmbeddedRelay::start(Some(directory.path()), 0).await.unwrap();
        let link = link(&[relay.url()]).await;
        if start == 0 {
            let logs: Vec<_> = (0..600u64).map(|n| signed(&keys, 400, &n.to_string(), &[], n)).collect();
            publish_all(&link, relay.url(), &logs).await;
            for at in [1, 2] {
                let snapshot = |n| signed(&keys, 30078, &at.to_string(), &[["d", &format!("m{n}")]], at);
                publish_all(&link, relay.url(), &(0..20).map(snapshot).collect::<Vec<_>>()).await;
            }
        }
        let logs = Filter::new().kind(Kind::from_u16(400));
        assert_eq!(link.fetch(relay.url(), logs, DEADLINE).await.unwrap().len(), 600);
        let names: Vec<String> = (0..20).map(|n| format!("m{n}")).collect();
        let snapshots = Filter::new().author(group).kind(Kind::from_u16(30078)).identifiers(names);
        let found = link.fetch(relay.url(), snapshots, DEADLINE).await.unwrap();
        assert_eq!(found.len(), 20);
        assert!(found.iter().all(|event| event.content() == "2"), "the newer one of each");
        link.shutdown().await;
        relay.shutdown().await;
        drop(relay);
        // The database is free when what came is written.
        let free = async {
            while start == 0 && concordat_store::redb::RedbStore::open(directory.path()).is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, free).await.expect("the directory is free");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_name_the_relay() {
    let relay = EmbeddedRelay::start(None, 0).await.unwrap();
    let gone = "ws://127.0.0.1:9";
    let urls = [relay.url().to_owned(), gone.to_owned()];
    let link = NostrLink::connect(&urls, LinkOptions { deadline: Duration::from_millis(300), ..options() })
        .await
        .unwrap();
    let event = signed(&Keys::generate(), 1, "", &[], 1);
    let error = link.publish(gone, &event).await.unwrap_err();
    assert!(error.to_string().starts_with(gone) && !error.is_final(), "{error}");
    let error = link.publish("wss://elsewhere.example.org", &event).await.unwrap_err();
    assert!(matches!(error, RelayError::Unknown { .. }), "{error}");
    assert!(NostrLink::connect(&["gopher://x".to_owned()], options()).await.is_err());
}

/// A relay in memory that can lie.
#[derive(Default)]
struct Liar {
    held: Mutex<Vec<ValidEvent>>,
    published: AtomicUsize,
    /// Says OK and keeps nothing.
    forgets: bool,
    /// Says no for good.
    refuses: bool,
}

struct Liars(Vec<(String, Arc<Liar>)>);

impl Liars {
    fn get(&self, relay: &str) -> &Liar {
        &self.0.iter().find(|(url, _)| url == relay).unwrap().1
    }
}

impl RelayLink for Liars {
    fn relays(&self) -> Vec<String> {
        self.0.iter().map(|(url, _)| url.clone()).collect()
    }

    fn subscribe(&self, _: watch::Receiver<Interest>) -> mpsc::Receiver<Received> {
        mpsc::channel(1).1
    }

    async fn publish(&self, relay: &str, event: &ValidEvent) -> Result<(), RelayError> {
        let liar = self.get(relay);
        liar.published.fetch_add(1, Ordering::SeqCst);
        if liar.refuses {
            return Err(RelayError::Refused { relay: relay.to_owned(), message: "blocked: no".into() });
        }
        if !liar.forgets {
            liar.held.lock().unwrap().push(event.clone());
        }
        Ok(())
    }

    async fn fetch(&self, relay: &str, filter: Filter, _: Duration) -> Result<Vec<ValidEvent>, RelayError> {
        let held = self.get(relay).held.lock().unwrap();
        let matching = held
            .iter()
            .filter(|event| filter.match_event(event.event(), nostr_sdk::filter::MatchEventOptions::new()));
        Ok(matching.cloned().collect())
    }
}

fn outbox(events: &[ValidEvent]) -> Outbox<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    store.apply(Outbox::<MemoryStore>::enqueue(1, events)).unwrap();
    let outbox = Outbox::new(store);
    outbox.release(1);
    outbox
}

/// These tests give a publisher the time themselves.
type OnTokio<L> = Publisher<TokioRuntime, MemoryStore, L>;
type Instant = <TokioRuntime as AsyncRuntime>::Instant;

fn liars(liars: Vec<Liar>) -> Arc<Liars> {
    let name = |n: usize| format!("ws://liar{n}");
    Arc::new(Liars(liars.into_iter().enumerate().map(|(n, liar)| (name(n), Arc::new(liar))).collect()))
}

fn policy(link: &Liars, enough: usize) -> PublishPolicy {
    PublishPolicy { enough, ..PublishPolicy::new(link.relays(), 0, 1) }
}

/// Empties a queue on a clock of its own.
async fn drain<L: RelayLink>(publisher: &mut OnTokio<L>) {
    let mut now = Instant::now();
    while let Some(next) = publisher.pass(now).await.unwrap() {
        now = next;
    }
}

#[tokio::test]
async fn an_ok_is_not_believed() {
    let event = signed(&Keys::generate(), 400, "", &[], 1);
    let link = liars(vec![Liar::default(), Liar { forgets: true, ..Liar::default() }]);
    let queue = outbox(std::slice::from_ref(&event));
    let mut publisher = OnTokio::new(queue.clone(), Arc::clone(&link), policy(&link, 2));
    let status = publisher.status();
    let next = publisher.pass(Instant::now()).await.unwrap();
    assert!(next.is_some(), "one relay doesn't give it back");
    assert_eq!(queue.oldest(10).unwrap().len(), 1);
    assert!(status.borrow().relays["ws://liar1"].error.as_ref().unwrap().contains("ws://liar1"));
    // Once it is held, that is enough, whoever brought it there.
    link.0[1].1.held.lock().unwrap().push(event);
    drain(&mut publisher).await;
    assert!(queue.oldest(10).unwrap().is_empty());
    assert_eq!(link.0[0].1.published.load(Ordering::SeqCst), 1, "what is held isn't sent again");
}

#[tokio::test]
async fn a_relay_that_refuses_is_reported_and_blocks_nothing() {
    let keys = Keys::generate();
    let events: Vec<_> = (0..200).map(|n| signed(&keys, 400, &n.to_string(), &[], n)).collect();
    let link = liars(vec![Liar::default(), Liar { refuses: true, ..Liar::default() }, Liar::default()]);
    let queue = outbox(&events);
    let mut publisher = OnTokio::new(queue.clone(), Arc::clone(&link), policy(&link, 2));
    let status = publisher.status();
    drain(&mut publisher).await;
    assert!(queue.oldest(10).unwrap().is_empty());
    assert!(status.borrow().relays["ws://liar1"].refuses.as_ref().unwrap().contains("refuses"));
    let held: Vec<Hash> = link.0[0].1.held.lock().unwrap().iter().map(ValidEvent::id).collect();
    assert_eq!(held, events.iter().map(ValidEvent::id).collect::<Vec<_>>(), "oldest first");
    assert!(status.borrow().relays["ws://liar0"].refuses.is_none());

    // With too few left it stays in the queue and is reported.
    let mut stuck = OnTokio::new(outbox(&events[..1]), Arc::clone(&link), policy(&link, 3));
    let status = stuck.status();
    let mut now = Instant::now();
    for _ in 0..8 {
        now = stuck.pass(now).await.unwrap().unwrap();
    }
    assert_eq!((status.borrow().waiting, status.borrow().stuck), (1, 1));
}

#[tokio::test]
async fn a_newer_snapshot_counts_in_place_of_an_old_one() {
    let keys = Keys::generate();
    let old = signed(&keys, 30078, "old", &[["d", "m"]], 1);
    let new = signed(&keys, 30078, "new", &[["d", "m"]], 2);
    let other = signed(&keys, 30078, "other machine", &[["d", "n"]], 2);
    let refusing = || Liar { refuses: true, ..Liar::default() };
    let link = liars(vec![refusing()]);
    link.0[0].1.held.lock().unwrap().extend([new.clone(), other]);
    let queue = outbox(&[old.clone(), new]);
    drain(&mut OnTokio::new(queue.clone(), Arc::clone(&link), policy(&link, 1))).await;
    assert!(queue.oldest(10).unwrap().is_empty());

    // An older one in the relay is not enough for the newer.
    let link = liars(vec![refusing()]);
    link.0[0].1.held.lock().unwrap().push(old.clone());
    let newer = signed(&keys, 30078, "newer", &[["d", "m"]], 3);
    let queue = outbox(&[newer]);
    let mut publisher = OnTokio::new(queue.clone(), link.clone(), policy(&link, 1));
    assert!(publisher.pass(Instant::now()).await.unwrap().is_some());
    assert_eq!(queue.oldest(10).unwrap().len(), 1);
}

#[tokio::test]
async fn custodians_take_turns() {
    let keys = Keys::generate();
    let events: Vec<_> = (0..30).map(|n| signed(&keys, 400, &n.to_string(), &[], n)).collect();
    let link = liars(vec![Liar::default(), Liar::default()]);
    let start = Instant::now();
    let mut custodians: Vec<_> = (0..4)
        .map(|place| {
            let policy = PublishPolicy::new(link.relays(), place, 4);
            (Some(start), OnTokio::new(outbox(&events), Arc::clone(&link), policy))
        })
        .collect();
    // Whose turn it isn't sends nothing, though nothing is there yet.
    let mut at_once = 0;
    for (next, publisher) in &mut custodians {
        let before = link.0[0].1.published.load(Ordering::SeqCst);
        link.0[0].1.held.lock().unwrap().clear();
        *next = publisher.pass(start).await.unwrap();
        at_once += usize::from(link.0[0].1.published.swap(before, Ordering::SeqCst) > before);
    }
    assert_eq!(at_once, 1);
    link.0.iter().for_each(|(_, relay)| {
        relay.published.store(0, Ordering::SeqCst);
        relay.held.lock().unwrap().clear();
    });
    // Whoever is due next goes next; the clock is ours.
    while let Some((next, publisher)) =
        custodians.iter_mut().filter(|(next, _)| next.is_some()).min_by_key(|(next, _)| *next)
    {
        *next = publisher.pass(next.unwrap()).await.unwrap();
    }
    for (_, relay) in &link.0 {
        assert_eq!(relay.published.load(Ordering::SeqCst), events.len(), "each event was sent once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_users_relay_to_the_groups() {
    let relays = [EmbeddedRelay::start(None, 0).await.unwrap(), EmbeddedRelay::start(None, 0).await.unwrap()];
    let link = Arc::new(link(&[relays[0].url(), relays[1].url()]).await);
    let group = Keys::generate().public_key();
    let mut intake = Intake::new(group);
    let (_change, wanted) = watch::channel(Interest { filters: intake.filters(), since: 0 });
    let mut receiver = link.subscribe(wanted);
    let now = Timestamp::now().as_secs();
    let tags = request::definition_tags(&group, "bet", None, Mode::Sequenced);
    let tags: Vec<[&str; 2]> = tags.iter().map(|tag| [tag[0].as_str(), tag[1].as_str()]).collect();
    let definition = signed(&Keys::generate(), kinds::DEFINITION, "{}", &tags, now);
    link.publish(relays[0].url(), &definition).await.unwrap();
    let received = tokio::time::timeout(DEADLINE, receiver.recv()).await.unwrap().unwrap();
    assert_eq!(received.relay.trim_end_matches('/'), relays[0].url().trim_end_matches('/'));
    let request = intake.take(received.event).unwrap();
    assert_eq!(request, definition);

    // It was on one relay; published with its head it is on both.
    let log = signed(&Keys::generate(), 400, "{}", &[], now);
    let queue = outbox(&[log.clone(), request]);
    let mut publisher = OnTokio::new(
        queue,
        Arc::clone(&link),
        PublishPolicy { enough: 2, ..PublishPolicy::new(link.relays(), 0, 1) },
    );
    publisher.drain().await.unwrap();
    for relay in &relays {
        let both = Filter::new().kinds([Kind::from_u16(400), Kind::from_u16(kinds::DEFINITION)]);
        let found = link.fetch(relay.url(), both, DEADLINE).await.unwrap();
        let found: HashSet<Hash> = found.iter().map(ValidEvent::id).collect();
        assert_eq!(found, HashSet::from([log.id(), definition.id()]));
    }
}
