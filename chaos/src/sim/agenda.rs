//! Changes of the roster in a run, one after the other: proposed by one custodian, certified, then activated with the shares that its
//! members were dealt (PROTOCOL 9). Both requests go the way of users' requests: lost, handed in again, ordered by liars.

use anyhow::{Context as _, Result};
use concordat_events::Hash;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::net::below;
use super::world::World;
use crate::council::WAYS;

/// How far the next change is.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Nothing is asked for, until then, ms.
    Waits(u64),
    /// The proposal is on its way.
    Proposed(Hash),
    /// The activation is.
    Activates(Hash),
}

/// See the module's header.
pub struct Agenda {
    offices: &'static [&'static str],
    step: Step,
}

impl Agenda {
    /// What a seed's run goes through.
    pub fn new(seed: u64) -> Self {
        let mut dice = ChaCha20Rng::seed_from_u64(seed ^ 0x4167_656e_6461_0000);
        let way = usize::try_from(below(&mut dice, WAYS.len() as u64)).unwrap_or_default();
        Agenda {
            offices: WAYS.get(way).copied().unwrap_or_default(),
            step: Step::Waits(500 + below(&mut dice, 2_500)),
        }
    }

    /// Is the last roster in force?
    pub fn is_over(&self) -> bool {
        self.offices.is_empty()
    }

    /// Asks for what is next, if it is time.
    ///
    /// # Errors
    /// A change that the group has refused though nothing was wrong with it.
    pub fn go_on(&mut self, world: &mut World, dice: &mut ChaCha20Rng) -> Result<()> {
        let Some((name, later)) = self.offices.split_first() else { return Ok(()) };
        let (now, cluster) = (world.now(), world.cluster.clone());
        let office = cluster.office_named(name).context("an office")?;
        let numbers: Vec<u16> = world.in_force.roster.numbers().collect();
        let which = usize::try_from(below(dice, numbers.len() as u64))?;
        let by = numbers.get(which).copied().context("a custodian")?;
        match self.step {
            Step::Waits(until) if now < until => {}
            Step::Waits(_) => {
                let event = cluster.proposal(by, office, now)?;
                self.step = Step::Proposed(event.id());
                self.hand_in(world, dice, event, now);
            }
            Step::Proposed(id) if world.users.certified(&id).is_some() => {
                let event = cluster.activation(by, id, world.in_force.roster_hash, office, now)?;
                self.step = Step::Activates(event.id());
                self.hand_in(world, dice, event, now);
            }
            Step::Activates(id) => {
                if let Some(height) = world.users.certified(&id) {
                    let done = world.activations.contains(&height);
                    anyhow::ensure!(done, "{name} was refused at height {height}");
                    // The next change is decided by those who are in office now.
                    if world.in_force.roster_hash == office.hash {
                        (self.offices, self.step) = (later, Step::Waits(now + below(dice, 2_000)));
                    }
                }
            }
            Step::Proposed(_) => {}
        }
        Ok(())
    }

    fn hand_in(
        &self,
        world: &mut World,
        dice: &mut ChaCha20Rng,
        event: concordat_events::ValidEvent,
        now: u64,
    ) {
        world.note(format_args!("roster: {:?} asked for", self.step));
        world.users.add(event.clone(), now);
        for _ in 0..2 {
            let seat = usize::try_from(below(dice, world.seats.len() as u64)).unwrap_or_default();
            world.request(seat, &event);
        }
    }
}
