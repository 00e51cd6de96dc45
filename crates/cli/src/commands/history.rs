//! `history MACHINE`: the definition and every input that relays hold for it, with what became of each.

use std::collections::HashMap;

use clap::Args;
use concordat_events::kinds::INPUT;
use concordat_events::{Hash, Head, Outcome, ValidEvent};
use nostr::{EventId, Filter, Kind};
use serde_json::json;

use crate::failure::Failure;
use crate::limits::IDS_PER_FILTER;
use crate::ui::Ui;
use crate::user::machine::{Published, log_kind};
use crate::user::{Group, GroupArgs, pages, parse_machine};

/// Arguments of `history`.
#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// The machine's id
    pub machine: String,
    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Where a request stands in the log.
struct Place {
    height: u64,
    index: usize,
    log: Hash,
    outcome: Outcome,
}

/// Runs the command.
pub async fn run(args: HistoryArgs, ui: Ui) -> Result<(), Failure> {
    let machine = parse_machine(&args.machine)?;
    let group = args.group.connect().await?;
    let published = Published::of(&group, machine).await?;
    let filter = Filter::new().kind(Kind::from_u16(INPUT)).event(machine.into());
    let mut requests = pages::all(&group.relays, &filter, group.wait).await?;
    requests.insert(machine, published.event);
    let places = outcomes(&group, requests.keys().copied().collect()).await?;
    group.relays.close().await;
    let mut rows: Vec<(&ValidEvent, Option<&Place>)> =
        requests.values().map(|request| (request, places.get(&request.id()))).collect();
    // Settled ones in log order, then what waits, oldest first.
    rows.sort_by_key(|(request, place)| match place {
        Some(place) => (0, place.height, place.index, request.id()),
        None => (1, request.created_at(), 0, request.id()),
    });
    for (request, place) in rows {
        let event =
            if request.id() == machine { "(definition)" } else { request.tag("t").unwrap_or_default() };
        let outcome = place.map(|place| place.outcome.word());
        let reason = place.and_then(|place| place.outcome.reason());
        let value = json!({
            "request": request.id(),
            "event": event,
            "pubkey": request.author().to_hex(),
            "created_at": request.created_at(),
            "outcome": outcome,
            "reason": reason,
            "height": place.map(|place| place.height),
            "log": place.map(|place| place.log),
        });
        ui.result(&value, || {
            let height = place.map_or("-".to_owned(), |place| place.height.to_string());
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!("{height:>8}  {:<8}  {event:<16} {}{reason}", outcome.unwrap_or("pending"), request.id())
        })?;
    }
    Ok(())
}

/// The places of these requests in the group's log.
async fn outcomes(group: &Group, requests: Vec<Hash>) -> Result<HashMap<Hash, Place>, Failure> {
    let kind = log_kind(&group.relays, group.key, group.wait).await?;
    let mut places = HashMap::new();
    for chunk in requests.chunks(IDS_PER_FILTER) {
        let ids = chunk.iter().map(|id| EventId::from(*id));
        let filter = Filter::new().kind(Kind::from_u16(kind)).author(group.key).events(ids);
        for event in pages::all(&group.relays, &filter, group.wait).await?.values() {
            let Ok(head) = Head::from_log_event(event) else { continue };
            if event.author() != group.key {
                continue;
            }
            for (index, (id, outcome)) in head.outcomes.iter().enumerate() {
                if chunk.contains(id) {
                    let place =
                        Place { height: head.height, index, log: event.id(), outcome: outcome.clone() };
                    places.insert(*id, place);
                }
            }
        }
    }
    Ok(places)
}
