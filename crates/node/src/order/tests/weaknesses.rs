//! What openraft 0.10.0-alpha.37 does when a peer lies, and that the guard keeps it from that: each attack is carried out
//! twice on a real group, once with the guard and once without. Where the unguarded half fails, openraft has changed and the
//! guard may have a rule too many.
//!
//! In simulated time: what is waited for is either there within half a minute of it, or never.

use super::wire::{Append, AppendReply, Ask, AskReply, At, Content, Item, Vote};
use super::*;

type Rt = SimRuntime;

/// openraft as it is.
enum NoGuard {}

impl GuardRules for NoGuard {
    const CHECKS: bool = false;
}

fn vote(term: u64, node: u64, committed: bool) -> Vote {
    Vote { term, node, committed }
}

fn at(term: u64, index: u64) -> At {
    At { term, index }
}

fn item(term: u64, index: u64, bytes: &Bytes) -> Item {
    Item { at: at(term, index), content: Content::Wrapper(bytes.clone()) }
}

/// The entry before a new one once two batches are delivered: 0 is the members, 1 a blank, 2 and 3 the batches.
const LAST: At = At { term: 1, index: 3 };

fn append(vote: Vote, items: Vec<Item>, committed: Option<At>) -> Bytes {
    Append { epoch: 6, vote, previous: Some(LAST), items, committed }.encode()
}

/// Four custodians led by 1 in term 1, with two batches delivered everywhere. 2 is the victim, 3 or 4 lie.
struct Scene<G> {
    cluster: Cluster<Rt, G>,
    all: BTreeMap<u16, (TestGroup<Rt, G>, Deliveries)>,
    chain: Vec<Bytes>,
}

impl<G: GuardRules> Scene<G> {
    async fn settled() -> Self {
        let cluster = Cluster::<Rt, G>::of(4);
        let mut all = cluster.open_all(6, 1).await;
        let chain = chain(6, 12);
        for entry in &chain[..2] {
            all[&1].0.append(entry.clone()).await.unwrap();
        }
        for (_, deliveries) in all.values_mut() {
            expect(deliveries, 6, &chain[..2], 0).await;
        }
        let scene = Self { cluster, all, chain };
        // So that replies to the last batches are home.
        Rt::sleep(Duration::from_millis(20)).await;
        assert_eq!(scene.group(2).shared.log.last(), Some(LAST));
        scene
    }

    fn group(&self, me: u16) -> &TestGroup<Rt, G> {
        &self.all[&me].0
    }

    async fn health(&self, me: u16) -> Health {
        self.group(me).health(Duration::from_secs(1)).await
    }

    /// Waits until somebody's health is so.
    async fn until(&self, me: u16, so: impl Fn(&Health) -> bool) {
        for _ in 0..30_000 {
            if so(&self.health(me).await) {
                return;
            }
            Rt::sleep(Duration::from_millis(1)).await;
        }
        panic!("{me} is {:?}", self.health(me).await);
    }

    async fn dies(&self, me: u16) {
        self.until(me, |health| matches!(health, Health::Dead { .. })).await;
    }

    /// The leader's next batch on its way, with a task of its own: without the guard it may wait for ever.
    fn next_batch(&self) {
        let (leader, batch) = (self.group(1).clone(), self.chain[2].clone());
        drop(Rt::spawn(async move { leader.append(batch).await }));
    }
}

impl Scene<Guarded> {
    /// As if nothing had been tried: the same leader, in the same term, and `who` deliver every batch.
    async fn goes_on(mut self, who: &[u16]) {
        for entry in &self.chain[2..] {
            self.all[&1].0.append(entry.clone()).await.unwrap();
        }
        for me in who {
            expect(&mut self.all.get_mut(me).unwrap().1, 6, &self.chain, 2).await;
            let health = self.health(*me).await;
            assert!(
                matches!(health, Health::Alive { leading, term: 1, .. } if leading == (*me == 1)),
                "{me}: {health:?}"
            );
        }
        for (group, _) in self.all.into_values() {
            group.close().await;
        }
    }
}

fn run(story: impl Future<Output = ()>) {
    SimRuntime::with_seed(11).block_on(story);
}

/// A request that a peer sends: `$by` says it, the guard refuses it as `$reason`, and without the guard `$harm` follows.
macro_rules! request {
    ($name:ident: $by:ident, $reason:literal, $harm:ident) => {
        mod $name {
            use super::*;

            #[test]
            fn is_refused() {
                run(async {
                    let scene = Scene::<Guarded>::settled().await;
                    match $by(&scene).await {
                        Err(IntakeError::Refused(refused)) => assert_eq!(refused.reason.name(), $reason),
                        other => panic!("not refused: {other:?}"),
                    }
                    scene.goes_on(&[1, 2, 3, 4]).await;
                });
            }

            #[test]
            fn works_without_the_guard() {
                run(async {
                    let mut scene = Scene::<NoGuard>::settled().await;
                    let _ = $by(&scene).await;
                    $harm(&mut scene).await;
                });
            }
        }
    };
}

/// Replies of a lying follower: the guard refuses them as `$reason`, and without the guard `$harm` follows.
macro_rules! reply {
    ($name:ident: $lie:expr, $reason:literal, $harm:ident) => {
        mod $name {
            use super::*;

            #[test]
            fn is_refused() {
                run(async {
                    let scene = Scene::<Guarded>::settled().await;
                    scene.cluster.lies(4, $lie);
                    let mut refused = scene.group(1).watch_refusals();
                    scene.next_batch();
                    refused.wait_for(|count| *count > 2).await.unwrap();
                    let refusals = scene.group(1).refusals();
                    assert!(refusals.contains_key(&(4, $reason)), "{refusals:?}");
                    let mut scene = scene;
                    for me in 1..=3 {
                        expect(&mut scene.all.get_mut(&me).unwrap().1, 6, &scene.chain[..3], 2).await;
                    }
                    let rest = scene.chain.clone();
                    for entry in &rest[3..] {
                        scene.group(1).append(entry.clone()).await.unwrap();
                    }
                    for me in 1..=3 {
                        expect(&mut scene.all.get_mut(&me).unwrap().1, 6, &rest, 3).await;
                    }
                    let health = scene.health(1).await;
                    assert!(matches!(health, Health::Alive { leading: true, term: 1, .. }), "{health:?}");
                });
            }

            #[test]
            fn works_without_the_guard() {
                run(async {
                    let mut scene = Scene::<NoGuard>::settled().await;
                    scene.cluster.lies(4, $lie);
                    scene.next_batch();
                    $harm(&mut scene).await;
                });
            }
        }
    };
}

async fn leader_dies(scene: &mut Scene<NoGuard>) {
    scene.dies(1).await;
}

async fn victim_dies(scene: &mut Scene<NoGuard>) {
    scene.dies(2).await;
}

async fn leader_is_deposed(scene: &mut Scene<NoGuard>) {
    scene.until(1, |health| matches!(health, Health::Alive { leading: false, .. })).await;
}

// A vote with the highest term there is. It is granted, the leader is told of it, and its next election counts on from there:
// an overflow, which panics with overflow checks and starts again at term 0 without them.
request!(a_huge_term: huge_term, "not_leader", leader_dies);
async fn huge_term<G: GuardRules>(scene: &Scene<G>) -> Result<Bytes, IntakeError> {
    let last = Some(at(u64::MAX, u64::MAX));
    let ask = Ask { epoch: 6, vote: vote(u64::MAX, 3, false), last, transfer: true };
    scene.group(2).on_vote(3, ask.encode()).await
}

request!(a_huge_term_of_the_leader: huge_term_of_the_leader, "term", leader_dies);
async fn huge_term_of_the_leader<G: GuardRules>(scene: &Scene<G>) -> Result<Bytes, IntakeError> {
    let ask = Ask { epoch: 6, vote: vote(u64::MAX, 1, false), last: Some(LAST), transfer: true };
    scene.group(2).on_vote(1, ask.encode()).await
}

// A heartbeat under a vote that nobody gave: the victim follows it, and the true leader is deposed by the victim's answers.
request!(a_forged_committed_vote: forged_committed_vote, "not_leader", leader_is_deposed);
async fn forged_committed_vote<G: GuardRules>(scene: &Scene<G>) -> Result<Bytes, IntakeError> {
    scene.group(2).on_append(3, append(vote(9, 3, true), vec![], None)).await
}

// One who asks for votes with the flag of a transfer gets them, the live leader's lease or not: a second leader.
request!(a_transfer_of_leadership: transfer, "not_leader", granted_by_a_majority);
async fn transfer<G: GuardRules>(scene: &Scene<G>) -> Result<Bytes, IntakeError> {
    ask_for_votes(scene, 2, true).await
}

async fn ask_for_votes<G: GuardRules>(
    scene: &Scene<G>,
    who: u16,
    transfer: bool,
) -> Result<Bytes, IntakeError> {
    let ask = Ask { epoch: 6, vote: vote(2, 3, false), last: Some(LAST), transfer };
    scene.group(who).on_vote(3, ask.encode()).await
}

async fn granted_by_a_majority(scene: &mut Scene<NoGuard>) {
    for who in [1, 4] {
        let reply = AskReply::parse(ask_for_votes(scene, who, true).await.unwrap()).unwrap();
        assert!(reply.granted);
    }
    leader_is_deposed(scene).await;
    // And its entries are taken.
    let other = wrap(6, 2, Some(&hash(&scene.chain[1])), b"of a second leader");
    let request = append(vote(2, 3, true), vec![item(2, 4, &other)], Some(at(2, 4)));
    let reply = AppendReply::parse(scene.group(4).on_append(3, request).await.unwrap()).unwrap();
    assert_eq!(reply, AppendReply::Success);
    let delivered = scene.all.get_mut(&4).unwrap().1.next().await.unwrap();
    assert_eq!(delivered.bytes, other);
}

/// No weakness any more: without that flag a live leader's lease holds. The guard refuses it all the same.
#[test]
fn a_second_candidate_without_the_flag_gets_no_vote_while_the_leader_lives() {
    run(async {
        let scene = Scene::<NoGuard>::settled().await;
        for who in [1, 2, 4] {
            let reply = AskReply::parse(ask_for_votes(&scene, who, false).await.unwrap()).unwrap();
            assert!(!reply.granted);
        }
    });
}

// A vote that names its receiver makes it leader, which no candidate ever was: an assertion fails in the core.
request!(a_vote_that_names_the_receiver: crown, "names", victim_dies);
async fn crown<G: GuardRules>(scene: &Scene<G>) -> Result<Bytes, IntakeError> {
    scene.group(2).on_append(1, append(vote(9, 2, true), vec![], None)).await
}

// A forged batch with a forged commit is delivered at once; when the true leader comes back, the core dies of it.
request!(a_forged_commit: forged_commit, "not_leader", delivered_then_dead);
async fn forged_commit<G: GuardRules>(scene: &Scene<G>) -> Result<Bytes, IntakeError> {
    let forged = wrap(6, 2, Some(&hash(&scene.chain[1])), b"forged");
    let request = append(vote(9, 3, true), vec![item(9, 4, &forged)], Some(at(9, 4)));
    scene.group(2).on_append(3, request).await
}

async fn delivered_then_dead(scene: &mut Scene<NoGuard>) {
    let delivered = scene.all.get_mut(&2).unwrap().1.next().await.unwrap();
    assert!(delivered.bytes.ends_with(b"forged"));
    victim_dies(scene).await;
}

// The leader itself commits an entry that can't follow: of a later index and an earlier term than what it sends. The core
// applies up to there, and its log ends before.
request!(a_commit_that_the_log_contradicts: torn_commit, "commit", victim_dies);
async fn torn_commit<G: GuardRules>(scene: &Scene<G>) -> Result<Bytes, IntakeError> {
    let blank = Item { at: at(5, 4), content: Content::Blank };
    scene.group(2).on_append(1, append(vote(5, 1, true), vec![blank], Some(at(3, 10)))).await
}

/// The same in two messages, each of which could be honest.
async fn torn_commit_in_two<G: GuardRules>(scene: &Scene<G>) -> Result<Bytes, IntakeError> {
    let victim = scene.group(2);
    victim.on_append(1, append(vote(5, 1, true), vec![], Some(at(3, 10)))).await?;
    let blank = Item { at: at(5, 4), content: Content::Blank };
    victim.on_append(1, append(vote(5, 1, true), vec![blank], None)).await
}

#[test]
fn a_commit_that_a_later_entry_contradicts_is_refused() {
    run(async {
        let scene = Scene::<Guarded>::settled().await;
        let answer = torn_commit_in_two(&scene).await;
        let Err(IntakeError::Refused(refused)) = answer else { panic!("not refused: {answer:?}") };
        assert_eq!(refused.reason, Reason::Commit { index: 10, term: 3 });
        // It holds with the term that its leader spoke of last, and lives.
        let health = scene.health(2).await;
        assert!(matches!(health, Health::Alive { leading: false, term: 5, .. }), "{health:?}");
        scene.goes_on(&[1, 3, 4]).await;
    });
}

#[test]
fn a_commit_that_a_later_entry_contradicts_works_without_the_guard() {
    run(async {
        let mut scene = Scene::<NoGuard>::settled().await;
        let _ = torn_commit_in_two(&scene).await;
        victim_dies(&mut scene).await;
    });
}

// An appended membership takes effect before it is committed: the victim is no member any more.
request!(an_appended_membership: membership, "membership", no_member_any_more);
async fn membership<G: GuardRules>(scene: &Scene<G>) -> Result<Bytes, IntakeError> {
    let members = Item { at: at(1, 4), content: Content::Members(BTreeSet::from([1, 3])) };
    scene.group(2).on_append(1, append(vote(1, 1, true), vec![members], None)).await
}

async fn no_member_any_more(scene: &mut Scene<NoGuard>) {
    let raft = scene.group(2).shared.raft.as_ref().unwrap();
    let members = raft.with_raft_state(|state| {
        state.membership_state.effective().membership().voter_ids().collect::<BTreeSet<u64>>()
    });
    assert_eq!(members.await.unwrap(), BTreeSet::from([1, 3]));
}

// A cut of what is committed kills the core.
request!(a_cut_of_what_is_committed: cut_committed, "contradiction", victim_dies);
async fn cut_committed<G: GuardRules>(scene: &Scene<G>) -> Result<Bytes, IntakeError> {
    let other = wrap(6, 1, Some(&hash(&scene.chain[0])), b"another second batch");
    let request = Append {
        epoch: 6,
        vote: vote(2, 1, true),
        previous: Some(at(1, 2)),
        items: vec![item(2, 3, &other)],
        committed: None,
    };
    scene.group(2).on_append(1, request.encode()).await
}

/// A cut of what was acknowledged and isn't committed yet: without the guard it is carried out, and the acknowledged batch,
/// which may be prepared, is gone.
async fn cut_acknowledged<G: GuardRules>() -> (Result<Bytes, IntakeError>, Bytes, Vec<Bytes>) {
    let scene = Scene::<G>::settled().await;
    scene.cluster.cut(3);
    scene.cluster.cut(4);
    let mut grown = scene.group(2).shared.log.watch_wrappers();
    scene.group(1).append(scene.chain[2].clone()).await.unwrap();
    {
        use openraft::async_runtime::watch::WatchReceiver;
        grown.wait_until_ge(&3).await.unwrap();
    }
    let other = wrap(6, 2, Some(&hash(&scene.chain[1])), b"another third batch");
    let request = append(vote(2, 1, true), vec![item(2, 4, &other)], None);
    let answer = scene.group(2).on_append(1, request).await;
    (answer, other, scene.group(2).wrappers(2, 9).unwrap())
}

#[test]
fn a_cut_of_what_is_acknowledged_is_refused() {
    run(async {
        let (answer, _, held) = cut_acknowledged::<Guarded>().await;
        let Err(IntakeError::Refused(refused)) = answer else { panic!("not refused: {answer:?}") };
        assert_eq!(refused.reason, Reason::Contradiction { position: 2 });
        assert_eq!(held, chain(6, 3)[2..]);
    });
}

#[test]
fn a_cut_of_what_is_acknowledged_works_without_the_guard() {
    run(async {
        let (answer, other, held) = cut_acknowledged::<NoGuard>().await;
        assert_eq!(AppendReply::parse(answer.unwrap()), Ok(AppendReply::Success));
        assert_eq!(held, [other]);
    });
}

/// Grants what is asked for, and answers appends so.
fn append_reply(reply: AppendReply) -> impl Fn(&Bytes, bool) -> Bytes {
    move |request, voting| {
        if !voting {
            return reply.clone().encode();
        }
        let ask = Ask::parse(request.clone()).unwrap();
        AskReply { vote: ask.vote, granted: true, last: None }.encode()
    }
}

reply!(a_higher_vote_in_a_reply: append_reply(AppendReply::HigherVote(vote(900, 4, true))), "other_vote", leader_is_deposed);
reply!(a_huge_vote_in_a_reply: append_reply(AppendReply::HigherVote(vote(u64::MAX, 4, true))), "other_vote", leader_dies);
reply!(an_acknowledgement_taken_back: append_reply(AppendReply::Conflict), "taken_back", leader_dies);
reply!(an_acknowledgement_below_what_was_sent: append_reply(AppendReply::Partial(at(1, 1))), "not_sent", leader_dies);
reply!(an_acknowledgement_above_what_was_sent: append_reply(AppendReply::Partial(at(1, 1 << 20))), "not_sent", nothing_happens);

/// No weakness any more: an acknowledgement of what was never sent counts for that peer alone, a liar's vote for everything.
async fn nothing_happens(scene: &mut Scene<NoGuard>) {
    for me in 1..=3 {
        expect(&mut scene.all.get_mut(&me).unwrap().1, 6, &scene.chain[..3], 2).await;
    }
    let health = scene.health(1).await;
    assert!(matches!(health, Health::Alive { leading: true, term: 1, .. }), "{health:?}");
}

/// A bug that a message reached, as far as a core can tell.
async fn panics<G: GuardRules>(group: &TestGroup<Rt, G>) {
    let raft = group.shared.raft.as_ref().unwrap();
    let asked = raft.with_raft_state(|_| -> () { panic!("a bug in the core") });
    assert!(asked.await.is_err());
}

/// A dead core is told, and is no dead custodian: the same process closes its group and opens it again for the same epoch.
#[test]
fn a_dead_followers_group_is_closed_and_rebuilt() {
    run(async {
        let mut scene = Scene::<Guarded>::settled().await;
        panics(scene.group(3)).await;
        let health = scene.health(3).await;
        assert!(matches!(health, Health::Dead { .. }), "{health:?}");
        let late = scene.group(3).on_append(1, append(vote(1, 1, true), vec![], None)).await;
        assert!(matches!(late, Err(IntakeError::Unavailable { .. })), "{late:?}");
        // The others don't wait for it.
        for entry in &scene.chain[2..8] {
            scene.group(1).append(entry.clone()).await.unwrap();
        }
        expect(&mut scene.all.get_mut(&2).unwrap().1, 6, &scene.chain[..8], 2).await;

        let (dead, mut deliveries) = scene.all.remove(&3).unwrap();
        dead.close().await;
        assert_eq!(deliveries.next().await, None, "nothing of a closed group is delivered");
        scene.all.insert(3, scene.cluster.open(6, 3, 1).await);
        // From its log, and on.
        expect(&mut scene.all.get_mut(&3).unwrap().1, 6, &scene.chain[..8], 0).await;
        for entry in &scene.chain[8..] {
            scene.group(1).append(entry.clone()).await.unwrap();
        }
        expect(&mut scene.all.get_mut(&3).unwrap().1, 6, &scene.chain, 8).await;
        assert!(matches!(scene.health(3).await, Health::Alive { leading: false, term: 1, .. }));
    });
}

/// A leader whose core died leads its epoch no more; it serves what it holds.
#[test]
fn a_dead_leader_serves_its_log() {
    run(async {
        let mut scene = Scene::<Guarded>::settled().await;
        panics(scene.group(1)).await;
        let appended = scene.group(1).append(scene.chain[2].clone()).await;
        assert!(matches!(appended, Err(OrderError::Dead { .. })), "{appended:?}");
        assert!(matches!(scene.health(1).await, Health::Dead { .. }));
        let (dead, _) = scene.all.remove(&1).unwrap();
        dead.close().await;
        let config = scene.cluster.config(6, 1, 1);
        assert!(matches!(
            scene.cluster.open_with(config.clone()).await,
            Err(OpenError::AlreadyLed { epoch: 6 })
        ));
        let (group, mut deliveries) =
            scene.cluster.open_with(GroupConfig { lead: false, ..config }).await.unwrap();
        expect(&mut deliveries, 6, &scene.chain[..2], 0).await;
        assert_eq!(group.wrappers(0, 9).unwrap(), scene.chain[..2]);
        assert_eq!(group.health(Duration::from_secs(1)).await, Health::ReadOnly);
        group.close().await;
    });
}
