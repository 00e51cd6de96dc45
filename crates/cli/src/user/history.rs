//! Everything public of a group: its own events, and every request that its log events name.
//!
//! Promises: the chain of log events is followed by id, so that a page that was cut short leaves no gap unnoticed. Refuses: to
//! judge what it fetched: the reader (`verify`) does.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use concordat_events::{Hash, Head, PublicKey, ValidEvent};
use nostr::Filter;

use super::pages;
use super::relays::Relays;
use crate::failure::Failure;
use crate::limits::CHAIN_GAPS;

/// Fetches a group's public history. `seen` hears how many events are there so far.
pub async fn fetch(
    relays: &Relays,
    group: PublicKey,
    wait: Duration,
    mut seen: impl FnMut(usize),
) -> Result<Vec<ValidEvent>, Failure> {
    let mut found = pages::all(relays, &Filter::new().author(group), wait).await?;
    seen(found.len());
    // Parents that paging by time has missed: each round fetches what is named but not there.
    for _ in 0..CHAIN_GAPS {
        let missing = missing_parents(&found, group);
        if missing.is_empty() {
            break;
        }
        let before = found.len();
        insert(&mut found, pages::by_id(relays, missing, wait).await?);
        if found.len() == before {
            break;
        }
        seen(found.len());
    }
    let named: HashSet<Hash> =
        heads(&found, group).flat_map(|head| head.outcomes).map(|(id, _)| id).collect();
    let missing: Vec<Hash> = named.into_iter().filter(|id| !found.contains_key(id)).collect();
    insert(&mut found, pages::by_id(relays, missing, wait).await?);
    seen(found.len());
    Ok(found.into_values().collect())
}

fn insert(found: &mut HashMap<Hash, ValidEvent>, events: Vec<ValidEvent>) {
    found.extend(events.into_iter().map(|event| (event.id(), event)));
}

fn heads(found: &HashMap<Hash, ValidEvent>, group: PublicKey) -> impl Iterator<Item = Head> + '_ {
    let own =
        found.values().filter(move |event| event.author() == group && event.tag("state_root").is_some());
    own.filter_map(|event| Head::from_log_event(event).ok())
}

fn missing_parents(found: &HashMap<Hash, ValidEvent>, group: PublicKey) -> Vec<Hash> {
    let parents: HashSet<Hash> = heads(found, group).map(|head| head.parent).collect();
    parents.into_iter().filter(|id| *id != Hash::ZERO && !found.contains_key(id)).collect()
}
