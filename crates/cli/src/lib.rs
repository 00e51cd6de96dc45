//! The command line of Concordat: thin. Every command parses its arguments, calls a library and says what came of it.
//!
//! Promises: data on stdout, the rest on stderr; with `--json` both are JSON; exit status 0 done, 1 a check failed, 2 usage,
//! 3 not ready or unreachable, 4 refused by a rule. Refuses: secrets on the command line, waits without a bound.

pub mod args;
pub mod bench;
pub mod bet;
pub mod cluster;
pub mod commands;
pub mod failure;
pub mod limits;
pub mod process;
pub mod ui;
pub mod user;

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use failure::{Exit, Failure};
use limits::SERVE_THREADS;
use ui::Ui;

/// Runs the program and returns its exit status.
pub fn main(arguments: Vec<OsString>) -> u8 {
    // Known before clap has parsed anything, so that its errors too come out in the form that was asked for.
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    let ui = Ui::new(json);
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(ui, &error),
    };
    let serves = matches!(cli.command, Command::Serve(_));
    log(serves);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if serves {
        runtime.worker_threads(SERVE_THREADS);
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            ui.failure(&Failure::not_ready("runtime", format!("no async runtime: {error}"), ""));
            return Exit::NotReady.status();
        }
    };
    let done = runtime.block_on(run(cli.command, ui));
    // Connections that linger must not keep the shell waiting.
    runtime.shutdown_background();
    match done {
        Ok(()) => Exit::Done.status(),
        Err(failure) => {
            if failure.exit != Exit::Done {
                ui.failure(&failure);
            }
            failure.exit.status()
        }
    }
}

async fn run(command: Command, ui: Ui) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => commands::demo::run(args, ui).await,
        Command::Dev(command) => commands::dev::run(command, ui).await,
        Command::Bench(args) => commands::bench::run(args, ui).await,
        Command::Ceremony(command) => commands::ceremony::run(command, ui),
        Command::Member(command) => commands::member::run(command, ui).await,
        Command::Share(command) => commands::member::share(command, ui).await,
        Command::Backup(args) => commands::backup::backup(&args, ui),
        Command::Restore(args) => commands::backup::restore(&args, ui),
        Command::Recover(command) => commands::recover::run(command, ui).await,
        Command::Serve(args) => commands::serve::run(args, ui).await,
        Command::Status(args) => commands::status::run(args, ui).await,
        Command::Key(command) => commands::key::run(command, ui),
        Command::Machine(command) => commands::machine::run(command, ui),
        Command::Publish(args) => commands::publish::run(args, ui).await,
        Command::Send(args) => commands::send::run(args, ui).await,
        Command::Get(args) => commands::get::run(args, ui).await,
        Command::Statement(args) => commands::statement::run(args, ui).await,
        Command::Watch(args) => commands::watch::run(args, ui).await,
        Command::List(args) => commands::list::run(args, ui).await,
        Command::History(args) => commands::history::run(args, ui).await,
        Command::Registry(command) => commands::registry::run(command, ui).await,
        Command::Verify(args) => commands::verify::run(args, ui).await,
        Command::Evidence(command) => commands::evidence::run(command, ui).await,
    }
}

/// Help and version are data; every other error of clap's is a failure of usage.
fn usage(ui: Ui, error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that went away before the end of the help has seen enough.
            let _ = ui.stdout(error.to_string().trim_end());
            Exit::Done.status()
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let failure =
                Failure::usage("usage", "no command is given", "concordat --help lists the commands");
            if ui.json() {
                ui.failure(&failure)
            } else {
                ui.note(error.to_string().trim_end())
            }
            Exit::Usage.status()
        }
        _ => {
            let text = error.to_string();
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let message = lines.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let usage =
                lines.filter(|line| !line.starts_with("For more information")).collect::<Vec<_>>().join(" ");
            ui.failure(&Failure::usage("usage", message, usage));
            Exit::Usage.status()
        }
    }
}

/// Logs go to stderr, errors only (a custodian's: also what it does) unless `CONCORDAT_LOG` says otherwise, in the form of
/// tracing's `EnvFilter`.
fn log(serves: bool) {
    let filter = if serves {
        "error,concordat_node=info,concordat_finality=info,nostr_relay_pool=off"
    } else {
        "error,nostr_relay_pool=off,nostr_relay_builder=off"
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("CONCORDAT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(filter));
    // A subscriber that is already there (a test's) is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .try_init();
}
