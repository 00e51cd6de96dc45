//! The first look at the relays, and the last word to the peers.

use std::sync::Arc;
use std::time::Duration;

use concordat_events::PublicKey;
use concordat_finality::Input;
use nostr::{Filter, Kind};

use super::desk::Desk;
use crate::engine::Inbox;
use crate::relay::RelayLink;
use crate::transport::Peers;

/// How often a relay is asked for the group's newest log event before it is left alone.
const LOOKS: u32 = 5;

/// Longest wait for the last messages to leave: a round trip around the world.
const LAST_WORDS: Duration = Duration::from_millis(400);

/// Between two looks at what is still to be sent.
const GLANCE: Duration = Duration::from_millis(5);

/// Asks one relay for the newest head that it holds and shows it to the decider: a group that was rolled back as a whole is
/// found out by what the world has seen of it (PROTOCOL 8). A relay that doesn't answer is asked again a few times.
pub(super) async fn look_back<L: RelayLink>(
    link: Arc<L>,
    relay: String,
    group: PublicKey,
    log_kind: u16,
    desk: Desk,
    deadline: Duration,
) {
    let newest = Filter::new().author(group).kind(Kind::from_u16(log_kind)).limit(1);
    let mut pause = Duration::from_secs(1);
    for _ in 0..LOOKS {
        match link.fetch(&relay, newest.clone(), deadline).await {
            Ok(events) => {
                for event in events {
                    desk.input(Input::Relayed(Box::new(event))).await;
                }
                return;
            }
            Err(error) => tracing::debug!(%error, "no look at the newest head"),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// A custodian that stops tells whom it leads, so that the next epoch opens without anybody waiting for it (PROTOCOL 5), and
/// gives its last messages a moment to leave.
pub(super) async fn resign(desk: &Desk, peers: &Peers, others: &[u16]) {
    desk.input(Input::Resign).await;
    // Answered behind the resignation: what it says is on its way then.
    let leads = desk.query(|decider| decider.status().leads).await;
    if leads.is_none() {
        return;
    }
    let sent = async {
        let waiting = |peer: &&u16| peers.queue(**peer).is_some_and(|queue| queue.waiting > 0);
        while others.iter().filter(waiting).count() > others.len() / 2 {
            tokio::time::sleep(GLANCE).await;
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, sent).await;
}
