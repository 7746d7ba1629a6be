//! File systems in images do what is said of them: otherwise what a database survives on them says nothing.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{self, IoSlice, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::io::{ReadWriteFlags, pwritev2};
use seawall_disks::fuse::{PowerLoss, SECTOR_LEN};
use seawall_disks::image::{FileSystem, ForgetfulImage, Image};

/// How often a file that was not synced may be there all the same: whoever else on the machine calls `sync` saves it.
const TRIES: usize = 20;

#[test]
fn a_power_cut_of_ext4_takes_what_was_not_synced_and_nothing_else() {
    power_cut(FileSystem::Ext4, 64 << 20);
}

#[test]
fn a_power_cut_of_xfs_takes_what_was_not_synced_and_nothing_else() {
    power_cut(FileSystem::Xfs, 320 << 20);
}

fn power_cut(file_system: FileSystem, bytes: u64) {
    let Some(mut image) = Image::or_skip(file_system, bytes) else { return };
    let (synced, unsynced) = (image.path().join("synced"), image.path().join("unsynced"));
    let mut lost = false;
    for number in 0..TRIES {
        let mut file = File::create(&synced).unwrap();
        writeln!(file, "{number}").unwrap();
        file.sync_all().unwrap();
        File::open(image.path()).unwrap().sync_all().unwrap();
        fs::write(&unsynced, "gone").unwrap();
        image.cut_power().unwrap();
        assert!(File::create(image.path().join("late")).is_err(), "nothing is written without power");
        drop(file);
        image.restart().unwrap();
        assert_eq!(fs::read_to_string(&synced).unwrap(), format!("{number}\n"));
        lost = fs::read(&unsynced).is_ok_and(|content| content.is_empty()) || !unsynced.exists();
        if lost {
            break;
        }
        fs::remove_file(&unsynced).unwrap();
    }
    assert!(lost, "what was not synced survived {TRIES} power cuts");
}

#[test]
fn so_many_bytes_can_be_written_as_were_left_free_but_for_a_block_that_says_where_they_are() {
    /// A file in many pieces has one.
    const BLOCK: u64 = 1 << 10;
    let Some(image) = Image::or_skip(FileSystem::Ext4, 64 << 20) else { return };
    for free in [0, 1 << 10, 100 << 10, 5 << 10] {
        assert_eq!(image.fill(free).unwrap(), free);
        let path = image.path().join("written");
        let written = written_until_full(&path);
        assert!((free.saturating_sub(BLOCK)..=free).contains(&written), "{written} of {free}");
        fs::remove_file(path).unwrap();
    }
    image.make_room().unwrap();
    assert!(image.free_bytes().unwrap() > 40 << 20);
}

/// How many bytes a file takes before the disk is full.
fn written_until_full(path: &Path) -> u64 {
    let mut file = File::create(path).unwrap();
    let error = loop {
        if let Err(error) = file.write_all(&[1; 1 << 10]).and_then(|()| file.sync_data()) {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    file.metadata().unwrap().len()
}

#[test]
fn after_ext4_found_damage_open_files_cannot_be_written_until_it_is_mounted_again() {
    let Some(mut image) = Image::or_skip(FileSystem::Ext4, 64 << 20) else { return };
    let path = image.path().join("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"before").unwrap();
    file.sync_all().unwrap();
    image.find_damage().unwrap();
    let refused = file.write_all(b"after").and_then(|()| file.sync_all()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem, "{refused}");
    assert_eq!(fs::read(&path).unwrap(), b"before");
    drop(file);
    image.restart().unwrap();
    fs::write(&path, "again").unwrap();
    image.restart_read_only().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"again");
    assert_eq!(fs::write(&path, "no").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn what_was_not_flushed_to_a_disk_that_forgets_is_lost_under_ext4_even_past_the_page_cache() {
    unflushed(FileSystem::Ext4, 64 << 20);
}

#[test]
fn what_was_not_flushed_to_a_disk_that_forgets_is_lost_under_xfs_even_past_the_page_cache() {
    unflushed(FileSystem::Xfs, 320 << 20);
}

/// Blocks that are there already are written over past the page cache, and then flushed, flushed by the write itself, or not.
fn unflushed(file_system: FileSystem, bytes: u64) {
    const BLOCK: usize = 4096;
    #[repr(C, align(4096))]
    struct Aligned([u8; BLOCK]);
    let Some(mut image) = ForgetfulImage::or_skip(file_system, bytes) else { return };
    let write = |path: &Path, byte: u8, flags: ReadWriteFlags| {
        let file = File::options().write(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        assert_eq!(pwritev2(&file, &[IoSlice::new(&Aligned([byte; BLOCK]).0)], 0, flags).unwrap(), BLOCK);
        file
    };
    let paths = ["synced", "durable", "unsynced"].map(|name| image.path().join(name));
    for path in &paths {
        fs::write(path, [b'a'; BLOCK]).unwrap();
        File::open(path).unwrap().sync_all().unwrap();
    }
    File::open(image.path()).unwrap().sync_all().unwrap();
    write(&paths[0], b'b', ReadWriteFlags::empty()).sync_data().unwrap();
    write(&paths[1], b'b', ReadWriteFlags::DSYNC);
    write(&paths[2], b'b', ReadWriteFlags::empty());
    image.cut_power();
    let then = image.disk().remember();
    let mut after = |loss| {
        image.restart_as_of(&then, loss).unwrap();
        paths.each_ref().map(|path| String::from_utf8(fs::read(path).unwrap()).unwrap())
    };
    let blocks = |byte: &str| byte.repeat(BLOCK);
    assert_eq!(after(PowerLoss::NothingKept), ["b", "b", "a"].map(blocks));
    assert_eq!(after(PowerLoss::EverythingKept), ["b", "b", "b"].map(blocks));
    if file_system == FileSystem::Xfs {
        // Its image is large, and the disk beneath is the same.
        return;
    }
    let lost_alone = (0..then.unsynced()).map(|number| after(PowerLoss::AllButOne(number)));
    let torn: Vec<String> = lost_alone.map(|[_, _, unsynced]| unsynced).filter(|block| block.contains('a')).collect();
    assert_eq!(torn.len(), BLOCK / SECTOR_LEN, "each sector of the block can be lost alone");
}
