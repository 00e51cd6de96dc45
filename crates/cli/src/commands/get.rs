//! `get MACHINE`: the newest certified state that the relays hold, checked against the head that carries it. `--proof` asks a
//! custodian and checks the proof that leads from the state to the group's signature.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use concordat_events::Hash;
use concordat_events::kinds::Kinds;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::ui::Ui;
use crate::user::custodians::{Proven, proven};
use crate::user::machine::{Seen, log_kind};
use crate::user::relays::Relays;
use crate::user::{GroupArgs, parse_machine};

/// Arguments of `get`.
#[derive(Args, Debug)]
pub struct GetArgs {
    /// The machine's id
    pub machine: String,
    /// Asks a custodian, and checks the proof from the machine's state to the head that the group signed
    #[arg(long)]
    pub proof: bool,
    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Runs the command.
pub async fn run(args: GetArgs, ui: Ui) -> Result<(), Failure> {
    let machine = parse_machine(&args.machine)?;
    if args.proof {
        return proof(&args.group, machine, ui).await;
    }
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

/// A machine's state, proven by a custodian.
async fn proof(args: &GroupArgs, machine: Hash, ui: Ui) -> Result<(), Failure> {
    let (key, wait, addresses) = (args.group_key()?, args.wait()?, args.custodian_addresses()?);
    // Which kind log events have is public knowledge on the relays; without any, it is what nearly all groups use.
    let kind = match args.urls() {
        Ok(urls) => {
            let relays = Relays::connect(&urls, wait).await?;
            let kind = log_kind(&relays, key, wait).await?;
            relays.close().await;
            kind
        }
        Err(_) => Kinds::default().log,
    };
    let Proven { head, log, record, by } = proven(&addresses, key, kind, machine).await?;
    let Some(record) = record else {
        return Err(Failure::refused(
            "no_such_machine",
            format!(
                "it is proven at head {} (log event {log}) that the group has no machine {machine}",
                head.height
            ),
            "check the id; `concordat list` shows the group's machines",
        ));
    };
    let snapshot = record.state.snapshot();
    let part = |name: &str| snapshot.get(name).cloned().unwrap_or(Value::Null);
    let (state, status, context) = (part("value"), part("status"), part("context"));
    let value = json!({
        "machine": machine,
        "proven": true,
        "status": status,
        "state": state,
        "context": context,
        "height": head.height,
        "log": log,
        "root": head.state_root,
        "transition": record.last,
        "time_ms": head.time_ms,
        "custodian": by.to_string(),
        "snapshot": snapshot,
    });
    ui.result(&value, || {
        format!(
            "machine: {machine}\nstate:   {state} ({})\ncontext: {context}\nhead:    {} (log event {log})\nproven under state root {}, shown by {}",
            status.as_str().unwrap_or_default(),
            head.height,
            head.state_root,
            by.address
        )
    })
}
