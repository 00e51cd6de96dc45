//! One child process under supervision: started, followed by what it says, killed, restarted.
//!
//! Promises: nothing is polled: readiness is a line of JSON on the child's stdout; the child is killed when its handle is
//! dropped, and its stdin closes when this process ends in any way, which tells it to stop. All its output is kept in one log.
//! Refuses: to wait without a bound, and to report a child that died as one that is late.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::limits::{CHILD_LINES, CHILD_NEWS};

/// What to run, and where its output goes.
#[derive(Clone, Debug)]
pub struct Spec {
    /// A name for messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments; none of them a secret.
    pub arguments: Vec<OsString>,
    /// The file that all its output is appended to.
    pub log: PathBuf,
}

/// What a custodian has said about itself since it was started: `node::custodian::Life`, summed up.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Where users reach it, `host:port#pin`.
    pub client: Option<String>,
    /// How far its key ceremony is, and whom it waits for.
    pub ceremony: Option<(String, Vec<u64>)>,
    /// The group's key, hex, once it is ready.
    pub ready: Option<String>,
    /// Its epoch and that epoch's leader.
    pub epoch: Option<(u64, u64)>,
    /// Its certified height.
    pub height: Option<u64>,
    /// Are enough custodians there to certify? Unknown until it says so.
    pub certifying: Option<bool>,
    /// The last alarms.
    pub alarms: VecDeque<String>,
    /// Its output has ended.
    pub ended: bool,
}

impl Heard {
    /// Takes one line of its stdout; what isn't a known event changes nothing.
    fn take(&mut self, line: &Value) {
        let text = |name: &str| line.get(name).and_then(Value::as_str).map(str::to_owned);
        let number = |name: &str| line.get(name).and_then(Value::as_u64);
        match line.get("event").and_then(Value::as_str) {
            Some("listening") => self.client = text("client"),
            Some("ceremony") => {
                let waiting = line.get("waiting_on").and_then(Value::as_array).into_iter().flatten();
                self.ceremony =
                    Some((text("stage").unwrap_or_default(), waiting.filter_map(Value::as_u64).collect()));
            }
            Some("ready") => {
                self.ready = text("group");
                self.height = self.height.max(number("height"));
            }
            Some("epoch") => self.epoch = number("epoch").zip(number("leader")),
            Some("certified") => self.height = self.height.max(number("height")),
            Some("quorum") => self.certifying = line.get("certifying").and_then(Value::as_bool),
            Some("alarm") => {
                if self.alarms.len() == CHILD_NEWS {
                    self.alarms.pop_front();
                }
                self.alarms.extend(text("message"));
            }
            _ => {}
        }
    }
}

/// A running child.
pub struct Process {
    spec: Spec,
    child: Child,
    /// Held open: its closing tells the child that its parent is gone.
    stdin: Option<ChildStdin>,
    heard: watch::Receiver<Heard>,
    complaints: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    /// Starts a child.
    pub fn start(spec: Spec) -> Result<Self, Failure> {
        let log = Arc::new(Mutex::new(log(&spec)?));
        let mut child = Command::new(&spec.program)
            .args(&spec.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let text = format!("{}: {}: {error}", spec.name, spec.program.display());
                Failure::not_ready("not_started", text, "")
            })?;
        let (news, heard) = watch::channel(Heard::default());
        let complaints = Arc::new(Mutex::new(VecDeque::new()));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let kept = Arc::clone(&complaints);
        tokio::spawn(async move {
            let said = each_line(out, &log, |line| {
                if let Ok(value) = serde_json::from_str::<Value>(line) {
                    news.send_modify(|heard| heard.take(&value));
                }
            });
            let complained = each_line(err, &log, |line| {
                let mut lines = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == CHILD_LINES {
                    lines.pop_front();
                }
                lines.push_back(line.to_owned());
            });
            tokio::join!(said, complained);
            news.send_modify(|heard| heard.ended = true);
        });
        let stdin = child.stdin.take();
        Ok(Process { spec, child, stdin, heard, complaints })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The process id, as long as it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it has said so far.
    pub fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }

    /// A view on what it says that outlives a borrow of this.
    pub fn follow(&self) -> watch::Receiver<Heard> {
        self.heard.clone()
    }

    /// Waits until what it has said answers `question`. `what` names it for the error.
    pub async fn wait_until<T>(
        &mut self,
        what: &str,
        wait: Duration,
        mut question: impl FnMut(&Heard) -> Option<T>,
    ) -> Result<T, Failure> {
        let mut answer = None;
        let waited = timeout(
            wait,
            self.heard.wait_for(|heard| {
                answer = question(heard);
                answer.is_some() || heard.ended
            }),
        )
        .await
        .is_ok();
        match answer {
            Some(answer) => Ok(answer),
            None if waited => {
                let status = timeout(wait, self.child.wait()).await.ok().and_then(Result::ok);
                Err(self.died(status))
            }
            None => Err(Failure::not_ready(
                "not_ready",
                format!("{} didn't report `{what}` within {} s", self.spec.name, wait.as_secs()),
                format!("see {}", self.spec.log.display()),
            )),
        }
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self, wait: Duration) -> Result<ExitStatus, Failure> {
        match timeout(wait, self.child.wait()).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(self.lost(&error)),
            Err(_) => Err(Failure::not_ready(
                "not_ended",
                format!("{} is still running after {} s", self.spec.name, wait.as_secs()),
                format!("see {}", self.spec.log.display()),
            )),
        }
    }

    /// Kills it with SIGKILL, as a power cut would, and waits until it is gone.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(|error| self.lost(&error))
    }

    /// Closes its stdin, which tells it to stop.
    pub fn hang_up(&mut self) {
        drop(self.stdin.take());
    }

    /// Stops it by closing its stdin; kills it if it doesn't end within `grace`.
    pub async fn stop(mut self, grace: Duration) -> Result<(), Failure> {
        self.hang_up();
        match self.ended(grace).await {
            Ok(_) => Ok(()),
            Err(_) => self.kill().await,
        }
    }

    /// Starts it again, with the same arguments and the same files.
    pub fn restart(&self) -> Result<Self, Failure> {
        Process::start(self.spec.clone())
    }

    fn lost(&self, error: &std::io::Error) -> Failure {
        Failure::not_ready("child", format!("{}: {error}", self.spec.name), "")
    }

    /// Says why it ended: in the words of its own error, if it left one.
    fn died(&self, status: Option<ExitStatus>) -> Failure {
        let lines = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let error = lines.iter().rev().find_map(|line| {
            let value: Value = serde_json::from_str(line).ok()?;
            let text = |name: &str| value.get(name)?.as_str().map(str::to_owned);
            Some((text("code")?, text("message")?, text("hint")?))
        });
        if let Some((code, message, hint)) = error {
            let text = format!("{} stopped: {message} [{code}]", self.spec.name);
            return Failure::not_ready("child_ended", text, hint);
        }
        let status = status.map_or("without a status".to_owned(), |status| status.to_string());
        let said = lines.iter().cloned().collect::<Vec<_>>().join("\n");
        Failure::not_ready(
            "child_ended",
            format!("{} ended ({status}): {said}", self.spec.name),
            format!("its whole output is in {}", self.spec.log.display()),
        )
    }
}

fn log(spec: &Spec) -> Result<File, Failure> {
    let wrong = |error| Failure::not_ready("log_file", format!("{}: {error}", spec.log.display()), "");
    if let Some(parent) = spec.log.parent() {
        std::fs::create_dir_all(parent).map_err(wrong)?;
    }
    OpenOptions::new().create(true).append(true).open(&spec.log).map_err(wrong)
}

/// Keeps every line and shows it to `see`, to the end of the output.
async fn each_line(from: Option<impl AsyncRead + Unpin>, log: &Mutex<File>, mut see: impl FnMut(&str)) {
    let Some(from) = from else { return };
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // A full disk is the child's problem too, and it says so by itself; reading goes on so that it never blocks on us.
        let _ = writeln!(log.lock().unwrap_or_else(PoisonError::into_inner), "{line}");
        see(&line);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const WAIT: Duration = Duration::from_secs(30);

    fn shell(dir: &Path, script: &str) -> Spec {
        Spec {
            name: "child".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: dir.join("log"),
        }
    }

    #[tokio::test]
    async fn readiness_is_a_line_and_a_closed_stdin_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let script = r#"echo noise; echo '{"event":"epoch","epoch":2,"leader":3}'; echo '{"event":"ready","group":"aa","height":7}'; cat"#;
        let mut child = Process::start(shell(dir.path(), script)).unwrap();
        let group = child.wait_until("ready", WAIT, |heard| heard.ready.clone()).await.unwrap();
        let heard = child.heard();
        assert_eq!((group.as_str(), heard.epoch, heard.height), ("aa", Some((2, 3)), Some(7)));
        drop(child.stdin.take());
        assert!(child.ended(WAIT).await.unwrap().success());
        assert!(std::fs::read_to_string(dir.path().join("log")).unwrap().contains("noise"));
    }

    #[tokio::test]
    async fn a_dead_child_is_named_with_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Process::start(shell(dir.path(), "echo no such key >&2; exit 3")).unwrap();
        let failure = child.wait_until("ready", WAIT, |heard| heard.ready.clone()).await.unwrap_err();
        assert_eq!(failure.code, "child_ended");
        assert!(failure.message.contains("no such key") && failure.message.contains("3"), "{failure}");

        let script =
            r#"echo '{"code":"in_use","message":"the port is taken","hint":"choose another"}' >&2; exit 3"#;
        let mut child = Process::start(shell(dir.path(), script)).unwrap();
        let failure = child.wait_until("ready", WAIT, |heard| heard.ready.clone()).await.unwrap_err();
        assert!(
            failure.message.contains("the port is taken") && failure.hint == "choose another",
            "{failure}"
        );
    }

    #[tokio::test]
    async fn killed_and_restarted() {
        let dir = tempfile::tempdir().unwrap();
        let mut child =
            Process::start(shell(dir.path(), r#"echo '{"event":"ready","group":"aa"}'; cat"#)).unwrap();
        child.wait_until("ready", WAIT, |heard| heard.ready.clone()).await.unwrap();
        let first = child.id().unwrap();
        child.kill().await.unwrap();
        assert_eq!(child.id(), None);
        let mut again = child.restart().unwrap();
        again.wait_until("ready", WAIT, |heard| heard.ready.clone()).await.unwrap();
        assert_ne!(again.id(), Some(first));
        again.stop(WAIT).await.unwrap();
    }
}
