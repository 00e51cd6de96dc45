//! Says why a custodian that was restored doesn't come back: one that stays in quarantine, or never hears enough about what its disk has
//! lost, can't help itself, and its operator must know.

use std::time::Duration;

use concordat_finality::{Bar, Context, Status};
use tokio::sync::mpsc;

use super::desk::Desk;
use super::life::Life;

/// Timeouts within which one comes back as long as enough others answer: some round trips, and custodians that are just starting.
const PATIENCE: u32 = 8;

/// Watches until the task ends. Says it once for as long as it lasts.
pub(super) async fn watch(
    desk: Desk,
    context: std::sync::Arc<Context>,
    timeout: Duration,
    life: mpsc::UnboundedSender<Life>,
) {
    let (mut waited, mut tip) = (0, None);
    loop {
        tokio::time::sleep(timeout).await;
        let Some(status) = desk.query(|decider| decider.status()).await else { return };
        // Who takes in heads isn't stuck.
        let moved = std::mem::replace(&mut tip, status.certified) != status.certified;
        match reason(&status, &context).filter(|_| !(moved && status.outside)) {
            Some(message) => {
                waited += 1;
                if waited == PATIENCE {
                    tracing::warn!("{message}");
                    let _ = life.send(Life::Alarm { message });
                }
            }
            None => waited = 0,
        }
    }
}

/// Why this custodian doesn't come back, if it doesn't.
fn reason(status: &Status, context: &Context) -> Option<String> {
    if let Some(height) = status.relays_ahead.filter(|_| status.outside) {
        return Some(format!(
            "relays hold head {height} of the group, and nobody shows this custodian what comes after its own ({}): bring back a custodian \
             that has it; if too many disks were restored, hold `recover` with the operators of all",
            status.certified.map_or("none".to_owned(), |(height, _)| format!("head {height}"))
        ));
    }
    let stands = !status.outside && (!status.running || status.bar == Bar::Unknown);
    if !stands {
        return None;
    }
    let others = context.roster.n().saturating_sub(1);
    let (needed, reached) = (context.q().min(others), others.saturating_sub(status.unreachable.len()));
    if reached < needed {
        return Some(format!(
            "this custodian can't vote until {needed} others answer what its disk may have lost; {reached} are reached: bring the others \
             back, or hold `recover` with their operators if that can't be"
        ));
    }
    Some(if status.bar == Bar::None {
        format!(
            "this custodian can't vote: {reached} others are reached, and too many of them are just starting or in quarantine to say what \
             its disk may have lost. If no disk was restored (all were without power), start with --disk-not-restored; if too many were, \
             stop all and hold `recover` with their operators"
        )
    } else {
        format!(
            "this custodian is in quarantine and doesn't come out by itself: {reached} others are reached, and too many of them are in \
             quarantine too. Too many were restored or rolled back at once: stop all and hold `recover` with their operators"
        )
    })
}
