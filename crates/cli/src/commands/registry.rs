//! `registry lookup KEY`: who an identity is now, by the group's key registry, with the proofs that it follows from. They can be
//! kept in a file and checked again by anybody, offline, who has the group's key.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use concordat_events::kinds::Kinds;
use concordat_verify::registry::{Answer, D, Shown, look_up};

use crate::failure::{Failure, unreadable};
use crate::limits::REGISTRY_FILE_BYTES;
use crate::ui::Ui;
use crate::user::custodians::{lack, registered};
use crate::user::machine::log_kind;
use crate::user::relays::Relays;
use crate::user::{GroupArgs, parse_public_key};

/// What a key registry says.
#[derive(Subcommand, Debug)]
pub enum RegistryCommand {
    /// The key that stands for an identity now, with the proofs; an unknown key is proven to be unknown
    Lookup(LookupArgs),
}

/// Arguments of `registry lookup`.
#[derive(Args, Debug)]
pub struct LookupArgs {
    /// The identity's key, npub or 64 hex digits
    pub identity: String,
    /// The registry's `d` (registry, if not given)
    #[arg(long, value_name = "NAME")]
    pub d: Option<String>,
    /// Writes head and proofs to a file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Asks nobody: head and proofs come from a file that --out has written
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    pub from: Option<PathBuf>,
    /// Kind of the group's log events, where relays can't be asked (400 if not given)
    #[arg(long, value_name = "KIND")]
    pub log_kind: Option<u16>,
    /// Which group
    #[command(flatten)]
    pub group: GroupArgs,
}

/// Runs the commands.
pub async fn run(command: RegistryCommand, ui: Ui) -> Result<(), Failure> {
    let RegistryCommand::Lookup(args) = command;
    let (group, key) = (args.group.group_key()?, parse_public_key(&args.identity)?);
    let d = args.d.as_deref().unwrap_or(D);
    let answer = if let Some(path) = &args.from {
        let file = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if file.len() > REGISTRY_FILE_BYTES {
            let text =
                format!("{}: {} bytes; at most {REGISTRY_FILE_BYTES} are read", path.display(), file.len());
            return Err(Failure::usage(
                "file",
                text,
                "expected a file that `registry lookup --out` has written",
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
        let kind = args.log_kind.unwrap_or(Kinds::default().log);
        let shown = Shown::parse(&text).map_err(|error| lack(error.into()))?;
        look_up(&group, kind, d, &key, &shown).map_err(lack)?
    } else {
        let (wait, addresses) = (args.group.wait()?, args.group.some_custodians()?);
        let kind = match (args.log_kind, args.group.urls()) {
            (Some(kind), _) => kind,
            (None, Ok(urls)) => {
                let relays = Relays::connect(&urls, wait).await?;
                let kind = log_kind(&relays, group, wait).await?;
                relays.close().await;
                kind
            }
            (None, Err(_)) => Kinds::default().log,
        };
        let (answer, shown) = registered(&addresses, group, kind, d, key).await?;
        if let Some(path) = &args.out {
            let text = shown.to_json().map_err(|error| lack(error.into()))?;
            std::fs::write(path, text + "\n").map_err(|error| {
                Failure::not_ready("file", format!("{}: {error}", path.display()), "give another place")
            })?;
        }
        answer
    };
    ui.result(&answer, || text(&answer))
}

fn text(answer: &Answer) -> String {
    let mut lines = vec![format!("identity: {}", answer.identity), format!("current:  {}", answer.current)];
    if !answer.known {
        lines.push("the registry doesn't know this key, which is proven".to_owned());
    }
    for step in &answer.chain {
        lines.push(format!(
            "moved:    {} -> {} by event {} at head {}",
            step.from, step.to, step.event, step.height
        ));
    }
    if let Some(step) = &answer.pending {
        let until = match step.final_at {
            Some(at) => format!("stands from {at} s on unless it is contested"),
            None => "waits for guardians".to_owned(),
        };
        lines.push(format!("pending:  {} -> {} by event {}: {until}", step.from, step.to, step.event));
    }
    lines.push(format!(
        "head:     {} (log event {}) of registry {}",
        answer.height, answer.log, answer.machine
    ));
    lines.join("\n")
}
