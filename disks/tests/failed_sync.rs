//! What ext4 and XFS make of blocks that their disk did not take, which is why a sync that failed is never tried again: the
//! next one succeeds, and what was written is shown until memory is needed for something else.
#![cfg(target_os = "linux")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;

use seawall_disks::fuse::{Effect, Fault, FuseDisk, Operation};
use seawall_disks::image::{FileSystem, Image};

const EIO: i32 = 5;

#[test]
fn ext4_shows_what_its_disk_did_not_take_and_calls_the_next_sync_a_success() {
    is_forgotten(FileSystem::Ext4, 64 << 20);
}

#[test]
fn xfs_shows_what_its_disk_did_not_take_and_calls_the_next_sync_a_success() {
    is_forgotten(FileSystem::Xfs, 320 << 20);
}

fn is_forgotten(file_system: FileSystem, bytes: u64) {
    let Some(disk) = FuseDisk::or_skip() else { return };
    let Some(mut image) = Image::at_or_skip(file_system, bytes, &disk.path().join("image")) else { return };
    let path = image.path().join("file");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(&[b'a'; 4096], 0).unwrap();
    file.sync_all().unwrap();

    let new = b"newer".repeat(4096 / 5);
    let fault = Fault::at(&[Operation::Write], 1, Effect::Fail(EIO));
    disk.inject(Fault { content: new[..100].to_vec(), ..fault });
    file.write_all_at(&new, 0).unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    file.sync_data().unwrap();
    assert_eq!(fs::read(&path).unwrap()[..5], *b"newer");
    drop(file);
    image.restart().unwrap();
    assert_eq!(fs::read(&path).unwrap(), [b'a'; 4096]);
}
