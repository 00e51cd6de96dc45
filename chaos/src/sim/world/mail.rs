//! What goes from one custodian to another: messages, Raft requests, signs of life, and what liars make of them.

use super::*;

impl World {
    /// A Raft request on its way: over a connection, so it comes once or not at all.
    pub(super) fn carry(&mut self, life: Life, to: u16, call: RaftCall, request: Bytes, answer: Answer) {
        if self.seats.get(life.seat).is_none_or(|seat| seat.run != life.run) {
            return;
        }
        let Some(target) = self.seat_for(to, life.seat) else { return };
        let is_liar = self.seats.get(life.seat).is_some_and(|seat| seat.liar.is_some());
        let request = match is_liar {
            false => request,
            true => match self.as_liar(life.seat, |liar, tools| liar.ask(tools, to, call, request)) {
                Some(Some(request)) => request,
                _ => return self.forget(life, answer),
            },
        };
        self.sent.0 += 1;
        self.sent.1 += request.len() as u64;
        let fate = self.net.fate(&mut self.dice, life.seat, target);
        let Some(ms) = fate.arrives.first().copied() else { return self.forget(life, answer) };
        if self.seats.get(target).is_some_and(|seat| seat.running.is_some()) {
            self.after(ms, Event::Raft { to: target, asker: life, call, request, answer });
        } else {
            let reply = Err(LinkError { peer: to, why: "connection refused".into() });
            self.after(ms, Event::Reply { asker: life, reply, answer });
        }
    }

    /// Nothing comes back; the asker finds out by its own deadline.
    pub(super) fn forget(&mut self, asker: Life, answer: Answer) {
        let reply = Err(LinkError { peer: 0, why: "lost".into() });
        self.after(RAFT_MS + 100, Event::Reply { asker, reply, answer });
    }

    /// The seat that a peer's messages for a number reach; twins share the peers.
    pub(super) fn seat_for(&self, number: u16, from: usize) -> Option<usize> {
        let seats: Vec<usize> = self.seats_of(number);
        seats.get(from % seats.len().max(1)).copied()
    }

    pub(super) fn seats_of(&self, number: u16) -> Vec<usize> {
        let all = self.seats.iter().enumerate();
        all.filter(|(_, seat)| seat.number == number).map(|(index, _)| index).collect()
    }

    pub(super) fn deliver(&mut self, to: usize, from: u16, under: Option<Hash>, bytes: &Bytes) {
        let Some(seat) = self.seats.get(to).filter(|seat| seat.running.is_some()) else { return };
        let (reads, mind) = (seat.reads.clone(), seat.mind);
        match self.read.read(mind, &reads, from, bytes) {
            Some(message) => {
                if let Some(under) = under.filter(|_| message.sender == from) {
                    self.see(to, Seen::Taken { message: &message, under });
                }
                let hears = self.as_liar(to, |liar, tools| liar.hear(tools, &message));
                if hears.unwrap_or(true) {
                    self.input(to, Input::Message(message));
                }
            }
            None => {
                self.counters.count("refused message");
                if under.is_some_and(|under| under != reads.roster_hash) {
                    self.counters.count("refused: another roster");
                }
            }
        }
    }

    /// A Raft request at its goal: answered by the group, in a task of its own.
    pub(super) fn ask(&mut self, to: usize, asker: Life, call: RaftCall, request: Bytes, answer: Answer) {
        let Some(from) = self.seats.get(asker.seat).map(|seat| seat.number) else { return };
        let Some(seat) = self.seats.get(to) else { return };
        let (by, number) = (seat.life(to), seat.number);
        let Some(running) = &seat.running else { return self.forget(asker, answer) };
        let (groups, post) = (running.groups.clone(), self.post.clone());
        SimRuntime::spawn(async move {
            let reply = groups.raft(from, call, request).await;
            let reply = reply.map_err(|why| LinkError { peer: number, why });
            post.put(Mail::Answered { by, asker, call, reply, answer });
        });
    }

    /// A message on its way, to every seat of its goal.
    pub(super) fn send(&mut self, from: usize, to: u16, bytes: Bytes, late: u64) {
        let Some(seat) = self.seats.get(from) else { return };
        let (number, under) = (seat.number, seat.honest.then_some(seat.context.roster_hash));
        self.sent.0 += 1;
        self.sent.1 += bytes.len() as u64;
        let targets = self.seats_of(to);
        // Twins hear some things both, some only one of them.
        let both = targets.len() < 2 || below(&mut self.dice, 2) == 0;
        for target in targets {
            if !both && self.seat_for(to, from) != Some(target) {
                continue;
            }
            let mut fate = self.net.fate(&mut self.dice, from, target);
            let now = self.now();
            let mut held = 0;
            match self.gate.as_mut().map(|gate| gate.judge(now, from, target, &bytes)) {
                Some(Pass::Lost) => fate.arrives.clear(),
                Some(Pass::After(ms)) => held = ms,
                Some(Pass::Goes) | None => {}
            }
            if let Some(fault) = fate.fault {
                self.counters.count(fault);
            }
            for ms in fate.arrives {
                self.after(
                    ms + late + held,
                    Event::Deliver { to: target, from: number, under, bytes: bytes.clone() },
                );
            }
        }
    }

    /// What a liar says leaves. Invariants that look at everybody look at it too.
    pub(super) fn say(&mut self, from: usize, sayings: Vec<Saying>) {
        for (to, bytes, late) in sayings {
            if let Some(message) = self.own_words(from, &bytes) {
                self.see(from, Seen::Sent { to, message: &message });
            }
            self.send(from, to, bytes, late);
        }
    }

    /// A liar says something to one seat, past network and gate.
    pub fn utter(&mut self, from: usize, to: usize, bytes: Bytes) {
        let numbers =
            (self.seats.get(from).map(|seat| seat.number), self.seats.get(to).map(|seat| seat.number));
        let (Some(number), Some(goal)) = numbers else { return };
        if let Some(message) = self.own_words(from, &bytes) {
            self.see(from, Seen::Sent { to: goal, message: &message });
        }
        self.after(1, Event::Deliver { to, from: number, under: None, bytes });
    }

    /// What a custodian says itself, if it is a message.
    fn own_words(&mut self, from: usize, bytes: &Bytes) -> Option<Msg> {
        let seat = self.seats.get(from)?;
        self.read.read(seat.mind, &seat.reads, seat.number, bytes)
    }

    /// How a custodian reads messages now.
    pub fn reads(&self, seat: usize) -> Option<Arc<Context>> {
        self.seats.get(seat).map(|seat| seat.reads.clone())
    }

    /// Lets a liar do something; nothing if the custodian at this seat is none, or is down.
    pub(super) fn as_liar<T>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Liar, &mut Tools<'_>) -> T,
    ) -> Option<T> {
        let cluster = self.cluster.clone();
        let seat = self.seats.get_mut(index)?;
        let (context, mind) = (seat.reads.clone(), seat.mind);
        let status = &seat.running.as_ref()?.status;
        let member = cluster.members.get(&seat.number)?;
        let others: Vec<u16> =
            cluster.members.keys().copied().filter(|number| *number != seat.number).collect();
        let mut liar = seat.liar.take()?;
        let mut dice = liar.dice.clone();
        let mut done = Vec::new();
        let mut tools = Tools {
            context: &context,
            mind,
            read: &mut self.read,
            number: seat.number,
            identity: &member.identity,
            dice: &mut dice,
            status,
            others: &others,
            done: &mut done,
        };
        let result = act(&mut liar, &mut tools);
        liar.dice = dice;
        seat.liar = Some(liar);
        for what in done {
            self.counters.count(what);
        }
        Some(result)
    }

    /// Everybody learns who can be reached: an answer must come back.
    pub(super) fn pulse(&mut self) {
        for index in 0..self.seats.len() {
            let Some(seat) = self.seats.get(index).filter(|seat| seat.awake()) else { continue };
            let me = seat.number;
            let sayings = self.as_liar(index, |liar, tools| liar.idle(tools));
            self.say(index, sayings.unwrap_or_default());
            let numbers: Vec<u16> = self.cluster.members.keys().copied().filter(|n| *n != me).collect();
            for peer in numbers {
                let up = self.seat_for(peer, index).is_some_and(|target| {
                    let awake = self.seats.get(target).is_some_and(Seat::awake);
                    awake && self.net.open(index, target) && self.net.open(target, index)
                });
                let running = self.seats.get_mut(index).and_then(|seat| seat.running.as_mut());
                if let Some(running) = running
                    && running.reachable.insert(peer, up) != Some(up)
                {
                    self.input(index, Input::Reachable { peer, up });
                }
            }
        }
        self.after(PULSE_MS, Event::Pulse);
    }
}
