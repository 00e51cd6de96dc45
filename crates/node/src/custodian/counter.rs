//! What users may ask: send a request and wait for its certified outcome, read a machine with its proof, watch it, see how the
//! custodian is.

use std::collections::BTreeMap;
use std::sync::Arc;

use concordat_events::{Hash, ValidEvent};
use concordat_finality::message::Kind;
use concordat_finality::{Bar, Context, Decider, Input, Origin, Published};
use concordat_store::StoreError;
use serde_json::json;
use tokio::sync::{broadcast, watch};

use super::Process;
use super::db::Db;
use super::desk::Desk;
use super::outlet::Outlet;
use super::shown::Current;
use crate::client::{
    CertifiedOutcome, ClientHandler, EvidencePiece, HandlerError, MachineView, OutcomeFuture, Proven, Status,
    UpdateStream,
};
use crate::engine::{Groups, Inbox};
use crate::handover::Handover;
use crate::order::Health;
use crate::relay::OutboxStatus;
use crate::transport::{Count, Peers, Sent};

/// See the module's header.
pub(crate) struct Counter {
    context: Arc<Context>,
    desk: Desk,
    groups: Groups<Process>,
    outlet: Outlet,
    publishing: watch::Receiver<OutboxStatus>,
    peers: Peers,
    db: Db,
    /// Where the custodians are, as far as known.
    addresses: BTreeMap<u16, String>,
    /// The change of roster that the operator has accepted.
    handover: Option<Arc<Handover>>,
    /// The TLS certificate that it shows.
    shown: watch::Receiver<Current>,
}

fn stopped() -> HandlerError {
    HandlerError::Failed("it is stopping".into())
}

fn broken(error: impl std::fmt::Display) -> HandlerError {
    HandlerError::Failed(error.to_string())
}

impl Counter {
    #[expect(clippy::too_many_arguments, reason = "what a custodian is made of, named once")]
    pub fn new(
        context: Arc<Context>,
        desk: Desk,
        groups: Groups<Process>,
        outlet: Outlet,
        publishing: watch::Receiver<OutboxStatus>,
        peers: Peers,
        db: Db,
        addresses: BTreeMap<u16, String>,
        handover: Option<Arc<Handover>>,
        shown: watch::Receiver<Current>,
    ) -> Self {
        Counter { context, desk, groups, outlet, publishing, peers, db, addresses, handover, shown }
    }

    /// The outcome of a request that is certified already.
    async fn known(&self, event: &ValidEvent) -> Option<CertifiedOutcome> {
        let (id, group) = (event.id(), self.context.group());
        let machine = match concordat_events::Route::of(event, &group) {
            Ok(concordat_events::Route::Input(input)) => input.machine,
            Ok(concordat_events::Route::Change(_)) => self.context.cluster,
            _ => id,
        };
        let height = self
            .desk
            .query(move |decider| decider.ledger().settled(&machine, &id).ok().flatten())
            .await
            .flatten()?;
        let context = self.context.clone();
        let head = concordat_finality::record::published(&self.db, &context, height).ok().flatten()?;
        let outcome =
            head.head.outcomes.iter().find(|(request, _)| *request == id).map(|(_, outcome)| outcome)?;
        Some(CertifiedOutcome {
            request: id,
            rejected: outcome.reason().map(str::to_owned),
            height,
            log_event: head.log()?.clone(),
            state: None,
        })
    }
}

impl ClientHandler for Counter {
    async fn submit(&self, request: ValidEvent) -> Result<OutcomeFuture, HandlerError> {
        if let Some(known) = self.known(&request).await {
            return Ok(Box::pin(async move { Ok(known) }));
        }
        let (event, wall_ms) = (request.clone(), super::desk::Clock::start().now().wall_ms);
        let judged = self.desk.query(move |decider| decider.ledger().judge(&event, wall_ms)).await;
        if let Some(refusal) = judged.ok_or_else(stopped)?.map_err(broken)? {
            return Err(HandlerError::Refused(refusal.code().to_owned()));
        }
        let waiting = self
            .outlet
            .wait_for(request.id())
            .ok_or_else(|| HandlerError::Busy("too many users wait".into()))?;
        self.desk.input(Input::Request { event: Box::new(request), origin: Origin::Client }).await;
        Ok(Box::pin(async move { waiting.await.map_err(|_| stopped()) }))
    }

    async fn machine(&self, machine: Hash) -> Result<MachineView, HandlerError> {
        let context = self.context.clone();
        let db = self.db.clone();
        self.desk.query(move |decider| view(decider, &context, &db, machine)).await.ok_or_else(stopped)?
    }

    async fn prove(&self, leaves: Vec<String>) -> Result<Proven, HandlerError> {
        let (context, db) = (self.context.clone(), self.db.clone());
        self.desk.query(move |decider| proven(decider, &context, &db, &leaves)).await.ok_or_else(stopped)?
    }

    async fn watch(&self, machine: Hash) -> Result<UpdateStream<MachineView>, HandlerError> {
        // Subscribed before the first look, so that nothing falls between.
        let heads = self.outlet.heads();
        let first = self.machine(machine).await?;
        let (desk, context, db) = (self.desk.clone(), self.context.clone(), self.db.clone());
        let watching = Watching { first: Some(first), last: None, heads, desk, context, db, machine };
        Ok(Box::pin(futures::stream::unfold(watching, Watching::next)))
    }

    async fn evidence(&self) -> Result<Vec<EvidencePiece>, HandlerError> {
        let pieces = self.desk.query(|decider| {
            let piece = |evidence: &concordat_finality::Evidence| EvidencePiece {
                custodian: evidence.finding.culprit,
                fault: evidence.finding.fault.to_string(),
                epoch: evidence.finding.epoch,
                place: evidence.finding.place,
                signed: evidence.export(),
            };
            decider.evidence().map(piece).collect()
        });
        pieces.await.ok_or_else(stopped)
    }

    async fn status(&self) -> Result<Status, HandlerError> {
        let status = self.desk.query(|decider| decider.status()).await.ok_or_else(stopped)?;
        let addresses = self.addresses.clone();
        let office = self.desk.query(move |decider| office(decider, &addresses)).await;
        let office = office.ok_or_else(stopped)?.map_err(broken)?;
        let log = self.groups.health().await;
        let publishing = self.publishing.borrow().clone();
        let state = match (status.running, status.bar) {
            _ if status.outside => "following",
            (false, _) => "starting",
            (true, Bar::None) if status.started => "running",
            (true, Bar::None) => "opening",
            (true, _) => "quarantine",
        };
        let details = json!({
            "seq": status.seq,
            "pool": status.pool,
            "timeout_ms": status.timeout_ms,
            "complained": status.complained,
            "leads": status.leads,
            "named": status.named,
            "evidence": status.evidence.iter().map(|finding| json!({
                "custodian": finding.culprit,
                "fault": format!("{:?}", finding.fault).to_lowercase(),
                "epoch": finding.epoch,
                "place": finding.place,
            })).collect::<Vec<_>>(),
            "office": office,
            "change": self.handover.as_ref().map(|handover| handover.status().to_json()),
            "certificate": self.shown.borrow().to_json(super::shown::now()),
            "unreachable": status.unreachable,
            "quorum": self.context.q(),
            "custodians": self.context.roster.n(),
            "certified": status.certified.map(|(height, id)| json!({"height": height, "id": id})),
            "prepared": status.prepared.map(|vote| json!({"epoch": vote.epoch, "height": vote.height, "id": vote.id})),
            "lock": status.lock.map(|vote| json!({"epoch": vote.epoch, "height": vote.height, "id": vote.id})),
            "log": log.map(|log| json!({
                "epoch": log.epoch,
                "core": core(&log.health),
                "leading": matches!(log.health, Health::Alive { leading: true, .. }),
                "refused": log.refusals.into_iter().map(|((peer, reason), count)| {
                    json!({"peer": peer, "reason": reason, "count": count})
                }).collect::<Vec<_>>(),
            })),
            "sent": self.peers.sent().into_iter().map(|(kind, count)| (sent(kind), counted(&count)))
                .collect::<serde_json::Map<_, _>>(),
            "outbox": {
                "waiting": publishing.waiting,
                "stuck": publishing.stuck,
                "relays": publishing.relays.iter().map(|(relay, health)| {
                    (relay.clone(), json!({"held": health.held, "error": health.error, "refuses": health.refuses}))
                }).collect::<serde_json::Map<_, _>>(),
            },
        });
        Ok(Status {
            cluster: self.context.cluster,
            group: self.context.group().to_hex(),
            number: status.me,
            height: status.certified.map_or(0, |(height, _)| height),
            epoch: status.epoch,
            leader: status.leader,
            state: state.to_owned(),
            details: details.to_string(),
        })
    }
}

/// Who is in force, and who is proposed.
fn office(decider: &Decider<Db>, addresses: &BTreeMap<u16, String>) -> Result<serde_json::Value, StoreError> {
    let ledger = decider.ledger();
    let (charter, proposals) = (ledger.charter(), ledger.proposals()?);
    Ok(json!({
        "since": charter.office.since,
        "transcript": charter.office.transcript,
        "roster": charter.roster,
        "addresses": addresses,
        "versions": charter.versions,
        "highest": ledger.highest_number()?,
        "proposals": proposals.iter().map(|(by, proposed)| json!({
            "by": by, "id": proposed.id, "height": proposed.height, "proposal": proposed.proposal,
        })).collect::<Vec<_>>(),
    }))
}

/// A kind of traffic, in a word.
fn sent(kind: Sent) -> String {
    match kind {
        Sent::Message(kind) => match Kind::read(kind) {
            Some(kind) => format!("{kind:?}"),
            None => format!("kind {kind}"),
        },
        Sent::Entries => "raft_entries".to_owned(),
        Sent::Pulse => "raft_pulse".to_owned(),
        Sent::Vote => "raft_vote".to_owned(),
        Sent::Fetch => "sign_of_life".to_owned(),
        Sent::Ceremony => "key_ceremony".to_owned(),
    }
}

fn counted(count: &Count) -> serde_json::Value {
    json!({
        "messages": count.messages,
        "bytes": count.bytes,
        "answers": count.answers,
        "answer_bytes": count.answer_bytes,
    })
}

/// How a log's core is, in a word.
fn core(health: &Health) -> &'static str {
    match health {
        Health::Alive { .. } => "alive",
        Health::ReadOnly => "read_only",
        Health::Silent => "silent",
        Health::Dead { .. } => "dead",
        Health::Closed => "closed",
    }
}

/// The machine at the certified head with its proof.
fn view(
    decider: &Decider<Db>,
    context: &Context,
    db: &Db,
    machine: Hash,
) -> Result<MachineView, HandlerError> {
    let ledger = decider.ledger();
    let Some(tip) = ledger.tip() else {
        return Err(HandlerError::NotReady("nothing is certified yet".into()));
    };
    let head = concordat_finality::record::published(db, context, tip.height).map_err(broken)?;
    let log = head.as_ref().and_then(|head| head.log()).cloned();
    let proof = ledger.prove(&machine).map_err(broken)?;
    let key = concordat_ledger::machine_key(&machine);
    let leaf = proof.check(&tip.head.state_root, &key).map_err(broken)?.map(str::to_owned);
    let found = ledger.machine(&machine).map_err(broken)?;
    let snapshot = match found {
        Some(found) => Some(concordat_events::json::canonical(found.snapshot()).map_err(broken)?),
        None => None,
    };
    Ok(MachineView {
        machine,
        snapshot,
        height: tip.height,
        log_event: log.ok_or_else(|| HandlerError::Failed("the certified head isn't in the store".into()))?,
        proof: proof.to_json().map_err(broken)?.into_bytes(),
        leaf: leaf.unwrap_or_default().into_bytes(),
    })
}

/// Leaves of the certified state with their proofs.
fn proven(
    decider: &Decider<Db>,
    context: &Context,
    db: &Db,
    leaves: &[String],
) -> Result<Proven, HandlerError> {
    let ledger = decider.ledger();
    let Some(tip) = ledger.tip() else {
        return Err(HandlerError::NotReady("nothing is certified yet".into()));
    };
    let head = concordat_finality::record::published(db, context, tip.height).map_err(broken)?;
    let log = head.as_ref().and_then(|head| head.log()).cloned();
    let proof = |leaf: &String| {
        let proof = ledger.prove_key(leaf.as_bytes()).map_err(broken)?;
        proof.to_json().map_err(broken)
    };
    Ok(Proven {
        height: tip.height,
        log_event: log.ok_or_else(|| HandlerError::Failed("the certified head isn't in the store".into()))?,
        proofs: leaves.iter().map(proof).collect::<Result<_, HandlerError>>()?,
    })
}

/// One user watching one machine.
struct Watching {
    first: Option<MachineView>,
    /// The snapshot that was shown last.
    last: Option<String>,
    heads: broadcast::Receiver<Arc<Published>>,
    desk: Desk,
    context: Arc<Context>,
    db: Db,
    machine: Hash,
}

impl Watching {
    async fn next(mut self) -> Option<(Result<MachineView, HandlerError>, Self)> {
        if let Some(first) = self.first.take() {
            self.last = first.snapshot.clone();
            return Some((Ok(first), self));
        }
        loop {
            // Whoever is behind looks at the state as it is now.
            if matches!(self.heads.recv().await, Err(broadcast::error::RecvError::Closed)) {
                return None;
            }
            let (context, db, machine) = (self.context.clone(), self.db.clone(), self.machine);
            let next = self.desk.query(move |decider| view(decider, &context, &db, machine)).await?;
            match next {
                Ok(view) if view.snapshot == self.last => {}
                Ok(view) => {
                    self.last = view.snapshot.clone();
                    return Some((Ok(view), self));
                }
                Err(error) => return Some((Err(error), self)),
            }
        }
    }
}
