//! Requests of users: whole gRPC calls as they come out of TLS, answered by the custodian's service with a handler that
//! takes everything. Input: a byte (the method; 4: its bytes are a message to be framed), then the bytes of the call's body.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use concordat_events::{Hash, ValidEvent};
use concordat_node::client::{
    CertifiedOutcome, ClientHandler, EvidencePiece, HandlerError, MachineView, OutcomeFuture, Proven, Status,
    UpdateStream, service,
};
use http_body_util::{BodyExt, Full};
use tonic::codegen::{Bytes, Service, http};

/// The methods of `client.proto`.
const METHODS: [&str; 4] = ["Send", "Get", "Watch", "Status"];

/// What an answer may have: the log event and the state of a request, and what frames them.
const ANSWER: usize = 64 * 1024;

struct Taker;

impl ClientHandler for Taker {
    async fn submit(&self, request: ValidEvent) -> Result<OutcomeFuture, HandlerError> {
        let outcome = CertifiedOutcome {
            request: request.id(),
            rejected: Some("guard_false".into()),
            height: 1,
            log_event: request,
            state: None,
        };
        Ok(Box::pin(async move { Ok(outcome) }))
    }

    async fn machine(&self, machine: Hash) -> Result<MachineView, HandlerError> {
        Err(HandlerError::NotReady(machine.to_hex()))
    }

    async fn prove(&self, leaves: Vec<String>) -> Result<Proven, HandlerError> {
        Err(HandlerError::NotReady(leaves.len().to_string()))
    }

    async fn watch(&self, machine: Hash) -> Result<UpdateStream<MachineView>, HandlerError> {
        let view = Err(HandlerError::Failed(machine.to_hex()));
        Ok(Box::pin(futures::stream::once(async move { view })))
    }

    async fn evidence(&self) -> Result<Vec<EvidencePiece>, HandlerError> {
        Ok(Vec::new())
    }

    async fn status(&self) -> Result<Status, HandlerError> {
        Err(HandlerError::Busy("fuzz".into()))
    }
}

pub fn run(data: &[u8]) -> bool {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime =
        RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap());
    let Some((flags, bytes)) = data.split_first() else { return false };
    let mut body = bytes.to_vec();
    if flags & 4 == 4 {
        body = [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat();
    }
    let method = METHODS[usize::from(flags & 3)];
    let (first, again) = runtime.block_on(async { (call(method, &body).await, call(method, &body).await) });
    assert_eq!(first, again, "the same call, another answer");
    let (status, answer) = first;
    assert!(answer <= ANSWER + 2 * body.len(), "{answer} bytes of answer to {}", body.len());
    // Whatever comes, the call ends with a status: taken, refused, or answered by the handler.
    match (method, status) {
        ("Send", 0) | ("Get", 14) | ("Watch", 13) | ("Status", 8) => true,
        (_, status) => {
            // Refused as no message, too large, no event or no id; nothing else can go wrong here.
            assert!([2, 3, 8, 11, 12, 13, 14].contains(&status), "{method} ended with status {status}");
            false
        }
    }
}

/// One call's status, and how many bytes came back.
async fn call(method: &str, body: &[u8]) -> (i32, usize) {
    let request = http::Request::post(format!("/concordat.client.v1.Client/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::copy_from_slice(body)).map_err(|never: Infallible| match never {}))
        .unwrap();
    let mut service = service(Arc::new(Taker));
    let response = service.call(request).await.unwrap_or_else(|never| match never {});
    let status = |headers: &http::HeaderMap| -> Option<i32> {
        let message = headers.get("grpc-message").map_or(0, |message| message.len());
        assert!(message <= 3 * 4 * 1024, "an error of {message} bytes");
        headers.get("grpc-status")?.to_str().ok()?.parse().ok()
    };
    let at_once = status(response.headers());
    let collected = response.into_body().collect().await.map_err(|error| error.to_string()).unwrap();
    let late = collected.trailers().and_then(status);
    let answer = collected.to_bytes().len();
    (late.or(at_once).unwrap_or_else(|| panic!("{method} ended without a status")), answer)
}
