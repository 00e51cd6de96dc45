//! Making a store durable without blocking the tasks that wait for it.
//!
//! A flush covers everything applied before it was asked for, so one flush can serve many callers: that is the group
//! commit of every log and record that share the store. A failed flush is final (PROTOCOL 7): it is never retried, and
//! every later one fails with the same words.

use std::future::Future;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;

use concordat_store::Store;
use futures::channel::oneshot;

/// A flush failed, now or before: the process must stop.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the store can't be flushed, the process must stop: {0}")]
pub struct FlushFailed(pub Arc<str>);

/// Makes everything durable that was applied to a store before the call.
pub trait Flusher: Send + Sync + 'static {
    /// Returns once everything applied before the call survives power loss.
    fn flush(&self) -> impl Future<Output = Result<(), FlushFailed>> + Send;
}

impl<F: Flusher> Flusher for Arc<F> {
    fn flush(&self) -> impl Future<Output = Result<(), FlushFailed>> + Send {
        (**self).flush()
    }
}

/// Flushes on the caller's own thread: for the memory store, where it costs nothing, and for the simulator, where a
/// second thread would make runs differ.
pub struct InlineFlusher<S> {
    store: S,
    failed: Mutex<Option<FlushFailed>>,
}

impl<S: Store> InlineFlusher<S> {
    /// Flushes `store`.
    pub fn new(store: S) -> Self {
        Self { store, failed: Mutex::new(None) }
    }
}

impl<S: Store> Flusher for InlineFlusher<S> {
    async fn flush(&self) -> Result<(), FlushFailed> {
        let mut failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(error) = failed.as_ref() {
            return Err(error.clone());
        }
        self.store.flush().map_err(|error| failed.insert(FlushFailed(error.to_string().into())).clone())
    }
}

type Waiter = oneshot::Sender<Result<(), FlushFailed>>;

/// Flushes on a thread of its own. Whoever asks while a flush runs shares the next one.
pub struct ThreadFlusher {
    wake: mpsc::Sender<Waiter>,
}

impl ThreadFlusher {
    /// Starts the thread; it ends when the flusher is dropped.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start<S: Store>(store: S) -> std::io::Result<Self> {
        let (wake, asked) = mpsc::channel();
        thread::Builder::new().name("flush".into()).spawn(move || run(&store, &asked))?;
        Ok(Self { wake })
    }
}

fn run<S: Store>(store: &S, asked: &mpsc::Receiver<Waiter>) {
    let mut failed: Option<FlushFailed> = None;
    while let Ok(first) = asked.recv() {
        let mut waiting = vec![first];
        waiting.extend(asked.try_iter());
        let result = match &failed {
            Some(error) => Err(error.clone()),
            None => store.flush().map_err(|error| FlushFailed(error.to_string().into())),
        };
        failed = result.as_ref().err().cloned();
        for waiter in waiting {
            // One who no longer waits needs no answer.
            let _ = waiter.send(result.clone());
        }
    }
}

impl Flusher for ThreadFlusher {
    async fn flush(&self) -> Result<(), FlushFailed> {
        let gone = || FlushFailed("the flushing thread is gone".into());
        let (waiter, done) = oneshot::channel();
        self.wake.send(waiter).map_err(|_| gone())?;
        done.await.unwrap_or_else(|_| Err(gone()))
    }
}
