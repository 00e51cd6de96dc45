//! `serve --config FILE`: one custodian, from its key ceremony until it is told to stop.
//!
//! What happens in its life goes to stdout, a line each (JSON with `--json`); logs go to stderr.

use std::path::PathBuf;

use clap::Args;
use concordat_node::custodian::{self, Life, RunOptions};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::stopped;
use crate::failure::Failure;
use crate::ui::Ui;

/// Arguments of `serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// The custodian's configuration; its directory holds everything else
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Stops when stdin is closed, so that no custodian outlives the program that started it
    #[arg(long)]
    pub exit_with_parent: bool,
    /// You know that this disk wasn't restored from a copy: the start then waits for fewer answers from the others. If it was
    /// restored after all, this custodian may contradict what it signed before
    #[arg(long)]
    pub disk_not_restored: bool,
}

/// Runs the command.
pub async fn run(args: ServeArgs, ui: Ui) -> Result<(), Failure> {
    // Before any secret is read.
    let hardening = concordat_node::harden::harden();
    if !hardening.is_whole() {
        ui.warn(&hardening.to_string());
    }
    let (life, mut news) = mpsc::unbounded_channel();
    let stop = stop(args.exit_with_parent)?;
    let options = RunOptions { not_restored: args.disk_not_restored };
    let ran = custodian::run(&args.config, options, stop, life);
    let said = async {
        let mut listens = true;
        while let Some(event) = news.recv().await {
            // Nobody reads it any more: a custodian doesn't depend on its audience.
            listens = listens && ui.result(&event, || text(&event)).is_ok();
        }
    };
    let (ran, ()) = tokio::join!(ran, said);
    ran.map_err(|error| {
        let (code, text, hint) = (error.code(), error.to_string(), error.hint());
        match code {
            "config" => Failure::usage(code, text, hint),
            // What it found contradicts what it knows: a restart mends nothing.
            "fatal" => Failure::check(code, text, hint),
            _ => Failure::not_ready(code, text, hint),
        }
    })
}

/// Resolves at SIGINT, SIGTERM or, if asked for, the end of stdin.
fn stop(with_parent: bool) -> Result<impl Future<Output = ()> + Send, Failure> {
    let told = stopped()?;
    Ok(async move {
        let parent_gone = async {
            let mut stdin = tokio::io::stdin();
            let mut some = [0u8; 64];
            while with_parent && stdin.read(&mut some).await.is_ok_and(|read| read > 0) {}
            if !with_parent {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = told => {}
            () = parent_gone => {}
        }
    })
}

/// An event for people.
fn text(event: &Life) -> String {
    match event {
        Life::Listening { name, peers, client } => {
            let users =
                client.as_deref().map_or("served through relays only".to_owned(), |at| format!("at {at}"));
            format!("{name}: other custodians connect to {peers}, users are {users}")
        }
        Life::Ceremony { stage, waiting_on } if waiting_on.is_empty() => format!("key ceremony: {stage}"),
        Life::Ceremony { stage, waiting_on } => format!("key ceremony: {stage}, waiting for {waiting_on:?}"),
        Life::Ready { group, number, height, epoch } => {
            let height = height.map_or("no certified head yet".to_owned(), |height| format!("head {height}"));
            format!("ready: custodian {number} of group {group}, {height}, epoch {epoch}")
        }
        Life::Epoch { epoch, leader } => format!("epoch {epoch}, led by custodian {leader}"),
        Life::Certified { height, id, requests } => {
            format!("head {height} certified: {id}, {requests} requests")
        }
        Life::Alarm { message } => format!("ALARM: {message}"),
        Life::Quorum { reachable, needed, certifying: true } => {
            format!("{reachable} custodians are reachable, {needed} are needed: certifying")
        }
        Life::Quorum { reachable, needed, certifying: false } => format!(
            "{reachable} custodians are reachable, {needed} are needed: NOTHING IS CERTIFIED until more are back"
        ),
        Life::Stopped { reason } => format!("stopped: {reason}"),
    }
}
