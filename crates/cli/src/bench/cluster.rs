//! One cluster measured from its start to its end: what it does with one client, what it does with many, and what a head
//! costs in messages.

use std::time::{Duration, Instant};

use concordat_node::client::Client;
use concordat_node::relay::EmbeddedRelay;
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::Latencies;
use super::load::{Load, Measured, Way};
use super::talk::{Amount, Quiet, Reading, Talk, amount};
use super::walls::{Walls, per_second};
use crate::cluster::{Layout, this_program};
use crate::commands::bench::Through;
use crate::failure::Failure;
use crate::limits::{BENCH_QUIET, BENCH_ROUND_TRIPS, DEMO_STEP};
use crate::ui::Progress;
use crate::user::Group;
use crate::user::custodians::failure;
use crate::user::machine::log_kind;
use crate::user::relays::Relays;

/// What is put on a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many custodians.
    pub custodians: usize,
    /// Which way requests take.
    pub through: Through,
    /// How long one client sends alone.
    pub idle: Duration,
    /// How many clients send together, and for how long; `None` if only messages are counted.
    pub load: Option<(usize, Duration)>,
}

/// What was measured of a cluster.
#[derive(Debug)]
pub struct Figures {
    /// What was asked for.
    pub plan: Plan,
    /// The quorum, which is the threshold of its signatures.
    pub threshold: usize,
    /// What the computer could do at most; measured only where there is load.
    pub walls: Option<Walls>,
    /// One client alone.
    pub idle: Measured,
    /// Many clients.
    pub loaded: Option<Measured>,
    /// A question to a custodian and its answer: TLS, both processes and the decider's queue, no disk.
    pub round_trips: Latencies,
    /// What a quiet cluster sends in a second.
    pub quiet: Amount,
    /// What a head costs, with one client: nearly every request has a head of its own.
    pub talk: Talk,
}

/// The quorum of so many custodians (PROTOCOL section 1).
pub fn threshold(custodians: usize) -> usize {
    let faulty = custodians.saturating_sub(1) / 3;
    (custodians + faulty) / 2 + 1
}

/// Makes a cluster, measures it, stops it.
pub async fn measure(plan: Plan, progress: &Progress) -> Result<Figures, Failure> {
    let n = plan.custodians;
    let doing = |what: &str| progress.doing(&format!("{n} custodians: {what}"));
    let relay = EmbeddedRelay::start(None, 0)
        .await
        .map_err(|error| Failure::not_ready("relay_not_started", error.to_string(), ""))?;
    let dir =
        tempfile::tempdir().map_err(|error| Failure::not_ready("temporary_dir", error.to_string(), ""))?;
    let layout = Layout {
        dir: dir.path().to_owned(),
        custodians: n,
        relays: vec![relay.url().to_owned()],
        engine: Default::default(),
        program: this_program()?,
        // Their counters are read there, whichever way the load takes.
        client_ports: true,
        places: Vec::new(),
    };
    doing("starting");
    layout.make().await?;
    let threshold = threshold(n);
    let mut walls = None;
    if plan.load.is_some() {
        // Nothing else runs yet: the walls are those of a free core.
        doing("measuring one signature check, one FROST message and one flush");
        let number = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
        let (n, t, place) = (number(n), number(threshold), dir.path().to_owned());
        let measured = tokio::task::spawn_blocking(move || Walls::measure(n, t, &place)).await;
        walls = Some(measured.map_err(|error| Failure::check("measure", error.to_string(), ""))??);
    }
    let cluster = layout.start(doing).await?;
    let clients = try_join_all(cluster.clients().into_iter().map(Client::connect)).await.map_err(failure)?;
    let relays = Relays::connect(&layout.relays, DEMO_STEP).await?;
    let group = Group { key: cluster.group, relays, custodians: Vec::new(), wait: DEMO_STEP };
    let kind = log_kind(&group.relays, group.key, group.wait).await?;
    let way = match plan.through {
        Through::Relay => Way::Relay,
        Through::Client => Way::Client(clients.clone()),
    };
    let load = Load::prepare(group, kind, way).await?;
    doing("listening to a quiet cluster");
    let before = Reading::take(&clients).await?;
    tokio::time::sleep(BENCH_QUIET).await;
    let after = Reading::take(&clients).await?;
    let quiet = Quiet::between(&before, &after);
    let round_trips = round_trips(&clients).await?;
    doing("one client on an idle cluster");
    let before = Reading::take(&clients).await?;
    let idle = load.run(1, plan.idle).await?;
    let talk = Talk::between(&before, &Reading::take(&clients).await?, &quiet)?;
    let mut loaded = None;
    if let Some((together, time)) = plan.load {
        doing(&format!("{together} clients for {} s", time.as_secs()));
        loaded = Some(load.run(together, time).await?);
    }
    doing("stopping");
    cluster.stop().await?;
    relay.shutdown().await;
    let quiet = quiet.total();
    Ok(Figures { plan, threshold, walls, idle, loaded, round_trips, quiet, talk })
}

async fn round_trips(clients: &[Client]) -> Result<Latencies, Failure> {
    let mut all = Latencies::default();
    for client in clients.iter().cycle().take(BENCH_ROUND_TRIPS) {
        let began = Instant::now();
        client.status().await.map_err(failure)?;
        all.add(began.elapsed());
    }
    Ok(all)
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn rate(count: usize, took: Duration) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from) / took.as_secs_f64().max(f64::EPSILON)
}

/// Cores of this computer.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Figures {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        let Figures { plan, idle, .. } = self;
        let mut value = json!({
            "custodians": plan.custodians,
            "threshold": self.threshold,
            "through": plan.through.name(),
            "cores": cores(),
            "p50_ms": round(idle.latencies.percentile_ms(50)),
            "p95_ms": round(idle.latencies.percentile_ms(95)),
            "p99_ms": round(idle.latencies.percentile_ms(99)),
            "idle_requests": idle.latencies.count(),
            "idle_heads_per_s": round(rate(idle.heads, idle.took)),
            "round_trip_p50_ms": (self.round_trips.percentile_ms(50) * 100.0).round() / 100.0,
            "quiet_per_s": amount(self.quiet),
            "talk": self.talk.to_json(),
        });
        let mut add = |name: &str, entry: Value| {
            if let Some(object) = value.as_object_mut() {
                object.insert(name.to_owned(), entry);
            }
        };
        if let (Some(loaded), Some((clients, _))) = (&self.loaded, plan.load) {
            add("clients", json!(clients));
            add("seconds", json!(round(loaded.took.as_secs_f64())));
            add("requests", json!(loaded.latencies.count()));
            add("rejected", json!(loaded.rejected));
            add("unanswered", json!(loaded.unanswered));
            add("requests_per_s", json!(round(rate(loaded.latencies.count(), loaded.took))));
            add("heads_per_s", json!(round(rate(loaded.heads, loaded.took))));
            add("load_p50_ms", json!(round(loaded.latencies.percentile_ms(50))));
            add("load_p95_ms", json!(round(loaded.latencies.percentile_ms(95))));
            add("load_p99_ms", json!(round(loaded.latencies.percentile_ms(99))));
        }
        if let Some(walls) = &self.walls {
            add("wall_requests_per_s", json!(round(per_second(cores(), walls.check, plan.custodians))));
            add("wall_frost_messages_per_s", json!(round(per_second(cores(), walls.message, 1))));
            add("signature_check_us", json!(round(walls.check * 1e6)));
            add("frost_message_us", json!(round(walls.message * 1e6)));
            add("flush_us", json!(round(walls.flush * 1e6)));
            add("p50_in_flushes", json!(round(idle.latencies.percentile_ms(50) / (walls.flush * 1e3))));
        }
        value
    }

    /// For people: what it did.
    pub fn text(&self) -> String {
        let Figures { plan, idle, talk, .. } = self;
        let n = plan.custodians;
        let mut text = String::new();
        if let (Some(loaded), Some((clients, _))) = (&self.loaded, plan.load) {
            let (requests, heads) =
                (rate(loaded.latencies.count(), loaded.took), rate(loaded.heads, loaded.took));
            text += &format!(
                "{n} custodians, {clients} clients through the {}, {} cores shared by all of them\n\
                 certified:  {requests:.0} requests/s in {heads:.1} heads/s ({} requests in {:.1} s, {} rejected, {} unanswered)\n\
                 under load: {}\n",
                plan.through.name(),
                cores(),
                loaded.latencies.count(),
                loaded.took.as_secs_f64(),
                loaded.rejected,
                loaded.unanswered,
                percentiles(&loaded.latencies),
            );
        }
        text += &format!(
            "latency:    {} (one client, idle cluster, {} requests, {:.1} heads/s); round trip {:.1} ms\n",
            percentiles(&idle.latencies),
            idle.latencies.count(),
            rate(idle.heads, idle.took),
            self.round_trips.percentile_ms(50),
        );
        if let Some(walls) = &self.walls {
            text += &format!(
                "the walls:  {:.0} requests/s if every core only checked signatures ({:.0} us each, on each custodian)\n\
                 \x20           {:.0} FROST messages/s if every core only signed ({:.0} us for all {} signers together)\n\
                 \x20           {:.1} ms for one flush of the disk: the latency is that of {:.0} of them\n",
                per_second(cores(), walls.check, n),
                walls.check * 1e6,
                per_second(cores(), walls.message, 1),
                walls.message * 1e6,
                self.threshold,
                walls.flush * 1e3,
                idle.latencies.percentile_ms(50) / (walls.flush * 1e3),
            );
        }
        let each = talk.each();
        text + &format!(
            "one head:   {:.1} messages, {:.1} KiB; per custodian {:.1} and {:.1} KiB, the leader {:.1} and {:.1} KiB; \
             its log group {:.1} and {:.1} KiB\n",
            talk.consensus.messages,
            talk.consensus.bytes / 1024.0,
            each.messages,
            each.bytes / 1024.0,
            talk.leader.messages,
            talk.leader.bytes / 1024.0,
            talk.raft.messages,
            talk.raft.bytes / 1024.0,
        )
    }
}

fn percentiles(latencies: &Latencies) -> String {
    let at = |percent| latencies.percentile_ms(percent);
    format!("p50 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms", at(50), at(95), at(99))
}
