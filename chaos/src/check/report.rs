//! A search in words.

use concordat_events::Hash;
use concordat_finality::Status;
use concordat_finality::message::Vote;

use super::steps::Step;
use super::world::{Fact, Id, World};

fn vote(vote: &Vote) -> String {
    format!("{}@{} of epoch {}", vote.id.short(), vote.height, vote.epoch)
}

fn short(hash: &Hash) -> String {
    hash.short()
}

/// A message in words.
fn told(world: &World, id: Id) -> String {
    let Ok(told) = world.told(id) else { return "?".into() };
    let what = match told.fact {
        Fact::Propose(at, _) => format!("proposal of {}", vote(&at)),
        Fact::Prepare(at) => format!("prepare for {}", vote(&at)),
        Fact::Certify(at, session) => format!("session {} for {}", short(&session), vote(&at)),
        Fact::Share(at, session) => format!("share in session {} for {}", short(&session), vote(&at)),
        Fact::Grant(epoch, next, lock) => {
            let lock = lock.map_or("no lock".into(), |lock| format!("lock {}", vote(&lock)));
            format!("grant of epoch {epoch} for height {next} with {lock}")
        }
        Fact::Entry(epoch, number) => format!("entry {number} of epoch {epoch}"),
    };
    format!("{}'s {what}", told.sender)
}

/// A step in words.
pub fn describe(world: &World, step: &Step, label: &str) -> String {
    let lock =
        |lock: &Option<Vote>| lock.as_ref().map_or("no lock".into(), |lock| format!("lock {}", vote(lock)));
    match step {
        Step::Certify(id) => format!("gets {}", told(world, *id)),
        Step::Propose { propose, .. } => format!("gets {}", told(world, *propose)),
        Step::Lock(at) => format!("gets lock {}", vote(at)),
        Step::Certificate(id) => format!("gets the certificate of {}", short(id)),
        Step::Complaint => "gets a complaint about its epoch".into(),
        Step::Bind => "gets q complaints about its epoch".into(),
        Step::Session(prepares, own) => {
            let list: Vec<String> = prepares.iter().map(|id| told(world, *id)).collect();
            format!("gets {}{}", list.join(" and "), if *own { " and the liar's" } else { "" })
        }
        Step::Open(epoch, grants, own) => {
            let mut list: Vec<String> = grants.iter().map(|id| told(world, *id)).collect();
            if let Some((tip, at)) = own {
                list.push(format!("the liar's after {} with {}", short(tip), lock(at)));
            }
            format!("opens epoch {epoch} with {}", list.join(" and "))
        }
        Step::LiarPropose(epoch, start, batch) => {
            let start = start.as_ref().map_or(String::new(), |(next, forced)| {
                format!("start of epoch {epoch} at height {next}, forcing {}, and its ", lock(forced))
            });
            format!("gets the liar's {start}proposal of batch {} in epoch {epoch}", short(batch))
        }
        Step::LiarCertify(at, prepares, own) => {
            let who: Vec<String> = prepares
                .iter()
                .filter_map(|id| world.told(*id).ok())
                .map(|told| told.sender.to_string())
                .collect();
            let own = if *own { " and the liar" } else { "" };
            format!("gets the liar's session of {}{own} for {}", who.join(", "), vote(at))
        }
        Step::Restart => "is killed and starts again".into(),
        Step::Cut(step) => format!("{}; its power goes {label}, it starts again", describe(world, step, "")),
    }
}

/// Where a custodian stands, in words.
pub fn stands(status: &Status) -> String {
    let at = |what: &str, at: &Option<Vote>| {
        at.as_ref().map_or(String::new(), |at| format!(", {what} {}", vote(at)))
    };
    let certified =
        status.certified.map_or("nothing".into(), |(height, id)| format!("{}@{height}", id.short()));
    format!(
        "epoch {}, certified {certified}{}{}{}",
        status.epoch,
        at("prepared", &status.prepared),
        at("lock", &status.lock),
        at("shared", &status.shared)
    )
}
