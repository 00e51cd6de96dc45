//! What happens, in words and in the invariants' terms.

use super::*;

/// What of an action the invariants look at.
pub(super) fn seen(action: &Action) -> Option<Seen<'_>> {
    match action {
        Action::Send { to, message } => Some(Seen::Sent { to: *to, message }),
        Action::Append { epoch, entry, .. } => Some(Seen::Appended { epoch: *epoch, entry }),
        Action::Certified(head) => Some(Seen::Certified(head)),
        _ => None,
    }
}

/// Rare paths that a message shows.
pub(super) fn notable(body: &Body, signed: &mut Vec<(Hash, u64)>, rare: &mut Vec<&'static str>) {
    match body {
        Body::Certify(certify) => {
            signed.push((certify.cert.vote.id, certify.cert.vote.epoch));
            if certify.attempt >= 2 {
                rare.push("attempt 2");
            }
        }
        Body::EpochStart(start) => {
            let grants = start.grants.iter().filter_map(|grant| match &grant.body {
                Body::Grant(grant) => Some(grant),
                _ => None,
            });
            let grants: Vec<_> = grants.collect();
            let highest = grants.iter().map(|grant| grant.next_height()).max();
            if grants.iter().any(|grant| grant.lock.is_some() && Some(grant.next_height()) == highest) {
                rare.push("value rule applied");
            }
        }
        Body::Evidence(_) => rare.push("evidence passed on"),
        _ => {}
    }
}

pub(super) fn alarm_name(alarm: &Alarm) -> &'static str {
    match alarm {
        Alarm::Evidence { .. } => "alarm: evidence",
        Alarm::BadShare { .. } => "alarm: bad share",
        Alarm::Refused { .. } => "alarm: refused",
        Alarm::Diverged { .. } => "alarm: diverged",
        Alarm::TwoLocks { .. } => "alarm: two locks",
        Alarm::RolledBack { .. } => "alarm: rolled back",
        Alarm::Epoch { .. } => "alarm: epoch",
        Alarm::Complained { .. } => "alarm: complained",
        _ => "alarm: other",
    }
}

/// An input in a line.
pub(super) fn describe(input: &Input) -> String {
    match input {
        Input::Message(message) => {
            format!("hears {:?} of {} seq {} {}", message.kind(), message.sender, message.seq, message.digest)
        }
        Input::Ordered { epoch, entry } => format!("ordered {epoch} {}", entry.digest),
        Input::Request { event, .. } => format!("request {}", event.id()),
        other => format!("{other:?}"),
    }
}
