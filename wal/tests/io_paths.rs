//! io_uring and POSIX calls are partners: the same work leaves the same bytes, gives the same answers and fails alike.
//! Where the kernel grants no ring, this is POSIX against itself, and the test says so.

mod support;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use seawall_wal::storage::{Access, AfterWrite, Disk, DurableWrite, File, IoPath, ReadRequest, Storage, WriteRequest};
use seawall_wal::{Error, RecordKind, Threads};
use support::Opener;

fn partners() -> [Disk; 2] {
    let disks = [Disk::new(), Disk::posix()];
    assert_eq!(disks[1].io_path(), IoPath::Posix);
    if disks[0].io_path() != IoPath::Uring {
        println!("io_uring is not granted here: POSIX is compared with itself");
    }
    disks
}

fn file(disk: &Disk, folder: &Path, name: &str) -> Arc<dyn File> {
    disk.open(&folder.join(name), Access::CreateNew).unwrap()
}

#[test]
fn random_groups_of_writes_and_reads_leave_and_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let [left, right] = partners();
    let files = [file(&left, folder.path(), "uring"), file(&right, folder.path(), "posix")];
    let mut random = SmallRng::seed_from_u64(7);
    for round in 0..60 {
        // Disjoint pieces: the order within a group is nobody's promise.
        let pieces: Vec<(u64, Vec<u8>)> = (0..random.random_range(1..100u64))
            .map(|index| {
                let mut bytes = vec![0; random.random_range(0..70_000)];
                random.fill(&mut bytes[..]);
                (index * 80_000 + random.random_range(0..10_000), bytes)
            })
            .collect();
        let writes: Vec<_> = pieces.iter().map(|(offset, bytes)| WriteRequest { offset: *offset, bytes }).collect();
        let then = if round % 3 == 0 { AfterWrite::SyncData } else { AfterWrite::Nothing };
        files.iter().for_each(|file| file.write_many(&writes, then).unwrap());
        assert_eq!(files[0].len().unwrap(), files[1].len().unwrap());

        let len = files[0].len().unwrap();
        let places: Vec<(u64, usize)> = (0..random.random_range(1..80))
            .map(|_| {
                let at = random.random_range(0..len);
                (at, random.random_range(0..=(len - at).min(200_000)) as usize)
            })
            .collect();
        let [found, expected] = [&files[0], &files[1]].map(|file| {
            let mut buffers: Vec<Vec<u8>> = places.iter().map(|(_, count)| vec![0; *count]).collect();
            let mut reads: Vec<_> = buffers
                .iter_mut()
                .zip(&places)
                .map(|(buffer, (offset, _))| ReadRequest { offset: *offset, buffer })
                .collect();
            file.read_many(&mut reads).unwrap();
            buffers
        });
        assert!(found == expected, "round {round}");
    }
    let [left, right] = [&files[0], &files[1]].map(|file| file.map().unwrap().to_vec());
    assert!(left == right);
}

#[test]
fn both_fail_alike_beyond_the_end_and_on_a_file_not_open_for_writing() {
    let folder = tempfile::tempdir().unwrap();
    for (disk, name) in partners().iter().zip(["uring", "posix"]) {
        let written = file(disk, folder.path(), name);
        written.write_many(&[WriteRequest { offset: 0, bytes: &[1; 1000] }], AfterWrite::SyncData).unwrap();
        let (mut inside, mut beyond) = ([0; 600], [0; 600]);
        let mut reads =
            [ReadRequest { offset: 0, buffer: &mut inside }, ReadRequest { offset: 900, buffer: &mut beyond }];
        assert_eq!(written.read_many(&mut reads).unwrap_err().kind(), ErrorKind::UnexpectedEof, "{name}");
        let readable = disk.open(&folder.path().join(name), Access::Read).unwrap();
        let error =
            readable.write_many(&[WriteRequest { offset: 0, bytes: &[2; 10] }], AfterWrite::Nothing).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{name}");
        assert_eq!(written.map().unwrap()[..], [1; 1000], "{name}");
    }
}

#[test]
fn a_standby_writes_the_same_segments_through_either() {
    let folder = tempfile::tempdir().unwrap();
    let opener = Opener { threads: Threads::Background, ..Opener::primary() };
    let (primary, ..) = opener.open(Arc::new(Disk::posix()), &folder.path().join("primary")).unwrap();
    let mut random = SmallRng::seed_from_u64(3);
    for _ in 0..400 {
        let mut payload = vec![0; random.random_range(0..3000)];
        random.fill(&mut payload[..]);
        drop(primary.append(RecordKind::Commit, &payload).unwrap());
    }
    primary.flush().unwrap();
    let segments = partners().map(|disk| {
        let dir = folder.path().join(disk.io_path().to_string() + &random.random::<u64>().to_string());
        let opener = Opener { threads: Threads::Background, ..Opener::standby() };
        let (standby, ..) = opener.open(Arc::new(disk), &dir).unwrap();
        while let Some(bytes) = primary.read(standby.end().lsn, 300_000).unwrap() {
            standby.receive::<Error>(&bytes, |_| Ok(())).unwrap();
            standby.flush_received().unwrap();
        }
        assert_eq!(standby.end(), primary.end());
        standby.close().unwrap();
        let count = primary.end().lsn.offset() / 65536;
        assert!(count > 3);
        (0..count)
            .map(|number| std::fs::read(dir.join(format!("00000001-{number:016x}.wal"))).unwrap())
            .collect::<Vec<_>>()
    });
    assert!(segments[0] == segments[1], "verbatim on both paths");
    let original = std::fs::read(folder.path().join("primary").join("00000001-0000000000000001.wal")).unwrap();
    assert!(segments[0][1] == original, "and verbatim what the primary wrote");
}

#[test]
fn a_log_written_any_way_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    for way in DurableWrite::ALL {
        let dir = folder.path().join(way.name());
        let opener = Opener { threads: Threads::Background, ..Opener::primary() };
        let (log, ..) = opener.open(Arc::new(Disk::new()), &dir).unwrap();
        log.write_by(way);
        for number in 0..600_u64 {
            let ticket =
                log.append(RecordKind::Commit, &number.to_le_bytes().repeat(1 + number as usize % 80)).unwrap();
            if number % 7 == 0 && ticket.wait().is_err() {
                // A ring that is not granted here; the log must say so and stop, not go on.
                assert_ne!(way, DurableWrite::ThenSync);
                assert!(matches!(log.poisoned(), Some(Error::Poisoned { .. })), "{way}");
                break;
            }
        }
        let (end, poisoned) = (log.end(), log.poisoned().is_some());
        assert_eq!(log.stats().durable_write, way);
        drop(log);
        let (log, recovery, records) = opener.open(Arc::new(Disk::new()), &dir).unwrap();
        if !poisoned {
            assert_eq!((log.end(), records.len()), (end, 600), "{way}: {recovery:?}");
        }
        log.close().unwrap();
    }
}
