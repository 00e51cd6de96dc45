//! Epochs that open without the lock that they should show: with an old grant, with too few grants, with a lock that nobody
//! heeds.

use bytes::Bytes;
use concordat_finality::message::Kind;
use concordat_finality::wire;
use prost::Message as _;

use super::stage::{Missed, Scene, Stage, epoch_of, next_of, spoken, status};

/// Custodians of four that play: the first leads epoch 0, the second epoch 1.
const LIAR: usize = 0;
const NEXT: usize = 1;

/// A's grant of epoch 1, given before its disk was taken back and left its quarantine in epoch 0, opens epoch 1 after A has
/// shared in epoch 0 (T2). Height bars cover no promise about epochs: who has shared refuses.
pub async fn replayed_grant(stage: &mut Stage) -> Scene {
    stage.corrupt(LIAR, &["hides-locks"]);
    let low = stage.begin().await?;
    let (a, b) = if stage.below(2) == 0 { (2, 3) } else { (3, 2) };
    // Nothing is proposed, so all complain; A alone hears enough of it, and grants.
    let silent = stage.lose(|l| l.from == LIAR && l.is(Kind::Propose));
    let elsewhere = stage.lose(move |l| l.is(Kind::Complaint) && l.to != a);
    stage.lose(move |l| l.from == a && l.is(Kind::Grant));
    let entries = stage.gate().entries.len();
    stage.request();
    // What its log has acknowledged must be on the disk that it comes back with: a leader's log takes no acknowledgement back,
    // so who has lost one follows again in the next epoch only.
    let ordered = |world: &crate::sim::world::World| {
        world.gate.as_ref().is_some_and(|gate| gate.entries.len() > entries)
    };
    stage.reach("a batch is ordered", 2_000, ordered).await?;
    stage.wait(300).await;
    stage.world().net.cut(LIAR, a);
    let image = stage.image(a);
    stage.said("it grants", 10_000, a, |l| l.is(Kind::Grant) && l.epoch == 1).await?;
    let grant = stage.last(a, |l| l.is(Kind::Grant) && l.epoch == 1).ok_or(Missed("a grant"))?;
    // Without the complaints that it came with, so that it moves nobody.
    let bare = wire::Envelope { attachment: Vec::new(), ..grant.envelope() };
    let grant = Bytes::from(bare.encode_to_vec());
    stage.utter(LIAR, b, grant.clone());
    stage.wait(50).await;
    stage.off(a);
    let quiet = stage.no_complaints();
    stage.gate().lift(silent);
    stage.world().net.mend();
    stage.restore(a, image, true);
    stage.runs(a, 5_000).await?;
    stage
        .reach("it is in quarantine", 3_000, |world| {
            status(world, a).is_some_and(|s| s.bar != concordat_finality::Bar::None)
        })
        .await?;
    let height = low + 2;
    for _ in 0..2 {
        stage.request();
        let next = stage.next(b) + 1;
        stage.reach("a head", 10_000, |world| all_at(world, &[LIAR, NEXT, b, a], next)).await?;
    }
    stage
        .reach("it is out of quarantine", 5_000, |world| {
            status(world, a).is_some_and(|s| s.bar == concordat_finality::Bar::None && s.started)
        })
        .await?;
    let height = height.max(stage.next(a));
    stage.hide(0, height, &[a, b], &[a, b]);
    stage.request();
    stage.shared("they share", 0, height, &[LIAR, a, b]).await?;
    // Those who shared don't reach the next leader; the liar and the old grant do.
    stage.lose(move |l| [a, b].contains(&l.from) && l.to == NEXT && l.is(Kind::Grant));
    stage.gate().lift(elsewhere);
    stage.gate().lift(quiet);
    stage.reach("the next leader has entered its epoch", 30_000, |world| epoch_of(world, NEXT) == 1).await?;
    stage.utter(LIAR, NEXT, grant);
    stage.wait(4_000).await;
    Ok(())
}

fn all_at(world: &crate::sim::world::World, seats: &[usize], next: u64) -> bool {
    seats.iter().all(|seat| next_of(world, *seat) >= next)
}

/// X has q shares; those who gave them besides the liar don't reach the next leader. With f+1 grants it would open its epoch
/// without their lock.
pub async fn few_grants(stage: &mut Stage) -> Scene {
    hidden(stage).await?;
    stage.lose(|l| l.from > NEXT && l.to == NEXT && l.is(Kind::Grant) && l.epoch == 1);
    stage.wait(6_000).await;
    Ok(())
}

/// X has q shares; the next leader sees its lock, and must propose X again.
pub async fn shown_lock(stage: &mut Stage) -> Scene {
    hidden(stage).await?;
    stage.wait(6_000).await;
    Ok(())
}

/// The leader, a liar, and two others share; nobody can put the shares together.
async fn hidden(stage: &mut Stage) -> Scene {
    stage.corrupt(LIAR, &["hides-locks"]);
    let height = stage.begin().await?;
    stage.hide(0, height, &[2, 3], &[2, 3]);
    stage.request();
    stage.shared("they share", 0, height, &[LIAR, 2, 3]).await
}

/// Seven custodians, two of them liars: five share X, among them both liars. With a majority for a quorum the liars and the
/// other two open the next epoch, and make a certificate of another head (S7).
pub async fn four_of_seven(stage: &mut Stage) -> Scene {
    stage.corrupt(LIAR, &["hides-locks"]);
    stage.corrupt(NEXT, &["hides-locks"]);
    let height = stage.begin().await?;
    stage.hide(0, height, &[1, 2, 3, 4], &[1, 2, 3, 4]);
    stage.request();
    stage.shared("they share", 0, height, &[0, 1, 2, 3, 4]).await?;
    stage.lose(|l| (2..=4).contains(&l.from) && (l.to == NEXT || l.to > 4) && l.is(Kind::Grant));
    let voted = |world: &crate::sim::world::World, seat: usize| {
        spoken(world).find(|l| l.from == seat && l.epoch == 1 && l.about(Kind::Prepare, height)).cloned()
    };
    if !stage.until(8_000, |world| voted(world, 5).is_some() && voted(world, 6).is_some()).await {
        return Ok(());
    }
    let Some(first) = voted(&stage.play.world, 5) else { return Ok(()) };
    let body = wire::Prepare { epoch: 1, height, id: first.id.as_bytes().to_vec(), commitments: vec![0; 32] };
    let forged = [LIAR, NEXT].map(|seat| stage.forge(seat, Kind::Prepare, &body));
    let mut prepares: Vec<wire::Envelope> =
        forged.iter().filter_map(|bytes| wire::Envelope::decode(bytes.clone()).ok()).collect();
    for seat in [5, 6] {
        let envelope = voted(&stage.play.world, seat).map(|letter| letter.envelope());
        prepares.extend(envelope.map(|envelope| wire::Envelope { attachment: Vec::new(), ..envelope }));
    }
    let id = first.id.as_bytes().to_vec();
    let cert = wire::PrepareCert { epoch: 1, height, id, prepares, batch_hashes: Vec::new() };
    let bytes = stage.forge(NEXT, Kind::Lock, &wire::Lock { cert: Some(cert) });
    stage.utter(NEXT, 5, bytes);
    stage.wait(1_000).await;
    Ok(())
}
