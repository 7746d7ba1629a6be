//! A disk that does not take a block, under ext4 and XFS: the sync fails, the next one would succeed, and what was written
//! is shown as if it were there. The program must not try again, and must not take what it is shown for what is on the disk.

use seawall::{Db, Error, Keyspace, SegmentSize};
use seawall_disks::fuse::{Effect, Fault, FuseDisk, Operation};
use seawall_disks::image::{FileSystem, Image};

use crate::plug::{Plug, WRONG};
use crate::{EXT4_BYTES, XFS_BYTES, how_many};

const EIO: i32 = 5;

/// A file system on a disk that is told which blocks not to take.
struct Sick {
    // Before the disk that its file is on.
    image: Image,
    disk: FuseDisk,
}

impl Sick {
    fn or_skip(file_system: FileSystem, bytes: u64) -> Option<Self> {
        let disk = FuseDisk::or_skip()?;
        let image = Image::at_or_skip(file_system, bytes, &disk.path().join("image"))?;
        Some(Self { image, disk })
    }

    /// The next block with these bytes in it is not taken.
    fn refuse_once(&self, content: &[u8]) {
        let fault = Fault::at(&[Operation::Write], 1, Effect::Fail(EIO));
        self.disk.inject(Fault { content: content.to_vec(), ..fault });
    }

    fn open(&self) -> (Db, Keyspace) {
        let size = SegmentSize::new(64 << 10).unwrap();
        let db =
            Db::builder(self.image.path().join("data")).segment_size(size).blob_bytes(Some(2 << 10)).open().unwrap();
        let keyspace = db.keyspace("events").unwrap();
        (db, keyspace)
    }
}

#[test]
fn a_commit_that_the_disk_of_ext4_did_not_take_is_in_doubt_and_nothing_is_tried_again() {
    refused_commit(FileSystem::Ext4, EXT4_BYTES);
}

#[test]
fn a_commit_that_the_disk_of_xfs_did_not_take_is_in_doubt_and_nothing_is_tried_again() {
    refused_commit(FileSystem::Xfs, XFS_BYTES);
}

fn refused_commit(file_system: FileSystem, bytes: u64) {
    let Some(mut sick) = Sick::or_skip(file_system, bytes) else { return };
    let (db, keyspace) = sick.open();
    keyspace.insert("before", "1").unwrap();
    sick.refuse_once(b"needle");
    let error = keyspace.insert("doubtful", "needle".repeat(100)).unwrap_err();
    assert!(matches!(error, Error::Indeterminate { .. }), "{error}");
    assert!(error.to_string().contains("os error 5"), "{error}");
    // The disk is well again, and whoever tried again would be told that all is well.
    assert!(matches!(keyspace.insert("after", "1").unwrap_err(), Error::Poisoned { .. }));
    assert_eq!(keyspace.get("doubtful").unwrap(), None, "what is not durable is not shown");
    drop(keyspace);
    assert!(db.close().is_err());

    let (db, keyspace) = sick.open();
    assert_eq!(keyspace.get("before").unwrap().unwrap(), "1");
    let shown = keyspace.get("doubtful").unwrap();
    keyspace.insert("after", "2").unwrap();
    drop((keyspace, db));
    // What recovery showed once is there for good: it was not only in memory.
    sick.image.restart().unwrap();
    let (_db, keyspace) = sick.open();
    assert_eq!(keyspace.get("doubtful").unwrap(), shown);
    assert_eq!(
        (keyspace.get("before").unwrap().unwrap(), keyspace.get("after").unwrap().unwrap()),
        ("1".into(), "2".into())
    );
}

#[test]
fn a_table_that_the_disk_of_ext4_did_not_take_is_not_used() {
    refused_file(FileSystem::Ext4, EXT4_BYTES, &"needle".repeat(100));
}

#[test]
fn a_table_that_the_disk_of_xfs_did_not_take_is_not_used() {
    refused_file(FileSystem::Xfs, XFS_BYTES, &"needle".repeat(100));
}

#[test]
fn a_blob_file_that_the_disk_of_ext4_did_not_take_is_not_used() {
    refused_file(FileSystem::Ext4, EXT4_BYTES, &"needle".repeat(2_000));
}

/// A value that is on its way from the log to a table, or a blob file, which the disk does not take.
fn refused_file(file_system: FileSystem, bytes: u64, value: &str) {
    let Some(mut sick) = Sick::or_skip(file_system, bytes) else { return };
    let (db, keyspace) = sick.open();
    keyspace.insert("needle", value).unwrap();
    // The log's last block is written again with what comes after, and must not have it any more.
    keyspace.insert("later", "x".repeat(12_000)).unwrap();
    sick.refuse_once(b"needleneedle");
    let flushed = db.flush();
    let hits = sick.disk.hits();
    assert_eq!(hits.len(), 1, "the block was to be written: {hits:?}");
    if let Err(error) = &flushed {
        assert!(error.to_string().contains("os error 5"), "{error}");
    }
    assert_eq!(keyspace.get("needle").unwrap().unwrap(), value);
    drop((keyspace, db));
    sick.image.restart().unwrap();

    let (db, keyspace) = sick.open();
    assert_eq!(keyspace.get("needle").unwrap().unwrap(), value);
    db.flush().unwrap();
    drop((keyspace, db));
    sick.image.restart().unwrap();
    let (_db, keyspace) = sick.open();
    assert_eq!(keyspace.get("needle").unwrap().unwrap(), value);
}

#[test]
fn any_write_that_the_disk_of_ext4_does_not_take_loses_nothing_that_was_acknowledged() {
    any_write(FileSystem::Ext4, EXT4_BYTES, how_many("SEAWALL_REFUSED_WRITES", 8));
}

/// The n-th write fails, whose ever it is: the log's, a table's, the journal's. Then all is well again.
fn any_write(file_system: FileSystem, bytes: u64, times: u64) {
    let Some(mut sick) = Sick::or_skip(file_system, bytes) else { return };
    let plug = Plug::new(sick.image.path().join("data"));
    plug.go_on(50);
    let mut ended_by_it = 0;
    for number in 0..times {
        sick.disk.heal();
        sick.disk.inject(Fault::at(&[Operation::Write], 1 + 37 * number % 300, Effect::Fail(EIO)));
        let ended = plug.run(100);
        assert_ne!(ended.code, Some(WRONG), "write {number}: {}", ended.words);
        ended_by_it += u64::from(ended.code != Some(0));
        sick.disk.heal();
        sick.image.restart().unwrap();
        plug.go_on(10);
    }
    assert!(ended_by_it > 0, "none of {times} writes that failed was noticed");
    println!("{times} writes that the disk of {file_system} did not take, {ended_by_it} ended it, {}", plug.go_on(0));
}
