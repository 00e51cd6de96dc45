//! A local cluster of real processes: directories, keys and configurations are made here, everything else is what operators do
//! too: each custodian is `concordat serve` on its own directory, and the ceremony runs between them.
//!
//! Promises: secrets are made at run time in files with mode 0600, and this process never sees a key share; readiness is what
//! the custodians say, never a pause; when this is dropped or this process ends, they end. Refuses: to listen anywhere but on
//! loopback, unless it is told where.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use concordat_events::{Admission, Hash, PublicKey};
use concordat_node::ceremony::{Card, Proposal, init};
use concordat_node::client::CustodianAddress;
use concordat_node::config::{ClientListen, Config, Engine, Storage, Timeouts};
use concordat_node::dir::CustodianDir;
use concordat_node::keys::file;
use rand::Rng;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::limits::{CLUSTER_READY, CLUSTER_STOP, CUSTODIANS, PORT_TRIES, PORTS};
use crate::process::{Heard, Process, Spec};
use crate::user::parse_public_key;

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Where its directories are.
    pub dir: PathBuf,
    /// How many custodians.
    pub custodians: usize,
    /// The relays that it writes to and reads from.
    pub relays: Vec<String>,
    /// The storage engine.
    pub engine: Engine,
    /// The program whose `serve` they are.
    pub program: PathBuf,
    /// Do custodians serve users on ports of their own, beside the relays?
    pub client_ports: bool,
    /// Where each custodian lives. If nobody says so, on free ports of loopback.
    pub places: Vec<Place>,
}

/// Where one custodian lives.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where other custodians connect to.
    pub peers: SocketAddr,
    /// Where users connect to.
    pub client: SocketAddr,
    /// The command that runs its program there, with its arguments; empty to run it as it is.
    pub through: Vec<OsString>,
}

/// A running cluster.
pub struct Cluster {
    /// The group's key.
    pub group: PublicKey,
    members: Vec<Member>,
}

/// One custodian.
struct Member {
    /// Where users reach it, if anywhere.
    client: Option<CustodianAddress>,
    spec: Spec,
    process: Option<Process>,
}

impl Layout {
    /// The directories of its custodians.
    pub fn dirs(&self) -> Vec<PathBuf> {
        (1..=self.custodians).map(|number| self.dir.join(format!("custodian-{number}"))).collect()
    }

    /// The cluster that was made in a directory before, as its proposal has it; `None` if there is none.
    pub fn existing(dir: &Path) -> Result<Option<Self>, Failure> {
        let first = dir.join("custodian-1");
        if !first.join("proposal.json").exists() {
            return Ok(None);
        }
        let path = first.join("proposal.json");
        let text = std::fs::read_to_string(&path).map_err(|error| unusable(&path, &error))?;
        let proposal = Proposal::parse(&text).map_err(|error| unusable(&path, &error))?;
        let config = Config::read(&first.join("custodian.toml")).map_err(|error| unusable(&first, &error))?;
        Ok(Some(Layout {
            dir: dir.to_owned(),
            custodians: proposal.roster.n(),
            relays: proposal.relays.clone(),
            engine: config.storage.engine,
            program: this_program()?,
            client_ports: config.client_listen != ClientListen::Off,
            places: Vec::new(),
        }))
    }

    /// Makes the directories of a new cluster: a few seconds of work, on threads of its own.
    pub async fn make(&self) -> Result<(), Failure> {
        if !(2..=CUSTODIANS).contains(&self.custodians) {
            return Err(Failure::usage(
                "custodians",
                format!("{} custodians; a local cluster has 2 to {CUSTODIANS}", self.custodians),
                "4 are the fewest that tolerate a liar",
            ));
        }
        let dirs = self.dirs();
        let free = if self.places.is_empty() { free_ports(self.custodians * 2)? } else { Vec::new() };
        let said = self.places.iter().map(|place| (place.peers, place.client));
        let found = free.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?)));
        let mut making = Vec::new();
        for ((number, dir), (peers, client)) in (1..).zip(dirs.clone()).zip(said.chain(found)) {
            let client = if self.client_ports { ClientListen::At(client) } else { ClientListen::Off };
            let engine = self.engine;
            making.push(tokio::task::spawn_blocking(move || custodian(number, &dir, peers, client, engine)));
        }
        let mut cards = Vec::new();
        for made in making {
            let card = made.await.map_err(|error| unusable(&self.dir, &error))?;
            cards.push(card?);
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let proposal = Proposal::from_cards(
            "local",
            "a local cluster",
            u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            &cards,
            self.relays.clone(),
            Admission::default(),
        )
        .map_err(|error| unusable(&self.dir, &error))?;
        // The first one's last: its proposal says that the cluster is made.
        for dir in dirs.iter().rev() {
            CustodianDir::open(dir)
                .and_then(|held| held.write_proposal(&proposal))
                .map_err(|error| unusable(dir, &error))?;
        }
        Ok(())
    }

    /// Starts all custodians and waits until each says that it is ready. `seen` hears how the ceremony goes on.
    pub async fn start(&self, seen: impl Fn(&str)) -> Result<Cluster, Failure> {
        let mut members = Vec::new();
        for dir in self.dirs() {
            members.push(self.member(members.len(), &dir)?);
        }
        let waiting = members.iter_mut().filter_map(|member| member.process.as_mut()).map(|process| {
            let name = process.name().to_owned();
            let seen = &seen;
            let mut last = None;
            async move {
                let key = process
                    .wait_until("ready", CLUSTER_READY, |heard| {
                        if heard.ceremony != last {
                            last = heard.ceremony.clone();
                            if let Some((stage, waiting)) = &last {
                                seen(&format!("key ceremony, {name}: {stage}{}", waiting_on(waiting)));
                            }
                        }
                        heard.ready.clone()
                    })
                    .await?;
                Ok::<_, Failure>((process.name().to_owned(), parse_public_key(&key)?))
            }
        });
        let mut group = None;
        for (name, key) in futures::future::try_join_all(waiting).await? {
            if group.is_some_and(|known| known != key) {
                let text = format!("{name} belongs to another group than the others");
                return Err(Failure::check("two_groups", text, "use a new --dir"));
            }
            group = Some(key);
        }
        let group =
            group.ok_or_else(|| Failure::not_ready("no_custodian", "no custodian was started", ""))?;
        Ok(Cluster { group, members })
    }

    /// Starts the custodian of a directory.
    fn member(&self, index: usize, dir: &Path) -> Result<Member, Failure> {
        let path = dir.join("custodian.toml");
        let config = Config::read(&path).map_err(|error| unusable(&path, &error))?;
        let client = match config.client_listen {
            ClientListen::Off => None,
            ClientListen::At(address) => {
                Some(CustodianAddress { address: address.to_string(), pin: pin(dir)? })
            }
        };
        let through = self.places.get(index).map(|place| place.through.as_slice()).unwrap_or_default();
        let spec = self.spec(&config.name, dir, through);
        let process = Some(Process::start(spec.clone())?);
        Ok(Member { client, spec, process })
    }

    fn spec(&self, name: &str, dir: &Path, through: &[OsString]) -> Spec {
        let serve = ["serve", "--json", "--exit-with-parent", "--config"].map(OsString::from);
        let own = [self.program.clone().into_os_string()];
        let mut words = through.iter().cloned().chain(own).chain(serve);
        Spec {
            name: name.to_owned(),
            program: words.next().unwrap_or_default().into(),
            arguments: words.chain([dir.join("custodian.toml").into_os_string()]).collect(),
            log: dir.join("log"),
        }
    }
}

fn waiting_on(numbers: &[u64]) -> String {
    if numbers.is_empty() {
        return String::new();
    }
    let names: Vec<String> = numbers.iter().map(u64::to_string).collect();
    format!(", waiting for {}", names.join(", "))
}

/// Makes one custodian: passphrase, keys, configuration, card.
fn custodian(
    number: usize,
    dir: &Path,
    peers: SocketAddr,
    client: ClientListen,
    engine: Engine,
) -> Result<Card, Failure> {
    // Makes the directory, for its owner only.
    drop(CustodianDir::open(dir).map_err(|error| unusable(dir, &error))?);
    let bytes: Zeroizing<[u8; 32]> = Zeroizing::new(rand::rngs::OsRng.r#gen());
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in bytes.iter() {
        // A string takes whatever is written to it.
        let _ = write!(*text, "{byte:02x}");
    }
    let passphrase = dir.join("passphrase");
    file::write_new(&passphrase, text.as_bytes()).map_err(|error| unusable(dir, &error))?;
    let config = Config {
        name: format!("custodian-{number}"),
        listen: peers,
        client_listen: client,
        passphrase_file: PathBuf::from("passphrase"),
        storage: Storage { engine },
        peers: Default::default(),
        relays: None,
        timeouts: Timeouts::default(),
    };
    // The file names the passphrase relative to itself; reading it gives the place where it is.
    let path = dir.join("custodian.toml");
    let toml = config.to_toml().map_err(|error| unusable(dir, &error))?;
    file::write_new(&path, toml.as_bytes()).map_err(|error| unusable(dir, &error))?;
    let config = Config::read(&path).map_err(|error| unusable(&path, &error))?;
    Ok(init(dir, &config, &peers.to_string()).map_err(|error| unusable(dir, &error))?.0)
}

/// The pin of a custodian's certificate, from its card.
fn pin(dir: &Path) -> Result<Hash, Failure> {
    let path = dir.join("card.json");
    let text = std::fs::read_to_string(&path).map_err(|error| unusable(&path, &error))?;
    Ok(Card::parse(&text).map_err(|error| unusable(&path, &error))?.pin())
}

/// The program that runs now: its custodians are of the same build.
pub fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::not_ready("no_program", format!("this program's own file: {error}"), ""))
}

impl Cluster {
    /// Where users reach the custodians.
    pub fn clients(&self) -> Vec<CustodianAddress> {
        self.members.iter().filter_map(|member| member.client.clone()).collect()
    }

    /// How many custodians it has.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The leader of the highest epoch that a custodian has entered; `None` as long as nobody has said so.
    pub fn leader(&self) -> Option<u16> {
        let running = self.members.iter().filter_map(|member| member.process.as_ref());
        let (_, leader) = running.filter_map(|process| process.heard().epoch).max()?;
        u16::try_from(leader).ok()
    }

    /// What each running custodian says, by number.
    pub fn follow(&self) -> Vec<(usize, watch::Receiver<Heard>)> {
        let numbered = (1..).zip(&self.members);
        numbered.filter_map(|(number, member)| Some((number, member.process.as_ref()?.follow()))).collect()
    }

    /// Starts the custodian of another directory, with the next number: one that comes into office.
    pub fn enlist(&mut self, layout: &Layout, dir: &Path) -> Result<(), Failure> {
        self.members.push(layout.member(self.members.len(), dir)?);
        Ok(())
    }

    /// The process id of one, as long as it runs.
    pub fn process_id(&self, number: u16) -> Option<u32> {
        let member = self.members.get(usize::from(number).checked_sub(1)?)?;
        member.process.as_ref()?.id()
    }

    /// Kills one with SIGKILL. `number` counts from 1.
    pub async fn kill(&mut self, number: u16) -> Result<(), Failure> {
        match self.member(number)?.process.take() {
            Some(mut process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Tells one to stop, as its operator would, and waits for it.
    pub async fn stop_one(&mut self, number: u16) -> Result<(), Failure> {
        match self.member(number)?.process.take() {
            Some(process) => process.stop(CLUSTER_STOP).await,
            None => Ok(()),
        }
    }

    /// Starts one that was killed; returns as soon as it is running, [`Cluster::ready`] says when it is back.
    pub fn restart(&mut self, number: u16) -> Result<(), Failure> {
        let member = self.member(number)?;
        member.process = Some(Process::start(member.spec.clone())?);
        Ok(())
    }

    /// Waits until one is ready, at this certified height at least.
    pub async fn ready(&mut self, number: u16, height: u64, wait: Duration) -> Result<(), Failure> {
        let member = self.member(number)?;
        let process = member.process.as_mut().ok_or_else(|| {
            Failure::not_ready("not_running", format!("custodian {number} isn't running"), "start it first")
        })?;
        let back = |heard: &Heard| (heard.ready.is_some() && heard.height >= Some(height)).then_some(());
        process.wait_until(&format!("ready at height {height}"), wait, back).await
    }

    /// Resolves when a custodian ends without having been told to, with the reason. It is out then; the others go on.
    pub async fn ended(&mut self) -> Failure {
        let running = self.members.iter_mut().filter(|member| member.process.is_some());
        let ends = running.map(|member| {
            Box::pin(async move {
                let never = |_: &Heard| None::<()>;
                while let Some(process) = member.process.as_mut() {
                    match process.wait_until("the end", Duration::from_secs(24 * 60 * 60), never).await {
                        Err(failure) if failure.code == "not_ready" => {}
                        Err(failure) => {
                            member.process = None;
                            return failure;
                        }
                        Ok(()) => {}
                    }
                }
                std::future::pending().await
            })
        });
        let ends: Vec<_> = ends.collect();
        if ends.is_empty() {
            return std::future::pending().await;
        }
        futures::future::select_all(ends).await.0
    }

    /// How many of its custodians run.
    pub fn running(&self) -> usize {
        self.members.iter().filter(|member| member.process.is_some()).count()
    }

    /// Stops all, each by closing its stdin, and waits for them.
    pub async fn stop(self) -> Result<(), Failure> {
        let running = self.members.into_iter().filter_map(|member| member.process);
        let stopped = futures::future::join_all(running.map(|process| process.stop(CLUSTER_STOP))).await;
        stopped.into_iter().collect()
    }

    fn member(&mut self, number: u16) -> Result<&mut Member, Failure> {
        let count = self.members.len();
        let index = usize::from(number).checked_sub(1);
        index.and_then(|index| self.members.get_mut(index)).ok_or_else(|| {
            Failure::usage("custodian", format!("there is no custodian {number}; there are 1 to {count}"), "")
        })
    }
}

/// Ports of loopback that nobody has now. All are held until all are known, so that none comes twice.
fn free_ports(count: usize) -> Result<Vec<SocketAddr>, Failure> {
    let mut held: Vec<(TcpListener, SocketAddr)> = Vec::new();
    let mut random = rand::rngs::OsRng;
    for _ in 0..PORT_TRIES {
        if held.len() == count {
            break;
        }
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), random.gen_range(PORTS));
        held.extend(TcpListener::bind(address).ok().map(|listener| (listener, address)));
    }
    if held.len() < count {
        let text = format!("{count} free ports on loopback were needed, {} were found", held.len());
        return Err(Failure::not_ready("no_port", text, "look what listens on this computer"));
    }
    Ok(held.into_iter().map(|(_, address)| address).collect())
}

/// One port of loopback that nobody has now.
pub fn free_port() -> Result<u16, Failure> {
    Ok(free_ports(1)?.first().map_or(0, SocketAddr::port))
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    let text = error.to_string();
    let shown = path.display().to_string();
    let message = if text.contains(&shown) { text } else { format!("{shown}: {text}") };
    Failure::not_ready("cluster_dir", message, "use a new directory with --dir")
}
