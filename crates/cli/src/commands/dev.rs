//! `dev up`: a local cluster that stays up, with a relay of its own or on a given one.
//!
//! Promises: a second start in the same directory goes on with the same cluster, on the same ports; when it ends, its
//! custodians end. Refuses: a directory that another `dev up` uses.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use concordat_node::relay::EmbeddedRelay;
use nostr::nips::nip19::ToBech32;
use serde_json::json;

use super::{CUSTODIANS_DEFAULT, stopped};
use crate::cluster::{Cluster, Layout, free_port, this_program};
use crate::failure::Failure;
use crate::ui::Ui;

/// Local clusters.
#[derive(Subcommand, Debug)]
pub enum DevCommand {
    /// Starts a local cluster and keeps it up until interrupted; prints the exports that point the commands at it
    Up(UpArgs),
}

/// Arguments of `dev up`.
#[derive(Args, Debug)]
pub struct UpArgs {
    /// Where the cluster lives; made if it isn't there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// How many custodians a new cluster has (4 if not given)
    #[arg(long, value_name = "N")]
    pub custodians: Option<usize>,
    /// A relay for a new cluster; without one it brings its own, with a database in the directory
    #[arg(long, value_name = "URL")]
    pub relay: Option<String>,
}

/// Runs the command.
pub async fn run(command: DevCommand, ui: Ui) -> Result<(), Failure> {
    let DevCommand::Up(args) = command;
    let stop = stopped()?;
    tokio::pin!(stop);
    let _lock = lock(&args.dir)?;
    let progress = ui.progress();
    let up = up(&args, |text| progress.doing(text));
    let (mut cluster, layout, _relay) = tokio::select! {
        up = up => up?,
        () = &mut stop => return Ok(()),
    };
    progress.finish();
    say(&cluster, &layout, ui)?;
    let broken = loop {
        tokio::select! {
            failure = cluster.ended() => match cluster.running() {
                0 => break Err(failure),
                left => ui.warn(&format!(
                    "{}; {left} go on without it, and a start on this directory brings it back",
                    failure.message.trim_end_matches([' ', ':'])
                )),
            },
            () = &mut stop => break Ok(()),
        }
    };
    ui.note("stopping");
    cluster.stop().await?;
    broken
}

/// Starts relay and custodians.
async fn up(args: &UpArgs, seen: impl Fn(&str)) -> Result<(Cluster, Layout, Option<EmbeddedRelay>), Failure> {
    let database = args.dir.join("relay");
    let (layout, relay) = match Layout::existing(&args.dir)? {
        Some(layout) => {
            same(args, &layout)?;
            let port =
                database.is_dir().then(|| layout.relays.first().and_then(|url| port_of(url))).flatten();
            let relay = match port {
                Some(port) => Some(embedded(&database, port).await?),
                None => None,
            };
            (layout, relay)
        }
        None => {
            let (relays, relay) = match &args.relay {
                Some(url) => (vec![url.clone()], None),
                None => {
                    let relay = embedded(&database, free_port()?).await?;
                    (vec![relay.url().to_owned()], Some(relay))
                }
            };
            let layout = Layout {
                dir: args.dir.clone(),
                custodians: args.custodians.unwrap_or(CUSTODIANS_DEFAULT),
                relays,
                engine: Default::default(),
                program: this_program()?,
                client_ports: true,
                places: Vec::new(),
            };
            seen("making keys");
            layout.make().await?;
            (layout, relay)
        }
    };
    seen("starting custodians");
    Ok((layout.start(seen).await?, layout, relay))
}

/// A cluster that exists keeps its size and its relay.
fn same(args: &UpArgs, layout: &Layout) -> Result<(), Failure> {
    let other = |what: String| {
        Failure::usage(
            "other_cluster",
            format!("{} holds a cluster {what}", args.dir.display()),
            "leave the option out, or use a new directory",
        )
    };
    if args.custodians.is_some_and(|number| number != layout.custodians) {
        return Err(other(format!("of {} custodians", layout.custodians)));
    }
    if args.relay.as_ref().is_some_and(|url| !layout.relays.contains(url)) {
        return Err(other(format!("on {}", layout.relays.join(", "))));
    }
    Ok(())
}

async fn embedded(database: &Path, port: u16) -> Result<EmbeddedRelay, Failure> {
    EmbeddedRelay::start(Some(database), port).await.map_err(|error| {
        Failure::not_ready(
            "relay_not_started",
            format!("port {port} of 127.0.0.1: {error}"),
            "the cluster's relay keeps its port: stop what has taken it",
        )
    })
}

fn port_of(url: &str) -> Option<u16> {
    url.trim_end_matches('/').rsplit_once(':')?.1.parse().ok()
}

/// The directory is this process's as long as the file is open.
fn lock(dir: &Path) -> Result<File, Failure> {
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::not_ready("cluster_dir", format!("{}: {error}", dir.display()), "choose another --dir")
    };
    std::fs::create_dir_all(dir).map_err(|error| wrong(&error))?;
    let file = File::options().create(true).truncate(false).write(true).open(dir.join("lock"));
    let file = file.map_err(|error| wrong(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::not_ready(
            "in_use",
            format!("another `dev up` runs on {}", dir.display()),
            "use that one, stop it, or give this one its own --dir",
        )),
        Err(TryLockError::Error(error)) => Err(wrong(&error)),
    }
}

fn say(cluster: &Cluster, layout: &Layout, ui: Ui) -> Result<(), Failure> {
    let custodians: Vec<String> = cluster.clients().iter().map(ToString::to_string).collect();
    let group = cluster.group.to_bech32().unwrap_or_else(|_| cluster.group.to_hex());
    let value = json!({"group": cluster.group.to_hex(), "relays": layout.relays, "custodians": custodians, "dir": layout.dir});
    ui.result(&value, || {
        format!(
            "export CONCORDAT_GROUP={group}\nexport CONCORDAT_RELAYS={}\nexport CONCORDAT_CUSTODIANS='{}'",
            layout.relays.join(","),
            custodians.join(",")
        )
    })?;
    ui.note(&format!("{} custodians are up; interrupt to stop them", cluster.size()));
    Ok(())
}
