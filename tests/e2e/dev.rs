//! `dev up`: a cluster that stays, and is there again after a restart; and one on a relay that shares no code with ours.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Ran, concordat, ran, run, skipped};
use crate::town::{COUNTER, TURN};

/// A running `dev up`. It is told to stop when dropped.
struct Up {
    child: Child,
    out: BufReader<ChildStdout>,
    line: Value,
}

impl Up {
    /// Starts it and waits for what it prints when it is up.
    fn start(home: &Path, more: &[&str]) -> Self {
        let mut command = concordat(home);
        command.args(["dev", "up", "--dir", "cluster", "--json"]).args(more).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Up { child, out, line }
    }

    /// Interrupts it as a terminal does, and waits for its end: custodians hold its stdout no longer.
    fn stop(mut self) {
        interrupt(&self.child);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        let mut rest = String::new();
        self.out.read_line(&mut rest).unwrap();
        assert_eq!(rest, "");
    }

    /// Runs a command as the exports say.
    fn run(&self, home: &Path, arguments: &[&str]) -> Ran {
        let list = |name: &str| {
            let all: Vec<&str> =
                self.line[name].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
            all.join(",")
        };
        ran(concordat(home)
            .args(arguments)
            .args(["--json", "--timeout", "120"])
            .env("CONCORDAT_GROUP", self.line["group"].as_str().unwrap())
            .env("CONCORDAT_RELAYS", list("relays"))
            .env("CONCORDAT_CUSTODIANS", list("custodians")))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // A test that failed before it stopped it.
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            interrupt(&self.child);
            let _ = self.child.wait();
        }
    }
}

fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Kills one of the custodians that a running `dev up` has started, with SIGKILL.
fn kill_one(up: &Up) {
    let parent = up.child.id();
    let child_of = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // pid (name) state ppid ...: the name may hold anything, so what counts stands after its end.
        let ppid: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        (ppid == parent).then_some(pid)
    };
    let victim = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).find_map(child_of).unwrap();
    let status = Command::new("kill").args(["-KILL", &victim.to_string()]).status().unwrap();
    assert!(status.success());
}

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("counter.json"), COUNTER).unwrap();
    assert_eq!(run(home.path(), &["key", "new"]).status, 0);
    home
}

fn published(up: &Up, home: &Path) -> String {
    let published = up.run(home, &["publish", "counter.json"]);
    assert_eq!(published.status, 0, "{published}");
    published.lines()[0]["machine"].as_str().unwrap().to_owned()
}

#[test]
fn a_second_start_goes_on_with_the_same_cluster() {
    let _turn = TURN.blocking_lock();
    let home = home();
    let home = home.path();
    let up = Up::start(home, &[]);
    let machine = published(&up, home);
    let group = up.line["group"].clone();
    let relay = up.line["relays"][0].as_str().unwrap().to_owned();

    // One custodian is killed: the others go on, and so does the command that started them.
    kill_one(&up);
    let sent = up.run(home, &["send", &machine, "ADD", "--data", r#"{"by":2}"#]);
    assert_eq!(sent.status, 0, "{sent}");

    let second = run(home, &["dev", "up", "--dir", "cluster", "--json"]);
    assert_eq!((second.status, second.error()["code"].as_str()), (3, Some("in_use")), "{second}");
    up.stop();

    // Its relay's port is part of the cluster: if somebody has it, that is said, and nothing is started elsewhere.
    let port: u16 = relay.trim_end_matches('/').rsplit_once(':').unwrap().1.parse().unwrap();
    let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let blocked = run(home, &["dev", "up", "--dir", "cluster", "--json"]);
    assert_eq!(
        (blocked.status, blocked.error()["code"].as_str()),
        (3, Some("relay_not_started")),
        "{blocked}"
    );
    assert!(blocked.error()["message"].as_str().unwrap().contains(&port.to_string()), "{blocked}");
    drop(taken);
    let other = run(home, &["dev", "up", "--dir", "cluster", "--custodians", "5", "--json"]);
    assert_eq!((other.status, other.error()["code"].as_str()), (2, Some("other_cluster")), "{other}");

    let up = Up::start(home, &[]);
    assert_eq!((&up.line["group"], up.line["relays"][0].as_str()), (&group, Some(relay.as_str())));
    let sent = up.run(home, &["send", &machine, "ADD", "--data", r#"{"by":3}"#]);
    assert_eq!(sent.status, 0, "{sent}");
    let got = up.run(home, &["get", &machine, "--proof"]);
    assert_eq!(got.lines()[0]["context"]["n"], 5, "{got}");
    let verified = up.run(home, &["verify"]);
    assert_eq!(verified.status, 0, "{verified}");
    up.stop();
}

/// A relay that shares no code with ours.
struct Independent(
    Child,
    #[expect(dead_code, reason = "its files live as long as it does")] tempfile::TempDir,
);

impl Drop for Independent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Independent {
    fn start(program: &Path, port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "[info]\nrelay_url = \"ws://127.0.0.1:{port}/\"\n[database]\ndata_directory = \"{}\"\n[network]\naddress = \"127.0.0.1\"\nport = {port}\n[limits]\nmessages_per_sec = 0\n",
            dir.path().display()
        );
        let path = dir.path().join("config.toml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new(program)
            .arg("--config")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Independent(child.unwrap(), dir)
    }
}

#[test]
fn on_an_independent_relay() {
    let Some(program) =
        std::env::var_os("CONCORDAT_RELAY_BIN").filter(|path| !path.is_empty()).map(PathBuf::from)
    else {
        return skipped("independent_relay", "CONCORDAT_RELAY_BIN names no nostr-rs-relay");
    };
    let _turn = TURN.blocking_lock();
    let port = concordat_cli::cluster::free_port().unwrap();
    let _relay = Independent::start(&program, port);
    let url = format!("ws://127.0.0.1:{port}");
    let home = home();
    let home = home.path();
    answers(home, &url);
    let up = Up::start(home, &["--custodians", "2", "--relay", &url]);
    let machine = published(&up, home);
    for _ in 0..3 {
        let sent = up.run(home, &["send", &machine, "ADD", "--data", r#"{"by":1}"#]);
        assert_eq!(sent.status, 0, "{sent}");
    }
    let got = up.run(home, &["get", &machine]);
    assert_eq!(got.status, 0, "{got}");
    let verified = up.run(home, &["verify"]);
    assert_eq!(verified.status, 0, "{verified}");
    up.stop();
}

/// Waits until the relay takes connections: it has no other way to say that it is there.
fn answers(home: &Path, url: &str) {
    let group = nostr::Keys::generate().public_key().to_hex();
    let began = std::time::Instant::now();
    while run(home, &["list", "--group", &group, "--relay", url]).status != 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "the relay isn't there");
    }
}
