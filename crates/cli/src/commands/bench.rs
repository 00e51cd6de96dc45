//! `bench`: load against local clusters of real processes, beside the walls of the same computer, and what a head costs in
//! messages as clusters grow.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::stopped;
use crate::bench::cluster::{Figures, Plan, measure};
use crate::bench::talk::{LINEAR, exponent};
use crate::failure::Failure;
use crate::limits::{
    BENCH_CLIENTS, BENCH_COUNTED, BENCH_IDLE, BENCH_LOADED, BENCH_MOST_CLIENTS, BENCH_SECONDS,
};
use crate::ui::{Progress, Ui};

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// How many custodians; if not given, load on 4 and on 7, and messages counted with 4, 5, 6, 7, 10 and 13
    #[arg(long, value_name = "N")]
    pub custodians: Option<usize>,
    /// How many clients send at the same time; each waits for an outcome before it sends again (400 if not given)
    #[arg(long, value_name = "N")]
    pub clients: Option<usize>,
    /// How long the load lasts on each cluster (20 if not given)
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

impl Through {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Through::Relay => "relay",
            Through::Client => "client",
        }
    }
}

/// Runs the command.
pub async fn run(args: BenchArgs, ui: Ui) -> Result<(), Failure> {
    let clients = args.clients.unwrap_or(BENCH_CLIENTS);
    let seconds = args.seconds.unwrap_or(BENCH_SECONDS);
    let through = args.through.unwrap_or(Through::Relay);
    if clients == 0 || clients > BENCH_MOST_CLIENTS || seconds == 0 {
        let text = format!(
            "{clients} clients for {seconds} s; expected 1 to {BENCH_MOST_CLIENTS} clients and a second at least"
        );
        return Err(Failure::usage("bench", text, ""));
    }
    let load = Some((clients, Duration::from_secs(seconds)));
    let whole = |custodians| Plan { custodians, through, idle: BENCH_IDLE, load };
    let plans: Vec<Plan> = match args.custodians {
        Some(custodians) => vec![whole(custodians)],
        None => {
            let counted = BENCH_COUNTED.into_iter().filter(|n| !BENCH_LOADED.contains(n));
            let counted = counted.map(|custodians| Plan { load: None, ..whole(custodians) });
            BENCH_LOADED.into_iter().map(whole).chain(counted).collect()
        }
    };
    let stop = stopped()?;
    let progress = ui.progress();
    let figures = tokio::select! {
        figures = all(plans, &progress) => figures,
        () = stop => Err(Failure::not_ready("interrupted", "the measurement was interrupted", "")),
    };
    progress.finish();
    say(&figures?, ui)
}

/// One cluster after the other: they share the computer's cores.
async fn all(plans: Vec<Plan>, progress: &Progress) -> Result<Vec<Figures>, Failure> {
    let mut figures = Vec::new();
    for plan in plans {
        figures.push(measure(plan, progress).await?);
    }
    figures.sort_by_key(|one| one.plan.custodians);
    Ok(figures)
}

/// The first cluster's figures by themselves, and all clusters' beside them.
fn say(figures: &[Figures], ui: Ui) -> Result<(), Failure> {
    let mut value = figures.first().map_or(Value::Null, Figures::to_json);
    let growth = growth(figures);
    if figures.len() > 1
        && let Some(object) = value.as_object_mut()
    {
        object.insert("clusters".into(), figures.iter().map(Figures::to_json).collect());
        object.insert("growth".into(), growth.iter().map(Growth::to_json).collect());
    }
    ui.result(&value, || {
        let mut parts: Vec<String> =
            figures.iter().filter(|one| one.loaded.is_some()).map(Figures::text).collect();
        if figures.len() > 1 {
            parts.push(table(figures) + &growth.iter().map(Growth::text).collect::<String>());
        }
        parts.join("\n").trim_end().to_owned()
    })
}

/// How one figure grows with the number of custodians.
struct Growth {
    what: &'static str,
    exponent: f64,
}

impl Growth {
    fn linear(&self) -> bool {
        self.exponent <= LINEAR
    }

    fn to_json(&self) -> Value {
        let exponent = (self.exponent * 100.0).round() / 100.0;
        json!({"what": self.what, "exponent": exponent, "linear": self.linear()})
    }

    fn text(&self) -> String {
        let verdict = if self.linear() { "linear" } else { "more than linear" };
        format!("{}: as (n-1)^{:.2}, {verdict}\n", self.what, self.exponent)
    }
}

fn growth(figures: &[Figures]) -> Vec<Growth> {
    let of = |what, value: &dyn Fn(&Figures) -> f64| {
        let points: Vec<(usize, f64)> = figures.iter().map(|one| (one.plan.custodians, value(one))).collect();
        exponent(&points).map(|exponent| Growth { what, exponent })
    };
    [
        of("messages per head and custodian", &|one| one.talk.each().messages),
        of("bytes per head and custodian", &|one| one.talk.each().bytes),
        of("messages per head of the leader", &|one| one.talk.leader.messages),
        of("bytes per head of the leader", &|one| one.talk.leader.bytes),
        of("messages per head of the log group, per custodian", &|one| {
            one.talk.raft.messages / one.talk.custodians.max(1) as f64
        }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn table(figures: &[Figures]) -> String {
    let mut text = String::from(
        "messages and KiB per head, one request each\n n   q   in all           per custodian   the leader      the log group   quiet, per s\n",
    );
    for one in figures {
        let (talk, each) = (&one.talk, one.talk.each());
        let cell = |amount: crate::bench::talk::Amount| {
            format!("{:>6.1} {:>7.1}", amount.messages, amount.bytes / 1024.0)
        };
        text += &format!(
            "{:>2}  {:>2}  {}   {}  {}  {}  {}\n",
            one.plan.custodians,
            one.threshold,
            cell(talk.consensus),
            cell(each),
            cell(talk.leader),
            cell(talk.raft),
            cell(one.quiet),
        );
    }
    text
}
