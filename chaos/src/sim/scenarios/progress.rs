//! Ways to a standstill: bounds are virtual time and epochs, never a wall clock.

use concordat_finality::message::Kind;
use concordat_finality::wire;

use super::restores::followers;
use super::stage::{Missed, Scene, Stage, epoch_of, next_of};
use crate::invariants::{i09_progress, i11_honest_epochs};
use crate::sim::net::Net;
use crate::sim::world::World;

/// A liar keeps a certificate of epoch 0 to itself, and shows it to one custodian between its grant and its vote. An adopted
/// lock makes nobody refuse (L2).
pub async fn late_lock(stage: &mut Stage) -> Scene {
    stage.corrupt(0, &[]);
    let height = stage.begin().await?;
    let a = stage.one_of(&[2, 3]);
    stage.hide(0, height, &[1, 2, 3], &[]);
    stage.request();
    stage.said("the liar has a certificate", 5_000, 0, |l| l.about(Kind::Certify, height)).await?;
    let cert = stage.certificate(0, height).ok_or(Missed("a certificate"))?;
    stage.lose(|l| l.from == 0);
    stage.said("one grants", 10_000, a, |l| l.is(Kind::Grant) && l.epoch == 1).await?;
    let bytes = stage.forge(0, Kind::Lock, &wire::Lock { cert: Some(cert) });
    stage.utter(0, a, bytes);
    progress(stage, 20_000, height + 1, 1, &[1, 2, 3]).await;
    Ok(())
}

/// The head before `next` is certified by these in time, and in no epoch above `epoch`.
async fn progress(stage: &mut Stage, ms: u64, next: u64, epoch: u64, seats: &[usize]) {
    let all = |world: &World| seats.iter().all(|seat| next_of(world, *seat) >= next);
    let over = |world: &World| seats.iter().any(|seat| epoch_of(world, *seat) > epoch);
    stage.until(ms, |world| all(world) || over(world)).await;
    let world = stage.world();
    let judged = i09_progress::height(all(world), over(world), next - 1, epoch, ms);
    if let Err(message) = judged {
        world.violate(i09_progress::NAME, message);
    }
}

/// A liar prepares and gives no share; one of the others votes a little late, so that the liar stands in every certificate.
/// Who prepared later may sign instead (L4).
pub async fn prepares_and_withholds(stage: &mut Stage) -> Scene {
    let (liar, late, _) = followers(stage);
    stage.corrupt(liar, &[]);
    stage.begin().await?;
    let ms = 50 + stage.below(30);
    stage.delay(ms, move |l| l.from == late && l.is(Kind::Prepare));
    stage
        .lose(move |l| l.from == liar && (l.is(Kind::Share) || l.is(Kind::Certificate) || l.is(Kind::Heads)));
    let honest: Vec<usize> = stage.seats().into_iter().filter(|seat| *seat != liar).collect();
    for _ in 0..3 {
        let next = stage.next(0) + 1;
        stage.request();
        progress(stage, 20_000, next, 0, &honest).await;
    }
    Ok(())
}

/// The leader of epoch 0 says nothing from the beginning: nobody has an EpochStart, and still all may complain (L1).
pub async fn no_start(stage: &mut Stage) -> Scene {
    stage.corrupt(0, &["silent"]);
    stage.play.begin();
    stage.isolate(0);
    progress(stage, 30_000, 1, 1, &[1, 2, 3]).await;
    Ok(())
}

/// A liar complains all the time, and one honest custodian hears everything late. f+1 end no epoch (L2 of the first review).
pub async fn flaky_timer(stage: &mut Stage) -> Scene {
    let (liar, flaky, other) = followers(stage);
    stage.corrupt(liar, &[]);
    stage.begin().await?;
    stage.delay(1_500, move |l| {
        l.to == flaky && (l.from == 0 || l.is(Kind::Certificate) || l.is(Kind::Heads))
    });
    for _ in 0..16 {
        stage.request();
        let body = wire::Complaint { epoch: 0, cause: 2, next_height: stage.next(0) };
        for to in [0, flaky, other] {
            let bytes = stage.forge(liar, Kind::Complaint, &body);
            stage.utter(liar, to, bytes);
        }
        let ms = 400 + stage.below(200);
        stage.wait(ms).await;
        unmoved(stage, &[0, other]);
    }
    Ok(())
}

/// No honest custodian has left epoch 0, whose leader is honest and reachable.
fn unmoved(stage: &mut Stage, seats: &[usize]) {
    let epoch = seats.iter().map(|seat| epoch_of(&stage.play.world, *seat)).max().unwrap_or_default();
    if let Err(message) = i11_honest_epochs::see(0, 1, true, epoch) {
        stage.world().violate(i11_honest_epochs::NAME, message);
    }
}

/// A liar that leads nothing votes twice and shows it to all. Evidence ends the epoch of who is named, and no other (L1 of the
/// first review).
pub async fn accuses_itself(stage: &mut Stage) -> Scene {
    let (liar, _, _) = followers(stage);
    stage.corrupt(liar, &[]);
    stage.begin().await?;
    for id in [1, 2] {
        let body = wire::Prepare { epoch: 0, height: 1_000, id: vec![id; 32], commitments: vec![0; 32] };
        for to in stage.seats().into_iter().filter(|to| *to != liar) {
            let bytes = stage.forge(liar, Kind::Prepare, &body);
            stage.utter(liar, to, bytes);
        }
        let ms = stage.below(100);
        stage.wait(ms).await;
    }
    for _ in 0..4 {
        stage.request();
        stage.wait(500).await;
        unmoved(stage, &[0]);
    }
    Ok(())
}

/// Everything that is said in the first seconds is lost; nobody restarts (L13).
pub async fn lost_words(stage: &mut Stage) -> Scene {
    stage.play.begin();
    stage.world().net.loss = 100;
    let ms = 1_000 + stage.below(3_000);
    stage.wait(ms).await;
    stage.world().net = Net::default();
    progress(stage, 60_000, 1, 4, &[0, 1, 2, 3]).await;
    Ok(())
}

/// A liar is silent, and the batch reaches one honest custodian more than ten seconds late. It votes when it is shown that
/// others saw the batch in time (L7).
pub async fn laggard(stage: &mut Stage) -> Scene {
    let (late, liar, other) = followers(stage);
    stage.corrupt(liar, &[]);
    let height = stage.begin().await?;
    stage.lose(move |l| l.from == liar);
    stage.isolate(late);
    stage.request();
    let ms = 11_000 + stage.below(5_000);
    stage.wait(ms).await;
    stage.world().net = Net::default();
    progress(stage, 40_000, height + 1, 1, &[0, late, other]).await;
    Ok(())
}

/// The leader of epoch 1 never saw X; the liar's grant carries X's true lock, with a list of batches that rebuilds nothing. Such
/// a grant doesn't count, and holds up no other (L4 of the first review).
pub async fn spoiled_hint(stage: &mut Stage) -> Scene {
    stage.corrupt(0, &[]);
    let height = stage.begin().await?;
    stage.hide(0, height, &[2, 3], &[]);
    stage.lose(move |l| l.to == 1 && l.epoch == 0 && l.about(Kind::Propose, height));
    stage.lose(|l| l.from == 0 && l.is(Kind::Grant));
    stage.request();
    stage.said("the liar has a certificate", 5_000, 0, |l| l.about(Kind::Certify, height)).await?;
    let cert = stage.certificate(0, height).ok_or(Missed("a certificate"))?;
    let entered = |world: &World| epoch_of(world, 1) == 1;
    stage.reach("the next leader has entered its epoch", 10_000, entered).await?;
    let body = wire::Grant {
        epoch: 1,
        certified: stage.log_event(0, height - 1),
        lock: Some(wire::PrepareCert { batch_hashes: vec![vec![7; 32]], ..cert }),
        evidence: Vec::new(),
    };
    for to in [1, 2, 3] {
        let bytes = stage.forge(0, Kind::Grant, &body);
        stage.utter(0, to, bytes);
    }
    stage.lose(|l| l.from == 0);
    progress(stage, 30_000, height + 1, 1, &[1, 2, 3]).await;
    Ok(())
}

/// Two liars of seven lead epochs 0 and 1 and accuse themselves, each in another order to everybody. All come to agree on who is
/// skipped (L11).
pub async fn two_orders(stage: &mut Stage) -> Scene {
    stage.corrupt(0, &[]);
    stage.corrupt(1, &[]);
    let height = stage.begin().await?;
    for to in 2..7 {
        let first = usize::try_from(stage.below(2)).unwrap_or_default();
        for liar in [first, 1 - first] {
            for id in [1, 2] {
                let body =
                    wire::Prepare { epoch: 0, height: 1_000, id: vec![id; 32], commitments: vec![0; 32] };
                let bytes = stage.forge(liar, Kind::Prepare, &body);
                stage.utter(liar, to, bytes);
            }
            let ms = stage.below(30);
            stage.wait(ms).await;
        }
    }
    stage.lose(|l| l.from < 2);
    stage.request();
    progress(stage, 60_000, height + 1, 4, &[2, 3, 4, 5, 6]).await;
    Ok(())
}
