//! `get MACHINE`: the newest certified state that the relays hold, checked against the head that carries it.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::ui::Ui;
use crate::user::machine::Seen;
use crate::user::{GroupArgs, parse_machine};

/// Arguments of `get`.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// The machine's id
    pub machine: String,
    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Runs the command.
pub async fn run(args: GetArgs, ui: Ui) -> Result<(), Failure> {
    let machine = parse_machine(&args.machine)?;
    let group = args.group.connect().await?;
    let Seen { snapshot, head } = Seen::of(&group, machine).await?;
    group.relays.close().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let age = now.saturating_sub(snapshot.created_at);
    let value = json!({
        "machine": machine,
        "d": snapshot.d,
        "status": snapshot.status(),
        "state": snapshot.value(),
        "context": snapshot.content.get("context"),
        "height": head.height,
        "log": snapshot.log,
        "root": head.state_root,
        "transition": snapshot.transition,
        "time_ms": head.time_ms,
        "age_s": age,
        "snapshot": snapshot.content,
    });
    ui.result(&value, || {
        format!(
            "machine: {machine}\nd:       {}\nstate:   {} ({})\ncontext: {}\nhead:    {} (log event {})\nage:     {age} s",
            snapshot.d,
            snapshot.value(),
            snapshot.status(),
            snapshot.content.get("context").unwrap_or(&serde_json::Value::Null),
            head.height,
            snapshot.log,
        )
    })
}
