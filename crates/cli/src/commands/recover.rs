//! `recover report|plan|sign|keep`: what operators do when more custodians were restored or rolled back at once than can come back by
//! themselves. All processes are stopped; reports and signatures are files that the operators send each other.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use concordat_node::ceremony::words;
use concordat_node::recover::{Planned, RecoverFailure, Recovery, Shown, Vote};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::ui::Ui;

/// What is typed, or given with `--accept`, by who has understood what may be lost.
const RISK: &str = "heads-may-be-lost";

/// Commands of the ceremony.
#[derive(Subcommand, Debug)]
pub enum RecoverCommand {
    /// Writes what the stopped custodian's disk holds into a signed file, for all operators
    Report(ReportArgs),
    /// Shows where the group would go on, as it follows from these reports; writes nothing
    Plan(PlanArgs),
    /// Signs that plan, once: from then on the custodian votes for nothing before it
    Sign(SignArgs),
    /// Keeps the signatures of a quorum: `serve` goes on from there
    Keep(KeepArgs),
}

/// Arguments of `recover report`.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// The stopped custodian's configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The new file
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Put in all certified heads from this height on, for those who are far behind, instead of the newest ones
    #[arg(long, value_name = "HEIGHT")]
    pub heads_from: Option<u64>,
}

/// Arguments of `recover plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// The stopped custodian's configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The reports of all who take part, the own one too
    #[arg(value_name = "REPORT", required = true)]
    pub reports: Vec<PathBuf>,
}

/// Arguments of `recover sign`.
#[derive(Args, Debug)]
pub struct SignArgs {
    /// The stopped custodian's configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The new file with the signature
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Don't ask; the risk, by its name: heads-may-be-lost
    #[arg(long, value_name = "RISK")]
    pub accept: Option<String>,
    /// Go on though a relay can't be asked for a newer head
    #[arg(long)]
    pub without_relays: bool,
    /// The reports of all who take part, the own one too
    #[arg(value_name = "REPORT", required = true)]
    pub reports: Vec<PathBuf>,
}

/// Arguments of `recover keep`.
#[derive(Args, Debug)]
pub struct KeepArgs {
    /// The stopped custodian's configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The signatures of a quorum, the own one too
    #[arg(value_name = "SIGNATURE", required = true)]
    pub signatures: Vec<PathBuf>,
}

/// Runs the command.
pub async fn run(command: RecoverCommand, ui: Ui) -> Result<(), Failure> {
    match command {
        RecoverCommand::Report(args) => report(&args, ui),
        RecoverCommand::Plan(args) => {
            let planned = planned(&mut Recovery::open(&args.config).map_err(failure)?, &args.reports).await?;
            say(&planned, ui)
        }
        RecoverCommand::Sign(args) => sign(&args, ui).await,
        RecoverCommand::Keep(args) => keep(&args, ui),
    }
}

/// A failure of the ceremony as the shell's.
fn failure(error: RecoverFailure) -> Failure {
    let (code, text, hint) = (error.code(), error.to_string(), error.hint());
    match code {
        "bad_file" | "other_group" | "damaged" | "two_locks" | "two_plans" => {
            Failure::check(code, text, hint)
        }
        "relays_ahead" | "signed_another" | "report_again" | "no_vote" => Failure::refused(code, text, hint),
        "config" | "file" | "two_reports" => Failure::usage(code, text, hint),
        _ => Failure::not_ready(code, text, hint),
    }
}

fn vote(vote: Option<Vote>) -> Value {
    vote.map_or(Value::Null, |vote| json!({"epoch": vote.epoch, "height": vote.height, "id": vote.id}))
}

fn shown(shown: &Shown) -> Value {
    json!({
        "number": shown.number, "name": shown.name, "height": shown.height, "epoch": shown.epoch,
        "prepared": vote(shown.prepared), "lock": vote(shown.lock),
    })
}

fn height(height: Option<u64>) -> String {
    height.map_or("no head".to_owned(), |height| format!("head {height}"))
}

fn report(args: &ReportArgs, ui: Ui) -> Result<(), Failure> {
    let recovery = Recovery::open(&args.config).map_err(failure)?;
    let own = recovery.report(&args.out, args.heads_from).map_err(failure)?;
    let mut value = shown(&own);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("report".to_owned(), json!(args.out));
    }
    ui.result(&value, || {
        format!("custodian {} {}: {}, in {}", own.number, own.name, height(own.height), args.out.display())
    })?;
    ui.note("send it to the operators of all, and don't start `serve` before the end of the ceremony: the report would be false");
    Ok(())
}

async fn planned(recovery: &mut Recovery, reports: &[PathBuf]) -> Result<Planned, Failure> {
    recovery.take(reports).map_err(failure)?;
    recovery.plan().await.map_err(failure)
}

fn say(planned: &Planned, ui: Ui) -> Result<(), Failure> {
    let plan = &planned.plan;
    let said = words(&plan.hash());
    let value = json!({
        "plan": plan.hash(), "words": said, "epoch": plan.epoch, "certified": plan.certified,
        "forced": vote(plan.forced), "absent": plan.absent,
        "passed_over": plan.passed_over.iter().map(|passed| vote(Some(*passed))).collect::<Vec<_>>(),
        "reports": planned.shown.iter().map(shown).collect::<Vec<_>>(),
        "relays_not_asked": planned.unasked,
    });
    ui.result(&value, || {
        let mut lines: Vec<String> = planned
            .shown
            .iter()
            .map(|shown| {
                format!("  {} {}: {}, epoch {}", shown.number, shown.name, height(shown.height), shown.epoch)
            })
            .collect();
        lines.push(format!("the group goes on from {} in epoch {}", height(plan.certified), plan.epoch));
        if let Some(forced) = plan.forced {
            lines.push(format!("its next head must be {} (it may have been certified)", forced.id));
        }
        lines.push(format!("words: {said}"));
        lines.join("\n")
    })?;
    for relay in &planned.unasked {
        ui.warn(&format!("{relay} couldn't be asked for a newer head"));
    }
    ui.warn(&risk(planned));
    ui.note("compare the words with the other operators by voice: all must have the same");
    Ok(())
}

/// The risk in plain words.
fn risk(planned: &Planned) -> String {
    let plan = &planned.plan;
    let absent = if plan.absent.is_empty() {
        "of lost or rolled back disks".to_owned()
    } else {
        let numbers: Vec<String> = plan.absent.iter().map(u16::to_string).collect();
        format!(
            "of lost or rolled back disks, or of those who aren't there (custodian {})",
            numbers.join(", ")
        )
    };
    let passed: Vec<String> = plan.passed_over.iter().map(|vote| vote.id.to_hex()).collect();
    let passed = if passed.is_empty() {
        String::new()
    } else {
        format!(
            " Of the heads that may have been certified only one can be kept; left out: {}.",
            passed.join(", ")
        )
    };
    format!(
        "a head above {} that is known only {absent} is lost, and another takes its place: what users were told of it is then \
         false, and nothing undoes that.{passed}",
        height(plan.certified)
    )
}

async fn sign(args: &SignArgs, ui: Ui) -> Result<(), Failure> {
    let mut recovery = Recovery::open(&args.config).map_err(failure)?;
    let planned = planned(&mut recovery, &args.reports).await?;
    if !args.without_relays && !planned.unasked.is_empty() {
        return Err(Failure::not_ready(
            "relays_not_asked",
            format!("these relays couldn't be asked for a newer head: {}", planned.unasked.join(", ")),
            "one that is published already would be contradicted; if they are gone for good, say --without-relays",
        ));
    }
    ui.note(&format!("words: {}", words(&planned.plan.hash())));
    ui.warn(&risk(&planned));
    accepted(args.accept.as_deref(), ui)?;
    let (plan, earlier) = recovery.sign(&args.out).map_err(failure)?;
    let said = words(&plan);
    let value = json!({"plan": plan, "words": said, "signature": args.out, "earlier": earlier.word()});
    if let Some(note) = earlier.note() {
        ui.note(note);
    }
    ui.result(&value, || format!("signed, in {}\nwords: {said}", args.out.display()))?;
    ui.note("send it to all; `recover keep` takes the signatures of a quorum");
    Ok(())
}

/// The risk is accepted by its name: given, or typed at the terminal.
fn accepted(given: Option<&str>, ui: Ui) -> Result<(), Failure> {
    let refused = || {
        Failure::usage(
            "not_confirmed",
            "nothing was signed",
            format!("if you accept it, say --accept {RISK}"),
        )
    };
    if let Some(given) = given {
        return if given == RISK { Ok(()) } else { Err(refused()) };
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(refused());
    }
    ui.note(&format!("if you accept this, type: {RISK}"));
    let mut line = String::new();
    let _ = stdin.lock().read_line(&mut line);
    if line.trim() == RISK { Ok(()) } else { Err(refused()) }
}

fn keep(args: &KeepArgs, ui: Ui) -> Result<(), Failure> {
    let recovery = Recovery::open(&args.config).map_err(failure)?;
    let kept = recovery.keep(&args.signatures).map_err(failure)?;
    let said = words(&kept.plan);
    ui.result(&json!({"plan": kept.plan, "words": said, "signers": kept.signers, "own": kept.own}), || {
        format!("signed by custodians {:?}, kept\nwords: {said}", kept.signers)
    })?;
    if !kept.own {
        ui.warn("this custodian hasn't signed it: if it is in quarantine it stays there until two more heads are certified");
    }
    ui.note("start `serve`: the group goes on once a quorum of those who have signed runs");
    Ok(())
}
