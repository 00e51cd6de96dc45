//! The way out as a whole, in simulated time: relays that lose, refuse, are down and come back; a disk whose power goes
//! before and after every write and every flush.

use std::future::Future;
use std::sync::atomic::AtomicU64;

use openraft_rt_sim::{SimInstant, SimRuntime};

use super::super::shipping::Parcel;
use super::scripted::{Mood, Scripted};
use super::*;
use crate::order::{FlushFailed, Flusher, InlineFlusher};

/// A disk that takes its time: whatever else is awake runs between a write and its flush.
struct SlowFlusher {
    flusher: InlineFlusher<Arc<MemoryStore>>,
    takes: Duration,
}

impl Flusher for SlowFlusher {
    async fn flush(&self) -> Result<(), FlushFailed> {
        SimRuntime::sleep(self.takes).await;
        self.flusher.flush().await
    }
}

fn slow(store: &Arc<MemoryStore>, takes: Duration) -> SlowFlusher {
    SlowFlusher { flusher: InlineFlusher::new(store.clone()), takes }
}

type Way<R> = Outward<SimRuntime, MemoryStore, SlowFlusher, Scripted, R>;

fn policy_of(relays: usize, enough: usize) -> PublishPolicy {
    let relays = (0..relays).map(Scripted::url).collect();
    PublishPolicy { enough, deadline: RELAY_DEADLINE, ..PublishPolicy::new(relays, 0, 1) }
}

const RELAY_DEADLINE: Duration = Duration::from_secs(10);

/// Heads of so many events each: a log event, and two more.
fn parcels(heads: u64) -> Vec<Parcel> {
    let keys = Keys::generate();
    let parcel = |height: u64| Parcel {
        height,
        events: (0..3).map(|n| signed(&keys, 400, &format!("{height} {n}"), &[], height)).collect(),
    };
    (0..heads).map(parcel).collect()
}

/// Runs it while a way out runs; whichever ends first ends both.
async fn beside<T>(
    run: impl Future<Output = StoreError>,
    story: impl Future<Output = T>,
) -> Result<T, StoreError> {
    let (run, story) = (std::pin::pin!(run), std::pin::pin!(story));
    match futures::future::select(story, run).await {
        futures::future::Either::Left((told, _)) => Ok(told),
        futures::future::Either::Right((error, _)) => Err(error),
    }
}

/// Nothing waits to be published, and so many entries were looked at before.
async fn published(status: &mut watch::Receiver<OutboxStatus>, store: &MemoryStore, heads: u64) {
    let shipped = || store.get(b"n/outbox").unwrap().is_some_and(|at| at == (heads - 1).to_be_bytes());
    let empty = || concordat_store::scan_prefix(store, outbox::PREFIX, 1).is_ok_and(|left| left.is_empty());
    while !(shipped() && empty()) {
        status.changed().await.unwrap();
    }
}

/// What bad relays do to a custodian that certifies two heads a second: all is published in the end, each run alike.
#[test]
fn all_is_published_whatever_the_relays_do() {
    let parcels = parcels(60);
    let story = |parcels: Vec<Parcel>| async move {
        let store = Arc::new(MemoryStore::new());
        let link = Arc::new(Scripted::new(4, RELAY_DEADLINE, Box::new(|_| ())));
        let script = [
            (0, 0, Mood::Loses),
            (0, 1, Mood::Refuses),
            (0, 2, Mood::Down),
            (10, 3, Mood::Down),
            (15, 2, Mood::Good),
            (18, 3, Mood::Silent),
            (25, 0, Mood::Down),
            (60, 3, Mood::Good),
            (200, 0, Mood::Good),
        ];
        let scripted = link.clone();
        let task = SimRuntime::spawn(async move {
            let start = SimInstant::now();
            for (at, relay, mood) in script {
                SimRuntime::sleep_until(start + Duration::from_secs(at)).await;
                scripted.set(relay, mood);
            }
        });
        let flusher = slow(&store, Duration::from_millis(3));
        let (outward, port) = Way::<Law>::new(store.clone(), flusher, link.clone(), policy_of(4, 3));
        outward.catch_up_parcels::<StoreError>(None, |_| Ok(None)).await.unwrap();
        let mut status = outward.status();
        let certifying = async {
            for parcel in &parcels {
                SimRuntime::sleep(Duration::from_millis(500)).await;
                port.send(parcel.clone());
            }
            published(&mut status, &store, parcels.len() as u64).await;
        };
        beside(outward.run(), certifying).await.unwrap();
        task.await.unwrap();
        for event in parcels.iter().flat_map(|parcel| &parcel.events) {
            assert!(link.holding(event.id()) >= 3);
        }
        assert!(status.borrow().relays["ws://relay1"].refuses.is_some(), "an operator is told");
    };
    for seed in 0..3 {
        let run = || {
            let mut rt = SimRuntime::with_seed(seed);
            rt.record_trace(true);
            rt.block_on(story(parcels.clone()));
            rt.take_trace()
        };
        let (first, second) = (run(), run());
        let differs = first.iter().zip(&second).position(|(a, b)| a != b);
        assert_eq!((differs, first.len()), (None, second.len()), "seed {seed}");
        assert!(first.len() > 1_000);
    }
}

/// One relay that takes connections and answers nothing costs the others nothing but a rest now and then.
#[test]
fn a_silent_relay_holds_nobody_up() {
    let parcels = parcels(200);
    SimRuntime::with_seed(1).block_on(async {
        let store = Arc::new(MemoryStore::new());
        let link = Arc::new(Scripted::new(3, RELAY_DEADLINE, Box::new(|_| ())));
        link.set(1, Mood::Silent);
        let flusher = slow(&store, Duration::ZERO);
        let (outward, port) = Way::<Law>::new(store.clone(), flusher, link.clone(), policy_of(3, 2));
        outward.catch_up_parcels::<StoreError>(None, |_| Ok(None)).await.unwrap();
        let mut status = outward.status();
        let start = SimInstant::now();
        parcels.iter().for_each(|parcel| port.send(parcel.clone()));
        beside(outward.run(), published(&mut status, &store, 200)).await.unwrap();
        // 600 events are 10 rounds, each of which would have waited for the silent one.
        let taken = SimInstant::now() - start;
        assert!(taken < 2 * RELAY_DEADLINE, "{taken:?}");
        assert_eq!(link.most_sent(), 1, "what is held isn't sent again");
    });
}

/// Runs `heads` certified heads through a store that stops in front of operation `stop`, with a publisher that is awake all
/// the time. Returns the store, the heads certified by then, and how many events left before they were durable.
async fn until_the_power_goes<R: ShippingRules>(
    parcels: &[Parcel],
    stop: Option<u64>,
) -> (Arc<MemoryStore>, usize, u64, Arc<Scripted>) {
    let store = Arc::new(MemoryStore::new());
    if let Some(stop) = stop {
        store.stop_at(stop);
    }
    let early = Arc::new(AtomicU64::new(0));
    let (disk, counted) = (store.clone(), early.clone());
    let link = Arc::new(Scripted::new(
        2,
        RELAY_DEADLINE,
        Box::new(move |event: &ValidEvent| {
            let image = disk.snapshot();
            let durable = image
                .entries()
                .any(|(key, value)| key.starts_with(outbox::PREFIX) && value == event.json().as_bytes());
            // What was removed unflushed may still be there, never the other way round.
            counted.fetch_add(u64::from(!durable), Ordering::SeqCst);
        }),
    ));
    let flusher = slow(&store, Duration::from_millis(850));
    let (outward, port) = Way::<R>::new(store.clone(), flusher, link.clone(), policy_of(2, 2));
    let mut status = outward.status();
    let mut certified = 0;
    let story = async {
        outward.catch_up_parcels::<StoreError>(None, |_| Ok(None)).await?;
        let certifying = async {
            for parcel in parcels {
                // Two at a time share a flush, and the publisher's retries fall between writes and flushes.
                if parcel.height % 2 == 0 {
                    SimRuntime::sleep(Duration::from_millis(900)).await;
                }
                port.send(parcel.clone());
                certified += 1;
            }
            published(&mut status, &store, parcels.len() as u64).await;
        };
        // A relay that loses what it gets first keeps the publisher's timers going.
        link.set(0, Mood::Loses);
        beside(outward.run(), certifying).await
    };
    let ended: Result<(), StoreError> = story.await;
    assert_eq!(ended.is_ok(), stop.is_none());
    (store, certified, early.load(Ordering::SeqCst), link)
}

/// Everything that was certified before the power went is published by the next run, whatever of the last writes is left.
async fn recovers<R: ShippingRules>(left: MemoryStore, certified: &[Parcel], link: &Arc<Scripted>) -> bool {
    let store = Arc::new(left);
    let flusher = slow(&store, Duration::from_millis(3));
    let (outward, _port) = Way::<R>::new(store.clone(), flusher, link.clone(), policy_of(2, 2));
    let tip = certified.last().map(|parcel| parcel.height);
    let found = |height: u64| Ok::<_, StoreError>(certified.get(height as usize).cloned());
    outward.catch_up_parcels(tip, found).await.unwrap();
    let mut status = outward.status();
    // Until everything is there; a head that nobody ships again leaves nothing to wait for.
    let idle = async {
        status.changed().await.unwrap();
        while status.borrow_and_update().waiting > 0 {
            status.changed().await.unwrap();
        }
    };
    beside(outward.run(), idle).await.unwrap();
    certified.iter().flat_map(|parcel| &parcel.events).all(|event| link.holding(event.id()) == 2)
}

/// Crashes in front of every write and every flush of the way out, with every possible remainder on the disk. Returns how
/// many events left before they were durable, and how many crashes lost something.
fn crashes<R: ShippingRules>() -> (u64, usize) {
    let parcels = parcels(6);
    let mut rt = SimRuntime::with_seed(7);
    let (whole, _, mut early, _) = rt.block_on(until_the_power_goes::<R>(&parcels, None));
    let mut losses = 0;
    for stop in 0..whole.ops() {
        // Each remainder is a run of its own: what relays hold must not leak from one to the next.
        for kept in 0.. {
            let mut rt = SimRuntime::with_seed(7);
            let (enough, lost, sent) = rt.block_on(async {
                let (store, certified, sent, link) = until_the_power_goes::<R>(&parcels, Some(stop)).await;
                let enough = kept >= store.unflushed();
                let left = store.crash_keeping(kept);
                let all = recovers::<R>(left, &parcels[..certified], &link).await;
                (enough, !all, sent)
            });
            losses += usize::from(lost);
            early += sent;
            if enough {
                break;
            }
        }
    }
    assert!(whole.ops() > 12, "there is a sweep at all");
    (early, losses)
}

#[test]
fn the_power_may_go_before_and_after_every_write_and_flush() {
    assert_eq!(crashes::<Law>(), (0, 0));
}

/// The mutant of PROTOCOL 7's row for the outbox.
enum WakesFirst {}

impl ShippingRules for WakesFirst {
    const FLUSH_BEFORE_RELEASE: bool = false;
}

#[test]
fn an_outbox_that_wakes_before_it_flushes_is_seen() {
    let (early, _) = crashes::<WakesFirst>();
    assert!(early > 0);
}

/// The cursor is written before the entries, in a batch of its own.
enum CursorFirst {}

impl ShippingRules for CursorFirst {
    const CURSOR_WITH_ENTRIES: bool = false;
}

#[test]
fn a_cursor_that_runs_ahead_of_its_entries_is_seen() {
    let (_, losses) = crashes::<CursorFirst>();
    assert!(losses > 0);
}

/// A write that fails ends the way out, and with it the custodian: nothing is published from then on.
#[test]
fn a_failed_flush_ends_it() {
    let parcels = parcels(2);
    SimRuntime::with_seed(1).block_on(async {
        let store = Arc::new(MemoryStore::new());
        let link = Arc::new(Scripted::new(1, RELAY_DEADLINE, Box::new(|_| ())));
        let flusher = slow(&store, Duration::from_millis(3));
        let (outward, port) = Way::<Law>::new(store.clone(), flusher, link.clone(), policy_of(1, 1));
        outward.catch_up_parcels::<StoreError>(None, |_| Ok(None)).await.unwrap();
        store.fail_next_flush();
        parcels.iter().for_each(|parcel| port.send(parcel.clone()));
        let error = outward.run().await;
        assert!(matches!(error, StoreError::Engine { action: "flush", .. }), "{error}");
        assert_eq!(link.most_sent(), 0);
    });
}

/// A process that ended without a power loss: what it wrote last can be read, and isn't durable.
#[test]
fn what_an_earlier_run_left_is_flushed_before_it_is_published() {
    let parcels = parcels(1);
    SimRuntime::with_seed(1).block_on(async {
        let store = Arc::new(MemoryStore::new());
        let mut written = Outbox::<MemoryStore>::enqueue(0, &parcels[0].events);
        written.put(*b"n/outbox", 0_u64.to_be_bytes());
        store.apply(written).unwrap();
        let early = Arc::new(AtomicU64::new(0));
        let (disk, counted) = (store.clone(), early.clone());
        let on_publish = move |_: &ValidEvent| {
            counted.fetch_add(u64::from(disk.snapshot().size() == 0), Ordering::SeqCst);
        };
        let link = Arc::new(Scripted::new(1, RELAY_DEADLINE, Box::new(on_publish)));
        let flusher = slow(&store, Duration::from_millis(3));
        let (outward, _port) = Way::<Law>::new(store.clone(), flusher, link.clone(), policy_of(1, 1));
        outward.catch_up_parcels::<StoreError>(Some(0), |_| Ok(None)).await.unwrap();
        let mut status = outward.status();
        beside(outward.run(), published(&mut status, &store, 1)).await.unwrap();
        assert_eq!((early.load(Ordering::SeqCst), link.most_sent()), (0, 1));
    });
}
