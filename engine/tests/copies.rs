//! Checkpoints, directories built from parts, and the digest that proves them equal.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{all, inline, threaded};
use seawall_engine::{Db, Error, FileHash, FileKind, Installation, Role, TableSource, differing_ranges};
use seawall_wal::storage::{Access, Disk, MemoryDisk, Storage, read_file};
use seawall_wal::{ClusterId, SegmentSize, TimelineId, TimelineNonce};

fn fill(db: &Db, numbers: std::ops::Range<u32>) {
    let keys = db.keyspace("k").unwrap();
    for number in numbers {
        let mut batch = db.batch();
        batch.put(&keys, format!("{:04}", number % 500), format!("{number}").repeat(50));
        batch.commit_with(seawall_engine::CommitLevel::Buffered).unwrap();
    }
    db.sync().unwrap();
}

#[test]
fn a_checkpoint_opens_equal_read_only_and_lives_on_alone() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    fill(&db, 0..900);
    let snapshot = db.snapshot().unwrap();
    let at = db.checkpoint("/copy").unwrap();
    assert_eq!(at, snapshot.lsn());
    fill(&db, 900..1500);
    db.compact().unwrap();
    let open = || Db::builder("/copy").storage(Arc::new(disk.clone())).open().unwrap();
    let copy = open();
    assert_eq!(copy.snapshot().unwrap().digest().unwrap(), snapshot.digest().unwrap());
    assert!(matches!(copy.role(), Role::ReadOnlyRestored { at: up_to, .. } if up_to == at));
    let keys = copy.existing_keyspace("k").unwrap();
    assert!(matches!(keys.insert("a", "1"), Err(Error::ReadOnly { .. })));
    assert!(matches!(db.checkpoint("/copy"), Err(Error::NotEmpty { .. })));
    drop(keys);
    drop(copy);
    let copy = open();
    let size = copy.log().options().segment_size;
    let history = copy.history().forked(TimelineId(2), TimelineNonce::random(), copy.log().end(), size).unwrap();
    copy.promote(&history).unwrap();
    fill(&copy, 0..10);
    drop(copy);
    assert_eq!(open().role(), Role::Normal);
}

#[test]
fn a_checkpoint_on_a_real_disk_links_its_tables() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Storage> = Arc::new(Disk::new());
    let path = folder.path().join("db");
    let db = Db::builder(&path).storage(Arc::clone(&disk)).segment_size(SegmentSize::MIN).open().unwrap();
    fill(&db, 0..600);
    let snapshot = db.snapshot().unwrap();
    let copied = folder.path().join("copy");
    db.checkpoint(&copied).unwrap();
    let copy = Db::open(&copied).unwrap();
    assert_eq!(copy.snapshot().unwrap().digest().unwrap(), snapshot.digest().unwrap());
    use std::os::unix::fs::MetadataExt;
    for name in disk.list(&copied.join("tables")).unwrap() {
        assert!(std::fs::metadata(copied.join("tables").join(name)).unwrap().nlink() >= 2);
    }
}

#[test]
fn a_checkpoint_is_not_made_within_the_database_it_copies() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    fill(&db, 0..10);
    for folder in [db.path().to_owned(), db.path().join("copy")] {
        let refused = db.checkpoint(&folder).unwrap_err();
        assert!(matches!(&refused, Error::Install { path, .. } if *path == folder), "{refused}");
        assert!(refused.to_string().contains("choose another folder"), "{refused}");
    }
    assert!(disk.list(&db.path().join("copy")).is_err(), "nothing was made");
}

#[derive(Debug)]
struct Folder(MemoryDisk, &'static str);

impl TableSource for Folder {
    fn fetch(&self, hash: &FileHash, size: u64) -> seawall_engine::Result<Vec<u8>> {
        let paths = FileKind::ALL.map(|kind| kind.path_in(Path::new(self.1), hash));
        Ok(paths.iter().find_map(|path| read_file(&self.0, path, size).ok()).unwrap())
    }
}

#[test]
fn a_directory_is_built_from_manifest_tables_and_log_and_opens_only_when_finished() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    fill(&db, 0..700);
    let checkpoint = db.pin_checkpoint(true).unwrap();
    assert!(checkpoint.redo().lsn <= checkpoint.flushed() && !checkpoint.files().is_empty());
    fill(&db, 700..800);
    db.compact().unwrap();
    for table in checkpoint.files() {
        let bytes = read_file(&disk, &table.path, table.size).unwrap();
        assert_eq!(blake3::hash(&bytes).as_bytes(), table.hash.as_bytes(), "a pinned table stays");
    }
    let target = MemoryDisk::new();
    let begin = || Installation::begin(&inline(&target), checkpoint.manifest_bytes(), checkpoint.history());
    let installation = begin().unwrap();
    assert!(matches!(begin(), Err(Error::Locked { .. } | Error::NotEmpty { .. })));
    let (hash, size) = installation.missing()[0];
    assert!(matches!(installation.add_file(&hash, &vec![0; size as usize]), Err(Error::Install { .. })));
    assert!(matches!(installation.add_file(&FileHash::from_bytes([1; 32]), b""), Err(Error::Install { .. })));
    installation.fetch_files(&Folder(disk.clone(), "/data")).unwrap();
    assert!(installation.missing().is_empty());
    while let Some(log) = db.log().read(installation.log_end().lsn, 10_000).unwrap() {
        installation.receive(&log).unwrap();
    }
    assert!(matches!(inline(&target).open(), Err(Error::Locked { .. })));
    let half = target.duplicate();
    let unfinished = inline(&half).open().unwrap_err();
    assert!(matches!(&unfinished, Error::Incomplete { .. }), "{unfinished}");
    installation.finish(Role::Standby).unwrap();
    let copy = inline(&target).open().unwrap();
    assert_eq!(copy.snapshot().unwrap().digest().unwrap(), db.snapshot().unwrap().digest().unwrap());
    drop(checkpoint);
    db.compact().unwrap();
    let unneeded = disk.list(Path::new("/data/tables")).unwrap().len() as u64;
    assert_eq!(unneeded, db.stats().levels.iter().map(|level| level.tables).sum::<u64>(), "unpinned tables go");
}

#[test]
fn an_unfinished_or_wrong_installation_is_refused() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    fill(&db, 0..300);
    let checkpoint = db.pin_checkpoint(true).unwrap();
    let begin =
        |disk: &MemoryDisk| Installation::begin(&inline(disk), checkpoint.manifest_bytes(), checkpoint.history());
    let missing = begin(&MemoryDisk::new()).unwrap().finish(Role::Standby).unwrap_err();
    assert!(missing.to_string().contains("is missing"), "{missing}");
    let installation = begin(&MemoryDisk::new()).unwrap();
    installation.fetch_files(&Folder(disk.clone(), "/data")).unwrap();
    let short = installation.finish(Role::Normal).unwrap_err();
    assert!(short.to_string().contains("the log ends at"), "{short}");
    let full = MemoryDisk::new();
    full.create_dir_all(Path::new("/data")).unwrap();
    full.open(Path::new("/data/precious"), Access::CreateNew).unwrap();
    assert!(matches!(begin(&full), Err(Error::NotEmpty { .. })));
    let other = inline(&MemoryDisk::new()).cluster(ClusterId::random());
    let foreign = Installation::begin(&other, checkpoint.manifest_bytes(), checkpoint.history());
    assert!(matches!(foreign, Err(Error::Install { .. })));
    let mut flipped = checkpoint.manifest_bytes().to_vec();
    flipped[40] ^= 1;
    let damaged = Installation::begin(&inline(&MemoryDisk::new()), &flipped, checkpoint.history());
    assert!(matches!(damaged, Err(Error::CorruptManifest { .. })));
}

#[test]
fn a_standby_installed_without_its_log_cannot_be_read_before_it_has_it() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    fill(&db, 0..300);
    db.compact().unwrap();
    let checkpoint = db.pin_checkpoint(true).unwrap();
    let target = MemoryDisk::new();
    let installation =
        Installation::begin(&inline(&target), checkpoint.manifest_bytes(), checkpoint.history()).unwrap();
    installation.fetch_files(&Folder(disk.clone(), "/data")).unwrap();
    installation.finish(Role::Standby).unwrap();
    let standby = inline(&target).open().unwrap();
    let early = standby.existing_keyspace("k").unwrap().get("0001").unwrap_err();
    assert!(matches!(&early, Error::WrongState { operation: "read", .. }), "{early}");
    while let Some(log) = db.log().read(standby.log().end().lsn, 10_000).unwrap() {
        standby.receive(&log).unwrap();
    }
    standby.flush_received().unwrap();
    assert_eq!(standby.snapshot().unwrap().digest().unwrap(), db.snapshot().unwrap().digest().unwrap());
}

#[test]
fn the_digest_depends_on_the_state_alone() {
    let (a, b) = (MemoryDisk::new(), MemoryDisk::new());
    let a = inline(&a).memtable_bytes(4 << 10).open().unwrap();
    let b = inline(&b).memtable_bytes(1 << 30).open().unwrap();
    for db in [&a, &b] {
        fill(db, 0..400);
    }
    a.compact().unwrap();
    let digest = |db: &Db| db.snapshot().unwrap().digest().unwrap();
    assert_eq!((digest(&a).root, &digest(&a).keyspaces), (digest(&b).root, &digest(&b).keyspaces));
    assert_eq!(digest(&a).keyspaces[0].entries, 400);
    let before = digest(&a);
    let keys = a.keyspace("k").unwrap();
    keys.insert("0001x", "").unwrap();
    assert_ne!(digest(&a).root, before.root, "an empty value counts");
    keys.remove("0001x").unwrap();
    assert_eq!(digest(&a).root, before.root, "only what is there counts");
    a.keyspace("empty").unwrap();
    assert_ne!(digest(&a).root, before.root, "a keyspace without keys counts");
    assert_eq!(digest(&a).to_string().len(), 64);
}

#[test]
fn ranges_show_where_two_states_differ() {
    let (a, b) = (MemoryDisk::new(), MemoryDisk::new());
    let open = |disk: &MemoryDisk| inline(disk).memtable_bytes(1 << 20).open().unwrap();
    let (a, b) = (open(&a), open(&b));
    for db in [&a, &b] {
        let keys = db.keyspace("k").unwrap();
        for chunk in 0..60_u32 {
            let mut batch = db.batch();
            for number in 0..500 {
                batch.put(&keys, format!("{:06}", chunk * 500 + number), "v");
            }
            batch.commit().unwrap();
        }
    }
    let ranges = |db: &Db, limit: usize| {
        let (snapshot, keys) = (db.snapshot().unwrap(), db.keyspace("k").unwrap());
        let mut all = Vec::new();
        loop {
            let after = all.last().and_then(|range: &seawall_engine::RangeDigest| range.through.clone());
            if !all.is_empty() && after.is_none() {
                return all;
            }
            let more = snapshot.digest_ranges(&keys, after.as_deref(), limit).unwrap();
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    };
    let whole = ranges(&a, usize::MAX);
    assert!(whole.len() > 10, "{} ranges", whole.len());
    assert_eq!(whole.iter().map(|range| range.entries).sum::<u64>(), 30_000);
    assert_eq!(whole, ranges(&a, 3), "page by page as at once");
    assert_eq!(differing_ranges(&whole, &ranges(&b, 7)), []);
    let keys = b.keyspace("k").unwrap();
    keys.insert("012345", "other").unwrap();
    keys.insert("012345x", "new").unwrap();
    // A limit of a range goes, and so both sides are cut differently there.
    let limit = whole[20].through.clone().unwrap();
    keys.remove(&limit).unwrap();
    keys.insert("zzz", "at the end").unwrap();
    let theirs = ranges(&b, 5);
    let differing = differing_ranges(&whole, &theirs);
    let covers = |key: &[u8]| {
        differing.iter().any(|(after, through)| {
            after.as_ref().is_none_or(|after| after.as_ref() < key)
                && through.as_ref().is_none_or(|through| key <= through.as_ref())
        })
    };
    assert!([&b"012345"[..], b"012345x", &limit, b"zzz"].iter().all(|key| covers(key)), "{differing:?}");
    let differing_keys = all(&a.keyspace("k").unwrap()).iter().filter(|(key, _)| covers(key)).count();
    assert!(differing_keys < 15_000, "{differing_keys} keys in {differing:?}");
}

#[test]
fn a_restored_copy_can_become_a_cluster_of_its_own() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    fill(&db, 0..400);
    db.checkpoint("/copy").unwrap();
    let digest = db.snapshot().unwrap().digest().unwrap();
    let copy = || Db::builder("/copy").storage(Arc::new(disk.clone()));
    let cluster = ClusterId::random();
    let original = threaded(&disk);
    drop(db);
    assert!(matches!(original.open_detached(cluster), Err(Error::WrongState { .. })), "an original stays what it is");
    let detached = copy().open_detached(cluster).unwrap();
    assert_eq!(detached.snapshot().unwrap().digest().unwrap(), digest, "the same state at the same LSN");
    fill(&detached, 400..600);
    let grown = detached.snapshot().unwrap().digest().unwrap();
    drop(detached);
    let again = copy().cluster(cluster).open().unwrap();
    assert_eq!(again.snapshot().unwrap().digest().unwrap(), grown);
    assert_eq!(again.history().current().id, TimelineId(2));
}
