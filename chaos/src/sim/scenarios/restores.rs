//! Disks that are rolled back: what a custodian has promised must be found out from the others, or it stays silent
//! (PROTOCOL 8). A restored custodian that acts gives a grant without the lock that it shared under, which I8 sees.

use concordat_finality::message::Kind;
use concordat_finality::{Bar, wire};
use concordat_store::memory::Image;
use prost::Message as _;

use super::stage::{Missed, Scene, Stage, next_of, spoken, status};
use crate::sim::world::World;

/// The leader of epoch 0.
const LEADER: usize = 0;

/// Three custodians that don't lead epoch 0, in an order that the seed says.
pub(super) fn followers(stage: &mut Stage) -> (usize, usize, usize) {
    let (a, turn) = (stage.one_of(&[1, 2, 3]), stage.below(2) == 0);
    let others: Vec<usize> = [1, 2, 3].into_iter().filter(|seat| *seat != a).collect();
    match (others.as_slice(), turn) {
        ([first, second], true) => (a, *first, *second),
        ([first, second], false) => (a, *second, *first),
        _ => (a, a, a),
    }
}

/// A share that only one other has heard of.
struct Share {
    /// Who gave it, and is off now.
    a: usize,
    witness: usize,
    /// Its disk, a flush earlier.
    before: Option<Image>,
    /// The rule against complaints.
    quiet: u32,
}

async fn hidden_share(stage: &mut Stage) -> Result<Share, Missed> {
    let height = stage.begin().await?;
    let (a, witness, _) = followers(stage);
    let quiet = stage.no_complaints();
    stage.hide(0, height, &[a, witness], &[a]);
    stage.pass(move |l| l.from == a && l.to == witness && l.about(Kind::Share, height));
    stage.request();
    stage.said("it prepares", 3_000, a, |l| l.about(Kind::Prepare, height)).await?;
    let before = stage.image(a);
    stage.shared("it shares", 0, height, &[a]).await?;
    stage.lose(move |l| l.about(Kind::Certify, height));
    stage.wait(50).await;
    stage.off(a);
    Ok(Share { a, witness, before, quiet })
}

/// A shares; only one other hears of it, and its disk is taken back to the flush before. It must find that out although it
/// misses just one flush, be in quarantine, and still be there after a crash in it.
pub async fn lost_share(stage: &mut Stage) -> Scene {
    let Share { a, before, quiet, .. } = hidden_share(stage).await?;
    stage.restore(a, before, true);
    stage.runs(a, 5_000).await?;
    let pause = 20 + stage.below(200);
    stage.wait(pause).await;
    stage.off(a);
    stage.on(a);
    stage.runs(a, 5_000).await?;
    stage.gate().lift(quiet);
    stage.wait(6_000).await;
    Ok(())
}

/// The only one that heard of A's share is cut off when A comes back on a disk from before it. The others know nothing; they
/// are too few to say so to one whose kernel has booted again.
pub async fn few_answers(stage: &mut Stage) -> Scene {
    let Share { a, witness, before, quiet } = hidden_share(stage).await?;
    stage.isolate(witness);
    stage.restore(a, before, true);
    stage.until(3_000, |world| status(world, a).is_some_and(|status| status.running)).await;
    stage.gate().lift(quiet);
    stage.wait(6_000).await;
    Ok(())
}

/// Who is who when a height is shared that some custodians lag behind.
struct Lag {
    a: usize,
    b: usize,
    /// Where there are seven: another that knows what A and B know, and loses nothing.
    c: Option<usize>,
    liars: Vec<usize>,
    /// The height before the two that the laggards lack.
    low: u64,
    /// The hidden height.
    height: u64,
    quiet: u32,
}

/// A, B, the leader and all other liars certify two heads that the laggards lack, and then share at the next height, which the
/// laggards hear and can't use. Images of both disks are from before.
async fn lag(stage: &mut Stage, both: bool) -> Result<(Lag, [Option<Image>; 2]), Missed> {
    let seven = stage.seats().len() == 7;
    let (liars, (a, b, c, laggards)) = match seven {
        false => {
            let (a, b, laggard) = followers(stage);
            (vec![LEADER], (a, b, None, vec![laggard]))
        }
        true => (vec![LEADER, 1], (2, 3, Some(4), vec![5, 6])),
    };
    for liar in &liars {
        stage.corrupt(*liar, &["hides-locks"]);
    }
    let low = stage.begin().await?;
    let images = [stage.image(a), stage.image(b)];
    let quiet = stage.no_complaints();
    let (behind, late, mute) = (laggards.clone(), laggards.clone(), laggards.clone());
    stage.lose(move |l| {
        behind.contains(&l.to) && (l.is(Kind::Certificate) || l.is(Kind::Heads)) && l.height >= low
    });
    stage.lose(move |l| late.contains(&l.to) && l.is(Kind::Share) && l.height < low + 2);
    stage.lose(move |l| mute.contains(&l.from) && l.is(Kind::Prepare));
    let insiders: Vec<usize> = stage.seats().into_iter().filter(|seat| !laggards.contains(seat)).collect();
    for more in 1..=2 {
        stage.request();
        let all = |world: &World| insiders.iter().all(|seat| next_of(world, *seat) >= low + more);
        stage.reach("a head without the laggards", 5_000, all).await?;
    }
    let height = low + 2;
    let certify: &[usize] = if both { &[a, b] } else { &[a] };
    stage.hide(0, height, &insiders, certify);
    stage.pass(move |l| [a, b].contains(&l.from) && laggards.contains(&l.to) && l.about(Kind::Share, height));
    stage.request();
    stage.shared("they share", 0, height, certify).await?;
    stage.lose(move |l| l.about(Kind::Certify, height));
    stage.wait(50).await;
    Ok((Lag { a, b, c, liars, low, height, quiet }, images))
}

/// A liar answers a start's question with an old head.
fn answer_low(stage: &mut Stage, liar: usize, to: usize, height: u64) {
    let question = stage.last(to, |l| l.is(Kind::Question)).map(|l| l.envelope().body);
    let Some(Ok(question)) = question.map(|body| wire::Question::decode(body.as_slice())) else { return };
    let body = wire::Answer {
        nonce: question.nonce,
        highest: None,
        certified: stage.log_event(liar, height),
        quarantined: false,
        starting: false,
        intact: true,
    };
    let bytes = stage.forge(liar, Kind::Answer, &body);
    stage.utter(liar, to, bytes);
}

/// What a low bar leads to: A holds the heads that the bar asks for, and grants as if it had never shared.
async fn released(stage: &mut Stage, lag: &Lag) -> Scene {
    let (a, height, quiet) = (lag.a, lag.height, lag.quiet);
    stage
        .until(8_000, |world| {
            status(world, a).is_some_and(|s| s.running && s.bar == Bar::None) && next_of(world, a) >= height
        })
        .await;
    stage.gate().lift(quiet);
    stage.wait(6_000).await;
    Ok(())
}

/// B, which knows the newest head, is cut off; the liar and the laggard report an old one. With the heads of fewer than q
/// others the bar is too low (T7).
pub async fn few_reports(stage: &mut Stage) -> Scene {
    let (lag, [image, _]) = lag(stage, false).await?;
    let (a, b) = (lag.a, lag.b);
    stage.off(a);
    stage.isolate(b);
    stage.lose(move |l| l.from == LEADER && l.is(Kind::Answer));
    stage.restore(a, image, false);
    answer_low(stage, LEADER, a, lag.low - 1);
    stage.runs(a, 5_000).await?;
    released(stage, &lag).await
}

/// What B and the liar answered at A's first start comes again (T8).
pub async fn old_answers(stage: &mut Stage) -> Scene {
    let (lag, [image, _]) = lag(stage, false).await?;
    let (a, b) = (lag.a, lag.b);
    let old: Vec<_> = [b, LEADER]
        .into_iter()
        .filter_map(|from| {
            let first = spoken(&stage.play.world).find(|l| l.from == from && l.to == a && l.is(Kind::Answer));
            first.map(|letter| (from, letter.bytes.clone()))
        })
        .collect();
    stage.off(a);
    stage.lose(move |l| l.to == a && (l.from == LEADER || l.from == b) && l.is(Kind::Answer));
    stage.restore(a, image, true);
    for (from, bytes) in old {
        stage.utter(from, a, bytes);
    }
    stage.until(3_000, |world| status(world, a).is_some_and(|status| status.running)).await;
    released(stage, &lag).await
}

/// A and B, both of which shared, are restored together and report to each other (T1). Of seven the one that knows more and
/// lost nothing is cut off.
pub async fn two_restored(stage: &mut Stage) -> Scene {
    let (lag, [first, second]) = lag(stage, true).await?;
    let (a, b) = (lag.a, lag.b);
    stage.off(a);
    stage.off(b);
    if let Some(c) = lag.c {
        stage.isolate(c);
    }
    let liars = lag.liars.clone();
    stage.lose(move |l| liars.contains(&l.from) && l.is(Kind::Answer));
    // Both hear first from those who know what they have lost: a rollback that nobody who answers knows of is a fault.
    let apart = stage.lose(move |l| l.is(Kind::Answer) && [(a, b), (b, a)].contains(&(l.from, l.to)));
    stage.restore(a, first, false);
    stage.restore(b, second, false);
    for liar in &lag.liars {
        answer_low(stage, *liar, a, lag.low - 1);
        answer_low(stage, *liar, b, lag.low - 1);
    }
    let barred = |world: &World, seat| status(world, seat).is_some_and(|s| s.bar != Bar::None);
    stage.reach("both are in quarantine", 5_000, |world| barred(world, a) && barred(world, b)).await?;
    stage.gate().lift(apart);
    released(stage, &lag).await
}

/// The leader, a liar, shows the certificate of a height to A alone, which goes on to prepare the next one; then A's disk is
/// taken back. The others know a head that lies two below what A has voted for: the bar must be above that vote.
pub async fn held_certificate(stage: &mut Stage) -> Scene {
    stage.corrupt(LEADER, &[]);
    let height = stage.begin().await?;
    let (a, witness, other) = followers(stage);
    stage.no_complaints();
    let late = stage.lose(move |l| l.about(Kind::Certify, height));
    stage.lose(move |l| l.about(Kind::Certify, height + 1));
    stage.lose(move |l| l.from == other && l.about(Kind::Prepare, height));
    stage.lose(move |l| l.about(Kind::Share, height) && l.to != LEADER && !(l.from == a && l.to == witness));
    stage.lose(move |l| {
        (l.is(Kind::Certificate) || l.is(Kind::Heads))
            && l.height >= height
            && !(l.from == LEADER && l.to == a)
    });
    stage.request();
    stage.said("it proposes", 3_000, LEADER, |l| l.about(Kind::Propose, height)).await?;
    for _ in 0..2 {
        let entries = stage.gate().entries.len();
        stage.request();
        stage
            .reach("one more batch", 3_000, |world| {
                world.gate.as_ref().is_some_and(|gate| gate.entries.len() > entries)
            })
            .await?;
        stage.wait(150).await;
    }
    let image = stage.image(a);
    stage.gate().lift(late);
    stage.reach("one has the certificate", 5_000, |world| next_of(world, a) > height).await?;
    stage.said("it prepares the next", 5_000, a, |l| l.about(Kind::Prepare, height + 1)).await?;
    stage.off(a);
    stage.lose(move |l| l.from == LEADER && l.is(Kind::Answer));
    stage.lose(move |l| l.from == LEADER && l.to == a && l.about(Kind::Propose, height + 1));
    stage.restore(a, image, true);
    answer_low(stage, LEADER, a, height - 1);
    stage.runs(a, 5_000).await?;
    stage.reach("it has the certificate again", 5_000, |world| next_of(world, a) > height).await?;
    stage.wait(1_000).await;
    let covered = stage.covered(LEADER, 0, height).ok_or(Missed("a proposal"))?;
    let id = stage.head_over(LEADER, 0, covered, covered + 1).ok_or(Missed("another head"))?;
    let body =
        wire::Propose { epoch: 0, height: height + 1, number: covered + 1, id: id.as_bytes().to_vec() };
    let bytes = stage.forge(LEADER, Kind::Propose, &body);
    stage.utter(LEADER, a, bytes);
    stage.wait(2_000).await;
    Ok(())
}
