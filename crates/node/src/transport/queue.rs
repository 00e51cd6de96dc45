//! Consensus messages that wait for one peer: bounded, the oldest dropped first.
//!
//! Every message is repeated until something newer supersedes it (PROTOCOL 3), so a dropped one is a late one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::limits;

/// What became of the messages to one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Waiting now.
    pub waiting: usize,
    /// Handed to a connection; that it arrived isn't known.
    pub sent: u64,
    /// Dropped because too much waited, or the message was too large.
    pub dropped: u64,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
    sent: u64,
    dropped: u64,
    closed: bool,
}

/// The queue to one peer.
#[derive(Default)]
pub(super) struct Outbound {
    waiting: Mutex<Waiting>,
    some: Notify,
}

impl Outbound {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message, dropping the oldest ones that leave no room for it.
    pub fn push(&self, message: Bytes) {
        let mut waiting = self.lock();
        if waiting.closed || message.len() > limits::MAX_MESSAGE_BYTES {
            waiting.dropped += 1;
            return;
        }
        waiting.bytes += message.len();
        waiting.messages.push_back(message);
        while waiting.messages.len() > limits::OUTBOUND_MESSAGES || waiting.bytes > limits::OUTBOUND_BYTES {
            let Some(oldest) = waiting.messages.pop_front() else { break };
            waiting.bytes -= oldest.len();
            waiting.dropped += 1;
        }
        drop(waiting);
        self.some.notify_one();
    }

    /// The next message; waits for one. `None` once closed.
    pub async fn pop(&self) -> Option<Bytes> {
        loop {
            {
                let mut waiting = self.lock();
                if waiting.closed {
                    return None;
                }
                if let Some(message) = waiting.messages.pop_front() {
                    waiting.bytes -= message.len();
                    waiting.sent += 1;
                    return Some(message);
                }
            }
            self.some.notified().await;
        }
    }

    /// Waits until there is a message. False once closed.
    pub async fn ready(&self) -> bool {
        loop {
            {
                let waiting = self.lock();
                if waiting.closed {
                    return false;
                }
                if !waiting.messages.is_empty() {
                    return true;
                }
            }
            self.some.notified().await;
        }
    }

    /// Drops what waits and takes no more.
    pub fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.messages.clear();
        waiting.bytes = 0;
        drop(waiting);
        // Wakes the one that waits, and the next to come.
        self.some.notify_waiters();
        self.some.notify_one();
    }

    pub fn counts(&self) -> QueueCounts {
        let waiting = self.lock();
        QueueCounts { waiting: waiting.messages.len(), sent: waiting.sent, dropped: waiting.dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_goes_first_and_is_dropped_first() {
        let queue = Outbound::default();
        let message = |n: usize| Bytes::from(n.to_be_bytes().to_vec());
        for n in 0..limits::OUTBOUND_MESSAGES + 5 {
            queue.push(message(n));
        }
        assert_eq!(queue.counts(), QueueCounts { waiting: limits::OUTBOUND_MESSAGES, sent: 0, dropped: 5 });
        assert_eq!(queue.pop().await, Some(message(5)));
        assert_eq!(queue.pop().await, Some(message(6)));
        queue.close();
        assert_eq!(queue.pop().await, None);
        queue.push(message(0));
        assert_eq!(queue.counts().waiting, 0);
    }

    #[tokio::test]
    async fn bytes_are_bounded_too() {
        let queue = Outbound::default();
        let large = Bytes::from(vec![0; limits::MAX_MESSAGE_BYTES]);
        let fit = limits::OUTBOUND_BYTES / large.len();
        for _ in 0..fit + 2 {
            queue.push(large.clone());
        }
        assert_eq!(queue.counts(), QueueCounts { waiting: fit, sent: 0, dropped: 2 });
        queue.push(Bytes::from(vec![0; limits::MAX_MESSAGE_BYTES + 1]));
        assert_eq!(queue.counts().dropped, 3);
    }
}
