//! The command line as clap sees it. No defaults stand here: what isn't given stays `None`, and the code that uses it says
//! what it takes instead.

use clap::{Parser, Subcommand};

use crate::commands::{
    backup, bench, ceremony, demo, dev, evidence, get, history, key, list, machine, member, publish, recover,
    registry, send, serve, statement, status, verify, watch,
};

/// Certified state machines on Nostr: one key, one signature, several custodians.
#[derive(Parser, Debug)]
#[command(
    name = "concordat",
    version,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done, 1 a check failed, 2 usage, 3 not ready or unreachable, 4 refused by a rule.\n\
                  Data goes to stdout, everything else to stderr."
)]
pub struct Cli {
    /// Prints JSON: results on stdout, an error as {"code","message","hint"} on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// A bet settled by custodians on this computer, one of them killed on the way, then verified from public events
    Demo(demo::DemoArgs),
    /// A local cluster for development
    #[command(subcommand)]
    Dev(dev::DevCommand),
    /// Load against a local cluster of real processes, beside what its computer could do at most
    Bench(bench::BenchArgs),
    /// How custodians found a group: join, propose, accept, then `serve` makes the key
    #[command(subcommand)]
    Ceremony(ceremony::CeremonyCommand),
    /// Who the custodians are, changed while the group works
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// The shares of the group's key
    #[command(subcommand)]
    Share(member::ShareCommand),
    /// One sealed file that brings a custodian back
    Backup(backup::BackupArgs),
    /// Brings a custodian back from its backup, into quarantine
    Restore(backup::RestoreArgs),
    /// After too many custodians were restored at once: their operators agree where the group goes on
    #[command(subcommand)]
    Recover(recover::RecoverCommand),
    /// Runs one custodian
    Serve(serve::ServeArgs),
    /// How custodians are: epoch, leader, certified height
    Status(status::StatusArgs),
    /// Identities
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Definitions, offline: check one, run one
    #[command(subcommand)]
    Machine(machine::MachineCommand),
    /// Publishes a definition and waits until the group has admitted or rejected it
    Publish(publish::PublishArgs),
    /// Signs and sends an event to a machine and waits for its certified outcome
    Send(send::SendArgs),
    /// A machine's newest certified state
    Get(get::GetArgs),
    /// What a machine has stated under the group's key, such as who gets a bet's stakes
    Statement(statement::StatementArgs),
    /// Follows a machine's certified states
    Watch(watch::WatchArgs),
    /// The group's machines
    List(list::ListArgs),
    /// A machine's requests with their outcomes
    History(history::HistoryArgs),
    /// Who has moved to which key, by the group's key registry
    #[command(subcommand)]
    Registry(registry::RegistryCommand),
    /// Replays a group's public history and checks every head, signature, root and rejection
    Verify(verify::VerifyArgs),
    /// What custodians hold against custodians that broke the rules: signed messages that anybody can check
    #[command(subcommand)]
    Evidence(evidence::EvidenceCommand),
}
