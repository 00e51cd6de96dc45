//! What a custodian does with a Resume (PROTOCOL 8), and its look at what relays hold: the two ends of a rollback of too many.

use std::collections::BTreeMap;

use concordat_events::ValidEvent;
use concordat_events::head::Head;
use concordat_store::Store;
use prost::Message as _;

use crate::core::{Core, Fatal, Then};
use crate::effect::Alarm;
use crate::message::{Body, Message, Msg, PrepareCert};
use crate::record::{Bar, RESUME};
use crate::recover::{self, agreed};
use crate::repeat::Slot;
use crate::rules::Rules;
use crate::wire;

/// Timeouts for which others may know of a head that relays hold, before this custodian stops.
const PATIENCE: u64 = 4;

/// A head that relays hold and this custodian doesn't.
#[derive(Clone, Debug)]
pub(crate) struct Relayed {
    height: u64,
    since_ms: u64,
    /// What each peer has said since: the height that it certifies next.
    heard: BTreeMap<u16, u64>,
}

impl<S: Store, R: Rules> Core<S, R> {
    /// Has this custodian signed a Resume whose epoch it hasn't entered yet? Until then its report must stay true.
    pub(crate) fn waits_for_resume(&self) -> bool {
        self.record.resumed.is_some_and(|(epoch, _)| epoch > self.record.epoch)
    }

    /// A signature of a Resume, from whoever has it.
    pub(crate) fn on_resume(&mut self, message: &Msg) -> Result<(), Fatal> {
        let Body::Resume(resume) = &message.body else { return Ok(()) };
        let newer = self.resumes.get(&message.sender).is_none_or(|known| match &known.body {
            Body::Resume(known) => known.epoch <= resume.epoch,
            _ => true,
        });
        if newer {
            self.resumes.insert(message.sender, message.clone());
        }
        self.try_resume()
    }

    /// The signatures of the Resume that opens an epoch.
    pub(crate) fn resume_for(&self, epoch: u64) -> Option<Vec<Msg>> {
        self.resumes.values().find_map(|first| {
            let same: Vec<Msg> = self
                .resumes
                .values()
                .filter(|message| message.envelope().body == first.envelope().body)
                .cloned()
                .collect();
            agreed(&self.context, &same).is_some_and(|resume| resume.epoch == epoch).then_some(same)
        })
    }

    /// q signatures of one Resume open its epoch, as q grants would.
    fn try_resume(&mut self) -> Result<(), Fatal> {
        let mut epochs: Vec<u64> = self
            .resumes
            .values()
            .filter_map(|message| match &message.body {
                Body::Resume(resume) if resume.epoch >= self.record.epoch => Some(resume.epoch),
                _ => None,
            })
            .collect();
        epochs.sort_unstable();
        let open = epochs.into_iter().rev().find_map(|epoch| Some((epoch, self.resume_for(epoch)?)));
        let Some((epoch, signatures)) = open else { return Ok(()) };
        if epoch > self.record.epoch {
            self.enter(epoch);
            // It ends the quarantine of those who signed it, unless this very start has found another rollback.
            let signed = signatures.iter().any(|message| message.sender == self.me);
            if signed && !self.start.rolled_back() {
                self.record.bar = Bar::None;
                self.repeats.clear(Slot::Question);
            }
        } else if self.epoch.opened_ms.is_some() {
            return Ok(());
        }
        self.epoch.opened_ms = Some(self.now.mono_ms);
        self.out.writes.put(RESUME, recover::to_bytes(&signatures));
        self.durable();
        for message in &signatures {
            self.send_others(message);
        }
        let Some(Body::Resume(resume)) = signatures.first().map(|message| &message.body) else {
            return Ok(());
        };
        let holder = signatures.iter().map(|message| message.sender).find(|number| *number != self.me);
        if let Some(lock) = resume.forced.as_ref().filter(|lock| !lock.prepares.is_empty()) {
            self.adopt(lock.clone(), holder.unwrap_or(self.me))?;
        }
        if resume.certified.as_ref().is_some_and(|(_, head)| head.height >= self.next_height()) {
            for peer in self.others() {
                self.ask_for_heads(peer);
            }
        }
        Ok(())
    }

    /// The signatures of a Resume that the ceremony has left, or that was acted on before.
    fn kept_resume(&self) -> Result<Vec<Msg>, Fatal> {
        let bytes = self.store.get(RESUME)?.unwrap_or_default();
        let proof = wire::Proof::decode(bytes.as_slice()).unwrap_or_default();
        let messages = proof.messages.into_iter().filter_map(|m| Message::check(&self.context, m).ok());
        Ok(messages.filter(|message| matches!(message.body, Body::Resume(_))).collect())
    }

    /// Is this the first start after a ceremony that this custodian took part in?
    pub(crate) fn comes_from_ceremony(&self) -> Result<bool, Fatal> {
        let kept = self.kept_resume()?;
        let signed = kept.iter().any(|message| message.sender == self.me);
        Ok(signed && agreed(&self.context, &kept).is_some_and(|resume| resume.epoch > self.record.epoch))
    }

    /// Acts on what the ceremony has left.
    pub(crate) fn load_resume(&mut self) -> Result<(), Fatal> {
        for message in self.kept_resume()? {
            self.resumes.insert(message.sender, message);
        }
        self.try_resume()
    }

    /// Height and forced head of an EpochStart that a Resume stands behind.
    pub(crate) fn resumed_value(resume: &[Msg]) -> Option<(u64, Option<PrepareCert>)> {
        match resume.first().map(|message| &message.body) {
            Some(Body::Resume(resume)) => {
                let next = resume.certified.as_ref().map_or(0, |(_, head)| head.height + 1);
                Some((next, resume.forced.clone()))
            }
            _ => None,
        }
    }

    /// The newest log event that relays hold. If nobody else knows that head, too many were rolled back.
    pub(crate) fn on_relayed(&mut self, log: &ValidEvent) {
        let ours = log.author() == self.context.group() && log.kind() == self.context.genesis.kinds.log;
        let Some(head) =
            Head::from_log_event(log).ok().filter(|head| ours && head.cluster == self.context.cluster)
        else {
            return;
        };
        if head.height < self.next_height() || self.relayed.as_ref().is_some_and(|r| r.height >= head.height)
        {
            return;
        }
        let since_ms = self.now.mono_ms;
        self.relayed = Some(Relayed { height: head.height, since_ms, heard: BTreeMap::new() });
        if self.start.asking() && head.roster != self.context.roster_hash {
            // Under a roster of the past nobody in force answers: what its members know says nothing about the group.
            self.start.leave();
        }
        if self.start.outside() {
            self.keep_following();
        } else {
            self.ask_all();
        }
    }

    /// The height of a head that relays hold and nobody has shown to this custodian.
    pub(crate) fn relays_ahead(&self) -> Option<u64> {
        self.relayed.as_ref().map(|relayed| relayed.height).filter(|height| *height >= self.next_height())
    }

    /// What a peer has certified, in answer to a question that was asked after the look at the relays.
    pub(crate) fn heard_height(&mut self, from: u16, next_height: u64) {
        if let Some(relayed) = &mut self.relayed {
            relayed.heard.insert(from, next_height);
        }
    }

    /// Somebody knows the head that relays hold, or q custodians don't and this one stops (PROTOCOL 8).
    pub(crate) fn watch_relayed(&mut self) -> Result<(), Fatal> {
        let (next, q, timeout) = (self.next_height(), self.context.q(), self.timing.timeout_ms);
        let Some(relayed) = &self.relayed else { return Ok(()) };
        let known = relayed.heard.values().copied().max().unwrap_or(0).max(next);
        if known > relayed.height {
            self.relayed = None;
            if self.start.running() {
                if self.record.bar == Bar::None {
                    self.repeats.clear(Slot::Question);
                }
                // An epoch that was entered meanwhile waits for this custodian's grant, and nobody complains about one that never
                // opens.
                self.out.then.push(Then::Grant);
            }
            return Ok(());
        }
        let waited = self.now.mono_ms >= relayed.since_ms + PATIENCE * timeout;
        // Who only follows along has no vote that could contradict what is published; it takes in the heads that others show.
        if waited && !self.start.outside() && relayed.heard.len() + 1 >= q {
            let alarm = Alarm::RelaysAhead { relays: relayed.height, known: known.checked_sub(1) };
            return Err(Fatal::Stop(alarm));
        }
        Ok(())
    }
}
