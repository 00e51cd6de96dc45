//! A relay inside the program: for `dev up`, `demo` and tests. nostr-relay-builder with its limits set for a computer
//! instead of a timeline: its defaults are 60 events a minute and 500 events an answer, in silence.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use nostr_relay_builder::LocalRelay;
use nostr_relay_builder::builder::{RateLimit, RelayBuilder};

use super::embedded_store::{EventStore, Writer};

/// Events a minute and connection: more than custodians and a load test send together. (The library counts in whole
/// seconds since the last event, so a low limit would starve a steady sender.)
const NOTES_PER_MINUTE: u32 = 10_000_000;

/// Subscriptions a connection: `watch` on many machines.
const SUBSCRIPTIONS: usize = 10_000;

/// Events in one answer without a limit: a whole development cluster for `verify --relay`.
const ANSWER: usize = 1_000_000;

/// Free ports that are tried: the library looks for one and takes it later, and somebody else may be quicker.
const PORTS: usize = 16;

/// How long the end of all connections is waited for; one that writes to a reader who doesn't read can last longer.
const GOODBYE: Duration = Duration::from_secs(5);

/// Between two looks at whether they have ended: the library says nothing when they do.
const LOOK: Duration = Duration::from_millis(2);

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Its database.
    #[error("the embedded relay's database: {0}")]
    Store(#[from] concordat_store::StoreError),
    /// A stored event can't be read.
    #[error("the embedded relay's database holds an event that can't be read: {0}")]
    Stored(String),
    /// Its socket.
    #[error("the embedded relay can't listen: {0}")]
    Listen(String),
}

/// A running relay; it ends when it is dropped, but for connections that are busy at that moment (see
/// [`EmbeddedRelay::shutdown`]).
#[derive(Debug)]
pub struct EmbeddedRelay {
    relay: LocalRelay,
    url: String,
    writer: Writer,
    /// Held by the relay, its listener and each connection.
    store: Weak<EventStore>,
}

impl EmbeddedRelay {
    /// Starts a relay on loopback. It keeps its events in `directory`, or in memory if there is none; `port` 0 takes a
    /// free one.
    pub async fn start(directory: Option<&Path>, port: u16) -> Result<Self, EmbeddedError> {
        Self::start_at(directory, IpAddr::V4(Ipv4Addr::LOCALHOST), port).await
    }

    /// Starts a relay at an address.
    pub async fn start_at(directory: Option<&Path>, ip: IpAddr, port: u16) -> Result<Self, EmbeddedError> {
        let store = Arc::new(EventStore::open(directory).await?);
        let writer = store.writer();
        let mut tries = if port == 0 { PORTS } else { 1 };
        let relay = loop {
            let mut builder = RelayBuilder::default()
                .addr(ip)
                .database(store.clone())
                .rate_limit(RateLimit { max_reqs: SUBSCRIPTIONS, notes_per_minute: NOTES_PER_MINUTE })
                .default_filter_limit(ANSWER);
            if port != 0 {
                builder = builder.port(port);
            }
            let relay = LocalRelay::new(builder);
            tries -= 1;
            match relay.run().await {
                Ok(()) => break relay,
                Err(_) if tries > 0 => {}
                Err(error) => return Err(EmbeddedError::Listen(error.to_string())),
            }
        };
        let url = relay.url().await.to_string();
        Ok(EmbeddedRelay { relay, url, writer, store: Arc::downgrade(&store) })
    }

    /// Its URL, `ws://...`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends all connections and stops listening, and returns when that is so: then its address is free, and its directory once
    /// what came is written.
    ///
    /// The library wakes those who wait at that moment and nobody else: a connection that was busy, or the listener, would
    /// go on for ever. So they are told until only the relay itself is left.
    pub async fn shutdown(&self) {
        self.writer.close();
        let ended = async {
            loop {
                self.relay.shutdown();
                if self.store.strong_count() <= 1 {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(GOODBYE, ended).await.is_err() {
            tracing::warn!(url = self.url, "a connection to the embedded relay doesn't end");
        }
    }
}
