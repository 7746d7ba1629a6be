//! What a program sees through the mount. Each test says so and ends where a disk cannot be mounted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};

use super::{Cached, Effect, Fault, FuseDisk, Operation, PowerLoss};

const PATIENCE: Duration = Duration::from_secs(60);

impl FuseDisk {
    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn sync_folder(&self) {
        File::open(self.path()).unwrap().sync_all().unwrap();
    }

    /// A file of so many bytes, all of them `byte`, that survives.
    fn durable_file(&self, name: &str, byte: u8, len: usize) -> File {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.at(name)).unwrap();
        file.write_all_at(&vec![byte; len], 0).unwrap();
        file.sync_data().unwrap();
        self.sync_folder();
        file
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn errno(result: io::Result<impl Sized>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap())
}

#[test]
fn names_and_bytes_are_what_a_file_system_has() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    fs::create_dir_all(disk.at("one/two")).unwrap();
    fs::write(disk.at("one/file"), "some bytes").unwrap();
    fs::rename(disk.at("one/file"), disk.at("one/renamed")).unwrap();
    fs::hard_link(disk.at("one/renamed"), disk.at("one/two/linked")).unwrap();
    assert_eq!(fs::metadata(disk.at("one/renamed")).unwrap().nlink(), 2);
    fs::remove_file(disk.at("one/renamed")).unwrap();
    assert_eq!(fs::read(disk.at("one/two/linked")).unwrap(), b"some bytes");
    assert_eq!(errno(fs::remove_dir(disk.at("one"))), Some(libc::ENOTEMPTY));
    assert_eq!(errno(File::create_new(disk.at("one/two/linked"))), Some(libc::EEXIST));
    (0..300).for_each(|number| drop(File::create_new(disk.at(&format!("many-{number:03}"))).unwrap()));
    assert_eq!(disk.names().len(), 301);
    let file = OpenOptions::new().append(true).open(disk.at("one/two/linked")).unwrap();
    (&file).write_all(b" more").unwrap();
    file.set_len(12).unwrap();
    assert_eq!(fs::read(disk.at("one/two/linked")).unwrap(), b"some bytes m");
    fs::write(disk.at("one/two/linked"), "").unwrap();
    assert_eq!(fs::metadata(disk.at("one/two/linked")).unwrap().len(), 0);
}

#[test]
fn a_power_loss_leaves_what_was_synced() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    let file = disk.durable_file("kept", 1, 1_000);
    file.write_all_at(&[2; 1_000], 500).unwrap();
    let unnamed = File::create_new(disk.at("unnamed")).unwrap();
    (&unnamed).write_all(b"synced, and without a name").unwrap();
    unnamed.sync_all().unwrap();
    fs::rename(disk.at("kept"), disk.at("renamed")).unwrap();
    disk.lose_power(PowerLoss::NothingKept);
    assert_eq!(disk.names(), ["kept"]);
    assert_eq!(fs::read(disk.at("kept")).unwrap(), [1; 1_000]);
    assert!(file.read_at(&mut [0], 0).is_err(), "what was open before is gone");
}

#[test]
fn writes_with_dsync_need_no_sync() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    drop(disk.durable_file("file", 0, 8_192));
    let opened = |flags| OpenOptions::new().write(true).custom_flags(flags).open(disk.at("file")).unwrap();
    opened(libc::O_DSYNC).write_all_at(&[1; 512], 0).unwrap();
    opened(libc::O_SYNC).write_all_at(&[2; 512], 512).unwrap();
    let flags = rustix::io::ReadWriteFlags::DSYNC;
    rustix::io::pwritev2(opened(0), &[io::IoSlice::new(&[3; 512])], 1_024, flags).unwrap();
    opened(0).write_all_at(&[4; 512], 1_536).unwrap();
    disk.lose_power(PowerLoss::NothingKept);
    let bytes = fs::read(disk.at("file")).unwrap();
    assert_eq!([bytes[0], bytes[512], bytes[1_024], bytes[1_536]], [1, 2, 3, 0]);
}

#[test]
fn direct_reads_show_the_disk_and_not_what_a_failed_sync_left_in_the_cache() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    let file = disk.durable_file("file", 1, 4_096);
    file.write_all_at(&[2; 4_096], 0).unwrap();
    disk.inject(Fault::at(&[Operation::Sync], 1, Effect::Drop(libc::EIO, Cached::Shown)));
    assert_eq!(errno(file.sync_data()), Some(libc::EIO));
    file.sync_data().expect("the second sync says that all is well");
    assert_eq!(fs::read(disk.at("file")).unwrap(), [2; 4_096]);
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(disk.at("file")).unwrap();
    let mut page = memmap2::MmapMut::map_anon(4_096).unwrap();
    direct.read_exact_at(&mut page, 0).unwrap();
    assert_eq!(page[..], [1; 4_096]);
    drop((file, direct));
    disk.lose_power(PowerLoss::EverythingKept);
    assert_eq!(fs::read(disk.at("file")).unwrap(), [1; 4_096]);
}

#[test]
#[allow(unsafe_code)]
fn files_are_mapped_whole() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    let file = disk.durable_file("file", 7, 100_000);
    // SAFETY: the file does not change while it is mapped.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    assert!(map.len() == 100_000 && map.iter().all(|byte| *byte == 7));
}

/// Runs operations that are linked; what each of them came to, in their order.
#[allow(unsafe_code)]
fn uring(operations: Vec<squeue::Entry>) -> Vec<i32> {
    let mut ring = IoUring::new(8).unwrap();
    let last = operations.len() - 1;
    for (number, entry) in operations.into_iter().enumerate() {
        let flags = if number == last { squeue::Flags::empty() } else { squeue::Flags::IO_LINK };
        // SAFETY: files and buffers of the operations live until all have completed, which is awaited below.
        unsafe { ring.submission().push(&entry.flags(flags).user_data(number as u64)) }.unwrap();
    }
    ring.submit_and_wait(last + 1).unwrap();
    let mut results: Vec<_> = ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
    results.sort();
    results.into_iter().map(|(_, result)| result).collect()
}

#[test]
fn io_uring_arrives_with_its_flags_and_hears_of_faults() {
    const RWF_DSYNC: i32 = 2;
    let Some(disk) = FuseDisk::or_skip() else { return };
    let file = disk.durable_file("file", 0, 4_096);
    let fd = types::Fd(file.as_raw_fd());
    let bytes = [9_u8; 512];
    let write = |sector: u64| opcode::Write::new(fd, bytes.as_ptr(), 512).offset(sector * 512);
    let sync = || opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();

    assert_eq!(uring(vec![write(0).build(), sync()]), [512, 0]);
    assert_eq!(uring(vec![write(1).rw_flags(RWF_DSYNC).build()]), [512]);
    assert_eq!(uring(vec![write(2).build()]), [512]);
    disk.inject(Fault::at(&[Operation::Sync], 1, Effect::Fail(libc::EIO)));
    assert_eq!(uring(vec![write(3).build(), sync()]), [512, -libc::EIO]);
    disk.inject(Fault::at(&[Operation::Write], 1, Effect::Fail(libc::ENOSPC)));
    assert_eq!(uring(vec![write(3).build(), sync()]), [-libc::ENOSPC, -libc::ECANCELED]);
    disk.inject(Fault::at(&[Operation::Write], 1, Effect::Short(100)));
    assert_eq!(uring(vec![write(3).build(), sync()]), [100, -libc::ECANCELED]);
    let kinds: Vec<_> = disk.hits().into_iter().map(|hit| hit.operation).collect();
    assert_eq!(kinds, [Operation::Sync, Operation::Write, Operation::Write]);

    drop(file);
    disk.lose_power(PowerLoss::NothingKept);
    let bytes = fs::read(disk.at("file")).unwrap();
    assert_eq!([bytes[0], bytes[512], bytes[1_024], bytes[1_536]], [9, 9, 0, 0]);
}

#[test]
fn every_kind_of_operation_fails_when_it_is_told_to_and_only_then() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    let file = disk.durable_file("file", 1, 10);
    fs::create_dir(disk.at("folder")).unwrap();
    let act = |operation| match operation {
        Operation::Read => file.read_at(&mut [0], 0).map(drop),
        Operation::Write => file.write_at(&[1], 0).map(drop),
        Operation::Sync => file.sync_data(),
        Operation::SyncFolder => File::open(disk.path()).and_then(|folder| folder.sync_all()),
        Operation::Create => File::create_new(disk.at("new")).map(drop),
        Operation::CreateFolder => fs::create_dir(disk.at("new-folder")),
        Operation::Rename => fs::rename(disk.at("new"), disk.at("renamed")),
        Operation::Link => fs::hard_link(disk.at("file"), disk.at("linked")),
        Operation::Remove => fs::remove_file(disk.at("renamed")),
        Operation::SetLen => file.set_len(5),
        Operation::Open => File::open(disk.at("file")).map(drop),
        Operation::List => fs::read_dir(disk.path()).and_then(|mut entries| entries.next().unwrap().map(drop)),
    };
    for operation in [
        Operation::Create,
        Operation::CreateFolder,
        Operation::Rename,
        Operation::Link,
        Operation::Remove,
        Operation::Read,
        Operation::Write,
        Operation::Sync,
        Operation::SyncFolder,
        Operation::SetLen,
        Operation::Open,
        Operation::List,
    ] {
        disk.heal();
        disk.inject(Fault::at(&[operation], 1, Effect::Fail(libc::EDQUOT)));
        assert_eq!(errno(act(operation)), Some(libc::EDQUOT), "{operation:?}");
        assert_eq!(disk.hits().len(), 1, "{operation:?}");
        act(operation).unwrap();
        assert_eq!(disk.count(&[operation]), 2, "{operation:?}");
    }
}

#[test]
fn a_disk_that_has_stopped_goes_on_when_it_is_resumed() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    let file = disk.durable_file("file", 1, 10);
    disk.inject(Fault { path: "file".into(), ..Fault::at(&[Operation::Sync], 1, Effect::Stop) });
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| {
            file.write_all_at(&[2; 10], 0).unwrap();
            file.sync_data()
        });
        let until = Instant::now() + PATIENCE;
        assert!(disk.wait_until_stopped(|| Instant::now() < until));
        assert!(!sync.is_finished());
        disk.resume();
        sync.join().unwrap().unwrap();
    });
    drop(file);
    disk.lose_power(PowerLoss::NothingKept);
    assert_eq!(fs::read(disk.at("file")).unwrap(), [2; 10]);
}

#[test]
fn what_waits_when_the_power_is_cut_is_not_done() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    let file = disk.durable_file("file", 1, 10);
    disk.inject(Fault::at(&Operation::CHANGES, 1, Effect::Stop));
    std::thread::scope(|scope| {
        let write = scope.spawn(|| file.write_at(&[2; 10], 0));
        let until = Instant::now() + PATIENCE;
        assert!(disk.wait_until_stopped(|| Instant::now() < until));
        disk.cut_power();
        assert_eq!(errno(write.join().unwrap()), Some(libc::EIO));
    });
    assert_eq!(errno(file.read_at(&mut [0], 0)), Some(libc::EIO));
    drop(file);
    disk.restore_power(PowerLoss::EverythingKept);
    assert_eq!(fs::read(disk.at("file")).unwrap(), [1; 10]);
    assert!(!disk.wait_until_stopped(|| false));
}

#[test]
fn a_disk_that_pretends_loses_what_was_synced() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    drop(disk.durable_file("file", 1, 10));
    disk.inject(Fault::always(&[Operation::Sync, Operation::SyncFolder, Operation::Write], Effect::Pretend));
    drop(disk.durable_file("other", 1, 10));
    let file = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(disk.at("file")).unwrap();
    file.write_all_at(&[2; 10], 0).unwrap();
    drop(file);
    disk.lose_power(PowerLoss::NothingKept);
    assert_eq!((disk.names(), fs::read(disk.at("file")).unwrap()), (vec!["file".to_owned()], vec![1; 10]));
}

#[test]
fn space_ends_and_bits_flip() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    let file = disk.durable_file("file", 1, 10);
    disk.set_capacity(4_096 * 3);
    assert_eq!(rustix::fs::statvfs(disk.path()).unwrap().f_bavail, 2);
    assert_eq!(errno(file.write_all_at(&[1; 20_000], 0)), Some(libc::ENOSPC));
    assert_eq!(file.metadata().unwrap().len(), 12_288);
    disk.set_capacity(1 << 20);
    disk.flip("file", 3, 7).unwrap();
    let mut bytes = [0; 5];
    File::open(disk.at("file")).unwrap().read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, [1, 1, 1, 0x81, 1]);
    assert!(disk.flip("file", 99_999, 0).is_err() && disk.flip("none", 0, 0).is_err());
}

#[test]
fn a_disk_goes_away_with_all_who_wait_for_it() {
    let Some(disk) = FuseDisk::or_skip() else { return };
    let (file, path) = (disk.durable_file("file", 1, 10), disk.path().to_owned());
    disk.inject(Fault::at(&[Operation::Sync], 1, Effect::Stop));
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync_data());
        let until = Instant::now() + PATIENCE;
        assert!(disk.wait_until_stopped(|| Instant::now() < until));
        drop(disk);
        assert!(sync.join().unwrap().is_err());
    });
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(path.to_str().unwrap()));
}
