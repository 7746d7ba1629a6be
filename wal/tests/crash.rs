//! No power loss loses what was acknowledged, and no healthy log is called damaged: shown over more than 100,000 states of
//! the log on a disk that loses, tears and reorders unsynced sectors. And every flipped bit is noticed.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use seawall_wal::mutant::{Mutant, with_mutant};
use seawall_wal::storage::{MemoryDisk, PowerLoss};
use seawall_wal::{Lsn, format};
use support::crash::{Broken, Explored, Flipped, Run, explore, flip, primary_run, recycling_run, standby_run};
use support::{DIR, Opener};

/// Explores seeds from `first` on until so many states have been seen.
fn explore_states(make: fn(u64, usize) -> Run, first: u64, states: u64) -> Explored {
    let mut all = Explored::default();
    for seed in first.. {
        let explored = explore(seed, &make(seed, 30), 6, false);
        all.states += explored.states;
        all.cut += explored.cut;
        all.broken.extend(explored.broken);
        if all.states >= states || !all.broken.is_empty() {
            break;
        }
    }
    all
}

#[test]
fn no_crash_of_a_primary_loses_an_acknowledged_record_or_raises_a_false_alarm() {
    let explored = explore_states(primary_run, 1, 60_000);
    println!("primary: {} crash states, {} with a tail to cut", explored.states, explored.cut);
    assert_eq!(explored.broken, []);
    assert!(explored.cut > 1000, "the states include torn tails: {}", explored.cut);
}

#[test]
fn no_crash_of_a_standby_loses_what_it_flushed_or_raises_a_false_alarm() {
    let explored = explore_states(standby_run, 1, 60_000);
    println!("standby: {} crash states, {} with a tail to cut", explored.states, explored.cut);
    assert_eq!(explored.broken, []);
    assert!(explored.cut > 1000, "the states include torn tails: {}", explored.cut);
}

#[test]
fn no_crash_of_a_log_whose_segments_serve_again_loses_an_acknowledged_record_or_raises_a_false_alarm() {
    let mut explored = Explored::default();
    for seed in 1..6 {
        let one = explore(seed, &recycling_run(seed), 6, true);
        explored.states += one.states;
        explored.broken.extend(one.broken);
    }
    println!("segments that serve again: {} crash states", explored.states);
    assert_eq!(explored.broken, []);
    assert!(explored.states > 2_000, "{} states", explored.states);
}

/// The process is killed at any operation, and the kernel still has everything; the next one opens the log, and then power
/// is lost.
#[test]
fn what_an_opening_found_is_there_when_power_is_lost_behind_it() {
    let run = primary_run(3, 20);
    let records = |disk: &MemoryDisk| run.opener.open(Arc::new(disk.clone()), Path::new(DIR)).unwrap().2;
    let disk = run.base.duplicate();
    let mut unsynced = 0;
    for entry in &run.journal {
        disk.replay(entry);
        let killed = disk.duplicate();
        let found = records(&killed);
        assert_eq!(records(&killed.crashed_losing_all()), found);
        unsynced += u32::from(found.len() > records(&disk.crashed_losing_all()).len());
    }
    assert!(unsynced > 5, "only {unsynced} openings found what was not synced");
}

/// A short log over three segments, all of it synced, and where its last group starts.
fn short_log() -> (Run, MemoryDisk, Lsn) {
    let long = |run: &Run| run.written.last().is_some_and(|last| last.lsn > Lsn::new(70_000));
    let mut run = (10..).map(|groups| primary_run(11, groups)).find(long).expect("some run is long enough");
    let disk = run.base.duplicate();
    run.journal.iter().for_each(|entry| disk.replay(entry));
    let (log, ..) = run.opener.open(Arc::new(disk.clone()), Path::new(DIR)).unwrap();
    let end = log.end().lsn;
    assert!(end > Lsn::new(66_000) && end < Lsn::new(85_000), "two segments, ending at {end}");
    // The last records were perhaps never flushed.
    run.written.retain(|record| record.lsn <= end);
    drop(log);
    let disk = PowerLoss::Nothing.strike(&disk);
    (run, disk, end)
}

/// The largest stamp of the log: damage below it must be called damage.
fn last_stamp(disk: &MemoryDisk) -> Lsn {
    let mut stamp = Lsn::ZERO;
    let options = seawall_wal::LogOptions {
        segment_size: seawall_wal::SegmentSize::MIN,
        threads: seawall_wal::Threads::Inline,
        ..seawall_wal::LogOptions::new(support::cluster(), support::node(1))
    };
    let at = seawall_wal::OpenAt {
        history: support::history(),
        start: seawall_wal::Position::ZERO,
        time_floor: seawall_wal::Timestamp(0),
        watermark: Lsn::ZERO,
    };
    let clock = Arc::new(seawall_wal::SystemClock);
    let disk = Arc::new(disk.duplicate());
    let mode = seawall_wal::LogMode::Append;
    seawall_wal::Log::open(disk, clock, Path::new(DIR), options, &at, mode, |records| -> seawall_wal::Result<()> {
        stamp = records.iter().map(|record| record.header.flush_stamp).fold(stamp, Lsn::max);
        Ok(())
    })
    .unwrap();
    stamp
}

#[test]
fn every_flipped_bit_is_harmless_or_refused_or_in_the_last_group_and_reported() {
    let (run, disk, end) = short_log();
    let stamp = last_stamp(&disk);
    let bits: Vec<(u64, u64)> = (0..=end.offset() / 65536)
        .flat_map(|segment| {
            let used = (end.offset() - segment * 65536 + format::RECORD_HEADER_SIZE as u64).min(65536);
            (0..used * 8).map(move |bit| (segment, bit))
        })
        .collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let judge = |bits: &[(u64, u64)]| {
        let mut counts = BTreeMap::new();
        for (segment, bit) in bits {
            let outcome = flip(&run, &disk, &run.opener, *segment, *bit);
            let place = Lsn::new(segment * 65536 + bit / 8);
            *counts.entry(format!("{outcome:?}")).or_insert(0) += 1;
            match outcome {
                Flipped::Harmless | Flipped::Refused => {}
                Flipped::ReportedAsCut => assert!(place >= stamp, "bit {bit} of segment {segment}, below {stamp}"),
                other => panic!("bit {bit} of segment {segment}: {other:?}"),
            }
        }
        counts
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    std::thread::scope(|scope| {
        let judges: Vec<_> =
            bits.chunks(bits.len().div_ceil(workers)).map(|bits| scope.spawn(|| judge(bits))).collect();
        for judge in judges {
            judge.join().unwrap().into_iter().for_each(|(outcome, count)| *counts.entry(outcome).or_default() += count);
        }
    });
    println!("{} flipped bits: {counts:?}", bits.len());
    assert!(counts["Refused"] > 100_000 && counts["ReportedAsCut"] > 0);
}

#[test]
fn below_the_watermark_no_flipped_bit_is_cut_by_a_primary_nor_by_a_standby() {
    let (run, disk, end) = short_log();
    for opener in [run.opener.clone(), Opener::standby()] {
        let opener = Opener { watermark: end, ..opener };
        for segment in 0..=end.offset() / 65536 {
            let used = (end.offset() - segment * 65536).min(65536);
            for byte in (0..used).step_by(13) {
                let outcome = flip(&run, &disk, &opener, segment, byte * 8 + byte % 8);
                let fine = matches!(outcome, Flipped::Harmless | Flipped::Refused);
                assert!(fine, "{:?}, byte {byte} of segment {segment}: {outcome:?}", opener.mode);
            }
        }
    }
}

/// Whether some early seed shows a broken state with the bug planted.
fn caught_by_crashes(mutant: Mutant) -> Broken {
    with_mutant(mutant, || {
        (1..40).find_map(|seed| explore(seed, &primary_run(seed, 30), 6, true).broken.pop()).map(|found| found.2)
    })
    .unwrap_or_else(|| panic!("{mutant:?} survives the crash test"))
}

#[test]
fn the_crash_test_catches_a_log_that_does_not_sync() {
    assert!(matches!(caught_by_crashes(Mutant::NoSync), Broken::Lost { .. }));
}

#[test]
fn the_crash_test_catches_an_acknowledgement_before_the_sync() {
    assert!(matches!(caught_by_crashes(Mutant::AcknowledgeBeforeSync), Broken::Lost { .. }));
}

#[test]
fn the_crash_test_catches_headers_without_salt() {
    assert!(matches!(caught_by_crashes(Mutant::NoSalt), Broken::FalseAlarm(_)));
}

#[test]
fn the_bit_flips_catch_a_recovery_that_truncates_at_any_bad_checksum() {
    assert!(silently_cut(Mutant::TruncateAtAnyBadCrc) > 0);
}

#[test]
fn the_bit_flips_catch_a_recovery_that_ignores_the_stamps() {
    assert!(silently_cut(Mutant::IgnoreStamp) > 0);
}

/// Flips in the middle of the log that a recovery with the bug planted takes for a torn tail.
fn silently_cut(mutant: Mutant) -> usize {
    let (run, disk, _) = short_log();
    let stamp = last_stamp(&disk);
    with_mutant(mutant, || {
        let bits = (600..stamp.offset().min(65536) * 8).step_by(4001);
        bits.filter(|bit| flip(&run, &disk, &run.opener, 0, *bit) == Flipped::ReportedAsCut).count()
    })
}
