//! Running the binary, and what tests need around it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What a run of the binary gave.
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The error object that `--json` puts on stderr, after checking its shape.
    pub fn error(&self) -> Value {
        let line = self.stderr.lines().last().unwrap_or_default();
        let error: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self}"));
        let fields = error.as_object().unwrap_or_else(|| panic!("{self}"));
        for field in ["code", "message", "hint"] {
            assert!(fields.get(field).is_some_and(Value::is_string), "{field}: {self}");
        }
        assert_eq!(fields.len(), 3, "{self}");
        error
    }

    /// stdout as JSON lines.
    pub fn lines(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}: {self}")))
            .collect()
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {}\nstdout: {}\nstderr: {}", self.status, self.stdout, self.stderr)
    }
}

/// The binary with an environment of its own: no settings of whoever runs the tests get in.
pub fn concordat(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_concordat"));
    for name in
        ["CONCORDAT_GROUP", "CONCORDAT_RELAYS", "CONCORDAT_CUSTODIANS", "CONCORDAT_KEY_FILE", "CONCORDAT_LOG"]
    {
        command.env_remove(name);
    }
    command.env("HOME", home).env_remove("XDG_CONFIG_HOME").stdin(Stdio::null()).current_dir(home);
    command
}

/// Runs a command to its end.
pub fn ran(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Ran {
        status: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// Runs the binary with these arguments.
pub fn run(home: &Path, arguments: &[&str]) -> Ran {
    ran(concordat(home).args(arguments))
}

/// Says that a test can't run here. `.ci/run` looks for the line and compares the name with tests/SKIPS.md.
pub fn skipped(name: &str, reason: &str) {
    let mut out = std::io::stdout().lock();
    let _ = std::io::Write::write_all(&mut out, format!("SKIPPED: {name}: {reason}\n").as_bytes());
}
