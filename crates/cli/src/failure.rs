//! How a command fails: a code for scripts, a message for people, a hint what to do, and an exit status by meaning.
//!
//! Promises: every failure that leaves the program has all four. Refuses: a status that says less than it could (everything
//! but usage as 1), and failures that end with 0.

use serde_json::json;

/// What the exit status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: the reader of our output went away (a closed pipe): nothing failed.
    Done,
    /// 1: a check failed.
    Check,
    /// 2: used wrongly.
    Usage,
    /// 3: something isn't ready or can't be reached.
    NotReady,
    /// 4: refused by a rule.
    Refused,
}

impl Exit {
    /// The number for the operating system.
    pub fn status(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Check => 1,
            Exit::Usage => 2,
            Exit::NotReady => 3,
            Exit::Refused => 4,
        }
    }
}

/// A command that didn't do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Stable, for scripts: lower-case words with `_`.
    pub code: &'static str,
    /// What was expected, what came, from whom.
    pub message: String,
    /// What to do about it; empty if there is nothing to add.
    pub hint: String,
    /// The meaning.
    pub exit: Exit,
}

impl Failure {
    fn new(exit: Exit, code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure { code, message: message.into(), hint: hint.into(), exit }
    }

    /// A check failed (1).
    pub fn check(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Check, code, message, hint)
    }

    /// Used wrongly (2): arguments, or a file that isn't what it should be.
    pub fn usage(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, code, message, hint)
    }

    /// Not ready or not reachable (3).
    pub fn not_ready(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::NotReady, code, message, hint)
    }

    /// Refused by a rule (4).
    pub fn refused(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Refused, code, message, hint)
    }

    /// Whoever read our output went away: stop, quietly.
    pub fn closed_pipe() -> Self {
        Self::new(Exit::Done, "closed_pipe", "", "")
    }

    /// The object that `--json` prints on stderr.
    pub fn json(&self) -> String {
        json!({"code": self.code, "message": self.message, "hint": self.hint}).to_string()
    }

    /// The lines for people.
    pub fn text(&self) -> String {
        let mut text = format!("error[{}]: {}", self.code, self.message);
        if !self.hint.is_empty() {
            text.push_str("\n  hint: ");
            text.push_str(&self.hint);
        }
        text
    }
}

/// A file that can't be read.
pub fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::usage(
        "unreadable_file",
        format!("{}: {error}", path.display()),
        "check the path and its permissions",
    )
}
