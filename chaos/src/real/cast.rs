//! The processes of a run: custodians of the program that is shipped, a relay, users; and the hand that kills, pauses and starts
//! them.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use concordat_cli::cluster::{Cluster, Layout, Place};
use concordat_cli::process::{Process, Spec};
use concordat_events::PublicKey;
use tokio::time::{Instant, sleep};

use super::fault::{Fault, Kind};
use super::land::{Land, RELAY, USERS};
use super::{Note, What, wall_ms};

/// How long a custodian may take to be back after it was started: its start under a change of epoch, several times over.
pub const BACK: Duration = Duration::from_secs(90);

/// How long the users may take to end: the longest call and the fetching of every event.
const USERS_END: Duration = Duration::from_secs(180);

/// Bytes of one custodian's disk, in memory: a run of ten minutes takes a tenth of it.
const DISK: &str = "size=256m,mode=700";

/// Between two looks at what custodians have said.
const LOOK: Duration = Duration::from_millis(100);

/// From the first head after a fault to the next fault.
const REST: Duration = Duration::from_secs(5);

/// Between two strokes of a storm, or two moves of a loose cable.
const STROKE: Duration = Duration::from_secs(1);

/// What a run is made of.
pub struct Setting {
    /// Where everything that it leaves is.
    pub dir: PathBuf,
    /// The custodians' program.
    pub program: PathBuf,
    /// This program, whose `relay` and `users` run in the land.
    pub own: PathBuf,
    /// How many custodians.
    pub custodians: u16,
    /// How many users.
    pub users: u32,
    /// The seed.
    pub seed: u64,
}

/// See the module's header.
pub struct Cast {
    setting: Setting,
    land: Land,
    disks: Disks,
    cluster: Cluster,
    relay: Option<Process>,
    relay_spec: Spec,
    users: Option<Process>,
    notes: Arc<Mutex<Vec<Note>>>,
}

/// Disks in memory, one for each custodian, so that one can be full.
struct Disks(Vec<PathBuf>);

impl Disks {
    fn mount(dirs: &[PathBuf]) -> Result<Self> {
        let mut disks = Disks(Vec::new());
        for dir in dirs {
            std::fs::create_dir_all(dir)?;
            let ran = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(dir).output()?;
            if !ran.status.success() {
                bail!("mount {}: {}", dir.display(), String::from_utf8_lossy(&ran.stderr).trim());
            }
            disks.0.push(dir.clone());
        }
        Ok(disks)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for dir in &self.0 {
            // What stood on it is copied first: logs and databases are what a failed run is understood from.
            let kept = dir.with_extension("kept");
            let _ = Command::new("cp").arg("-a").arg(dir).arg(kept).output();
            let _ = Command::new("umount").args(["-l".as_ref(), dir.as_os_str()]).output();
        }
    }
}

fn filler(dir: &Path) -> PathBuf {
    dir.join("filler")
}

/// Writes until there is no room.
fn fill(dir: &Path) -> Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(filler(dir))?;
    for size in [1 << 20, 4096, 1] {
        let block = vec![0_u8; size];
        while file.write_all(&block).is_ok() {}
    }
    Ok(())
}

fn failed(failure: concordat_cli::failure::Failure) -> anyhow::Error {
    anyhow!("{failure}; {}", failure.hint)
}

impl Cast {
    /// Builds the land, founds the cluster, starts relay and users.
    ///
    /// # Errors
    /// What can't be had here, or doesn't start.
    pub async fn assemble(setting: Setting) -> Result<Self> {
        let n = setting.custodians;
        let land = Land::build(n)?;
        let url = format!("ws://{}:7777", land.address(RELAY));
        let place = |number: u16| Place {
            peers: (land.address(number), 7001).into(),
            client: (land.address(number), 7002).into(),
            through: land.through(number),
        };
        let layout = Layout {
            dir: setting.dir.join("cluster"),
            custodians: usize::from(n),
            relays: vec![url.clone()],
            engine: Default::default(),
            program: setting.program.clone(),
            client_ports: true,
            places: (1..=n).map(place).collect(),
        };
        let disks = Disks::mount(&layout.dirs())?;
        let relay_dir = setting.dir.join("relay");
        std::fs::create_dir_all(&relay_dir)?;
        let here = |place, name: &str, words: Vec<String>| {
            let mut through = land.through(place).into_iter();
            Spec {
                name: name.to_owned(),
                program: through.next().unwrap_or_default().into(),
                arguments: through
                    .chain([setting.own.clone().into_os_string()])
                    .chain(words.into_iter().map(Into::into))
                    .collect(),
                log: setting.dir.join(format!("{name}.log")),
            }
        };
        let at = land.address(RELAY).to_string();
        let relay_spec =
            here(RELAY, "relay", vec!["relay".into(), at, "7777".into(), relay_dir.display().to_string()]);
        let relay = started(&relay_spec).await?;
        layout.make().await.map_err(failed)?;
        let cluster = layout.start(|_| {}).await.map_err(failed)?;
        let custodians: Vec<String> = cluster.clients().iter().map(ToString::to_string).collect();
        let words = vec![
            "users".into(),
            "--group".into(),
            cluster.group.to_hex(),
            "--relay".into(),
            url,
            "--custodians".into(),
            custodians.join(","),
            "--users".into(),
            setting.users.to_string(),
            "--seed".into(),
            setting.seed.to_string(),
            "--dir".into(),
            setting.dir.display().to_string(),
        ];
        let users = started(&here(USERS, "users", words)).await?;
        let notes = Arc::default();
        let (relay, users) = (Some(relay), Some(users));
        let cast = Cast { setting, land, disks, cluster, relay, relay_spec, users, notes };
        for (number, client) in (1..=n).zip(cast.cluster.clients()) {
            cast.note(Some(number), What::Door { at: client.address });
            cast.listen(number);
        }
        Ok(cast)
    }

    fn note(&self, custodian: Option<u16>, what: What) {
        note(&self.notes, custodian, what);
    }

    /// Writes down what a custodian says, until it ends.
    fn listen(&self, number: u16) {
        let Some((_, mut heard)) =
            self.cluster.follow().into_iter().find(|(at, _)| *at == usize::from(number))
        else {
            return;
        };
        self.note(Some(number), What::Up);
        let notes = Arc::clone(&self.notes);
        tokio::spawn(async move {
            let (mut epoch, mut height, mut alarm) = (None, None, None);
            loop {
                let said = heard.borrow_and_update().clone();
                if said.epoch != epoch {
                    epoch = said.epoch;
                    if let Some((epoch, leader)) = epoch {
                        note(&notes, Some(number), What::Epoch { epoch, leader });
                    }
                }
                if said.height != height {
                    height = said.height;
                    if let Some(height) = height {
                        note(&notes, Some(number), What::Certified { height });
                    }
                }
                if said.alarms.back() != alarm.as_ref() {
                    alarm = said.alarms.back().cloned();
                    if let Some(message) = alarm.clone() {
                        note(&notes, Some(number), What::Alarm { message });
                    }
                }
                if said.ended || heard.changed().await.is_err() {
                    return note(&notes, Some(number), What::Down);
                }
            }
        });
    }

    fn numbers(&self) -> Vec<u16> {
        (1..=self.setting.custodians).collect()
    }

    /// The f that so many custodians stand.
    fn f(&self) -> usize {
        usize::from(self.setting.custodians.saturating_sub(1) / 3)
    }

    /// All numbers, the named one first.
    fn from(&self, first: u16) -> Vec<u16> {
        let mut numbers = self.numbers();
        let at = usize::from(first.saturating_sub(1)) % numbers.len().max(1);
        numbers.rotate_left(at);
        numbers
    }

    fn part(&mut self, one: &[u16], other: &[u16]) -> Result<()> {
        for a in one {
            for b in other {
                self.land.cut(*a, *b)?;
                self.land.cut(*b, *a)?;
            }
        }
        Ok(())
    }

    fn signal(&self, number: u16, signal: &str) -> Result<()> {
        let id = self.cluster.process_id(number).context("it doesn't run")?;
        let ran = Command::new("kill").args([signal, &id.to_string()]).output()?;
        if !ran.status.success() {
            bail!("kill {signal} {id}: {}", String::from_utf8_lossy(&ran.stderr).trim());
        }
        Ok(())
    }

    fn start(&mut self, number: u16) -> Result<()> {
        self.cluster.restart(number).map_err(failed)?;
        self.listen(number);
        Ok(())
    }

    async fn kill(&mut self, number: u16) -> Result<()> {
        self.cluster.kill(number).await.map_err(failed)
    }

    fn leader(&self, otherwise: u16) -> u16 {
        self.cluster.leader().unwrap_or(otherwise)
    }

    /// One fault from its beginning to its end. When this returns everything runs, and nothing is cut.
    ///
    /// # Errors
    /// The harness fails, or a custodian ended that nobody had ended.
    pub async fn suffer(&mut self, fault: Fault) -> Result<()> {
        self.note(None, What::Fault { fault: fault.to_string() });
        let until = Instant::now() + Duration::from_secs(fault.seconds);
        let one = fault.custodian;
        let order = self.from(one);
        let others: Vec<u16> = order.iter().copied().filter(|number| *number != one).collect();
        let mut down = Vec::new();
        match fault.kind {
            Kind::Halves => {
                let (left, right) = order.split_at(order.len() / 2);
                self.part(left, right)?;
            }
            Kind::Minority => {
                let (few, rest) = order.split_at(self.f().max(1));
                self.part(few, rest)?;
            }
            Kind::Bridge => {
                let (left, right) = others.split_at(others.len() / 2);
                self.part(left, right)?;
            }
            Kind::Unheard => others.iter().try_for_each(|to| self.land.cut(one, *to))?,
            Kind::Deaf => others.iter().try_for_each(|from| self.land.cut(*from, one))?,
            Kind::Flapping => {
                let mut up = true;
                while Instant::now() < until {
                    up = !up;
                    self.land.plug(one, up)?;
                    sleep(STROKE).await;
                }
            }
            Kind::LeaderIsolated => self.land.plug(self.leader(one), false)?,
            Kind::Killed => down.push(one),
            Kind::LeaderKilled => down.push(self.leader(one)),
            Kind::AllKilled => down = self.numbers(),
            Kind::Paused | Kind::LeaderPaused => {
                let who = if fault.kind == Kind::Paused { one } else { self.leader(one) };
                self.signal(who, "-STOP")?;
                self.note(Some(who), What::Paused);
                sleep(until - Instant::now()).await;
                self.signal(who, "-CONT")?;
                self.note(Some(who), What::Resumed);
            }
            Kind::Storm => {
                while Instant::now() < until {
                    self.kill(one).await?;
                    self.start(one)?;
                    sleep(STROKE).await;
                }
            }
            Kind::Rolling => {
                for number in order {
                    self.cluster.stop_one(number).await.map_err(failed)?;
                    self.start(number)?;
                    self.cluster.ready(number, 0, BACK).await.map_err(failed)?;
                }
            }
            Kind::RelayGone => {
                if let Some(mut relay) = self.relay.take() {
                    relay.kill().await.map_err(failed)?;
                }
            }
            Kind::DiskFull => fill(self.disk(one)?)?,
        }
        for number in &down {
            self.kill(*number).await?;
        }
        sleep(until.saturating_duration_since(Instant::now())).await;

        self.land.heal()?;
        if self.relay.is_none() {
            self.relay = Some(started(&self.relay_spec).await?);
        }
        if fault.kind == Kind::DiskFull {
            std::fs::remove_file(filler(self.disk(one)?))?;
            // A failed flush stops the process, as it must; one that had nothing to write goes on.
            if self.ended().contains(&one) {
                down.push(one);
            }
        }
        for number in &down {
            // What ended by itself is taken away here.
            let _ = self.kill(*number).await;
            self.start(*number)?;
        }
        self.note(None, What::Healed { fault: fault.to_string() });
        self.all_run()
    }

    fn disk(&self, number: u16) -> Result<&Path> {
        let index = usize::from(number.saturating_sub(1));
        Ok(self.disks.0.get(index).with_context(|| format!("no disk of custodian {number}"))?)
    }

    /// The group's key.
    pub fn group(&self) -> PublicKey {
        self.cluster.group
    }

    /// Waits until a quorum has certified something new, and a little longer, so that users have their answers too. What they were
    /// answered is judged afterwards; this only keeps the next fault away until this one is over.
    ///
    /// # Errors
    /// A custodian ended by itself.
    pub async fn recovers(&self, wait: Duration) -> Result<()> {
        let heights = || -> Vec<u64> {
            let mut all: Vec<u64> = self
                .cluster
                .follow()
                .iter()
                .map(|(_, heard)| heard.borrow().height.unwrap_or_default())
                .collect();
            all.sort_unstable_by(|a, b| b.cmp(a));
            all
        };
        let top = heights().first().copied().unwrap_or_default();
        // floor((n+f)/2) + 1 of n.
        let quorum = (usize::from(self.setting.custodians) + self.f()) / 2 + 1;
        let end = Instant::now() + wait;
        while Instant::now() < end && heights().get(quorum - 1).is_none_or(|height| *height <= top + 1) {
            sleep(LOOK).await;
        }
        sleep(REST).await;
        self.all_run()
    }

    /// Custodians whose process has ended.
    fn ended(&self) -> Vec<u16> {
        let ended = self.cluster.follow().into_iter().filter(|(_, heard)| heard.borrow().ended);
        ended.filter_map(|(number, _)| u16::try_from(number).ok()).collect()
    }

    /// Fails if a custodian has ended that nobody has ended.
    ///
    /// # Errors
    /// Which.
    pub fn all_run(&self) -> Result<()> {
        match self.ended().first() {
            None => Ok(()),
            Some(number) => bail!(
                "custodian {number} ended by itself; its words are in {}",
                self.setting.dir.join(format!("cluster/custodian-{number}.kept/log")).display()
            ),
        }
    }

    /// Everything ends: the users first, who fetch what the relay has. Returns what was noted.
    ///
    /// # Errors
    /// Who doesn't end, or ends badly.
    pub async fn end(mut self) -> Result<Vec<Note>> {
        if let Some(users) = self.users.take() {
            let mut users = users;
            users.hang_up();
            let status = users.ended(USERS_END).await.map_err(failed)?;
            if !status.success() {
                bail!("the users ended with {status}; see {}", self.setting.dir.join("users.log").display());
            }
        }
        self.all_run()?;
        self.cluster.stop().await.map_err(failed)?;
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(notes)
    }
}

fn note(notes: &Mutex<Vec<Note>>, custodian: Option<u16>, what: What) {
    let note = Note { at_ms: wall_ms(), custodian, what };
    notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
}

/// Starts a program of ours and waits until it says that it listens.
async fn started(spec: &Spec) -> Result<Process> {
    let mut process = Process::start(spec.clone()).map_err(failed)?;
    process.wait_until("listening", BACK, |heard| heard.client.clone()).await.map_err(failed)?;
    Ok(process)
}
