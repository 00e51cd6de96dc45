//! `ceremony join|propose|accept|reject|status|abort`: how custodians found a group. Cards, offers and decisions are files that
//! the founders send each other; the key itself is made by `serve`, over the network, once all have accepted.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use concordat_events::Admission;
use concordat_node::ceremony::{Card, Decision, Offer, Proposal, init, words};
use concordat_node::config::Config;
use concordat_node::dir::{ABORT, CustodianDir, STATUS};
use concordat_node::keys::file;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::ui::Ui;

/// Commands on the key ceremony.
#[derive(Subcommand, Debug)]
pub enum CeremonyCommand {
    /// Makes a custodian: its keys, its configuration, and the card that it sends to who proposes
    Join(JoinArgs),
    /// Makes a signed proposal from the cards of all founders
    Propose(ProposeArgs),
    /// Accepts a proposal: `serve` then makes the key with the others
    Accept(AcceptArgs),
    /// Rejects a proposal, signed, with a reason for the others
    Reject(RejectArgs),
    /// How far the ceremony is, and for whom it waits
    Status(DirArgs),
    /// Ends a ceremony, also while `serve` runs
    Abort(DirArgs),
}

/// Arguments of `ceremony join`.
#[derive(Args, Debug)]
pub struct JoinArgs {
    /// The configuration to be: its directory becomes the custodian's
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where the others reach it, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub address: String,
}

/// Arguments of `ceremony propose`.
#[derive(Args, Debug)]
pub struct ProposeArgs {
    /// The proposer's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The cards of all founders, the own one too; they are numbered in this order
    #[arg(long = "card", value_name = "FILE", required = true)]
    pub cards: Vec<PathBuf>,
    /// The group's name
    #[arg(long)]
    pub name: String,
    /// What it is for
    #[arg(long)]
    pub description: Option<String>,
    /// Relays that the group writes to and reads from
    #[arg(long = "relay", value_name = "URL", required = true)]
    pub relays: Vec<String>,
    /// The new file for the signed proposal
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Arguments of `ceremony accept`.
#[derive(Args, Debug)]
pub struct AcceptArgs {
    /// The signed proposal
    #[arg(value_name = "FILE")]
    pub offer: PathBuf,
    /// The custodian's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Arguments of `ceremony reject`.
#[derive(Args, Debug)]
pub struct RejectArgs {
    /// The signed proposal
    #[arg(value_name = "FILE")]
    pub offer: PathBuf,
    /// The custodian's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Why, for the others
    #[arg(long)]
    pub reason: String,
}

/// Arguments of `ceremony status` and `ceremony abort`.
#[derive(Args, Debug)]
pub struct DirArgs {
    /// The custodian's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Runs the command.
pub fn run(command: CeremonyCommand, ui: Ui) -> Result<(), Failure> {
    match command {
        CeremonyCommand::Join(args) => join(&args, ui),
        CeremonyCommand::Propose(args) => propose(args, ui),
        CeremonyCommand::Accept(args) => accept(&args, ui),
        CeremonyCommand::Reject(args) => reject(&args, ui),
        CeremonyCommand::Status(args) => status(&args.dir, ui),
        CeremonyCommand::Abort(args) => abort(&args.dir, ui),
    }
}

pub(super) fn wrong(code: &'static str, error: impl std::fmt::Display) -> Failure {
    Failure::not_ready(code, error.to_string(), "")
}

pub(super) fn refused(code: &'static str, error: impl std::fmt::Display) -> Failure {
    Failure::check(code, error.to_string(), "")
}

pub(super) fn text(path: &Path) -> Result<String, Failure> {
    let bytes = file::read(path, "name a file that is there").map_err(|error| wrong("file", error))?;
    String::from_utf8(bytes).map_err(|_| refused("file", format!("{} isn't UTF-8 text", path.display())))
}

fn join(args: &JoinArgs, ui: Ui) -> Result<(), Failure> {
    let config = Config::read(&args.config).map_err(|error| {
        Failure::usage("config", error.to_string(), "write name, listen and passphrase_file into it")
    })?;
    let dir = file::directory_of(&args.config);
    let (card, earlier) = init(dir, &config, &args.address).map_err(|error| wrong("custodian_dir", error))?;
    let path = dir.join("card.json");
    let value = json!({"card": path, "name": card.name(), "identity": card.identity().to_hex(),
        "earlier": earlier.word()});
    ui.result(&value, || path.display().to_string())?;
    if let Some(note) = earlier.note() {
        ui.note(note);
    }
    ui.note("send this card to who proposes; it is public and signed");
    Ok(())
}

fn propose(args: ProposeArgs, ui: Ui) -> Result<(), Failure> {
    let cards = args.cards.iter().map(|path| {
        Card::parse(&text(path)?).map_err(|error| refused("card", format!("{}: {error}", path.display())))
    });
    let cards = cards.collect::<Result<Vec<_>, _>>()?;
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let proposal = Proposal::from_cards(
        &args.name,
        args.description.as_deref().unwrap_or_default(),
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        &cards,
        args.relays,
        Admission::default(),
    )
    .map_err(|error| Failure::usage("proposal", error.to_string(), ""))?;
    let dir = CustodianDir::open(&args.dir).map_err(|error| wrong("custodian_dir", error))?;
    let keys = dir.config().and_then(|config| dir.keys(&config)).map_err(|error| wrong("keys", error))?;
    let offer = Offer::make(&keys, proposal).map_err(|error| refused("proposal", error))?;
    let json = offer.to_json().map_err(|error| refused("proposal", error))?;
    file::write_new(&args.out, json.as_bytes()).map_err(|error| wrong("file", error))?;
    show(offer.proposal(), &args.out, ui)?;
    ui.note("send this file to all founders, you too accept it; compare the words by voice");
    Ok(())
}

/// What is proposed, in numbers that people decide on.
fn show(proposal: &Proposal, path: &Path, ui: Ui) -> Result<(), Failure> {
    let id = proposal.id().map_err(|error| refused("proposal", error))?;
    let roster = &proposal.roster;
    let members = roster.members().iter();
    let members: Vec<Value> = members
        .map(|member| {
            let address = proposal.addresses.get(&member.number);
            json!({"number": member.number, "name": member.name, "identity": member.identity.to_hex(), "address": address})
        })
        .collect();
    let said = words(&id);
    let value = json!({
        "proposal": id, "words": said, "file": path, "name": proposal.name, "custodians": members,
        "threshold": proposal.threshold(), "tolerates": roster.f(), "relays": proposal.relays,
    });
    ui.result(&value, || {
        let lines = roster.members().iter().map(|member| format!("  {} {}", member.number, member.name));
        format!(
            "{}: {} custodians, {} must sign, {} may lie\n{}\nwords: {said}",
            proposal.name,
            roster.n(),
            proposal.threshold(),
            roster.f(),
            lines.collect::<Vec<_>>().join("\n"),
        )
    })
}

fn offer(path: &Path) -> Result<Offer, Failure> {
    Offer::parse(&text(path)?).map_err(|error| refused("offer", format!("{}: {error}", path.display())))
}

/// Signs a decision about an offer and writes it beside the custodian's other files.
fn decide(dir: &CustodianDir, offer: &Offer, accepted: bool, reason: &str) -> Result<PathBuf, Failure> {
    let keys = dir.config().and_then(|config| dir.keys(&config)).map_err(|error| wrong("keys", error))?;
    let own =
        offer.proposal().number_of(&keys.public_key()).and_then(|number| offer.proposal().roster.get(number));
    let card = dir.card().map_err(|error| wrong("card", error))?;
    match own {
        Some(member) if member.certificate == card.pin() => {}
        Some(_) => {
            return Err(refused("certificate", "the proposal names this custodian with another certificate"));
        }
        None => {
            return Err(refused(
                "not_named",
                "the proposal doesn't name this custodian; send your card to who proposes",
            ));
        }
    }
    let id = offer.proposal().id().map_err(|error| refused("proposal", error))?;
    let json = Decision::make(&keys, id, accepted, reason).and_then(|decision| decision.to_json());
    let json = json.map_err(|error| Failure::usage("decision", error.to_string(), ""))?;
    let path = dir.file("decision.json");
    file::replace(&path, json.as_bytes()).map_err(|error| wrong("file", error))?;
    Ok(path)
}

fn accept(args: &AcceptArgs, ui: Ui) -> Result<(), Failure> {
    let offer = offer(&args.offer)?;
    let dir = CustodianDir::open(&args.dir).map_err(|error| wrong("custodian_dir", error))?;
    if dir.genesis().map_err(|error| wrong("genesis", error))?.is_some() {
        return Err(Failure::refused(
            "founded",
            "this custodian has founded a group already",
            "a key is never overwritten",
        ));
    }
    // The decision first: what is accepted without one could not be shown to anybody.
    decide(&dir, &offer, true, "")?;
    dir.accept(offer.proposal()).map_err(|error| wrong("proposal", error))?;
    show(offer.proposal(), &args.offer, ui)?;
    ui.note("compare the words with the others by voice; then `serve` makes the key with them");
    Ok(())
}

fn reject(args: &RejectArgs, ui: Ui) -> Result<(), Failure> {
    let offer = offer(&args.offer)?;
    let id = offer.proposal().id().map_err(|error| refused("proposal", error))?;
    let dir = CustodianDir::open(&args.dir).map_err(|error| wrong("custodian_dir", error))?;
    if dir.genesis().map_err(|error| wrong("genesis", error))?.is_some() {
        return Err(Failure::refused("founded", "this custodian has founded a group already", ""));
    }
    let path = decide(&dir, &offer, false, &args.reason)?;
    // One that was accepted before isn't any more.
    if dir.proposal().is_ok_and(|accepted| accepted.id() == Ok(id)) {
        file::replace(&dir.file(ABORT), b"").map_err(|error| wrong("file", error))?;
    }
    ui.result(&json!({"proposal": id, "accepted": false, "decision": path}), || path.display().to_string())?;
    ui.note("send this decision to who proposed");
    Ok(())
}

fn abort(dir: &Path, ui: Ui) -> Result<(), Failure> {
    // Not opened: `serve` may hold it, and looks for the file.
    if dir.join("genesis.json").exists() {
        return Err(Failure::refused(
            "founded",
            "the ceremony is over: the group has its key",
            "a key is never destroyed by a command",
        ));
    }
    if !dir.join("proposal.json").exists() {
        return Err(Failure::not_ready(
            "no_ceremony",
            format!("{} has accepted no proposal", dir.display()),
            "",
        ));
    }
    file::replace(&dir.join(ABORT), b"").map_err(|error| wrong("file", error))?;
    ui.result(&json!({"aborted": true}), || "aborted here; a running `serve` tells the others".to_owned())?;
    ui.note(
        "once this custodian has signed the genesis it goes on: the others may have the whole key by then",
    );
    Ok(())
}

fn status(dir: &Path, ui: Ui) -> Result<(), Failure> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let genesis = read("genesis.json").and_then(|text| concordat_events::SignedGenesis::parse(&text).ok());
    let proposal = read("proposal.json").and_then(|text| Proposal::parse(&text).ok());
    let running = read(STATUS).and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let value = match (genesis, proposal) {
        (Some(genesis), _) => {
            let id = genesis.genesis.cluster().map_err(|error| refused("genesis", error))?;
            let signed: Vec<u16> = genesis.signatures.iter().map(|(number, _)| *number).collect();
            json!({
                "stage": "complete", "group": genesis.genesis.group_key.to_hex(), "cluster": id, "words": words(&id),
                "signed": signed, "waiting_on": [],
            })
        }
        (None, _) if dir.join(ABORT).exists() => json!({"stage": "aborted", "waiting_on": []}),
        (None, Some(proposal)) => {
            let id = proposal.id().map_err(|error| refused("proposal", error))?;
            let waiting: Vec<u16> = proposal.numbers().into_iter().collect();
            let of_this = running.filter(|status| status.get("proposal") == Some(&json!(id)));
            let mut value = of_this.unwrap_or_else(|| json!({"stage": "accepted, not started: run `serve`", "proposal": id, "waiting_on": waiting}));
            if let Some(fields) = value.as_object_mut() {
                fields.insert("words".into(), json!(words(&id)));
            }
            value
        }
        (None, None) if dir.join("card.json").exists() => {
            json!({"stage": "joined, nothing accepted", "waiting_on": []})
        }
        (None, None) => {
            let text = format!("{} is no custodian's directory", dir.display());
            return Err(Failure::not_ready("no_ceremony", text, "`ceremony join` makes one"));
        }
    };
    ui.result(&value, || people(&value))
}

/// The status for people.
pub(super) fn people(value: &Value) -> String {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut lines = vec![text("stage")];
    for member in value.get("members").and_then(Value::as_array).into_iter().flatten() {
        let steps = ["seen", "round1", "round2", "confirmed", "tested", "signed", "complete"];
        let done: Vec<&str> = steps
            .into_iter()
            .filter(|step| member.get(step).and_then(Value::as_bool) == Some(true))
            .collect();
        let field = |name: &str| member.get(name).map(ToString::to_string).unwrap_or_default();
        lines.push(format!("  {} {}: {}", field("number"), field("name").trim_matches('"'), done.join(", ")));
    }
    match value.get("waiting_on").and_then(Value::as_array) {
        Some(numbers) if !numbers.is_empty() => {
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            lines.push(format!("waiting on {}", numbers.join(", ")));
        }
        _ => {}
    }
    for name in ["group", "words"] {
        if !text(name).is_empty() {
            lines.push(format!("{name}: {}", text(name)));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn ui() -> Ui {
        Ui::new(true)
    }

    /// A founder's directory with a configuration, as an operator makes it.
    fn founder(temp: &Path, name: &str) -> PathBuf {
        let (dir, pass) = (temp.join(name), temp.join(format!("{name}.pass")));
        file::write_new(&pass, format!("{:032x}", rand::random::<u128>()).as_bytes()).unwrap();
        std::fs::create_dir(&dir).unwrap();
        let text = format!("name = \"{name}\"\nlisten = \"127.0.0.1:1\"\npassphrase_file = {pass:?}\n");
        std::fs::write(dir.join("custodian.toml"), text).unwrap();
        let args =
            JoinArgs { config: dir.join("custodian.toml"), address: format!("{name}.example.org:7400") };
        join(&args, ui()).unwrap();
        // A key is never overwritten: the same call finds its own, another one is refused.
        let made = ["keys.age", "card.json"].map(|file| std::fs::read(dir.join(file)).unwrap());
        join(&args, ui()).unwrap();
        let other = JoinArgs { config: args.config, address: "elsewhere.example.org:7400".into() };
        assert_eq!(join(&other, ui()).unwrap_err().exit, Exit::NotReady);
        assert_eq!(made, ["keys.age", "card.json"].map(|file| std::fs::read(dir.join(file)).unwrap()));
        dir
    }

    fn propose_to(temp: &Path, dirs: &[PathBuf], out: &str) -> PathBuf {
        let out = temp.join(out);
        let args = ProposeArgs {
            dir: dirs[0].clone(),
            cards: dirs.iter().map(|dir| dir.join("card.json")).collect(),
            name: "ours".into(),
            description: None,
            relays: vec!["wss://relay.example.org".into()],
            out: out.clone(),
        };
        propose(args, ui()).unwrap();
        out
    }

    #[test]
    fn a_proposal_goes_from_cards_to_acceptance_rejection_and_abort() {
        let temp = tempfile::tempdir().unwrap();
        let dirs: Vec<PathBuf> = ["a", "b", "c"].map(|name| founder(temp.path(), name)).into();
        let offer = propose_to(temp.path(), &dirs[..2], "offer.json");
        assert_eq!(status(&dirs[1], ui()).map_err(|e| e.exit), Ok(()));
        assert_eq!(abort(&dirs[1], ui()).unwrap_err().code, "no_ceremony");

        let accepts = |dir: &PathBuf, offer: &PathBuf| {
            accept(&AcceptArgs { offer: offer.clone(), dir: dir.clone() }, ui())
        };
        assert_eq!(accepts(&dirs[2], &offer).unwrap_err().code, "not_named");
        accepts(&dirs[1], &offer).unwrap();
        let accepted = CustodianDir::open(&dirs[1]).unwrap().proposal().unwrap();
        assert_eq!(accepted, Offer::parse(&text(&offer).unwrap()).unwrap().proposal().clone());
        let decision = Decision::parse(&text(&dirs[1].join("decision.json")).unwrap()).unwrap();
        assert!(decision.accepted && decision.proposal == accepted.id().unwrap());

        // What was altered on its way is refused, and changes nothing.
        let altered = temp.path().join("altered.json");
        std::fs::write(&altered, text(&offer).unwrap().replace("relay.example.org", "relay.example.com"))
            .unwrap();
        assert_eq!(accepts(&dirs[1], &altered).unwrap_err().code, "offer");
        status(&dirs[1], ui()).unwrap();

        // A change of mind, from either side, ends what was accepted; accepting again begins anew.
        let no = RejectArgs { offer: offer.clone(), dir: dirs[1].clone(), reason: "not these relays".into() };
        reject(&no, ui()).unwrap();
        let decision = Decision::parse(&text(&dirs[1].join("decision.json")).unwrap()).unwrap();
        assert!(!decision.accepted && decision.reason == "not these relays");
        assert!(CustodianDir::open(&dirs[1]).unwrap().is_aborted());
        accepts(&dirs[1], &offer).unwrap();
        assert!(!CustodianDir::open(&dirs[1]).unwrap().is_aborted());
        abort(&dirs[1], ui()).unwrap();
        assert!(CustodianDir::open(&dirs[1]).unwrap().is_aborted());

        // With a genesis there is nothing left to end or to accept.
        std::fs::write(dirs[1].join("genesis.json"), "{}").unwrap();
        assert_eq!(abort(&dirs[1], ui()).unwrap_err().exit, Exit::Refused);
    }

    #[test]
    fn status_names_whom_it_waits_for_in_words() {
        let value = json!({
            "stage": "making the key", "waiting_on": [3], "words": "lusab babad",
            "members": [{"number": 1, "name": "a", "seen": true, "round1": true, "round2": false}],
        });
        let text = people(&value);
        for part in ["making the key", "1 a: seen, round1", "waiting on 3", "words: lusab babad"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
