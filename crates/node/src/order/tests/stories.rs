//! What a group does for an honest cluster, the same on tokio and in simulated time.

use super::*;
use crate::limits;

/// Runs a story on both runtimes, and twice with each of three seeds on the simulated one: equal traces.
macro_rules! story {
    ($name:ident) => {
        mod $name {
            use super::*;

            #[test]
            fn tokio() {
                TokioRuntime::run(super::$name::<TokioRuntime>());
            }

            #[test]
            fn simulated() {
                for seed in 0..3 {
                    let run = || {
                        let mut rt = SimRuntime::with_seed(seed);
                        rt.record_trace(true);
                        rt.block_on(super::$name::<SimRuntime>());
                        rt.take_trace()
                    };
                    let (first, second) = (run(), run());
                    let differs = first.iter().zip(&second).position(|(a, b)| a != b);
                    assert_eq!(differs, None, "seed {seed}");
                    assert_eq!(first.len(), second.len(), "seed {seed}");
                    assert!(first.len() > 100);
                }
            }
        }
    };
}

/// Honest custodians are refused nothing but answers to a term that is over: a slow first election takes several.
fn nothing_but_late_votes<Rt: Clock>(group: &TestGroup<Rt>) {
    let refusals = group.refusals();
    let late = |name: &str| ["other_vote", "not_granted"].contains(&name);
    assert!(refusals.keys().all(|(_, name)| late(name)), "{refusals:?}");
}

story!(batches_reach_everybody_in_order);
async fn batches_reach_everybody_in_order<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(4);
    let mut all = cluster.open_all(7, 2).await;
    let chain = chain(7, 300);
    let leader = all[&2].0.clone();
    let feed = async {
        // Many in flight: nobody waits for a commit.
        futures::future::join_all(chain.iter().map(|entry| leader.append(entry.clone()))).await
    };
    let mut readers: Vec<_> = all.values_mut().map(|(_, deliveries)| deliveries).collect();
    let read =
        futures::future::join_all(readers.iter_mut().map(|deliveries| expect(deliveries, 7, &chain, 0)));
    let (fed, _) = futures::future::join(feed, read).await;
    assert!(fed.iter().all(Result::is_ok), "{fed:?}");
    for (me, (group, _)) in all {
        let Health::Alive { leading, wrappers, .. } = group.health(Duration::from_secs(1)).await else {
            panic!("custodian {me} is not alive");
        };
        assert_eq!((leading, wrappers), (me == 2, 300));
        assert_eq!(group.wrappers(298, 9).unwrap(), chain[298..]);
        nothing_but_late_votes(&group);
        group.close().await;
    }
}

story!(a_custodian_alone_is_a_group);
async fn a_custodian_alone_is_a_group<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(1);
    let (group, mut deliveries) = cluster.open(0, 1, 1).await;
    let chain = chain(0, 3);
    for entry in &chain {
        group.append(entry.clone()).await.unwrap();
    }
    expect(&mut deliveries, 0, &chain, 0).await;
    group.close().await;
}

story!(only_the_leader_appends_and_only_what_continues_its_chain);
async fn only_the_leader_appends_and_only_what_continues_its_chain<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(3);
    let mut all = cluster.open_all(1, 1).await;
    let chain = chain(1, 2);
    assert_eq!(all[&2].0.append(chain[0].clone()).await, Err(OrderError::NotLeader { epoch: 1, leader: 1 }));
    let leader = all[&1].0.clone();
    assert!(matches!(leader.append(chain[1].clone()).await, Err(OrderError::Wrapper { position: 0, .. })));
    let large = Bytes::from(vec![0; limits::MAX_WRAPPER_BYTES + 1]);
    assert!(matches!(leader.append(large).await, Err(OrderError::TooLarge { .. })));
    for entry in &chain {
        leader.append(entry.clone()).await.unwrap();
    }
    for (_, deliveries) in all.values_mut() {
        expect(deliveries, 1, &chain, 0).await;
    }
    for (group, _) in all.values() {
        group.clone().close().await;
    }
}

story!(a_leader_waits_for_a_majority);
async fn a_leader_waits_for_a_majority<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(4);
    cluster.cut(1);
    let mut all = cluster.open_all(3, 1).await;
    let chain = chain(3, 1);
    let leader = all[&1].0.clone();
    let append = leader.append(chain[0].clone());
    let mut append = Box::pin(append);
    // Nobody answers, so it isn't taken; it goes on asking, where a core left to itself would stay a candidate for ever.
    let mut sent = cluster.net.sent.subscribe();
    let asked = std::pin::pin!(sent.wait_for(|count| *count >= 12));
    let futures::future::Either::Right(_) = futures::future::select(&mut append, asked).await else {
        panic!("it was taken though nobody answered");
    };
    assert!(matches!(leader.health(Duration::from_secs(1)).await, Health::Alive { leading: false, .. }));
    cluster.heal();
    append.await.unwrap();
    for (_, deliveries) in all.values_mut() {
        expect(deliveries, 3, &chain, 0).await;
    }
    for (group, _) in all.values() {
        group.clone().close().await;
    }
}

story!(a_follower_that_was_cut_off_catches_up);
async fn a_follower_that_was_cut_off_catches_up<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(4);
    let mut all = cluster.open_all(5, 1).await;
    let chain = chain(5, 60);
    let leader = all[&1].0.clone();
    for entry in &chain[..20] {
        leader.append(entry.clone()).await.unwrap();
    }
    expect(&mut all.get_mut(&4).unwrap().1, 5, &chain[..20], 0).await;
    cluster.cut(4);
    for entry in &chain[20..50] {
        leader.append(entry.clone()).await.unwrap();
    }
    for me in 1..=3 {
        expect(&mut all.get_mut(&me).unwrap().1, 5, &chain[..50], 0).await;
    }
    cluster.heal();
    for entry in &chain[50..] {
        leader.append(entry.clone()).await.unwrap();
    }
    expect(&mut all.get_mut(&4).unwrap().1, 5, &chain, 20).await;
    nothing_but_late_votes(&all[&1].0);
    for (group, _) in all.values() {
        group.clone().close().await;
    }
}

story!(a_follower_that_restarts_reads_its_log_again);
async fn a_follower_that_restarts_reads_its_log_again<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(4);
    let mut all = cluster.open_all(5, 1).await;
    let chain = chain(5, 12);
    let leader = all[&1].0.clone();
    for entry in &chain[..10] {
        leader.append(entry.clone()).await.unwrap();
    }
    let (group, mut deliveries) = all.remove(&3).unwrap();
    expect(&mut deliveries, 5, &chain[..10], 0).await;
    group.close().await;

    // Known to be committed, though nobody tells it now.
    cluster.cut(3);
    let (group, mut deliveries) = cluster.open(5, 3, 1).await;
    expect(&mut deliveries, 5, &chain[..10], 0).await;
    cluster.heal();
    for entry in &chain[10..] {
        leader.append(entry.clone()).await.unwrap();
    }
    expect(&mut deliveries, 5, &chain, 10).await;
    nothing_but_late_votes(&group);
    group.close().await;
    for (group, _) in all.values() {
        group.clone().close().await;
    }
}

story!(a_leader_that_restarts_serves_its_log_and_leads_no_more);
async fn a_leader_that_restarts_serves_its_log_and_leads_no_more<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(4);
    let mut all = cluster.open_all(5, 1).await;
    let chain = chain(5, 10);
    let (leader, mut deliveries) = all.remove(&1).unwrap();
    for entry in &chain {
        leader.append(entry.clone()).await.unwrap();
    }
    expect(&mut deliveries, 5, &chain, 0).await;
    leader.close().await;

    let config = cluster.config(5, 1, 1);
    let again = cluster.open_with(config.clone()).await;
    assert!(matches!(again, Err(OpenError::AlreadyLed { epoch: 5 })));
    let (leader, mut deliveries) = cluster.open_with(GroupConfig { lead: false, ..config }).await.unwrap();
    expect(&mut deliveries, 5, &chain, 0).await;
    assert_eq!(leader.wrappers(0, 100).unwrap(), chain);
    assert_eq!(leader.health(Duration::from_secs(1)).await, Health::ReadOnly);
    assert_eq!(leader.append(chain[0].clone()).await, Err(OrderError::ReadOnly { epoch: 5 }));
    let before = cluster.net.arrived.lock().unwrap().len();
    Rt::pass(Duration::from_secs(5)).await;
    let arrived = cluster.net.arrived.lock().unwrap().clone();
    assert!(arrived[before..].iter().all(|(_, from, _)| *from != 1), "it sent something");
    leader.close().await;
    for (group, _) in all.values() {
        group.clone().close().await;
    }
}

story!(a_new_epoch_stands_beside_the_old_one);
async fn a_new_epoch_stands_beside_the_old_one<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(4);
    let mut old = cluster.open_all(8, 1).await;
    let mut new = cluster.open_all(9, 2).await;
    let (first, second) = (chain(8, 20), chain(9, 20));
    for (a, b) in first.iter().zip(&second) {
        old[&1].0.append(a.clone()).await.unwrap();
        new[&2].0.append(b.clone()).await.unwrap();
    }
    for me in 1..=4 {
        expect(&mut old.get_mut(&me).unwrap().1, 8, &first, 0).await;
        expect(&mut new.get_mut(&me).unwrap().1, 9, &second, 0).await;
    }
    for (group, _) in old.values() {
        group.clone().close().await;
    }
    // Only the finished one's keys go.
    for store in cluster.stores.values() {
        erase(store, 8).unwrap();
        let left = concordat_store::scan_prefix(store, b"raft/", usize::MAX).unwrap();
        assert!(!left.is_empty() && left.iter().all(|(key, _)| key[5..13] == 9_u64.to_be_bytes()));
    }
    let more = chain(9, 21);
    new[&2].0.append(more[20].clone()).await.unwrap();
    for (_, deliveries) in new.values_mut() {
        expect(deliveries, 9, &more, 20).await;
    }
    for (group, _) in new.values() {
        group.clone().close().await;
    }
}

story!(a_log_longer_than_the_queue_opens_while_somebody_reads);
async fn a_log_longer_than_the_queue_opens_while_somebody_reads<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(4);
    let mut all = cluster.open_all(2, 1).await;
    let chain = chain(2, 3 * u64::try_from(limits::DELIVERY_QUEUE).unwrap());
    let leader = all[&1].0.clone();
    for entry in &chain {
        leader.append(entry.clone()).await.unwrap();
    }
    for (_, deliveries) in all.values_mut() {
        expect(deliveries, 2, &chain, 0).await;
    }
    all[&3].0.clone().close().await;
    let (out, mut deliveries) = deliveries();
    let read = async {
        expect(&mut deliveries, 2, &chain, 0).await;
        deliveries
    };
    let (opened, deliveries) =
        futures::future::join(cluster.open_into(cluster.config(2, 3, 1), out), read).await;
    all.insert(3, (opened.unwrap(), deliveries));
    for (group, _) in all.values() {
        group.clone().close().await;
    }
}

story!(a_closed_group_does_nothing_more);
async fn a_closed_group_does_nothing_more<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(4);
    let mut all = cluster.open_all(2, 1).await;
    let chain = chain(2, 40);
    let leader = all[&1].0.clone();
    // Deliveries that nobody reads and a full log: closing must not wait for a reader.
    for entry in &chain[..20] {
        leader.append(entry.clone()).await.unwrap();
    }
    for (group, _) in all.values() {
        group.clone().close().await;
    }
    let image = |store: &Store| concordat_store::scan_prefix(store, b"", usize::MAX).unwrap();
    let before: Vec<_> = cluster.stores.values().map(image).collect();
    let arrived = cluster.net.arrived.lock().unwrap().len();
    assert_eq!(leader.append(chain[20].clone()).await, Err(OrderError::Closed { epoch: 2 }));
    assert_eq!(leader.health(Duration::from_secs(1)).await, Health::Closed);
    let heartbeat = super::byzantine::heartbeat(2, 1, 1);
    assert!(matches!(all[&2].0.on_append(1, heartbeat).await, Err(IntakeError::Unavailable { .. })));
    Rt::pass(Duration::from_secs(5)).await;
    assert_eq!(before, cluster.stores.values().map(image).collect::<Vec<_>>(), "a closed group wrote");
    assert_eq!(arrived, cluster.net.arrived.lock().unwrap().len(), "a closed group sent");
    for (_, deliveries) in all.values_mut() {
        // What was committed before may still be read; nothing is added.
        while let Ok(item) = deliveries.try_recv() {
            assert!(item.position < 20);
        }
    }
}

story!(a_group_is_closed_before_its_tasks_ran);
async fn a_group_is_closed_before_its_tasks_ran<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(4);
    for _ in 0..20 {
        let (group, deliveries) = cluster.open(2, 1, 1).await;
        // Still there when the group ends, as in a custodian whose decider appends later than it learns of the end.
        let handle = group.clone();
        group.close().await;
        assert_eq!(handle.append(chain(2, 1)[0].clone()).await, Err(OrderError::Closed { epoch: 2 }));
        drop(deliveries);
        erase(&cluster.stores[&1], 2).unwrap();
    }
}

story!(a_failed_flush_kills_the_group);
async fn a_failed_flush_kills_the_group<Rt: Clock>() {
    let cluster = Cluster::<Rt>::new(4);
    let mut all = cluster.open_all(2, 1).await;
    let chain = chain(2, 2);
    all[&1].0.append(chain[0].clone()).await.unwrap();
    cluster.stores[&3].fail_next_flush();
    all[&1].0.append(chain[1].clone()).await.unwrap();
    // Its deliveries end with the core.
    while all.get_mut(&3).unwrap().1.next().await.is_some() {}
    let health = all[&3].0.health(Duration::from_secs(1)).await;
    assert!(matches!(health, Health::Dead { .. }), "{health:?}");
    for (group, _) in all.values() {
        group.clone().close().await;
    }
}

/// In simulated time a batch costs what its messages cost: there and back to a majority, and once more to tell that it
/// is committed. Nothing waits for a heartbeat.
#[test]
fn a_batch_is_delivered_everywhere_after_three_hops() {
    use openraft::Instant;
    let mut rt = SimRuntime::with_seed(1);
    rt.block_on(async {
        let cluster = Cluster::<SimRuntime>::new(4);
        let mut all = cluster.open_all(1, 1).await;
        let chain = chain(1, 20);
        let leader = all[&1].0.clone();
        for (position, entry) in chain.iter().enumerate() {
            let start = openraft_rt_sim::SimInstant::now();
            leader.append(entry.clone()).await.unwrap();
            for (_, deliveries) in all.values_mut() {
                expect(deliveries, 1, &chain[..=position], position).await;
            }
            let taken = openraft_rt_sim::SimInstant::now() - start;
            // The first ones also wait for the election and for the replies to earlier messages.
            if position > 5 {
                assert!(taken <= Duration::from_millis(5), "batch {position} took {taken:?}");
            }
            // Let replies come home, so that each batch is measured alone.
            SimRuntime::pass(Duration::from_millis(10)).await;
        }
        for (group, _) in all.values() {
            group.clone().close().await;
        }
    });
}
