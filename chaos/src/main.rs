//! `chaos`: the simulator, the model checker and the clusters of real processes as commands.

use std::process::ExitCode;

use chaos::commands;
use clap::{Parser, Subcommand};

/// Attacks the custodians' own code.
#[derive(Parser)]
#[command(name = "chaos", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

/// One file per command.
#[derive(Subcommand)]
enum Command {
    /// Explores every state of a small cluster.
    Check(commands::check::Check),
    /// Runs whole custodians in virtual time, one run per seed.
    #[cfg(feature = "sim")]
    Sim(commands::sim::Sim),
    /// Runs every mutant on its recorded seeds.
    #[cfg(feature = "sim")]
    Mutants(commands::mutants::Mutants),
    /// Steps through the event log of a run.
    #[cfg(feature = "sim")]
    Replay(commands::replay::Replay),
    /// Runs real custodians in network namespaces, with users, under faults; then judges what users and relays saw.
    #[cfg(feature = "sim")]
    Cluster(commands::cluster::ClusterArgs),
    /// A relay of `cluster`.
    #[cfg(feature = "sim")]
    #[command(hide = true)]
    Relay(commands::cluster::RelayArgs),
    /// The users of `cluster`.
    #[cfg(feature = "sim")]
    #[command(hide = true)]
    Users(chaos::real::users::Users),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Check(check) => check.run(),
        #[cfg(feature = "sim")]
        Command::Sim(sim) => sim.run(),
        #[cfg(feature = "sim")]
        Command::Mutants(mutants) => mutants.run(),
        #[cfg(feature = "sim")]
        Command::Replay(replay) => replay.run(),
        #[cfg(feature = "sim")]
        Command::Cluster(cluster) => cluster.run(),
        #[cfg(feature = "sim")]
        Command::Relay(relay) => relay.run(),
        #[cfg(feature = "sim")]
        Command::Users(users) => users.process(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("chaos: {error:#}");
        ExitCode::from(2)
    })
}
