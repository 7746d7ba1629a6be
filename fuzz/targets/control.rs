//! The control file with one or both of its copies changed. It opens if one is whole, with what a whole one says, and can
//! be updated then; with checksums made right it may say anything, but nothing that cannot be written again.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use seawall_engine::control::{CONTROL_NAME, Control, ControlFile, Role};
use seawall_fuzz::{Edit, Script};
use seawall_wal::storage::{Access, MemoryDisk, Storage, write_all_at};
use seawall_wal::{
    Chain, ClusterId, Lsn, NodeId, Position, SegmentSize, TimelineHistory, TimelineId, TimelineNonce, Timestamp,
};

/// Bytes of one of the two copies.
const SLOT: usize = 256 << 10;
/// What is edited: nearly everything behind is zero.
const USED: usize = 512;

static SAMPLE: LazyLock<(MemoryDisk, Vec<u8>)> = LazyLock::new(|| {
    let disk = MemoryDisk::new();
    let folder = Path::new("/data");
    disk.create_dir_all(folder).expect("memory");
    let file = ControlFile::create(&disk, folder, control(9)).expect("memory");
    file.raise_watermark(Lsn::new(10)).expect("memory");
    let bytes =
        disk.open(&folder.join(CONTROL_NAME), Access::Read).expect("it was made").map().expect("memory").to_vec();
    (disk, bytes)
});

fn control(watermark: u64) -> Control {
    let fork = Position { lsn: Lsn::new(70_000), chain: Chain(7) };
    let history = TimelineHistory::first(TimelineNonce::from_bytes([1; 16]));
    Control {
        cluster: ClusterId::from_bytes([0xC0; 16]),
        node: NodeId::from_bytes([4; 16]),
        segment_size: SegmentSize::MIN,
        history: history
            .forked(TimelineId(2), TimelineNonce::from_bytes([2; 16]), fork, SegmentSize::MIN)
            .expect("a good history"),
        watermark: Lsn::new(watermark),
        clean_shutdown: false,
        manifest_number: 3,
        manifest_digest: [5; 32],
        role: Role::ReadOnlyRestored { at: Lsn::new(5), time: Timestamp(6), from: "an archive".to_owned() },
    }
}

fuzz_target!(
    init: seawall_fuzz::begin([
        ("healthy", [0_u8; 2].as_slice()),
        ("first", &[0, 0, 0, 24, 0, 0, 0, 0xFF]),
        ("second", &[0, 1, 0, 24, 0, 0, 0, 0xFF]),
        ("both", &[0, 0, 0, 24, 0, 0, 0, 0xFF, 1, 3, 40, 0, 0, 0]),
        ("sealed", &[1, 0, 0, 24, 0, 0, 0, 0xFF, 1, 3, 40, 0, 0, 0]),
        ("history", &[1, 0, 16, 0xCE, 0, 0, 0, 0xFF, 0xFF, 0xFF]),
    ]),
    |input: &[u8]| {
        let mut script = Script::new(input);
        let (disk, healthy) = &*SAMPLE;
        let disk = disk.duplicate();
        let sealed = script.bool();
        let mut slots = [healthy[..USED].to_vec(), healthy[SLOT..SLOT + USED].to_vec()];
        let mut changed = [false; 2];
        while !script.is_over() {
            let slot = usize::from(script.u8() % 2);
            let before = slots[slot].clone();
            if before.is_empty() {
                break;
            }
            Edit::next(&mut script, before.len()).apply(&mut slots[slot]);
            slots[slot].resize(USED, 0);
            if sealed {
                seal(&mut slots[slot]);
            }
            changed[slot] |= slots[slot] != before;
        }
        let folder = Path::new("/data");
        let file = disk.open(&folder.join(CONTROL_NAME), Access::Write).expect("it is there");
        for (slot, bytes) in slots.iter().enumerate() {
            write_all_at(&*file, bytes, (slot * SLOT) as u64).expect("memory");
        }
        match ControlFile::open(&disk, folder) {
            Ok(opened) => {
                let (file, _) = opened.expect("the file is there");
                let said = file.get();
                if !sealed {
                    assert!(said == control(9) || said == control(10), "a damaged copy was believed");
                }
                file.settle().expect("memory");
                file.raise_watermark(Lsn::new(u64::MAX)).expect("memory");
                drop(file);
                let again = ControlFile::read(&disk, folder).expect("it was just written").expect("it is there");
                assert_eq!(again.0, Control { watermark: Lsn::new(u64::MAX), ..said });
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert!(changed == [true; 2] || sealed, "one whole copy is enough: {error}");
            }
        }
    }
);

/// Makes the checksum right, as far as the length says what it covers.
fn seal(slot: &mut [u8]) {
    let len = u32::from_le_bytes(slot[16..20].try_into().expect("four bytes")) as usize;
    if let Some(covered) = slot.get(12..len) {
        let crc = crc32fast::hash(covered);
        slot[8..12].copy_from_slice(&crc.to_le_bytes());
    }
}
