//! A file system that becomes read-only under the program, or is so before: it stops with a word that helps, has lost
//! nothing, and goes on when the file system is writable again.

use seawall_disks::image::{FileSystem, Image};

use crate::plug::{Ended, Plug, WRONG};
use crate::{EXT4_BYTES, XFS_BYTES, how_many};

#[test]
fn when_ext4_finds_damage_and_is_read_only_the_program_says_so_and_has_lost_nothing() {
    let Some(mut image) = Image::or_skip(FileSystem::Ext4, EXT4_BYTES) else { return };
    let plug = Plug::new(image.path().join("data"));
    let times = how_many("SEAWALL_READ_ONLY_TURNS", 10);
    for turn in 0..times {
        let mut running = plug.start();
        running.wait_until_acknowledged(1 + 40 * turn as usize);
        image.find_damage().unwrap();
        // ext4 answers with an I/O error what is under way when it finds the damage.
        refused(&running.end(), &plug, &["Read-only file system", "Input/output error"]);
        // Not before it is writable again.
        assert_advised(&plug.run(0), &plug);
        image.restart().unwrap();
        plug.go_on(10);
    }
    println!("{times} times read-only, {}", plug.go_on(0));
}

#[test]
fn a_database_on_ext4_that_is_mounted_read_only_is_refused_until_it_is_not() {
    mounted_read_only(FileSystem::Ext4, EXT4_BYTES);
}

#[test]
fn a_database_on_xfs_that_is_mounted_read_only_is_refused_until_it_is_not() {
    mounted_read_only(FileSystem::Xfs, XFS_BYTES);
}

fn mounted_read_only(file_system: FileSystem, bytes: u64) {
    let Some(mut image) = Image::or_skip(file_system, bytes) else { return };
    let (plug, new) = (Plug::new(image.path().join("data")), Plug::new(image.path().join("new")));
    plug.go_on(100);
    image.restart_read_only().unwrap();
    assert_advised(&plug.run(0), &plug);
    assert_advised(&new.run(0), &new);
    image.restart().unwrap();
    assert_eq!(plug.go_on(10).found, 400);
    new.go_on(10);
}

/// It says what cannot be done, where, why, and what to do.
fn assert_advised(ended: &Ended, plug: &Plug) {
    let message = refused(ended, plug, &["Read-only file system"]);
    assert!(message.contains("mount it read-write, and open the database again"), "{message}");
}

/// It says where, and one of these reasons. Nothing is damaged.
fn refused(ended: &Ended, plug: &Plug, reasons: &[&str]) -> String {
    let (kind, message) = ended.error();
    assert!(ended.code.is_some_and(|code| code != 0 && code != WRONG), "{:?} {kind}: {message}", ended.code);
    assert!(message.contains(plug.dir().to_str().unwrap()), "{message}");
    assert!(reasons.iter().any(|reason| message.contains(reason)), "{message}");
    message
}
