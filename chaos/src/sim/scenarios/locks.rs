//! Locks that fall, are forgotten, come late, or are made of what was meant for another epoch.

use concordat_finality::message::Kind;
use concordat_finality::wire;

use super::restores::followers;
use super::stage::{Missed, Scene, Stage, epoch_of};

/// The leader of epoch 0 where it is a liar.
const LIAR: usize = 0;

/// Custodian 4 holds lock X of epoch 0 and isn't heard; custodian 3 shares Y in epoch 1 and is shown X then. A lock is
/// replaced by a higher one only (S8).
pub async fn old_lock_shown(stage: &mut Stage) -> Scene {
    stage.lawless(LIAR, &["hides-locks"]);
    let height = stage.begin().await?;
    stage.hide(0, height, &[1, 3], &[3]);
    stage.hide(1, height, &[0, 2], &[2]);
    stage.lose(|l| l.from == 3 && l.to == 1 && l.is(Kind::Grant) && l.epoch == 1);
    stage.request();
    stage.shared("one shares", 0, height, &[3]).await?;
    stage.shared("another shares in the next epoch", 1, height, &[2]).await?;
    let cert = stage.certificate(0, height).ok_or(Missed("a certificate"))?;
    let bytes = stage.forge(LIAR, Kind::Lock, &wire::Lock { cert: Some(cert) });
    stage.lose(move |l| l.about(Kind::Certify, height));
    stage.utter(LIAR, 2, bytes);
    stage.wait(8_000).await;
    Ok(())
}

/// X has a lock of epoch 0, Y one of epoch 1 and q shares; both locks are shown to the leader of epoch 2.
pub async fn two_locks(stage: &mut Stage) -> Scene {
    stage.lawless(LIAR, &["hides-locks"]);
    let height = stage.begin().await?;
    stage.hide(0, height, &[1, 3], &[3]);
    stage.hide(1, height, &[0, 2], &[0, 2]);
    stage.lose(|l| l.from == 3 && l.to == 1 && l.is(Kind::Grant) && l.epoch == 1);
    stage.lose(|l| l.to == 3 && l.is(Kind::Grant) && l.epoch == 2);
    stage.request();
    stage.shared("one shares", 0, height, &[3]).await?;
    stage.shared("the others share another head", 1, height, &[0, 1, 2]).await?;
    stage.wait(10_000).await;
    Ok(())
}

/// A shares X in epochs 0 and 1 and crashes: it must not grant epoch 1 again, since the lock that its grant would have to show
/// is gone.
pub async fn granted_again(stage: &mut Stage) -> Scene {
    let height = stage.begin().await?;
    let a = stage.one_of(&[2, 3]);
    let other = 5 - a;
    stage.hide(0, height, &[a, other], &[a]);
    stage.hide(1, height, &[a, other], &[a]);
    stage.request();
    stage.shared("it shares", 0, height, &[a]).await?;
    stage.shared("it shares again", 1, height, &[a]).await?;
    stage.wait(30).await;
    stage.off(a);
    stage.on(a);
    stage.runs(a, 5_000).await?;
    stage.wait(1_000).await;
    Ok(())
}

/// A certificate of epoch 0 comes after the grant of epoch 1.
pub async fn certified_after_grant(stage: &mut Stage) -> Scene {
    let height = stage.begin().await?;
    let (a, other, _) = followers(stage);
    stage.hide(0, height, &[a, other], &[]);
    stage.request();
    stage.said("it grants", 10_000, a, |l| l.is(Kind::Grant) && l.epoch == 1).await?;
    let late = stage.last(0, |l| l.to == a && l.epoch == 0 && l.about(Kind::Certify, height));
    let late = late.ok_or(Missed("a certificate"))?;
    stage.utter(0, a, late.bytes);
    stage.wait(2_000).await;
    Ok(())
}

/// Somebody complains; then A shares; then the epoch ends. The grant shows what A shared in between.
pub async fn complaint_before_lock(stage: &mut Stage) -> Scene {
    let height = stage.begin().await?;
    let (a, other, _) = followers(stage);
    stage.hide(0, height, &[a, other], &[]);
    let quiet = stage.lose(move |l| l.is(Kind::Complaint) && !(l.from == other && l.to == a));
    stage.request();
    stage.said("one complains", 5_000, other, |l| l.is(Kind::Complaint)).await?;
    stage.wait(100).await;
    let session = stage.last(0, |l| l.to == a && l.epoch == 0 && l.about(Kind::Certify, height));
    stage.utter(0, a, session.ok_or(Missed("a certificate"))?.bytes);
    stage.shared("it shares", 0, height, &[a]).await?;
    stage.gate().lift(quiet);
    stage.wait(5_000).await;
    Ok(())
}

/// X has q shares of epoch 0; those who gave them are shown X's certificate of epoch 1, and share nothing there. That lock
/// doesn't free them from what they shared.
pub async fn lock_without_share(stage: &mut Stage) -> Scene {
    stage.corrupt_under(1, &[], "law");
    let height = stage.begin().await?;
    stage.hide(0, height, &[1, 2], &[1, 2]);
    stage.hide(1, height, &[0, 2, 3], &[]);
    stage.request();
    stage.shared("they share", 0, height, &[0, 1, 2]).await?;
    stage
        .said("the liar has a certificate", 10_000, 1, |l| l.epoch == 1 && l.about(Kind::Certify, height))
        .await?;
    let cert = stage.certificate(1, height).ok_or(Missed("a certificate"))?;
    for seat in [0, 2] {
        let bytes = stage.forge(1, Kind::Lock, &wire::Lock { cert: Some(cert.clone()) });
        stage.utter(1, seat, bytes);
    }
    stage.request();
    stage.reach("the epoch ends", 20_000, |world| epoch_of(world, 2) >= 2).await?;
    stage.wait(4_000).await;
    Ok(())
}

/// X is prepared in epoch 0, Y has q shares of epoch 1. The liar shows X's prepares as a certificate of epoch 1.
pub async fn lifted_certificate(stage: &mut Stage) -> Scene {
    stage.lawless(LIAR, &["hides-locks"]);
    let height = stage.begin().await?;
    stage.hide(0, height, &[1, 2], &[]);
    stage.hide(1, height, &[0, 2], &[0, 2]);
    stage.request();
    stage.said("the liar has a certificate", 5_000, LIAR, |l| l.about(Kind::Certify, height)).await?;
    let cert = stage.certificate(0, height).ok_or(Missed("a certificate"))?;
    stage.shared("they share another head", 1, height, &[0, 1, 2]).await?;
    let lifted = wire::PrepareCert { epoch: 1, ..cert };
    let bytes = stage.forge(LIAR, Kind::Lock, &wire::Lock { cert: Some(lifted) });
    stage.utter(LIAR, 3, bytes);
    stage.wait(3_000).await;
    Ok(())
}
