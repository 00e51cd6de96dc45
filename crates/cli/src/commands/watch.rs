//! `watch MACHINE`: one line for each newer certified state, from the present one on, until interrupted.

use clap::Args;
use concordat_events::kinds::SNAPSHOT;
use nostr::{Filter, Kind};
use serde_json::json;

use crate::failure::Failure;
use crate::ui::Ui;
use crate::user::machine::{Snapshot, head_of};
use crate::user::{GroupArgs, parse_machine};

/// Arguments of `watch`.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// The machine's id
    pub machine: String,
    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Runs the command.
pub async fn run(args: WatchArgs, ui: Ui) -> Result<(), Failure> {
    let machine = parse_machine(&args.machine)?;
    let group = args.group.connect().await?;
    let filter = Filter::new().kind(Kind::from_u16(SNAPSHOT)).author(group.key).event(machine.into());
    let mut feed = group.relays.follow(filter).await?;
    let mut shown = None;
    loop {
        let event = tokio::select! {
            event = feed.next() => event,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let event = event.ok_or_else(|| {
            Failure::not_ready(
                "connection_lost",
                format!("{}: connection lost", group.relays.names()),
                "run it again",
            )
        })?;
        let snapshot = match Snapshot::read(&event, &group.key) {
            Ok(snapshot) if snapshot.machine == machine => snapshot,
            Ok(_) => continue,
            Err(problem) => {
                ui.warn(&problem);
                continue;
            }
        };
        if shown.is_some_and(|height| snapshot.height <= height) {
            continue;
        }
        // A snapshot whose head can't be fetched yet comes again with the next one; one that contradicts its head ends the watch.
        let head = match head_of(&group, &snapshot).await {
            Ok(head) => head,
            Err(failure) if failure.code == "snapshot_mismatch" => return Err(failure),
            Err(failure) => {
                ui.warn(&failure.message);
                continue;
            }
        };
        shown = Some(head.height);
        let value = json!({
            "machine": machine,
            "height": head.height,
            "log": snapshot.log,
            "status": snapshot.status(),
            "state": snapshot.value(),
            "context": snapshot.content.get("context"),
            "transition": snapshot.transition,
            "time_ms": head.time_ms,
        });
        ui.result(&value, || {
            format!(
                "{:>8}  {}  {}",
                head.height,
                snapshot.value(),
                snapshot.content.get("context").unwrap_or(&serde_json::Value::Null)
            )
        })?;
    }
}
