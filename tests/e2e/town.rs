//! A local cluster of real processes with its relay, and users who talk to it.

use std::time::Duration;

use concordat_cli::cluster::{Cluster, Layout};
use concordat_cli::user::Group;
use concordat_cli::user::outcome::{Settled, settle};
use concordat_cli::user::relays::Relays;
use concordat_events::{Hash, ValidEvent};
use concordat_node::relay::EmbeddedRelay;
use nostr::{EventBuilder, Keys, Kind, Tag};

use crate::support::{Ran, concordat, ran};

/// Longest wait for anything: many times what a busy computer needs.
pub const WAIT: Duration = Duration::from_secs(120);

/// Whoever runs a cluster holds this: one at a time, so that a small computer isn't busier with the tests than it can be.
pub static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A machine that adds, and does nothing else.
pub const COUNTER: &str = r#"{"id":"counter","initial":"on","context":{"n":0},"states":{"on":{"on":{
  "ADD":{"guard":{"type":"cel","params":{"expr":"event.data.by > 0"}},
         "actions":{"type":"cel.assign","params":{"n":"context.n + event.data.by"}}}}}}}"#;

/// A cluster, its relay, and a user's home.
pub struct Town {
    pub home: tempfile::TempDir,
    pub relay: EmbeddedRelay,
    pub layout: Layout,
    pub cluster: Cluster,
    /// A connection to the relay, without any custodian.
    pub group: Group,
    pub machine: String,
}

impl Town {
    /// Founds a cluster and publishes a counter.
    pub async fn found(custodians: usize) -> Self {
        let home = tempfile::tempdir().unwrap();
        let relay = EmbeddedRelay::start(None, 0).await.unwrap();
        let layout = Layout {
            dir: home.path().join("cluster"),
            custodians,
            relays: vec![relay.url().to_owned()],
            engine: Default::default(),
            program: env!("CARGO_BIN_EXE_concordat").into(),
            client_ports: true,
            places: Vec::new(),
        };
        layout.make().await.unwrap();
        let cluster = layout.start(|_| {}).await.unwrap();
        let relays = Relays::connect(&layout.relays, WAIT).await.unwrap();
        let group = Group { key: cluster.group, relays, custodians: Vec::new(), wait: WAIT };
        std::fs::write(home.path().join("counter.json"), COUNTER).unwrap();
        let mut town = Town { home, relay, layout, cluster, group, machine: String::new() };
        let made = town.run(&["key", "new"]).await;
        assert_eq!(made.status, 0, "{made}");
        let published = town.run(&["publish", "counter.json", "--d", "counter", "--timeout", "120"]).await;
        assert_eq!(published.status, 0, "{published}");
        town.machine = published.lines()[0]["machine"].as_str().unwrap().to_owned();
        town
    }

    /// Runs the binary against this group through the relay alone.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, "").await
    }

    /// Runs the binary against this group, with these custodians to ask beside the relay.
    pub async fn run_with(&self, arguments: &[&str], custodians: &str) -> Ran {
        let mut command = concordat(self.home.path());
        command
            .args(arguments)
            .arg("--json")
            .env("CONCORDAT_GROUP", self.group.key.to_hex())
            .env("CONCORDAT_RELAYS", self.relay.url())
            .env("CONCORDAT_CUSTODIANS", custodians);
        tokio::task::spawn_blocking(move || ran(&mut command)).await.unwrap()
    }

    /// All custodians, as `CONCORDAT_CUSTODIANS` has them.
    pub fn custodians(&self) -> String {
        self.cluster.clients().iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// The group goes on: an input is certified as accepted. Returns the height.
    pub async fn goes_on(&self) -> u64 {
        let sent =
            self.run(&["send", &self.machine, "ADD", "--data", r#"{"by":1}"#, "--timeout", "120"]).await;
        assert_eq!(sent.status, 0, "{sent}");
        sent.lines()[0]["height"].as_u64().unwrap()
    }

    /// Publishes a request and waits for its certified outcome.
    pub async fn settle(&self, request: &ValidEvent, machine: Hash) -> Settled {
        settle(&self.group, 400, request, machine, |_| {}).await.unwrap()
    }
}

/// A signed event with these tags, whatever it is.
pub fn event(kind: u16, tags: &[&[&str]], content: &str) -> nostr::Event {
    let tags = tags.iter().map(|tag| Tag::parse(tag.iter().copied()).unwrap());
    EventBuilder::new(Kind::from_u16(kind), content).tags(tags).sign_with_keys(&Keys::generate()).unwrap()
}
