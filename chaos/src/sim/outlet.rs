//! A simulated custodian's way to the relays and back: the outbox and the publisher of production, and the intake of requests.

use std::sync::Arc;

use concordat_events::request::Route;
use concordat_events::{PublicKey, ValidEvent};
use concordat_finality::{Certified, Context, Fatal, Published};
use concordat_node::order::{AsyncRuntime, InlineFlusher, Select2};
use concordat_node::relay::{Intake, Interest, Outward, Port, PublishPolicy, RelayLink};
use concordat_store::memory::MemoryStore;
use futures::FutureExt;
use futures::channel::oneshot;
use openraft_rt_sim::SimRuntime;
use tokio::sync::watch;

use super::brain::Brain;
use super::outside::{Life, Mail, Post};
use super::relays::Relays;

/// See the module's header. Dropped, its tasks end.
pub struct Outlet {
    port: Port,
    intake: Intake,
    interest: watch::Sender<Interest>,
    group: PublicKey,
    _alive: [oneshot::Sender<()>; 2],
}

impl Outlet {
    /// Opens the way of a custodian that starts: what was certified and never shipped is shipped first.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn open(
        life: Life,
        number: u16,
        context: &Context,
        disk: &Arc<MemoryStore>,
        brain: &dyn Brain,
        relays: &Relays,
        post: &Arc<Post>,
    ) -> Result<Self, Fatal> {
        let (group, roster) = (context.group(), &context.roster);
        let place = roster.numbers().position(|known| known == number).unwrap_or_default();
        let policy = PublishPolicy::new(relays.relays(), place, roster.n());
        let flusher = InlineFlusher::new(disk.clone());
        let (outward, port) =
            Outward::<SimRuntime, _, _, _>::new(disk.clone(), flusher, Arc::new(relays.clone()), policy);
        let tip = brain.status().certified.map(|(height, _)| height);
        // This flusher never waits, so the future is done at once.
        if let Some(done) = outward.catch_up(tip, |height| brain.published(height)).now_or_never() {
            done?;
        }
        let (alive, killed) = oneshot::channel::<()>();
        let letters = post.clone();
        SimRuntime::spawn(async move {
            let ended = SimRuntime::select2(killed, outward.run()).await;
            if let Select2::Second(_) = ended {
                letters.put(Mail::LogFailed(life));
            }
        });
        let mut intake = Intake::new(group);
        for (machine, sources) in brain.machines()? {
            intake.started(machine, sources);
        }
        let (interest, interested) = watch::channel(Interest { filters: intake.filters(), since: 0 });
        let mut received = relays.subscribe(interested);
        let (listening, stopped) = oneshot::channel::<()>();
        let letters = post.clone();
        SimRuntime::spawn(async move {
            let mut stopped = stopped;
            loop {
                match SimRuntime::select2(&mut stopped, received.recv()).await {
                    Select2::Second(Some(received)) => {
                        letters.put(Mail::FromRelay { life, event: received.event });
                    }
                    _ => return,
                }
            }
        });
        Ok(Outlet { port, intake, interest, group, _alive: [alive, listening] })
    }

    /// The request in an event from a relay, if it is one for this group that wasn't taken before.
    pub fn take(&mut self, event: ValidEvent) -> Option<ValidEvent> {
        self.port.on_relay(event.id());
        self.intake.take(event)
    }

    /// A head was certified. Gives the inputs that waited for its machines.
    pub fn certified(&mut self, head: &Certified<Published>) -> Vec<ValidEvent> {
        self.port.certified(head);
        let mut ready = Vec::new();
        for (request, (_, outcome)) in head.requests.iter().zip(&head.head.outcomes) {
            if outcome.reason().is_none()
                && let Ok(Route::Definition(definition)) = Route::of(request, &self.group)
            {
                ready.extend(self.intake.started(request.id(), definition.sources));
            }
        }
        let next = Interest { filters: self.intake.filters(), since: 0 };
        self.interest.send_if_modified(|interest| {
            let changed = *interest != next;
            *interest = next;
            changed
        });
        ready
    }
}
