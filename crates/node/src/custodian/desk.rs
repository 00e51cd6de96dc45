//! The decider's own thread: inputs one after the other, ticks when nothing comes, and the release of what it decided.

use std::sync::mpsc as queue;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use concordat_finality::{Action, Alarm, Certified, Decider, Fatal, Input, Now, Published};
use futures::channel::mpsc::UnboundedSender;
use tokio::sync::{mpsc, oneshot};

use super::db::Db;
use super::life::{Life, RunError};
use super::outlet::Outlet;
use crate::engine::{Inbox, Ways, release};
use crate::transport::Peers;

/// Inputs on their way; whoever brings more waits.
const INPUTS: usize = 1024;

type Query = Box<dyn FnOnce(&Decider<Db>) + Send>;

enum Command {
    Input(Input),
    Query(Query),
    Stop,
}

/// How the decider's thread ended: without an error when another roster is in force.
pub(crate) type Ended = oneshot::Receiver<Result<(), Fatal>>;

/// A handle to the decider.
#[derive(Clone)]
pub(crate) struct Desk {
    commands: queue::Sender<Command>,
    /// Bounds the inputs on their way, without ever blocking the decider itself.
    space: std::sync::Arc<tokio::sync::Semaphore>,
}

/// The custodian's clocks.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Clock(Instant::now())
    }

    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms: millis(self.0.elapsed()), wall_ms: millis(wall) }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A thread with its ways out.
struct Worker {
    decider: Decider<Db>,
    clock: Clock,
    ways: Exits,
}

/// The ways out of a process.
pub(crate) struct Exits {
    pub peers: Peers,
    pub outlet: Outlet,
    pub orders: UnboundedSender<Action>,
    pub life: mpsc::UnboundedSender<Life>,
    /// Another roster is in force.
    pub reopened: bool,
}

impl Ways for Exits {
    fn send(&mut self, to: u16, message: Bytes) {
        // What is too large or for a stranger can't be sent by anybody; the protocol repeats what got lost.
        if let Err(error) = self.peers.send(to, message) {
            tracing::warn!(%error, "a message wasn't sent");
        }
    }

    fn certified(&mut self, head: Certified<Published>) {
        self.outlet.certified(head);
    }

    fn order(&mut self, action: Action) {
        let _ = self.orders.unbounded_send(action);
    }

    fn reopen(&mut self) {
        self.reopened = true;
    }

    fn alarm(&mut self, alarm: Alarm) {
        let event = match alarm {
            Alarm::Epoch { epoch, leader } => {
                tracing::info!(epoch, leader, "epoch entered");
                Life::Epoch { epoch, leader }
            }
            other => {
                tracing::warn!(alarm = %other, "alarm");
                Life::Alarm { message: other.to_string() }
            }
        };
        let _ = self.life.send(event);
    }
}

impl Inbox for Desk {
    async fn input(&self, input: Input) {
        if let Ok(permit) = self.space.acquire().await {
            permit.forget();
            let _ = self.commands.send(Command::Input(input));
        }
    }
}

impl Desk {
    /// Starts the thread. Gives the handle, and the error that ends the process.
    pub fn start(decider: Decider<Db>, clock: Clock, ways: Exits) -> Result<(Self, Ended), RunError> {
        let (commands, received) = queue::channel();
        let (ended, fatal) = oneshot::channel();
        let space = std::sync::Arc::new(tokio::sync::Semaphore::new(INPUTS));
        let freed = space.clone();
        let worker = Worker { decider, clock, ways };
        std::thread::Builder::new()
            .name("decider".into())
            .spawn(move || {
                let _ = ended.send(worker.run(&received, &freed));
            })
            .map_err(|error| RunError::Internal(format!("no thread for the decider: {error}")))?;
        Ok((Desk { commands, space }, fatal))
    }

    /// Asks something of the decider's state. `None` if it has stopped.
    pub async fn query<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Decider<Db>) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let query: Query = Box::new(move |decider| {
            let _ = answer.send(ask(decider));
        });
        self.commands.send(Command::Query(query)).ok()?;
        answered.await.ok()
    }

    /// Ends the thread.
    pub async fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
        // The query behind it is dropped when the thread ends.
        let _ = self.query(|_| ()).await;
    }
}

impl Worker {
    fn run(
        mut self,
        commands: &queue::Receiver<Command>,
        space: &tokio::sync::Semaphore,
    ) -> Result<(), Fatal> {
        let mut wake = 0;
        loop {
            let now = self.clock.now();
            let wait = Duration::from_millis(wake.max(now.mono_ms) - now.mono_ms);
            let command = if wait.is_zero() {
                match commands.try_recv() {
                    Ok(command) => Ok(command),
                    Err(queue::TryRecvError::Empty) => Err(RecvTimeoutError::Timeout),
                    Err(queue::TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
                }
            } else {
                commands.recv_timeout(wait)
            };
            let input = match command {
                Ok(Command::Input(input)) => {
                    space.add_permits(1);
                    input
                }
                Ok(Command::Query(query)) => {
                    query(&self.decider);
                    continue;
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => Input::Tick,
            };
            let now = self.clock.now();
            let Worker { decider, ways, .. } = &mut self;
            decider.handle(now, input, &mut |action| release(action, ways))?;
            if ways.reopened {
                return Ok(());
            }
            wake = self.decider.next_wake();
        }
    }
}
