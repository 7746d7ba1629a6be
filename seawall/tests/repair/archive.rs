//! Copies in the archive: of the log in its segments, of tables and blob files in its base backups.

use std::path::{Path, PathBuf};

use seawall::backup::backup::BackupOptions;
use seawall::node::{Error, Node, NodeOptions, State};
use seawall::{SegmentSize, TimelineId};

use crate::nodes::{PATIENCE, archive, flip, wait};

const KEYS: u32 = 600;

fn options(folder: &Path) -> NodeOptions {
    NodeOptions {
        segment_size: SegmentSize::MIN,
        memtable_bytes: 128 << 10,
        archive: archive(folder),
        ..NodeOptions::new("primary".parse().unwrap(), folder.join("primary"))
    }
}

/// A node that was stopped, all of it in the archive: its log, and its tables in a base backup.
fn stopped(folder: &Path) {
    let node = Node::start(options(folder)).unwrap();
    let keyspace = node.db().unwrap().keyspace("numbers").unwrap();
    for number in 0..KEYS {
        keyspace.insert(format!("{number:08}"), vec![number as u8; if number % 9 == 0 { 6_000 } else { 700 }]).unwrap();
    }
    drop(keyspace);
    node.db().unwrap().flush().unwrap();
    node.db().unwrap().compact().unwrap();
    wait("there is an archive", || node.archiver().is_some());
    node.create_backup(&BackupOptions::default()).unwrap();
    let keyspace = node.db().unwrap().keyspace("numbers").unwrap();
    for number in KEYS..KEYS + 150 {
        keyspace.insert(format!("{number:08}"), vec![number as u8; 700]).unwrap();
    }
    drop(keyspace);
    wait("all is archived", || {
        node.archiver().is_some_and(|status| status.archived.lsn >= node.db().unwrap().log().flushed().value())
    });
    node.stop(PATIENCE).unwrap();
}

fn numbers(node: &Node) -> Result<u32, seawall::Error> {
    let keyspace = node.db().unwrap().existing_keyspace("numbers")?;
    let mut count = 0;
    for pair in keyspace.iter() {
        let (key, value) = pair?;
        assert_eq!(key, format!("{count:08}"));
        assert!(value.iter().all(|byte| *byte == count as u8), "what is served is right");
        count += 1;
    }
    Ok(count)
}

fn files(folder: &Path, what: &str, ending: &str) -> Vec<PathBuf> {
    let names = std::fs::read_dir(folder.join("primary").join(what)).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> = names.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    names.sort();
    names
}

#[test]
fn a_node_whose_files_are_damaged_or_gone_starts_with_them_repaired_from_its_archive() {
    let folder = tempfile::tempdir().unwrap();
    stopped(folder.path());
    let (tables, blobs) = (files(folder.path(), "tables", ".table"), files(folder.path(), "tables", ".blob"));
    std::fs::remove_file(&tables[0]).unwrap();
    std::fs::remove_file(&blobs[0]).unwrap();
    let segments = files(folder.path(), "wal", ".wal");
    // One that recovery reads, and that others follow on.
    let begun: Vec<_> = segments.iter().filter(|path| std::fs::read(path).unwrap()[..512] != [0; 512]).collect();
    flip(begun[begun.len() - 2], 40_000);
    let alone = Node::start(NodeOptions { archive: None, ..options(folder.path()) }).unwrap_err();
    assert!(matches!(alone, Error::Engine(_)), "{alone}");

    let node = Node::start(options(folder.path())).unwrap();
    assert_eq!(numbers(&node).unwrap(), KEYS + 150);
    node.db().unwrap().verify_tables().unwrap();
    assert_eq!(
        std::fs::read_dir(folder.path().join("primary/wal/cut")).unwrap().count(),
        1,
        "what was damaged is kept"
    );
    wait("it takes writes", || node.db().unwrap().keyspace("more").is_ok_and(|more| more.insert("a", "b").is_ok()));
    node.stop(PATIENCE).unwrap();
}

#[test]
fn a_running_node_repairs_what_its_readers_find_damaged() {
    let folder = tempfile::tempdir().unwrap();
    stopped(folder.path());
    for path in files(folder.path(), "tables", ".table").iter().chain(&files(folder.path(), "tables", ".blob")) {
        flip(path, 150);
    }
    let node = Node::start(options(folder.path())).unwrap();
    let refused = numbers(&node).unwrap_err();
    assert!(matches!(refused, seawall::Error::CorruptTable { .. }), "{refused}");
    wait("everything is repaired and served", || numbers(&node).is_ok_and(|count| count == KEYS + 150));
    wait("no byte is damaged any more", || node.db().unwrap().verify_tables().is_ok());
    assert_ne!(node.state().0, State::Failed, "{}", node.state().1);
    node.stop(PATIENCE).unwrap();
}

#[test]
fn a_running_node_without_another_copy_takes_no_more_writes_and_names_the_place_until_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    stopped(folder.path());
    let tables = files(folder.path(), "tables", ".table");
    for path in &tables {
        flip(path, 150);
        // The only other copy is damaged too.
        let hash = path.file_stem().unwrap();
        flip(&folder.path().join("archive/tables").join(hash).join("00000000"), 300);
    }
    let node = Node::start(options(folder.path())).unwrap();
    let more = node.db().unwrap().keyspace("numbers").unwrap();
    assert!(numbers(&node).is_err());
    wait("it gives up", || node.state().0 == State::Failed);
    let (_, words) = node.state();
    let named = tables.iter().any(|path| words.contains(path.file_stem().unwrap().to_str().unwrap()));
    assert!(named && words.contains("it cannot be repaired: the archive at "), "{words}");
    assert!(words.contains("restore this node from a standby or the archive"), "{words}");
    let refused = more.insert("a", "b").unwrap_err();
    assert!(refused.to_string().contains(&words), "who writes hears why: {refused}");
    assert!(node.db().unwrap().stats().writes_refused.is_some_and(|error| error.to_string().contains(&words)));
    assert_eq!(more.get(format!("{:08}", KEYS + 100)).unwrap().unwrap().len(), 700, "what is whole is served");

    for path in &tables {
        flip(&folder.path().join("archive/tables").join(path.file_stem().unwrap()).join("00000000"), 300);
    }
    wait("it goes on with what the archive has again", || node.state().0 == State::Running);
    more.insert("a", "b").unwrap();
    more.remove("a").unwrap();
    wait("everything is repaired and served", || numbers(&node).is_ok_and(|count| count == KEYS + 150));
    drop(more);
    node.stop(PATIENCE).unwrap();
}

#[test]
fn a_log_that_no_copy_has_stops_the_start_and_the_position_is_named() {
    let folder = tempfile::tempdir().unwrap();
    stopped(folder.path());
    let segments = files(folder.path(), "wal", ".wal");
    let begun: Vec<_> = segments.iter().filter(|path| std::fs::read(path).unwrap()[..512] != [0; 512]).collect();
    let damaged = begun[begun.len() - 2];
    flip(damaged, 40_000);
    std::fs::remove_dir_all(folder.path().join("archive/wal")).unwrap();
    let before = std::fs::read(damaged).unwrap();
    let words = Node::start(options(folder.path())).unwrap_err().to_string();
    assert!(words.contains("the log is damaged at 0/") && words.contains("in segment "), "{words}");
    assert!(words.contains(&format!("of timeline {}", TimelineId(1))), "{words}");
    assert!(words.contains("it could not be repaired from another copy"), "{words}");
    assert_eq!(std::fs::read(damaged).unwrap(), before, "nothing was changed");
}
