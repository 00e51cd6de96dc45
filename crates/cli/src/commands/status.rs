//! `status`: how custodians are, from their client ports.

use clap::Args;
use concordat_node::client::{Client, CustodianAddress, Status};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::ui::Ui;
use crate::user::GroupArgs;
use crate::user::custodians::failure;

/// Arguments of `status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Which custodians
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Runs the command: a line for each custodian; fails if none answers, or if one belongs to another group.
pub async fn run(args: StatusArgs, ui: Ui) -> Result<(), Failure> {
    let addresses = args.group.some_custodians()?;
    let expected = match args.group.group {
        Some(_) => Some(args.group.group_key()?.to_hex()),
        None => None,
    };
    let asked = addresses.iter().map(async |address| (address, ask(address).await));
    let answers = futures::future::join_all(asked).await;
    let mut worst = None;
    let mut answered = false;
    for (address, answer) in answers {
        match answer {
            Ok(status) => {
                answered = true;
                if expected.as_ref().is_some_and(|group| *group != status.group) {
                    let text = format!("{} belongs to group {}", address.address, status.group);
                    worst =
                        Some(Failure::check("other_group", text, "check CONCORDAT_GROUP and the address"));
                }
                say(address, &status, ui)?;
            }
            Err(failure) => {
                let value = json!({"custodian": address.to_string(), "reachable": false, "error": failure.code, "message": failure.message});
                ui.result(&value, || format!("{:<22} {}", address.address, failure.message))?;
                worst.get_or_insert(failure);
            }
        }
    }
    match worst {
        Some(failure) if !answered || failure.code == "other_group" => Err(failure),
        _ => Ok(()),
    }
}

async fn ask(address: &CustodianAddress) -> Result<Status, Failure> {
    let client = Client::connect(address.clone()).await.map_err(failure)?;
    client.status().await.map_err(failure)
}

fn say(address: &CustodianAddress, status: &Status, ui: Ui) -> Result<(), Failure> {
    let details: Value = serde_json::from_str(&status.details).unwrap_or(Value::Null);
    let value = json!({
        "custodian": address.to_string(),
        "reachable": true,
        "cluster": status.cluster,
        "group": status.group,
        "number": status.number,
        "epoch": status.epoch,
        "leader": status.leader,
        "height": status.height,
        "state": status.state,
        "details": details,
    });
    if let Some(warning) = details.pointer("/certificate/warning").and_then(Value::as_str) {
        ui.warn(&format!("{}: {warning}", address.address));
    }
    ui.result(&value, || {
        let more = if details.is_null() { String::new() } else { format!("  {details}") };
        format!(
            "{:<22} custodian {}: {}, head {}, epoch {} led by {}{more}",
            address.address, status.number, status.state, status.height, status.epoch, status.leader
        )
    })
}
