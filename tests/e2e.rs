//! End-to-end tests: the `concordat` binary as its users meet it, real relays, real processes.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: an assumption that doesn't hold fails the test"
)]

#[path = "e2e/architecture.rs"]
mod architecture;
#[path = "e2e/cli_errors.rs"]
mod cli_errors;
#[path = "e2e/cluster.rs"]
mod cluster;
#[path = "e2e/corpus.rs"]
mod corpus;
#[path = "e2e/demo.rs"]
mod demo;
#[path = "e2e/dev.rs"]
mod dev;
#[path = "e2e/docs.rs"]
mod docs;
#[path = "e2e/liar.rs"]
mod liar;
#[path = "e2e/lone_group.rs"]
mod lone_group;
#[path = "e2e/machine_run.rs"]
mod machine_run;
#[path = "e2e/offices.rs"]
mod offices;
#[path = "e2e/raw_client.rs"]
mod raw_client;
#[path = "e2e/recover.rs"]
mod recover;
#[path = "e2e/rotation.rs"]
mod rotation;
#[path = "e2e/secrets.rs"]
mod secrets;
#[path = "e2e/services.rs"]
mod services;
#[path = "fuzz/src/shell/mod.rs"]
mod shell;
#[path = "e2e/support.rs"]
mod support;
#[path = "e2e/town.rs"]
mod town;
#[path = "e2e/verbs.rs"]
mod verbs;
