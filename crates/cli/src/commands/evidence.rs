//! `evidence`: what custodians hold against custodians that broke the rules, as signed messages, and the check of it by somebody
//! who trusts none of them: the group's public history says who the custodians were.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use concordat_node::client::Client;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::commands::verify::{self, VerifyArgs};
use crate::failure::Failure;
use crate::ui::Ui;
use crate::user::GroupArgs;
use crate::user::custodians::failure;

/// `evidence`.
#[derive(Subcommand, Debug)]
pub enum EvidenceCommand {
    /// Prints what the custodians hold, a line for each piece
    Export(ExportArgs),
    /// Checks lines of `evidence export --json` against the group's public history
    Check(CheckArgs),
}

/// Arguments of `evidence export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Which custodians
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Arguments of `evidence check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// File with the lines; - reads them from stdin
    pub file: PathBuf,
    /// The history, an event of JSON per line. Without it the events come from the relays
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Which group and from which relays
    #[command(flatten)]
    pub group: GroupArgs,
}

/// A line of the export. What it says beside `signed` is a hint.
#[derive(Serialize, Deserialize, Debug)]
struct Line {
    custodian: u16,
    fault: String,
    epoch: u64,
    place: u64,
    signed: String,
}

/// Runs the command.
pub async fn run(command: EvidenceCommand, ui: Ui) -> Result<(), Failure> {
    match command {
        EvidenceCommand::Export(args) => export(args, ui).await,
        EvidenceCommand::Check(args) => check(args, ui).await,
    }
}

async fn export(args: ExportArgs, ui: Ui) -> Result<(), Failure> {
    let addresses = args.group.some_custodians()?;
    let mut answered = 0;
    let mut last = None;
    let mut seen = std::collections::BTreeSet::new();
    for address in addresses {
        let asked = async { Client::connect(address.clone()).await?.evidence().await };
        match asked.await.map_err(failure) {
            Ok(pieces) => {
                answered += 1;
                for piece in pieces.into_iter().filter(|piece| seen.insert(piece.signed.clone())) {
                    let line = Line {
                        custodian: piece.custodian,
                        fault: piece.fault,
                        epoch: piece.epoch,
                        place: piece.place,
                        signed: hex::encode(&piece.signed),
                    };
                    ui.result(&json!(line), || {
                        format!(
                            "custodian {}: {}, epoch {}, place {} ({} bytes of signed messages, shown with --json)",
                            line.custodian,
                            line.fault,
                            line.epoch,
                            line.place,
                            piece.signed.len()
                        )
                    })?;
                }
            }
            Err(failure) => {
                ui.warn(&format!("{}: {}", address.address, failure.message));
                last = Some(failure);
            }
        }
    }
    match last {
        Some(failure) if answered == 0 => Err(failure),
        _ => {
            ui.note(&format!("{} pieces of evidence from {answered} custodians", seen.len()));
            Ok(())
        }
    }
}

async fn check(args: CheckArgs, ui: Ui) -> Result<(), Failure> {
    let mut read = Vec::new();
    verify::lines(&args.file, |line| {
        if !line.trim().is_empty() {
            read.push(line.trim().to_owned());
        }
    })?;
    if read.is_empty() {
        return Err(Failure::usage(
            "no_evidence",
            format!("{}: no line in it", args.file.display()),
            "`concordat evidence export --json` writes them",
        ));
    }
    let history = VerifyArgs { file: args.history, group: args.group };
    let report = verify::read(&history, ui).await?.check().map_err(|failure| verify::refuted(&failure))?;
    let mut worst = None;
    for (number, line) in (1..).zip(&read) {
        let signed = serde_json::from_str::<Line>(line).ok().and_then(|line| hex::decode(line.signed).ok());
        let shown =
            signed.ok_or_else(|| "not a line of `evidence export --json`".to_owned()).and_then(|signed| {
                concordat_node::evidence::check(&report.genesis, &report.charters, &signed)
                    .map_err(|error| error.to_string())
            });
        match shown {
            Ok(shown) => {
                let finding = shown.finding;
                let value = json!({
                    "line": number, "ok": true, "custodian": finding.culprit, "fault": finding.fault.to_string(),
                    "epoch": finding.epoch, "place": finding.place, "roster_since": shown.since,
                });
                ui.result(&value, || {
                    format!(
                        "line {number}: custodian {} signed {}, epoch {}, place {}",
                        finding.culprit, finding.fault, finding.epoch, finding.place
                    )
                })?;
            }
            Err(message) => {
                ui.result(&json!({"line": number, "ok": false, "message": message}), || {
                    format!("line {number}: {message}")
                })?;
                worst.get_or_insert_with(|| format!("line {number}: {message}"));
            }
        }
    }
    match worst {
        Some(message) => {
            Err(Failure::check("no_proof", message, "it names nobody: don't believe whoever gave it"))
        }
        None => Ok(()),
    }
}
