//! What the archive holds is the log, whatever the store and other nodes do meanwhile.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seawall_backup::format::chunk::ChunkObject;
use seawall_backup::repository::faulty::Fault;
use seawall_backup::repository::memory::{Conditions, MemoryRepository};
use seawall_backup::repository::{ConditionalWrites, Operation, Repository};
use seawall_backup::{Archive, ArchiveAuthority, Archiver, ArchiverConfig, ArchiverState, Error, Gaps};
use seawall_wal::storage::{Fault as DiskFault, FaultyOperation, FaultyStorage, MemoryDisk};
use seawall_wal::{
    ClusterId, FenceOutcome, LogConsumer, LogMode, LogOwner, Lsn, Position, RecordKind, SegmentNumber, SegmentSize,
    TimelineAuthority, TimelineClaim, TimelineId, TimelineNonce, Timestamp,
};
use support::{FIRST, Node, SIZE, Store, caught_up, cluster, ended, hasty, history, until};

fn joined(node: &Node) -> Vec<u8> {
    node.bytes().into_iter().flat_map(|(_, bytes)| bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_holds_the_log_verbatim_and_its_position_is_the_logs_end() {
    let (store, node) = (Store::new().await, Node::new(1));
    let archiver = store.archiver(&node);
    for seed in 1..=5 {
        node.commit(seed, 40);
        caught_up(&archiver, &node).await;
    }
    let end = node.log.end();
    let status = archiver.progress().status();
    assert_eq!((status.archived, status.lag_bytes, status.lag), (end, 0, Duration::ZERO));
    assert_eq!(status.state, ArchiverState::Archiving);
    assert_eq!(status.archived_time, node.log.last_time());
    assert_eq!(status.bytes_log, end.lsn.offset());
    assert!(status.exposure_max > Duration::ZERO && status.exposure_p50 <= status.exposure_p99);
    assert_eq!(archiver.progress().restart_lsn(), Some(end.lsn));
    assert_eq!(archiver.progress().name(), "archive");
    assert_eq!(archiver.stop(Duration::from_secs(5)).await.unwrap(), end);
    assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&node), None));
    let frontier = store.archive.frontier(FIRST).await.unwrap().unwrap();
    assert_eq!((frontier.position, frontier.commit_time), (end, node.log.last_time()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_listed_and_an_idle_log_asks_for_nothing() {
    let (store, node) = (Store::new().await, Node::new(1));
    let archiver = store.archiver(&node);
    node.commit(1, 30);
    caught_up(&archiver, &node).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let calls = |of| store.faulty.calls(of);
    let before = (calls(Operation::Put), calls(Operation::Get), calls(Operation::Head));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((calls(Operation::Put), calls(Operation::Get), calls(Operation::Head)), before);
    assert_eq!(calls(Operation::List), 0);
    drop(archiver);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archiver_stopped_anywhere_goes_on_where_it_stopped() {
    let (store, node) = (Store::new().await, Node::new(1));
    // Cut down in the middle of whatever it does, with other sizes each time, so that chunks never end where expected.
    for round in 0..25 {
        let chunk_bytes = 3000 + 1777 * round;
        let archiver = store.archiver_with(&node, ArchiverConfig { chunk_bytes, ..hasty() });
        node.commit(round as u8, 12);
        tokio::time::sleep(Duration::from_millis((round as u64 * 7) % 40)).await;
        drop(archiver);
    }
    assert_eq!(store.archive_all(&node).await, node.log.end());
    assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&node), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archiver_lost_in_any_request_leaves_an_archive_that_another_one_completes() {
    for operation in [Operation::Put, Operation::Get] {
        for count in 0..16 {
            for fault in [Fault::Hang, Fault::DoneThenInternal] {
                let (store, node) = (Store::new().await, Node::new(1));
                node.commit(1, 40);
                store.faulty.fail_after(operation, count, fault.clone());
                let patient = ArchiverConfig { call_timeout: Duration::from_secs(60), ..hasty() };
                let archiver = store.archiver_with(&node, patient);
                // Lost while that request is under way, or long after if it never comes.
                tokio::time::sleep(Duration::from_millis(15)).await;
                drop(archiver);
                store.faulty.heal();
                node.commit(2, 10);
                assert_eq!(store.archive_all(&node).await, node.log.end(), "{operation} {count} {fault:?}");
                assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&node), None));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cursor_object_the_end_is_found_by_name() {
    let (store, node) = (Store::new().await, Node::new(1));
    node.commit(1, 100);
    store.archive_all(&node).await;
    store.memory.delete("frontier/00000001").await.unwrap();
    node.commit(2, 30);
    store.archive_all(&node).await;
    assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&node), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_store_is_waited_for_and_nothing_is_dropped() {
    let (store, node) = (Store::new().await, Node::new(1));
    let archiver = store.archiver(&node);
    node.commit(1, 20);
    caught_up(&archiver, &node).await;
    for fault in [Fault::Internal, Fault::SlowDown, Fault::Denied, Fault::Hang] {
        let before = archiver.progress().status().archived;
        store.faulty.fail_always(Operation::Put, fault.clone());
        node.commit(2, 30);
        until("the failure is told", || matches!(archiver.progress().status().state, ArchiverState::Failing { .. }))
            .await;
        let status = archiver.progress().status();
        assert_eq!(status.archived, before, "{fault:?}");
        assert!(status.lag_bytes > 0 && status.retries > 0 && status.lag > Duration::ZERO);
        store.faulty.heal();
        caught_up(&archiver, &node).await;
        assert_eq!(archiver.progress().status().state, ArchiverState::Archiving);
    }
    archiver.stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&node), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_at_start_is_waited_for_too() {
    let (store, node) = (Store::new().await, Node::new(1));
    store.faulty.fail_always(Operation::Get, Fault::Internal);
    node.commit(1, 5);
    let archiver = store.archiver(&node);
    until("the failure is told", || matches!(archiver.progress().status().state, ArchiverState::Failing { .. })).await;
    store.faulty.heal();
    caught_up(&archiver, &node).await;
}

fn segment(number: u64) -> PathBuf {
    Path::new("/wal").join(format!("{FIRST:08}-{number:016x}.wal"))
}

/// A node with a log of several segments on this disk, and a whole copy of it.
fn with_a_copy(disk: Arc<dyn seawall_wal::storage::Storage>) -> (Node, Node) {
    let node = Node::open(1, disk, &history(), Position::ZERO, LogMode::Append);
    node.commit(1, 300);
    assert!(node.log.end().lsn > SIZE.start_of(SegmentNumber(4)));
    let copy = node.copy(2);
    (node, copy)
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_the_log_here_is_waited_out_and_once_repaired_everything_is_archived() {
    let (store, disk) = (Store::new().await, MemoryDisk::new());
    let (node, copy) = with_a_copy(Arc::new(disk.clone()));
    disk.flip_bit(&segment(2), 40_000, 3);
    let archiver = store.archiver(&node);
    let is_told = || match archiver.progress().status().state {
        ArchiverState::Failing { error, .. } => error.contains("does not match its checksum"),
        _ => false,
    };
    until("the damage is told", is_told).await;
    let whole = SIZE.start_of(SegmentNumber(2)).advance(40_000);
    until("all before it is archived", || archiver.progress().status().archived.lsn > SIZE.start_of(SegmentNumber(2)))
        .await;
    until("the damage is told again", is_told).await;
    let status = archiver.progress().status();
    assert!(status.archived.lsn <= whole && status.lag_bytes > 0 && status.lag > Duration::ZERO, "{status:?}");
    assert_eq!(status.retries, 0, "the store did all it was asked");
    let [damage] = node.log.damages()[..] else { panic!("{:?}", node.log.damages()) };
    assert_eq!(damage.segment, SegmentNumber(2));
    assert!(!archiver.has_ended());
    node.log.repair(damage, &*copy.log).unwrap();
    caught_up(&archiver, &node).await;
    assert_eq!(archiver.progress().status().state, ArchiverState::Archiving);
    assert_eq!(archiver.stop(Duration::from_secs(5)).await.unwrap(), node.log.end());
    assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&copy), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_before_what_is_archived_is_not_taken_for_another_history() {
    let (store, disk) = (Store::new().await, MemoryDisk::new());
    let node = Node::open(1, Arc::new(disk.clone()), &history(), Position::ZERO, LogMode::Append);
    node.commit(1, 30);
    store.archive_all(&node).await;
    node.commit(2, 100);
    let copy = node.copy(2);
    disk.flip_bit(&segment(0), 5_000, 3);
    let archiver = store.archiver(&node);
    until("the damage is noted", || !node.log.damages().is_empty()).await;
    until("it is told", || matches!(archiver.progress().status().state, ArchiverState::Failing { .. })).await;
    node.log.repair(node.log.damages()[0], &*copy.log).unwrap();
    caught_up(&archiver, &node).await;
    archiver.stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&copy), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_header_where_the_log_begins_keeps_nothing_behind_what_is_archived_from_the_archive() {
    let (store, disk) = (Store::new().await, MemoryDisk::new());
    let (node, _) = with_a_copy(Arc::new(disk.clone()));
    store.archive_all(&node).await;
    let start = node.log.position_at(SIZE.start_of(SegmentNumber(3))).unwrap().unwrap();
    let disk = disk.duplicate();
    seawall_wal::storage::Storage::remove(&disk, &segment(0)).unwrap();
    disk.flip_bit(&segment(1), 60, 3);
    let node = Node::open(1, Arc::new(disk), &history(), start, LogMode::Append);
    assert_eq!(node.log.damages()[0].segment, SegmentNumber(1));
    node.commit(2, 30);
    let archiver = store.archiver(&node);
    caught_up(&archiver, &node).await;
    assert_eq!(archiver.stop(Duration::from_secs(5)).await.unwrap(), node.log.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_serve_the_log_is_waited_for_too() {
    const EIO: i32 = 5;
    const EMFILE: i32 = 24;
    for (operation, errno) in [(FaultyOperation::Read, EIO), (FaultyOperation::Open, EMFILE)] {
        for times in [1, 1_000] {
            let store = Store::new().await;
            let disk = FaultyStorage::new(Arc::new(MemoryDisk::new()));
            let (node, copy) = with_a_copy(Arc::new(disk.clone()));
            (0..times).for_each(|_| disk.fail_under(&segment(2), operation, 0, DiskFault::Error(errno)));
            let archiver = store.archiver(&node);
            until("the disk was asked", || disk.hits() > 0).await;
            if times > 1 {
                let failing = || matches!(archiver.progress().status().state, ArchiverState::Failing { .. });
                until("it is told", failing).await;
                assert!(archiver.stop(Duration::from_millis(100)).await.is_err(), "not everything is archived");
                disk.heal();
                assert_eq!(store.archive_all(&node).await, node.log.end());
            } else {
                caught_up(&archiver, &node).await;
                archiver.stop(Duration::from_secs(5)).await.unwrap();
            }
            assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&copy), None), "{operation:?} {times}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_recognised_as_our_own_write() {
    let (store, node) = (Store::new().await, Node::new(1));
    let archiver = store.archiver(&node);
    node.commit(1, 5);
    caught_up(&archiver, &node).await;
    for fault in [Fault::DoneThenInternal, Fault::DoneThenConditionFailed, Fault::Conflict] {
        store.faulty.fail_next(Operation::Put, fault.clone());
        node.commit(2, 20);
        // A conflict that leaves nothing behind is not an answer one can conclude from.
        if fault == Fault::Conflict {
            until("it is tried again", || archiver.progress().status().lag_bytes == 0).await;
        } else {
            caught_up(&archiver, &node).await;
        }
    }
    archiver.stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&node), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_archivers_with_different_logs_one_is_fenced_and_told_where() {
    let (store, ours) = (Store::new().await, Node::new(1));
    ours.commit(1, 30);
    let theirs = Node::open(2, ours.copy(2).disk, &history(), Position::ZERO, LogMode::Append);
    let common = ours.log.end();
    assert_eq!(theirs.log.end(), common);
    store.archive_all(&ours).await;
    // Both believe to be the primary and write on.
    let (first, second) = (store.archiver(&ours), store.archiver(&theirs));
    caught_up(&first, &ours).await;
    caught_up(&second, &theirs).await;
    ours.commit(3, 20);
    caught_up(&first, &ours).await;
    theirs.commit(4, 20);
    let error = ended(second).await;
    let Error::Fenced { timeline, at, by } = &error else { panic!("{error:?}") };
    assert!(*timeline == FIRST && *at >= common.lsn && *at < common.lsn.advance(100), "{at}");
    assert!(by.contains(&ours.id.to_string()), "{by}");
    assert!(error.to_string().contains("not part of the cluster's history"), "{error}");
    first.stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&ours), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_archivers_of_the_same_log_do_not_hurt_each_other() {
    let (store, node) = (Store::new().await, Node::new(1));
    let first = store.archiver(&node);
    let second = store.archiver_with(&node, ArchiverConfig { chunk_bytes: 5000, ..hasty() });
    for seed in 0..10 {
        node.commit(seed, 15);
    }
    caught_up(&first, &node).await;
    caught_up(&second, &node).await;
    first.stop(Duration::from_secs(5)).await.unwrap();
    second.stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&node), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_position_that_will_never_be_archived_fails_with_the_reason() {
    let (store, ours) = (Store::new().await, Node::new(1));
    ours.commit(1, 10);
    store.archive_all(&ours).await;
    let other = Node::new(2);
    other.commit(2, 10);
    let archiver = store.archiver(&other);
    let progress = archiver.progress().clone();
    let error = progress.watch().reached(Lsn::MAX).await.unwrap_err();
    assert!(error.to_string().contains("fenced"), "{error}");
    assert!(matches!(ended(archiver).await, Error::Fenced { .. }));
}

fn promoted(node: &Node, nonce: u8) -> (TimelineClaim, seawall_wal::TimelineHistory) {
    let current = node.log.history().current().id;
    let history = node
        .log
        .history()
        .forked(current.next(), TimelineNonce::from_bytes([nonce; 16]), node.log.end(), SIZE)
        .unwrap();
    let claim = TimelineClaim {
        entry: *history.current(),
        parent: current,
        claimed: Timestamp(5),
        claimant: format!("node {nonce}"),
    };
    (claim, history)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_fetches_what_it_lacks_then_fences_then_claims_and_the_old_primary_is_stopped() {
    let (store, old) = (Store::new().await, Node::new(1));
    old.commit(1, 20);
    let standby = old.copy(2);
    old.commit(2, 30);
    let archiver = store.archiver(&old);
    caught_up(&archiver, &old).await;
    let mut fetched = 0;
    let fenced_at = loop {
        match store.fence(&standby).await.unwrap() {
            FenceOutcome::Fenced(at) => break at,
            FenceOutcome::MoreLog(log) => {
                standby.log.receive(&log, |_| Ok::<_, seawall_wal::Error>(())).unwrap();
                standby.log.flush_received().unwrap();
                fetched += 1;
            }
        }
    };
    assert!(fetched > 0);
    assert_eq!(fenced_at, old.log.end().lsn);
    let again = store.fence(&standby).await;
    assert_eq!(again.unwrap(), FenceOutcome::Fenced(fenced_at), "a fence can be asked for again");
    let (claim, history) = promoted(&standby, 7);
    store.archive.claim_timeline(&claim, &history).await.unwrap();
    store.archive.claim_timeline(&claim, &history).await.unwrap();
    let (rival, rivals) = promoted(&standby, 8);
    let taken = store.archive.claim_timeline(&rival, &rivals).await.unwrap_err();
    assert!(matches!(&taken, Error::TimelineTaken { claimant, .. } if claimant == "node 7"), "{taken:?}");
    standby.log.begin_timeline(&history).unwrap();
    assert_eq!(store.archive.newest_history().await.unwrap(), Some(history.clone()));

    // The old primary writes on, and learns of it.
    old.commit(3, 5);
    let error = ended(archiver).await;
    assert!(matches!(&error, Error::Fenced { at, by, .. } if *at == fenced_at && by.contains("node 2")), "{error:?}");

    // The new one archives under its own timeline, from its first segment on.
    standby.commit(4, 80);
    assert_eq!(store.archive_all(&standby).await, standby.log.end());
    let begin = history.current().begin;
    let (archived, _) = store.archived(TimelineId(2), begin).await;
    let pieces = standby.bytes().into_iter().filter(|(start, _)| *start >= begin);
    assert_eq!(archived, pieces.flat_map(|(_, bytes)| bytes).collect::<Vec<_>>());
    let (parent, by) = store.archived(FIRST, Lsn::ZERO).await;
    assert_eq!((parent.len() as u64, by.as_deref()), (fenced_at.offset(), Some("node 2")));
    // And it restarts there.
    standby.commit(5, 10);
    assert_eq!(store.archive_all(&standby).await, standby.log.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_may_block_fences_and_claims_through_the_logs_own_trait() {
    let (store, old) = (Store::new().await, Node::new(1));
    old.commit(1, 20);
    let standby = old.copy(2);
    let runtime = tokio::runtime::Handle::current();
    let log: std::sync::Arc<dyn LogOwner> = standby.log.clone();
    let authority = ArchiveAuthority::new(store.archive.clone(), runtime, standby.id, "standby").with_log(log);
    let (claim, next) = promoted(&standby, 7);
    let (at, nonce) = (standby.log.end(), history().current().nonce);
    let asked = next.clone();
    let (before, fenced, after, rival) = tokio::task::spawn_blocking(move || {
        let before = authority.newest().unwrap();
        let fenced = authority.fence(FIRST, nonce, at).unwrap();
        authority.claim(&claim, &asked).unwrap();
        let mut rival = asked.entries().to_vec();
        rival[1].nonce = TimelineNonce::from_bytes([8; 16]);
        let rival = seawall_wal::TimelineHistory::from_entries(rival, SIZE).unwrap();
        let rivals = TimelineClaim { entry: *rival.current(), ..claim };
        (before, fenced, authority.newest().unwrap(), authority.claim(&rivals, &rival).unwrap_err())
    })
    .await
    .unwrap();
    assert_eq!((before, after), (None, Some(next)));
    assert_eq!(fenced, FenceOutcome::Fenced(at.lsn));
    assert!(matches!(rival, seawall_wal::Error::TimelineTaken { timeline: TimelineId(2) }), "{rival:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_ahead_of_the_archive_archives_the_rest_before_it_fences() {
    let (store, old) = (Store::new().await, Node::new(1));
    old.commit(1, 20);
    store.archive_all(&old).await;
    old.commit(2, 20);
    let standby = old.copy(2);
    let request = store.fence_request(&standby);
    let behind = store.archive.fence_timeline(&request, None).await.unwrap_err();
    assert!(matches!(behind, Error::ArchiveBehind { archived: Some(_), .. }), "{behind:?}");
    assert_eq!(store.fence(&standby).await.unwrap(), FenceOutcome::Fenced(standby.log.end().lsn));
    let (archived, fenced) = store.archived(FIRST, Lsn::ZERO).await;
    assert_eq!((archived, fenced.as_deref()), (joined(&standby), Some("node 2")));
    // A late standby that has less fetches the rest from the archive, whole or not.
    let late = Node::open(3, std::sync::Arc::new(MemoryDisk::new()), &history(), Position::ZERO, LogMode::Receive);
    let outcome = store.fence(&late).await.unwrap();
    assert!(matches!(outcome, FenceOutcome::MoreLog(log) if log.start == Lsn::ZERO));
    // One that has more than was fenced is told that its rest is nobody's.
    old.commit(3, 3);
    let error = store.fence(&old.copy(4)).await.unwrap_err();
    assert!(matches!(error, Error::Fenced { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_old_primary_is_fenced_even_with_nothing_new_to_archive() {
    let (store, old) = (Store::new().await, Node::new(1));
    old.commit(1, 20);
    store.archive_all(&old).await;
    assert_eq!(store.fence(&old.copy(2)).await.unwrap(), FenceOutcome::Fenced(old.log.end().lsn));
    let error = ended(store.archiver(&old)).await;
    assert!(error.to_string().contains("fenced by node 2"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfenced_promotion_keeps_the_common_part_of_what_the_old_primary_archived() {
    let (store, old) = (Store::new().await, Node::new(1));
    old.commit(1, 20);
    let standby = old.copy(2);
    // The old primary goes on and archives a chunk that reaches beyond the fork.
    old.commit(2, 30);
    store.archive_all(&old).await;
    let (_, history) = promoted(&standby, 7);
    standby.log.begin_timeline(&history).unwrap();
    standby.commit(3, 40);
    assert_eq!(store.archive_all(&standby).await, standby.log.end());
    let (archived, _) = store.archived(TimelineId(2), history.current().begin).await;
    assert!(!archived.is_empty());
    assert_eq!(store.archive_all(&standby).await, standby.log.end(), "and again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditional_writes_can_hold_an_archive_but_refuses_to_fence() {
    for (conditions, found) in [
        (Conditions::Ignored, ConditionalWrites::Ignored),
        (Conditions::CheckedApart, ConditionalWrites::NotUnderConcurrency { winners: 8 }),
    ] {
        let store = Store::over(std::sync::Arc::new(MemoryRepository::with_conditions(conditions))).await;
        let node = Node::new(1);
        node.commit(1, 20);
        store.archive_all(&node).await;
        assert_eq!(store.archived(FIRST, Lsn::ZERO).await, (joined(&node), None));
        let error = store.fence(&node).await.unwrap_err();
        assert!(matches!(&error, Error::CannotFence { found: told, .. } if *told == found), "{error:?}");
        assert!(error.to_string().contains("promote without a fence"), "{error}");
        let (claim, history) = promoted(&node, 7);
        let error = store.archive.claim_timeline(&claim, &history).await.unwrap_err();
        assert!(matches!(error, Error::CannotFence { .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_another_cluster_or_segment_size_is_refused() {
    let store = Store::new().await;
    let other = ClusterId::from_bytes([9; 16]);
    let error = Archive::create_or_open(store.repository(), other, SIZE, Timestamp(1)).await.unwrap_err();
    assert!(matches!(error, Error::ForeignRepository { .. }), "{error:?}");
    assert!(error.to_string().contains("a prefix of its own"), "{error}");
    let size = seawall_wal::SegmentSize::DEFAULT;
    let error = Archive::create_or_open(store.repository(), cluster(), size, Timestamp(1)).await.unwrap_err();
    assert!(matches!(error, Error::SegmentSize { .. }), "{error:?}");
    let empty: std::sync::Arc<dyn Repository> = std::sync::Arc::new(MemoryRepository::new());
    assert!(matches!(Archive::open(empty).await.unwrap_err(), Error::NoArchive { .. }));
    store.memory.damage("cluster", |bytes| bytes[130] ^= 1);
    let error = Archive::open(store.repository()).await.unwrap_err();
    assert!(error.to_string().contains("`cluster`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_was_recycled_before_it_was_archived_is_a_gap_and_only_left_when_allowed() {
    let (store, node) = (Store::new().await, Node::new(1));
    node.commit(1, 20);
    store.archive_all(&node).await;
    node.commit(2, 300);
    let third = SIZE.start_of(SegmentNumber(3));
    assert!(node.log.recycle_before(third) > 0);
    let error = ended(store.archiver(&node)).await;
    assert!(matches!(error, Error::WouldLeaveGap { oldest, .. } if oldest == third), "{error:?}");
    let archiver = store.archiver_with(&node, ArchiverConfig { gaps: Gaps::Allow, ..hasty() });
    caught_up(&archiver, &node).await;
    archiver.stop(Duration::from_secs(5)).await.unwrap();
    assert_eq!(store.archived(FIRST, third).await, (joined(&node), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_record_there_can_be_is_one_chunk() {
    let size = SegmentSize::DEFAULT;
    let disk = std::sync::Arc::new(MemoryDisk::new());
    let node = Node::sized(1, size, disk, &history(), Position::ZERO, LogMode::Append);
    let repository = std::sync::Arc::new(MemoryRepository::new());
    let archive = Archive::create_or_open(repository, cluster(), size, Timestamp(1)).await.unwrap();
    let max = seawall_wal::format::payload_len_max(size);
    let payload: Vec<u8> = (0..max).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for _ in 0..2 {
        node.log.append(RecordKind::Commit, &payload).unwrap().wait().unwrap();
    }
    let archiver = Archiver::start(archive.clone(), node.log.clone(), node.id, "test", ArchiverConfig::default());
    assert_eq!(archiver.stop(Duration::from_secs(60)).await.unwrap(), node.log.end());
    let ChunkObject::Chunk(chunk) = archive.chunk(FIRST, Lsn::ZERO).await.unwrap().unwrap() else { panic!("a fence") };
    assert_eq!((chunk.about.records, chunk.bytes.len()), (1, 512 + 48 + max));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_uploads_what_is_flushed_or_says_what_remained() {
    let (store, node) = (Store::new().await, Node::new(1));
    let patient = ArchiverConfig { interval: Duration::from_secs(3600), chunk_bytes: 1 << 20, ..hasty() };
    let archiver = store.archiver_with(&node, patient.clone());
    until("it started", || archiver.progress().status().state == ArchiverState::Archiving).await;
    node.commit(1, 10);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(archiver.progress().status().archived, Position::ZERO);
    assert_eq!(archiver.stop(Duration::from_secs(5)).await.unwrap(), node.log.end());
    let before = node.log.end();
    let archiver = store.archiver_with(&node, patient);
    until("it started", || archiver.progress().status().archived == before).await;
    node.commit(1, 10);
    store.faulty.fail_always(Operation::Put, Fault::Hang);
    let error = archiver.stop(Duration::from_millis(200)).await.unwrap_err();
    let Error::Unfinished { archived, end } = error else { panic!("{error:?}") };
    assert_eq!((archived, end), (before.lsn, node.log.end().lsn));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_waits_for_a_store_that_failed_when_archiving_began() {
    let (store, node) = (Store::new().await, Node::new(1));
    node.commit(1, 10);
    (0..5).for_each(|_| store.faulty.fail_next(Operation::Get, Fault::Internal));
    let archiver = store.archiver(&node);
    assert_eq!(archiver.stop(Duration::from_secs(20)).await.unwrap(), node.log.end());
}
