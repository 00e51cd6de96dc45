//! Where a directed scenario plays: a world with a gate, and the hands of a script that waits for what leaves a custodian.

use anyhow::Result;
use bytes::Bytes;
use concordat_events::Hash;
use concordat_events::batch::Batch;
use concordat_finality::message::{Body, Kind, seal};
use concordat_finality::{Bar, Message, Status, wire};
use concordat_ledger::Ledger;
use concordat_store::memory::{Image, MemoryStore};
use prost::Message as _;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::sim::brain::mind;
use crate::sim::liars::Liar;
use crate::sim::net::below;
use crate::sim::run::Play;
use crate::sim::scenarios::gate::{Gate, Letter, Pass};
use crate::sim::world::{Event, World};

/// A script can't go on: what it waits for doesn't happen. Under a mutant that may be so; under the law the script is wrong.
#[derive(Debug)]
pub struct Missed(pub &'static str);

/// How far a script has come.
pub type Scene = Result<(), Missed>;

/// See the module's header.
pub struct Stage {
    /// The run.
    pub play: Play,
}

impl Stage {
    /// The world.
    pub fn world(&mut self) -> &mut World {
        &mut self.play.world
    }

    /// The gate.
    pub fn gate(&mut self) -> &mut Gate {
        self.play.world.gate.get_or_insert_default()
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        below(&mut self.play.dice, end)
    }

    /// One of these.
    pub fn one_of(&mut self, seats: &[usize]) -> usize {
        let which = usize::try_from(self.below(seats.len() as u64)).unwrap_or_default();
        seats.get(which).copied().unwrap_or_default()
    }

    /// Makes a custodian a liar with these behaviours; without any it is an honest one that the script speaks for.
    pub fn corrupt(&mut self, seat: usize, behaviours: &[&str]) {
        let dice = ChaCha20Rng::seed_from_u64(self.play.dice.next_u64());
        if let Some(at) = self.world().seats.get_mut(seat) {
            at.corrupt(Liar::new(behaviours, dice));
        }
    }

    /// As [`Stage::corrupt`], with other rules inside: the law's, or a mutant's.
    pub fn corrupt_under(&mut self, seat: usize, behaviours: &[&str], rules: &str) {
        self.corrupt(seat, behaviours);
        if let (Some(at), Some(mind)) = (self.world().seats.get_mut(seat), mind(rules)) {
            at.mind = mind;
        }
    }

    /// As [`Stage::corrupt`]; it votes for anything, whatever it has shared and whatever is locked.
    pub fn lawless(&mut self, seat: usize, behaviours: &[&str]) {
        self.corrupt_under(seat, behaviours, "value-and-own-share-rules-dropped");
    }

    /// A liar says something to one seat, past network and gate. A message of an honest custodian that comes late is said
    /// again the same way.
    pub fn utter(&mut self, from: usize, to: usize, bytes: Bytes) {
        self.world().utter(from, to, bytes);
    }

    /// Everybody starts, and Head(0) and some more are certified everywhere, without any fault. The height that comes next.
    pub async fn begin(&mut self) -> Result<u64, Missed> {
        self.play.begin();
        let more = self.below(3);
        self.certify(20_000, 1 + more).await
    }

    /// So many more heads are certified everywhere. The height that comes next.
    pub async fn certify(&mut self, ms: u64, heads: u64) -> Result<u64, Missed> {
        for _ in 0..heads {
            let next = self.next(0);
            self.request();
            let all = self.seats();
            self.reach("a head is certified", ms, |world| {
                all.iter().all(|seat| next_of(world, *seat) > next)
            })
            .await?;
        }
        Ok(self.next(0))
    }

    /// All seats.
    pub fn seats(&self) -> Vec<usize> {
        (0..self.play.world.seats.len()).collect()
    }

    /// A new request reaches everybody.
    pub fn request(&mut self) {
        let now = self.world().now();
        match self.world().users.next(now) {
            Ok(event) => {
                for seat in self.seats() {
                    self.world().request(seat, &event);
                }
            }
            Err(error) => self.world().violate("user", error.to_string()),
        }
    }

    /// Lets things happen until something is so, for so many ms at most.
    pub async fn until(&mut self, ms: u64, mut so: impl FnMut(&World) -> bool) -> bool {
        let world = self.world();
        let end = world.now() + ms;
        world.after(ms, Event::Plan);
        loop {
            if world.violation.is_some() {
                return false;
            }
            if so(world) {
                return true;
            }
            if world.now() >= end {
                return false;
            }
            world.step().await;
        }
    }

    /// Lets time pass.
    pub async fn wait(&mut self, ms: u64) {
        self.until(ms, |_| false).await;
    }

    /// Lets things happen until something is so; without it the script can't go on.
    ///
    /// # Errors
    /// What didn't happen.
    pub async fn reach(&mut self, what: &'static str, ms: u64, so: impl FnMut(&World) -> bool) -> Scene {
        let is_so = self.until(ms, so).await;
        if is_so || self.world().violation.is_some() {
            self.world().note(format_args!("scenario: {what}"));
        }
        if is_so { Ok(()) } else { Err(Missed(what)) }
    }

    /// Waits until a custodian has said something.
    ///
    /// # Errors
    /// When it doesn't say it.
    pub async fn said(
        &mut self,
        what: &'static str,
        ms: u64,
        seat: usize,
        said: impl Fn(&Letter) -> bool,
    ) -> Scene {
        self.reach(what, ms, |world| spoken(world).any(|letter| letter.from == seat && said(letter))).await
    }

    /// These messages are lost from now on. The rule's number.
    pub fn lose(&mut self, which: impl Fn(&Letter) -> bool + 'static) -> u32 {
        self.gate().rule(move |letter| which(letter).then_some(Pass::Lost))
    }

    /// These messages are so many ms late.
    pub fn delay(&mut self, ms: u64, which: impl Fn(&Letter) -> bool + 'static) -> u32 {
        self.gate().rule(move |letter| which(letter).then_some(Pass::After(ms)))
    }

    /// The gate says nothing about these messages, whatever older rules say.
    pub fn pass(&mut self, which: impl Fn(&Letter) -> bool + 'static) -> u32 {
        self.gate().rule(move |letter| which(letter).then_some(Pass::Goes))
    }

    /// Nobody complains aloud.
    pub fn no_complaints(&mut self) -> u32 {
        self.lose(|letter| letter.is(Kind::Complaint))
    }

    /// In this epoch only `prepares` vote for this height, only `certify` (and the leader) see the certificate, and nobody can
    /// put the shares together.
    pub fn hide(&mut self, epoch: u64, height: u64, prepares: &[usize], certify: &[usize]) -> Vec<u32> {
        let (prepares, certify) = (prepares.to_vec(), certify.to_vec());
        vec![
            self.lose(move |l| {
                l.epoch == epoch && l.about(Kind::Prepare, height) && !prepares.contains(&l.from)
            }),
            self.lose(move |l| {
                l.epoch == epoch && l.about(Kind::Certify, height) && !certify.contains(&l.to)
            }),
            self.lose(move |l| {
                l.epoch == epoch && (l.about(Kind::Share, height) || l.about(Kind::Again, height))
            }),
            self.lose(move |l| l.about(Kind::Lock, height) || l.about(Kind::Refuse, height)),
        ]
    }

    /// Waits until all of these have given a share.
    ///
    /// # Errors
    /// When one doesn't.
    pub async fn shared(&mut self, what: &'static str, epoch: u64, height: u64, seats: &[usize]) -> Scene {
        let seats = seats.to_vec();
        self.reach(what, 5_000, |world| {
            let shared = |seat: &usize| {
                spoken(world).any(|l| l.from == *seat && l.epoch == epoch && l.about(Kind::Share, height))
            };
            seats.iter().all(shared)
        })
        .await
    }

    /// Where a custodian stands; nothing while it is down.
    pub fn status(&self, seat: usize) -> Option<&Status> {
        status(&self.play.world, seat)
    }

    /// The height that comes next at a custodian.
    pub fn next(&self, seat: usize) -> u64 {
        next_of(&self.play.world, seat)
    }

    /// Cuts a custodian off, both ways.
    pub fn isolate(&mut self, seat: usize) {
        for other in self.seats().into_iter().filter(|other| *other != seat) {
            self.world().net.cut(seat, other);
            self.world().net.cut(other, seat);
        }
    }

    /// Power fails; it stays off.
    pub fn off(&mut self, seat: usize) {
        self.world().power_fails(seat);
        if let Some(at) = self.world().seats.get_mut(seat) {
            at.absent = true;
        }
    }

    /// Power is back.
    pub fn on(&mut self, seat: usize) {
        if let Some(at) = self.world().seats.get_mut(seat) {
            at.absent = false;
        }
        self.world().start(seat);
    }

    /// A copy of a custodian's disk.
    pub fn image(&self, seat: usize) -> Option<Image> {
        self.play.world.seats.get(seat).map(|at| at.disk.snapshot())
    }

    /// Replaces the disk of a custodian that is off by an older image, and starts it; the kernel may have booted again.
    pub fn restore(&mut self, seat: usize, image: Option<Image>, rebooted: bool) {
        if let Some(image) = image {
            self.world().replace_disk(seat, MemoryStore::restore(image));
        }
        if let Some(at) = self.world().seats.get_mut(seat).filter(|_| rebooted) {
            at.boot.push(b'.');
        }
        self.on(seat);
    }

    /// Waits until a custodian's check at the start is over.
    ///
    /// # Errors
    /// When it isn't.
    pub async fn runs(&mut self, seat: usize, ms: u64) -> Scene {
        self.reach("it runs again", ms, |world| status(world, seat).is_some_and(|status| status.running))
            .await
    }

    /// Is it in quarantine?
    pub fn barred(&self, seat: usize) -> bool {
        self.status(seat).is_some_and(|status| status.bar != Bar::None)
    }

    /// Signs anything in a custodian's name.
    pub fn forge(&mut self, seat: usize, kind: Kind, body: &impl prost::Message) -> Bytes {
        let seq = self.status(seat).map_or(1, |status| status.seq);
        let cluster = self.world().cluster.clone();
        let Some(context) = self.world().reads(seat) else { return Bytes::new() };
        let Some(number) = self.world().seats.get(seat).map(|at| at.number) else { return Bytes::new() };
        let Some(member) = cluster.members.get(&number) else { return Bytes::new() };
        let envelope = seal(&context, &member.identity, number, seq, kind, body.encode_to_vec(), Vec::new());
        Bytes::from(envelope.encode_to_vec())
    }

    /// The newest message that a custodian has said, lost or not.
    pub fn last(&self, seat: usize, which: impl Fn(&Letter) -> bool) -> Option<Letter> {
        let all = self.play.world.gate.as_ref()?.spoken.iter().rev();
        all.filter(|letter| letter.from == seat).find(|letter| which(letter)).cloned()
    }

    /// The prepare certificate of a height and epoch, from a session that was opened (whether it arrived or not).
    pub fn certificate(&self, epoch: u64, height: u64) -> Option<wire::PrepareCert> {
        let all = self.play.world.gate.as_ref()?.spoken.iter().rev();
        let letter = all.into_iter().find(|l| l.epoch == epoch && l.about(Kind::Certify, height))?;
        let Body::Certify(certify) =
            &Message::receive(self.play.world.reads(letter.from)?.as_ref(), letter.sender, &letter.bytes)
                .ok()?
                .body
        else {
            return None;
        };
        Some(certify.cert.to_wire())
    }

    /// The signed log event of a certified head on a custodian's disk; empty if it has none.
    pub fn log_event(&self, seat: usize, height: u64) -> Vec<u8> {
        let disk = self.play.world.seats.get(seat).map(|at| at.disk.clone());
        let head =
            disk.and_then(|disk| concordat_finality::record::get_head_bytes(&disk, height).ok().flatten());
        head.and_then(|head| head.certificate).map(|certificate| certificate.log_event).unwrap_or_default()
    }

    /// The id of the head after a custodian's certified one that covers these entries of its log.
    pub fn head_over(&self, seat: usize, epoch: u64, after: u64, to: u64) -> Option<Hash> {
        let world = &self.play.world;
        let batches: Vec<Batch> = world
            .gate
            .as_ref()?
            .entries
            .iter()
            .filter(|(by, _)| *by == seat)
            .filter_map(|(_, entry)| match &entry.body {
                Body::Wrapper(wrapper) if wrapper.epoch == epoch => {
                    (after < wrapper.number && wrapper.number <= to).then(|| wrapper.batch.clone())?
                }
                _ => None,
            })
            .collect();
        let disk = MemoryStore::restore(world.seats.get(seat)?.disk.snapshot());
        let ledger = Ledger::open(disk, world.cluster.context.genesis.clone()).ok()?;
        Some(ledger.execute(&batches).ok()?.id)
    }

    /// The last entry that a leader's proposal of a height covers.
    pub fn covered(&self, seat: usize, epoch: u64, height: u64) -> Option<u64> {
        let letter = self.last(seat, |l| l.epoch == epoch && l.about(Kind::Propose, height))?;
        Some(wire::Propose::decode(letter.envelope().body.as_slice()).ok()?.number)
    }
}

/// Everything that was said.
pub fn spoken(world: &World) -> impl Iterator<Item = &Letter> {
    world.gate.iter().flat_map(|gate| gate.spoken.iter())
}

/// Where a custodian stands; nothing while it is down.
pub fn status(world: &World, seat: usize) -> Option<&Status> {
    Some(&world.seats.get(seat)?.running.as_ref()?.status)
}

/// The height that comes next at a custodian.
pub fn next_of(world: &World, seat: usize) -> u64 {
    status(world, seat).and_then(|status| status.certified).map_or(0, |(height, _)| height + 1)
}

/// The epoch that a custodian has entered.
pub fn epoch_of(world: &World, seat: usize) -> u64 {
    status(world, seat).map_or(0, |status| status.epoch)
}
