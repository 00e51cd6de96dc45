//! A custodian as a process: key ceremony, consensus, relays, the doors for peers and users, put together.
//!
//! The shape is always the same: something outside happens, it is checked at the edge, becomes an `Input` of the decider, and
//! what the decider releases is carried out. Nothing in here decides anything.
//!
//! * [`desk`]: the decider's own thread;
//! * [`door`]: what peers may ask; [`counter`]: what users may ask;
//! * [`outlet`]: certified heads to the outbox, to waiting users, to the intake.

pub(crate) mod change;
mod counter;
pub(crate) mod db;
mod desk;
mod door;
mod farewell;
mod found;
mod life;
mod office;
pub(crate) mod offline;
mod outlet;
mod reach;
mod shown;
mod standstill;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use concordat_finality::{Decider, Input, Origin, Parts, Timing};
use tokio::sync::{mpsc, watch};

pub use self::life::{Life, RunError};

use self::counter::Counter;
use self::db::Db;
use self::desk::{Clock, Desk, Exits};
use self::door::Door;
use self::found::Founded;
use self::office::Standing;
use self::outlet::Outlet;
use crate::certificate;
use crate::client;
use crate::config::ClientListen;
use crate::engine::{self, Groups, Inbox, Outside, Setting};
use crate::handover::Handover;
use crate::order::{self, ThreadFlusher, TokioRuntime};
use crate::relay::{Interest, LinkOptions, NostrLink, Outward, PublishPolicy, RelayLink};
use crate::transport::{Certificate, Listener, Peers};

/// How long open calls may take when a custodian stops.
const GRACE: Duration = Duration::from_secs(2);

/// A custodian as a process: tokio, files and sockets.
pub(crate) enum Process {}

impl Outside for Process {
    type Rt = TokioRuntime;
    type Store = Db;
    type Flusher = Arc<ThreadFlusher>;
    type Link = Peers;
    type Inbox = Desk;
}

/// What an operator says at this start.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunOptions {
    /// The disk was not restored from a backup (PROTOCOL 8).
    pub not_restored: bool,
}

/// Runs a custodian from its directory until `shutdown` resolves: the key ceremony first if there is a proposal and no
/// genesis, then consensus.
///
/// # Errors
/// [`RunError`] says what is wrong and what to do. An error of the store or a contradiction with what the group signed is
/// final for this process.
pub async fn run(
    config: &Path,
    options: RunOptions,
    shutdown: impl Future<Output = ()> + Send,
    life: mpsc::UnboundedSender<Life>,
) -> Result<(), RunError> {
    whole_run(config, options, Box::pin(shutdown), life).await
}

/// What ends a run.
type Shutdown<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Boxed, so that a custodian is compiled here once and not again in every program that runs one.
fn whole_run<'a>(
    config: &'a Path,
    options: RunOptions,
    mut shutdown: Shutdown<'a>,
    life: mpsc::UnboundedSender<Life>,
) -> std::pin::Pin<Box<dyn Future<Output = Result<(), RunError>> + 'a>> {
    Box::pin(async move {
        loop {
            let founded = tokio::select! {
                founded = found::found(config, &life) => founded?,
                () = &mut shutdown => {
                    let _ = life.send(Life::Stopped { reason: "asked to stop during the ceremony".into() });
                    return Ok(());
                }
            };
            let holds = founded.holds();
            let end = consensus(founded, options, &mut shutdown, &life).await?;
            if !matches!(end, End::Asked) {
                holds.released().await;
            }
            match end {
                End::Asked => break,
                // Everything is built anew under it: decider, pins, links.
                End::Roster => {
                    tracing::info!("another roster is in force; this custodian begins again under it")
                }
                End::Change => {
                    tracing::info!(
                        "another change of roster is accepted; this custodian begins again with those it names"
                    )
                }
            }
        }
        let _ = life.send(Life::Stopped { reason: "asked to stop".into() });
        Ok(())
    })
}

/// How consensus ends without an error.
enum End {
    /// Somebody asked for it.
    Asked,
    /// Another roster is in force.
    Roster,
    /// The operator has accepted another change of roster, or the accepted one has come into certified state.
    Change,
}

async fn consensus(
    founded: Founded,
    options: RunOptions,
    shutdown: &mut Shutdown<'_>,
    life: &mpsc::UnboundedSender<Life>,
) -> Result<End, RunError> {
    let Founded { dir, config, keys, accepted, genesis, addresses, certificate, db, session } = founded;
    let for_peers = Certificate::from_der(certificate.der().to_vec(), certificate.key_der().clone());
    let group = genesis.group_key;
    let standing = Standing::read(&dir, &keys, &db, &genesis, accepted.as_ref(), addresses)?;
    let (pins, members) = (standing.pins(&certificate::seen(&dir)?), standing.members(&config.peers));
    let newest = pins.newest();
    let (change, proposed) = (standing.change(), standing.proposed.is_some());
    let Standing { context, me, share, addresses, .. } = standing;
    let context = Arc::new(context);
    let handover = match change {
        Some(change) => {
            let own = dir.share_of(&keys, context.office.transcript)?;
            Some(Handover::new(change, dir.clone(), keys.clone(), own))
        }
        None => None,
    };
    let in_force = share.as_ref().map(|_| context.office.transcript);
    if context.votes(me) && share.is_none() {
        let path = dir.share_file(context.office.transcript);
        let message = format!(
            "{} isn't here: this custodian follows along without a vote; restore it from a backup, or have fresh shares made \
             (`share refresh`)",
            path.display()
        );
        tracing::warn!("{message}");
        let _ = life.send(Life::Alarm { message });
    }

    let listener = Listener::bind(&config.listen.to_string()).await?;
    let clock = Clock::start();
    let decider = Decider::open(Parts {
        context: context.clone(),
        me,
        identity: Box::new(*keys.keypair()),
        share,
        store: Arc::new(db.clone()),
        timing: Timing { timeout_ms: config.timeouts.epoch_ms },
        boot: found::boot_id(),
        not_restored: options.not_restored,
        entropy: Box::new(rand::rngs::OsRng),
    })
    .map_err(RunError::fatal)?;
    let tip = decider.status().certified.map(|(height, _)| height);

    // The ways out: peers, the epoch's Raft group, relays.
    let roster = &context.roster;
    let peers = Peers::new(for_peers, pins.clone(), members)?;
    let relays = config.relays.clone().unwrap_or_else(|| context.genesis.relays.clone());
    let options = LinkOptions { deadline: config.timeouts.relay(), ..LinkOptions::default() };
    let link = Arc::new(NostrLink::connect(&relays, options).await?);

    let place = roster.numbers().position(|number| number == me).unwrap_or_default();
    // One for all that keeps something in the store: the log and the outbox share flushes.
    let flusher = ThreadFlusher::start(db.clone())
        .map_err(|error| RunError::Internal(format!("no thread for the flusher: {error}")))?;
    let flusher = Arc::new(flusher);
    let policy = PublishPolicy::new(relays, place, roster.n());
    let (outward, port) =
        Outward::<TokioRuntime, _, _, _>::new(Arc::new(db.clone()), flusher.clone(), link.clone(), policy);
    outward.catch_up(tip, |height| decider.published(height).map_err(RunError::fatal)).await?;
    let publishing = outward.status();
    let (interest, interested) = watch::channel(Interest::default());
    let since = decider.ledger().tip().map_or(context.genesis.time_ms, |tip| tip.time_ms) / 1000;
    let outlet = Outlet::new(port, group, interest, since.saturating_sub(3600), life.clone());
    outlet.catch_up(&decider)?;

    let (orders, ordered) = engine::orders();
    let ways =
        Exits { peers: peers.clone(), outlet: outlet.clone(), orders, life: life.clone(), reopened: false };
    let (desk, mut fatal) = Desk::start(decider, clock, ways)?;
    let setting = Setting {
        context: context.clone(),
        me,
        store: db.clone(),
        flusher,
        link: peers.clone(),
        inbox: desk.clone(),
        timing: order::Timing {
            heartbeat: config.timeouts.heartbeat(),
            leader_timeout: config.timeouts.epoch(),
            ..order::Timing::default()
        },
    };
    let (groups, log_failed) = Groups::<Process>::start(setting, ordered);

    // The ways in: peers, users, relays.
    let door = Door::new(context.clone(), desk.clone(), groups.clone(), session, handover.clone());
    let door = Arc::new(door);
    let shown_now = watch::Sender::new(shown::Current::of(&certificate));
    let serving = listener.serve(&certificate, pins, door)?;
    let counter = Arc::new(Counter::new(
        context.clone(),
        desk.clone(),
        groups.clone(),
        outlet.clone(),
        publishing,
        peers.clone(),
        db.clone(),
        addresses,
        handover.clone(),
        shown_now.subscribe(),
    ));
    let server = match config.client_listen {
        ClientListen::Off => None,
        ClientListen::At(address) => Some(client::serve(address, serving.shown().clone(), counter).await?),
    };
    let (name, for_peers) = (config.name.clone(), serving.address().to_string());
    let for_users = server.as_ref().map(|server| server.address());
    let listening = move |pin| {
        let client = for_users.map(|address| format!("{address}#{pin}"));
        Life::Listening { name: name.clone(), peers: for_peers.clone(), client }
    };
    let _ = life.send(listening(certificate.pin()));

    let mut tasks = tokio::task::JoinSet::new();
    let doors = shown::Doors {
        shown: serving.shown().clone(),
        peers: peers.clone(),
        current: shown_now,
        listening: Box::new(listening),
    };
    tasks.spawn(shown::watch(dir.clone(), keys.clone(), doors, life.clone()));
    tasks.spawn(shown::keep(dir.clone(), newest));
    let reach = Arc::new(reach::Reach::new(context.q(), life.clone()));
    for member in context.roster.numbers().filter(|number| *number != me) {
        let watch = reach.clone().watch(
            member,
            peers.clone(),
            desk.clone(),
            config.timeouts.heartbeat(),
            config.timeouts.epoch(),
        );
        tasks.spawn(watch);
    }
    tasks.spawn(standstill::watch(desk.clone(), context.clone(), config.timeouts.epoch(), life.clone()));
    let (mut heads, parked, requests) = (outlet.heads(), outlet.clone(), desk.clone());
    tasks.spawn(async move {
        // Inputs that a relay brought before their machine was certified.
        while !matches!(heads.recv().await, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
            for event in parked.ready() {
                requests.input(Input::Request { event: Box::new(event), origin: Origin::Relay }).await;
            }
        }
    });
    let mut received = link.subscribe(interested);
    let (intake, requests) = (outlet.clone(), desk.clone());
    tasks.spawn(async move {
        while let Some(received) = received.recv().await {
            if let Some(event) = intake.take(received.event) {
                requests.input(Input::Request { event: Box::new(event), origin: Origin::Relay }).await;
            }
        }
    });
    if let Some(handover) = handover {
        tasks.spawn(handover.clone().run(peers.clone()));
        tasks.spawn(change::report(handover.clone(), dir.clone(), life.clone()));
        if let Some(place) = roster.numbers().position(|number| number == me) {
            tasks.spawn(change::activate(handover, keys.clone(), group, place, desk.clone()));
        }
    }
    if context.office.since > 0 && (in_force.is_some() || !context.votes(me)) {
        tasks.spawn(change::erase(dir.clone(), in_force, context.office.since, outlet.clone(), tip));
    }
    let other_wish =
        change::other_wish(dir.path().to_owned(), accepted, proposed, desk.clone(), outlet.clone());
    tokio::pin!(other_wish);
    let outward = outward.run();
    tokio::pin!(outward);
    desk.input(Input::Start).await;
    for relay in link.relays() {
        let kind = context.genesis.kinds.log;
        let deadline = config.timeouts.relay();
        tasks.spawn(farewell::look_back(link.clone(), relay, group, kind, desk.clone(), deadline));
    }
    let status = desk.query(|decider| decider.status()).await;
    let epoch = status.as_ref().map_or(0, |status| status.epoch);
    let _ = life.send(Life::Ready { group: group.to_hex(), number: me, height: tip, epoch });

    let result = tokio::select! {
        () = &mut *shutdown => {
            let others: Vec<u16> = context.roster.numbers().filter(|number| *number != me).collect();
            farewell::resign(&desk, &peers, &others).await;
            Ok(End::Asked)
        }
        () = &mut other_wish => {
            let others: Vec<u16> = context.roster.numbers().filter(|number| *number != me).collect();
            farewell::resign(&desk, &peers, &others).await;
            Ok(End::Change)
        }
        ended = &mut fatal => match ended {
            Ok(Ok(())) => Ok(End::Roster),
            Ok(Err(error)) => Err(RunError::fatal(error)),
            Err(_) => Err(RunError::Internal("the decider ended".into())),
        },
        error = &mut outward => Err(RunError::Store(error)),
        _ = log_failed => Err(RunError::Internal("the ordered log's store failed".into())),
    };
    tasks.shutdown().await;
    link.shutdown().await;
    groups.close().await;
    peers.close();
    serving.shutdown().await;
    if let Some(server) = server {
        server.shutdown(GRACE).await;
    }
    desk.stop().await;
    result
}
