//! Custodians come and go while the group works: the commands of operators, real processes, a user who never stops asking.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use concordat_cli::cluster::free_port;
use concordat_events::request::input_tags;
use concordat_events::{Hash, ValidEvent};
use concordat_node::keys::file;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::town::{TURN, Town, WAIT, event};

/// What one user asks for, one request after the other, and has certified.
struct Load {
    stop: Arc<AtomicBool>,
    settled: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Load {
    fn start(town: &Town) -> Self {
        let (stop, settled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), settled.clone());
        let (key, relays, machine) = (town.group.key, town.layout.relays.clone(), town.machine.clone());
        let task = tokio::spawn(async move {
            let relays = concordat_cli::user::relays::Relays::connect(&relays, WAIT).await.unwrap();
            let group = concordat_cli::user::Group { key, relays, custodians: Vec::new(), wait: WAIT };
            let machine = Hash::from_hex(&machine).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                let tags = input_tags(machine, "ADD", None);
                let tags: Vec<Vec<&str>> =
                    tags.iter().map(|tag| tag.iter().map(String::as_str).collect()).collect();
                let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
                let request = ValidEvent::check(event(7501, &tags, r#"{"by":1}"#)).unwrap();
                let settled =
                    concordat_cli::user::outcome::settle(&group, 400, &request, machine, |_| {}).await;
                assert_eq!(settled.unwrap().reason, None);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Load { stop, settled, task }
    }

    fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// All that was asked for was certified.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.settled.load(Ordering::Relaxed)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An operator's new directory: passphrase, configuration, keys and card.
async fn newcomer(town: &Town, number: u16) -> PathBuf {
    let dir = town.home.path().join(format!("custodian-{number}"));
    std::fs::create_dir(&dir).unwrap();
    let secret = format!("{:032x}", rand::random::<u128>());
    file::write_new(&dir.join("passphrase"), secret.as_bytes()).unwrap();
    let (peers, users) = (free_port().unwrap(), free_port().unwrap());
    let config = format!(
        "name = \"custodian-{number}\"\nlisten = \"127.0.0.1:{peers}\"\nclient_listen = \"127.0.0.1:{users}\"\n\
         passphrase_file = \"passphrase\"\n"
    );
    std::fs::write(dir.join("custodian.toml"), config).unwrap();
    let address = format!("127.0.0.1:{peers}");
    let toml = dir.join("custodian.toml");
    let joined = town.run(&["ceremony", "join", "--config", text(&toml), "--address", &address]).await;
    assert_eq!(joined.status, 0, "{joined}");
    dir
}

/// A command that proposes: gives the proposal's id and the invitation's file.
async fn propose(town: &Town, arguments: &[&str]) -> (String, Option<PathBuf>) {
    let proposed = town.run(arguments).await;
    assert_eq!(proposed.status, 0, "{proposed}");
    let line = &proposed.lines()[0];
    (line["proposal"].as_str().unwrap().to_owned(), line["invitation"].as_str().map(PathBuf::from))
}

async fn accept(town: &Town, dirs: &[PathBuf], proposal: &str) {
    for dir in dirs {
        let accepted = town.run(&["member", "accept", proposal, "--dir", text(dir), "--yes"]).await;
        assert_eq!(accepted.status, 0, "{accepted}");
    }
}

/// The last that a custodian's process wrote.
fn log_end(dir: &Path) -> String {
    let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let end = lines[lines.len().saturating_sub(20)..].join("\n");
    format!("--- {}\n{end}", dir.display())
}

/// What each custodian that serves users says of itself.
async fn statuses(town: &Town) -> Vec<Value> {
    let status = town.run_with(&["status"], &town.custodians()).await;
    status.lines()
}

/// Waits until these custodians say that they certify heads under a roster that came after `since`. Gives when it came.
async fn in_office(town: &Town, numbers: &[u64], since: u64) -> u64 {
    let waiting = async {
        loop {
            let all = statuses(town).await;
            let of = |number: &u64| all.iter().find(|line| line["number"] == *number);
            let came = |line: &Value| line["details"]["office"]["since"].as_u64().unwrap_or(0);
            let there = |number: &u64| {
                of(number).is_some_and(|line| {
                    line["state"] == "running"
                        && came(line) > since
                        && line["height"].as_u64() > Some(came(line))
                })
            };
            if numbers.iter().all(there) {
                return came(of(&numbers[0]).unwrap());
            }
        }
    };
    match tokio::time::timeout(WAIT, waiting).await {
        Ok(came) => came,
        Err(_) => panic!("{numbers:?} aren't in office after {since}:\n{}", where_all_stand(town).await),
    }
}

/// For the message of a test that fails.
pub async fn where_all_stand(town: &Town) -> String {
    let mut lines: Vec<String> = statuses(town).await.iter().map(brief).collect();
    lines.extend(town.layout.dirs().iter().map(|dir| log_end(dir)));
    lines.join("\n")
}

/// A custodian's status in a line.
fn brief(line: &Value) -> String {
    let details = &line["details"];
    format!(
        "{} {} head {} epoch {} office {} unreachable {} change {} waiting on {}",
        line["number"],
        line["state"],
        line["height"],
        line["epoch"],
        details["office"]["since"],
        details["unreachable"],
        details["change"]["stage"],
        details["change"]["waiting_on"],
    )
}

/// A proposal makes nobody deal whose operator hasn't accepted it: all have it in their state, and only who proposed takes part.
async fn nobody_else_deals(town: &Town, proposal: &str) {
    let has_it = |line: &Value| {
        let all = line["details"]["office"]["proposals"].as_array();
        all.is_some_and(|all| all.iter().any(|listed| listed["id"] == proposal))
    };
    let waiting = async {
        loop {
            let all = statuses(town).await;
            if all.len() == 4 && all.iter().all(has_it) {
                return;
            }
        }
    };
    tokio::time::timeout(WAIT, waiting).await.unwrap();
    town.goes_on().await;
    for line in statuses(town).await.iter().filter(|line| line["number"] != 1) {
        assert!(line["details"]["change"].is_null(), "{}", brief(line));
    }
}

fn shares(dir: &Path) -> Vec<String> {
    let files =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    files.filter(|name| name.starts_with("share")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn reshare_from_four_to_seven_to_four_while_requests_are_certified() {
    let _turn = TURN.lock().await;
    let mut town = Town::found(4).await;
    let founders = town.layout.dirs();
    let load = Load::start(&town);

    // Three come. Wrong uses first: nothing is asked, nothing is done.
    let mut came = Vec::new();
    for number in 5..=7 {
        came.push(newcomer(&town, number).await);
    }
    let cards: Vec<PathBuf> = came.iter().map(|dir| dir.join("card.json")).collect();
    let cards: Vec<&str> = cards.iter().map(|card| text(card)).collect();
    let first = text(&founders[0]);
    let add = [&["member", "add"], &cards[..], &["--dir", first]].concat();
    let asked = town.run(&add).await;
    assert_eq!((asked.status, asked.error()["code"].as_str()), (2, Some("not_confirmed")), "{asked}");
    let none = town.run(&["member", "remove", "2", "--dir", first, "--yes"]).await;
    assert_eq!((none.status, none.error()["code"].as_str()), (2, Some("tolerates_none")), "{none}");
    let nobody = town.run(&["member", "remove", "9", "--dir", first, "--yes"]).await;
    assert_eq!(nobody.error()["code"], "no_such_member", "{nobody}");

    let (proposal, invitation) = propose(&town, &[&add[..], &["--yes"]].concat()).await;
    let invitation = invitation.unwrap();
    nobody_else_deals(&town, &proposal).await;
    accept(&town, &founders[1..], &proposal).await;
    for (dir, number) in came.iter().zip(5..) {
        let joined = town.run(&["member", "join", text(&invitation), "--dir", text(dir)]).await;
        assert_eq!((joined.status, joined.lines()[0]["number"].as_u64()), (0, Some(number)), "{joined}");
        town.cluster.enlist(&town.layout, dir).unwrap();
    }
    let since = in_office(&town, &[1, 2, 3, 4, 5, 6, 7], 0).await;
    let settled = load.settled();
    // Five sign now, and two may fail: both who were there before, and the group goes on.
    town.cluster.kill(2).await.unwrap();
    town.cluster.kill(3).await.unwrap();
    town.goes_on().await;
    town.cluster.restart(2).unwrap();
    town.cluster.restart(3).unwrap();
    let height = town.goes_on().await;
    town.cluster.ready(2, height, WAIT).await.unwrap();
    town.cluster.ready(3, height, WAIT).await.unwrap();
    assert!(load.settled() > settled, "the user went on");

    // Three of the founders go. One of those who came proposes it.
    let leave = ["member", "remove", "2", "3", "4", "--dir", text(&came[0]), "--yes"];
    let (proposal, _) = propose(&town, &leave).await;
    let others: Vec<PathBuf> = founders.iter().chain(&came[1..]).cloned().collect();
    accept(&town, &others, &proposal).await;
    let last = in_office(&town, &[1, 5, 6, 7], since).await;
    assert!(last > since);
    // Who has left says so, follows along, and has nothing to sign with any more.
    for (dir, number) in founders[1..].iter().zip(2..=4) {
        let follows = async {
            loop {
                let all = statuses(&town).await;
                if all.iter().any(|line| line["number"] == number && line["state"] == "following") {
                    return;
                }
            }
        };
        tokio::time::timeout(WAIT, follows).await.unwrap_or_else(|_| panic!("{number} doesn't follow"));
        assert_eq!(shares(dir), Vec::<String>::new());
    }
    // Who stays has one share, the newest.
    for dir in came.iter().chain(&founders[..1]) {
        assert_eq!(shares(dir).len(), 1, "{:?}", shares(dir));
        assert!(shares(dir)[0] != "share.age");
    }
    for number in 2..=4 {
        town.cluster.kill(number).await.unwrap();
    }
    town.goes_on().await;
    assert!(load.end().await > settled);

    // The same key all along: whoever knows nothing else finds one history.
    let verified = town.run(&["verify"]).await;
    assert_eq!(verified.status, 0, "{verified}");
    let Town { cluster, .. } = town;
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_and_replace_make_good_a_lost_share_and_a_lost_custodian() {
    let _turn = TURN.lock().await;
    let mut town = Town::found(4).await;
    let dirs = town.layout.dirs();
    let load = Load::start(&town);
    // Custodian 4 has lost its share: it follows along, without a vote.
    town.cluster.kill(4).await.unwrap();
    std::fs::remove_file(dirs[3].join("share.age")).unwrap();
    town.cluster.restart(4).unwrap();
    let height = town.goes_on().await;
    town.cluster.ready(4, height, WAIT).await.unwrap();
    let lost = statuses(&town).await.into_iter().find(|line| line["number"] == 4).unwrap();
    assert_eq!(lost["state"], "following", "{lost}");

    let (proposal, invitation) =
        propose(&town, &["share", "refresh", "--dir", text(&dirs[1]), "--yes"]).await;
    assert_eq!(invitation, None);
    accept(&town, &[dirs[0].clone(), dirs[2].clone(), dirs[3].clone()], &proposal).await;
    in_office(&town, &[1, 2, 3, 4], 0).await;
    for dir in &dirs {
        assert_eq!(shares(dir).len(), 1, "{:?}", shares(dir));
        assert!(shares(dir)[0] != "share.age");
    }
    // It signs again: with it and two others the group goes on.
    town.cluster.kill(1).await.unwrap();
    town.goes_on().await;

    // Custodian 1 never comes back: another takes its place, dealt a share by those who are left.
    let since = in_office(&town, &[2, 3, 4], 0).await;
    let dir = newcomer(&town, 5).await;
    let card = dir.join("card.json");
    let replace = ["member", "replace", "1", text(&card), "--dir", text(&dirs[1]), "--yes"];
    let (proposal, invitation) = propose(&town, &replace).await;
    accept(&town, &dirs[2..], &proposal).await;
    let joined = town.run(&["member", "join", text(&invitation.unwrap()), "--dir", text(&dir)]).await;
    assert_eq!(joined.status, 0, "{joined}");
    town.cluster.enlist(&town.layout, &dir).unwrap();
    in_office(&town, &[2, 3, 4, 5], since).await;
    town.cluster.kill(2).await.unwrap();
    town.goes_on().await;
    assert!(load.end().await > 0);
    let verified = town.run(&["verify"]).await;
    assert_eq!(verified.status, 0, "{verified}");
    town.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_brings_one_custodian_back_and_recover_a_group_of_which_too_many_were_restored() {
    let _turn = TURN.lock().await;
    let mut town = Town::found(4).await;
    let dirs = town.layout.dirs();
    let load = Load::start(&town);
    let (proposal, _) = propose(&town, &["share", "refresh", "--dir", text(&dirs[0]), "--yes"]).await;
    accept(&town, &dirs[1..], &proposal).await;
    in_office(&town, &[1, 2, 3, 4], 0).await;
    let (config, out) = (dirs[2].join("custodian.toml"), town.home.path().join("three.backup"));
    let made = town.run(&["backup", "--config", text(&config), "--out", text(&out)]).await;
    assert_eq!(made.status, 0, "{made}");

    // Its disk is gone, with the safety record on it; the backup is all that there is, and the passphrase.
    town.cluster.kill(3).await.unwrap();
    let passphrase = town.home.path().join("passphrase-3");
    std::fs::rename(dirs[2].join("passphrase"), &passphrase).unwrap();
    std::fs::remove_dir_all(&dirs[2]).unwrap();
    let back = ["restore", text(&out), "--passphrase-file", text(&passphrase), "--dir", text(&dirs[2])];
    let restored = town.run(&back).await;
    assert_eq!(restored.status, 0, "{restored}");
    town.cluster.restart(3).unwrap();
    let height = town.goes_on().await;
    town.cluster.ready(3, height, WAIT).await.unwrap();
    let out_of_quarantine = async {
        loop {
            let all = statuses(&town).await;
            // The running epoch's log began without it: it votes from the next one on.
            let out = |line: &Value| line["state"] == "running" || line["state"] == "opening";
            if all.iter().any(|line| line["number"] == 3 && out(line)) {
                return;
            }
        }
    };
    tokio::time::timeout(WAIT, out_of_quarantine).await.unwrap();
    // It votes again: without it there would be no quorum.
    town.cluster.kill(1).await.unwrap();
    town.goes_on().await;
    assert!(load.end().await > 0);
    town.cluster.restart(1).unwrap();
    let height = town.goes_on().await;
    town.cluster.ready(1, height, WAIT).await.unwrap();
    crate::recover::after_too_many_were_restored(&mut town).await;
    town.cluster.stop().await.unwrap();
}
