//! A restore yields exactly the state at the target, or an error that names what is missing.

mod support;

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use seawall_backup::format::BackupId;
use seawall_backup::repository::faulty::Fault;
use seawall_backup::repository::{Operation, Repository, RepositoryConfig, S3Timeouts};
use seawall_backup::s3_server::{S3Server, ServerFault};
use seawall_backup::{
    Archive, ArchiveSource, ArchiveTables, BackupOptions, Error, RestoreOptions, RestoreTarget, VerifyDepth,
    VerifyOptions, VerifyReport,
};
use seawall_engine::{Db, Role, TableSource};
use seawall_wal::storage::{MemoryDisk, Storage};
use seawall_wal::{Lsn, SegmentSource, TimelineClaim, TimelineId, TimelineNonce, Timestamp};
use support::database::{Database, Moment, moment_of, moment_of_open, moment_on, open};
use support::{FIRST, SIZE, Store, cluster};

/// Rounds of writing, each noted; a backup after some of them.
async fn lived(archive: &Archive, seed: u64, rounds: usize) -> Database {
    let mut life = Database::new(seed);
    life.write(20);
    life.backup(archive).await;
    for round in 0..rounds {
        let commits = 10 + life.random(60) as usize;
        life.write(commits);
        life.note();
        match round % 4 {
            1 => life.db.flush().unwrap(),
            2 => drop(life.backup(archive).await),
            3 => life.db.compact().unwrap(),
            _ => {}
        }
    }
    life.archive_all(archive).await;
    life
}

/// Restores into memory, and says what is there.
async fn restored(archive: &Archive, target: &RestoreTarget) -> Result<Moment, Error> {
    let plan = archive.plan_restore(target, None).await?;
    let storage: Arc<dyn Storage> = Arc::new(MemoryDisk::new());
    let options = RestoreOptions { storage: Some(storage.clone()), ..RestoreOptions::default() };
    archive.restore(&plan, Path::new("/copy"), &options).await?;
    let moment = moment_on(storage, Path::new("/copy"));
    assert_eq!(plan.target, moment.lsn);
    Ok(moment)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_comes_back_by_position_and_by_time() {
    let store = Store::new().await;
    let life = lived(&store.archive, 7, 12).await;
    for (n, moment) in life.moments.iter().enumerate() {
        let by_lsn = restored(&store.archive, &RestoreTarget::Lsn(moment.lsn)).await.unwrap();
        assert_eq!(by_lsn, *moment);
        let by_time = restored(&store.archive, &RestoreTarget::Time(moment.time)).await.unwrap();
        assert_eq!(by_time, *moment);
        // Inside a record, and an instant before the next commit, the same records are whole.
        let inside = RestoreTarget::Lsn(moment.lsn.advance(9));
        if n + 1 < life.moments.len() {
            assert_eq!(restored(&store.archive, &inside).await.unwrap(), *moment);
        }
    }
    let latest = restored(&store.archive, &RestoreTarget::Latest).await.unwrap();
    assert_eq!(latest, moment_of_open(&life.db));
    for (id, manifest) in store.archive.backups().await.unwrap() {
        let stop = manifest.unwrap().stop;
        let moment = restored(&store.archive, &RestoreTarget::Backup(id)).await.unwrap();
        assert_eq!(moment.lsn, stop);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_through_s3_over_http_and_tells_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(dir.path(), "ak", "sk", ([127, 0, 0, 1], 0).into()).await.unwrap();
    server.create_bucket("backups").unwrap();
    let config = RepositoryConfig::parse("s3://backups/prod").unwrap().with_endpoint(server.endpoint());
    there_and_back(config.with_credentials("ak", "sk").open().await.unwrap()).await;
    let counters = server.counters();
    assert!(counters.put > 0 && counters.get > 0 && counters.bytes_out > 0, "{counters:?}");
}

/// As the conformance suite: `SEAWALL_TEST_S3=http://host:port/bucket`.
#[tokio::test(flavor = "multi_thread")]
async fn it_works_through_the_s3_store_of_the_environment() {
    let Ok(place) = std::env::var("SEAWALL_TEST_S3") else {
        eprintln!("SEAWALL_TEST_S3 names no store: nothing to test");
        return;
    };
    let (endpoint, bucket) = place.rsplit_once('/').expect("SEAWALL_TEST_S3 is endpoint/bucket");
    let run = BackupId::new(seawall_wal::Clock::now(&seawall_wal::SystemClock));
    let config = RepositoryConfig::parse(&format!("s3://{bucket}/seawall-restore/{run}")).unwrap();
    there_and_back(config.with_endpoint(endpoint).open().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_works_through_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let config = RepositoryConfig::parse(&format!("file://{}", dir.path().join("archive").display())).unwrap();
    there_and_back(config.open().await.unwrap()).await;
}

async fn there_and_back(repository: Arc<dyn Repository>) {
    let archive = Archive::create_or_open(repository, cluster(), SIZE, Timestamp(1)).await.unwrap();
    let life = lived(&archive, 3, 6).await;
    let plan = archive.plan_restore(&RestoreTarget::Latest, None).await.unwrap();
    let seen: Arc<parking_lot::Mutex<Vec<(u64, u64)>>> = Arc::default();
    let note = seen.clone();
    let options = RestoreOptions {
        digest: true,
        progress: Some(Arc::new(move |progress| note.lock().push((progress.bytes_done, progress.bytes)))),
        ..RestoreOptions::default()
    };
    let report = archive.restore(&plan, &life.path("copy"), &options).await.unwrap();
    let expected = moment_of_open(&life.db);
    assert_eq!(moment_of(&life.path("copy")), expected);
    assert_eq!(report.digest, Some(blake3::Hash::from_bytes(expected.digest).to_hex().to_string()));
    let seen = std::mem::take(&mut *seen.lock());
    let tables: u64 = plan.backup.tables.iter().map(|table| table.size).sum();
    assert_eq!(seen.iter().map(|(done, _)| *done).max(), Some(tables + plan.log_bytes));
    assert!(seen.iter().all(|(done, bytes)| done <= bytes));
    let report = archive.verify(&VerifyOptions::new(VerifyDepth::Content)).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_backup_sends_only_what_is_new() {
    let store = Store::new().await;
    let mut life = Database::new(5);
    life.write(300);
    // So that nothing is merged between the backups.
    life.db.compact().unwrap();
    let first = life.backup(&store.archive).await;
    assert_eq!((first.files_present, first.files_sent), (0, first.manifest.tables.len() + 1));
    assert!(life.db.stats().blobs.files > 0, "blob files are part of it");
    let again = life.backup(&store.archive).await;
    assert_eq!(again.files_sent, 0, "nothing changed");
    life.write(20);
    let third = life.backup(&store.archive).await;
    assert!(third.files_sent >= 1 && third.files_sent <= 7, "{third:?}");
    let ids: Vec<BackupId> = store.archive.backup_ids().await.unwrap();
    assert_eq!(ids.len(), 3);
    assert!(ids.is_sorted() && ids.contains(&third.manifest.id));
    assert!(third.manifest.digest.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_log_does_not_get_into_the_archive_is_not_listed() {
    let store = Store::new().await;
    let mut life = Database::new(5);
    life.write(10);
    let options = BackupOptions { archive_wait: Duration::from_millis(200), ..BackupOptions::default() };
    let error = store.archive.create_backup(&life.db, &options).await.unwrap_err();
    assert!(matches!(error, Error::ArchiveBehind { archived: None, .. }), "{error:?}");
    assert_eq!(store.archive.backup_ids().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_restored_copy_is_read_only_and_the_repository_was_only_read() {
    let store = Store::new().await;
    let life = lived(&store.archive, 9, 3).await;
    let before = (store.faulty.calls(Operation::Put), store.faulty.calls(Operation::Delete));
    let plan = store.archive.plan_restore(&RestoreTarget::Latest, None).await.unwrap();
    store.archive.restore(&plan, &life.path("copy"), &RestoreOptions::default()).await.unwrap();
    let copy = Db::open(life.path("copy")).unwrap();
    assert!(
        matches!(copy.role(), Role::ReadOnlyRestored { at, from, .. } if at == plan.target && from.contains("memory"))
    );
    let error = copy.existing_keyspace("users").unwrap().insert("a", "b").unwrap_err();
    assert!(matches!(error, seawall_engine::Error::ReadOnly { .. }), "{error:?}");
    drop(copy);
    assert_eq!((store.faulty.calls(Operation::Put), store.faulty.calls(Operation::Delete)), before);
    // And into the same directory, or any other with something in it, nothing is restored.
    let error = store.archive.restore(&plan, &life.path("copy"), &RestoreOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotEmpty { .. }) && error.to_string().contains("empty directory"), "{error:?}");
    std::fs::create_dir(life.path("other")).unwrap();
    std::fs::write(life.path("other").join("precious"), "data").unwrap();
    let error = store.archive.restore(&plan, &life.path("other"), &RestoreOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotEmpty { .. }), "{error:?}");
    assert_eq!(std::fs::read_dir(life.path("other")).unwrap().count(), 1, "what was there is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_outside_the_archive_and_unknown_backups_are_refused_with_what_there_is() {
    let store = Store::new().await;
    let mut life = Database::new(11);
    let empty = store.archive.plan_restore(&RestoreTarget::Latest, None).await.unwrap_err();
    assert!(matches!(empty, Error::NoBackup { .. }), "{empty:?}");
    life.write(50);
    let first = life.backup(&store.archive).await.manifest;
    life.write(50);
    life.archive_all(&store.archive).await;
    let end = life.note();
    let plan = async |target: RestoreTarget| store.archive.plan_restore(&target, None).await;
    for target in [
        RestoreTarget::Lsn(Lsn::new(600)),
        RestoreTarget::Time(Timestamp(first.redo_time.0 - 1)),
        RestoreTarget::Lsn(end.lsn.advance(1)),
        RestoreTarget::Time(Timestamp(end.time.0 + 1)),
    ] {
        let error = plan(target.clone()).await.unwrap_err();
        let Error::OutsideArchive { target: told, first: from, last } = &error else { panic!("{target}: {error:?}") };
        assert_eq!(*told, target.to_string());
        assert!(from.contains(&first.stop.to_string()) && last.contains(&end.lsn.to_string()), "{error}");
    }
    assert_eq!(plan(RestoreTarget::Lsn(end.lsn)).await.unwrap().target, end.lsn);
    assert_eq!(plan(RestoreTarget::Time(end.time)).await.unwrap().target, end.lsn);
    let unknown = RestoreTarget::Backup("20200101T000000Z-00000000".parse().unwrap());
    let error = plan(unknown).await.unwrap_err();
    assert!(matches!(&error, Error::UnknownBackup { newest: Some(newest), .. } if *newest == first.id), "{error:?}");
    // Time that passes without a commit can be asked for once the log says so.
    let later = life.db.append_time().unwrap();
    life.archive_all(&store.archive).await;
    assert_eq!(plan(RestoreTarget::Time(Timestamp(end.time.0 + 1))).await.unwrap().target, end.lsn);
    assert_eq!(plan(RestoreTarget::Latest).await.unwrap().target, later);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_chunk_is_a_gap_and_everything_before_it_can_still_be_restored() {
    let store = Store::new().await;
    let mut life = lived(&store.archive, 13, 2).await;
    let plan = store.archive.plan_restore(&RestoreTarget::Latest, None).await.unwrap();
    let after = plan.chunks.iter().filter(|chunk| chunk.start >= plan.backup.stop).collect::<Vec<_>>();
    assert!(after.len() >= 4, "{} chunks", after.len());
    let missing = *after[after.len() / 2];
    let key = format!("wal/00000001/{:016x}", missing.start.offset());
    store.memory.delete(&key).await.unwrap();
    for target in [RestoreTarget::Latest, RestoreTarget::Lsn(missing.end), RestoreTarget::Time(missing.last_time)] {
        let error = store.archive.plan_restore(&target, None).await.unwrap_err();
        let named = matches!(&error, Error::Gap { timeline, from } if *timeline == FIRST && *from == missing.start);
        assert!(named, "{target}: {error:?}");
    }
    let before = restored(&store.archive, &RestoreTarget::Lsn(missing.start)).await.unwrap();
    assert_eq!(before.lsn, missing.start);
    // Somebody who planned before it went missing is told the same.
    let error = store.archive.restore(&plan, &life.path("late"), &RestoreOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Gap { from, .. } if from == missing.start), "{error:?}");
    // What it fetched is gone, and the next try may use the same directory.
    for folder in ["late/wal", "late/tables"] {
        assert_eq!(std::fs::read_dir(life.path(folder)).unwrap().count(), 0, "{folder}");
    }
    let plan = store.archive.plan_restore(&RestoreTarget::Lsn(missing.start), None).await.unwrap();
    store.archive.restore(&plan, &life.path("late"), &RestoreOptions::default()).await.unwrap();
    let error = store.archive.restore(&plan, &life.path("late"), &RestoreOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::NotEmpty { .. }), "{error:?}");
    let report = store.archive.verify(&VerifyOptions::new(VerifyDepth::Structure)).await.unwrap();
    assert!(!report.is_sound() && !report.newest_is_restorable());
    let newest = report.backups.last().unwrap();
    assert_eq!(newest.restorable_to.map(|(lsn, _)| lsn), Some(missing.start));
    // The next base backup whose log begins after the gap puts it behind.
    while SIZE.segment_of(life.db.applied().0.lsn) <= SIZE.segment_of(missing.end) {
        life.write(10);
    }
    life.backup(&store.archive).await;
    assert_eq!(restored(&store.archive, &RestoreTarget::Latest).await.unwrap(), moment_of_open(&life.db));
    let report = store.archive.verify(&VerifyOptions::new(VerifyDepth::Content)).await.unwrap();
    assert!(report.newest_is_restorable() && !report.is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_on_its_way_when_the_archiver_was_lost_is_no_gap() {
    let store = Store::new().await;
    let mut life = Database::new(17);
    life.write(30);
    life.backup(&store.archive).await;
    // Of four uploads at once the first hangs, and then the node is lost for ever.
    life.archive_all(&store.archive).await;
    let chunks = || store.memory.keys().iter().filter(|key| key.starts_with("wal/")).count();
    let archived = chunks();
    let before = life.db.log().flushed().value();
    let first = format!("wal/00000001/{:016x}", before.offset());
    store.faulty.fail_next_under(Operation::Put, &first, Fault::Hang);
    let config = seawall_backup::ArchiverConfig { call_timeout: Duration::from_secs(60), ..support::hasty() };
    let archiver = life.archiver_with(&store.archive, config);
    life.write(60);
    support::until("later uploads are stored", || chunks() >= archived + 2).await;
    drop(archiver);
    let plan = store.archive.plan_restore(&RestoreTarget::Latest, None).await.unwrap();
    assert!(plan.target <= before, "{} is beyond the hole at {before}", plan.target);
    let report = store.archive.verify(&VerifyOptions::new(VerifyDepth::Content)).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    // If the node comes back after all, it fills the hole.
    life.archive_all(&store.archive).await;
    let latest = restored(&store.archive, &RestoreTarget::Latest).await.unwrap();
    assert_eq!(latest, moment_of_open(&life.db));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_to_any_object_is_named_or_harmless_and_never_restored() {
    let store = Store::new().await;
    let life = lived(&store.archive, 19, 3).await;
    let expected = moment_of_open(&life.db);
    let intact = store.archive.verify(&VerifyOptions::new(VerifyDepth::Content)).await.unwrap();
    assert!(intact.is_sound(), "{intact:?}");
    let (mut named, mut harmless) = (std::collections::BTreeSet::new(), 0);
    let keys = store.memory.keys();
    for (n, key) in keys.iter().enumerate() {
        for damage in 0..3 {
            let copy = Arc::new(store.memory.copy());
            copy.damage(key, |bytes| match damage {
                0 => *bytes.last_mut().unwrap() ^= 0x10,
                1 => bytes[20 + n % 80] ^= 1 << (n % 8),
                _ => bytes.truncate(bytes.len() / 2),
            });
            let outcome = async {
                let archive = Archive::open(copy.clone() as Arc<dyn Repository>).await?;
                restored(&archive, &RestoreTarget::Latest).await
            };
            match outcome.await {
                Ok(moment) => {
                    assert_eq!(moment, expected, "{key}");
                    harmless += 1;
                }
                Err(Error::Object { key: told, .. }) => {
                    assert_eq!(told.split('/').next(), key.split('/').next(), "{key}");
                    named.insert(key.split('/').next().unwrap().to_owned());
                }
                Err(other) => panic!("{key}: {other:?}"),
            }
            if let Ok(archive) = Archive::open(copy as Arc<dyn Repository>).await {
                let report = archive.verify(&VerifyOptions::new(VerifyDepth::Content)).await.unwrap();
                assert!(!report.is_sound() || key.starts_with("frontier"), "verify overlooks {key}");
            }
        }
    }
    assert_eq!(named.into_iter().collect::<Vec<_>>(), ["cluster", "frontier", "tables", "timelines", "wal"]);
    assert!(harmless > 0, "older backups and their log are not needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_a_byte_shorter_or_longer_is_noticed_without_reading_contents() {
    let store = Store::new().await;
    lived(&store.archive, 29, 3).await;
    let structure = VerifyOptions::new(VerifyDepth::Structure);
    let intact = store.archive.verify(&structure).await.unwrap();
    assert!(intact.is_sound(), "{intact:?}");
    let chunks: Vec<String> = store.memory.keys().into_iter().filter(|key| key.starts_with("wal/")).collect();
    // One that restoring to the end of the archive needs, and behind which there is more.
    let (victim, last) = (&chunks[chunks.len() - 2], &chunks[chunks.len() - 1]);
    for longer in [false, true] {
        for key in [victim, last] {
            let copy = Arc::new(store.memory.copy());
            copy.damage(key, |bytes| if longer { bytes.push(0) } else { bytes.truncate(bytes.len() - 1) });
            let archive = Archive::open(copy as Arc<dyn Repository>).await.unwrap();
            let report = archive.verify(&structure).await.unwrap();
            let words = format!("{report:?}");
            assert!(!report.is_sound() && words.contains(key) && words.contains("Length"), "{key}: {words}");
            assert_eq!(report.bytes_read, 0);
            // The log before it can be restored to, and nothing behind it.
            let restorable = |report: &VerifyReport| report.backups[0].restorable_to.map(|(to, _)| to);
            assert!(restorable(&report) < restorable(&intact), "{words}");
            let content = archive.verify(&VerifyOptions::new(VerifyDepth::Content)).await.unwrap();
            assert_eq!(restorable(&report), restorable(&content), "reading the contents says the same");
            let failed = restored(&archive, &RestoreTarget::Latest).await.unwrap_err();
            assert!(matches!(&failed, Error::Object { key: told, .. } if told == key), "{failed:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_is_passed_over_for_an_older_backup_and_reported() {
    let store = Store::new().await;
    let life = lived(&store.archive, 23, 3).await;
    let ids = store.archive.backup_ids().await.unwrap();
    assert!(ids.len() >= 2);
    let newest = ids.last().unwrap();
    store.memory.damage(&format!("backups/{newest}"), |bytes| bytes[200] ^= 4);
    let plan = store.archive.plan_restore(&RestoreTarget::Latest, None).await.unwrap();
    assert_eq!(plan.backup.id, ids[ids.len() - 2]);
    assert_eq!(restored(&store.archive, &RestoreTarget::Latest).await.unwrap(), moment_of_open(&life.db));
    let error = store.archive.plan_restore(&RestoreTarget::Backup(newest.clone()), None).await.unwrap_err();
    assert!(matches!(&error, Error::Object { key, .. } if key.contains(&newest.to_string())), "{error:?}");
    let report = store.archive.verify(&VerifyOptions::new(VerifyDepth::Structure)).await.unwrap();
    assert!(!report.newest_is_restorable());
    assert_eq!(report.backups.iter().filter(|backup| !backup.problems.is_empty()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_does_not_match_its_name_is_not_backed_up() {
    let store = Store::new().await;
    let mut life = Database::new(29);
    life.write(200);
    life.db.compact().unwrap();
    let table = life.db.pin_checkpoint(true).unwrap().files()[0].path.clone();
    let bytes = std::fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    // In place: the engine has the file mapped.
    let file = std::fs::OpenOptions::new().write(true).open(&table).unwrap();
    file.write_all_at(&[bytes[middle] ^ 1], middle as u64).unwrap();
    let archiver = life.archiver(&store.archive);
    let error = store.archive.create_backup(&life.db, &BackupOptions::default()).await.unwrap_err();
    assert!(matches!(&error, Error::LocalFile { path } if *path == table), "{error:?}");
    assert_eq!(store.archive.backup_ids().await.unwrap(), []);
    drop(archiver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_and_a_verification_from_a_store_that_falls_silent_end_in_bounded_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(dir.path(), "ak", "sk", ([127, 0, 0, 1], 0).into()).await.unwrap();
    server.create_bucket("backups").unwrap();
    let hasty = S3Timeouts {
        connect: Duration::from_millis(300),
        read: Duration::from_millis(300),
        attempt: Duration::from_millis(500),
        operation: Duration::from_secs(1),
        stall: Duration::from_millis(300),
        attempts_max: 2,
        ..S3Timeouts::default()
    };
    let config = RepositoryConfig::parse("s3://backups").unwrap().with_endpoint(server.endpoint());
    let repository = config.with_credentials("ak", "sk").with_timeouts(hasty).open().await.unwrap();
    let archive = Archive::create_or_open(repository, cluster(), SIZE, Timestamp(1)).await.unwrap();
    let life = lived(&archive, 31, 2).await;
    let plan = archive.plan_restore(&RestoreTarget::Latest, None).await.unwrap();
    server.faults().fail_always(Some(ServerFault::Hang));
    let started = std::time::Instant::now();
    let options = RestoreOptions::default();
    let error = archive.restore(&plan, &life.path("copy"), &options).await.unwrap_err();
    assert!(matches!(&error, Error::Repository(_)) && error.to_string().contains("no answer within"), "{error:?}");
    archive.plan_restore(&RestoreTarget::Latest, None).await.unwrap_err();
    archive.verify(&VerifyOptions::new(VerifyDepth::Structure)).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    server.faults().fail_always(None);
    let _ = std::fs::remove_dir_all(life.path("copy"));
    archive.restore(&plan, &life.path("copy"), &options).await.unwrap();
    assert_eq!(moment_of(&life.path("copy")), moment_of_open(&life.db));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_follows_a_promotion_and_the_abandoned_end_is_not_in_it() {
    let store = Store::new().await;
    let mut life = Database::new(37);
    life.write(60);
    life.backup(&store.archive).await;
    life.write(40);
    life.archive_all(&store.archive).await;
    let fork = life.note();
    // A standby: the same log, promoted at this point.
    let plan = store.archive.plan_restore(&RestoreTarget::Latest, None).await.unwrap();
    store.archive.restore(&plan, &life.path("standby"), &RestoreOptions::default()).await.unwrap();
    let standby = open(&life.path("standby"), 2);
    let parent = standby.history();
    let nonce = TimelineNonce::from_bytes([9; 16]);
    let (position, _) = standby.applied();
    let history = parent.forked(TimelineId(2), nonce, position, SIZE).unwrap();
    let claim = TimelineClaim {
        entry: *history.current(),
        parent: FIRST,
        claimed: Timestamp(1),
        claimant: "standby".to_owned(),
    };
    store.archive.claim_timeline(&claim, &history).await.unwrap();
    standby.promote(&history).unwrap();
    // The old primary does not know, and archives on: unfenced.
    life.write(30);
    life.archive_all(&store.archive).await;
    let abandoned = life.note();
    let mut second = Database { db: standby, moments: vec![], ..Database::new(41) };
    second.write(50);
    second.archive_all(&store.archive).await;
    let end = second.note();
    assert_eq!(restored(&store.archive, &RestoreTarget::Latest).await.unwrap(), end);
    assert_eq!(restored(&store.archive, &RestoreTarget::Lsn(fork.lsn)).await.unwrap(), fork);
    assert_eq!(restored(&store.archive, &RestoreTarget::Time(fork.time)).await.unwrap(), fork);
    // Whoever wants the abandoned end says so.
    let plan = store.archive.plan_restore(&RestoreTarget::Latest, Some(FIRST)).await.unwrap();
    store.archive.restore(&plan, &life.path("old"), &RestoreOptions::default()).await.unwrap();
    assert_eq!(moment_of(&life.path("old")), abandoned);
    let report = store.archive.verify(&VerifyOptions::new(VerifyDepth::Content)).await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.backups[0].restorable_to.map(|(lsn, _)| lsn), Some(end.lsn));
    // A backup of the new timeline, and a restore that begins with it.
    second.backup(&store.archive).await;
    second.write(10);
    second.archive_all(&store.archive).await;
    let end = second.note();
    let plan = store.archive.plan_restore(&RestoreTarget::Latest, None).await.unwrap();
    assert_eq!(plan.history, history);
    assert_eq!(restored(&store.archive, &RestoreTarget::Latest).await.unwrap(), end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_fed_from_the_archive_from_wherever_it_is() {
    let store = Store::new().await;
    let life = lived(&store.archive, 43, 4).await;
    let runtime = tokio::runtime::Handle::current();
    let source = Arc::new(ArchiveSource::new(store.archive.clone(), runtime.clone()));
    let tables = ArchiveTables::new(store.archive.clone(), runtime);
    let db = life.db.clone();
    tokio::task::spawn_blocking(move || {
        let end = db.log().flushed().value();
        assert_eq!(source.coverage(FIRST).unwrap(), Some((Lsn::ZERO, end)));
        assert_eq!(source.coverage(TimelineId(2)).unwrap(), None);
        assert_eq!(source.history().unwrap(), Some(db.history()));
        // From the end of any record, chunk boundary or not.
        let mut at = db.log().oldest();
        let mut records = 0;
        while let Some(read) = db.log().read(at, 1).unwrap() {
            if records % 7 == 0 {
                let fetched = source.fetch(FIRST, read.start).unwrap().unwrap();
                assert_eq!(fetched.start, read.start);
                let len = fetched.bytes.len().min(read.bytes.len());
                assert_eq!(fetched.bytes[..len], read.bytes[..len]);
            }
            records += 1;
            at = read.end();
        }
        assert!(records > 50);
        assert_eq!(source.fetch(FIRST, end).unwrap(), None);
        assert_eq!(source.fetch(FIRST, end.advance(1 << 30)).unwrap(), None);
        assert_eq!(source.fetch(FIRST, Lsn::new(513)).unwrap(), None, "not where a record begins");
        for table in db.pin_checkpoint(true).unwrap().files() {
            let in_archive = tables.fetch(&table.hash, table.size);
            let bytes = std::fs::read(&table.path).unwrap();
            assert!(in_archive.is_err() || in_archive.unwrap() == bytes);
        }
    })
    .await
    .unwrap();
}
