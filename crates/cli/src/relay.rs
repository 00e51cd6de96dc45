//! A relay inside this process, for the demonstration and for local clusters.
//!
//! Promises: no rate limit that a cluster under load would meet; with a journal, what it took is there again after a restart.
//! Refuses: to be a relay for strangers: it listens on loopback unless told otherwise, and its journal isn't flushed to the disk.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use concordat_events::ValidEvent;
use nostr::util::BoxedFuture;
use nostr::{Event, Filter, JsonUtil};
use nostr_relay_builder::builder::{PolicyResult, RateLimit, WritePolicy};
use nostr_relay_builder::prelude::{
    LocalRelay, MemoryDatabase, MemoryDatabaseOptions, NostrDatabase, RelayBuilder,
};

use crate::failure::Failure;
use crate::limits::{RELAY_EVENTS, RELAY_NOTES_PER_MINUTE, RELAY_SUBSCRIPTIONS};

/// A running relay; it stops when this is dropped.
pub struct EmbeddedRelay {
    relay: LocalRelay,
    database: MemoryDatabase,
    url: String,
}

impl EmbeddedRelay {
    /// Starts a relay at `address` (port 0 for any). With a journal, the events in it are there from the start and new ones
    /// are added to it.
    pub async fn start(address: SocketAddr, journal: Option<&Path>) -> Result<Self, Failure> {
        let options = MemoryDatabaseOptions { events: true, max_events: Some(RELAY_EVENTS) };
        let database = MemoryDatabase::with_opts(options);
        let limit = RateLimit { max_reqs: RELAY_SUBSCRIPTIONS, notes_per_minute: RELAY_NOTES_PER_MINUTE };
        let mut builder =
            RelayBuilder::default().addr(address.ip()).database(database.clone()).rate_limit(limit);
        if address.port() != 0 {
            builder = builder.port(address.port());
        }
        if let Some(path) = journal {
            load(&database, path).await?;
            builder = builder.write_policy(Journal::open(path)?);
        }
        let relay = LocalRelay::new(builder);
        relay.run().await.map_err(|error| {
            Failure::not_ready(
                "relay_not_started",
                format!("the embedded relay can't listen on {address}: {error}"),
                "another process may have the port",
            )
        })?;
        let url = relay.url().await.to_string();
        Ok(EmbeddedRelay { relay, database, url })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Every event that it holds, oldest first.
    pub async fn events(&self) -> Result<Vec<Event>, Failure> {
        let found = self.database.query(Filter::new()).await.map_err(|error| {
            Failure::not_ready("relay_database", format!("the embedded relay's events: {error}"), "")
        })?;
        let mut events: Vec<Event> = found.into_iter().collect();
        events.sort_by_key(|event| (event.created_at, event.id));
        Ok(events)
    }
}

impl Drop for EmbeddedRelay {
    fn drop(&mut self) {
        self.relay.shutdown();
    }
}

/// What the relay took, one event a line.
struct Journal(Mutex<File>);

impl Journal {
    fn open(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|error| unusable(path, &error))?;
        Ok(Journal(Mutex::new(file)))
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}

impl WritePolicy for Journal {
    fn admit_event<'a>(&'a self, event: &'a Event, _: &'a SocketAddr) -> BoxedFuture<'a, PolicyResult> {
        Box::pin(async move {
            let line = format!("{}\n", event.as_json());
            let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match file.write_all(line.as_bytes()) {
                Ok(()) => PolicyResult::Accept,
                Err(error) => PolicyResult::Reject(format!("error: the journal can't be written: {error}")),
            }
        })
    }
}

/// Puts a journal's events into the database. A line that was cut off by a crash, or isn't a valid event, is left out.
async fn load(database: &MemoryDatabase, path: &Path) -> Result<(), Failure> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unusable(path, &error)),
    };
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(|error| unusable(path, &error))?;
        if let Ok(event) = ValidEvent::parse(&line) {
            database.save_event(event.event()).await.map_err(|error| {
                Failure::not_ready("relay_database", format!("the embedded relay's events: {error}"), "")
            })?;
        }
    }
    Ok(())
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::not_ready(
        "relay_journal",
        format!("{}: {error}", path.display()),
        "check the directory's permissions",
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use nostr::{EventBuilder, Keys, Kind};

    use super::*;
    use crate::user::relays::Relays;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[tokio::test]
    async fn what_it_took_survives_a_restart_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.jsonl");
        let keys = Keys::generate();
        let event = EventBuilder::new(Kind::from_u16(400), "{}").sign_with_keys(&keys).unwrap();
        let relay = EmbeddedRelay::start(ANY, Some(&path)).await.unwrap();
        let urls = [relay.url().to_owned()];
        let connected = Relays::connect(&urls, Duration::from_secs(10)).await.unwrap();
        connected.publish(&event).await.unwrap();
        connected.close().await;
        assert_eq!(relay.events().await.unwrap(), std::slice::from_ref(&event));
        drop(relay);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"id\":\"cut o").unwrap();
        let again = EmbeddedRelay::start(ANY, Some(&path)).await.unwrap();
        assert_eq!(again.events().await.unwrap(), [event]);
    }
}
