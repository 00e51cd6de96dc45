//! The gRPC service: who calls is taken from the connection, then the handler is asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::listener::{PeerConnection, Phase, reached};
use super::rate::Shares;
use super::tls::Pins;
use super::{HandlerError, PeerHandler, RaftCall};
use crate::proto::peer::peer_server::Peer;
use crate::proto::peer::{Delivered, Envelope};

/// Serves a handler.
pub(super) struct Service<H> {
    pub handler: Arc<H>,
    pub pins: Pins,
    pub shares: Shares,
    /// The message stream of each peer that counts: a newer one ends an older.
    pub streams: Mutex<BTreeMap<u16, u64>>,
    pub next_stream: AtomicU64,
    pub newest: watch::Sender<u64>,
    pub end: watch::Receiver<Phase>,
}

impl<H: PeerHandler> Service<H> {
    pub fn new(handler: Arc<H>, pins: Pins, end: watch::Receiver<Phase>) -> Self {
        Self {
            handler,
            pins,
            shares: Shares::default(),
            streams: Mutex::default(),
            next_stream: AtomicU64::new(1),
            newest: watch::Sender::new(0),
            end,
        }
    }

    /// The peer on the other end, if its certificate is still that of the number it had when it connected.
    fn peer<T>(&self, request: &Request<T>) -> Result<PeerConnection, Status> {
        let connection = request.extensions().get::<PeerConnection>();
        let Some(connection) = connection else { return Err(Status::unauthenticated("no certificate")) };
        self.stands(connection)?;
        Ok(*connection)
    }

    fn stands(&self, connection: &PeerConnection) -> Result<(), Status> {
        match self.pins.stands(connection) {
            true => Ok(()),
            false => Err(Status::permission_denied("no member of the roster in force")),
        }
    }

    fn is_newest(&self, peer: u16, stream: u64) -> bool {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).get(&peer) == Some(&stream)
    }

    async fn call<F>(&self, request: Request<Envelope>, answer: impl FnOnce(u16, Bytes) -> F) -> Reply
    where
        F: Future<Output = Result<Bytes, HandlerError>>,
    {
        let peer = self.peer(&request)?.number;
        let share = self.shares.of(peer);
        let Some(_permit) = share.call() else { return Err(Status::resource_exhausted("too many calls")) };
        let mut end = self.end.clone();
        let answer = tokio::select! {
            answer = answer(peer, request.into_inner().body) => answer,
            () = reached(&mut end, Phase::Cut) => return Err(Status::unavailable("stopping")),
        };
        match answer {
            Ok(body) => Ok(Response::new(Envelope { body })),
            Err(HandlerError::Refused(why)) => Err(Status::failed_precondition(why)),
            Err(HandlerError::Unavailable(why)) => Err(Status::unavailable(why)),
        }
    }
}

type Reply = Result<Response<Envelope>, Status>;

#[tonic::async_trait]
impl<H: PeerHandler> Peer for Service<H> {
    async fn deliver(&self, request: Request<Streaming<Envelope>>) -> Result<Response<Delivered>, Status> {
        let connection = self.peer(&request)?;
        let peer = connection.number;
        let share = self.shares.of(peer);
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, stream);
        self.newest.send_replace(stream);
        let mut newest = self.newest.subscribe();
        let mut messages = request.into_inner();
        let mut end = self.end.clone();
        let mut count = 0;
        loop {
            let message = tokio::select! {
                biased;
                _ = newest.wait_for(|_| !self.is_newest(peer, stream)) => {
                    return Err(Status::aborted("a newer stream of yours took over"));
                }
                () = reached(&mut end, Phase::Stopping) => return Err(Status::unavailable("stopping")),
                message = messages.message() => message?,
            };
            let Some(message) = message else { return Ok(Response::new(Delivered { count })) };
            self.stands(&connection)?;
            share.message().await;
            self.handler.deliver(peer, message.body).await;
            count += 1;
        }
    }

    async fn append(&self, request: Request<Envelope>) -> Reply {
        self.call(request, |from, body| self.handler.raft(from, RaftCall::Append, body)).await
    }

    async fn vote(&self, request: Request<Envelope>) -> Reply {
        self.call(request, |from, body| self.handler.raft(from, RaftCall::Vote, body)).await
    }

    async fn fetch(&self, request: Request<Envelope>) -> Reply {
        self.call(request, |from, body| self.handler.fetch(from, body)).await
    }

    async fn ceremony(&self, request: Request<Envelope>) -> Reply {
        self.call(request, |from, body| self.handler.ceremony(from, body)).await
    }
}
