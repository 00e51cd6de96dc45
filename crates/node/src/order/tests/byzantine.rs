//! What a lying custodian tries on openraft (each of these works on a core without guard), against a real group: it is
//! refused, and the group goes on.

use super::wire::{Append, AppendReply, Ask, AskReply, At, Content, Item, Vote};
use super::*;
use crate::limits;

type Rt = TokioRuntime;

fn vote(term: u64, node: u64, committed: bool) -> Vote {
    Vote { term, node, committed }
}

/// A heartbeat of `leader` that says nothing.
pub fn heartbeat(epoch: u64, leader: u64, term: u64) -> Bytes {
    Append { epoch, vote: vote(term, leader, true), previous: None, items: vec![], committed: None }.encode()
}

fn ask(epoch: u64, term: u64, node: u64) -> Ask {
    Ask {
        epoch,
        vote: vote(term, node, false),
        last: Some(At { term: u64::from(term > 1), index: 0 }),
        transfer: false,
    }
}

fn item(term: u64, index: u64, bytes: &Bytes) -> Item {
    Item { at: At { term, index }, content: Content::Wrapper(bytes.clone()) }
}

fn refused(result: Result<Bytes, IntakeError>) -> Refused {
    match result {
        Err(IntakeError::Refused(refused)) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

/// A cluster of four led by 1, with two batches delivered everywhere.
async fn settled() -> (Cluster<Rt>, BTreeMap<u16, (TestGroup<Rt>, Deliveries)>, Vec<Bytes>) {
    let cluster = Cluster::<Rt>::new(4);
    let mut all = cluster.open_all(6, 1).await;
    let chain = chain(6, 4);
    for entry in &chain[..2] {
        all[&1].0.append(entry.clone()).await.unwrap();
    }
    for (_, deliveries) in all.values_mut() {
        expect(deliveries, 6, &chain[..2], 0).await;
    }
    (cluster, all, chain)
}

/// The term that was won: a slow first election takes more than one.
fn won(group: &TestGroup<Rt>) -> u64 {
    group.shared.log.last().unwrap().term
}

/// The group goes on as if nothing had been tried.
async fn goes_on(all: BTreeMap<u16, (TestGroup<Rt>, Deliveries)>, chain: &[Bytes]) {
    for entry in &chain[2..] {
        all[&1].0.append(entry.clone()).await.unwrap();
    }
    let mut all = all;
    for (_, deliveries) in all.values_mut() {
        expect(deliveries, 6, chain, 2).await;
    }
    for (me, (group, _)) in all {
        let health = group.health(Duration::from_secs(1)).await;
        assert!(matches!(health, Health::Alive { leading, .. } if leading == (me == 1)), "{health:?}");
        group.close().await;
    }
}

#[tokio::test]
async fn a_vote_with_a_huge_term_does_not_reach_the_core() {
    let (_cluster, all, chain) = settled().await;
    let huge = |node| Ask { last: Some(At { term: u64::MAX, index: u64::MAX }), ..ask(6, u64::MAX, node) };
    let victim = &all[&2].0;
    assert_eq!(refused(victim.on_vote(3, huge(3).encode()).await).reason.name(), "not_leader");
    // Not even from the leader.
    assert_eq!(refused(victim.on_vote(1, huge(1).encode()).await).reason.name(), "term");
    assert_eq!(
        refused(victim.on_vote(1, ask(6, limits::MAX_TERM + 1, 1).encode()).await).reason.name(),
        "term"
    );
    assert_eq!(victim.refusals(), BTreeMap::from([((1, "term"), 2), ((3, "not_leader"), 1)]));
    goes_on(all, &chain).await;
}

#[tokio::test]
async fn a_forged_commit_is_not_applied() {
    let (_cluster, all, chain) = settled().await;
    let forged = wrap(6, 2, Some(&hash(&chain[1])), b"forged");
    let at = At { term: 9, index: 4 };
    let append = |leader| Append {
        epoch: 6,
        vote: vote(9, leader, true),
        previous: Some(At { term: 1, index: 3 }),
        items: vec![item(9, 4, &forged)],
        committed: Some(at),
    };
    let victim = &all[&2].0;
    // In its own name, and in the leader's.
    assert_eq!(refused(victim.on_append(3, append(3).encode()).await).reason.name(), "not_leader");
    assert_eq!(refused(victim.on_append(3, append(1).encode()).await).reason.name(), "not_leader");
    assert_eq!(refused(victim.on_append(1, append(3).encode()).await).reason.name(), "names");
    goes_on(all, &chain).await;
}

#[tokio::test]
async fn a_vote_that_names_the_receiver_makes_it_no_leader() {
    let (_cluster, all, chain) = settled().await;
    let crown = Append { epoch: 6, vote: vote(9, 2, true), previous: None, items: vec![], committed: None };
    let victim = &all[&2].0;
    assert_eq!(refused(victim.on_append(3, crown.clone().encode()).await).reason.name(), "not_leader");
    assert_eq!(refused(victim.on_append(1, crown.encode()).await).reason.name(), "names");
    // The leader itself takes no orders, not even signed with its own number.
    assert_eq!(refused(all[&1].0.on_append(1, heartbeat(6, 1, 9)).await).reason.name(), "not_leader");
    goes_on(all, &chain).await;
}

#[tokio::test]
async fn the_leader_can_not_rewrite_what_a_follower_holds() {
    let (cluster, all, chain) = settled().await;
    let victim = &all[&2].0;
    victim.set_prepared(0);
    let now = won(victim);
    let other = wrap(6, 0, None, b"another first batch");
    let append = |term, previous, items| Append {
        epoch: 6,
        vote: vote(term, 1, true),
        previous,
        items,
        committed: None,
    };
    // Entries: 0 members, 1 blank, 2 and 3 the batches.
    let blank = Some(At { term: now, index: 1 });
    for term in [now, now + 1] {
        let rewrite = append(term, blank, vec![item(term, 2, &other)]);
        assert_eq!(
            refused(victim.on_append(1, rewrite.encode()).await).reason,
            Reason::Contradiction { position: 0 }
        );
    }
    let evidence = cluster.check.contradictions.lock().unwrap().clone();
    assert_eq!(evidence[0], (0, chain[0].to_vec(), other.to_vec()));
    // The same batch in a later term, a blank instead of it, or a place before it that doesn't match: all would cut.
    let later = append(now + 1, blank, vec![item(now + 1, 2, &chain[0])]);
    let blanked =
        append(now + 1, blank, vec![Item { at: At { term: now + 1, index: 2 }, content: Content::Blank }]);
    let mismatched = append(now + 1, Some(At { term: now + 1, index: 2 }), vec![]);
    for cut in [later, blanked, mismatched] {
        let reason = refused(victim.on_append(1, cut.encode()).await).reason;
        assert_eq!(reason, Reason::Cut { index: 2, prepared: true });
    }
    let unprepared = append(now + 1, Some(At { term: now + 1, index: 3 }), vec![]);
    let reason = refused(victim.on_append(1, unprepared.encode()).await).reason;
    assert_eq!(reason, Reason::Cut { index: 3, prepared: false });
    goes_on(all, &chain).await;
}

#[tokio::test]
async fn a_transfer_of_leadership_is_not_granted() {
    let (_cluster, all, chain) = settled().await;
    let victim = &all[&2].0;
    let transfer = |node| Ask { transfer: true, ..ask(6, 2, node) };
    assert_eq!(refused(victim.on_vote(3, transfer(3).encode()).await).reason.name(), "not_leader");
    assert_eq!(refused(victim.on_vote(1, transfer(1).encode()).await).reason.name(), "transfer");
    goes_on(all, &chain).await;
}

#[tokio::test]
async fn membership_bad_wrappers_and_wrong_epochs_are_refused() {
    let (_cluster, all, chain) = settled().await;
    let victim = &all[&2].0;
    let now = won(victim);
    let after = Some(At { term: now, index: 3 });
    let append =
        |items| Append { epoch: 6, vote: vote(now, 1, true), previous: after, items, committed: None };
    let members = Item { at: At { term: now, index: 4 }, content: Content::Members(BTreeSet::from([1, 3])) };
    assert_eq!(
        refused(victim.on_append(1, append(vec![members]).encode()).await).reason.name(),
        "membership"
    );
    let blank = Item { at: At { term: now, index: 4 }, content: Content::Blank };
    assert_eq!(refused(victim.on_append(1, append(vec![blank]).encode()).await).reason.name(), "blank");
    let loose = wrap(6, 2, Some(&hash(b"something else")), b"x");
    assert_eq!(
        refused(victim.on_append(1, append(vec![item(now, 4, &loose)]).encode()).await).reason.name(),
        "wrapper"
    );
    let gap = append(vec![item(now, 5, &chain[2])]);
    assert_eq!(refused(victim.on_append(1, gap.encode()).await).reason.name(), "order");
    let other = Append { epoch: 7, ..append(vec![]) };
    assert_eq!(refused(victim.on_append(1, other.encode()).await).reason.name(), "epoch");
    assert_eq!(
        refused(victim.on_append(1, Bytes::from_static(b"\xff\xff")).await).reason.name(),
        "malformed"
    );
    let commit = Append { committed: Some(At { term: 0, index: 2 }), ..append(vec![]) };
    assert_eq!(refused(victim.on_append(1, commit.encode()).await).reason.name(), "commit");
    goes_on(all, &chain).await;
}

/// A follower that answers the leader whatever the test wants, beside an honest majority.
async fn with_lying_follower(
    lie: impl Fn(&[u8], bool) -> Bytes + Send + Sync + 'static,
) -> BTreeMap<(u16, &'static str), u64> {
    /// The way to a liar, or to everybody else.
    struct Lying<F> {
        honest: Link<Rt>,
        lie: F,
    }
    impl<F: Fn(&[u8], bool) -> Bytes + Send + Sync + 'static> RaftLink for Lying<F> {
        async fn append(&self, peer: u16, request: Bytes) -> Result<Bytes, LinkError> {
            if peer == 4 { Ok((self.lie)(&request, false)) } else { self.honest.append(peer, request).await }
        }
        async fn vote(&self, peer: u16, request: Bytes) -> Result<Bytes, LinkError> {
            if peer == 4 { Ok((self.lie)(&request, true)) } else { self.honest.vote(peer, request).await }
        }
    }
    let cluster = Cluster::<Rt>::new(4);
    let mut followers = Vec::new();
    for me in [2, 3] {
        followers.push(cluster.open(6, me, 1).await);
    }
    let link = Lying { honest: Link { net: cluster.net.clone(), me: 1 }, lie };
    let store = cluster.stores[&1].clone();
    let flusher = Arc::new(InlineFlusher::new(store.clone()));
    let config = cluster.config(6, 1, 1);
    let (out, mut deliveries) = futures::channel::mpsc::channel(UNREAD);
    let leader =
        Group::<Rt, _, _, _>::open(config, store, flusher, link, cluster.check.clone(), out).await.unwrap();
    let chain = chain(6, 30);
    for entry in &chain {
        leader.append(entry.clone()).await.unwrap();
    }
    expect(&mut deliveries, 6, &chain, 0).await;
    leader.watch_refusals().wait_for(|count| *count > 0).await.unwrap();
    let health = leader.health(Duration::from_secs(1)).await;
    // An honest leader needs a few terms if its first votes are slow; none of the lies is among them.
    assert!(matches!(health, Health::Alive { leading: true, term: 1..100, .. }), "{health:?}");
    let refusals = leader.refusals();
    for (_, deliveries) in &mut followers {
        expect(deliveries, 6, &chain, 0).await;
    }
    leader.close().await;
    for (group, _) in followers {
        group.close().await;
    }
    refusals
}

fn grant(request: &[u8]) -> Bytes {
    let ask = Ask::parse(Bytes::copy_from_slice(request)).unwrap();
    AskReply { vote: ask.vote, granted: true, last: None }.encode()
}

#[tokio::test]
async fn a_reply_with_a_higher_vote_deposes_nobody() {
    let refusals = with_lying_follower(|request, voting| {
        if voting {
            AskReply { vote: vote(900, 4, true), granted: false, last: None }.encode()
        } else {
            let _ = request;
            AppendReply::HigherVote(vote(u64::MAX, 4, true)).encode()
        }
    })
    .await;
    assert!(refusals.contains_key(&(4, "other_vote")), "{refusals:?}");
}

#[tokio::test]
async fn a_reply_that_acknowledges_what_was_not_sent_is_lost() {
    let refusals = with_lying_follower(|request, voting| {
        if voting { grant(request) } else { AppendReply::Partial(At { term: 1, index: 1 << 20 }).encode() }
    })
    .await;
    assert!(refusals.contains_key(&(4, "not_sent")), "{refusals:?}");
}

#[tokio::test]
async fn a_reply_that_takes_an_acknowledgement_back_does_not_kill_the_leader() {
    let count = std::sync::atomic::AtomicU64::new(0);
    let refusals = with_lying_follower(move |request, voting| {
        if voting {
            return grant(request);
        }
        // Acknowledges some, then denies all: openraft panics on a log that goes back.
        let calls = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if calls < 8 { AppendReply::Success.encode() } else { AppendReply::Conflict.encode() }
    })
    .await;
    assert!(refusals.contains_key(&(4, "taken_back")), "{refusals:?}");
}
