//! `member add|remove|replace|accept|join|status|abort` and `share refresh`: who holds the group's key, changed while the group works.
//!
//! Whoever proposes signs a request that the group certifies; the operators of the others accept it; their running custodians hand the
//! key over and ask the group to put the new roster in force. Every command works beside a running `serve`.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use concordat_events::change::follows;
use concordat_events::roster::Custodian;
use concordat_events::{Change, Hash, Proposal, Roster, Seats};
use concordat_node::ceremony::{Card, words};
use concordat_node::client::{Client, CustodianAddress};
use concordat_node::config::{ClientListen, Config};
use concordat_node::dir::{CustodianDir, STATUS};
use concordat_node::handover::{Accepted, Invitation, Invited, request};
use concordat_node::keys::{CustodianKeys, Passphrase, file};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ceremony::{people, refused, text, wrong};
use crate::failure::Failure;
use crate::limits::{MEMBER_BEHIND, MEMBER_LOOK};
use crate::ui::Ui;
use crate::user::custodians::failure;

/// Commands on who the custodians are.
#[derive(Subcommand, Debug)]
pub enum MemberCommand {
    /// Proposes that the custodians of these cards come into office
    Add(AddArgs),
    /// Proposes that the custodians of these numbers leave it
    Remove(RemoveArgs),
    /// Proposes that one custodian takes the place of another
    Replace(ReplaceArgs),
    /// Accepts a proposal: the running custodian then takes part in handing the key over
    Accept(AcceptArgs),
    /// Accepts an invitation, as one who comes into office: `serve` then joins the group
    Join(JoinArgs),
    /// How far it is, and for whom it waits
    Status(DirArgs),
    /// Takes an acceptance back, also while `serve` runs
    Abort(DirArgs),
}

/// Commands on the own share of the group's key.
#[derive(Subcommand, Debug)]
pub enum ShareCommand {
    /// Proposes fresh shares for the same custodians: the ones before, stolen or lost, are useless then
    Refresh(RefreshArgs),
}

/// What all proposals need.
#[derive(Args, Debug)]
pub struct ProposeArgs {
    /// The proposer's directory; its custodian is running
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Where its custodian serves users, if not where its configuration says
    #[arg(long, value_name = "HOST:PORT#PIN")]
    pub custodian: Option<String>,
    /// Don't ask
    #[arg(long)]
    pub yes: bool,
    /// Go on though not one custodian may fail then
    #[arg(long)]
    pub tolerate_none: bool,
}

/// Arguments of `member add`.
#[derive(Args, Debug)]
pub struct AddArgs {
    /// The cards of those who come into office
    #[arg(value_name = "CARD", required = true)]
    pub cards: Vec<PathBuf>,
    /// The new file with the invitation for them; beside the proposer's other files if not given
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// By whom
    #[command(flatten)]
    pub by: ProposeArgs,
}

/// Arguments of `member remove`.
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// The numbers of those who leave
    #[arg(value_name = "NUMBER", required = true)]
    pub numbers: Vec<u16>,
    /// By whom
    #[command(flatten)]
    pub by: ProposeArgs,
}

/// Arguments of `member replace`.
#[derive(Args, Debug)]
pub struct ReplaceArgs {
    /// The number of the one who leaves
    #[arg(value_name = "NUMBER")]
    pub number: u16,
    /// The card of the one who comes
    #[arg(value_name = "CARD")]
    pub card: PathBuf,
    /// The new file with the invitation; beside the proposer's other files if not given
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// By whom
    #[command(flatten)]
    pub by: ProposeArgs,
}

/// Arguments of `share refresh`.
#[derive(Args, Debug)]
pub struct RefreshArgs {
    /// By whom
    #[command(flatten)]
    pub by: ProposeArgs,
}

/// Arguments of `member accept`.
#[derive(Args, Debug)]
pub struct AcceptArgs {
    /// The proposal's id, as who proposed it was told
    #[arg(value_name = "PROPOSAL")]
    pub proposal: String,
    /// By whom
    #[command(flatten)]
    pub by: ProposeArgs,
}

/// Arguments of `member join`.
#[derive(Args, Debug)]
pub struct JoinArgs {
    /// The invitation
    #[arg(value_name = "FILE")]
    pub invitation: PathBuf,
    /// The new custodian's directory, made by `ceremony join`
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Arguments of `member status` and `member abort`.
#[derive(Args, Debug)]
pub struct DirArgs {
    /// The custodian's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Runs the command.
pub async fn run(command: MemberCommand, ui: Ui) -> Result<(), Failure> {
    match command {
        MemberCommand::Add(args) => {
            let cards = args.cards.iter().map(|path| card(path)).collect::<Result<Vec<_>, _>>()?;
            propose(&args.by, &[], &cards, args.out, ui).await
        }
        MemberCommand::Remove(args) => propose(&args.by, &args.numbers, &[], None, ui).await,
        MemberCommand::Replace(args) => {
            propose(&args.by, &[args.number], &[card(&args.card)?], args.out, ui).await
        }
        MemberCommand::Accept(args) => accept(&args, ui).await,
        MemberCommand::Join(args) => join(&args, ui),
        MemberCommand::Status(args) => status(&args.dir, ui),
        MemberCommand::Abort(args) => abort(&args.dir, ui),
    }
}

/// Runs the command.
pub async fn share(command: ShareCommand, ui: Ui) -> Result<(), Failure> {
    match command {
        ShareCommand::Refresh(args) => propose(&args.by, &[], &[], None, ui).await,
    }
}

fn card(path: &Path) -> Result<Card, Failure> {
    Card::parse(&text(path)?).map_err(|error| refused("card", format!("{}: {error}", path.display())))
}

/// What a running custodian says of who is in force: the part of its status that this needs.
#[derive(Deserialize)]
struct InForce {
    roster: Roster,
    addresses: BTreeMap<u16, String>,
    highest: u16,
    proposals: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    by: u16,
    id: Hash,
    proposal: Proposal,
}

/// A running custodian, asked by its own operator.
struct Own {
    client: Client,
    /// Its number.
    number: u16,
    in_force: InForce,
    /// Whom it can't reach.
    unreachable: Vec<u16>,
}

impl Own {
    async fn ask(args: &ProposeArgs) -> Result<Self, Failure> {
        let address = match &args.custodian {
            Some(given) => given.parse().map_err(failure)?,
            None => configured(&args.dir)?,
        };
        let client = Client::connect(address).await.map_err(failure)?;
        let status = client.status().await.map_err(failure)?;
        let odd = |error: String| {
            Failure::check("bad_answer", error, "is it this directory's custodian, and of this build?")
        };
        let mut details: Value =
            serde_json::from_str(&status.details).map_err(|error| odd(error.to_string()))?;
        let part =
            |details: &mut Value, name: &str| details.get_mut(name).map(Value::take).unwrap_or_default();
        let in_force = part(&mut details, "office");
        let unreachable = part(&mut details, "unreachable");
        Ok(Own {
            client,
            number: status.number,
            in_force: serde_json::from_value(in_force).map_err(|error| odd(error.to_string()))?,
            unreachable: serde_json::from_value(unreachable).map_err(|error| odd(error.to_string()))?,
        })
    }
}

/// Where the custodian of a directory serves users.
fn configured(dir: &Path) -> Result<CustodianAddress, Failure> {
    let config = Config::read(&dir.join("custodian.toml")).map_err(|error| wrong("config", error))?;
    match config.client_listen {
        ClientListen::At(address) if address.port() != 0 => {
            Ok(CustodianAddress { address: address.to_string(), pin: card(&dir.join("card.json"))?.pin() })
        }
        _ => Err(Failure::usage(
            "no_custodian",
            "the configuration doesn't say where this custodian serves users",
            "give --custodian HOST:PORT#PIN, as `serve` prints it",
        )),
    }
}

/// The roster that is proposed: who stays keeps its number, who comes gets one that nobody ever had.
fn next(in_force: &InForce, leave: &[u16], come: &[Card]) -> Result<Seats, Failure> {
    if let Some(number) = leave.iter().find(|number| in_force.roster.get(**number).is_none()) {
        return Err(Failure::usage(
            "no_such_member",
            format!("custodian {number} isn't in office"),
            "`status` lists them",
        ));
    }
    let mut members: Vec<Custodian> = in_force.roster.members().to_vec();
    members.retain(|member| !leave.contains(&member.number));
    // Certified with the roster, so that who comes later knows where everybody is.
    let mut addresses = in_force.addresses.clone();
    addresses.retain(|number, _| members.iter().any(|member| member.number == *number));
    let numbers = in_force.highest.checked_add(1).map(|first| first..=u16::MAX).into_iter().flatten();
    for (number, card) in numbers.zip(come) {
        addresses.insert(number, card.address().to_owned());
        members.push(Custodian {
            number,
            name: card.name().to_owned(),
            identity: card.identity(),
            certificate: card.pin(),
        });
    }
    let roster = Roster::new(members).map_err(|error| Failure::usage("roster", error.to_string(), ""))?;
    if !follows(&roster, &in_force.roster, in_force.highest) {
        return Err(refused("roster", "a number would be used again"));
    }
    Ok(Seats { roster, addresses })
}

/// The change in words, and what would be left; fails where it would break the group.
fn plan(own: &Own, seats: &Seats, args: &ProposeArgs, ui: Ui) -> Result<(), Failure> {
    let (old, new) = (&own.in_force.roster, &seats.roster);
    let counted = |roster: &Roster| {
        format!("{} custodians, {} must sign, {} may fail or lie", roster.n(), roster.q(), roster.f())
    };
    ui.note(&format!("now:  {}\nthen: {}", counted(old), counted(new)));
    let named = |roster: &Roster, than: &Roster, how: &str| {
        for member in roster.members().iter().filter(|member| than.get(member.number).is_none()) {
            ui.note(&format!("  {how} {} {}", member.number, member.name));
        }
    };
    named(old, new, "leaves:");
    named(new, old, "comes: ");
    if new.members() == old.members() {
        ui.note("  the same custodians get fresh shares");
    }
    if new.n() < 2 {
        return Err(Failure::usage("too_few", "a group has at least 2 custodians", "add others first"));
    }
    if new.f() == 0 && !args.tolerate_none {
        return Err(Failure::usage(
            "tolerates_none",
            format!(
                "with {} custodians not one may fail: a single one that stops ends all progress",
                new.n()
            ),
            "add others first, or say --tolerate-none",
        ));
    }
    Ok(())
}

/// Are those there who must deal the key out and take it? Nobody can be waited for who isn't.
fn all_there(own: &Own, seats: &Seats) -> Result<(), Failure> {
    let (old, new) = (&own.in_force.roster, &seats.roster);
    let there = |roster: &Roster| roster.numbers().filter(|number| !own.unreachable.contains(number)).count();
    if there(old) < old.q() {
        return Err(Failure::not_ready(
            "no_quorum",
            format!(
                "{} of {} custodians in office are reached, {} must deal out the key",
                there(old),
                old.n(),
                old.q()
            ),
            "bring them back first",
        ));
    }
    let staying = new.members().iter().filter(|member| old.get(member.number).is_some());
    let absent: Vec<String> = staying
        .filter(|member| own.unreachable.contains(&member.number))
        .map(|member| format!("{} {}", member.number, member.name))
        .collect();
    if !absent.is_empty() {
        return Err(Failure::not_ready(
            "not_reached",
            format!("can't be reached, and would have to get a share: {}", absent.join(", ")),
            "bring them back first, or remove them in the same change",
        ));
    }
    Ok(())
}

/// Asks who sits at the terminal.
fn confirmed(args: &ProposeArgs, ui: Ui) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(
            "not_confirmed",
            "nothing was done",
            "say --yes if the plan is what you want",
        ));
    }
    ui.note("go on? [y/N]");
    let mut line = String::new();
    let _ = stdin.lock().read_line(&mut line);
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::usage("not_confirmed", "nothing was done", "")),
    }
}

async fn propose(
    args: &ProposeArgs,
    leave: &[u16],
    come: &[Card],
    out: Option<PathBuf>,
    ui: Ui,
) -> Result<(), Failure> {
    let own = Own::ask(args).await?;
    let seats = next(&own.in_force, leave, come)?;
    plan(&own, &seats, args, ui)?;
    all_there(&own, &seats)?;
    confirmed(args, ui)?;
    let config = Config::read(&args.dir.join("custodian.toml")).map_err(|error| wrong("config", error))?;
    let passphrase = Passphrase::read(&config.passphrase_file).map_err(|error| wrong("passphrase", error))?;
    let keys =
        CustodianKeys::open(&args.dir.join("keys.age"), &passphrase).map_err(|error| wrong("keys", error))?;
    let genesis = text(&args.dir.join("genesis.json"))?;
    let genesis =
        concordat_events::SignedGenesis::parse(&genesis).map_err(|error| refused("genesis", error))?;
    let change = Change::Propose(Proposal::Roster(seats.clone()));
    let event = request(&keys, &genesis.genesis.group_key, &change)
        .map_err(|error| Failure::usage("request", error, ""))?;
    let outcome = own.client.send(&event).await.map_err(failure)?;
    if let Some(reason) = outcome.rejected {
        return Err(Failure::refused("refused", format!("the group refused the proposal: {reason}"), ""));
    }
    let earlier = Accepted::read(&args.dir).map_err(|error| wrong("custodian_dir", error))?;
    let accepted = Accepted { proposal: event.id(), invited: earlier.and_then(|earlier| earlier.invited) };
    accepted.write(&args.dir).map_err(|error| wrong("custodian_dir", error))?;
    let invitation = if come.is_empty() {
        None
    } else {
        let in_force =
            Seats { roster: own.in_force.roster.clone(), addresses: own.in_force.addresses.clone() };
        let invited = Some(Invited { in_force, proposed: seats.clone() });
        let invitation =
            Invitation { version: 1, genesis, accepted: Accepted { proposal: event.id(), invited } };
        let path = out.unwrap_or_else(|| args.dir.join(format!("invitation-{}.json", event.id().short())));
        let text =
            concordat_events::json::canonical(&invitation).map_err(|error| refused("invitation", error))?;
        file::write_new(&path, text.as_bytes()).map_err(|error| wrong("file", error))?;
        Some(path)
    };
    let said = words(&event.id());
    let numbers: Vec<u16> = seats.roster.numbers().collect();
    let value = json!({
        "proposal": event.id(), "words": said, "height": outcome.height, "custodians": numbers,
        "threshold": seats.roster.q(), "tolerates": seats.roster.f(), "invitation": invitation,
    });
    ui.result(&value, || {
        let invitation = invitation.as_ref().map(|path| format!("\ninvitation: {}", path.display()));
        format!(
            "proposal {} is certified in head {}\nwords: {said}{}",
            event.id(),
            outcome.height,
            invitation.unwrap_or_default()
        )
    })?;
    ui.note("the others accept it (`member accept`), who comes joins by the invitation (`member join`); compare the words by voice");
    Ok(())
}

/// Asks the own custodian until it has the head with a proposal, for a while: it may be a moment behind who proposed.
async fn once_certified(args: &ProposeArgs, id: Hash) -> Result<Own, Failure> {
    let until = tokio::time::Instant::now() + MEMBER_BEHIND;
    loop {
        let own = Own::ask(args).await;
        let there = own.as_ref().is_ok_and(|own| own.in_force.proposals.iter().any(|listed| listed.id == id));
        if there || tokio::time::Instant::now() >= until {
            return own;
        }
        tokio::time::sleep(MEMBER_LOOK).await;
    }
}

async fn accept(args: &AcceptArgs, ui: Ui) -> Result<(), Failure> {
    let id = Hash::from_hex(&args.proposal).ok_or_else(|| {
        Failure::usage(
            "proposal",
            format!("{:?} isn't a proposal's id", args.proposal),
            "expected 64 hex digits",
        )
    })?;
    let own = once_certified(&args.by, id).await?;
    let listed = own.in_force.proposals.iter().find(|listed| listed.id == id).ok_or_else(|| {
        Failure::not_ready(
            "no_proposal",
            format!("no such proposal is certified: {id}"),
            "`status` lists those that are",
        )
    })?;
    let Proposal::Roster(seats) = &listed.proposal else {
        return Err(Failure::usage("no_roster", "this proposal is about versions; it needs no ceremony", ""));
    };
    ui.note(&format!("proposed by custodian {}; this is custodian {}", listed.by, own.number));
    plan(&own, seats, &args.by, ui)?;
    // Who has accepted a moment ago may be beginning again right now.
    if let Err(missing) = all_there(&own, seats) {
        ui.warn(&missing.message);
    }
    confirmed(&args.by, ui)?;
    let earlier = Accepted::read(&args.by.dir).map_err(|error| wrong("custodian_dir", error))?;
    let accepted = Accepted { proposal: id, invited: earlier.and_then(|earlier| earlier.invited) };
    accepted.write(&args.by.dir).map_err(|error| wrong("custodian_dir", error))?;
    let said = words(&id);
    ui.result(&json!({"proposal": id, "accepted": true, "words": said}), || {
        format!("accepted; the running custodian takes part\nwords: {said}")
    })
}

fn join(args: &JoinArgs, ui: Ui) -> Result<(), Failure> {
    let invitation =
        Invitation::parse(&text(&args.invitation)?).map_err(|error| refused("invitation", error))?;
    let dir = CustodianDir::open(&args.dir).map_err(|error| wrong("custodian_dir", error))?;
    let number = invitation.accept(&dir).map_err(|error| refused("invitation", error))?;
    let (group, proposal) = (invitation.genesis.genesis.group_key.to_hex(), invitation.accepted.proposal);
    let said = words(&proposal);
    ui.result(&json!({"group": group, "number": number, "proposal": proposal, "words": said}), || {
        format!("custodian {number} of group {group}\nwords: {said}")
    })?;
    ui.note("compare the words by voice, then start `serve`");
    Ok(())
}

fn status(dir: &Path, ui: Ui) -> Result<(), Failure> {
    let accepted = Accepted::read(dir).map_err(|error| wrong("custodian_dir", error))?;
    let Some(accepted) = accepted else {
        return ui.result(&json!({"stage": "nothing is accepted"}), || "nothing is accepted".to_owned());
    };
    let written = file::read(&dir.join(STATUS), "`serve` writes it").ok();
    let written = written.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let of_this = written.filter(|value| value.get("proposal") == Some(&json!(accepted.proposal)));
    let mut value = of_this
        .unwrap_or_else(|| json!({"proposal": accepted.proposal, "stage": "accepted; waiting for `serve`"}));
    if let Some(fields) = value.as_object_mut() {
        fields.insert("words".to_owned(), json!(words(&accepted.proposal)));
    }
    ui.result(&value, || people(&value))
}

fn abort(dir: &Path, ui: Ui) -> Result<(), Failure> {
    let accepted = Accepted::read(dir).map_err(|error| wrong("custodian_dir", error))?;
    let Some(accepted) = accepted else {
        return Err(Failure::not_ready(
            "nothing_accepted",
            "nothing is accepted here",
            "`member status` shows what is",
        ));
    };
    Accepted::withdraw(dir).map_err(|error| wrong("custodian_dir", error))?;
    ui.result(&json!({"proposal": accepted.proposal, "accepted": false}), || {
        "taken back; the roster in force runs on".to_owned()
    })
}
