//! `demo`: a bet from its definition to the payout statement, kept by custodians that are real processes. The one that leads is
//! killed on the way. At the end everything is verified from the relay's events alone.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use concordat_events::ValidEvent;
use concordat_node::relay::EmbeddedRelay;
use concordat_verify::{Code, Reader, Report};
use nostr::Filter;
use nostr::nips::nip19::ToBech32;
use serde_json::{Value, json};
use tokio::time::{Duration, timeout_at};

use super::{CUSTODIANS_DEFAULT, stopped};
use crate::bet::Bet;
use crate::cluster::{Cluster, Layout, this_program};
use crate::failure::Failure;
use crate::limits::{BET_START, DEMO_STEP};
use crate::ui::{Progress, Ui};
use crate::user::machine::Snapshot;
use crate::user::outcome::Settled;
use crate::user::relays::Relays;
use crate::user::{Group, history};

/// Arguments of `demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How many custodians (4 if not given)
    #[arg(long, value_name = "N")]
    pub custodians: Option<usize>,
    /// Writes every event that the relay holds at the end, one JSON a line
    #[arg(long, value_name = "FILE")]
    pub export: Option<PathBuf>,
    /// Keeps the custodians' directories here (a temporary directory, removed at the end, if not given)
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Custodians serve no users themselves: everything goes through the relay
    #[arg(long)]
    pub no_client_port: bool,
}

/// What came of it.
struct Told {
    group: nostr::PublicKey,
    custodians: usize,
    killed: u16,
    end: Snapshot,
    report: Report,
}

/// Runs the command.
pub async fn run(args: DemoArgs, ui: Ui) -> Result<(), Failure> {
    let stop = stopped()?;
    let began = Instant::now();
    let progress = ui.progress();
    let told = tokio::select! {
        told = story(&args, &progress) => told,
        () = stop => Err(Failure::not_ready("interrupted", "the demonstration was interrupted", "")),
    };
    progress.finish();
    let Told { group, custodians, killed, end, report } = told?;
    let output = end.content.get("output").unwrap_or(&Value::Null);
    let value = json!({
        "group": group.to_hex(),
        "custodians": custodians,
        "killed": killed,
        "heads": report.heads,
        "machine": end.machine,
        "state": end.value(),
        "verified": true,
    });
    ui.result(&value, || {
        let mut text = format!(
            "\nend state:  {} at head {}\nlog event:  {}\noutcome:    {}, winner {}",
            end.value(),
            end.height,
            end.log,
            output.get("outcome").and_then(Value::as_str).unwrap_or("?"),
            output.get("winner").and_then(Value::as_str).unwrap_or("nobody"),
        );
        for payout in output.get("payouts").and_then(Value::as_array).into_iter().flatten() {
            let part = |name: &str| payout.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
            text.push_str(&format!("\npayout:     {} to {}", part("deposit"), part("to")));
        }
        text.push_str(&format!(
            "\nverified:   {} heads, {} requests, from the relay's events alone, state root {}\ntook:       {:.1} s, custodian {killed} was killed on the way",
            report.heads,
            report.requests,
            report.state_root,
            began.elapsed().as_secs_f64()
        ));
        text
    })
}

/// The whole story. Everything it started is gone when it ends, however it ends.
async fn story(args: &DemoArgs, progress: &Progress) -> Result<Told, Failure> {
    let relay = EmbeddedRelay::start(None, 0)
        .await
        .map_err(|error| Failure::not_ready("relay_not_started", error.to_string(), ""))?;
    let temporary = match &args.dir {
        Some(_) => None,
        None => Some(
            tempfile::tempdir()
                .map_err(|error| Failure::not_ready("temporary_dir", error.to_string(), ""))?,
        ),
    };
    let dir =
        args.dir.clone().or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned())).unwrap_or_default();
    if Layout::existing(&dir)?.is_some() {
        return Err(Failure::refused(
            "cluster_exists",
            format!("{} holds a cluster already", dir.display()),
            "the demonstration founds its own: give it an empty --dir, or none",
        ));
    }
    let layout = Layout {
        dir,
        custodians: args.custodians.unwrap_or(CUSTODIANS_DEFAULT),
        relays: vec![relay.url().to_owned()],
        engine: Default::default(),
        program: this_program()?,
        client_ports: !args.no_client_port,
        places: Vec::new(),
    };
    progress.done(&format!("relay:      {}", relay.url()));
    let began = Instant::now();
    progress.doing("making the custodians' identities");
    layout.make().await?;
    progress.doing("starting the custodians");
    let mut cluster = layout.start(|text| progress.doing(text)).await?;
    let took = began.elapsed();
    progress.done(&format!(
        "group:      {}, founded in {:.1} s by {} custodians, each a process of its own; nobody has its key",
        npub(&cluster),
        took.as_secs_f64(),
        cluster.size()
    ));
    let relays = Relays::connect(&layout.relays, DEMO_STEP).await?;
    let group = Group { key: cluster.group, relays, custodians: Vec::new(), wait: DEMO_STEP };
    let (killed, end) = bet(&group, &mut cluster, took, progress).await?;
    progress.doing("verifying from the relay's events alone");
    let verified = verified(&group).await;
    if let Some(path) = &args.export {
        let count = export(&group.relays, path).await?;
        progress.done(&format!("exported:   {count} events to {}", path.display()));
    }
    let report = verified?;
    group.relays.close().await;
    progress.doing("stopping the custodians");
    let custodians = cluster.size();
    let key = cluster.group;
    cluster.stop().await?;
    relay.shutdown().await;
    Ok(Told { group: key, custodians, killed, end, report })
}

/// The bet: returns who was killed, and the last state.
async fn bet(
    group: &Group,
    cluster: &mut Cluster,
    took: Duration,
    progress: &Progress,
) -> Result<(u16, Snapshot), Failure> {
    progress.doing("two bettors, an oracle and an arbiter agree on a bet");
    // A computer that is slow at founding is slow at changing the epoch too.
    let mut bet = Bet::new(group, BET_START + took).await?;
    let published = accepted(bet.publish(group).await?)?;
    progress.done(&format!("bet:        {}, admitted at head {}", bet.machine, published.height));

    let on_its_way = bet.load(group, 0).await?;
    let killed = cluster.leader().unwrap_or(1);
    cluster.kill(killed).await?;
    progress.done(&format!(
        "killed:     custodian {killed}, the leader, with the first stake on its way (SIGKILL)"
    ));
    progress.doing("the others notice that their leader is gone");
    let first = accepted(on_its_way.settled().await?)?;
    progress.done(&format!("stake 1:    certified at head {}{}", first.height, led(cluster)));
    let second = accepted(bet.load(group, 1).await?.settled().await?)?;
    progress.done(&format!("stake 2:    certified at head {}: both are loaded", second.height));

    progress.doing("waiting for the match to begin; nobody sends anything");
    let started = state(group, &bet, "started").await?;
    progress.done(&format!("started:    by time, at head {}", started.height));
    cluster.restart(killed)?;

    let refused = bet.false_result(group).await?.settled().await?;
    let Some(reason) = &refused.reason else {
        return Err(Failure::check(
            "false_result",
            "a bettor's own result was accepted",
            "keep the directory and report it",
        ));
    };
    progress.done(&format!(
        "cheating:   a bettor's own result is rejected ({reason}), signed, at head {}",
        refused.height
    ));
    let result = accepted(bet.result(group).await?.settled().await?)?;
    progress.done(&format!("result:     the oracle's, certified at head {}", result.height));
    progress.doing("the result may be disputed for a moment");
    let end = state(group, &bet, "finished").await?;
    progress.done(&format!("finished:   at head {}", end.height));
    progress.doing(&format!("custodian {killed} catches up"));
    cluster.ready(killed, end.height, DEMO_STEP).await?;
    progress.done(&format!("restarted:  custodian {killed} is back and knows head {}", end.height));
    Ok((killed, end))
}

fn npub(cluster: &Cluster) -> String {
    cluster.group.to_bech32().unwrap_or_else(|_| cluster.group.to_hex())
}

fn led(cluster: &Cluster) -> String {
    cluster.leader().map(|leader| format!(" by the others, led by custodian {leader}")).unwrap_or_default()
}

/// A request that the story needs accepted.
fn accepted(settled: Settled) -> Result<Settled, Failure> {
    settled.refusal().map_or(Ok(settled), Err)
}

/// Waits until the relay shows the bet in a state.
async fn state(group: &Group, bet: &Bet, wanted: &str) -> Result<Snapshot, Failure> {
    let mut feed = group.relays.follow(bet.snapshots(group)).await?;
    let deadline = tokio::time::Instant::now() + DEMO_STEP;
    let mut last = None;
    while let Ok(Some(event)) = timeout_at(deadline, feed.next()).await {
        if let Ok(snapshot) = Snapshot::read(&event, &group.key)
            && snapshot.machine == bet.machine
        {
            if snapshot.value() == wanted {
                return Ok(snapshot);
            }
            if snapshot.status() == "done" {
                let text = format!("the bet ended as {}, it should be `{wanted}` first", snapshot.value());
                return Err(Failure::check(
                    "other_end",
                    text,
                    "this computer may be too slow for the bet's times",
                ));
            }
            last = Some(snapshot.value().to_string());
        }
    }
    let last = last.unwrap_or_else(|| "never seen".to_owned());
    let text = format!("the bet isn't `{wanted}` after {} s; it is {last}", DEMO_STEP.as_secs());
    Err(Failure::not_ready("no_progress", text, "run it with --dir and look into the custodians' logs"))
}

/// Verifies what the relay holds. An event that is still on its way to the relay is waited for.
async fn verified(group: &Group) -> Result<Report, Failure> {
    let deadline = tokio::time::Instant::now() + DEMO_STEP;
    let mut news = group.relays.follow(Filter::new().author(group.key)).await?;
    loop {
        let mut reader = Reader::new(group.key);
        history::fetch(&group.relays, group.key, group.wait, |_| {})
            .await?
            .into_iter()
            .for_each(|event| reader.event(event));
        let failure = match reader.check() {
            Ok(report) => return Ok(report),
            Err(failure) => failure,
        };
        let late = matches!(
            failure.code,
            Code::NoGenesis | Code::Gap | Code::MissingRequest | Code::MissingSnapshot | Code::MissingEvent
        );
        if !late || !matches!(timeout_at(deadline, news.next()).await, Ok(Some(_))) {
            return Err(Failure::check(
                failure.code.as_str(),
                failure.message,
                "keep the export and report it",
            ));
        }
    }
}

/// Writes everything that the relay holds, oldest first.
async fn export(relays: &Relays, path: &Path) -> Result<usize, Failure> {
    let mut events = relays.fetch(Filter::new(), DEMO_STEP).await?;
    events.sort_by_key(|event| (event.created_at(), event.id()));
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        events.iter().try_for_each(|event: &ValidEvent| writeln!(file, "{}", event.json()))?;
        file.into_inner()?.sync_all()
    };
    write().map_err(|error: std::io::Error| {
        Failure::not_ready(
            "export",
            format!("{}: {error}", path.display()),
            "name another file with --export",
        )
    })?;
    Ok(events.len())
}
