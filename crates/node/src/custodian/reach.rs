//! Which peers can be reached: a sign of life is asked for at every heartbeat.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use concordat_finality::Input;
use tokio::sync::mpsc;

use super::desk::Desk;
use super::life::Life;
use crate::engine::Inbox;
use crate::transport::Peers;

/// The peers that answer.
pub(crate) struct Reach {
    up: Mutex<BTreeSet<u16>>,
    needed: usize,
    life: mpsc::UnboundedSender<Life>,
}

impl Reach {
    /// `needed` make a quorum, this custodian included.
    pub fn new(needed: usize, life: mpsc::UnboundedSender<Life>) -> Self {
        Reach { up: Mutex::default(), needed, life }
    }

    /// Asks a peer for a sign of life until the task ends; tells the decider, and whoever watches, when the answer changes.
    pub async fn watch(
        self: Arc<Self>,
        peer: u16,
        peers: Peers,
        desk: Desk,
        heartbeat: Duration,
        deadline: Duration,
    ) {
        let mut known = None;
        let mut pulse = tokio::time::interval(heartbeat);
        pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pulse.tick().await;
            let up = peers.fetch(peer, Bytes::new(), deadline).await.is_ok();
            if known != Some(up) {
                known = Some(up);
                self.note(peer, up);
                desk.input(Input::Reachable { peer, up }).await;
            }
        }
    }

    fn note(&self, peer: u16, up: bool) {
        let mut all = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        if if up { all.insert(peer) } else { all.remove(&peer) } || !up {
            let reachable = all.len() + 1;
            let certifying = reachable >= self.needed;
            let _ = self.life.send(Life::Quorum { reachable, needed: self.needed, certifying });
        }
    }
}
