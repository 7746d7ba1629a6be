//! A disk with so and so many bytes left: writes end with a word that helps, what was acknowledged is there, reads go on,
//! and so do writes once there is room, with and without opening again.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use seawall::{Db, Error};
use seawall_disks::image::{FileSystem, Image};

use crate::plug::Plug;
use crate::{EXT4_BYTES, how_many};

/// Bytes that are left on the disk go up to this, in even steps; a database of this size needs more now and then.
const FREE_MAX: u64 = 256 << 10;
/// The same for a new one, which is small enough for what is left in the end.
const FREE_FOR_NEW_MAX: u64 = 768 << 10;
/// Commits of a writer before the disk may be large enough for it.
const COMMITS: u64 = 300;
/// How soon writes go on after there is room, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_full_disk_ends_writes_and_neither_reads_nor_what_was_acknowledged() {
    let Some(image) = Image::or_skip(FileSystem::Ext4, EXT4_BYTES) else { return };
    let plug = Plug::new(image.path().join("data"));
    plug.go_on(100);
    let (disks, mut full) = (how_many("SEAWALL_FULL_DISKS", 60), 0);
    for disk in 0..disks {
        let free = image.fill(FREE_MAX * disk / disks).unwrap();
        let ended = plug.run(COMMITS);
        if ended.code != Some(0) {
            full += 1;
            let (kind, message) = ended.error();
            assert_eq!(kind, "disk_full", "{free} bytes free: {message}");
            assert!(message.contains(plug.dir().to_str().unwrap()), "{message}");
            assert!(message.contains("is full; free space"), "{message}");
        }
        let read = seawall(&["digest", "--data-dir", plug.dir().to_str().unwrap()]);
        assert!(read.contains("writer-3"), "{free} bytes free: {read}");
        image.make_room().unwrap();
        let after = plug.go_on(10);
        assert_eq!(after.acknowledged, 40, "{free} bytes free: {after:?}");
    }
    println!("{disks} disks, {full} of them full, {}", plug.go_on(0));
    assert!(full * 2 > disks, "only {full} of {disks} disks were full");
}

#[test]
fn a_power_cut_of_a_disk_that_is_nearly_full_loses_nothing_that_was_acknowledged() {
    let Some(mut image) = Image::or_skip(FileSystem::Ext4, EXT4_BYTES) else { return };
    let plug = Plug::new(image.path().join("data"));
    plug.go_on(100);
    let (disks, mut refused) = (how_many("SEAWALL_FULL_DISKS", 60), 0);
    for disk in 0..disks {
        let free = image.fill(FREE_MAX * disk / disks).unwrap();
        let mut running = plug.start();
        // It may have found the disk full by then, and ended.
        running.has_acknowledged(1 + disk as usize % 50);
        image.cut_power().unwrap();
        running.kill();
        image.restart().unwrap();
        // What is to be cut off the log is kept aside first, and there may be no room for that.
        let ended = plug.run(0);
        if ended.code != Some(0) {
            refused += 1;
            let (kind, message) = ended.error();
            assert_eq!(kind, "disk_full", "{free} bytes free: {message}");
        }
        image.make_room().unwrap();
        plug.go_on(10);
    }
    println!("{disks} power cuts of full disks, {refused} of them too full to go on at once, {}", plug.go_on(0));
}

#[test]
fn a_database_is_made_on_a_full_disk_or_refused_and_can_be_made_when_there_is_room() {
    let Some(image) = Image::or_skip(FileSystem::Ext4, EXT4_BYTES) else { return };
    let (disks, mut refused) = (how_many("SEAWALL_FULL_DISKS", 60), 0);
    for disk in 0..disks {
        let plug = Plug::new(image.path().join(format!("data-{disk}")));
        let free = image.fill(FREE_FOR_NEW_MAX * disk / disks).unwrap();
        let ended = plug.run(1);
        if ended.code != Some(0) {
            refused += 1;
            let (kind, message) = ended.error();
            assert_eq!(kind, "disk_full", "{free} bytes free: {message}");
        }
        image.make_room().unwrap();
        let after = plug.go_on(10);
        assert_eq!(after.acknowledged, 40, "{free} bytes free: {after:?}");
        std::fs::remove_dir_all(plug.dir()).unwrap();
    }
    println!("{disks} disks, {refused} of them too full for a new database");
    assert!(refused > 0 && refused < disks, "{refused} of {disks}");
}

#[test]
fn writes_go_on_by_themselves_when_a_full_disk_has_room_again() {
    let Some(image) = Image::or_skip(FileSystem::Ext4, EXT4_BYTES) else { return };
    let dir = image.path().join("data");
    let open = || {
        let size = seawall::SegmentSize::new(64 << 10).unwrap();
        Db::builder(&dir).segment_size(size).memtable_bytes(48 << 10).table_bytes(24 << 10).open().unwrap()
    };
    let db = open();
    let keyspace = db.keyspace("events").unwrap();
    let mut acknowledged = BTreeMap::new();
    let write = |acknowledged: &mut BTreeMap<String, Vec<u8>>| {
        let key = format!("{:08}", acknowledged.len());
        let value = key.repeat(100).into_bytes();
        keyspace.insert(&key, &value).map(|_| acknowledged.insert(key, value))
    };
    for free in [0, 4 << 10, 50 << 10, 128 << 10, 500 << 10] {
        image.fill(free).unwrap();
        let error = loop {
            if let Err(error) = write(&mut acknowledged) {
                break error;
            }
        };
        assert!(matches!(error, Error::DiskFull { .. }), "{free} bytes free: {error}");
        for (key, value) in &acknowledged {
            assert_eq!(keyspace.get(key).unwrap().as_deref(), Some(value.as_slice()), "{free} bytes free: {key}");
        }
        image.make_room().unwrap();
        let until = Instant::now() + PATIENCE;
        while let Err(error) = write(&mut acknowledged) {
            assert!(matches!(error, Error::DiskFull { .. }), "{free} bytes free: {error}");
            assert!(Instant::now() < until, "no room after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Also those that need the next segment, which could not be prepared before.
        for _ in 0..100 {
            write(&mut acknowledged).unwrap_or_else(|error| panic!("{free} bytes free: {error}"));
        }
    }
    drop(keyspace);
    db.close().unwrap();
    let keyspace = open().keyspace("events").unwrap();
    let found = keyspace.iter().map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap());
    assert!(found.eq(acknowledged.into_iter().map(|(key, value)| (key.into_bytes(), value))));
}

/// What a command prints.
fn seawall(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_seawall")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
