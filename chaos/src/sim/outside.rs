//! What a simulated custodian's tasks run on: virtual time, a disk in memory whose flushes take a while, and links that hand
//! everything to the world.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use concordat_events::ValidEvent;
use concordat_finality::Input;
use concordat_node::engine::{Inbox, Outside};
use concordat_node::order::{AsyncRuntime, FlushFailed, Flusher, LinkError, RaftLink};
use concordat_node::transport::RaftCall;
use concordat_store::Store;
use concordat_store::memory::MemoryStore;
use futures::channel::oneshot;
use futures::task::AtomicWaker;
use openraft_rt_sim::SimRuntime;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

/// Which run of which custodian's process: what belongs to an earlier one reaches nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its seat.
    pub seat: usize,
    /// The process run.
    pub run: u64,
}

/// The answer to a Raft request, when there is one.
pub type Answer = oneshot::Sender<Result<Bytes, LinkError>>;

/// What a custodian's tasks have for the world.
pub enum Mail {
    /// An input of the decider.
    Input {
        /// Whose.
        life: Life,
        /// What.
        input: Input,
    },
    /// A Raft request to a peer.
    Raft {
        /// Whose.
        life: Life,
        /// To which number.
        to: u16,
        /// Which.
        call: RaftCall,
        /// The request.
        request: Bytes,
        /// Where the reply goes.
        answer: Answer,
    },
    /// A peer has answered a Raft request.
    Answered {
        /// Who answered.
        by: Life,
        /// Who asked.
        asker: Life,
        /// What.
        call: RaftCall,
        /// The reply.
        reply: Result<Bytes, LinkError>,
        /// Where it goes.
        answer: Answer,
    },
    /// The store under the log or the outbox has failed.
    LogFailed(Life),
    /// A custodian has let go of everything under its old roster.
    LetGo(Life),
    /// A custodian publishes an event.
    Published(ValidEvent),
    /// A relay brings an event.
    FromRelay {
        /// To whom.
        life: Life,
        /// The event.
        event: ValidEvent,
    },
}

/// The world's letter box.
#[derive(Default)]
pub struct Post {
    letters: Mutex<VecDeque<Mail>>,
    waker: AtomicWaker,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Post {
    /// Leaves a letter.
    pub fn put(&self, mail: Mail) {
        lock(&self.letters).push_back(mail);
        self.waker.wake();
    }

    /// Takes the oldest letter.
    pub fn take(&self) -> Option<Mail> {
        lock(&self.letters).pop_front()
    }

    /// Resolves when there is a letter.
    pub async fn some(&self) {
        std::future::poll_fn(|context| {
            self.waker.register(context.waker());
            if lock(&self.letters).is_empty() { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
        })
        .await;
    }
}

/// Where simulated custodians run.
pub enum Simulated {}

impl Outside for Simulated {
    type Rt = SimRuntime;
    type Store = Arc<MemoryStore>;
    type Flusher = SlowFlusher;
    type Link = Wire;
    type Inbox = Slot;
}

/// The way to the decider.
#[derive(Clone)]
pub struct Slot {
    /// Whose.
    pub life: Life,
    /// The world.
    pub post: Arc<Post>,
}

impl Inbox for Slot {
    async fn input(&self, input: Input) {
        self.post.put(Mail::Input { life: self.life, input });
    }
}

/// The log's way to its peers.
#[derive(Clone)]
pub struct Wire {
    /// Whose.
    pub life: Life,
    /// The world.
    pub post: Arc<Post>,
}

impl Wire {
    async fn call(&self, to: u16, call: RaftCall, request: Bytes) -> Result<Bytes, LinkError> {
        let (answer, answered) = oneshot::channel();
        self.post.put(Mail::Raft { life: self.life, to, call, request, answer });
        answered.await.unwrap_or_else(|_| Err(LinkError { peer: to, why: "the connection broke".into() }))
    }
}

impl RaftLink for Wire {
    async fn append(&self, peer: u16, request: Bytes) -> Result<Bytes, LinkError> {
        self.call(peer, RaftCall::Append, request).await
    }

    async fn vote(&self, peer: u16, request: Bytes) -> Result<Bytes, LinkError> {
        self.call(peer, RaftCall::Vote, request).await
    }
}

/// Flushes after a while, so that other things happen meanwhile.
#[derive(Clone)]
pub struct SlowFlusher {
    /// The disk.
    pub disk: Arc<MemoryStore>,
    /// Longest wait, in ms.
    pub most_ms: u64,
    /// How long the next takes.
    pub dice: Arc<Mutex<ChaCha20Rng>>,
}

impl Flusher for SlowFlusher {
    async fn flush(&self) -> Result<(), FlushFailed> {
        let ms = lock(&self.dice).next_u64() % (self.most_ms + 1);
        if ms > 0 {
            SimRuntime::sleep(Duration::from_millis(ms)).await;
        }
        self.disk.flush().map_err(|error| FlushFailed(error.to_string().into()))
    }
}
