//! What happened in a run, as lines: their hash tells two runs apart, the lines themselves are kept when somebody wants to read
//! them.

use sha2::{Digest, Sha256};

/// See the module's header.
#[derive(Default)]
pub struct Trace {
    hash: Sha256,
    lines: Option<Vec<String>>,
    /// How many lines.
    pub steps: u64,
}

impl Trace {
    /// Keeps the lines as well.
    pub fn kept() -> Self {
        Trace { lines: Some(Vec::new()), ..Trace::default() }
    }

    /// Notes a line.
    pub fn note(&mut self, line: String) {
        self.hash.update(line.as_bytes());
        self.hash.update(b"\n");
        self.steps += 1;
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }

    /// Keeps a line for readers that says nothing new.
    pub fn aside(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }

    /// Are the lines kept?
    pub fn keeps(&self) -> bool {
        self.lines.is_some()
    }

    /// The hash over all lines, hex, and the lines if they were kept.
    pub fn finish(self) -> (String, Vec<String>) {
        (hex::encode(self.hash.finalize()), self.lines.unwrap_or_default())
    }
}
