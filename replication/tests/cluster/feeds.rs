//! The upstream no longer has what a standby needs, or is away: the archive takes over, and hands back.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use seawall_engine::{Db, Installation, PinnedCheckpoint, Role};
use seawall_replication::Error;
use seawall_replication::driver::{
    BaseBackups, ClientState, RegistryConfig, StandbyClient, StandbyState, StandbyTarget,
};
use seawall_replication::feed::BackupOffer;
use seawall_wal::{LogBytes, Lsn, SegmentSource, TimelineHistory, TimelineId};

use super::node::{
    Primary, SIZE, assert_same, client_config, follow, make_standby, open_standby, put, start, until, until_status,
};

/// An archive in memory, filled from a node's log piece by piece.
#[derive(Debug)]
struct Kept {
    pieces: Mutex<Vec<LogBytes>>,
    history: Mutex<TimelineHistory>,
}

impl Kept {
    fn new(db: &Db) -> Arc<Self> {
        Arc::new(Self { pieces: Mutex::default(), history: Mutex::new(db.history()) })
    }

    /// Keeps what the log has beyond what is kept, in pieces of about 20 KiB.
    fn keep(&self, db: &Db) -> Lsn {
        let mut pieces = self.pieces.lock();
        let mut at = pieces.last().map_or(Lsn::ZERO, LogBytes::end);
        while let Some(piece) = db.log().read(at, 20_000).unwrap() {
            at = piece.end();
            pieces.push(piece);
        }
        *self.history.lock() = db.history();
        at
    }
}

impl SegmentSource for Kept {
    fn name(&self) -> &str {
        "archive"
    }

    fn coverage(&self, timeline: TimelineId) -> seawall_wal::Result<Option<(Lsn, Lsn)>> {
        let pieces = self.pieces.lock();
        let mut of = pieces.iter().filter(|piece| piece.timeline == timeline);
        let first = of.next().map(|first| (first.start, first.end()));
        Ok(first.map(|(start, end)| (start, of.next_back().map_or(end, LogBytes::end))))
    }

    fn fetch(&self, timeline: TimelineId, from: Lsn) -> seawall_wal::Result<Option<LogBytes>> {
        let pieces = self.pieces.lock();
        let piece = pieces.iter().find(|piece| piece.timeline == timeline && piece.start <= from && from < piece.end());
        Ok(piece.map(|piece| {
            let bytes = piece.bytes[from.distance_from(piece.start) as usize..].to_vec();
            LogBytes { timeline, start: from, bytes }
        }))
    }

    fn history(&self) -> seawall_wal::Result<Option<TimelineHistory>> {
        Ok(Some(self.history.lock().clone()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_slept_through_retention_heals_from_the_archive_and_streams_again() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let archive = Kept::new(&primary.db);
    primary.put(0, 200);
    archive.keep(&primary.db);
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let config = client_config(&standby, "s", Some(&primary.address()));
    let client = start(config.clone(), &standby, Some(archive.clone()));
    assert_same(&standby, &primary.db, primary.db.sync().unwrap()).await;
    let before = client.status().borrow().archive_bytes;
    client.stop().await.unwrap();
    let stopped_at = standby.log().end().lsn;

    primary.put(200, 4_000);
    archive.keep(&primary.db);
    primary.db.flush().unwrap();
    let keep_from = primary.db.log_start().lsn;
    assert!(primary.db.log().recycle_before(keep_from) > 0);
    assert!(primary.db.log().oldest() > stopped_at, "what the standby needs is gone from the primary");
    let lsn = primary.put(4_000, 4_200);

    let client = start(config, &standby, Some(archive));
    assert_same(&standby, &primary.db, lsn).await;
    let status = until_status(&client, "it streams again", |status| status.state == ClientState::Streaming).await;
    assert!(status.archive_bytes > before && status.base_backups == 0);
    assert_same(&standby, &primary.db, primary.put(4_200, 4_300)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_archive_a_recycled_log_is_said_plainly() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    primary.put(0, 4_000);
    primary.db.flush().unwrap();
    assert!(primary.db.log().recycle_before(primary.db.log_start().lsn) > 0);
    let client = start(client_config(&standby, "s", Some(&primary.address())), &standby, None);
    let status = until_status(&client, "it says why", |status| status.last_error.is_some()).await;
    let why = status.last_error.unwrap();
    assert!(why.contains("no longer has the log"), "{why}");
    assert_eq!(status.lost_place, Some(primary.db.log().oldest()));
    assert_eq!(standby.log().end().lsn, Lsn::ZERO);
    assert!(primary.registry.report().is_empty(), "who was never fed takes no place in the table");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_lost_its_place_is_shown_as_that_with_all_that_it_lacks() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, primary.put(0, 4_000)).await;
    until("it is known to have it all", || primary.registry.report()[0].lag.flush.bytes == 0).await;
    client.stop().await.unwrap();
    until("it is missed", || primary.registry.report()[0].state == StandbyState::Missing).await;
    primary.db.flush().unwrap();
    assert!(primary.db.log().recycle_before(primary.db.log_start().lsn) > 0);
    assert_eq!(primary.registry.report()[0].state, StandbyState::Missing, "it has all that was recycled");

    // Its machine was replaced; under its name somebody comes who has nothing.
    let replaced = make_standby(folders[2].path(), &primary.address()).await;
    let _client = follow(&replaced, "s", &primary.address());
    until("its place is known to be lost", || primary.registry.report()[0].state == StandbyState::LostPlace).await;
    let report = &primary.registry.report()[0];
    assert!(!report.is_connected());
    let flush = primary.db.log().flushed().value();
    assert_eq!((report.positions.flush, report.lag.flush.bytes), (Lsn::ZERO, flush.offset()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_stayed_away_for_longer_than_the_log_has_lost_its_place_without_coming_back() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let client = follow(&standby, "s", &primary.address());
    assert_same(&standby, &primary.db, primary.put(0, 100)).await;
    client.stop().await.unwrap();
    primary.put(100, 4_000);
    primary.db.flush().unwrap();
    assert!(primary.db.log().recycle_before(primary.db.log_start().lsn) > 0);
    until("it is known", || primary.registry.report()[0].state == StandbyState::LostPlace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_alone_feeds_a_standby() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let archive = Kept::new(&primary.db);
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let _client = start(client_config(&standby, "s", None), &standby, Some(archive.clone()));
    primary.put(0, 1_500);
    assert_same(&standby, &primary.db, archive.keep(&primary.db)).await;
    primary.put(1_500, 2_000);
    assert_same(&standby, &primary.db, archive.keep(&primary.db)).await;
    assert!(primary.registry.report().is_empty(), "the primary never heard of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_upstream_is_away_the_archive_takes_a_standby_further() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let archive = Kept::new(&primary.db);
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    let client = start(client_config(&standby, "s", Some(&primary.address())), &standby, Some(archive.clone()));
    assert_same(&standby, &primary.db, primary.put(0, 100)).await;
    let Primary { db, server, .. } = primary;
    server.drain(Duration::from_secs(5)).await.unwrap();
    put(&db, 100, 1_000);
    let archived = archive.keep(&db);
    client.reconnect();
    until("the archive brought it further", || standby.visible() >= archived).await;
    assert_same(&standby, &db, archived).await;
}

/// Base backups taken from a primary's checkpoint, installed next to the data they replace.
#[derive(Debug)]
struct Checkpoints {
    primary: Db,
    folder: tempfile::TempDir,
}

impl Checkpoints {
    fn offer(&self) -> (PinnedCheckpoint, BackupOffer) {
        let pinned = self.primary.pin_checkpoint(true).unwrap();
        let offer = BackupOffer { id: "b1".to_owned(), redo: pinned.log_start().lsn, stop: pinned.redo().lsn };
        (pinned, offer)
    }
}

impl BaseBackups for Checkpoints {
    fn offers(&self) -> Result<Vec<BackupOffer>, Error> {
        Ok(vec![self.offer().1])
    }

    fn install(&self, _: &BackupOffer) -> Result<Arc<dyn StandbyTarget>, Error> {
        let (pinned, _) = self.offer();
        let builder = Db::builder(self.folder.path()).segment_size(SIZE).cluster(self.primary.cluster());
        let installation = Installation::begin(&builder, pinned.manifest_bytes(), &self.primary.history()).unwrap();
        for table in pinned.files() {
            installation.link_file(&table.hash, &table.path).unwrap();
        }
        installation.finish(Role::Standby).unwrap();
        Ok(Arc::new(open_standby(self.folder.path())))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_log_leads_a_base_backup_does_without_anybodys_help() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    primary.put(0, 100);
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    primary.put(100, 3_000);
    primary.db.flush().unwrap();
    assert!(primary.db.log().recycle_before(primary.db.log_start().lsn) > 0);
    let backups = Arc::new(Checkpoints { primary: primary.db.clone(), folder: tempfile::tempdir().unwrap() });
    let config = client_config(&standby, "s", Some(&primary.address()));
    let client = StandbyClient::start(config, Arc::new(standby.clone()), None, Some(backups.clone()));
    let status = until_status(&client, "it streams", |status| status.state == ClientState::Streaming).await;
    assert_eq!(status.base_backups, 1);
    let lsn = primary.put(3_000, 3_100);
    until("it has everything", || client.status().borrow().positions.replay >= lsn).await;
    drop(client.stop().await.unwrap());
    assert_same(&open_standby_when_free(backups.folder.path()).await, &primary.db, lsn).await;
}

/// Opens it once whoever had it open let go.
async fn open_standby_when_free(folder: &std::path::Path) -> Db {
    let mut opened = None;
    until("it can be opened", || {
        opened = Db::builder(folder).open().ok();
        opened.is_some()
    })
    .await;
    opened.expect("it was opened")
}

/// Once, a standby asked such an archive again and again without a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_that_promises_more_than_it_gives_is_asked_again_after_a_pause() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let archive = Kept::new(&primary.db);
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    primary.put(0, 1_000);
    archive.keep(&primary.db);
    let missing = archive.pieces.lock().remove(1);
    let client = start(client_config(&standby, "s", None), &standby, Some(archive.clone()));
    let status = until_status(&client, "it says why", |status| status.last_error.is_some()).await;
    assert!(status.last_error.unwrap().contains("gave nothing there"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(client.status().borrow().attempts < 8);
    archive.pieces.lock().insert(1, missing);
    client.reconnect();
    assert_same(&standby, &primary.db, primary.db.log().flushed().value()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_archive_bytes_are_never_written() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let primary = Primary::start(folders[0].path(), RegistryConfig::default()).await;
    let archive = Kept::new(&primary.db);
    let standby = make_standby(folders[1].path(), &primary.address()).await;
    primary.put(0, 1_000);
    archive.keep(&primary.db);
    let good = archive.pieces.lock()[0].end();
    archive.pieces.lock()[1].bytes[5_000] ^= 1;
    let client = start(client_config(&standby, "s", None), &standby, Some(archive.clone()));
    let status = until_status(&client, "it says why", |status| status.last_error.is_some()).await;
    assert!(status.last_error.as_ref().unwrap().contains("does not match its checksum"), "{status:?}");
    assert_eq!(standby.log().end().lsn, good, "only what came before the damage is there");
    archive.pieces.lock()[1].bytes[5_000] ^= 1;
    client.reconnect();
    assert_same(&standby, &primary.db, primary.db.log().flushed().value()).await;
}
