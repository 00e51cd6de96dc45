//! `bench`: load against a local cluster of real processes, beside the walls of the same computer.

use std::time::Duration;

use clap::{Args, ValueEnum};
use concordat_node::client::Client;
use concordat_node::relay::EmbeddedRelay;
use serde_json::json;

use super::{CUSTODIANS_DEFAULT, stopped};
use crate::bench::load::{Load, Measured, Way};
use crate::bench::walls::{Walls, per_second};
use crate::cluster::{Cluster, Layout, this_program};
use crate::failure::Failure;
use crate::limits::{BENCH_CLIENTS, BENCH_IDLE, BENCH_MOST_CLIENTS, BENCH_SECONDS, DEMO_STEP};
use crate::ui::{Progress, Ui};
use crate::user::Group;
use crate::user::custodians::failure;
use crate::user::machine::log_kind;
use crate::user::relays::Relays;

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// How many custodians (4 if not given)
    #[arg(long, value_name = "N")]
    pub custodians: Option<usize>,
    /// How many clients send at the same time; each waits for an outcome before it sends again (400 if not given)
    #[arg(long, value_name = "N")]
    pub clients: Option<usize>,
    /// How long the load lasts (20 if not given)
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u64>,
    /// Which way requests take (relay if not given)
    #[arg(long, value_enum)]
    pub through: Option<Through>,
}

/// Which way requests take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Through {
    /// Published on the relay; counted when the relay shows the log event
    Relay,
    /// Handed to custodians at their client ports; counted when the custodian shows the log event
    Client,
}

/// What was measured.
struct Figures {
    walls: Walls,
    threshold: usize,
    idle: Measured,
    loaded: Measured,
}

/// Runs the command.
pub async fn run(args: BenchArgs, ui: Ui) -> Result<(), Failure> {
    let custodians = args.custodians.unwrap_or(CUSTODIANS_DEFAULT);
    let clients = args.clients.unwrap_or(BENCH_CLIENTS);
    let seconds = args.seconds.unwrap_or(BENCH_SECONDS);
    let through = args.through.unwrap_or(Through::Relay);
    if clients == 0 || clients > BENCH_MOST_CLIENTS || seconds == 0 {
        let text = format!(
            "{clients} clients for {seconds} s; expected 1 to {BENCH_MOST_CLIENTS} clients and a second at least"
        );
        return Err(Failure::usage("bench", text, ""));
    }
    let stop = stopped()?;
    let progress = ui.progress();
    let figures = tokio::select! {
        figures = measure(custodians, clients, Duration::from_secs(seconds), through, &progress) => figures,
        () = stop => Err(Failure::not_ready("interrupted", "the measurement was interrupted", "")),
    };
    progress.finish();
    say(custodians, clients, through, &figures?, ui)
}

async fn measure(
    custodians: usize,
    clients: usize,
    time: Duration,
    through: Through,
    progress: &Progress,
) -> Result<Figures, Failure> {
    let relay = EmbeddedRelay::start(None, 0)
        .await
        .map_err(|error| Failure::not_ready("relay_not_started", error.to_string(), ""))?;
    let dir =
        tempfile::tempdir().map_err(|error| Failure::not_ready("temporary_dir", error.to_string(), ""))?;
    let layout = Layout {
        dir: dir.path().to_owned(),
        custodians,
        relays: vec![relay.url().to_owned()],
        engine: Default::default(),
        program: this_program()?,
        client_ports: through == Through::Client,
    };
    progress.doing("starting the custodians");
    layout.make().await?;
    // Nothing else runs yet: the walls are those of a free core.
    progress.doing("measuring one signature check and one FROST message");
    let threshold = threshold(custodians);
    let number = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
    let (n, t) = (number(custodians), number(threshold));
    let walls = tokio::task::spawn_blocking(move || Walls::measure(n, t))
        .await
        .map_err(|error| Failure::check("measure", error.to_string(), ""))??;
    let cluster = layout.start(|text| progress.doing(text)).await?;
    let relays = Relays::connect(&layout.relays, DEMO_STEP).await?;
    let group = Group { key: cluster.group, relays, custodians: Vec::new(), wait: DEMO_STEP };
    let kind = log_kind(&group.relays, group.key, group.wait).await?;
    let load = Load::prepare(group, kind, way(through, &cluster).await?).await?;
    progress.doing("one client on an idle cluster");
    let idle = load.run(1, BENCH_IDLE).await?;
    progress.doing(&format!("{clients} clients for {} s", time.as_secs()));
    let loaded = load.run(clients, time).await?;
    progress.doing("stopping the custodians");
    cluster.stop().await?;
    relay.shutdown();
    Ok(Figures { walls, threshold, idle, loaded })
}

/// The quorum of so many custodians (PROTOCOL section 1).
fn threshold(custodians: usize) -> usize {
    let faulty = custodians.saturating_sub(1) / 3;
    (custodians + faulty) / 2 + 1
}

async fn way(through: Through, cluster: &Cluster) -> Result<Way, Failure> {
    if through == Through::Relay {
        return Ok(Way::Relay);
    }
    let mut clients = Vec::new();
    for address in cluster.clients() {
        clients.push(Client::connect(address).await.map_err(failure)?);
    }
    Ok(Way::Client(clients))
}

fn say(
    custodians: usize,
    clients: usize,
    through: Through,
    figures: &Figures,
    ui: Ui,
) -> Result<(), Failure> {
    let Figures { walls, threshold, idle, loaded } = figures;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let took = loaded.took.as_secs_f64();
    let rate = |count: usize| u32::try_from(count).map_or(f64::NAN, f64::from) / took;
    let (requests, heads) = (rate(loaded.latencies.count()), rate(loaded.heads));
    let wall = per_second(cores, walls.check, custodians);
    let frost = per_second(cores, walls.message, 1);
    let through = if through == Through::Relay { "relay" } else { "client" };
    let round = |value: f64| (value * 10.0).round() / 10.0;
    let value = json!({
        "requests_per_s": round(requests),
        "heads_per_s": round(heads),
        "p50_ms": round(idle.latencies.percentile_ms(50)),
        "p99_ms": round(idle.latencies.percentile_ms(99)),
        "wall_requests_per_s": round(wall),
        "cores": cores,
        "wall_frost_messages_per_s": round(frost),
        "signature_check_us": round(walls.check * 1e6),
        "frost_message_us": round(walls.message * 1e6),
        "load_p50_ms": round(loaded.latencies.percentile_ms(50)),
        "load_p99_ms": round(loaded.latencies.percentile_ms(99)),
        "requests": loaded.latencies.count(),
        "rejected": loaded.rejected,
        "unanswered": loaded.unanswered,
        "idle_requests": idle.latencies.count(),
        "custodians": custodians,
        "threshold": threshold,
        "clients": clients,
        "seconds": round(took),
        "through": through,
    });
    ui.result(&value, || {
        format!(
            "{custodians} custodians, {clients} clients through the {through}, {cores} cores shared by all of them\n\
             certified:  {requests:.0} requests/s in {heads:.1} heads/s ({} requests in {took:.1} s, {} rejected, {} unanswered)\n\
             latency:    p50 {:.0} ms, p99 {:.0} ms (one client, idle cluster, {} requests); p50 {:.0} ms, p99 {:.0} ms under load\n\
             the walls:  {wall:.0} requests/s if every core only checked signatures ({:.0} us each, on each custodian)\n\
             \x20           {frost:.0} FROST messages/s if every core only signed ({:.0} us for all {threshold} signers together)",
            loaded.latencies.count(),
            loaded.rejected,
            loaded.unanswered,
            idle.latencies.percentile_ms(50),
            idle.latencies.percentile_ms(99),
            idle.latencies.count(),
            loaded.latencies.percentile_ms(50),
            loaded.latencies.percentile_ms(99),
            walls.check * 1e6,
            walls.message * 1e6,
        )
    })
}
