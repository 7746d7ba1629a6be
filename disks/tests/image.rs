//! File systems in images do what is said of them: otherwise what a database survives on them says nothing.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use seawall_disks::image::{FileSystem, Image};

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
