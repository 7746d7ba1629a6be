//! Bits that flip at rest, and files that are gone: detected and named, or harmless, never served.

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Entries, all, control_path, inline, threaded};
use seawall_engine::{Db, Error};
use seawall_wal::storage::{MemoryDisk, Storage};

fn filled() -> (MemoryDisk, Entries) {
    let disk = MemoryDisk::new();
    let db = inline(&disk).table_bytes(1 << 20).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    for number in 0..200 {
        keys.insert(format!("{number:04}"), vec![number as u8; 100]).unwrap();
    }
    db.compact().unwrap();
    let content = all(&keys);
    drop(keys);
    db.close().unwrap();
    (disk, content)
}

fn files(disk: &MemoryDisk, folder: &str, like: &str) -> Vec<PathBuf> {
    let names = disk.list(Path::new(folder)).unwrap();
    names.into_iter().filter(|name| name.contains(like)).map(|name| Path::new(folder).join(name)).collect()
}

fn size(disk: &MemoryDisk, path: &Path) -> u64 {
    disk.open(path, seawall_wal::storage::Access::Read).unwrap().len().unwrap()
}

fn read(disk: &MemoryDisk) -> Result<Entries, Error> {
    let db: Db = inline(disk).open()?;
    let keys = db.existing_keyspace("k")?;
    keys.iter().map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
}

#[test]
fn a_flipped_bit_in_a_control_file_is_survived_and_reported() {
    let (disk, content) = filled();
    for offset in (0..400).chain(262_144..262_544) {
        let disk = disk.duplicate();
        disk.flip_bit(control_path(), offset, (offset % 8) as u8);
        let db = inline(&disk).open().unwrap();
        assert_eq!(all(&db.existing_keyspace("k").unwrap()), content);
        let written = offset % 262_144 < 180;
        assert_eq!(db.damaged_control().len(), usize::from(written), "byte {offset}");
    }
}

#[test]
fn a_flipped_bit_in_the_manifest_is_detected_and_named() {
    let (disk, _) = filled();
    let manifests = files(&disk, "/data", "manifest-");
    assert_eq!(manifests.len(), 1, "old manifests are removed");
    for offset in 0..size(&disk, &manifests[0]) {
        disk.flip_bit(&manifests[0], offset, (offset % 8) as u8);
        let error = read(&disk).unwrap_err();
        assert!(
            matches!(&error, Error::CorruptManifest { path, .. } if *path == manifests[0]),
            "byte {offset}: {error}"
        );
        disk.flip_bit(&manifests[0], offset, (offset % 8) as u8);
    }
    read(&disk).unwrap();
}

#[test]
fn a_flipped_bit_in_a_table_is_detected_or_harmless_and_other_keys_are_served() {
    let (disk, content) = filled();
    let table = &files(&disk, "/data/tables", ".table")[0];
    let mut detected = 0;
    let offsets: Vec<u64> = (0..size(&disk, table)).step_by(13).collect();
    for offset in &offsets {
        disk.flip_bit(table, *offset, 5);
        match read(&disk) {
            Ok(found) => assert_eq!(found, content, "byte {offset}"),
            Err(Error::CorruptTable { path, .. }) => {
                assert_eq!(path, *table);
                detected += 1;
            }
            Err(other) => panic!("byte {offset}: {other}"),
        }
        disk.flip_bit(table, *offset, 5);
    }
    assert!(detected * 10 > offsets.len() * 8, "{detected} of {}", offsets.len());
    disk.flip_bit(table, 100, 0);
    let db = inline(&disk).open().unwrap();
    let keys = db.existing_keyspace("k").unwrap();
    assert!(matches!(keys.get("0000"), Err(Error::CorruptTable { offset: 16, .. })));
    assert_eq!(keys.get("0199").unwrap().unwrap(), vec![199; 100], "in another block");
    let mut range = keys.iter();
    assert!(matches!(range.next(), Some(Err(Error::CorruptTable { .. }))));
    assert!(range.next().is_none(), "a range ends with its error");
    assert!(matches!(db.verify_tables(), Err(Error::CorruptTable { .. })));
    keys.insert("new", "1").unwrap();
    assert_eq!(keys.get("new").unwrap().unwrap(), "1", "writes go on");
}

#[test]
fn files_that_are_gone_or_cut_are_named() {
    let (disk, _) = filled();
    let table = files(&disk, "/data/tables", ".table")[0].clone();
    let cut = disk.duplicate();
    cut.open(&table, seawall_wal::storage::Access::Write).unwrap().set_len(1_000).unwrap();
    assert!(matches!(read(&cut), Err(Error::CorruptTable { path, .. }) if path == table));
    let gone = disk.duplicate();
    gone.remove(&table).unwrap();
    assert!(matches!(read(&gone), Err(Error::Io { operation: "open", path, .. }) if path == table));
    let gone = disk.duplicate();
    gone.remove(&files(&disk, "/data", "manifest-")[0]).unwrap();
    assert!(matches!(read(&gone), Err(Error::Io { operation: "read", .. })));
}

#[test]
fn what_an_earlier_run_left_behind_is_removed_at_open() {
    let (disk, content) = filled();
    for path in ["/data/tables/9.tmp", "/data/tables/00.table", "/data/manifest-00000000000000ff", "/data/control.tmp"]
    {
        disk.open(Path::new(path), seawall_wal::storage::Access::CreateNew).unwrap();
    }
    assert_eq!(read(&disk).unwrap(), content);
    assert!(!disk.list(Path::new("/data")).unwrap().iter().any(|name| name.ends_with(".tmp") || name.ends_with("ff")));
    assert!(
        !disk.list(Path::new("/data/tables")).unwrap().iter().any(|name| name.ends_with(".tmp") || name == "00.table")
    );
}

#[test]
fn a_damaged_table_is_reported_and_stops_no_other_keyspace() {
    let disk = MemoryDisk::new();
    let db = threaded(&disk).open().unwrap();
    let bad = db.keyspace("bad").unwrap();
    for number in 0..200 {
        bad.insert(format!("{number:04}"), vec![number as u8; 100]).unwrap();
    }
    db.compact().unwrap();
    drop((bad, db));
    for table in files(&disk, "/data/tables", ".table") {
        disk.flip_bit(&table, 100, 0);
    }
    let db = threaded(&disk).open().unwrap();
    let (bad, good) = (db.keyspace("bad").unwrap(), db.keyspace("good").unwrap());
    let until = Instant::now() + Duration::from_secs(20);
    let damage =
        |db: &Db| db.stats().background_failures.iter().any(|(_, error)| matches!(error, Error::CorruptTable { .. }));
    // Which merge meets the damage first is the policy's business; one that does is not far.
    for round in 0.. {
        bad.insert(format!("{round:04}"), "new").unwrap();
        bad.insert("zzz", "new").unwrap();
        db.flush().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        if damage(&db) {
            break;
        }
        assert!(Instant::now() < until, "{:?}", db.stats());
    }
    // What cannot be merged stays; of the other keyspace no more is left than starts a merge.
    let stuck = db.stats().levels[0].tables;
    for round in 0..12 {
        good.insert(format!("{round:04}"), "1").unwrap();
        db.flush().unwrap();
    }
    while db.stats().levels[0].tables > stuck + 4 {
        assert!(Instant::now() < until, "{:?}", db.stats());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(all(&good).len(), 12);
    assert_eq!(bad.get("zzz").unwrap().unwrap(), "new", "what is not damaged is served");
    assert!(matches!(bad.get("0150"), Ok(Some(_)) | Err(Error::CorruptTable { .. })));
}

#[test]
fn a_folder_that_is_removed_or_moved_under_an_open_database_stops_its_writes_and_is_named() {
    let parent = tempfile::tempdir().unwrap();
    let (folder, elsewhere) = (parent.path().join("data"), parent.path().join("elsewhere"));
    let db = Db::open(&folder).unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("before", "1").unwrap();
    std::fs::rename(&folder, &elsewhere).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let refused = loop {
        match keys.insert("meanwhile", "2") {
            Err(error) => break error,
            Ok(_) => assert!(Instant::now() < until, "writes go nowhere for ever"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let said = refused.to_string();
    assert!(matches!(refused, Error::Poisoned { .. }), "{said}");
    assert!(said.contains(&format!("{} was removed or moved while it was open", folder.display())), "{said}");
    assert_eq!(keys.get("before").unwrap().as_deref(), Some(&b"1"[..]), "reads go on");
    drop(keys);
    assert!(db.close().is_err(), "closing does not call it well");
    std::fs::rename(&elsewhere, &folder).unwrap();
    let keys = Db::open(&folder).unwrap().existing_keyspace("k").unwrap();
    assert_eq!(keys.get("before").unwrap().as_deref(), Some(&b"1"[..]));
}
