//! `chaos cluster`: real processes, faults, users; then the verdict. `chaos relay` and `chaos users` are its own hands.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use concordat_events::{PublicKey, ValidEvent};
use concordat_node::relay::EmbeddedRelay;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use crate::real::cast::{Cast, Setting};
use crate::real::fault::{Dice, Fault};
use crate::real::judge::{self, PROGRESS_MS, Verdict};
use crate::real::land::Land;
use crate::real::users::{self, Call};
use crate::real::{Note, listening, report};

/// The log's kind that a new group has.
const LOG: u16 = 400;

/// Exit status where there are no namespaces: nothing was tested.
const NOT_HERE: u8 = 3;

/// What runs on after the last fault.
const QUIET: Duration = Duration::from_secs(5);

/// Runs custodians of the real program in network namespaces, with users, under faults.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    /// The program whose custodians run; beside this one if not given
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// How many custodians
    #[arg(long, default_value_t = 4)]
    custodians: u16,
    /// How many users
    #[arg(long, default_value_t = 6)]
    users: u32,
    /// The seed of faults and users
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// For how long faults are drawn, seconds
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Faults of a file instead, a line each: SECONDS NAME [CUSTODIAN]
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Where everything goes that the run leaves; must not exist
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

impl ClusterArgs {
    /// Runs it.
    ///
    /// # Errors
    /// What it needs isn't here, or the harness fails.
    pub fn run(self) -> Result<ExitCode> {
        let own = std::env::current_exe()?;
        let program = self.program.clone().unwrap_or_else(|| own.with_file_name("concordat"));
        if !program.exists() {
            bail!("{} isn't there: build it, or name it with --program", program.display());
        }
        if !(2..=16).contains(&self.custodians) || self.users == 0 {
            bail!("{} custodians and {} users; 2 to 16 and at least 1", self.custodians, self.users);
        }
        let mut dice = Dice::new(self.seed, self.custodians);
        let faults = match &self.scenario {
            None => None,
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
                Some(dice.scenario(&text).with_context(|| path.display().to_string())?)
            }
        };
        std::fs::create_dir(&self.dir).with_context(|| format!("{}", self.dir.display()))?;
        let dir = self.dir.canonicalize()?;
        let setting = Setting {
            dir: dir.clone(),
            program: program.canonicalize()?,
            own,
            custodians: self.custodians,
            users: self.users,
            seed: self.seed,
        };
        if let Err(why) = Land::probe() {
            eprintln!("SKIPPED: cluster: {why:#}");
            return Ok(ExitCode::from(NOT_HERE));
        }
        // Whoever stops it stops it here, so that nothing of it is left behind.
        let (group, notes) = runtime()?.block_on(async {
            let mut asked = signal(SignalKind::terminate())?;
            tokio::select! {
                played = self.play(setting, dice, faults) => played,
                _ = tokio::signal::ctrl_c() => bail!("interrupted"),
                _ = asked.recv() => bail!("told to stop"),
            }
        })?;
        let calls: Vec<Call> = read(&users::calls_file(&dir))?;
        let events: Vec<nostr::Event> = read(&users::events_file(&dir))?;
        let events = events.into_iter().map(ValidEvent::check).collect::<Result<Vec<_>, _>>()?;
        let verdict = judge::judge(group, LOG, &events, &calls, &notes)?;
        self.tell(&dir, &notes, &calls, &verdict)?;
        Ok(if verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn play(
        &self,
        setting: Setting,
        mut dice: Dice,
        faults: Option<Vec<Fault>>,
    ) -> Result<(PublicKey, Vec<Note>)> {
        let mut cast = Cast::assemble(setting).await?;
        let group = cast.group();
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let mut listed = faults.map(Vec::into_iter);
        loop {
            let fault = match &mut listed {
                Some(listed) => listed.next(),
                None => (Instant::now() < end).then(|| dice.fault()),
            };
            let Some(fault) = fault else { break };
            eprintln!("{fault}");
            cast.suffer(fault).await.with_context(|| fault.to_string())?;
            cast.recovers(Duration::from_millis(PROGRESS_MS))
                .await
                .with_context(|| format!("after {fault}"))?;
        }
        sleep(QUIET).await;
        Ok((group, cast.end().await?))
    }

    fn again(&self) -> String {
        let scenario = self.scenario.as_ref().map(|path| format!(" --scenario {}", path.display()));
        format!(
            "chaos cluster --custodians {} --users {} --seed {} --seconds {}{} --dir {}",
            self.custodians,
            self.users,
            self.seed,
            self.seconds,
            scenario.unwrap_or_default(),
            self.dir.display()
        )
    }

    fn tell(&self, dir: &Path, notes: &[Note], calls: &[Call], verdict: &Verdict) -> Result<()> {
        let title = format!(
            "{} custodians, seed {}: {} heads, {} inputs settled, {} broken rules",
            self.custodians,
            self.seed,
            verdict.heads,
            verdict.settled,
            verdict.violations.len()
        );
        std::fs::write(dir.join("timeline.svg"), report::draw(&title, self.custodians, notes, calls))?;
        let history = json!({"again": self.again(), "verdict": verdict, "notes": notes, "calls": calls});
        std::fs::write(dir.join("history.json"), serde_json::to_vec(&history)?)?;
        writeln!(std::io::stdout(), "{}", serde_json::to_string(verdict)?)?;
        eprintln!("{}, {}", dir.join("timeline.svg").display(), dir.join("history.json").display());
        eprintln!("again: {}", self.again());
        Ok(())
    }
}

/// A relay at an address; it ends with its stdin.
#[derive(Args, Debug)]
pub struct RelayArgs {
    ip: IpAddr,
    port: u16,
    dir: PathBuf,
}

impl RelayArgs {
    /// Runs it.
    ///
    /// # Errors
    /// It can't listen or store.
    pub fn run(self) -> Result<ExitCode> {
        runtime()?.block_on(async {
            let relay = EmbeddedRelay::start_at(Some(&self.dir), self.ip, self.port).await?;
            listening(relay.url())?;
            tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
            relay.shutdown().await;
            Ok(ExitCode::SUCCESS)
        })
    }
}

impl users::Users {
    /// Runs them as a process.
    ///
    /// # Errors
    /// See [`users::Users::run`].
    pub fn process(self) -> Result<ExitCode> {
        runtime()?.block_on(self.run()).map_err(|error| anyhow!("{error:#}"))?;
        Ok(ExitCode::SUCCESS)
    }
}
