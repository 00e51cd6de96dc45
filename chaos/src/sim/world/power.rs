//! Processes that start, lose their power, stand still and go on.

use super::*;

impl World {
    /// Starts a custodian's process from its disk.
    pub fn start(&mut self, seat: usize) {
        if let Err(error) = self.try_start(seat) {
            self.violate("start", format!("seat {seat} doesn't start: {error}"));
        }
    }

    pub(super) fn try_start(&mut self, index: usize) -> Result<()> {
        let entropy = ChaCha20Rng::seed_from_u64(self.dice.next_u64());
        let dice = Arc::new(Mutex::new(ChaCha20Rng::seed_from_u64(self.dice.next_u64())));
        let (cluster, mind) = (self.cluster.clone(), self.mind);
        let Some(seat) = self.seats.get_mut(index) else { return Ok(()) };
        let Some(member) = cluster.members.get(&seat.number) else { return Ok(()) };
        if seat.running.is_some() || seat.absent {
            return Ok(());
        }
        seat.run += 1;
        seat.fuse = None;
        let life = seat.life(index);
        let stored = Context::stored(seat.disk.clone(), cluster.context.genesis.clone(), &cluster.guests)?;
        let old = std::mem::replace(&mut seat.context, Arc::new(stored));
        seat.reads = Arc::new(mind.context(&seat.context));
        let (law, context) = (seat.context.clone(), seat.reads.clone());
        let share = cluster.share(seat.number, &law.roster_hash)?;
        let brain = seat.mind.open(Parts {
            context: context.clone(),
            me: seat.number,
            identity: Box::new(member.identity),
            share,
            store: seat.disk.clone(),
            timing: Timing { timeout_ms: TIMEOUT_MS },
            boot: seat.boot.clone(),
            not_restored: false,
            entropy: Box::new(entropy),
        })?;
        let (orders, ordered) = engine::orders();
        let setting = Setting::<Simulated> {
            context,
            me: seat.number,
            store: seat.disk.clone(),
            flusher: SlowFlusher { disk: seat.disk.clone(), most_ms: 4, dice },
            link: Wire { life, post: self.post.clone() },
            inbox: Slot { life, post: self.post.clone() },
            timing: order::Timing {
                heartbeat: Duration::from_millis(250),
                leader_timeout: Duration::from_millis(TIMEOUT_MS),
                request: Duration::from_millis(RAFT_MS),
            },
        };
        let (groups, failed) = Groups::start(setting, ordered);
        let post = self.post.clone();
        SimRuntime::spawn(async move {
            if failed.await.is_ok() {
                post.put(Mail::LogFailed(life));
            }
        });
        let status = brain.status();
        let tip = status.certified;
        let reachable = BTreeMap::new();
        let (number, disk, relays) = (seat.number, &seat.disk, &self.relays);
        let opened = Outlet::open(life, number, &law, disk, brain.as_ref(), relays, &self.post);
        let Ok(outlet) = opened else {
            // Its disk is full or broken: it is found out at once.
            let running = groups;
            SimRuntime::spawn(async move { running.close().await });
            self.lose_power(index);
            return Ok(());
        };
        seat.running = Some(Running { brain, groups, orders, outlet, wake: None, reachable, status });
        self.note(format_args!("start seat {index} run {} tip {tip:?}", life.run));
        self.takes_office(index, &old, &law);
        self.see(index, Seen::Started { tip });
        self.input(index, Input::Start);
        Ok(())
    }

    /// What a start under another roster than the one before means.
    fn takes_office(&mut self, index: usize, old: &Context, law: &Arc<Context>) {
        let Some((number, honest)) = self.seats.get(index).map(|seat| (seat.number, seat.honest)) else {
            return;
        };
        if honest {
            self.enters(law.first_epoch());
        }
        if law.office.since > self.in_force.office.since {
            self.in_force = law.clone();
        }
        if old.roster_hash == law.roster_hash {
            return;
        }
        self.note(format_args!(
            "seat {index} goes by roster {} of head {}",
            law.roster_hash, law.office.since
        ));
        self.counters.count("roster entered");
        match (old.votes(number), law.votes(number)) {
            (true, false) => self.counters.count("custodian left"),
            (false, true) => self.counters.count("custodian joined"),
            _ => {}
        }
    }

    /// Another roster is in force: the process lets go of everything under the old one and begins again from the same disk.
    pub(super) fn let_go(&mut self, index: usize) {
        let Some(seat) = self.seats.get_mut(index) else { return };
        let Some(running) = seat.running.take() else { return };
        seat.run += 1;
        seat.fuse = None;
        let (life, post) = (seat.life(index), self.post.clone());
        let Running { groups, .. } = running;
        SimRuntime::spawn(async move {
            groups.close().await;
            post.put(Mail::LetGo(life));
        });
        self.note(format_args!("seat {index} lets go of its roster"));
    }

    /// Power fails: what wasn't flushed may or may not survive.
    pub fn power_fails(&mut self, index: usize) {
        let Some(seat) = self.seats.get_mut(index) else { return };
        let Some(running) = seat.running.take() else { return };
        // Nothing of it reaches its old disk or anybody any more; its tasks are let go.
        let Running { groups, .. } = running;
        SimRuntime::spawn(async move { groups.close().await });
        self.lose_power(index);
    }

    pub(super) fn lose_power(&mut self, index: usize) {
        let Some(seat) = self.seats.get_mut(index) else { return };
        seat.disk.stop();
        let left = seat.disk.crash(&mut self.dice);
        seat.disk = Arc::new(left);
        seat.run += 1;
        seat.paused = None;
        seat.deferred.clear();
        seat.fuse = None;
        self.note(format_args!("power fails at seat {index}"));
        self.counters.count("power failure");
        let pause = 50 + below(&mut self.dice, 3_000);
        self.after(pause, Event::Start(index));
    }

    /// Replaces the disk of a custodian that is down by another.
    pub fn replace_disk(&mut self, index: usize, disk: MemoryStore) {
        if let Some(seat) = self.seats.get_mut(index) {
            seat.disk = Arc::new(disk);
        }
        self.see(index, Seen::Restored);
    }

    pub(super) fn resume(&mut self, index: usize) {
        let Some(seat) = self.seats.get_mut(index) else { return };
        if seat.paused.take().is_some() {
            for event in std::mem::take(&mut seat.deferred) {
                self.after(0, event);
            }
        }
    }
}
