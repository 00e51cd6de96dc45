//! The link to real relays, over nostr-sdk.
//!
//! What the library does: websockets, reconnecting, pings, signatures. What it can't do is done here: events are taken
//! at its admission hook, where a slow reader slows the relay down, instead of from its broadcast channel, which drops
//! what comes too fast; subscriptions are our own, because it repeats an old one without thinking of what was missed;
//! and stored events are fetched in pages, because a relay's default limit is silent.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use concordat_events::limits::{EVENT_BYTES, EVENT_TAGS};
use concordat_events::{Hash, ValidEvent, quote};
use nostr::message::MachineReadablePrefix;
use nostr::util::BoxedFuture;
use nostr::{ClientMessage, Event, Filter, RelayMessage, RelayUrl, SubscriptionId, Timestamp};
use nostr_sdk::pool::RelayLimits;
use nostr_sdk::prelude::{
    AdmitPolicy, AdmitStatus, PolicyError, RelayNotification, RelayOptions, RelayStatus,
};
use nostr_sdk::{Client, ClientOptions, Relay};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::{Interest, Received, RelayError, RelayLink, Seen};

/// Events that wait for a slow reader; then the relays are slowed down.
const QUEUE: usize = 1_024;

/// Ids that are remembered, so that each event is delivered once.
const SEEN: usize = 200_000;

/// Stored events asked for in one page: what relays commonly give at most.
const PAGE: usize = 500;

/// Pages fetched after one connection. A relay that has more is asked again at the next sweep.
const PAGES: usize = 200;

/// Events taken in one answer, whatever the relay sends.
const ANSWER_EVENTS: usize = 5_000;

/// Bytes taken in one answer.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// How far back a relay is asked after a reconnection, on top of the time it was gone: clients' clocks are off, and
/// events travel between relays.
const OVERLAP_S: u64 = 3_600;

/// How often a relay is asked for what its live subscription may have lost. Relays drop events for slow readers
/// silently (the embedded one does), and forget subscriptions.
const SWEEP: Duration = Duration::from_secs(300);

/// Pause before a subscription that a relay closed is made again.
const RESUBSCRIBE: Duration = Duration::from_secs(5);

/// Speed of a link; nothing here decides validity.
#[derive(Clone, Copy, Debug)]
pub struct LinkOptions {
    /// Wait for an answer.
    pub deadline: Duration,
    /// Pause before connecting again.
    pub retry: Duration,
    /// Pause between two looks for what got lost.
    pub sweep: Duration,
}

impl Default for LinkOptions {
    fn default() -> Self {
        LinkOptions { deadline: Duration::from_secs(10), retry: Duration::from_secs(5), sweep: SWEEP }
    }
}

/// Where the events of one subscription go.
enum Sink {
    /// To the reader, once each.
    Live(mpsc::Sender<Received>),
    /// Into an answer.
    Answer { events: Vec<ValidEvent>, ids: HashSet<Hash>, bytes: usize },
}

struct Shared {
    sinks: Mutex<HashMap<SubscriptionId, Sink>>,
    seen: Mutex<Seen>,
    next: AtomicU64,
}

/// The admission hook: every event that the library has verified, before it does anything else with it.
struct Hook(Arc<Shared>);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

impl AdmitPolicy for Hook {
    fn admit_event<'a>(
        &'a self,
        relay_url: &'a RelayUrl,
        subscription_id: &'a SubscriptionId,
        event: &'a Event,
    ) -> BoxedFuture<'a, Result<AdmitStatus, PolicyError>> {
        Box::pin(async move {
            // Checked whole again: sizes and tags are ours, and no library stands between a relay and the log.
            if let Ok(event) = ValidEvent::check(event.clone()) {
                self.0.deliver(relay_url.as_str(), subscription_id, event).await;
            }
            // Never into the library's own channels and caches.
            Ok(AdmitStatus::Rejected { reason: None })
        })
    }
}

impl Shared {
    fn sinks(&self) -> MutexGuard<'_, HashMap<SubscriptionId, Sink>> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an event as delivered; false if it was before.
    fn first(&self, id: Hash) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(id)
    }

    fn id(&self, name: &str) -> SubscriptionId {
        SubscriptionId::new(format!("{name}{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    async fn deliver(&self, relay: &str, subscription: &SubscriptionId, event: ValidEvent) {
        let sender = match self.sinks().get_mut(subscription) {
            None => return,
            Some(Sink::Answer { events, ids, bytes }) => {
                *bytes = bytes.saturating_add(event.json().len());
                if events.len() < ANSWER_EVENTS && *bytes <= ANSWER_BYTES && ids.insert(event.id()) {
                    events.push(event);
                }
                return;
            }
            Some(Sink::Live(sender)) => sender.clone(),
        };
        self.pass_on(relay, event, &sender).await;
    }

    /// False if nobody reads any more.
    async fn pass_on(&self, relay: &str, event: ValidEvent, to: &mpsc::Sender<Received>) -> bool {
        if !self.first(event.id()) {
            return !to.is_closed();
        }
        to.send(Received { relay: relay.to_owned(), event }).await.is_ok()
    }
}

/// See the module's header.
pub struct NostrLink {
    client: Client,
    relays: Vec<(String, Relay)>,
    shared: Arc<Shared>,
    options: LinkOptions,
}

impl NostrLink {
    /// Connects to relays in the background. A URL that isn't one is an error; a relay that can't be reached isn't.
    pub async fn connect(urls: &[String], options: LinkOptions) -> Result<Self, RelayError> {
        let shared = Arc::new(Shared {
            sinks: Mutex::new(HashMap::new()),
            seen: Mutex::new(Seen::new(SEEN)),
            next: AtomicU64::new(0),
        });
        let client = Client::builder()
            .admit_policy(Hook(Arc::clone(&shared)))
            .opts(ClientOptions::new().automatic_authentication(false))
            .build();
        let mut limits = RelayLimits::default();
        limits.events.max_size = u32::try_from(EVENT_BYTES).ok();
        limits.events.max_num_tags = u16::try_from(EVENT_TAGS).ok();
        // A frame is an event and a few bytes around it; but a relay may write one byte of it as `\u00xx`.
        limits.messages.max_size = u32::try_from(6 * EVENT_BYTES).ok();
        let mut relays = Vec::new();
        for url in urls {
            let relay_options = RelayOptions::new()
                .limits(limits.clone())
                .reconnect(true)
                .retry_interval(options.retry)
                .adjust_retry_interval(false);
            let unknown = |_| RelayError::Unknown { relay: url.clone() };
            client.pool().add_relay(url.as_str(), relay_options).await.map_err(unknown)?;
            let relay = client.pool().relay(url.as_str()).await.map_err(unknown)?;
            relays.push((url.clone(), relay));
        }
        client.connect().await;
        Ok(NostrLink { client, relays, shared, options })
    }

    /// Closes all connections; readers get nothing more.
    pub async fn shutdown(&self) {
        self.shared.sinks().clear();
        self.client.shutdown().await;
    }

    /// Waits until a relay is connected, at most this long; false if it isn't then.
    pub async fn connected_within(&self, relay: &str, deadline: Duration) -> bool {
        match self.relay(relay) {
            Ok(relay) => {
                relay.wait_for_connection(deadline).await;
                relay.is_connected()
            }
            Err(_) => false,
        }
    }

    /// The relays that are connected now.
    pub fn connected(&self) -> Vec<String> {
        let connected = self.relays.iter().filter(|(_, relay)| relay.is_connected());
        connected.map(|(url, _)| url.clone()).collect()
    }

    fn relay(&self, url: &str) -> Result<&Relay, RelayError> {
        let found = self.relays.iter().find(|(known, _)| known == url).map(|(_, relay)| relay);
        found.ok_or_else(|| RelayError::Unknown { relay: url.to_owned() })
    }
}

impl RelayLink for NostrLink {
    fn relays(&self) -> Vec<String> {
        self.relays.iter().map(|(url, _)| url.clone()).collect()
    }

    fn subscribe(&self, interest: watch::Receiver<Interest>) -> mpsc::Receiver<Received> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        for (url, relay) in &self.relays {
            let reader = Reader {
                url: url.clone(),
                relay: relay.clone(),
                shared: Arc::clone(&self.shared),
                options: self.options,
                interest: interest.clone(),
                to: sender.clone(),
            };
            tokio::spawn(reader.run());
        }
        receiver
    }

    async fn publish(&self, relay: &str, event: &ValidEvent) -> Result<(), RelayError> {
        let handle = self.relay(relay)?;
        let within = self.options.deadline;
        match timeout(within, handle.send_event(event.event())).await {
            Err(_) => Err(RelayError::Timeout { relay: relay.to_owned(), within }),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(nostr_sdk::pool::relay::Error::RelayMessage(message))) => Err(refusal(relay, &message)),
            Ok(Err(error)) => Err(unreachable(relay, &error.to_string())),
        }
    }

    async fn fetch(
        &self,
        relay: &str,
        filter: Filter,
        deadline: Duration,
    ) -> Result<Vec<ValidEvent>, RelayError> {
        fetch(&self.shared, relay, self.relay(relay)?, filter, deadline).await
    }
}

/// Takes the sink of an answer away again, also when its reader gives up waiting.
struct Registered<'a>(&'a Shared, SubscriptionId);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.sinks().remove(&self.1);
    }
}

async fn fetch(
    shared: &Shared,
    url: &str,
    relay: &Relay,
    filter: Filter,
    deadline: Duration,
) -> Result<Vec<ValidEvent>, RelayError> {
    let id = shared.id("q");
    let sink = Sink::Answer { events: Vec::new(), ids: HashSet::new(), bytes: 0 };
    shared.sinks().insert(id.clone(), sink);
    let registered = Registered(shared, id.clone());
    // Listening before asking: an answer can come at once.
    let mut notifications = relay.notifications();
    let ask = || {
        relay
            .send_msg(ClientMessage::req(id.clone(), vec![filter.clone()]))
            .map_err(|error| unreachable(url, &error.to_string()))
    };
    ask()?;
    let answered = timeout(deadline, end_of(&mut notifications, &id, url, ask)).await;
    let _ = relay.send_msg(ClientMessage::close(id.clone()));
    match answered {
        Err(_) => return Err(RelayError::Timeout { relay: url.to_owned(), within: deadline }),
        Ok(result) => result?,
    }
    let taken = shared.sinks().remove(&registered.1);
    let mut events = match taken {
        Some(Sink::Answer { events, .. }) => events,
        _ => Vec::new(),
    };
    // A relay may send what wasn't asked for.
    events.retain(|event| filter.match_event(event.event(), nostr::filter::MatchEventOptions::new()));
    Ok(events)
}

/// Waits until a relay has said all it has for a subscription.
async fn end_of(
    notifications: &mut broadcast::Receiver<RelayNotification>,
    id: &SubscriptionId,
    url: &str,
    ask: impl Fn() -> Result<(), RelayError>,
) -> Result<(), RelayError> {
    loop {
        match notifications.recv().await {
            Ok(RelayNotification::Message { message }) => match message {
                RelayMessage::EndOfStoredEvents(ended) if *ended == *id => return Ok(()),
                RelayMessage::Closed { subscription_id, message } if *subscription_id == *id => {
                    return if message.is_empty() { Ok(()) } else { Err(refusal(url, &message)) };
                }
                _ => {}
            },
            // Another connection than the one that was asked on, or word of that one: asking twice does no harm.
            Ok(RelayNotification::RelayStatus { status: RelayStatus::Connected }) => ask()?,
            Ok(RelayNotification::RelayStatus { .. }) => {
                return Err(unreachable(url, "the connection ended"));
            }
            Ok(RelayNotification::Shutdown) | Err(broadcast::error::RecvError::Closed) => {
                return Err(unreachable(url, "shut down"));
            }
            // Only events could be that many, and they don't come this way; what was lost is waited out.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
        }
    }
}

/// Keeps one relay's part of a subscription alive.
struct Reader {
    url: String,
    relay: Relay,
    shared: Arc<Shared>,
    options: LinkOptions,
    interest: watch::Receiver<Interest>,
    to: mpsc::Sender<Received>,
}

/// Why a reader stops waiting.
enum Wake {
    /// Nobody reads any more.
    End,
    /// Another interest.
    Changed,
    /// A new connection, a closed subscription, or time to look for what got lost.
    Again,
}

impl Reader {
    async fn run(mut self) {
        // Before anything else, so that no change of status is missed.
        let mut notifications = self.relay.notifications();
        let live = self.shared.id("live");
        self.shared.sinks().insert(live.clone(), Sink::Live(self.to.clone()));
        // All that this relay had before this second was taken.
        let mut known_until: Option<u64> = None;
        while !self.to.is_closed() {
            let interest = self.interest.borrow_and_update().clone();
            let began = Timestamp::now().as_secs();
            let since = known_until.map_or(0, |until| until.saturating_sub(OVERLAP_S)).max(interest.since);
            let pause = match self.listen(&live, &interest, since).await {
                Ok(()) => {
                    known_until = Some(began);
                    self.options.sweep
                }
                Err(error) => {
                    tracing::debug!(%error, "relay subscription interrupted");
                    RESUBSCRIBE
                }
            };
            match self.wait(&mut notifications, &live, pause).await {
                Wake::End => break,
                Wake::Changed => known_until = None,
                Wake::Again => {}
            }
        }
        self.shared.sinks().remove(&live);
        let _ = self.relay.send_msg(ClientMessage::close(live));
    }

    /// Subscribes to what will come, then fetches what came before: in this order nothing falls between.
    async fn listen(&self, live: &SubscriptionId, interest: &Interest, since: u64) -> Result<(), RelayError> {
        if !self.relay.is_connected() {
            return Err(unreachable(&self.url, "not connected yet"));
        }
        if interest.filters.is_empty() {
            return Ok(());
        }
        // Without `since`: a new event may carry an old time. One stored event a filter is the least all relays accept.
        let filters = interest.filters.iter().map(|filter| filter.clone().limit(1)).collect::<Vec<_>>();
        self.relay
            .send_msg(ClientMessage::req(live.clone(), filters))
            .map_err(|error| unreachable(&self.url, &error.to_string()))?;
        for filter in &interest.filters {
            self.catch_up(filter, since).await?;
        }
        Ok(())
    }

    /// Fetches stored events page by page, newest first, until a relay has no more.
    async fn catch_up(&self, filter: &Filter, since: u64) -> Result<(), RelayError> {
        let since = filter.since.map_or(since, |own| own.as_secs().max(since));
        let mut ids = HashSet::new();
        let mut until = filter.until;
        let mut empty = 0;
        for _ in 0..PAGES {
            let mut page = filter.clone().since(Timestamp::from_secs(since)).limit(PAGE);
            page.until = until;
            let mut events = fetch(&self.shared, &self.url, &self.relay, page, self.options.deadline).await?;
            events.sort_by_key(ValidEvent::created_at);
            let Some(oldest) = events.first().map(ValidEvent::created_at) else { return Ok(()) };
            events.retain(|event| ids.insert(event.id()));
            // The oldest second is asked for again, because a page can end within it; if that brought nothing new, the
            // next page ends before it.
            empty = if events.is_empty() { empty + 1 } else { 0 };
            if empty > 1 || (empty > 0 && oldest == 0) {
                return Ok(());
            }
            until = Some(Timestamp::from_secs(oldest.saturating_sub(empty)));
            for event in events {
                if !self.shared.pass_on(&self.url, event, &self.to).await {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn wait(
        &mut self,
        notifications: &mut broadcast::Receiver<RelayNotification>,
        live: &SubscriptionId,
        pause: Duration,
    ) -> Wake {
        let until = sleep(pause);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = self.to.closed() => return Wake::End,
                () = &mut until => return Wake::Again,
                changed = self.interest.changed() => {
                    // The one who can change it is gone; what is subscribed stays.
                    return if changed.is_ok() { Wake::Changed } else { self.only_closed(until).await };
                }
                notification = notifications.recv() => match notification {
                    Ok(RelayNotification::RelayStatus { status: RelayStatus::Connected })
                    | Err(broadcast::error::RecvError::Lagged(_)) => return Wake::Again,
                    Ok(RelayNotification::Message { message: RelayMessage::Closed { subscription_id, .. } })
                        if *subscription_id == *live =>
                    {
                        sleep(RESUBSCRIBE).await;
                        return Wake::Again;
                    }
                    Ok(RelayNotification::Shutdown) | Err(broadcast::error::RecvError::Closed) => return Wake::End,
                    Ok(_) => {}
                },
            }
        }
    }

    async fn only_closed(&self, until: std::pin::Pin<&mut tokio::time::Sleep>) -> Wake {
        tokio::select! {
            () = self.to.closed() => Wake::End,
            () = until => Wake::Again,
        }
    }
}

fn unreachable(relay: &str, message: &str) -> RelayError {
    RelayError::Unreachable { relay: relay.to_owned(), message: quote(message).into_owned() }
}

/// What a relay's "no" means (NIP-01's machine-readable prefixes).
fn refusal(relay: &str, message: &str) -> RelayError {
    let (relay, text) = (relay.to_owned(), quote(message).into_owned());
    match MachineReadablePrefix::parse(message) {
        Some(
            MachineReadablePrefix::Blocked
            | MachineReadablePrefix::Invalid
            | MachineReadablePrefix::Pow
            | MachineReadablePrefix::Restricted
            | MachineReadablePrefix::Unsupported
            | MachineReadablePrefix::AuthRequired,
        ) => RelayError::Refused { relay, message: text },
        _ => RelayError::Later { relay, message: text },
    }
}
