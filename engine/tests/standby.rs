//! A node that receives another node's log: it shows the same, refuses writes, is promoted, and an old primary returns.

mod common;

use std::path::Path;

use common::{PATH, all, inline};
use seawall_engine::manifest::Manifest;
use seawall_engine::{Db, Error, Installation, LogRetention, OpenAs, Refusal, Role};
use seawall_wal::storage::{MemoryDisk, Storage};
use seawall_wal::{Lsn, TimelineId, TimelineNonce};

/// An empty standby of `primary`, on a disk of its own.
fn standby_of(primary: &Db) -> (MemoryDisk, Db) {
    let disk = MemoryDisk::new();
    let manifest = Manifest::empty(primary.cluster()).encode();
    Installation::begin(&inline(&disk), &manifest, &primary.history()).unwrap().finish(Role::Standby).unwrap();
    let db = inline(&disk).open().unwrap();
    assert_ne!(db.node(), primary.node());
    (disk, db)
}

/// Ships everything flushed; `bytes` at a time.
fn ship(from: &Db, to: &Db, bytes: usize) {
    while let Some(log) = from.log().read(to.log().end().lsn, bytes).unwrap() {
        to.receive(&log).unwrap();
        to.flush_received().unwrap();
    }
}

fn fill(db: &Db, numbers: std::ops::Range<u32>) {
    let keys = db.keyspace("k").unwrap();
    for number in numbers {
        keys.insert(format!("{:03}", number % 150), vec![number as u8; 700]).unwrap();
        if number % 7 == 0 {
            keys.remove(format!("{:03}", (number + 50) % 150)).unwrap();
        }
    }
}

fn same(a: &Db, b: &Db) {
    assert_eq!(a.visible(), b.visible());
    assert_eq!(a.snapshot().unwrap().digest().unwrap(), b.snapshot().unwrap().digest().unwrap());
}

#[test]
fn a_standby_shows_the_same_and_refuses_writes_naming_the_primary() {
    let disk = MemoryDisk::new();
    let primary = inline(&disk).log_retention(LogRetention::Node).open().unwrap();
    let (standby_disk, standby) = standby_of(&primary);
    for round in 0..6 {
        fill(&primary, round * 100..(round + 1) * 100);
        ship(&primary, &standby, if round % 2 == 0 { 1 } else { 100_000 });
        same(&primary, &standby);
    }
    assert!(standby.redo().lsn > Lsn::ZERO, "it wrote its own tables");
    assert!(standby.log().oldest() > Lsn::ZERO, "and let go of the log they hold");
    let keys = standby.keyspace("k").unwrap();
    assert_eq!(
        keys.insert("a", "1").unwrap_err().to_string(),
        "this node is read-only; promote it first, or write to its primary"
    );
    standby.set_primary(Some(String::from("db1:7700")));
    let error = keys.insert("a", "1").unwrap_err();
    assert!(matches!(&error, Error::ReadOnly { primary: Some(primary) } if primary == "db1:7700"), "{error}");
    assert!(matches!(standby.keyspace("new"), Err(Error::UnknownKeyspace { .. })));
    assert!(!standby.takes_writes() && primary.takes_writes());
    drop((keys, standby));
    let standby = inline(&standby_disk).open().unwrap();
    assert_eq!(standby.role(), Role::Standby);
    same(&primary, &standby);
    fill(&primary, 0..10);
    ship(&primary, &standby, 1000);
    same(&primary, &standby);
}

#[test]
fn a_standby_whose_log_is_damaged_below_what_it_confirmed_gives_nothing_up() {
    let primary = inline(&MemoryDisk::new()).log_retention(LogRetention::Node).open().unwrap();
    let (disk, standby) = standby_of(&primary);
    fill(&primary, 0..300);
    ship(&primary, &standby, 100_000);
    standby.close().unwrap();
    let log = Path::new(PATH).join("wal");
    let segment = log.join(disk.list(&log).unwrap().iter().filter(|name| name.ends_with(".wal")).nth(1).unwrap());
    disk.flip_bit(&segment, 20_000, 3);
    let error = inline(&disk).open().unwrap_err();
    assert!(matches!(&error, Error::Log(seawall_wal::Error::Corrupt { .. })), "{error}");
    assert!(error.to_string().contains("restore this node"), "{error}");
    disk.flip_bit(&segment, 20_000, 3);
    same(&primary, &inline(&disk).open().unwrap());
}

#[test]
fn a_delayed_standby_keeps_log_it_has_not_applied() {
    let disk = MemoryDisk::new();
    let primary = inline(&disk).open().unwrap();
    let (standby_disk, standby) = standby_of(&primary);
    fill(&primary, 0..20);
    let middle = primary.visible();
    let noted = primary.snapshot().unwrap();
    fill(&primary, 20..40);
    while let Some(log) = primary.log().read(standby.log().end().lsn, 4096).unwrap() {
        standby.receive_unapplied(&log).unwrap();
    }
    standby.flush_received().unwrap();
    assert_eq!((standby.visible(), standby.log().end()), (Lsn::ZERO, primary.log().end()));
    assert_eq!(standby.apply_received(middle).unwrap(), middle);
    assert_eq!(standby.snapshot().unwrap().digest().unwrap(), noted.digest().unwrap());
    let more = primary.keyspace("k").unwrap().insert("more", "1").unwrap();
    let log = primary.log().read(standby.log().end().lsn, 4096).unwrap().unwrap();
    assert!(matches!(standby.receive(&log), Err(Error::WrongState { .. })), "no record is skipped");
    standby.receive_unapplied(&log).unwrap();
    standby.flush_received().unwrap();
    assert_eq!(standby.apply_received(Lsn::MAX).unwrap(), more.lsn);
    same(&primary, &standby);
    drop(standby);
    same(&primary, &inline(&standby_disk).open().unwrap());
}

#[test]
fn records_are_applied_in_order_or_not_at_all() {
    let disk = MemoryDisk::new();
    // It keeps all its log, however soon tables hold it.
    let primary = inline(&disk).log_retention(LogRetention::Node).open().unwrap();
    let (_, standby) = standby_of(&primary);
    fill(&primary, 0..100);
    while let Some(log) = primary.log().read(standby.log().end().lsn, 1 << 20).unwrap() {
        standby.receive_unapplied(&log).unwrap();
    }
    standby.flush_received().unwrap();
    let mut reader = standby.log().reader(seawall_wal::Position::ZERO);
    reader.next_record().unwrap().unwrap();
    let skipped = reader.next_record().unwrap().unwrap();
    assert!(matches!(standby.apply_record(&skipped), Err(Error::WrongState { .. })));
    let mut reader = standby.log().reader(seawall_wal::Position::ZERO);
    while let Some(record) = reader.next_record().unwrap() {
        standby.apply_record(&record).unwrap();
        standby.apply_record(&record).unwrap();
    }
    same(&primary, &standby);
}

#[test]
fn a_promoted_standby_writes_on_a_timeline_of_its_own_and_the_old_primary_follows() {
    let disk = MemoryDisk::new();
    let primary = inline(&disk).open().unwrap();
    let (standby_disk, standby) = standby_of(&primary);
    fill(&primary, 0..60);
    ship(&primary, &standby, 10_000);
    let fork = standby.log().end();
    let size = standby.log().options().segment_size;
    let history = standby.history().forked(TimelineId(2), TimelineNonce::random(), fork, size).unwrap();
    assert!(matches!(primary.promote(&history), Err(Error::WrongState { .. })), "a primary is not promoted");
    let wrong =
        standby.history().forked(TimelineId(2), TimelineNonce::random(), seawall_wal::Position::ZERO, size).unwrap();
    assert!(matches!(standby.promote(&wrong), Err(Error::WrongState { .. })), "not from its end");
    assert_eq!(standby.role(), Role::Standby);
    let first = standby.promote(&history).unwrap();
    assert!(first.lsn > size.boundary_at_or_after(fork.lsn));
    assert_eq!((standby.role(), standby.history()), (Role::Normal, history.clone()));
    fill(&standby, 60..200);
    drop(standby);
    let promoted = inline(&standby_disk).open().unwrap();
    assert!(promoted.takes_writes());
    fill(&promoted, 200..210);
    // The old primary ends at the fork, so it follows.
    assert_eq!(primary.log().end(), fork);
    drop(primary);
    let old = inline(&disk).open_as(OpenAs::Standby).open().unwrap();
    assert!(matches!(old.keyspace("k").unwrap().insert("a", "1"), Err(Error::ReadOnly { .. })));
    old.follow_history(&history).unwrap();
    ship(&promoted, &old, 10_000);
    same(&promoted, &old);
    drop(old);
    let old = inline(&disk).open().unwrap();
    assert_eq!((old.role(), old.history()), (Role::Standby, history));
    same(&promoted, &old);
}

#[test]
fn a_crash_around_a_promotion_leaves_a_standby_or_a_primary() {
    let disk = MemoryDisk::new();
    let primary = inline(&disk).open().unwrap();
    fill(&primary, 0..20);
    let (standby_disk, standby) = standby_of(&primary);
    ship(&primary, &standby, 10_000);
    let content = all(&standby.keyspace("k").unwrap());
    drop(standby);
    let base = standby_disk.duplicate();
    standby_disk.keep_journal();
    let standby = inline(&standby_disk).open().unwrap();
    let size = standby.log().options().segment_size;
    let fork = standby.log().end();
    let history = standby.history().forked(TimelineId(2), TimelineNonce::random(), fork, size).unwrap();
    standby.promote(&history).unwrap();
    standby.keyspace("k").unwrap().insert("~", "1").unwrap();
    let (mut standbys, mut primaries) = (0, 0);
    for entry in standby_disk.journal() {
        base.replay(&entry);
        for keep in [0, 1] {
            let mut count = keep;
            let crashed = base.crashed(|_| {
                count += 1;
                count % 2
            });
            let db = inline(&crashed).open().unwrap();
            let mut found = all(&db.existing_keyspace("k").unwrap());
            found.retain(|(key, _)| key != b"~");
            assert_eq!(found, content);
            match db.role() {
                Role::Standby => {
                    standbys += 1;
                    assert_eq!(db.promote(&history).unwrap().lsn.distance_from(history.current().begin), 512 + 48 + 64);
                }
                _ => primaries += 1,
            }
            db.keyspace("k").unwrap().insert("a", "1").unwrap();
        }
    }
    assert!(standbys > 0 && primaries > 0, "{standbys} {primaries}");
}

#[test]
fn a_running_primary_steps_down_and_writes_can_be_held() {
    let disk = MemoryDisk::new();
    let db = inline(&disk).open().unwrap();
    let keys = db.keyspace("k").unwrap();
    keys.insert("a", "1").unwrap();
    db.refuse_writes(Refusal::Stopping, "it is being stopped");
    assert!(matches!(keys.insert("a", "2"), Err(Error::Refused { reason: Refusal::Stopping, .. })));
    assert!(!db.takes_writes());
    db.take_writes(Refusal::Stopping);
    keys.insert("a", "2").unwrap();
    db.become_standby().unwrap();
    assert!(matches!(keys.insert("a", "3"), Err(Error::ReadOnly { .. })));
    let fork = db.log().end();
    let size = db.log().options().segment_size;
    let history = db.history().forked(TimelineId(2), TimelineNonce::random(), fork, size).unwrap();
    db.promote(&history).unwrap();
    keys.insert("a", "4").unwrap();
    assert_eq!(keys.get("a").unwrap().unwrap(), "4");
}
