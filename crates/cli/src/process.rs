//! One child process under supervision: started, waited for by what it says, killed, restarted.
//!
//! Promises: nothing is polled: readiness is a line of JSON on the child's stdout; the child is killed when its handle is
//! dropped, and its stdin closes when this process ends in any way, which tells it to stop. Its output is kept in log files.
//! Refuses: to wait without a bound, and to report a child that died as one that is late.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::failure::Failure;

/// Life-cycle lines that wait to be read: a child has a handful; one that says more is heard no longer than this.
const EVENTS: usize = 256;

/// Bytes of stderr that an error about a dead child quotes.
const QUOTED: usize = 2_000;

/// What to run, and where its output goes.
#[derive(Clone, Debug)]
pub struct Spec {
    /// A name for messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments; none of them a secret.
    pub arguments: Vec<OsString>,
    /// Where `<name>.out` and `<name>.err` are kept; both are appended to.
    pub logs: PathBuf,
}

/// A running child.
pub struct Process {
    spec: Spec,
    child: Child,
    /// Held open: its closing tells the child that its parent is gone.
    stdin: Option<ChildStdin>,
    events: mpsc::Receiver<Value>,
}

impl Process {
    /// Starts a child.
    pub fn start(spec: Spec) -> Result<Self, Failure> {
        let stderr = log(&spec, "err")?;
        let stdout = log(&spec, "out")?;
        let mut child = Command::new(&spec.program)
            .args(&spec.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Failure::not_ready(
                    "not_started",
                    format!("{}: {}: {error}", spec.name, spec.program.display()),
                    "",
                )
            })?;
        let (sender, events) = mpsc::channel(EVENTS);
        if let Some(out) = child.stdout.take() {
            tokio::spawn(listen(out, stdout, sender));
        }
        let stdin = child.stdin.take();
        Ok(Process { spec, child, stdin, events })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The process id, as long as it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it says `{"event":"<event>",..}`; other events are passed to `seen`.
    pub async fn wait_for(
        &mut self,
        event: &str,
        wait: Duration,
        mut seen: impl FnMut(&Value),
    ) -> Result<Value, Failure> {
        let deadline = Instant::now() + wait;
        loop {
            match timeout_at(deadline, self.events.recv()).await {
                Ok(Some(value)) if value.get("event").and_then(Value::as_str) == Some(event) => {
                    return Ok(value);
                }
                Ok(Some(value)) => seen(&value),
                Ok(None) => {
                    let ended = timeout_at(deadline, self.child.wait()).await;
                    return Err(self.died(ended.ok().and_then(Result::ok)));
                }
                Err(_) => {
                    return Err(Failure::not_ready(
                        "not_ready",
                        format!("{} didn't report `{event}` within {} s", self.spec.name, wait.as_secs()),
                        format!("see {}", self.spec.logs.join(format!("{}.err", self.spec.name)).display()),
                    ));
                }
            }
        }
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self, wait: Duration) -> Result<ExitStatus, Failure> {
        match timeout_at(Instant::now() + wait, self.child.wait()).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(Failure::not_ready("no_child", format!("{}: {error}", self.spec.name), "")),
            Err(_) => Err(Failure::not_ready(
                "still_running",
                format!("{} is still running after {} s", self.spec.name, wait.as_secs()),
                "",
            )),
        }
    }

    /// SIGKILL: it gets no chance to tidy up. Returns once it is gone.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(|error| {
            Failure::not_ready("not_killed", format!("{} can't be killed: {error}", self.spec.name), "")
        })
    }

    /// Asks it to stop by closing its stdin; kills it if it doesn't within `grace`.
    pub async fn stop(mut self, grace: Duration) -> Result<(), Failure> {
        drop(self.stdin.take());
        match self.ended(grace).await {
            Ok(_) => Ok(()),
            Err(_) => self.kill().await,
        }
    }

    /// Starts it again, with the same arguments and the same files.
    pub fn restart(&self) -> Result<Self, Failure> {
        Process::start(self.spec.clone())
    }

    fn died(&self, status: Option<ExitStatus>) -> Failure {
        let path = self.spec.logs.join(format!("{}.err", self.spec.name));
        let status = status.map_or("without a status".to_owned(), |status| status.to_string());
        let text = std::fs::read(&path).unwrap_or_default();
        let start = text.len().saturating_sub(QUOTED);
        let said = String::from_utf8_lossy(text.get(start..).unwrap_or_default()).trim().to_owned();
        Failure::not_ready(
            "child_ended",
            format!("{} ended ({status}): {said}", self.spec.name),
            format!("its whole output is in {}", path.display()),
        )
    }
}

fn log(spec: &Spec, suffix: &str) -> Result<File, Failure> {
    let path = spec.logs.join(format!("{}.{suffix}", spec.name));
    let wrong = |error| Failure::not_ready("log_file", format!("{}: {error}", path.display()), "");
    std::fs::create_dir_all(&spec.logs).map_err(wrong)?;
    OpenOptions::new().create(true).append(true).open(&path).map_err(wrong)
}

/// Keeps everything the child says and passes on what is a life-cycle event, to the end of its output.
async fn listen(out: ChildStdout, mut log: File, events: mpsc::Sender<Value>) {
    let mut lines = BufReader::new(out).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // A full disk is the child's problem too, and it says so by itself; reading goes on so that it never blocks on us.
        let _ = writeln!(log, "{line}");
        if let Ok(value) = serde_json::from_str::<Value>(&line)
            && value.get("event").is_some_and(Value::is_string)
        {
            let _ = events.try_send(value);
        }
    }
}

/// Where the logs of a cluster in `dir` are.
pub fn logs(dir: &Path) -> PathBuf {
    dir.join("logs")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(30);

    fn shell(dir: &Path, script: &str) -> Spec {
        Spec {
            name: "child".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            logs: logs(dir),
        }
    }

    #[tokio::test]
    async fn readiness_is_a_line_and_a_closed_stdin_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let script = r#"echo noise; echo '{"event":"listening"}'; echo '{"event":"ready","height":7}'; cat"#;
        let mut child = Process::start(shell(dir.path(), script)).unwrap();
        let mut before = Vec::new();
        let ready = child.wait_for("ready", WAIT, |event| before.push(event["event"].clone())).await.unwrap();
        assert_eq!((ready["height"].as_u64(), before), (Some(7), vec![Value::from("listening")]));
        drop(child.stdin.take());
        assert!(child.ended(WAIT).await.unwrap().success());
        assert!(std::fs::read_to_string(logs(dir.path()).join("child.out")).unwrap().contains("noise"));
    }

    #[tokio::test]
    async fn a_dead_child_is_named_with_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Process::start(shell(dir.path(), "echo no such key >&2; exit 3")).unwrap();
        let failure = child.wait_for("ready", WAIT, |_| {}).await.unwrap_err();
        assert_eq!(failure.code, "child_ended");
        assert!(failure.message.contains("no such key") && failure.message.contains("3"), "{failure}");
    }

    #[tokio::test]
    async fn killed_and_restarted() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Process::start(shell(dir.path(), r#"echo '{"event":"ready"}'; cat"#)).unwrap();
        child.wait_for("ready", WAIT, |_| {}).await.unwrap();
        let first = child.id().unwrap();
        child.kill().await.unwrap();
        assert_eq!(child.id(), None);
        let mut again = child.restart().unwrap();
        again.wait_for("ready", WAIT, |_| {}).await.unwrap();
        assert_ne!(again.id(), Some(first));
        again.stop(WAIT).await.unwrap();
    }
}
