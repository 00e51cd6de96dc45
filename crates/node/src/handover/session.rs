//! The ceremony beside consensus: every other custodian of either roster is told all we have for it, at once when something
//! changed and again at growing intervals; its answer is what it has for us.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use concordat_events::{Activation, Hash};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::side::{Change, HandoverError, Side};
use crate::ceremony::CeremonyStatus;
use crate::dir::CustodianDir;
use crate::keys::CustodianKeys;
use crate::transport::Peers;
use concordat_threshold::KeyShare;

/// First pause before a peer is told the same again.
const REPEAT_FIRST: Duration = Duration::from_millis(100);

/// Longest pause: somebody who accepts late is found within it.
const REPEAT_MOST: Duration = Duration::from_secs(2);

/// How often who leads looks at the clock.
const TICK: Duration = Duration::from_millis(250);

/// Time for one exchange: the peer seals and flushes a file in it at most once.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// One custodian's part in one change of roster.
pub(crate) struct Handover {
    side: Mutex<Side>,
    /// Counts changes; everybody is told more when it moves.
    version: watch::Sender<u64>,
    began: Instant,
}

impl Handover {
    pub fn new(
        change: Change,
        dir: Arc<CustodianDir>,
        keys: Arc<CustodianKeys>,
        share: Option<KeyShare>,
    ) -> Arc<Self> {
        let side = Mutex::new(Side::new(change, dir, keys, share));
        Arc::new(Handover { side, version: watch::Sender::new(0), began: Instant::now() })
    }

    fn side(&self) -> MutexGuard<'_, Side> {
        // Every change of the state is one assignment, so it is whole after a panic too.
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The proposal that it is about.
    pub fn proposal(&self) -> Hash {
        self.side().change().change.proposal
    }

    /// How far it is.
    pub fn status(&self) -> CeremonyStatus {
        self.side().status()
    }

    /// What puts the new roster in force, once enough have confirmed.
    pub fn activation(&self) -> Option<Activation> {
        self.side().activation()
    }

    /// Moves when something has changed.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Answers a peer's call; `from` is who the channel says it is.
    pub async fn answer(self: &Arc<Self>, from: u16, body: Bytes) -> Result<Vec<u8>, HandoverError> {
        let own = Arc::clone(self);
        let work = move || {
            own.take(from, &body)?;
            Ok(own.side().word_for(from))
        };
        // It may seal and flush a file.
        tokio::task::spawn_blocking(work).await.map_err(|error| HandoverError::Link(error.to_string()))?
    }

    /// Exchanges with everybody until it is dropped.
    pub async fn run(self: Arc<Self>, peers: Peers) {
        let mut tasks = JoinSet::new();
        let others = self.side().change().others();
        for peer in others {
            tasks.spawn(Arc::clone(&self).talk(peers.clone(), peer));
        }
        loop {
            sleep(TICK).await;
            let own = Arc::clone(&self);
            let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let ticked = tokio::task::spawn_blocking(move || own.side().tick(now)).await;
            match ticked {
                Ok(Ok(true)) => self.moved(),
                Ok(Err(error)) => tracing::warn!(%error, "the key isn't handed over yet"),
                _ => {}
            }
        }
    }

    async fn talk(self: Arc<Self>, peers: Peers, peer: u16) {
        let mut version = self.version.subscribe();
        let mut pause = REPEAT_FIRST;
        loop {
            version.borrow_and_update();
            let word = self.side().word_for(peer);
            match peers.ceremony(peer, Bytes::from(word), CALL_DEADLINE).await {
                Ok(answer) => {
                    let own = Arc::clone(&self);
                    // An error stands in the status beside the peer's name, and the peer is asked again.
                    let _ = tokio::task::spawn_blocking(move || own.take(peer, &answer)).await;
                }
                Err(error) => self.side().unreachable(peer, error.to_string()),
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

    fn take(&self, from: u16, body: &[u8]) -> Result<(), HandoverError> {
        let result = self.side().take(from, body);
        if !matches!(result, Ok(false)) {
            self.moved();
        }
        result.map(drop)
    }

    fn moved(&self) {
        self.version.send_modify(|version| *version += 1);
    }
}
