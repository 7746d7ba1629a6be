//! What is damaged or gone is fetched from another copy, at opening and while the database is open, or nothing changes.

mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Entries, PATH, all, crashed_keeping_all, crashed_somehow, inline};
use rand::SeedableRng;
use rand::rngs::StdRng;
use seawall_engine::mutant::{Mutant, with_mutant};
use seawall_engine::{
    Copies, Damage, Db, Error, FileHash, FileKind, How, LogRetention, Refusal, Repaired, TableSource,
};
use seawall_wal::storage::{Access, Fault, FaultyOperation, FaultyStorage, MemoryDisk, Storage, read_file};
use seawall_wal::{LogBytes, Lsn, SegmentNumber, SegmentSize, SegmentSource, TimelineHistory, TimelineId};

const EIO: i32 = 5;

/// Values of which some are in blob files, in tables and in several segments of log that was not written out.
fn filled() -> (MemoryDisk, Entries) {
    let disk = MemoryDisk::new();
    let db = inline(&disk).memtable_bytes(256 << 10).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for number in 0..1_500_u32 {
        let len = if number.is_multiple_of(10) { 700 } else { 90 };
        keys.insert(format!("{number:05}"), [number.to_le_bytes().repeat(2), vec![number as u8; len]].concat())
            .unwrap();
        if number == 500 {
            db.flush().unwrap();
        }
        if number == 900 {
            db.compact().unwrap();
        }
    }
    let content = all(&keys);
    drop(keys);
    db.close().unwrap();
    (disk, content)
}

fn files(disk: &MemoryDisk, folder: &str, ending: &str) -> Vec<PathBuf> {
    let folder = Path::new(PATH).join(folder);
    let names = disk.list(&folder).unwrap();
    names.into_iter().filter(|name| name.ends_with(ending)).map(|name| folder.join(name)).collect()
}

fn content(db: &Db) -> Result<Entries, Error> {
    let keys = db.existing_keyspace("k")?;
    keys.iter().map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
}

/// Another node's disk as a source of everything.
#[derive(Debug)]
struct Other(MemoryDisk);

impl TableSource for Other {
    fn fetch(&self, hash: &FileHash, size: u64) -> seawall_engine::Result<Vec<u8>> {
        let paths = FileKind::ALL.map(|kind| kind.path_in(Path::new(PATH), hash));
        let found = paths.iter().find_map(|path| read_file(&self.0, path, size).ok());
        let path = paths[0].clone();
        found.ok_or(Error::Io { operation: "fetch", path, source: Arc::new(io::ErrorKind::NotFound.into()) })
    }
}

#[derive(Debug)]
struct OtherLog(Db);

impl SegmentSource for OtherLog {
    fn name(&self) -> &str {
        "the other node"
    }

    fn coverage(&self, timeline: TimelineId) -> seawall_wal::Result<Option<(Lsn, Lsn)>> {
        self.0.log().coverage(timeline)
    }

    fn fetch(&self, timeline: TimelineId, from: Lsn) -> seawall_wal::Result<Option<LogBytes>> {
        SegmentSource::fetch(self.0.log(), timeline, from)
    }

    fn history(&self) -> seawall_wal::Result<Option<TimelineHistory>> {
        Ok(Some(self.0.history()))
    }
}

fn copies(disk: &MemoryDisk) -> Copies {
    let log = OtherLog(inline(&disk.duplicate()).open().unwrap());
    Copies { log: vec![Arc::new(log)], tables: Arc::new(Other(disk.duplicate())) }
}

fn open_repairing(disk: &MemoryDisk, copies: &Copies) -> Result<(Db, Vec<Repaired>), Error> {
    inline(disk).open_repairing(|_, _| copies.clone())
}

#[test]
fn whatever_keeps_a_database_from_opening_is_repaired_one_after_the_other() {
    let (disk, expected) = filled();
    let copies = copies(&disk);
    let (tables, blobs, segments) =
        (files(&disk, "tables", ".table"), files(&disk, "tables", ".blob"), files(&disk, "wal", ".wal"));
    assert!(tables.len() > 2 && blobs.len() > 1 && segments.len() > 2, "{tables:?} {blobs:?} {segments:?}");
    disk.remove(&tables[0]).unwrap();
    disk.remove(&blobs[0]).unwrap();
    // Of a footer.
    let len = disk.open(&tables[1], seawall_wal::storage::Access::Read).unwrap().len().unwrap();
    disk.flip_bit(&tables[1], len - 20, 3);
    disk.flip_bit(&segments[segments.len() - 2], 20_000, 2);
    assert!(inline(&disk).open().is_err());
    let (db, repaired) = open_repairing(&disk, &copies).unwrap();
    assert_eq!(content(&db).unwrap(), expected);
    db.verify_tables().unwrap();
    assert_eq!(repaired.len(), 4, "{repaired:?}");
    let kept = repaired.iter().find_map(|done| done.kept.clone()).expect("the damaged segment is kept");
    assert!(disk.list(kept.parent().unwrap()).unwrap().len() == 1);
    db.close().unwrap();
    assert_eq!(content(&inline(&disk).open().unwrap()).unwrap(), expected);
}

#[test]
fn a_healthy_database_asks_for_no_copy() {
    let (disk, expected) = filled();
    let (db, repaired) = inline(&disk).open_repairing(|_, _| panic!("nothing is damaged")).unwrap();
    assert_eq!((content(&db).unwrap(), repaired.len()), (expected, 0));
}

#[test]
fn a_block_that_is_damaged_is_not_served_and_repaired_while_the_database_is_open() {
    let (disk, expected) = filled();
    let copies = copies(&disk);
    for ending in [".table", ".blob"] {
        let disk = disk.duplicate();
        let damaged = files(&disk, "tables", ending);
        for path in &damaged {
            disk.flip_bit(path, 120, 4);
        }
        let db = inline(&disk).open().unwrap();
        assert_eq!(db.damages(), [], "nobody looked yet");
        let mut repaired = 0;
        // What no reader needs may be damaged too.
        let found = loop {
            match content(&db).and_then(|found| db.verify_tables().map(|()| found)) {
                Ok(found) => break found,
                Err(error) => {
                    assert!(matches!(error, Error::CorruptTable { .. }), "{error}");
                    let damages = db.damages();
                    assert!(!damages.is_empty(), "{error}");
                    for damage in &damages {
                        db.repair(damage, &copies).unwrap();
                        repaired += 1;
                    }
                    assert_eq!(db.damages(), []);
                }
            }
        };
        assert_eq!((found == expected, repaired), (true, damaged.len()), "{ending}");
        // Merges read them all.
        db.compact().unwrap();
        assert_eq!(content(&db).unwrap(), expected);
        db.close().unwrap();
        assert_eq!(content(&inline(&disk).open().unwrap()).unwrap(), expected);
    }
}

#[test]
fn a_damaged_table_that_stopped_merges_does_not_after_its_repair() {
    let (disk, expected) = filled();
    let copies = copies(&disk);
    for path in files(&disk, "tables", ".table") {
        disk.flip_bit(&path, 120, 4);
    }
    let db = inline(&disk).open().unwrap();
    let snapshot = db.snapshot().unwrap();
    let mut rounds = 0;
    while let Err(error) = db.compact() {
        assert!(matches!(error, Error::CorruptTable { .. }), "{error}");
        for damage in db.damages() {
            db.repair(&damage, &copies).unwrap();
        }
        rounds += 1;
        assert!(rounds < 50, "{error}");
    }
    assert!(rounds > 0);
    assert_eq!(content(&db).unwrap(), expected);
    let keys = db.existing_keyspace("k").unwrap();
    let seen: Entries = snapshot.iter(&keys).map(|pair| pair.map(|(a, b)| (a.to_vec(), b.to_vec())).unwrap()).collect();
    assert_eq!(seen, expected, "a snapshot from before sees the repaired files too");
}

#[test]
fn without_a_copy_that_helps_it_says_what_is_damaged_and_why_it_stays_so_and_changes_nothing() {
    let (disk, expected) = filled();
    let whole = copies(&disk);
    let table = files(&disk, "tables", ".table")[0].clone();
    let bytes = read_file(&disk, &table, 1 << 20).unwrap();
    disk.remove(&table).unwrap();
    let empty = Copies { tables: Arc::new(Other(MemoryDisk::new())), ..whole.clone() };
    let error = open_repairing(&disk, &empty).unwrap_err();
    let words = error.to_string();
    assert!(matches!(error, Error::Irreparable { .. }), "{words}");
    let name = table.file_name().unwrap().to_str().unwrap();
    assert!(words.starts_with("cannot open ") && words.contains(name), "{words}");
    assert!(words.contains("it could not be repaired from another copy: cannot fetch"), "{words}");
    assert_eq!(open_repairing(&disk, &whole).unwrap().1.len(), 1);
    assert_eq!(read_file(&disk, &table, 1 << 20).unwrap(), bytes);
    assert_eq!(content(&inline(&disk).open().unwrap()).unwrap(), expected);
}

/// A source that does not answer.
#[derive(Debug)]
struct Silent;

impl SegmentSource for Silent {
    fn name(&self) -> &str {
        "the silent node"
    }

    fn coverage(&self, _: TimelineId) -> seawall_wal::Result<Option<(Lsn, Lsn)>> {
        self.fetch(TimelineId(1), Lsn::ZERO).map(|_| None)
    }

    fn fetch(&self, _: TimelineId, at: Lsn) -> seawall_wal::Result<Option<LogBytes>> {
        let (source_name, why) = (self.name().to_owned(), String::from("connection refused"));
        Err(seawall_wal::Error::SourceSilent { source_name, at, why })
    }

    fn history(&self) -> seawall_wal::Result<Option<TimelineHistory>> {
        self.fetch(TimelineId(1), Lsn::ZERO).map(|_| None)
    }
}

#[test]
fn a_copy_that_does_not_help_is_passed_over_and_when_none_does_each_is_named() {
    let (disk, expected) = filled();
    let whole = copies(&disk);
    let damaged = files(&disk, "wal", ".wal").into_iter().rev().nth(1).unwrap();
    let foreign: Arc<dyn SegmentSource> = Arc::new(OtherLog(inline(&filled().0).open().unwrap()));
    let rotten = disk.duplicate();
    let damaged_too: Arc<dyn SegmentSource> = Arc::new(OtherLog(inline(&rotten).open().unwrap()));
    rotten.flip_bit(&damaged, 30_000, 1);
    disk.flip_bit(&damaged, 20_000, 2);
    let unhelpful = [Arc::new(Silent) as Arc<dyn SegmentSource>, foreign, damaged_too];
    let asking = |log: &[Arc<dyn SegmentSource>]| Copies { log: log.to_vec(), ..whole.clone() };

    let none = open_repairing(&disk, &asking(&[])).unwrap_err();
    assert!(none.to_string().contains("no other copy of it is known"), "{none}");
    assert!(!none.is_for_want_of_an_answer());
    let answered = open_repairing(&disk, &asking(&unhelpful[1..])).unwrap_err();
    assert!(answered.says_that_no_copy_helps(), "asking again cannot help: {answered}");
    let error = open_repairing(&disk, &asking(&unhelpful)).unwrap_err();
    assert!(error.is_for_want_of_an_answer() && !error.says_that_no_copy_helps(), "{error}");
    let Error::Irreparable { why, .. } = &error else { panic!("{error}") };
    let Error::NoCopy { segment, timeline, at, offset, tried } = &**why else { panic!("{why}") };
    assert_eq!((timeline.0, u64::from(*offset)), (1, at.offset() % SegmentSize::MIN.bytes() as u64));
    let words = error.to_string();
    for part in [
        &format!("segment {segment} of timeline 1 is damaged from {at} on, byte {offset} of its file") as &str,
        "the silent node does not answer: connection refused",
        "the other node: its copy is of another log",
        "the other node: its copy is damaged too",
    ] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert_eq!(tried.len(), 3);
    assert!(disk.list(&Path::new(PATH).join("wal/cut")).unwrap_or_default().is_empty(), "nothing was changed");

    let order = [&unhelpful[..], &whole.log].concat();
    let (db, repaired) = open_repairing(&disk, &asking(&order)).unwrap();
    assert_eq!((content(&db).unwrap(), repaired.len()), (expected, 1));
}

#[test]
fn a_damaged_header_that_no_start_needs_is_told_of_from_the_start_and_repaired_while_the_database_is_open() {
    let disk = MemoryDisk::new();
    // The archive or a standby may need what is in tables already.
    let open = |disk: &MemoryDisk| inline(disk).log_retention(LogRetention::Node).open().unwrap();
    let db = open(&disk);
    let keys = db.keyspace("k").unwrap();
    for number in 0..300_u32 {
        keys.insert(format!("{number:05}"), [7; 900]).unwrap();
    }
    db.flush().unwrap();
    let expected = all(&keys);
    drop(keys);
    db.close().unwrap();
    let whole = OtherLog(open(&disk.duplicate()));
    let segments = files(&disk, "wal", ".wal");
    assert!(segments.len() > 2, "{segments:?}");
    disk.open(&segments[1], Access::Write).unwrap().write_at(&[0; 512], 0).unwrap();

    let db = open(&disk);
    let [damage] = &db.damages()[..] else { panic!("{:?}", db.damages()) };
    let described = damage.describe(&db.history(), SegmentSize::MIN);
    assert!(described.ends_with("(wal/00000001-0000000000000001.wal)"), "{described}");
    db.keyspace("k").unwrap().insert("more", "writes").unwrap();
    let bytes = |log: &dyn SegmentSource| log.fetch(TimelineId(1), SegmentSize::MIN.start_of(SegmentNumber(1)));
    assert!(bytes(db.log()).unwrap_err().to_string().contains("segment 1 of timeline 1 does not match its checksum"));
    let copies = Copies { log: vec![Arc::new(whole)], tables: Arc::new(Other(MemoryDisk::new())) };
    assert_eq!(db.repair(damage, &copies).unwrap().how, How::Copied);
    assert_eq!(db.damages(), []);
    assert_eq!(bytes(db.log()).unwrap(), bytes(&*copies.log[0]).unwrap());
    db.close().unwrap();
    let found = content(&open(&disk)).unwrap();
    assert_eq!(found.len(), expected.len() + 1);
}

#[test]
fn one_read_of_the_log_that_fails_needs_no_copy_and_one_that_goes_on_failing_does_until_it_is_over() {
    let (disk, expected) = filled();
    let faulty = FaultyStorage::new(Arc::new(disk.clone()));
    let db = inline(&disk).storage(Arc::new(faulty.clone())).open().unwrap();
    let alone = Copies { log: Vec::new(), tables: Arc::new(Other(MemoryDisk::new())) };
    let first = SegmentSize::MIN.segment_of(db.log().oldest());
    let path = Path::new(PATH).join(format!("wal/00000001-{:016x}.wal", first.0));
    let fail = || faulty.fail_under(&path, FaultyOperation::Read, 0, Fault::Error(EIO));
    let damage = || {
        let error = db.log().read(db.log().oldest(), 4 << 10).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot read {}", path.display())), "{error}");
        let [damage] = &db.damages()[..] else { panic!("{:?}", db.damages()) };
        damage.clone()
    };
    fail();
    let done = db.repair(&damage(), &alone).unwrap();
    assert_eq!((done.how, done.path, done.kept, db.damages()), (How::ReadAgain, path.clone(), None, vec![]));

    (0..2).for_each(|_| fail());
    let lasting = damage();
    let none = db.repair(&lasting, &alone).unwrap_err();
    assert!(none.says_that_no_copy_helps(), "{none}");
    assert_eq!(db.damages(), std::slice::from_ref(&lasting));
    db.repair(&lasting, &alone).unwrap();
    assert_eq!((db.damages(), content(&db).unwrap()), (vec![], expected));
}

#[test]
fn a_full_disk_and_a_segment_being_written_do_not_say_that_no_copy_helps() {
    let (disk, _) = filled();
    let copies = copies(&disk);
    let db = inline(&disk).open().unwrap();
    let size = SegmentSize::MIN;
    let active = size.segment_of(db.log().end().lsn);
    let sealed = size.segment_of(Lsn::new(size.start_of(active).offset() - 1));
    for segment in [sealed, active] {
        let offset = size.offset_in_segment(db.log().end().lsn) / 2;
        disk.flip_bit(&Path::new(PATH).join(format!("wal/00000001-{:016x}.wal", segment.0)), offset.into(), 2);
        let mut at = size.start_of(segment);
        while let Ok(Some(read)) = db.log().read(at, 8 << 10) {
            at = read.end();
        }
    }
    let [of_sealed, of_active] = &db.damages()[..] else { panic!("{:?}", db.damages()) };
    let described = of_sealed.describe(&db.history(), size);
    assert!(described.contains(&format!("(wal/00000001-{:016x}.wal)", sealed.0)), "{described}");
    disk.set_capacity(1);
    let full = db.repair(of_sealed, &copies).unwrap_err();
    assert!(matches!(full, Error::DiskFull { .. }) && !full.says_that_no_copy_helps(), "{full}");
    let left = files(&disk, "wal", ".tmp");
    assert!(!left.iter().any(|path| path.ends_with("spare-repair.tmp")), "{left:?}");
    disk.set_capacity(u64::MAX);
    db.repair(of_sealed, &copies).unwrap();

    let written = db.repair(of_active, &copies).unwrap_err();
    assert!(!written.says_that_no_copy_helps(), "{written}");
    let keys = db.keyspace("k").unwrap();
    while db.log().flushed().value() < size.end_of(active) {
        keys.insert("more", [7; 900]).unwrap();
    }
    db.repair(of_active, &copies).unwrap();
    assert_eq!(db.damages(), []);
    drop(keys);
    db.close().unwrap();
    inline(&disk).open().unwrap();
}

#[test]
fn writes_refused_for_two_reasons_hear_the_graver_and_are_let_in_when_neither_holds() {
    let (disk, _) = filled();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    db.refuse_writes(Refusal::Damaged, "table 17 is damaged; restore this node");
    db.refuse_writes(Refusal::Unconfirmed, "asking");
    db.take_writes(Refusal::Unconfirmed);
    let refused = keys.insert("a", "b").unwrap_err();
    assert_eq!(refused.to_string(), "this node takes no writes: table 17 is damaged; restore this node");
    assert_eq!(db.stats().writes_refused.unwrap().to_string(), refused.to_string());
    db.refuse_writes(Refusal::Unconfirmed, "asking");
    assert_eq!(keys.insert("a", "b").unwrap_err().to_string(), refused.to_string());
    db.take_writes(Refusal::Damaged);
    assert!(matches!(keys.insert("a", "b"), Err(Error::Refused { reason: Refusal::Unconfirmed, .. })));
    db.refuse_writes(Refusal::Superseded, "timeline 2 took over");
    db.take_writes(Refusal::Unconfirmed);
    assert_eq!(keys.insert("a", "b").unwrap_err().to_string(), "this node takes no writes: timeline 2 took over");
    db.take_writes(Refusal::Superseded);
    keys.insert("a", "b").unwrap();
    assert!(db.stats().writes_refused.is_none());
}

fn refuses_a_copy_that_is_damaged_too() {
    let (disk, expected) = filled();
    let whole = copies(&disk);
    let table = files(&disk, "tables", ".table")[0].clone();
    let bad = disk.duplicate();
    bad.flip_bit(&table, 120, 4);
    disk.remove(&table).unwrap();
    let bad = Copies { tables: Arc::new(Other(bad)), ..whole.clone() };
    let error = open_repairing(&disk, &bad).unwrap_err();
    assert!(error.to_string().contains("is damaged too"), "{error}");
    let (db, _) = open_repairing(&disk, &whole).unwrap();
    assert_eq!(content(&db).unwrap(), expected);
}

#[test]
fn a_copy_that_is_damaged_too_is_not_put_in_place() {
    refuses_a_copy_that_is_damaged_too();
    let noticed = std::panic::catch_unwind(|| {
        with_mutant(Mutant::RepairsUnproven, refuses_a_copy_that_is_damaged_too);
    });
    assert!(noticed.is_err(), "a repair that proves nothing survives");
}

#[test]
fn power_lost_during_a_repair_leaves_what_can_be_repaired_again() {
    let (disk, expected) = filled();
    let copies = copies(&disk);
    let segments = files(&disk, "wal", ".wal");
    disk.remove(&files(&disk, "tables", ".table")[0]).unwrap();
    disk.flip_bit(&segments[segments.len() - 2], 20_000, 2);
    let base = crashed_keeping_all(&disk);
    let repairing = base.duplicate();
    repairing.keep_journal();
    let (db, repaired) = open_repairing(&repairing, &copies).unwrap();
    assert_eq!(repaired.len(), 2);
    drop(db);
    let mut random = StdRng::seed_from_u64(5);
    let (mut opened, mut again) = (0, 0);
    for (index, entry) in repairing.journal().iter().enumerate() {
        base.replay(entry);
        for crashed in [base.crashed_losing_all(), crashed_keeping_all(&base), crashed_somehow(&base, &mut random)] {
            let (db, repaired) =
                open_repairing(&crashed, &copies).unwrap_or_else(|error| panic!("operation {index}: {error}"));
            assert_eq!(content(&db).unwrap(), expected, "operation {index}");
            if repaired.is_empty() { opened += 1 } else { again += 1 }
        }
    }
    assert!(opened > 0 && again > 0, "{opened} opened, {again} repaired again");
}

#[test]
fn a_damage_is_what_an_error_names_and_nothing_else_is_asked_for() {
    let (disk, _) = filled();
    let copies = copies(&disk);
    let manifest = files(&disk, "", "").into_iter().find(|path| path.to_string_lossy().contains("manifest-")).unwrap();
    disk.flip_bit(&manifest, 100, 1);
    let error = open_repairing(&disk, &copies).unwrap_err();
    assert!(matches!(error, Error::CorruptManifest { .. }), "no copy of a manifest is the right one: {error}");
    assert_eq!(Damage::of(&error), None);
}
