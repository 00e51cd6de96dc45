//! Two votes of one custodian in one epoch at one height.

use concordat_finality::message::Kind;
use concordat_finality::wire;

use super::restores::followers;
use super::stage::{Missed, Scene, Stage, status};

/// A votes, and crashes; the leader, a liar, then proposes another head of the same height to it. What it has voted for is
/// on its disk.
pub async fn second_vote(stage: &mut Stage) -> Scene {
    stage.corrupt(0, &[]);
    let height = stage.begin().await?;
    let (a, _, _) = followers(stage);
    stage.no_complaints();
    stage.lose(move |l| l.about(Kind::Certify, height));
    stage.request();
    stage.said("it prepares", 3_000, a, |l| l.about(Kind::Prepare, height)).await?;
    let before = stage.covered(0, 0, height - 1).unwrap_or_default();
    let covered = stage.covered(0, 0, height).ok_or(Missed("a proposal"))?;
    let entries = stage.gate().entries.len();
    stage.request();
    let more = |world: &crate::sim::world::World| {
        world.gate.as_ref().is_some_and(|gate| gate.entries.len() > entries)
    };
    stage.reach("one more batch", 3_000, more).await?;
    stage.wait(150).await;
    stage.lose(move |l| l.from == 0 && l.to == a && l.about(Kind::Propose, height));
    stage.off(a);
    stage.on(a);
    stage.runs(a, 5_000).await?;
    stage.reach("it has the log", 5_000, |world| status(world, a).is_some_and(|s| s.started)).await?;
    stage.wait(500).await;
    let id = stage.head_over(0, 0, before, covered + 1).ok_or(Missed("another head"))?;
    let body = wire::Propose { epoch: 0, height, number: covered + 1, id: id.as_bytes().to_vec() };
    let bytes = stage.forge(0, Kind::Propose, &body);
    stage.utter(0, a, bytes);
    stage.wait(2_000).await;
    Ok(())
}
