//! Opening a log directory that something happened to. A log of two segments is damaged by a few edits, or by files that
//! appear, vanish or change names; then it opens, or is refused with a reason. What it hands over is a prefix of what was
//! written, and of what a record that is left says was flushed nothing is missing.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use seawall_fuzz::log::{DIR, Written, open, sample};
use seawall_fuzz::{Edit, Script, differences, is_planted};
use seawall_wal::format::{SegmentHeader, UnverifiedSegmentHeader};
use seawall_wal::mutant::{Mutant, with_mutant};
use seawall_wal::storage::{Access, MemoryDisk, Storage};
use seawall_wal::{LogMode, Lsn, SegmentNumber, SegmentSize, TimelineId};

/// Changes of one input. Fewer than it takes to forge a record: payload, its checksum, the chain and the header's checksum.
const EDITS_MAX: usize = 3;

static SAMPLE: LazyLock<Sample> = LazyLock::new(Sample::new);

/// A healthy log.
struct Sample {
    disk: MemoryDisk,
    files: Vec<(PathBuf, Vec<u8>)>,
    written: Vec<Written>,
}

fuzz_target!(
    init: seawall_fuzz::begin([
        ("healthy", [0_u8; 9].as_slice()),
        ("middle", &[0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0xFF, 0xFF, 0xFF]),
        ("last", &[0, 0, 0, 0, 1, 2, 0, 3, 0, 1, 0]),
        ("watermark", &[1, 0, 0, 2, 1, 1, 0, 6, 0, 0x40, 0]),
        ("stranger", b"\0\0\0\0\x02\x04\0\0\0\x01\xff\xff\xff\xff\xff\xff\xff\xff\0\x01\0\0\0"),
        ("removed", &[0, 0, 0, 0, 1, 1, 1, 0]),
    ]),
    |input: &[u8]| {
        let mut script = Script::new(input);
        let mode = if script.bool() { LogMode::Receive } else { LogMode::Append };
        let watermark = Lsn::new(script.below(SAMPLE.end().offset() as usize + 1) as u64);
        let damaged = Damaged::by(&mut script, &SAMPLE);
        let work = || damaged.check(mode, watermark);
        let bugs = [Mutant::TruncateAtAnyBadCrc, Mutant::IgnoreStamp];
        match bugs.into_iter().find(|bug| is_planted(&format!("{bug:?}"))) {
            Some(bug) => with_mutant(bug, work),
            None => work(),
        }
    }
);

impl Sample {
    fn new() -> Self {
        let (disk, written) = sample();
        let read = |name: &String| {
            let path = Path::new(DIR).join(name);
            let bytes = disk.open(&path, Access::Read).expect("it is listed").map().expect("memory").to_vec();
            (path, bytes)
        };
        let names = disk.list(Path::new(DIR)).expect("memory");
        let files = names.iter().filter(|name| name.ends_with(".wal")).map(read).collect();
        Self { disk, files, written }
    }

    fn end(&self) -> Lsn {
        self.written.last().expect("it is not empty").lsn
    }
}

/// The sample, changed.
struct Damaged {
    disk: MemoryDisk,
    /// What remains as it was written, and where it should be.
    untouched: Vec<Written>,
    changed: bool,
}

impl Damaged {
    fn by(script: &mut Script<'_>, sample: &Sample) -> Self {
        let disk = sample.disk.duplicate();
        let mut lost: Vec<std::ops::Range<u64>> = Vec::new();
        for _ in 0..EDITS_MAX {
            if script.is_over() {
                break;
            }
            let what = script.u8() % 8;
            let number = script.below(sample.files.len());
            let (path, healthy) = &sample.files[number];
            let start = number as u64 * u64::from(SegmentSize::MIN.bytes());
            let all = start..start + u64::from(SegmentSize::MIN.bytes());
            match what {
                // A file that does not belong: any number, timeline and content.
                2 => add_stranger(&disk, script, healthy),
                3 => {
                    let _ = disk.remove(path);
                    lost.push(all);
                }
                _ => {
                    let Ok(file) = disk.open(path, Access::Write) else { continue };
                    let before = file.map().expect("memory").to_vec();
                    if before.is_empty() {
                        continue;
                    }
                    let mut bytes = before.clone();
                    Edit::next(script, bytes.len()).apply(&mut bytes);
                    let now = differences(&before, &bytes);
                    if bytes.len() != before.len() {
                        file.set_len(bytes.len() as u64).expect("memory");
                    }
                    if let Some(written) = bytes.get(now.start..now.end.min(bytes.len())) {
                        file.write_at(written, now.start as u64).expect("memory");
                    }
                    let differs = differences(healthy, &bytes);
                    lost.push(start + differs.start as u64..start + differs.end as u64);
                    // Nothing in a segment is found without its header, nor in a file of another length.
                    if differs.start < 512 && !differs.is_empty() || bytes.len() != healthy.len() {
                        lost.push(all);
                    }
                }
            }
        }
        lost.retain(|range| !range.is_empty());
        let touched = |record: &Written| {
            lost.iter().any(|range| range.start < record.lsn.offset() && record.start.offset() < range.end)
        };
        let untouched = sample.written.iter().filter(|record| !touched(record)).cloned().collect();
        Self { disk, untouched, changed: !lost.is_empty() }
    }

    fn check(&self, mode: LogMode, watermark: Lsn) {
        let sample = &*SAMPLE;
        let found = match open(Arc::new(self.disk.clone()), mode, watermark) {
            Ok((log, _, found)) => {
                assert_eq!(log.end().lsn, found.last().map_or(Lsn::ZERO, |last| last.lsn));
                found
            }
            Err((error, found)) => {
                assert!(!error.to_string().is_empty());
                assert!(sample.written.starts_with(&found), "a refused log handed over what was not written");
                return;
            }
        };
        assert!(
            sample.written.starts_with(&found),
            "a log of {} records is no prefix of what was written",
            found.len()
        );
        let end = found.last().map_or(Lsn::ZERO, |last| last.lsn);
        if found.len() == sample.written.len() {
            return;
        }
        assert!(self.changed, "a healthy log ends at {end}, before {}", sample.end());
        assert!(end >= watermark, "cut at {end}, below the watermark {watermark}");
        if mode == LogMode::Append {
            let stamped = self.untouched.iter().find(|record| record.start >= end && record.stamp > end);
            assert!(stamped.is_none(), "cut at {end}, though {stamped:?} says that it was flushed");
        }
    }
}

fn add_stranger(disk: &MemoryDisk, script: &mut Script<'_>, healthy: &[u8]) {
    let (number, timeline) = (script.u64(), script.u32());
    let path = Path::new(DIR).join(format!("{timeline:08x}-{number:016x}.wal"));
    let mut bytes = match script.u8() % 4 {
        0 => vec![0; healthy.len()],
        1 => script.bytes(4096).to_vec(),
        _ => healthy.to_vec(),
    };
    if script.bool() && bytes.len() >= 512 {
        // One whose header agrees with its name.
        let header = UnverifiedSegmentHeader::parse(bytes.first_chunk().expect("512 bytes"));
        if let UnverifiedSegmentHeader::Parsed(header) = header {
            let header = SegmentHeader { segment: SegmentNumber(number), timeline: TimelineId(timeline), ..header };
            bytes[..512].copy_from_slice(&header.encode());
        }
    }
    if let Ok(file) = disk.open(&path, Access::CreateNew) {
        file.write_at(&bytes, 0).expect("memory");
    }
}
