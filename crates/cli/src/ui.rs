//! What the program says: data on stdout, everything else on stderr.
//!
//! Promises: with `--json` stdout holds JSON lines and nothing else; colour only on a terminal and never with `NO_COLOR`;
//! a closed pipe ends the program quietly.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// Where a command says what it has to say.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    json: bool,
    colour: bool,
}

impl Ui {
    /// For a run with or without `--json`.
    pub fn new(json: bool) -> Self {
        let colour = std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Ui { json, colour }
    }

    /// Was `--json` given?
    pub fn json(self) -> bool {
        self.json
    }

    /// One result: a JSON line, or text for people.
    pub fn result(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if !self.json {
            return self.stdout(&text());
        }
        let line = serde_json::to_string(value)
            .map_err(|error| Failure::check("output", format!("the result isn't JSON: {error}"), ""))?;
        self.stdout(&line)
    }

    /// A line of data that is the same with and without `--json`.
    pub fn stdout(self, line: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::closed_pipe()),
            Err(error) => Err(Failure::not_ready("output", format!("stdout: {error}"), "")),
        }
    }

    /// Something worth knowing, for people, on stderr.
    pub fn note(self, text: &str) {
        // A closed stderr is no reason to stop: there is nobody left to tell.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// A warning on stderr.
    pub fn warn(self, text: &str) {
        self.note(&format!("{} {text}", self.paint("33", "warning:")));
    }

    /// The failure, on stderr.
    pub fn failure(self, failure: &Failure) {
        if self.json {
            self.note(&failure.json());
            return;
        }
        let text = failure.text();
        match text.split_once(": ") {
            Some((head, rest)) => self.note(&format!("{} {rest}", self.paint("31", &format!("{head}:")))),
            None => self.note(&text),
        }
    }

    fn paint(self, colour: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Progress of something long. Drawn on a terminal; elsewhere each step is one line on stderr, with `--json` none.
    pub fn progress(self) -> Progress {
        let terminal = std::io::stderr().is_terminal() && !self.json;
        let bar = ProgressBar::with_draw_target(
            None,
            if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        let template =
            if self.colour { "{spinner:.cyan} {elapsed:>4} {wide_msg}" } else { "{elapsed:>4} {wide_msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Progress { bar, ui: self, terminal }
    }
}

/// Progress on stderr.
pub struct Progress {
    bar: ProgressBar,
    ui: Ui,
    terminal: bool,
}

impl Progress {
    /// What is going on now.
    pub fn doing(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// What has been done: stays on the screen.
    pub fn done(&self, text: &str) {
        if self.terminal {
            self.bar.println(text);
        } else if !self.ui.json {
            self.ui.note(text);
        }
    }

    /// Takes the moving line away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
