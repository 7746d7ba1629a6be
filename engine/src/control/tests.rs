use seawall_wal::storage::MemoryDisk;

use super::*;

fn control() -> Control {
    let fork = Position { lsn: Lsn::new(70_000), chain: Chain(7) };
    let history = TimelineHistory::first(TimelineNonce::random())
        .forked(TimelineId(2), TimelineNonce::random(), fork, SegmentSize::MIN)
        .unwrap();
    Control {
        cluster: ClusterId::random(),
        node: NodeId::random(),
        segment_size: SegmentSize::MIN,
        history,
        watermark: Lsn::new(5),
        clean_shutdown: false,
        manifest_number: 3,
        manifest_digest: [9; 32],
        role: Role::ReadOnlyRestored { at: Lsn::new(4), time: Timestamp(8), from: String::from("s3://bucket/x") },
    }
}

fn folder() -> (MemoryDisk, &'static Path) {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    (disk, Path::new("/d"))
}

#[test]
fn a_control_file_reads_back_with_every_role() {
    let (disk, folder) = folder();
    for role in [Role::Normal, Role::Standby, control().role] {
        let control = Control { role, ..control() };
        drop(ControlFile::create(&disk, folder, control.clone()).unwrap());
        let (file, damaged) = ControlFile::open(&disk, folder).unwrap().unwrap();
        assert_eq!(file.get(), control);
        assert_eq!(damaged, []);
    }
    assert!(ControlFile::open(&disk, Path::new("/other")).unwrap().is_none());
}

#[test]
fn a_damaged_newest_copy_costs_only_the_last_watermark() {
    let (disk, folder) = folder();
    let file = ControlFile::create(&disk, folder, control()).unwrap();
    file.update(|control| control.manifest_number = 4).unwrap();
    file.raise_watermark(Lsn::new(100)).unwrap();
    let newest = (1 - file.state.lock().next) * SLOT_SIZE;
    drop(file);
    disk.flip_bit(&folder.join(CONTROL_NAME), newest as u64 + 70, 3);
    let (file, damaged) = ControlFile::open(&disk, folder).unwrap().unwrap();
    assert_eq!(damaged, [DamagedSlot { slot: newest / SLOT_SIZE, why: "its checksum does not match" }]);
    assert_eq!(file.get(), Control { manifest_number: 4, ..control_like(&file) });
    assert_eq!(file.get().watermark, Lsn::new(5));
    file.raise_watermark(Lsn::new(101)).unwrap();
    let (again, damaged) = ControlFile::open(&disk, folder).unwrap().unwrap();
    assert_eq!((again.get().watermark, damaged), (Lsn::new(101), vec![]), "the damaged slot was written over");
}

fn control_like(file: &ControlFile) -> Control {
    file.get()
}

#[test]
fn both_copies_damaged_is_an_error_that_names_the_file() {
    let (disk, folder) = folder();
    drop(ControlFile::create(&disk, folder, control()).unwrap());
    disk.flip_bit(&folder.join(CONTROL_NAME), 30, 0);
    disk.flip_bit(&folder.join(CONTROL_NAME), SLOT_SIZE as u64 + 30, 0);
    let error = ControlFile::open(&disk, folder).unwrap_err();
    assert!(matches!(&error, Error::CorruptControl { .. }), "{error}");
    assert!(error.to_string().contains("/d/control"), "{error}");
}

#[test]
fn every_flipped_bit_is_detected_or_harmless() {
    let bytes = control().encode(1);
    let mut slot = bytes.clone();
    slot.resize(SLOT_SIZE, 0);
    for bit in 0..bytes.len() * 8 {
        slot[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(UnverifiedSlot::parse(&slot), UnverifiedSlot::Damaged(_)), "bit {bit}");
        slot[bit / 8] ^= 1 << (bit % 8);
    }
    slot[bytes.len()] ^= 1;
    assert!(matches!(UnverifiedSlot::parse(&slot), UnverifiedSlot::Whole { .. }), "behind its length");
}

#[test]
fn a_crash_at_any_moment_of_an_update_leaves_the_old_or_the_new() {
    let (disk, folder) = folder();
    let file = ControlFile::create(&disk, folder, control()).unwrap();
    let base = disk.duplicate();
    disk.keep_journal();
    for number in 4..8 {
        file.update(|control| control.manifest_number = number).unwrap();
        file.raise_watermark(Lsn::new(number * 100)).unwrap();
    }
    let journal = disk.journal();
    let mut seen = 3;
    for entry in &journal {
        base.replay(entry);
        for keep in [0, 1] {
            // Torn within a slot: odd sectors follow `keep`, even ones the opposite.
            let mut count = 0;
            let crashed = base.crashed(|_| {
                count += 1;
                (count + keep) % 2
            });
            let (file, _) = ControlFile::open(&crashed, folder).unwrap().unwrap();
            assert!((seen..=seen + 1).contains(&file.get().manifest_number));
        }
        let (file, _) = ControlFile::open(&base.crashed_losing_all(), folder).unwrap().unwrap();
        seen = seen.max(file.get().manifest_number);
    }
    assert_eq!(seen, 7);
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let mut bytes = control().encode(1);
    bytes[12] = 2;
    let crc = crc32fast::hash(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(UnverifiedSlot::parse(&bytes), UnverifiedSlot::TooNew(2));
}

#[test]
fn an_update_that_was_interrupted_is_settled_before_the_older_copy_can_be_needed() {
    let (disk, folder) = folder();
    let file = ControlFile::create(&disk, folder, control()).unwrap();
    let mut state = file.state.lock();
    let newer = Control { manifest_number: 4, ..state.control.clone() };
    file.write(&mut state, &newer).unwrap();
    let newest = 1 - state.next;
    drop(state);
    drop(file);
    let (file, damaged) = ControlFile::open(&disk, folder).unwrap().unwrap();
    assert_eq!((file.get().manifest_number, damaged.len()), (4, 0));
    file.settle().unwrap();
    drop(file);
    for slot in [newest, 1 - newest] {
        let disk = disk.duplicate();
        disk.flip_bit(&folder.join(CONTROL_NAME), (slot * SLOT_SIZE) as u64 + 40, 1);
        let (file, damaged) = ControlFile::open(&disk, folder).unwrap().unwrap();
        assert_eq!((file.get().manifest_number, damaged.len()), (4, 1));
    }
}

#[test]
fn bytes_changed_under_a_right_checksum_are_refused_or_make_sense() {
    let good = control().encode(1);
    for at in 12..good.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let len = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
            if (12..=bytes.len()).contains(&len) {
                let crc = crc32fast::hash(&bytes[12..len]);
                bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            }
            if let UnverifiedSlot::Whole { control, .. } = UnverifiedSlot::parse(&bytes) {
                assert!(!control.history.entries().is_empty());
            }
        }
    }
}
