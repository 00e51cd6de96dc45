//! A change of roster beside consensus: the ceremony that the operator has accepted, the request that ends it, and the shares that
//! it makes useless.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use concordat_events::{Change, Hash, PublicKey};
use concordat_finality::{Input, Origin};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::desk::Desk;
use super::life::Life;
use super::office;
use super::outlet::Outlet;
use crate::dir::{CustodianDir, STATUS};
use crate::engine::Inbox;
use crate::handover::{Accepted, Handover, request};
use crate::keys::{CustodianKeys, file};

/// How often the operator's word is looked for: one look at a directory that is in memory anyway.
const LOOK: Duration = Duration::from_millis(500);

/// Between two requests for the same activation: a leader may fail meanwhile.
const AGAIN: Duration = Duration::from_secs(5);

/// Resolves when what this custodian should do about a change of roster isn't what it does: the operator has accepted another one or
/// none, or the accepted one has come into certified state, or has left it.
pub(super) async fn other_wish(
    path: PathBuf,
    known: Option<Accepted>,
    proposed: bool,
    desk: Desk,
    outlet: Outlet,
) {
    let mut heads = outlet.heads();
    let accepted = known.as_ref().map(|accepted| accepted.proposal);
    loop {
        tokio::select! {
            head = heads.recv() => if matches!(head, Err(RecvError::Closed)) {
                return std::future::pending().await;
            },
            () = tokio::time::sleep(LOOK) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || Accepted::read(&path)).await;
                match read {
                    Ok(Ok(now)) if now != known => return,
                    Ok(Ok(_)) => continue,
                    Ok(Err(error)) => tracing::warn!(%error, "what the operator has accepted can't be read"),
                    Err(_) => {}
                }
            }
        }
        let Some(accepted) = accepted else { continue };
        let found = desk.query(move |decider| {
            decider.ledger().proposals().ok().map(|all| office::proposed(&all, accepted).is_some())
        });
        if found.await.flatten().is_some_and(|found| found != proposed) {
            return;
        }
    }
}

/// Writes how far the ceremony is for `member status`, and tells who watches.
pub(super) async fn report(
    handover: Arc<Handover>,
    dir: Arc<CustodianDir>,
    life: mpsc::UnboundedSender<Life>,
) {
    let mut version = handover.version();
    loop {
        version.borrow_and_update();
        let status = handover.status();
        let text = status.to_json().to_string();
        let path = dir.file(STATUS);
        // It decides nothing; a disk that refuses is found by what does.
        let _ = tokio::task::spawn_blocking(move || file::replace(&path, text.as_bytes())).await;
        let event = Life::Ceremony { stage: status.stage.to_string(), waiting_on: status.waiting_on };
        if life.send(event).is_err() || version.changed().await.is_err() {
            return;
        }
    }
}

/// Asks the group to put the new roster in force, once enough have confirmed. Everybody in force may; the first is enough, so the
/// others wait in turn.
pub(super) async fn activate(
    handover: Arc<Handover>,
    keys: Arc<CustodianKeys>,
    group: PublicKey,
    place: usize,
    desk: Desk,
) {
    let mut version = handover.version();
    let activation = loop {
        version.borrow_and_update();
        if let Some(activation) = handover.activation() {
            break activation;
        }
        if version.changed().await.is_err() {
            return;
        }
    };
    tracing::info!(proposal = %activation.proposal, "the shares of the new roster sign; asking for it to come into force");
    let turn = u32::try_from(place).unwrap_or(u32::MAX);
    tokio::time::sleep(AGAIN.saturating_mul(turn)).await;
    loop {
        match request(&keys, &group, &Change::Activate(activation.clone())) {
            Ok(event) => {
                desk.input(Input::Request { event: Box::new(event), origin: Origin::Client }).await;
            }
            Err(error) => tracing::warn!(%error, "no request to activate the roster"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Erases the shares that came before the roster in force, once it has certified a head: until then the old ones may be needed.
pub(super) async fn erase(
    dir: Arc<CustodianDir>,
    transcript: Option<Hash>,
    since: u64,
    outlet: Outlet,
    tip: Option<u64>,
) {
    let mut heads = outlet.heads();
    let mut height = tip.unwrap_or_default();
    while height <= since {
        match heads.recv().await {
            Ok(head) => height = head.head.height,
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
    match tokio::task::spawn_blocking(move || dir.erase_shares_but(transcript)).await {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(erased)) => tracing::info!(erased, "shares of earlier rosters were erased"),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a share of an earlier roster couldn't be erased; erase it by hand")
        }
    }
}
