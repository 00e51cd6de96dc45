//! Long queries in pages, past a relay's limit on one answer.
//!
//! Promises: each relay is paged by itself, newest first; what one relay misses another may have. Refuses: to claim
//! completeness: a second with more events than a page holds can't be walked by time; chains of heads are completed by id.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use concordat_events::{Hash, ValidEvent};
use nostr::{EventId, Filter, Timestamp};
use nostr_sdk::Relay;
use nostr_sdk::prelude::ReqExitPolicy;

use super::relays::Relays;
use crate::failure::Failure;
use crate::limits::{IDS_PER_FILTER, PAGE, PAGES};

/// Everything that the relays hold for `filter`, by id.
pub async fn all(
    relays: &Relays,
    filter: &Filter,
    wait: Duration,
) -> Result<HashMap<Hash, ValidEvent>, Failure> {
    let mut found = HashMap::new();
    let mut failures = Vec::new();
    let connected = relays.each().await;
    for relay in &connected {
        if let Err(error) = one(relay, filter, wait, &mut found).await {
            failures.push(format!("{}: {error}", relay.url()));
        }
    }
    if failures.len() == connected.len() {
        let text = if failures.is_empty() { relays.names() } else { failures.join("; ") };
        return Err(Failure::not_ready(
            "no_answer",
            format!("no relay answered a query: {text}"),
            "check the network; a relay may limit how often it is asked",
        ));
    }
    Ok(found)
}

async fn one(
    relay: &Relay,
    filter: &Filter,
    wait: Duration,
    found: &mut HashMap<Hash, ValidEvent>,
) -> Result<(), nostr_sdk::pool::relay::Error> {
    let mut until: Option<Timestamp> = None;
    let mut seen = HashSet::new();
    for _ in 0..PAGES {
        let mut page = filter.clone().limit(PAGE);
        if let Some(until) = until {
            page = page.until(until);
        }
        let events = relay.fetch_events(page, wait, ReqExitPolicy::ExitOnEOSE).await?;
        let mut oldest = None;
        let mut fresh = false;
        for event in events {
            oldest = oldest.min(Some(event.created_at)).or(Some(event.created_at));
            fresh |= seen.insert(event.id);
            if let Ok(event) = ValidEvent::check(event) {
                found.entry(event.id()).or_insert(event);
            }
        }
        let Some(oldest) = oldest else { return Ok(()) };
        // The second of the oldest is asked for again, since the page may have cut it; without news it is stepped over.
        let next = if fresh { oldest } else { Timestamp::from_secs(oldest.as_secs().saturating_sub(1)) };
        if !fresh && oldest.as_secs() == 0 {
            return Ok(());
        }
        until = Some(next);
    }
    Ok(())
}

/// The events with these ids, whichever relay holds them.
pub async fn by_id(
    relays: &Relays,
    ids: impl IntoIterator<Item = Hash>,
    wait: Duration,
) -> Result<Vec<ValidEvent>, Failure> {
    let ids: Vec<EventId> = ids.into_iter().map(EventId::from).collect();
    let mut found = Vec::new();
    for chunk in ids.chunks(IDS_PER_FILTER) {
        let filter = Filter::new().ids(chunk.iter().copied()).limit(IDS_PER_FILTER);
        found.extend(relays.fetch(filter, wait).await?);
    }
    Ok(found)
}
