//! A connection to a group's relays.
//!
//! Promises: what it hands out has been checked whole (id and signature); publishing means that at least one relay said OK;
//! errors name each relay and what it said. Refuses: to go on without any relay.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use concordat_events::{Hash, ValidEvent, quote};
use nostr::message::RelayMessage;
use nostr::{Filter, RelayUrl, SubscriptionId};
use nostr_sdk::prelude::ReqExitPolicy;
use nostr_sdk::{Client, Relay, RelayPoolNotification};
use tokio::sync::broadcast;

use crate::failure::Failure;
use crate::limits::CONNECT;

/// Connections to one or more relays.
pub struct Relays {
    client: Client,
    urls: Vec<String>,
}

impl Relays {
    /// Connects to all; goes on with those that answer, fails if none does.
    pub async fn connect(urls: &[String], wait: Duration) -> Result<Self, Failure> {
        let client = Client::default();
        for url in urls {
            client.add_relay(url).await.map_err(|error| {
                Failure::usage(
                    "relay_url",
                    format!("relay `{url}`: {error}"),
                    "expected ws://HOST or wss://HOST",
                )
            })?;
        }
        let output = client.try_connect(wait.min(CONNECT)).await;
        if output.success.is_empty() {
            return Err(Failure::not_ready(
                "relays_unreachable",
                format!("no relay answers: {}", reasons(&output.failed)),
                "check the addresses and the network",
            ));
        }
        for (url, error) in &output.failed {
            tracing::warn!(%url, %error, "relay unreachable, going on with the others");
        }
        Ok(Relays { client, urls: urls.to_vec() })
    }

    /// The addresses, for messages.
    pub fn names(&self) -> String {
        self.urls.join(", ")
    }

    /// The relays, one by one: paging must not mix the limits of two.
    pub async fn each(&self) -> Vec<Relay> {
        self.client.relays().await.into_values().filter(Relay::is_connected).collect()
    }

    /// Publishes an event: at least one relay must say OK. Returns what the others answered.
    pub async fn publish(&self, event: &nostr::Event) -> Result<Vec<String>, Failure> {
        let sent = self.client.send_event(event).await;
        let failed = match sent {
            Ok(output) if !output.success.is_empty() => {
                return Ok(output
                    .failed
                    .iter()
                    .map(|(url, error)| format!("{url}: {}", quote(error)))
                    .collect());
            }
            Ok(output) => reasons(&output.failed),
            Err(error) => format!("{}: {error}", self.names()),
        };
        Err(Failure::not_ready(
            "not_published",
            format!("no relay took event {}: {failed}", event.id),
            "a relay that refuses says why; try another with --relay",
        ))
    }

    /// Starts a subscription and returns what it brings, stored events first. Call it before publishing what it waits for.
    pub async fn follow(&self, filter: Filter) -> Result<Feed, Failure> {
        let receiver = self.client.notifications();
        let id = SubscriptionId::generate();
        let output = self.client.subscribe_with_id(id.clone(), filter, None).await;
        match output {
            Ok(output) if !output.success.is_empty() => Ok(Feed { receiver, id }),
            Ok(output) => Err(no_subscription(&reasons(&output.failed))),
            Err(error) => Err(no_subscription(&format!("{}: {error}", self.names()))),
        }
    }

    /// What all relays hold for a filter that names few events; each is asked once and waited for at most `wait`.
    pub async fn fetch(&self, filter: Filter, wait: Duration) -> Result<Vec<ValidEvent>, Failure> {
        let (mut found, mut failed): (HashMap<Hash, ValidEvent>, HashMap<RelayUrl, String>) =
            Default::default();
        let relays = self.each().await;
        let answers = relays.iter().map(|relay| {
            let filter = filter.clone();
            async move { (relay.url(), relay.fetch_events(filter, wait, ReqExitPolicy::ExitOnEOSE).await) }
        });
        for (url, answer) in futures::future::join_all(answers).await {
            match answer {
                Ok(events) => {
                    for event in events.into_iter().filter_map(|event| ValidEvent::check(event).ok()) {
                        found.entry(event.id()).or_insert(event);
                    }
                }
                Err(error) => {
                    failed.insert(url.clone(), error.to_string());
                }
            }
        }
        if found.is_empty() && failed.len() == relays.len() {
            let text = if failed.is_empty() { self.names() } else { reasons(&failed) };
            return Err(Failure::not_ready(
                "no_answer",
                format!("no relay answered a query: {text}"),
                "check the network; a relay may limit how often it is asked",
            ));
        }
        Ok(found.into_values().collect())
    }

    /// Closes the connections.
    pub async fn close(self) {
        self.client.shutdown().await;
    }
}

fn no_subscription(reasons: &str) -> Failure {
    Failure::not_ready(
        "no_subscription",
        format!("no relay takes a subscription: {reasons}"),
        "try another relay",
    )
}

/// `url: reason` of each relay that failed.
fn reasons(failed: &HashMap<RelayUrl, String>) -> String {
    let mut lines: Vec<(&RelayUrl, &String)> = failed.iter().collect();
    lines.sort_by_key(|(url, _)| url.to_string());
    lines.iter().fold(String::new(), |mut text, (url, error)| {
        let separator = if text.is_empty() { "" } else { "; " };
        let _ = write!(text, "{separator}{url}: {}", quote(error));
        text
    })
}

/// What a subscription brings.
pub struct Feed {
    receiver: broadcast::Receiver<RelayPoolNotification>,
    id: SubscriptionId,
}

impl Feed {
    /// The next event, checked; `None` when the connections are gone. One event may come more than once, from several relays.
    pub async fn next(&mut self) -> Option<ValidEvent> {
        loop {
            match self.receiver.recv().await {
                Ok(RelayPoolNotification::Message { relay_url, message }) => {
                    let RelayMessage::Event { subscription_id, event } = message else { continue };
                    if *subscription_id != self.id {
                        continue;
                    }
                    match ValidEvent::check(event.into_owned()) {
                        Ok(event) => return Some(event),
                        Err(error) => tracing::warn!(%relay_url, %error, "a relay sent a bad event"),
                    }
                }
                Ok(RelayPoolNotification::Shutdown) | Err(broadcast::error::RecvError::Closed) => {
                    return None;
                }
                // What was missed stands on the relays; callers that wait ask for it again before they give up.
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            }
        }
    }
}
