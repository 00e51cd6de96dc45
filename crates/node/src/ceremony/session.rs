//! The ceremony over a network: every peer is told all we have for it, at once when something changed and again at
//! growing intervals; its answer is what it has for us. Peers may start at different times and in any order.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use concordat_events::SignedGenesis;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::core::{CeremonyError, Core};
use super::proposal::Proposal;
use super::status::CeremonyStatus;
use crate::dir::CustodianDir;
use crate::keys::CustodianKeys;

/// First pause before a peer is told the same again.
const REPEAT_FIRST: Duration = Duration::from_millis(100);

/// Longest pause: somebody who starts late is found within it.
const REPEAT_MOST: Duration = Duration::from_secs(2);

/// How often the operator's wish to end the ceremony is looked for: one look at a directory that is in memory anyway.
const ABORT_LOOK: Duration = Duration::from_millis(500);

/// Time for one exchange: the peer seals and flushes a file in it at most once.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// The way to the other founders: mutually authenticated and confidential. A body is opaque to it.
pub trait CeremonyLink: Send + Sync + 'static {
    /// Sends a body to a custodian and returns its answer, or what went wrong in words.
    fn call(&self, to: u16, body: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, String>> + Send;
}

/// One custodian's ceremony.
pub struct Session {
    core: Mutex<Core>,
    /// Counts changes of the state; everybody is told more when it moves.
    version: watch::Sender<u64>,
    status: watch::Sender<CeremonyStatus>,
}

impl Session {
    /// Begins a ceremony or takes one up: after a crash, or to go on answering when it is complete.
    pub fn begin(
        dir: Arc<CustodianDir>,
        keys: Arc<CustodianKeys>,
        proposal: Proposal,
    ) -> Result<Arc<Self>, CeremonyError> {
        let core = Core::new(dir, keys, proposal)?;
        let status = watch::Sender::new(core.status());
        Ok(Arc::new(Session { core: Mutex::new(core), version: watch::Sender::new(0), status }))
    }

    /// Follows the ceremony: the newest status replaces the one before.
    pub fn status(&self) -> watch::Receiver<CeremonyStatus> {
        self.status.subscribe()
    }

    /// The genesis, once it is written here.
    pub fn genesis(&self) -> Option<SignedGenesis> {
        self.core().genesis().cloned()
    }

    /// Answers a peer's call; `from` is who the channel says it is.
    pub async fn answer(self: &Arc<Self>, from: u16, body: Vec<u8>) -> Result<Vec<u8>, CeremonyError> {
        let session = Arc::clone(self);
        let work = move || {
            session.take(from, &body)?;
            session.core().bundle_for(from)
        };
        // It may seal and flush a file.
        match tokio::task::spawn_blocking(work).await {
            Ok(answer) => answer,
            Err(error) => Err(CeremonyError::Link(error.to_string())),
        }
    }

    /// Runs until everybody has the genesis; or for `linger` after this custodian has it, or after a fault ended the
    /// ceremony, so that the others hear of it. [`Session::answer`] works before, during and after.
    pub async fn run<L: CeremonyLink>(
        self: &Arc<Self>,
        link: L,
        linger: Duration,
    ) -> Result<SignedGenesis, CeremonyError> {
        let link = Arc::new(link);
        let mut tasks = JoinSet::new();
        let peers = self.core().peers();
        for peer in peers {
            tasks.spawn(Arc::clone(self).talk(Arc::clone(&link), peer));
        }
        let mut version = self.version.subscribe();
        let ended = async {
            while !self.has_ended() {
                tokio::select! {
                    changed = version.changed() => if changed.is_err() { break },
                    // A file: whoever wants to end it is another process.
                    () = sleep(ABORT_LOOK) => self.heed_abort(),
                }
            }
        };
        let all = async { while tasks.join_next().await.is_some() {} };
        tokio::pin!(all);
        tokio::select! {
            () = &mut all => {}
            () = ended => {
                // Those who haven't heard within this time ask again, and `answer` tells them.
                let _ = timeout(linger, &mut all).await;
            }
        }
        let core = self.core();
        match (core.genesis(), core.failure()) {
            (Some(genesis), _) => Ok(genesis.clone()),
            (None, Some(failure)) => Err(failure),
            (None, None) => Err(CeremonyError::Link("all connections ended".into())),
        }
    }

    /// Exchanges with one peer until it has the genesis, or has been told of the fault.
    async fn talk<L: CeremonyLink>(self: Arc<Self>, link: Arc<L>, peer: u16) {
        let mut version = self.version.subscribe();
        let mut pause = REPEAT_FIRST;
        loop {
            version.borrow_and_update();
            let (failed, complete, body) = {
                let core = self.core();
                (core.failure().is_some(), core.genesis().is_some(), core.bundle_for(peer))
            };
            let answer = match body {
                Ok(body) => timeout(CALL_DEADLINE, link.call(peer, body)).await,
                Err(error) => Ok(Err(error.to_string())),
            };
            match answer {
                Ok(Ok(answer)) => {
                    // Told of the fault that ended it; its answer changes nothing any more.
                    if failed {
                        return;
                    }
                    let session = Arc::clone(&self);
                    let work = move || session.take(peer, &answer);
                    // An error stands in the status beside the peer's name, and the peer is asked again.
                    let _ = tokio::task::spawn_blocking(work).await;
                    // Both hold the genesis and know it of each other.
                    if complete && self.core().is_complete(peer) {
                        return;
                    }
                }
                Ok(Err(error)) => self.unreachable(peer, error),
                Err(_) => self.unreachable(peer, format!("no answer within {} s", CALL_DEADLINE.as_secs())),
            }
            tokio::select! {
                changed = version.changed() => match changed {
                    Ok(()) => pause = REPEAT_FIRST,
                    Err(_) => return,
                },
                () = sleep(pause) => pause = (pause * 2).min(REPEAT_MOST),
            }
        }
    }

    fn take(&self, from: u16, body: &[u8]) -> Result<(), CeremonyError> {
        let mut core = self.core();
        let result = core.take(from, body);
        let moved = matches!(result, Ok(true)) || core.failure().is_some();
        self.status.send_replace(core.status());
        drop(core);
        if moved {
            self.version.send_modify(|version| *version += 1);
        }
        result.map(drop)
    }

    fn heed_abort(&self) {
        let mut core = self.core();
        let ended = core.heed_abort();
        self.status.send_replace(core.status());
        drop(core);
        if ended {
            self.version.send_modify(|version| *version += 1);
        }
    }

    fn unreachable(&self, peer: u16, error: String) {
        let mut core = self.core();
        core.unreachable(peer, error);
        self.status.send_replace(core.status());
    }

    fn has_ended(&self) -> bool {
        let core = self.core();
        core.genesis().is_some() || core.failure().is_some()
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        // A panic while it was held would be a defect; the state is still whole, because every change is one assignment.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
