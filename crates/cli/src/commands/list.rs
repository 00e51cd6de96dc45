//! `list`: the group's machines, from the snapshots that it signed.

use std::collections::BTreeMap;

use clap::Args;
use concordat_events::kinds::SNAPSHOT;
use concordat_events::{Hash, Route};
use nostr::{Filter, Kind};
use serde_json::json;

use crate::failure::Failure;
use crate::ui::Ui;
use crate::user::machine::Snapshot;
use crate::user::{GroupArgs, pages};

/// Arguments of `list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Runs the command.
pub async fn run(args: ListArgs, ui: Ui) -> Result<(), Failure> {
    let group = args.group.connect().await?;
    let filter = Filter::new().kind(Kind::from_u16(SNAPSHOT)).author(group.key);
    let found = pages::all(&group.relays, &filter, group.wait).await?;
    let mut machines: BTreeMap<Hash, Snapshot> = BTreeMap::new();
    for event in found.values() {
        let Ok(snapshot) = Snapshot::read(event, &group.key) else { continue };
        if machines.get(&snapshot.machine).is_none_or(|known| known.height < snapshot.height) {
            machines.insert(snapshot.machine, snapshot);
        }
    }
    let definitions = pages::by_id(&group.relays, machines.keys().copied(), group.wait).await?;
    group.relays.close().await;
    let mut rows: Vec<&Snapshot> = machines.values().collect();
    rows.sort_by_key(|snapshot| (std::cmp::Reverse(snapshot.height), snapshot.machine));
    for snapshot in rows {
        let definition = definitions.iter().find(|event| {
            event.id() == snapshot.machine && matches!(Route::of(event, &group.key), Ok(Route::Definition(_)))
        });
        let title = definition.and_then(|event| event.tag("title"));
        let value = json!({
            "machine": snapshot.machine,
            "d": snapshot.d,
            "title": title,
            "status": snapshot.status(),
            "state": snapshot.value(),
            "height": snapshot.height,
        });
        ui.result(&value, || {
            format!(
                "{}  {:>8}  {:<8} {}  {}",
                snapshot.machine,
                snapshot.height,
                snapshot.status(),
                snapshot.value(),
                title.unwrap_or(&snapshot.d)
            )
        })?;
    }
    Ok(())
}
