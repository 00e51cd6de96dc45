//! Every operation ends at every one of its writes, and begins again.

use std::cell::Cell;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use concordat_events::Hash;
use concordat_store::Store;
use futures::FutureExt;

use super::Earlier;
use crate::backup::{backup, change_passphrase, restore};
use crate::ceremony::tests::{Founder, founded};
use crate::ceremony::{Proposal, init};
use crate::certificate::renew;
use crate::config::Config;
use crate::custodian::db::Db;
use crate::dir::{ABORT, CustodianDir};
use crate::handover::Accepted;
use crate::keys::{CustodianKeys, Passphrase, file};
use crate::recover::Recovery;
use crate::transport::Shown;

thread_local! {
    /// Writes that the process of this thread still makes; without end if nothing is set.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    static DEAD: Cell<bool> = const { Cell::new(false) };
}

/// See [`super::step`].
pub(crate) fn step() -> io::Result<()> {
    match LEFT.get() {
        None => Ok(()),
        Some(0) => {
            DEAD.set(true);
            Err(io::Error::other("the process has ended here"))
        }
        Some(left) => {
            LEFT.set(Some(left - 1));
            Ok(())
        }
    }
}

/// A process that ends at one of its writes: neither that nor anything after it reaches the disk.
pub(crate) struct Mortal {
    left: u64,
    pub dead: bool,
}

impl Mortal {
    pub fn new(at: u64) -> Self {
        Mortal { left: at, dead: false }
    }

    pub fn runs<T>(&mut self, work: impl FnOnce() -> T) -> T {
        LEFT.set(Some(self.left));
        DEAD.set(false);
        let result = work();
        self.left = LEFT.take().unwrap_or_default();
        self.dead |= DEAD.take();
        result
    }
}

/// What came of an operation that ended at each of its writes.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub operation: &'static str,
    /// How many writes it makes.
    pub writes: u64,
    /// What was said when it was called again: that it went on, that it began anew, or nothing because nothing had been changed or all.
    resumed: u64,
    rolled_back: u64,
    silent: u64,
}

impl Row {
    pub fn new(operation: &'static str) -> Self {
        Row { operation, ..Row::default() }
    }

    /// One more write at which it ended.
    pub fn count(&mut self, said: Earlier) {
        self.writes += 1;
        match said {
            Earlier::Resumed => self.resumed += 1,
            Earlier::RolledBack => self.rolled_back += 1,
            Earlier::None => self.silent += 1,
        }
    }
}

/// A directory with something to work on, and where it is.
struct World {
    temp: tempfile::TempDir,
}

impl World {
    fn empty() -> Self {
        World { temp: tempfile::tempdir().unwrap() }
    }

    fn copy(of: &Path) -> Self {
        let world = World::empty();
        copy(of, &world.at("c"));
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.at("c/custodian.toml")
    }

    fn dir(&self) -> CustodianDir {
        CustodianDir::open(&self.at("c")).unwrap()
    }

    /// The keys, under the passphrase that the configuration names.
    fn keys(&self) -> CustodianKeys {
        let dir = self.dir();
        dir.keys(&dir.config().unwrap()).unwrap()
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => assert!(std::fs::copy(&path, &to).is_ok()),
        }
    }
}

type Ran = Result<Earlier, String>;

fn said<T, E: std::fmt::Display>(result: Result<T, E>, earlier: impl FnOnce(T) -> Earlier) -> Ran {
    result.map(earlier).map_err(|error| error.to_string())
}

/// Lets an operation end at each of its writes, twice at the same one, and run to its end then. `between` holds whenever it has ended.
fn at_each_write(
    operation: &'static str,
    world: impl Fn() -> World,
    run: impl Fn(&World) -> Ran,
    between: impl Fn(&World),
    check: impl Fn(&World),
) -> Row {
    let mut row = Row::new(operation);
    loop {
        let it = world();
        let at = row.writes;
        let mut ended = None;
        for attempt in 0..2 {
            let mut process = Mortal::new(at);
            let result = process.runs(|| run(&it));
            if !process.dead {
                let said = result.unwrap_or_else(|error| panic!("{operation}, ended at write {at}: {error}"));
                check(&it);
                if attempt == 0 {
                    return row;
                }
                ended = Some(said);
                break;
            }
            assert!(result.is_err(), "{operation} says that it is done at write {at}");
            between(&it);
        }
        let last = ended.unwrap_or_else(|| {
            run(&it).unwrap_or_else(|error| panic!("{operation}, ended at write {at}: {error}"))
        });
        row.count(last);
        check(&it);
    }
}

/// Files that nobody asked for any more.
fn nothing_is_left(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            !name.starts_with('.') && !name.starts_with("attempt-"),
            "{name} is left in {}",
            dir.display()
        );
    }
}

fn joining(one: &Founder) -> Row {
    let pass = one.config().passphrase_file;
    let asked = |world: &World| {
        let text = format!("name = \"c9\"\nlisten = \"127.0.0.1:1\"\npassphrase_file = {pass:?}\n");
        Config::parse(&world.config(), &text).unwrap()
    };
    at_each_write(
        "card and keys of a new custodian",
        World::empty,
        |world| said(init(&world.at("c"), &asked(world), "localhost:7409"), |(_, earlier)| earlier),
        |_| {},
        |world| {
            let (keys, card) = (world.keys(), world.dir().card().unwrap());
            assert_eq!(card.identity(), keys.public_key());
            Shown::new(&world.dir().certificate(&keys).unwrap()).unwrap();
            nothing_is_left(&world.at("c"));
        },
    )
}

fn accepting(one: &Founder, proposal: &Proposal) -> Row {
    at_each_write(
        "acceptance of an offer",
        || {
            let world = World::copy(&one.path());
            for name in ["share.age", "genesis.json", "proposal.json"] {
                std::fs::remove_file(world.at("c").join(name)).unwrap();
            }
            file::write_new(&world.at("c").join(ABORT), b"").unwrap();
            world
        },
        |world| said(world.dir().accept(proposal), |()| Earlier::None),
        |world| assert!(!world.dir().file("proposal.json").exists() || world.dir().proposal().is_ok()),
        |world| {
            assert_eq!(world.dir().proposal().unwrap().id().unwrap(), proposal.id().unwrap());
            assert!(!world.dir().is_aborted());
        },
    )
}

fn backups(one: &Founder) -> [Row; 2] {
    let pass = one.config().passphrase_file;
    let made = World::copy(&one.path());
    backup(&made.config(), &made.at("backup")).unwrap();
    let share = |world: &World, of: &str| {
        let dir = CustodianDir::open(&world.at(of)).unwrap();
        let keys = dir.keys(&dir.config().unwrap()).unwrap();
        assert_eq!(dir.share(&keys).unwrap().unwrap().number(), 1);
        nothing_is_left(dir.path());
    };
    let row = at_each_write(
        "backup",
        || World::copy(&one.path()),
        |world| said(backup(&world.config(), &world.at("backup")), |(_, earlier)| earlier),
        |world| share(world, "c"),
        |world| {
            restore(&world.at("backup"), &pass, &world.at("back")).unwrap();
            share(world, "back");
            assert!(!file::was_interrupted(&world.at("backup")));
        },
    );
    let restoring = at_each_write(
        "restore",
        World::empty,
        |world| said(restore(&made.at("backup"), &pass, &world.at("c")), |(_, earlier)| earlier),
        // The directory or none.
        |world| {
            if world.at("c").exists() {
                share(world, "c");
            }
        },
        |world| {
            share(world, "c");
            assert_eq!(std::fs::read_dir(world.temp.path()).unwrap().count(), 1);
        },
    );
    [row, restoring]
}

fn renewals(one: &Founder) -> [Row; 2] {
    let fresh = || {
        let world = World::copy(&one.path());
        file::write_new(&world.at("new"), &[b'n'; 32]).unwrap();
        world
    };
    let key = one.keys.public_key();
    let passphrase = at_each_write(
        "another passphrase",
        fresh,
        |world| said(change_passphrase(&world.config(), &world.at("new")), |earlier| earlier),
        |world| {
            let sealed = world.at("c/keys.age");
            let config = Config::read(&world.config()).unwrap();
            let opens = |path: &Path| {
                CustodianKeys::open(&sealed, &Passphrase::read(path).unwrap())
                    .is_ok_and(|keys| keys.public_key() == key)
            };
            assert!(opens(&config.passphrase_file) || opens(&world.at("new")), "a passphrase opens the keys");
        },
        |world| {
            let named = world.dir().config().unwrap().passphrase_file;
            assert_eq!(named, std::fs::canonicalize(world.at("new")).unwrap());
            assert_eq!(world.keys().public_key(), key);
        },
    );
    let shown = |world: &World| {
        let keys = world.keys();
        let certificate = world.dir().certificate(&keys).unwrap();
        Shown::new(&certificate).unwrap();
        certificate
    };
    let certificate = at_each_write(
        "another TLS certificate",
        fresh,
        |world| said(renew(&world.config(), 2_000_000_000), |renewed| renewed.earlier),
        |world| drop(shown(world)),
        |world| {
            let certificate = shown(world);
            assert!(certificate.is_vouched_for(&world.keys()));
            assert_eq!(world.dir().card().unwrap().certificate(), certificate.der());
        },
    );
    [passphrase, certificate]
}

fn changes(one: &Founder) -> [Row; 3] {
    let (before, now) = (Hash::from_bytes([1; 32]), Hash::from_bytes([2; 32]));
    let accepted = |proposal| Accepted { proposal, invited: None };
    let fresh = || {
        let world = World::copy(&one.path());
        accepted(before).write(&world.at("c")).unwrap();
        world
    };
    let whole = |world: &World| drop(Accepted::read(&world.at("c")).unwrap());
    let accepting = at_each_write(
        "acceptance of a change",
        fresh,
        |world| said(accepted(now).write(&world.at("c")), |()| Earlier::None),
        whole,
        |world| assert_eq!(Accepted::read(&world.at("c")).unwrap(), Some(accepted(now))),
    );
    let withdrawing = at_each_write(
        "withdrawal of it",
        fresh,
        |world| said(Accepted::withdraw(&world.at("c")), |()| Earlier::None),
        whole,
        |world| assert_eq!(Accepted::read(&world.at("c")).unwrap(), None),
    );
    let share = one.dir().share(&one.keys).unwrap().unwrap();
    let erasing = at_each_write(
        "erasure of the shares before",
        || {
            let world = World::copy(&one.path());
            for transcript in [before, now] {
                world.dir().write_next_share(&one.keys, transcript, &share).unwrap();
            }
            // What processes that ended had left.
            for name in [".share-0101010101010101.age.new", "attempt-1.age", ".attempt-2.age.new"] {
                std::fs::copy(world.at("c/share.age"), world.at("c").join(name)).unwrap();
            }
            // The one in force under a second name: a process ended between the two steps that name it.
            let in_force = world.dir().share_file(now);
            std::fs::hard_link(&in_force, world.at("c/.share-0202020202020202.age.new")).unwrap();
            world
        },
        |world| said(world.dir().erase_shares_but(Some(now)), |_| Earlier::None),
        |world| assert!(world.dir().share_of(&one.keys, now).unwrap().is_some()),
        |world| {
            assert!(!world.dir().has_shares_beside(true).unwrap());
            assert!(world.dir().share_of(&one.keys, now).unwrap().is_some());
            nothing_is_left(&world.at("c"));
        },
    );
    [accepting, withdrawing, erasing]
}

fn recovering(founders: &[Founder], ceremony: Hash) -> [Row; 2] {
    // Stopped custodians that have certified nothing yet, each with its first record.
    let all: Vec<World> = founders.iter().map(|founder| World::copy(&founder.path())).collect();
    let mut reports = Vec::new();
    for world in &all {
        world.dir().bind(ceremony).unwrap();
        let db = Db::open(&Config::read(&world.config()).unwrap(), &world.dir().db()).unwrap();
        db.apply(concordat_finality::Record::first(b"boot".to_vec())).unwrap();
        db.flush().unwrap();
        drop(db);
        Recovery::open(&world.config()).unwrap().report(&world.at("report"), None).unwrap();
        reports.push(world.at("report"));
    }
    let sign = |world: &World| {
        let mut recovery = Recovery::open(&world.config())?;
        recovery.take(&reports)?;
        recovery.sign(&world.at("signature"))
    };
    let signing = at_each_write(
        "signature of a plan of recover",
        || World::copy(&all[0].at("c")),
        |world| said(sign(world), |(_, earlier)| earlier),
        |_| {},
        |world| {
            // What was signed is signed again, and nothing else.
            let (plan, earlier) = sign(world).unwrap();
            assert_eq!((plan, earlier), (sign(&all[1]).unwrap().0, Earlier::Resumed));
        },
    );
    let signatures: Vec<PathBuf> = all
        .iter()
        .map(|world| {
            sign(world).unwrap();
            world.at("signature")
        })
        .collect();
    let keep = |world: &World| Recovery::open(&world.config())?.keep(&signatures);
    let keeping = at_each_write(
        "keeping the signatures of it",
        || World::copy(&all[0].at("c")),
        |world| said(keep(world), |_| Earlier::None),
        |_| {},
        |world| assert!(keep(world).unwrap().own),
    );
    [signing, keeping]
}

/// The rows of one part; a part that fails doesn't hide what the others show.
async fn part<const N: usize>(rows: &mut Vec<Row>, failed: &mut usize, make: impl Future<Output = [Row; N]>) {
    LEFT.set(None);
    match AssertUnwindSafe(make).catch_unwind().await {
        Ok(made) => rows.extend(made),
        Err(_) => *failed += 1,
    }
}

#[tokio::test]
async fn every_operation_may_end_at_any_write_and_goes_on_or_begins_anew_and_says_which() {
    let (founders, genesis) = founded(4).await;
    let one = &founders[0];
    let proposal = one.dir().proposal().unwrap();
    let (mut all, mut failures) = (Vec::new(), 0);
    let (rows, failed) = (&mut all, &mut failures);
    part(rows, failed, async { [joining(one), accepting(one, &proposal)] }).await;
    part(rows, failed, async { [crate::ceremony::tests::ended_at_each_write()] }).await;
    part(rows, failed, async { backups(one) }).await;
    part(rows, failed, async { renewals(one) }).await;
    part(rows, failed, async { changes(one) }).await;
    for (operation, next, who) in [
        ("refresh, who leads it", &[1, 2, 3, 4][..], 1),
        ("refresh, who takes a share", &[1, 2, 3, 4], 3),
        ("reshare to five", &[1, 2, 3, 4, 5], 2),
        ("replacement, who comes", &[1, 2, 3, 5], 5),
    ] {
        let change = crate::handover::tests::ended_at_each_write(operation, next, who);
        part(rows, failed, async { [change.await] }).await;
    }
    part(rows, failed, async { recovering(&founders, genesis.genesis.ceremony) }).await;
    for row in &all {
        let Row { operation, writes, resumed, rolled_back, silent } = row;
        println!(
            "{operation}: {writes} writes; {resumed} went on, {rolled_back} began anew, {silent} unchanged"
        );
        assert!(*writes > 0, "{operation} writes nothing");
    }
    assert_eq!(failures, 0, "parts failed");
}
